"""A value: bytes that lie in a row when they are few, in an object when they are many."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["EMPTY", "ObjectRef", "UnusedObject", "Value"]


class ObjectRef(NamedTuple):
    """The name of an object.

    Attributes
    ----------
    digest : bytes
        SHA-256 of the content, 32 bytes.
    size : int
        Bytes.
    crc : int
        CRC-32C of the content, checked when all of it is read.
    """

    digest: bytes
    size: int
    crc: int


class UnusedObject(NamedTuple):
    """No row refers to an object any more: noted for the plane's watcher, which removes it."""

    digest: bytes


class Value(NamedTuple):
    """Bytes, here or in an object.

    Attributes
    ----------
    data : bytes
        The content, when ``ref`` is None.
    ref : ObjectRef or None
        Where the content lies otherwise.
    """

    data: bytes = b""
    ref: ObjectRef | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data) if self.ref is None else self.ref.size


EMPTY = Value()
"""No bytes."""
