# ruff: noqa: RUF009 - setting() only wraps dataclasses.field
"""One settings object: command line over environment over file over default, and where each value came from.

A setting is a field of :class:`Settings`; its metadata says how text becomes a value, which values are allowed and
what it is for. The command line (``--listen``), the environment (``TENSOR_RUNTIME_LISTEN``) and the file
(``listen = "..."``) all follow from that one line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from runtime.errors import Error, InvalidArgument
from runtime.machine import memory_bytes

ENVIRONMENT_PREFIX = "TENSOR_RUNTIME_"
# Name interpreters for tests and benchmarks; the first looks like a mistyped peer_ca or peer_tls.
PEER_VARIABLES = tuple(f"{ENVIRONMENT_PREFIX}{whose}_PYTHON" for whose in ("PEER", "ARMONIK", "TASK_PEER"))
ALL_SERVICES = ("graph", "task", "command", "fleet", "stream")
DEFAULT_LISTEN = "127.0.0.1:2222"
_SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class ConfigError(InvalidArgument):
    """A setting that cannot be used.

    Attributes
    ----------
    key : str
        Name of the setting.
    value : object
        What was given.
    origin : str
        Where it was given: a flag, an environment variable, a file, or the program.
    expected : str
        What would be right.
    """

    def __init__(self, key: str, value: object, origin: str, expected: str) -> None:
        super().__init__(f"setting {key}: {value!r} (from {origin}) is not valid: {expected}")
        self.args = (key, value, origin, expected)
        self.key = key
        self.value = value
        self.origin = origin
        self.expected = expected


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("expected a text that is not empty")
    return value


def _any_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return value


def _listen(value: object) -> str:
    address = _text(value)
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        # sockaddr_un holds 108 bytes with the closing zero.
        if not path or len(os.fsencode(path)) > 107:
            raise ValueError("expected unix:PATH with a path of 1 to 107 bytes")
        return f"unix:{path}"
    host, separator, port = address.rpartition(":")
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not separator or bare_ipv6 or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected HOST:PORT with a port from 0 to 65535 ([HOST]:PORT for IPv6), or unix:PATH")
    return address


def _cluster(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, (str, Mapping)):
        raise ValueError("expected the cluster's jobs as JSON, a file of JSON, or a table")
    from runtime.cluster_spec import ClusterSpec

    return ClusterSpec.parse(value).to_json()


def _path(value: object) -> Path:
    if isinstance(value, Path):
        return value.expanduser()
    return Path(_text(value)).expanduser()


def _optional_path(value: object) -> Path | None:
    return None if value is None or value == "" else _path(value)


def _services(value: object) -> tuple[str, ...]:
    expected = f"expected a list of {', '.join(ALL_SERVICES)}, or all"
    if isinstance(value, str):
        names = [name.strip() for name in value.split(",") if name.strip()]
    elif isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
        names = list(value)
    else:
        raise ValueError(expected)
    if names == ["all"]:
        return ALL_SERVICES
    for name in names:
        if name not in ALL_SERVICES:
            raise ValueError(f"{expected}{_suggestion(name, ALL_SERVICES)}")
    if not names:
        raise ValueError(expected)
    return tuple(name for name in ALL_SERVICES if name in names)


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off", ""):
            return False
    raise ValueError("expected true or false")


def _integer(low: int, high: int) -> Callable[[object], int]:
    expected = f"expected a whole number from {low} to {high}"

    def parse(value: object) -> int:
        if isinstance(value, str):
            try:
                value = int(value.strip())
            except ValueError:
                raise ValueError(expected) from None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(expected)
        return value

    return parse


def _directories(value: object) -> tuple[Path, ...] | str:
    if value in ("auto", "all"):
        return str(value)
    if value == "none":
        return ()
    if isinstance(value, str):
        value = value.split(os.pathsep)
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, (str, Path)) and str(item) for item in value):
        raise ValueError(f"expected auto, all, none, or directories separated by {os.pathsep!r}")
    return tuple(Path(item).expanduser() for item in value)


def _networks(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = tuple(text.strip() for text in value.split(",") if text.strip())
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        raise ValueError("expected networks such as 10.0.0.0/8 separated by commas, the word private, or auto")
    if tuple(value) != ("auto",):
        from runtime.fleet.addresses import parse_networks

        parse_networks(value)
    return tuple(value)


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = tuple(text.strip() for text in value.split(",") if text.strip())
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) and text for text in value):
        raise ValueError("expected names separated by commas, or none")
    return () if tuple(value) == ("none",) else tuple(value)


def _endpoints(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = tuple(text.strip() for text in value.split(",") if text.strip())
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        raise ValueError("expected endpoints of workers, separated by commas: unix:PATH, HOST:PORT or grpcs://HOST:PORT")
    if not value:
        return ()
    from runtime.tasks.agents.endpoint import Endpoint

    return tuple(dict.fromkeys(str(Endpoint.parse(text)) for text in value))


def _seconds(low: float, high: float) -> Callable[[object], float]:
    expected = f"expected seconds from {low:g} to {high:g}"

    def parse(value: object) -> float:
        try:
            seconds = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ValueError(expected) from None
        if isinstance(value, bool) or not low <= seconds <= high:
            raise ValueError(expected)
        return seconds

    return parse


def parse_size(value: object) -> int:
    """Return a number of bytes from an int or a text such as ``512MiB``, ``4g`` or ``1000000``.

    Raises
    ------
    ValueError
        If it is not a positive size.
    """
    expected = "expected a positive number of bytes, such as 1073741824, 512MiB or 4GiB"
    if isinstance(value, str):
        word = value.strip().lower()
        digits = word.rstrip("bikmgt ")
        unit = word[len(digits) :].strip().removesuffix("b").removesuffix("i")
        if unit not in _SIZE_UNITS:
            raise ValueError(expected)
        try:
            number = float(digits) if "." in digits else int(digits)
        except ValueError:
            raise ValueError(expected) from None
        value = int(number * _SIZE_UNITS[unit])
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 63:
        raise ValueError(expected)
    return value


def _size_or_none(value: object) -> int:
    if value == 0 or (isinstance(value, str) and value.strip() == "0"):
        return 0
    try:
        return parse_size(value)
    except ValueError as error:
        raise ValueError(f"{error}, or 0 for no limit") from None


def _choice(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value.lower() not in allowed:
            hint = _suggestion(value, allowed) if isinstance(value, str) else ""
            raise ValueError(f"expected one of {', '.join(allowed)}{hint}")
        return value.lower()

    return parse


def _suggestion(name: str, known: tuple[str, ...]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def user_data_dir() -> Path:
    """Return the folder in which this user's server keeps its data when nothing else is said."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "tensor-runtime"


