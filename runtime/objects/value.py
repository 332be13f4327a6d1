"""A value: bytes that lie in a row when they are few, in an object when they are many."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DIGEST_BYTES", "EMPTY", "ObjectRef", "PlacesFile", "UnusedObject", "Value"]


DIGEST_BYTES = 32
"""Of a name that stands for content; those of places are shorter."""


class ObjectRef(NamedTuple):
    """The name of an object.

    Attributes
    ----------
    digest : bytes
        SHA-256 of the content, 32 bytes; of what lies beside others, 16 bytes: its place and a number of its own.
    size : int
        Bytes.
    crc : int
        CRC-32C of the content, checked when all of it is read.
    """

    digest: bytes
    size: int
    crc: int

    @property
    def is_shared(self) -> bool:
        """Whether it is named by its content, so that whoever writes the same refers to the same object."""
        return len(self.digest) == DIGEST_BYTES

    @property
    def place(self) -> int:
        """Where one begins that is not shared, in the file of the medium ones."""
        return int.from_bytes(self.digest[:8], "big")


class PlacesFile(NamedTuple):
    """The file of the medium objects, for other processes of this machine.

    Attributes
    ----------
    path : str
    device, number : int
        Of the file system, and of the file in it.
    proof : bytes
        What only those know who can read the file.
    """

    path: str
    device: int
    number: int
    proof: bytes


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
