"""Structured logs on standard error: one line an event, for people or for machines.

Modules log as usual, ``logging.getLogger(__name__)``, and put what varies into ``extra={"address": ...}`` rather
than into the text; the formatters here print it as fields. Only a process of ours calls :func:`configure`; a
program that embeds a server keeps its own logging.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

_PLAIN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a caller gave as ``extra``."""
    return {name: value for name, value in vars(record).items() if name not in _PLAIN_ATTRIBUTES}


def _timestamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """``2031-05-04T12:00:00.123Z INFO runtime.server serving address=127.0.0.1:2222``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        parts = [_timestamp(record), record.levelname, record.name, record.getMessage()]
        parts.extend(f"{name}={_quoted(value)}" for name, value in fields_of(record).items())
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with ``time``, ``level``, ``logger``, ``message``, the fields, and ``traceback``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in fields_of(record).items():
            entry.setdefault(name, value)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n\r\t') else text


def configure(level: str, style: str, stream: TextIO | None = None) -> None:
    """Send all logs of this process to ``stream``.

    Parameters
    ----------
    level : str
        ``debug``, ``info``, ``warning`` or ``error``.
    style : str
        ``text`` or ``json``.
    stream : file, optional
        Standard error when left out.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


class RateLimit(logging.Filter):
    """Let one record of a kind through per period, with the number that was held back since.

    Parameters
    ----------
    period_s : float
        Seconds between records of one kind.

    Notes
    -----
    A kind is the logger together with the text before formatting. A flood of one mistake, such as a client that
    sends malformed requests in a loop, then costs one line a period.
    """

    MAX_KINDS = 1000  # bounds the table; beyond it the oldest kind is forgotten

    def __init__(self, period_s: float) -> None:
        super().__init__()
        self._period_s = period_s
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be written."""
        kind = (record.name, str(record.msg))
        now = time.monotonic()
        last, held_back = self._kinds.get(kind, (None, 0))
        if last is not None and now - last < self._period_s:
            self._kinds[kind] = (last, held_back + 1)
            return False
        if len(self._kinds) >= self.MAX_KINDS and kind not in self._kinds:
            self._kinds.pop(next(iter(self._kinds)))
        self._kinds[kind] = (now, 0)
        if held_back:
            record.held_back = held_back
        return True
