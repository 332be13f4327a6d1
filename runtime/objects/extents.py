"""Which parts of a file are free: whole pages, in extents that are joined again when they lie side by side."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["PAGE_BYTES", "Extents", "paged"]

PAGE_BYTES = 4096
"""Extents are whole pages of the disk's: what is written to one never touches a page of another."""

# How many extents of nearly the right size are looked at before one is taken that is large enough for certain.
_LOOKS = 32


def paged(nbytes: int) -> int:
    """Return how many bytes the pages have on which so many lie."""
    return -(-nbytes // PAGE_BYTES) * PAGE_BYTES


class Extents:
    """The free extents of a file, by size. What is handed out is known to those alone who have got it.

    Free extents lie in bins by the power of two below their size, so that taking and giving back cost about the same
    however many there are. What was given back last is taken first: its pages are likely to be in memory.

    Attributes
    ----------
    end : int
        Bytes of the file that are managed.
    free_bytes : int
    """

    def __init__(self) -> None:
        self.end = 0
        self.free_bytes = 0
        self._sizes: dict[int, int] = {}
        self._starts: dict[int, int] = {}
        self._bins: dict[int, dict[int, None]] = {}

    @classmethod
    def without(cls, used: Iterable[tuple[int, int]], end: int) -> Extents:
        """Return the extents of a file of ``end`` bytes that lie between the used ones.

        Parameters
        ----------
        used : iterable of (int, int)
            Place and size of each, in pages.

        Raises
        ------
        ValueError
            If two of them overlap, or one goes beyond the end.
        """
        found = cls()
        found.end = end
        at = 0
        for start, size in sorted(used):
            if start < at or start + size > end or size <= 0:
                raise ValueError(f"{size} bytes at {start} overlap what lies before them, or the end at {end}")
            if start > at:
                found._insert(at, start - at)
            at = start + size
        if at < end:
            found._insert(at, end - at)
        return found

    def all(self) -> list[tuple[int, int]]:
        """Return place and size of every free extent."""
        return list(self._sizes.items())

    def grow(self, nbytes: int) -> None:
        """Manage so many bytes more, behind the end."""
        start, self.end = self.end, self.end + nbytes
        self.give_back(start, nbytes)

    def take(self, nbytes: int) -> int | None:
        """Return the place of an extent of so many bytes, whole pages; None when there is none so large."""
        bin_number = nbytes.bit_length()
        for _, start in zip(range(_LOOKS), reversed(self._bins.get(bin_number, {})), strict=False):
            if self._sizes[start] >= nbytes:
                return self._cut(start, nbytes)
        larger = min((number for number in self._bins if number > bin_number), default=None)
        if larger is None:
            return None
        return self._cut(next(reversed(self._bins[larger])), nbytes)

    def give_back(self, start: int, nbytes: int) -> None:
        """Have an extent again."""
        before = self._starts.get(start)
        if before is not None:
            size = self._sizes[before]
            self._drop(before)
            start, nbytes = before, nbytes + size
        behind = self._sizes.get(start + nbytes)
        if behind is not None:
            self._drop(start + nbytes)
            nbytes += behind
        self._insert(start, nbytes)

    def _cut(self, start: int, nbytes: int) -> int:
        size = self._sizes[start]
        self._drop(start)
        if size > nbytes:
            self._insert(start + nbytes, size - nbytes)
        return start

    def _insert(self, start: int, size: int) -> None:
        self.free_bytes += size
        self._sizes[start] = size
        self._starts[start + size] = start
        self._bins.setdefault(size.bit_length(), {})[start] = None

    def _drop(self, start: int) -> None:
        size = self._sizes.pop(start)
        self.free_bytes -= size
        del self._starts[start + size]
        found = self._bins[size.bit_length()]
        del found[start]
        if not found:
            del self._bins[size.bit_length()]