def default_config_file() -> Path:
    """Return the file that is read when no other is named and it exists."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "tensor-runtime" / "config.toml"


def half_of_memory() -> int:
    """Return half of the memory this process may use, in bytes."""
    return memory_bytes() // 2


def most_of_memory() -> int:
    """Return three quarters of the memory this process may use, in bytes."""
    return memory_bytes() // 4 * 3


def setting(
    parse: Callable[[object], Any],
    default: Any = MISSING,
    *,
    help: str,
    factory: Callable[[], Any] | None = None,
    metavar: str | None = None,
    flag: str | None = None,
) -> Any:
    """Declare a field of :class:`Settings`.

    Parameters
    ----------
    parse : callable
        Takes a text, or a value from the file or the program; returns the setting's value or raises ValueError
        with a sentence that says what is expected.
    default, factory
        The default, or what makes it.
    help : str
        One sentence for ``--help`` and ``config show``.
    metavar, flag : str, optional
        What ``--help`` calls the value; the flag, where it is not the field's name with dashes.
    """
    metadata = {"parse": parse, "help": help, "metavar": metavar, "flag": flag}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a server can be told. Values are checked and in their final form; see :func:`load`."""

    listen: str = setting(
        _listen, DEFAULT_LISTEN, metavar="HOST:PORT", help="address to serve on: HOST:PORT (port 0: any) or unix:PATH"
    )
    data_dir: Path = setting(_path, factory=user_data_dir, metavar="DIR", help="folder for durable state")
    services: tuple[str, ...] = setting(
        _services, ALL_SERVICES, metavar="LIST", help="planes to serve, separated by commas, or all"
    )
    cluster: str | None = setting(
        _cluster, None, metavar="FILE_OR_JSON", help="the cluster's jobs and tasks, as JSON or a file with it"
    )
    job_name: str = setting(_text, "local", metavar="NAME", flag="--job", help="job of this task in the cluster")
    task_index: int = setting(
        _integer(0, (1 << 31) - 1), 0, metavar="N", flag="--task", help="index of this task in its job"
    )
    tls_cert: Path | None = setting(_optional_path, None, metavar="FILE", help="PEM certificate chain of the server")
    tls_key: Path | None = setting(_optional_path, None, metavar="FILE", help="PEM private key of the server")
    tls_client_ca: Path | None = setting(
        _optional_path, None, metavar="FILE", help="PEM certificates of the CA that clients must be signed by"
    )
    tls_crl: Path | None = setting(
        _optional_path, None, metavar="FILE",
        help="PEM revocation lists: clients whose certificate is on one are refused; read again when the file changes",
    )
    authority: Path | None = setting(
        _optional_path, None, metavar="DIR",
        help="folder of an authority (`tensor-runtime cert ca`) as which this server signs for those it has invited",
    )
    enrol_with: str = setting(
        _any_text, "", metavar="TARGET",
        help="server with an authority, grpcs://HOST:PORT, that gives this server its certificate and renews it",
    )
    enrol_invitation: Path | None = setting(
        _optional_path, None, metavar="FILE", help="file with the invitation that enrol_with asks for the first time"
    )
    token_file: Path | None = setting(
        _optional_path, None, metavar="FILE", help="file of accepted bearer tokens, one a line"
    )
    peer_tls: str = setting(
        _choice("auto", "on", "off"), "auto", metavar="NAME",
        help="TLS to the other tasks of the cluster: on, off, or auto (on with a certificate of its own or peer_ca)"
    )
    peer_ca: Path | None = setting(
        _optional_path, None, metavar="FILE",
        help="PEM certificates of the CA of the other tasks (default: tls_client_ca, else those of the system)"
    )
    peer_token_file: Path | None = setting(
        _optional_path, None, metavar="FILE",
        help="file whose first token is sent to the other tasks (default: token_file)"
    )
    insecure: bool = setting(
        _flag, False, help="serve beyond this machine without TLS or token: anyone who can connect can run code"
    )
    files_allow: tuple[Path, ...] | str = setting(
        _directories,
        "auto",
        metavar="DIRS",
        help="directories whose files graph ops may read and write (checkpoints, summaries): a list, all, none, or "
        "auto (all on an address that only this machine reaches, none elsewhere)",
    )
    cached_steps: int = setting(
        _integer(1, 1 << 20), 512, metavar="N", help="compiled steps that a session keeps; the least used go first"
    )
    grace_s: float = setting(
        _seconds(0, 86400), 30.0, metavar="SECONDS", flag="--grace", help="time that open calls get to finish at a stop"
    )
    max_bytes_in_flight: int = setting(
        parse_size,
        factory=half_of_memory,
        metavar="SIZE",
        help="bytes of requests and answers held at once by the process (default: half of the memory)",
    )
    step_memory_limit: int = setting(
        _size_or_none,
        factory=most_of_memory,
        metavar="SIZE",
        help="bytes that the arrays of one step may hold at once; 0: no limit (default: three quarters of the memory)",
    )
    data_chunk_max_size: int = setting(
        _integer(1, (1 << 31) - 1), 84000, metavar="BYTES",
        help="bytes of one chunk of a task's payload or result, both ways",
    )
    max_priority: int = setting(
        _integer(2, 100), 10, metavar="N", help="bound of the priorities of tasks: those below it may be used"
    )
    lenient_small_tasks: bool = setting(
        _flag, False, help="let CreateSmallTasks without options use the session's instead of refusing it"
    )
    task_lease_s: float = setting(
        _seconds(0.1, 86400), 20.0, metavar="SECONDS", help="silence after which an agent loses the task that it runs"
    )
    task_heartbeat_s: float = setting(
        _seconds(0.01, 86400), 5.0, metavar="SECONDS", help="time between two signs of life of an agent"
    )
    task_cancel_grace_s: float = setting(
        _seconds(0, 86400), 5.0, metavar="SECONDS", help="time that a worker gets to end a task that is canceled"
    )
    task_workers: tuple[str, ...] = setting(
        _endpoints, (), metavar="LIST",
        help="workers that get this server's tasks, separated by commas: unix:PATH, HOST:PORT, or grpcs://HOST:PORT"
    )
    task_check_s: float = setting(
        _seconds(0.01, 3600), 5.0, metavar="SECONDS", help="time between two health checks of an idle worker"
    )
    keepalive_s: float = setting(
        _seconds(1, 86400), 60.0, metavar="SECONDS", help="silence after which a connection is asked if it still lives"
    )
    peer_timeout_s: float = setting(
        _seconds(1, 86400), 15.0, metavar="SECONDS",
        help="time after which another task of the cluster that is awaited and does not answer counts as lost",
    )
    worker_session_idle_s: float = setting(
        _seconds(0, 86400 * 366), 0.0, metavar="SECONDS",
        help="time without a call after which what another task's session has here is deleted; 0: kept until it ends",
    )
    fleet_ca: Path | None = setting(
        _optional_path, None, metavar="FILE",
        help="PEM certificates of the authorities that a server's certificate must lead to when it enrols",
    )
    fleet_crl: Path | None = setting(
        _optional_path, None, metavar="FILE", help="PEM revocation lists; read again when the file changes"
    )
    fleet_join: str = setting(
        _any_text, "", metavar="TARGET",
        help="dispatcher, grpcs://HOST:PORT, with which this server enrols its certificate and offers fleet_address",
    )
    fleet_join_ca: Path | None = setting(
        _optional_path, None, metavar="FILE",
        help="PEM certificates of the CA of fleet_join (default: that of enrol_with, else those of the system)",
    )
    fleet_join_token_file: Path | None = setting(
        _optional_path, None, metavar="FILE", help="file whose first token is sent to fleet_join"
    )
    fleet_address: str = setting(
        _any_text, "", metavar="IP", help="address that this server offers to the fleet (default: that it listens on)"
    )
    fleet_networks: tuple[str, ...] = setting(
        _networks, ("auto",), metavar="NETS",
        help="loopback and private networks in which enrolled servers may offer addresses: a list, the word private, "
        "or auto (private ones, and loopback on an address that only this machine reaches)",
    )
    fleet_ownership: str = setting(
        _choice("auto", "strict", "off"), "auto", metavar="NAME",
        help="strict: a server must show that the address it offers is its own; auto: strict unless anyone on this "
        "machine alone may call",
    )
    fleet_health: str = setting(
        _choice("lease", "probe"), "lease", metavar="NAME",
        help="lease: servers repeat their offer; probe: they are asked at fleet_server_port",
    )
    fleet_lease_s: float = setting(
        _seconds(1, 86400), 90.0, metavar="SECONDS", help="how often an enrolled server repeats its offer"
    )
    fleet_server_port: int = setting(
        _integer(0, 65535), 0, metavar="PORT", help="port at which enrolled servers are asked how they are"
    )
    fleet_peer_address: str = setting(
        _choice("off", "warn", "enforce"), "warn", metavar="NAME",
        help="what happens when a machine reports from an address that it does not name",
    )
    command_offline_s: float = setting(
        _seconds(0.1, 86400), 60.0, metavar="SECONDS", help="silence after which a worker of commands counts as offline"
    )
    command_evict_s: float = setting(
        _seconds(0.1, 864000), 600.0, metavar="SECONDS", help="silence after which a worker loses the commands it runs"
    )
    command_redelivery_s: float = setting(
        _seconds(0.1, 3600), 15.0, metavar="SECONDS",
        help="time after which a command that its worker has not confirmed is offered again; after four times that, to "
        "others",
    )
    command_max_attempts: int = setting(
        _integer(1, 1000), 3, metavar="N", help="attempts of a command whose workers are lost, before it has failed"
    )
    command_on_lost: str = setting(
        _choice("requeue", "fail"), "requeue", metavar="NAME",
        help="what becomes of the commands of a lost worker: requeue (while attempts are left) or fail",
    )
    command_on_restart: str = setting(
        _choice("requeue", "fail"), "fail", metavar="NAME",
        help="what becomes of the commands that a worker's new process does not have any more: requeue or fail",
    )
    command_default_container: str = setting(
        _text, "bare", metavar="IMAGE", help="container of commands that name none; bare: none"
    )
    command_request_sets_concurrency: bool = setting(
        _flag, False, help="let a worker that registers again change its stored concurrency"
    )
    command_log_limit: int = setting(
        _size_or_none, 256 << 20, metavar="SIZE", help="bytes of output kept of one command; 0: all"
    )
    command_server_name: str = setting(
        _text, "tr-", metavar="NAME", help="begins the names of workers that are made here"
    )
    command_max_workers: int = setting(
        _integer(0, 1 << 20), 1000, metavar="N", help="workers that providers may have made at once"
    )
    command_register_s: float = setting(
        _seconds(0.1, 86400), 60.0, metavar="SECONDS", help="time that a worker which was made gets to register"
    )
    command_providers: tuple[str, ...] = setting(
        _names, ("local",), metavar="LIST", help="where workers may be made, separated by commas, or none"
    )
    command_local_bare: bool = setting(
        _flag, True, help="let workers that are processes of this machine run commands without a container"
    )
    command_worker_token_file: Path | None = setting(
        _optional_path, None, metavar="FILE", help="file with the token that workers which are made here use"
    )
    command_worker_ca: Path | None = setting(
        _optional_path, None, metavar="FILE", help="PEM certificates by which workers made here know the server"
    )
    handshake_timeout_s: float = setting(
        _seconds(0.1, 3600), 10.0, metavar="SECONDS", help="time a new connection gets to say that it speaks gRPC"
    )
    transport: str = setting(
        _choice("native", "grpc"), "native", metavar="NAME",
        help="who speaks HTTP/2: native (this project's own, fastest) or grpc (the gRPC library)"
    )
    loop: str = setting(
        _choice("auto", "uvloop", "asyncio"), "auto", metavar="NAME", help="event loop: auto, uvloop or asyncio"
    )
    malloc: str = setting(
        _choice("tuned", "default"),
        "default",
        metavar="NAME",
        help="tuned: keep freed memory for large messages; default: leave the allocator alone",
    )
    grpc_tuning: str = setting(
        _choice("tested", "off"),
        "off",
        metavar="NAME",
        help="tested: switch off gRPC experiments that cost latency, in grpcio versions where that was tested; or off",
    )
    log_level: str = setting(
        _choice("debug", "info", "warning", "error"), "info", metavar="LEVEL", help="debug, info, warning or error"
    )
    log_format: str = setting(_choice("text", "json"), "text", metavar="NAME", help="log lines as text or json")

    @property
    def data_is_chosen(self) -> bool:
        """Whether this server is to keep data of its own: another that has the data directory is then a mistake.

        Several servers of one user, such as the tasks of a cluster, share the default one; the first that needs it
        has it.
        """
        return self.data_dir != user_data_dir() or self.services != ALL_SERVICES


