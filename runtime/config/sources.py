"""Where settings come from: command line over environment over file over default, each value with its origin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, replace
from pathlib import Path
from typing import Any

from runtime.config import parse
from runtime.config.settings import Settings, setting_fields
from runtime.errors import Error, InvalidArgument

ENVIRONMENT_PREFIX = "TENSOR_RUNTIME_"
# Name interpreters for tests and benchmarks; the first looks like a mistyped peer_ca or peer_tls.
PEER_VARIABLES = tuple(f"{ENVIRONMENT_PREFIX}{whose}_PYTHON" for whose in ("PEER", "ARMONIK", "TASK_PEER"))
DEFAULT_ORIGIN = "default"
_TF_CONFIG = "TF_CONFIG"


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


@dataclass(frozen=True)
class Loaded:
    """Settings together with where each value came from (field name to text)."""

    settings: Settings
    origins: Mapping[str, str]


def default_config_file() -> Path:
    """Return the file that is read when no other is named and it exists."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "tensor-runtime" / "config.toml"


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
                raise InvalidArgument(f"{where}: no setting is called {key!r}{parse.suggestion(key, tuple(known))}")
    for key in table:
        if key not in known:
            raise InvalidArgument(f"file {path}: no setting is called {key!r}{parse.suggestion(key, tuple(known))}")

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
    return replace(settings, listen=parse.listen(address))


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
