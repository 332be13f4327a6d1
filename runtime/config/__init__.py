"""One settings object: command line over environment over file over default, and where each value came from.

A setting is a field of :class:`Settings`. The command line (``--listen``), the environment
(``TENSOR_RUNTIME_LISTEN``) and the file (``listen = "..."``) all follow from that one line.
"""

from runtime.config.parse import ALL_SERVICES, parse_size
from runtime.config.settings import DEFAULT_LISTEN, SERVE_DEFAULTS, Settings, setting, setting_fields, user_data_dir
from runtime.config.sources import (
    DEFAULT_ORIGIN,
    ENVIRONMENT_PREFIX,
    PEER_VARIABLES,
    ConfigError,
    Loaded,
    default_config_file,
    environment_name,
    flag_of,
    load,
    unknown_variables,
)

__all__ = [
    "ALL_SERVICES",
    "DEFAULT_LISTEN",
    "DEFAULT_ORIGIN",
    "ENVIRONMENT_PREFIX",
    "PEER_VARIABLES",
    "SERVE_DEFAULTS",
    "ConfigError",
    "Loaded",
    "Settings",
    "default_config_file",
    "environment_name",
    "flag_of",
    "load",
    "parse_size",
    "setting",
    "setting_fields",
    "unknown_variables",
    "user_data_dir",
]
