"""``tensor-runtime config show [--origin]``: the settings that ``serve`` would use."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from runtime.cli.settings_flags import add_config_flags

    parser.add_argument("action", choices=["show"], help="what to do with the settings")
    parser.add_argument("--origin", action="store_true", help="also print where each value comes from")
    add_config_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print one setting a line, in the form of the settings file."""
    from runtime import config
    from runtime.cli.settings_flags import load_settings

    loaded = load_settings(options)
    rows = [(entry.name, _toml(getattr(loaded.settings, entry.name))) for entry in config.setting_fields()]
    width = max(len(f"{name} = {text}") for name, text in rows)
    for name, text in rows:
        line = f"{name} = {text}" if text else f"# {name} is not set"
        print(f"{line:<{min(width, 70)}}  # {loaded.origins[name]}" if options.origin else line)
    for sentence in config.unknown_variables():
        print(f"warning: {sentence}", file=sys.stderr)
    return 0


def _toml(value: Any) -> str:
    """Return a value as TOML writes it; empty for None."""
    import json

    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, (str, Path)):
        return json.dumps(str(value), ensure_ascii=False)
    return str(value)
