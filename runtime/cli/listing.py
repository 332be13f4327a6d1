"""Tables and JSON as the commands that list things print them."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

FORMATS = ("table", "json")


def add_output_flag(parser: argparse.ArgumentParser) -> None:
    """Give a parser ``-o``."""
    parser.add_argument("-o", "--output", choices=FORMATS, default=FORMATS[0], help=f"[{FORMATS[0]}]")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return lines with columns of the same width; control characters are shown as escapes."""
    shown = [[_printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown
    )


def as_json(content: Any) -> str:
    """Return plain values as JSON."""
    return json.dumps(content, indent=2, ensure_ascii=False)


def date(at: float) -> str:
    """Return seconds since 1970 as a date; a dash for 0."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) if at else "-"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
