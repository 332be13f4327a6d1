"""The order in which servers are handed out."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable

__all__ = ["Rotation"]


class Rotation:
    """A circular order of servers that joining and leaving never changes for the others.

    Parameters
    ----------
    places : iterable of (position, number)
    last : int
        The position that was handed out last.
    """

    def __init__(self, places: Iterable[tuple[int, int]] = (), last: int = 0) -> None:
        self._places = sorted(places)
        self.last = last

    def __len__(self) -> int:
        return len(self._places)

    @property
    def tail(self) -> int:
        """The position for one that joins."""
        return self._places[-1][0] + 1 if self._places else max(1, self.last + 1)

    def add(self, position: int, number: int) -> None:
        """Put a server in."""
        bisect.insort(self._places, (position, number))

    def remove(self, position: int, number: int) -> None:
        """Take a server out."""
        self._places.remove((position, number))

    def following(self, usable: Callable[[int], bool]) -> tuple[int, int] | None:
        """Return position and number of the next usable server after the last one, or None. Does not advance."""
        start = bisect.bisect_right(self._places, (self.last, 1 << 62))
        for place in (*self._places[start:], *self._places[:start]):
            if usable(place[1]):
                return place
        return None
