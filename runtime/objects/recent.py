"""What was written last, still in memory: who asks for it soon need not wait for the disk."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import Buffer

__all__ = ["Content", "Recent"]

Content = Sequence[Buffer]
"""The bytes of a value, in pieces."""


class _Group:
    """Values that lie in the same memory, which goes when the last of them does."""

    __slots__ = ("keys", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.keys: set[bytes] = set()


class Recent:
    """The contents of some values; the oldest go first.

    Parameters
    ----------
    limit_bytes : int
        Of all memory that is kept so.

    Attributes
    ----------
    nbytes : int
        What is kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.nbytes = 0
        self._limit_bytes = limit_bytes
        self._values: dict[bytes, tuple[Content, _Group]] = {}
        self._groups: dict[_Group, None] = {}

    def add(self, values: Sequence[tuple[bytes, Content]], nbytes: int) -> None:
        """Keep values by their keys that lie together in ``nbytes`` of memory."""
        if not values or nbytes > self._limit_bytes:
            return
        group = _Group(nbytes)
        for key, content in values:
            self._values[key] = content, group
            group.keys.add(key)
        self._groups[group] = None
        self.nbytes += nbytes
        while self.nbytes > self._limit_bytes:
            self._forget(next(iter(self._groups)))

    def get(self, key: bytes) -> Content | None:
        """Return the content of a value, if it is still there."""
        found = self._values.get(key)
        return None if found is None else found[0]

    def drop(self, key: bytes) -> None:
        """Keep a value no longer."""
        found = self._values.pop(key, None)
        if found is not None:
            found[1].keys.discard(key)
            if not found[1].keys:
                self._forget(found[1])

    def clear(self) -> None:
        """Keep nothing."""
        self._values.clear()
        self._groups.clear()
        self.nbytes = 0

    def _forget(self, group: _Group) -> None:
        del self._groups[group]
        self.nbytes -= group.nbytes
        for key in group.keys:
            del self._values[key]
