"""What is acceptable in a message: texts, names, numbers, letters, and the metadata that tells who calls."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from runtime.commands.model import Caller, Status
from runtime.errors import InvalidArgument

__all__ = [
    "LOG_TYPES",
    "MAX_COMMAND_BYTES",
    "MAX_CONCURRENCY",
    "MAX_CONTAINER_BYTES",
    "MAX_LOG_BYTES",
    "MAX_MESSAGE_BYTES",
    "caller_of",
    "check_id",
    "check_name",
    "check_text",
    "log_type",
    "metadata_number",
    "owned_commands",
    "settable_status",
]

MAX_MESSAGE_BYTES = 8 << 20
MAX_COMMAND_BYTES = 1 << 20
MAX_CONTAINER_BYTES = 4 << 10
MAX_NAME_BYTES = 255
MAX_LOG_BYTES = 1 << 20
MAX_CONCURRENCY = 4096
LOG_TYPES = ("O", "o", "out", "stdout", "E", "e", "err", "stderr")
"""The spellings of the two streams: output first, then errors."""

_SETTABLE = frozenset(Status) - {Status.WAITING, Status.INACTIVE}
_LETTERS = "".join(sorted(_SETTABLE))
_OWNED = re.compile(r"(\d{1,10})\.(\d{1,10})")


def check_text(text: str, field: str, limit: int) -> str:
    """Return a text that can be stored.

    Raises
    ------
    InvalidArgument
        For one with a NUL character, or of more than ``limit`` bytes of UTF-8.
    """
    if "\0" in text:
        raise InvalidArgument(f"{field}: character {text.index(chr(0))} is NUL, which no text may hold")
    nbytes = len(text) if text.isascii() else len(text.encode())
    if nbytes > limit:
        raise InvalidArgument(f"{field}: has {nbytes} bytes; at most {limit} are taken")
    return text


def check_name(text: str, field: str) -> str:
    """Return a name: not empty, no NUL, at most 255 bytes."""
    if not text:
        raise InvalidArgument(f"{field}: must not be empty")
    return check_text(text, field, MAX_NAME_BYTES)


def check_id(number: int, field: str) -> int:
    """Return an id, which is never 0."""
    if number == 0:
        raise InvalidArgument(f"{field}: 0 is no id; ids begin with 1")
    return number


def log_type(text: str) -> str:
    """Return the spelling of a stream's name.

    Raises
    ------
    InvalidArgument
        For one that does not exist.
    """
    if text not in LOG_TYPES:
        raise InvalidArgument(f"log_type: {text[:80]!r} is none of {', '.join(LOG_TYPES)}")
    return text


def settable_status(text: str) -> Status:
    """Return the status that a caller wants.

    Raises
    ------
    InvalidArgument
        Unless it is one of the letters that callers may set.
    """
    if len(text) != 1 or text not in _SETTABLE:
        raise InvalidArgument(f"new_status: {text[:80]!r} is not one letter of {_LETTERS}")
    return Status(text)


def metadata_number(metadata: Iterable[Any], key: str, high: int) -> int | None:
    """Return a number that a call's metadata carries, at most ``high``; None when it carries none.

    Raises
    ------
    InvalidArgument
        If it is no number from 0.
    """
    for name, value in metadata:
        if name == key:
            text = value if isinstance(value, str) else bytes(value).decode("ascii", "replace")
            if not (text.isascii() and text.isdigit() and len(text) <= 19):
                raise InvalidArgument(f"metadata {key}: {text[:80]!r} is no whole number from 0")
            return min(int(text), high)
    return None


def caller_of(context: Any) -> Caller:
    """Return what a call's metadata and connection say of the caller.

    Raises
    ------
    InvalidArgument
        For metadata that cannot be read.
    """
    metadata = context.invocation_metadata() or ()
    worker = instance = attempt = None
    for name, value in metadata:
        if name == "x-tq-worker-instance":
            instance = value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")
            check_text(instance, "metadata x-tq-worker-instance", MAX_NAME_BYTES)
        elif name == "x-tq-worker-id":
            worker = metadata_number(((name, value),), name, (1 << 32) - 1)
        elif name == "x-tq-attempt":
            attempt = metadata_number(((name, value),), name, (1 << 32) - 1)
    return Caller(worker or 0, instance or "", attempt or 0, context.peer() or "")


def owned_commands(metadata: Iterable[Any]) -> dict[int, int] | None:
    """Return the commands that a worker says it has, with their attempts: ``x-tq-owned: ID.ATTEMPT,...``; or None.

    Raises
    ------
    InvalidArgument
        If it is not of that form.
    """
    for name, value in metadata:
        if name != "x-tq-owned":
            continue
        owned = {}
        for item in filter(None, str(value).split(",")):
            found = _OWNED.fullmatch(item.strip())
            if found is None:
                raise InvalidArgument(f"metadata x-tq-owned: {item[:80]!r} is not of the form ID.ATTEMPT")
            owned[int(found[1])] = int(found[2])
        return owned
    return None
