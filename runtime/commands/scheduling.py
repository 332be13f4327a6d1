"""Which worker gets which command: one each in turn, oldest command first, never more than a worker may have."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from runtime.commands import transitions
from runtime.commands.model import Status
from runtime.store.commands import CommandRows

__all__ = ["assign"]


def assign(rows: CommandRows, present: Mapping[int, bool], now_s: float) -> None:
    """Assign pending commands to workers with free slots.

    Parameters
    ----------
    present : mapping of int to bool
        The workers that were heard of lately, and for each whether it can hold more than it runs (prefetch).
    """
    if not present or not rows.has_pending():
        return
    taken = rows.active_counts()
    # Most free slots first, then by number: heapq has the smallest first.
    free: list[tuple[int, int]] = []
    for number, concurrency, prefetch in rows.ready_workers():
        holds_more = present.get(number)
        if holds_more is None or concurrency == 0:
            continue
        slots = concurrency + (prefetch if holds_more else 0) - taken.get(number, 0)
        if slots > 0:
            free.append((-slots, number))
    if not free:
        return
    heapq.heapify(free)
    commands = rows.pending(-sum(slots for slots, _ in free))
    commands.reverse()
    while commands and free:
        # A round gives one to each; those with the most left come first in the next one.
        following: list[tuple[int, int]] = []
        while commands and free:
            slots, worker = heapq.heappop(free)
            transitions.move(rows, commands.pop(), Status.ASSIGNED, now_s, worker=worker)
            if slots + 1 < 0:
                following.append((slots + 1, worker))
        heapq.heapify(following)
        free = following
