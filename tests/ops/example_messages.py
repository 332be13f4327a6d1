"""Examples and SequenceExamples written field by field."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from tests.ext.tensor_messages import field, varint

Plain = Mapping[str, Any]

NO_TEXTS, NO_FLOATS, NO_INTEGERS = (field(kind, b"") for kind in (1, 2, 3))
"""Features with an empty list."""


def feature(values: Sequence[Any] | None, packed: bool = True) -> bytes:
    """Return a Feature: of bytes or text, floats, or integers, as the values are; None for one without a list."""
    if values is None:
        return b""
    kind = "int" if not values else type(values[0]).__name__
    if kind in ("bytes", "str"):
        return field(1, b"".join(field(1, item if isinstance(item, bytes) else item.encode()) for item in values))
    if kind == "float":
        texts = [struct.pack("<f", item) for item in values]
        return field(2, field(1, b"".join(texts)) if packed else b"".join(b"\x0d" + text for text in texts))
    texts = [varint(item & 2**64 - 1) for item in values]
    return field(3, field(1, b"".join(texts)) if packed else b"".join(b"\x08" + text for text in texts))


def entry(key: str, value: bytes) -> bytes:
    """Return the entry of a map."""
    return field(1, field(1, key.encode()) + field(2, value))


def features(plain: Plain, packed: bool = True) -> bytes:
    """Return Features."""
    return b"".join(entry(key, item if isinstance(item, bytes) else feature(item, packed))
                    for key, item in plain.items())


def example(plain: Plain | None = None, packed: bool = True, **more: Any) -> bytes:
    """Return an Example; a value that is bytes is a Feature already."""
    return field(1, features({**(plain or {}), **more}, packed))


def sequence(context: Plain, lists: Mapping[str, Sequence[Any]]) -> bytes:
    """Return a SequenceExample; `lists` gives for each key the values of its features, or Features themselves."""
    parts = b"".join(
        entry(key, b"".join(field(1, item if isinstance(item, bytes) else feature(item)) for item in items))
        for key, items in lists.items())
    return field(1, features(context)) + field(2, parts)