# What differs for `tensor-runtime serve`, which owns its whole process, from a program that embeds a server.
SERVE_DEFAULTS: dict[str, Any] = {"malloc": "tuned", "grpc_tuning": "tested"}
DEFAULT_ORIGIN = "default"
_TF_CONFIG = "TF_CONFIG"


@dataclass(frozen=True)
class Loaded:
    """Settings together with where each value came from (field name to text)."""

    settings: Settings
    origins: Mapping[str, str]


def setting_fields() -> tuple[Field[Any], ...]:
    """Return the fields of :class:`Settings` in the order in which they are shown."""
    return fields(Settings)


def flag_of(entry: Field[Any]) -> str:
    """Return the command line flag of a setting."""
    return entry.metadata["flag"] or "--" + entry.name.replace("_", "-")


def environment_name(entry: Field[Any]) -> str:
    """Return the environment variable of a setting."""
    return ENVIRONMENT_PREFIX + entry.name.upper()


def load(
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    file: str | os.PathLike[str] | None = None,
    *,
    defaults: Mapping[str, object] | None = None,
    flag_origin: str | None = None,
    user_file: bool = True,
) -> Loaded:
    """Return the settings that flags, environment, file and defaults make together, strongest first.

    Parameters
    ----------
    flags : mapping, optional
        Field name to value; None means not given.
    environment : mapping, optional
        The environment; ``os.environ`` when left out. ``TENSOR_RUNTIME_CONFIG`` names the file; ``TF_CONFIG`` may
        give cluster, job_name and task_index, where neither flags nor ``TENSOR_RUNTIME_`` variables do.
    file : path, optional
        TOML file of settings by field name. Named, it must exist; the user's own default file may be absent.
    defaults : mapping, optional
        Field name to value, weaker than everything else but stronger than the defaults of the class.
    flag_origin : str, optional
        What to call the origin of ``flags`` in place of the flag's name.
    user_file : bool
        Whether to read the user's default file when no other is named.

    Raises
    ------
    ConfigError
        For a value that cannot be used; names the key, the value, the origin and what is allowed.
    InvalidArgument
        For an unknown key in ``flags``, ``defaults`` or the file (with the nearest known name), a file that cannot be
        read, or a task that is half a flag's and half ``TF_CONFIG``'s.
    """
    environment = os.environ if environment is None else environment
    path, required = _config_path(file, environment, user_file)
    table = _read_file(path, required)
    known = {entry.name: entry for entry in setting_fields()}
    for source, where in ((flags or {}, flag_origin or "the command line"), (defaults or {}, DEFAULT_ORIGIN)):
        for key in source:
            if key not in known:
                raise InvalidArgument(f"{where}: no setting is called {key!r}{_suggestion(key, tuple(known))}")
    for key in table:
        if key not in known:
            raise InvalidArgument(f"file {path}: no setting is called {key!r}{_suggestion(key, tuple(known))}")

    tf_config = _read_tf_config(environment)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, entry in known.items():
        variable = environment_name(entry)
        candidates: tuple[tuple[object, str], ...] = (
            ((flags or {}).get(name), flag_origin or flag_of(entry)),
            (environment.get(variable), variable),
            (tf_config.get(name), _TF_CONFIG),
            (table.get(name), str(path)),
            ((defaults or {}).get(name), DEFAULT_ORIGIN),
        )
        for value, origin in candidates:
            if value is not None:
                try:
                    values[name] = entry.metadata["parse"](value)
                except ValueError as error:
                    raise ConfigError(name, value, origin, str(error)) from None
                origins[name] = origin
                break
        else:
            origins[name] = DEFAULT_ORIGIN
    if _TF_CONFIG in origins.values():
        _check_mixture(values, origins, tf_config)
    settings = Settings(**values)
    if settings.cluster is not None:
        settings = _join_cluster(settings, origins)
    return Loaded(settings, origins)


