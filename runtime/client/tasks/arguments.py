"""What callers hand in, checked before anything is sent: an error that names the argument and what it must be."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any, TypeVar

from runtime.errors import InvalidArgument

__all__ = [
    "checked_handles", "checked_number", "checked_text", "checked_texts", "checked_timeout",
    "checked_unicode", "checked_whole",
]

_H = TypeVar("_H")

_INT32_END = 1 << 31


def checked_number(name: str, value: Any) -> None:
    """Refuse what is no number of seconds.

    Raises
    ------
    InvalidArgument
        If it is none, or not a number at all.
    """
    if not isinstance(value, numbers.Real) or math.isnan(value):
        raise InvalidArgument(f"{name} is {value!r}; it must be a number of seconds")


def checked_text(name: str, value: Any) -> str:
    """Return what names something, if it can go into a message.

    Raises
    ------
    InvalidArgument
        If it is no text, empty, or none that UTF-8 can hold.
    """
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{name} is {value!r}; it must be text that is not empty")
    if not value.isascii():
        checked_unicode(name, value)
    return value


def checked_unicode(name: str, value: str) -> None:
    """Refuse text with half of a surrogate pair, as ``os.fsdecode`` makes it of bytes that are no UTF-8.

    Raises
    ------
    InvalidArgument
        Names it.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{name} is {value!r}; UTF-8 cannot hold it: {error.reason}") from None


def checked_texts(name: str, values: Any) -> tuple[str, ...]:
    """Return several names, each once.

    Raises
    ------
    InvalidArgument
        If they are not several, none at all, or one is not acceptable.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise InvalidArgument(f"{name}: a list is needed, not {values!r} alone")
    found = tuple(dict.fromkeys(checked_text(f"{name}: one", value) for value in values))
    if not found:
        raise InvalidArgument(f"{name}: at least one is needed")
    return found


def checked_whole(name: str, value: Any) -> None:
    """Refuse what does not fit into a field for whole numbers.

    Raises
    ------
    InvalidArgument
        If it is none, or more than 32 bits hold.
    """
    if not isinstance(value, numbers.Integral) or not -_INT32_END <= int(value) < _INT32_END:
        raise InvalidArgument(f"{name} is {value!r}; it must be a whole number of 32 bits")


def checked_timeout(timeout_s: Any) -> None:
    """Refuse a time to wait that is none; one that is over already is fine.

    Raises
    ------
    InvalidArgument
        If it is neither None nor a number.
    """
    if timeout_s is not None and (not isinstance(timeout_s, numbers.Real) or math.isnan(timeout_s)):
        raise InvalidArgument(f"timeout_s is {timeout_s!r}; it must be a number of seconds, or None to wait for ever")


def checked_handles(handles: Iterable[Any], kind: type[_H]) -> list[_H]:
    """Return the handles of tasks that a caller gives.

    Raises
    ------
    InvalidArgument
        If one is of another kind, or they are not several.
    """
    if isinstance(handles, (kind, str)) or not isinstance(handles, Iterable):
        raise InvalidArgument(f"handles: a list of tasks is needed, not {handles!r} alone")
    found = list(handles)
    for item in found:
        if not isinstance(item, kind):
            raise InvalidArgument(f"handles: {item!r} is no {kind.__name__}; `submit`, `map` and `handle` return them")
    return found
