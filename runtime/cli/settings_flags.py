"""The flags of the settings, one for each field, shared by the commands that take them."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any

from runtime import config

_CONFIG = "config_file"


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` a flag for every setting, and ``--config``."""
    parser.add_argument("--config", dest=_CONFIG, metavar="FILE", help="TOML file of settings")
    add_setting_flags(parser)


def add_setting_flags(parser: Any, leave_out: Collection[str] = ()) -> None:
    """Give a parser, or a group of one, a flag for every setting that is not left out."""
    for entry in config.setting_fields():
        if entry.name in leave_out:
            continue
        flag = config.flag_of(entry)
        common: dict[str, Any] = {"dest": entry.name, "default": None, "help": _help(entry)}
        if isinstance(entry.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        else:
            parser.add_argument(flag, metavar=entry.metadata["metavar"], **common)


def load_settings(options: argparse.Namespace) -> config.Loaded:
    """Return the settings of the process, with the defaults of ``tensor-runtime serve``."""
    names = [entry.name for entry in config.setting_fields()]
    flags = {name: getattr(options, name) for name in names}
    return config.load(flags, file=getattr(options, _CONFIG), defaults=config.SERVE_DEFAULTS)


def _help(entry: Any) -> str:
    text = str(entry.metadata["help"]).replace("%", "%%")
    default = config.SERVE_DEFAULTS.get(entry.name, entry.default)
    if isinstance(default, (str, int, float)) and not isinstance(default, bool):
        return f"{text} [{default}]"
    return text
