"""What went over which road: bytes, time and copies, counted for the whole process."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Road", "Totals", "count", "totals"]


class Road(StrEnum):
    """How a tensor got from one program to another."""

    REFERENCE = "reference"
    SHARED_MEMORY = "shared memory"
    STREAM = "stream"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Totals:
    """What one road carried.

    Attributes
    ----------
    transfers, bytes : int
        Tensors, and what they hold.
    seconds : float
        Spent on them at this end; those that went side by side count side by side.
    copies : int
        Times that a tensor's bytes were copied at this end, without the kernel's copies.
    """

    transfers: int = 0
    bytes: int = 0
    seconds: float = 0.0
    copies: int = 0


_lock = threading.Lock()
_totals: dict[tuple[str, str], list[Any]] = {}


def count(direction: str, road: Road, nbytes: int, seconds: float, copies: int) -> None:
    """Count a tensor that was ``"sent"`` or ``"received"``. Safe from several threads."""
    with _lock:
        found = _totals.get((direction, road))
        if found is None:
            found = _totals[direction, road] = [0, 0, 0.0, 0]
        found[0] += 1
        found[1] += nbytes
        found[2] += seconds
        found[3] += copies


def totals() -> dict[str, dict[str, Totals]]:
    """Return what this process has sent and received so far, by road.

    Returns
    -------
    dict
        ``{"sent": {"stream": Totals(...), ...}, "received": {...}}``; roads that were not used are absent.
    """
    with _lock:
        return {direction: {str(road): Totals(*found) for (way, road), found in _totals.items() if way == direction}
                for direction in ("sent", "received")}
