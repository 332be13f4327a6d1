"""Values as TensorFlow prints them in assertions and print ops."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from runtime.dtypes import DataType

__all__ = ["escape", "format_float", "formatter", "summarize", "summarize_ends"]

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "'": "\\'", "\\": "\\\\"}
_SPECIAL = re.compile(r"[\x00-\x1f\"'\\\x7f]")


def escape(text: bytes) -> str:
    """Return a string with control characters, quotes and backslashes escaped as in C, other UTF-8 as it is."""
    return _SPECIAL.sub(
        lambda found: _ESCAPES.get(found[0]) or f"\\{ord(found[0]):03o}", text.decode("utf-8", "replace")
    )


def escape_bytes(text: bytes) -> bytes:
    """Return a string as `escape` does, bytes that are not UTF-8 kept as they are."""
    return _SPECIAL.sub(
        lambda found: _ESCAPES.get(found[0]) or f"\\{ord(found[0]):03o}", text.decode("utf-8", "surrogateescape")
    ).encode("utf-8", "surrogateescape")


def format_float(value: Any, digits: int, exact_digits: int, kind: type[np.floating[Any]]) -> str:
    """Return a number with `digits` significant digits where they read back as the same number, else more."""
    if value != value:
        return "nan"
    short = f"{float(value):.{digits}g}"
    return short if kind(short) == value else f"{float(value):.{exact_digits}g}"


def formatter(kind: DataType) -> Callable[[Any], str]:
    """Return the function that prints one element of a type."""
    if kind is DataType.STRING:
        return escape
    if kind in (DataType.FLOAT, DataType.HALF, DataType.BFLOAT16):
        return lambda value: format_float(value, 6, 9, np.float32)
    if kind is DataType.DOUBLE:
        return lambda value: format_float(value, 15, 17, np.float64)
    if kind is DataType.BOOL:
        return lambda value: "1" if value else "0"
    if kind in (DataType.COMPLEX64, DataType.COMPLEX128):
        return lambda value: "?"  # TensorFlow does not print them either
    if kind.is_object:
        return str
    return lambda value: str(int(value))


def summarize(array: Any, kind: DataType, limit: int) -> str:
    """Return the first elements of an array on one line.

    Parameters
    ----------
    limit : int
        How many elements are shown; -1 for all. Inner dimensions stand in brackets, what is left out is ``...``.
    """
    values = np.asarray(array)
    size = values.size
    if limit < 0 or limit > size:
        limit = size
    show = formatter(kind)
    flat = values.reshape(-1)
    if values.ndim < 2 or values.dtype.kind == "c":
        text = " ".join(show(value) for value in flat[:limit])
        return text + "..." if size > limit else text
    parts: list[str] = []
    position = 0

    def one_dimension(axis: int) -> None:
        nonlocal position
        if position >= limit:
            return
        if axis == values.ndim - 1:
            for index in range(values.shape[axis]):
                if position >= limit:
                    parts.append("...")
                    return
                parts.append((" " if index else "") + show(flat[position]))
                position += 1
            return
        for _ in range(values.shape[axis]):
            opened = position < limit
            if opened:
                parts.append("[")
            one_dimension(axis + 1)
            if opened:
                parts.append("]")

    one_dimension(0)
    if size > limit:
        parts.append("...")
    return "".join(parts)


def summarize_ends(array: Any, kind: DataType, count: int) -> bytes:
    """Return an array as text, every dimension in brackets with `count` entries from either end; all for -1.

    What is left out is ``...``; strings stand in quotes when they are not alone.
    """
    values = np.asarray(array)
    if kind is DataType.STRING:
        show: Callable[[Any], bytes] = lambda value: b'"' + escape_bytes(value) + b'"'  # noqa: E731
    else:
        number = formatter(kind)
        show = lambda value: number(value).encode()  # noqa: E731
    size = values.size
    if kind is DataType.BOOL and not size:
        return b""
    ends = size if count < 0 else min(count, size)
    parts: list[bytes] = []

    def one_dimension(axis: int, index: tuple[int, ...]) -> None:
        if axis == values.ndim:
            parts.append(show(values[index]))
            return
        length = values.shape[axis]
        deeper = values.ndim - axis - 1
        between = b"\n" * deeper + b" " * (axis + 1) if deeper else b" "
        parts.append(b"[")
        head = min(ends, length)
        for position in range(head):
            if position:
                parts.append(between)
            one_dimension(axis + 1, (*index, position))
        if length > 2 * ends:
            parts.append(between)
            parts.append(b"...")
        for position in range(max(length - ends, head), length):
            parts.append(between)
            one_dimension(axis + 1, (*index, position))
        parts.append(b"]")

    one_dimension(0, ())
    return b"".join(parts)
