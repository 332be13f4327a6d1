"""How many steps have ended on a master, and with what; for its metrics."""

from __future__ import annotations

import threading
from collections import Counter

__all__ = ["StepCounts"]


class StepCounts:
    """Counts ends of steps. From any thread; a step pays for one uncontended lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = 0
        self._failed: Counter[int] = Counter()

    def end(self, code: int = 0) -> None:
        """Count a step that has ended, by the code of the error that its client is told; 0 for none."""
        with self._lock:
            self._ended += 1
            if code:
                self._failed[code] += 1

    def read(self) -> tuple[int, dict[int, int]]:
        """Return how many steps have ended, and how many failed by code."""
        with self._lock:
            return self._ended, dict(self._failed)
