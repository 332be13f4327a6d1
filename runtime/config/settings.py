# ruff: noqa: RUF009 - setting() only wraps dataclasses.field
"""Every setting: a field of :class:`Settings`, whose metadata says how text becomes a value, and what it is for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from runtime.config import parse
from runtime.config.parse import ALL_SERVICES
from runtime.machine import memory_bytes

DEFAULT_LISTEN = "127.0.0.1:2222"
# What differs for `tensor-runtime serve`, which owns its whole process, from a program that embeds a server.
SERVE_DEFAULTS: dict[str, Any] = {"malloc": "tuned", "grpc_tuning": "tested"}


def user_data_dir() -> Path:
    """Return the folder in which this user's server keeps its data when nothing else is said."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "tensor-runtime"


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
        parse.listen, DEFAULT_LISTEN, metavar="HOST:PORT",
        help="address to serve on: HOST:PORT (port 0: any) or unix:PATH",
    )
    data_dir: Path = setting(parse.path, factory=user_data_dir, metavar="DIR", help="folder for durable state")
    services: tuple[str, ...] = setting(
        parse.services, ALL_SERVICES, metavar="LIST", help="planes to serve, separated by commas, or all"
    )
    cluster: str | None = setting(
        parse.cluster, None, metavar="FILE_OR_JSON", help="the cluster's jobs and tasks, as JSON or a file with it"
    )
    job_name: str = setting(parse.text, "local", metavar="NAME", flag="--job", help="job of this task in the cluster")
    task_index: int = setting(
        parse.integer(0, (1 << 31) - 1), 0, metavar="N", flag="--task", help="index of this task in its job"
    )
    tls_cert: Path | None = setting(
        parse.optional_path, None, metavar="FILE", help="PEM certificate chain of the server"
    )
    tls_key: Path | None = setting(parse.optional_path, None, metavar="FILE", help="PEM private key of the server")
    tls_client_ca: Path | None = setting(
        parse.optional_path, None, metavar="FILE", help="PEM certificates of the CA that clients must be signed by"
    )
    tls_crl: Path | None = setting(
        parse.optional_path, None, metavar="FILE",
        help="PEM revocation lists: clients whose certificate is on one are refused; read again when the file changes",
    )
    authority: Path | None = setting(
        parse.optional_path, None, metavar="DIR",
        help="folder of an authority (`tensor-runtime cert ca`) as which this server signs for those it has invited",
    )
    enrol_with: str = setting(
        parse.any_text, "", metavar="TARGET",
        help="server with an authority, grpcs://HOST:PORT, that gives this server its certificate and renews it",
    )
    enrol_invitation: Path | None = setting(
        parse.optional_path, None, metavar="FILE",
        help="file with the invitation that enrol_with asks for the first time",
    )
    token_file: Path | None = setting(
        parse.optional_path, None, metavar="FILE", help="file of accepted bearer tokens, one a line"
    )
    peer_tls: str = setting(
        parse.choice("auto", "on", "off"), "auto", metavar="NAME",
        help="TLS to the other tasks of the cluster: on, off, or auto (on with a certificate of its own or peer_ca)"
    )
    peer_ca: Path | None = setting(
        parse.optional_path, None, metavar="FILE",
        help="PEM certificates of the CA of the other tasks (default: tls_client_ca, else those of the system)"
    )
    peer_token_file: Path | None = setting(
        parse.optional_path, None, metavar="FILE",
        help="file whose first token is sent to the other tasks (default: token_file)"
    )
    insecure: bool = setting(
        parse.flag, False, help="serve beyond this machine without TLS or token: anyone who can connect can run code"
    )
    files_allow: tuple[Path, ...] | str = setting(
        parse.directories,
        "auto",
        metavar="DIRS",
        help="directories whose files graph ops may read and write (checkpoints, summaries): a list, all, none, or "
        "auto (all on an address that only this machine reaches, none elsewhere)",
    )
    cached_steps: int = setting(
        parse.integer(1, 1 << 20), 512, metavar="N", help="compiled steps that a session keeps; the least used go first"
    )
    grace_s: float = setting(
        parse.seconds(0, 86400), 30.0, metavar="SECONDS", flag="--grace",
        help="time that open calls get to finish at a stop",
    )
    max_bytes_in_flight: int = setting(
        parse.parse_size,
        factory=half_of_memory,
        metavar="SIZE",
        help="bytes of requests and answers held at once by the process (default: half of the memory)",
    )
    step_memory_limit: int = setting(
        parse.size_or_none,
        factory=most_of_memory,
        metavar="SIZE",
        help="bytes that the arrays of one step may hold at once; 0: no limit (default: three quarters of the memory)",
    )
    data_chunk_max_size: int = setting(
        parse.integer(1, (1 << 31) - 1), 84000, metavar="BYTES",
        help="bytes of one chunk of a task's payload or result, both ways",
    )
    max_priority: int = setting(
        parse.integer(2, 100), 10, metavar="N", help="bound of the priorities of tasks: those below it may be used"
    )
    lenient_small_tasks: bool = setting(
        parse.flag, False, help="let CreateSmallTasks without options use the session's instead of refusing it"
    )
    task_lease_s: float = setting(
        parse.seconds(0.1, 86400), 20.0, metavar="SECONDS",
        help="silence after which an agent loses the task that it runs",
    )
    task_heartbeat_s: float = setting(
        parse.seconds(0.01, 86400), 5.0, metavar="SECONDS", help="time between two signs of life of an agent"
    )
    task_cancel_grace_s: float = setting(
        parse.seconds(0, 86400), 5.0, metavar="SECONDS", help="time that a worker gets to end a task that is canceled"
    )
    task_retry_delay_s: float = setting(
        parse.seconds(0, 86400), 0.0, metavar="SECONDS",
        help="time before an attempt that failed is followed by the next; twice as long after each",
    )
    task_retry_delay_max_s: float = setting(
        parse.seconds(0, 86400), 300.0, metavar="SECONDS", help="longest time between two attempts"
    )
    task_retention_s: float = setting(
        parse.seconds(0, 10 * 365 * 86400), 15 * 86400.0, metavar="SECONDS",
        help="time after which a session in which nothing happens any more is deleted with its results; 0: never",
    )
    task_arena_size: int = setting(
        parse.parse_size, 1 << 30, metavar="SIZE",
        help="largest size of the file in which payloads and results of 16 KiB to 4 MiB lie beside each other",
    )
    task_workers: tuple[str, ...] = setting(
        parse.endpoints, (), metavar="LIST",
        help="workers that get this server's tasks, separated by commas: unix:PATH, HOST:PORT, or grpcs://HOST:PORT"
    )
    task_check_s: float = setting(
        parse.seconds(0.01, 3600), 5.0, metavar="SECONDS", help="time between two health checks of an idle worker"
    )
    keepalive_s: float = setting(
        parse.seconds(1, 86400), 60.0, metavar="SECONDS",
        help="silence after which a connection is asked if it still lives",
    )
    handshake_timeout_s: float = setting(
        parse.seconds(0.1, 3600), 10.0, metavar="SECONDS",
        help="time a new connection gets for TLS and to say that it speaks gRPC; also the time for a call's headers",
    )
    stall_timeout_s: float = setting(
        parse.seconds(1, 86400), 120.0, metavar="SECONDS",
        help="time in which a request under way, or an answer that the client takes, must go on by 64 KiB, or end",
    )
    unread_timeout_s: float = setting(
        parse.seconds(1, 86400 * 366), 3600.0, metavar="SECONDS",
        help="the same for a message of an answer stream, whose reader may pause",
    )
    idle_timeout_s: float = setting(
        parse.seconds(0, 86400 * 366), 3600.0, metavar="SECONDS",
        help="time without a call after which a client is asked to leave, and to come back when it has one; 0: never",
    )
    max_connections: int = setting(
        parse.integer(1, 1 << 24), 10_000, metavar="N",
        help="connections at once; never more than leave a fifth of the descriptors that the process may open",
    )
    max_connections_per_peer: int = setting(
        parse.integer(0, 1 << 24), 0, metavar="N",
        help="those of one address; 0: half of all, or all where only this machine can connect",
    )
    max_open_calls: int = setting(
        parse.integer(1, 1 << 24), 100_000, metavar="N",
        help="calls that have not ended, of all connections; of one address half, or all where only this machine can "
        "connect",
    )
    peer_timeout_s: float = setting(
        parse.seconds(1, 86400), 15.0, metavar="SECONDS",
        help="time after which another task of the cluster that is awaited and does not answer counts as lost",
    )
    worker_session_idle_s: float = setting(
        parse.seconds(0, 86400 * 366), 0.0, metavar="SECONDS",
        help="time without a call after which what another task's session has here is deleted; 0: kept until it ends",
    )
    fleet_ca: Path | None = setting(
        parse.optional_path, None, metavar="FILE",
        help="PEM certificates of the authorities that a server's certificate must lead to when it enrols",
    )
    fleet_crl: Path | None = setting(
        parse.optional_path, None, metavar="FILE", help="PEM revocation lists; read again when the file changes"
    )
    fleet_join: str = setting(
        parse.any_text, "", metavar="TARGET",
        help="dispatcher, grpcs://HOST:PORT, with which this server enrols its certificate and offers fleet_address",
    )
    fleet_join_ca: Path | None = setting(
        parse.optional_path, None, metavar="FILE",
        help="PEM certificates of the CA of fleet_join (default: that of enrol_with, else those of the system)",
    )
    fleet_join_token_file: Path | None = setting(
        parse.optional_path, None, metavar="FILE", help="file whose first token is sent to fleet_join"
    )
    fleet_address: str = setting(
        parse.any_text, "", metavar="IP",
        help="address that this server offers to the fleet (default: that it listens on)",
    )
    fleet_networks: tuple[str, ...] = setting(
        parse.networks, ("auto",), metavar="NETS",
        help="loopback and private networks in which enrolled servers may offer addresses: a list, the word private, "
        "or auto (private ones, and loopback on an address that only this machine reaches)",
    )
    fleet_ownership: str = setting(
        parse.choice("auto", "strict", "off"), "auto", metavar="NAME",
        help="strict: a server must show that the address it offers is its own; auto: strict unless anyone on this "
        "machine alone may call",
    )
    fleet_health: str = setting(
        parse.choice("lease", "probe"), "lease", metavar="NAME",
        help="lease: servers repeat their offer; probe: they are asked at fleet_server_port",
    )
    fleet_lease_s: float = setting(
        parse.seconds(1, 86400), 90.0, metavar="SECONDS", help="how often an enrolled server repeats its offer"
    )
    fleet_server_port: int = setting(
        parse.integer(0, 65535), 0, metavar="PORT", help="port at which enrolled servers are asked how they are"
    )
    fleet_peer_address: str = setting(
        parse.choice("off", "warn", "enforce"), "warn", metavar="NAME",
        help="what happens when a machine reports from an address that it does not name",
    )
    command_offline_s: float = setting(
        parse.seconds(0.1, 86400), 60.0, metavar="SECONDS",
        help="silence after which a worker of commands counts as offline",
    )
    command_evict_s: float = setting(
        parse.seconds(0.1, 864000), 600.0, metavar="SECONDS",
        help="silence after which a worker loses the commands it runs",
    )
    command_redelivery_s: float = setting(
        parse.seconds(0.1, 3600), 15.0, metavar="SECONDS",
        help="time after which a command that its worker has not confirmed is offered again; after four times that, to "
        "others",
    )
    command_max_attempts: int = setting(
        parse.integer(1, 1000), 3, metavar="N",
        help="attempts of a command whose workers are lost, before it has failed",
    )
    command_on_lost: str = setting(
        parse.choice("requeue", "fail"), "requeue", metavar="NAME",
        help="what becomes of the commands of a lost worker: requeue (while attempts are left) or fail",
    )
    command_on_restart: str = setting(
        parse.choice("requeue", "fail"), "fail", metavar="NAME",
        help="what becomes of the commands that a worker's new process does not have any more: requeue or fail",
    )
    command_default_container: str = setting(
        parse.text, "bare", metavar="IMAGE", help="container of commands that name none; bare: none"
    )
    command_request_sets_concurrency: bool = setting(
        parse.flag, False, help="let a worker that registers again change its stored concurrency"
    )
    command_log_limit: int = setting(
        parse.size_or_none, 256 << 20, metavar="SIZE", help="bytes of output kept of one command; 0: all"
    )
    command_retention_s: float = setting(
        parse.seconds(0, 10 * 365 * 86400), 15 * 86400.0, metavar="SECONDS",
        help="time for which commands that have ended are kept, with their output; 0: for ever",
    )
    command_server_name: str = setting(
        parse.text, "tr-", metavar="NAME", help="begins the names of workers that are made here"
    )
    command_max_workers: int = setting(
        parse.integer(0, 1 << 20), 1000, metavar="N", help="workers that providers may have made at once"
    )
    command_register_s: float = setting(
        parse.seconds(0.1, 86400), 60.0, metavar="SECONDS", help="time that a worker which was made gets to register"
    )
    command_providers: tuple[str, ...] = setting(
        parse.names, ("local",), metavar="LIST", help="where workers may be made, separated by commas, or none"
    )
    command_local_bare: bool = setting(
        parse.flag, True, help="let workers that are processes of this machine run commands without a container"
    )
    command_worker_token_file: Path | None = setting(
        parse.optional_path, None, metavar="FILE", help="file with the token that workers which are made here use"
    )
    command_worker_ca: Path | None = setting(
        parse.optional_path, None, metavar="FILE", help="PEM certificates by which workers made here know the server"
    )
    transport: str = setting(
        parse.choice("native", "grpc"), "native", metavar="NAME",
        help="who speaks HTTP/2: native (this project's own, fastest) or grpc (the gRPC library)"
    )
    loop: str = setting(
        parse.choice("auto", "uvloop", "asyncio"), "auto", metavar="NAME", help="event loop: auto, uvloop or asyncio"
    )
    malloc: str = setting(
        parse.choice("tuned", "default"),
        "default",
        metavar="NAME",
        help="tuned: keep freed memory for large messages; default: leave the allocator alone",
    )
    grpc_tuning: str = setting(
        parse.choice("tested", "off"),
        "off",
        metavar="NAME",
        help="tested: switch off gRPC experiments that cost latency, in grpcio versions where that was tested; or off",
    )
    log_level: str = setting(
        parse.choice("debug", "info", "warning", "error"), "info", metavar="LEVEL", help="debug, info, warning or error"
    )
    log_format: str = setting(parse.choice("text", "json"), "text", metavar="NAME", help="log lines as text or json")

    @property
    def data_is_chosen(self) -> bool:
        """Whether this server is to keep data of its own: another that has the data directory is then a mistake.

        Several servers of one user, such as the tasks of a cluster, share the default one; the first that needs it
        has it.
        """
        return self.data_dir != user_data_dir() or self.services != ALL_SERVICES


def setting_fields() -> tuple[Field[Any], ...]:
    """Return the fields of :class:`Settings` in the order in which they are shown."""
    return fields(Settings)