def _join_cluster(settings: Settings, origins: dict[str, str]) -> Settings:
    """Check that the cluster has this task, and listen on its address there unless another one was asked for."""
    from runtime.cluster_spec import ClusterSpec

    try:
        address = ClusterSpec.parse(settings.cluster or "").address(settings.job_name, settings.task_index)
    except Error as error:
        if _TF_CONFIG not in origins.values():
            raise
        named = ", ".join(f"{name} is from {origins[name]}" for name in ("cluster", "job_name", "task_index"))
        raise type(error)(f"{error.message} ({named})") from None
    if origins["listen"] != DEFAULT_ORIGIN:
        return settings
    origins["listen"] = f"cluster, /job:{settings.job_name}/task:{settings.task_index}"
    return replace(settings, listen=_listen(address))


def _read_tf_config(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that TF_CONFIG has, as far as it describes a cluster."""
    text = environment.get(_TF_CONFIG)
    if not text or not text.strip():
        return {}
    from runtime.tf_config import TFConfig

    found = TFConfig.parse(text)
    return {
        "cluster": None if found.cluster is None else found.cluster.to_json(),
        "job_name": found.job_name,
        "task_index": found.task_index,
    }


def _check_mixture(values: dict[str, Any], origins: dict[str, str], tf_config: Mapping[str, Any]) -> None:
    """Refuse one task's job with another task's index; without a cluster, TF_CONFIG's task means nothing."""
    if values.get("cluster") is None:
        for name in ("job_name", "task_index"):
            if origins[name] == _TF_CONFIG:
                values.pop(name)
                origins[name] = DEFAULT_ORIGIN
        return
    job, other = values.get("job_name"), tf_config.get("job_name")
    if origins["task_index"] == _TF_CONFIG and origins["job_name"] != _TF_CONFIG and job != other:
        raise InvalidArgument(f"setting task_index: {values['task_index']} (from {_TF_CONFIG}) belongs to its job "
                              f"{other!r}, but job_name is {job!r} (from {origins['job_name']}): give task_index, "
                              "too")


def unknown_variables(environment: Mapping[str, str] | None = None) -> list[str]:
    """Return a sentence for each ``TENSOR_RUNTIME_`` variable that looks like a mistyped setting.

    Other variables with the prefix are left alone: tools and tests have some of their own.
    """
    environment = os.environ if environment is None else environment
    known = {environment_name(entry) for entry in setting_fields()} | {ENVIRONMENT_PREFIX + "CONFIG"}
    unknown = sorted(name for name in environment if name.startswith(ENVIRONMENT_PREFIX)
                     and name not in known and name not in PEER_VARIABLES)
    if not unknown:
        return []
    import difflib

    sentences = []
    for name in unknown:
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.85)
        if near:
            sentences.append(f"environment variable {name} is no setting; did you mean {near[0]}?")
    return sentences


def _config_path(
    file: str | os.PathLike[str] | None, environment: Mapping[str, str], user_file: bool
) -> tuple[Path | None, bool]:
    if file is not None:
        return Path(file).expanduser(), True
    named = environment.get(ENVIRONMENT_PREFIX + "CONFIG")
    if named:
        return Path(named).expanduser(), True
    return (default_config_file() if user_file else None), False


def _read_file(path: Path | None, required: bool) -> dict[str, Any]:
    if path is None or (not required and not path.exists()):
        return {}
    import tomllib

    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"file {path}: the settings cannot be read: {error}") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"file {path}: not valid TOML: {error}") from error
