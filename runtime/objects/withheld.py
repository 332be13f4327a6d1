"""Extents of a file in which somebody else may still be writing, until nobody can."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

__all__ = ["Withheld"]

logger = logging.getLogger(__name__)

# How often it is asked whether they may be had again.
_LOOK_S = 0.25


class _Part(NamedTuple):
    is_free: Callable[[], bool]
    extents: list[tuple[int, int]]
    done: Callable[[], object]


class Withheld:
    """What nobody is given. Belongs to one event loop.

    Parameters
    ----------
    give_back : callable
        Called with place and size of each extent that may be had again.
    """

    def __init__(self, give_back: Callable[[int, int], object]) -> None:
        self._give_back = give_back
        self._parts: list[_Part] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(nbytes for part in self._parts for _, nbytes in part.extents)

    def add(
        self, extents: Iterable[tuple[int, int]], is_free: Callable[[], bool], done: Callable[[], object] = bool
    ) -> None:
        """Withhold extents until ``is_free`` says so, which may be at once.

        Parameters
        ----------
        extents : iterable of (int, int)
            Place and size of each.
        is_free : callable
            Called now and again; an `OSError` stands for False.
        done : callable
            Called when they have been given back.
        """
        if not self._is_closed:
            self._parts.append(_Part(is_free, list(extents), done))
            self.look()
            self._look_soon()

    def look(self) -> bool:
        """Give back what is free by now; return whether anything was."""
        parts, self._parts = self._parts, []
        given = False
        for part in parts:
            if not _is_free(part):
                self._parts.append(part)
                continue
            given = True
            for place, nbytes in part.extents:
                self._give_back(place, nbytes)
            part.done()
        return given

    def close(self) -> None:
        """Look no more."""
        self._is_closed = True
        self._parts.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_soon(self) -> None:
        if self._parts and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self.look()
        self._look_soon()


def _is_free(part: _Part) -> bool:
    try:
        return part.is_free()
    except OSError as error:
        logger.warning("a lock of others cannot be asked for: %s", error)
        return False
