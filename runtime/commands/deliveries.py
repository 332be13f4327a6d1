"""What a worker is told in answer to a ping: each assigned command once in a while, and what was cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from runtime.commands.model import HELD, TERMINAL, CommandChange, Status

__all__ = ["CANCEL_NOTICE_S", "OFFERS", "Deliveries"]

OFFERS = 4
"""Periods without a confirmation after which a command goes back to the queue."""
CANCEL_NOTICE_S = 60.0


@dataclass(slots=True)
class _Offer:
    first: float
    last: float


class Deliveries:
    """Offers and notices, in memory: after a restart of the server what is assigned is offered again.

    What is assigned is known here from the changes themselves, in their order: the store may show one that was not told
    yet, and an offer that was made for it could not be told from one for the assignment before it.

    Parameters
    ----------
    period_s : float
        Until a command that was not confirmed is offered again.
    clock : callable
        Seconds, never going back.
    """

    def __init__(self, period_s: float, clock: Callable[[], float]) -> None:
        self._period_s = period_s
        self._clock = clock
        # By worker, what is assigned to it; None: and was not offered yet.
        self._assigned: dict[int, dict[int, _Offer | None]] = {}
        self._cancelled: dict[int, dict[int, float]] = {}
        self._waiting: dict[int, set[asyncio.Event]] = {}

    def assign(self, worker: int, number: int) -> None:
        """Have a command offered to a worker."""
        self._assigned.setdefault(worker, {})[number] = None

    def due(self, worker: int) -> list[int]:
        """Return the commands that are assigned to a worker and are to be told to it now."""
        assigned = self._assigned.get(worker)
        if not assigned:
            return []
        latest = self._clock() - self._period_s
        return [number for number, offer in assigned.items() if offer is None or offer.last <= latest]

    def offered(self, worker: int, number: int) -> None:
        """Note that a worker is told of a command."""
        now = self._clock()
        offer = self._assigned[worker][number]
        if offer is None:
            self._assigned[worker][number] = _Offer(now, now)
        else:
            offer.last = now

    def renew(self, worker: int) -> None:
        """Let all that is assigned to a worker be offered at once: it begins anew."""
        for number in self._assigned.get(worker, ()):
            self._assigned[worker][number] = None

    def unconfirmed(self) -> list[tuple[int, int]]:
        """Return commands, with their workers, that were offered for all periods in vain."""
        limit = self._clock() - OFFERS * self._period_s
        return [
            (number, worker)
            for worker, assigned in self._assigned.items()
            for number, offer in assigned.items()
            if offer is not None and offer.first <= limit
        ]

    def cancelled(self, worker: int) -> list[int]:
        """Return the commands of a worker that were cancelled while it had them and that it has not confirmed."""
        notices = self._cancelled.get(worker)
        if not notices:
            return []
        limit = self._clock() - CANCEL_NOTICE_S
        for number in [number for number, time in notices.items() if time < limit]:
            del notices[number]
        if not notices:
            del self._cancelled[worker]
        return sorted(notices)

    def notice_cancelled(self, worker: int, number: int, age_s: float = 0.0) -> None:
        """Have a worker told that a command was cancelled."""
        self._cancelled.setdefault(worker, {})[number] = self._clock() - age_s

    def confirm_cancelled(self, worker: int, number: int) -> None:
        """Tell it no more."""
        self._cancelled.get(worker, {}).pop(number, None)

    def changed(self, change: CommandChange) -> None:
        """Take note of a change of status."""
        number = change.number
        if change.before is Status.ASSIGNED:
            assigned = self._assigned.get(change.former_worker, {})
            assigned.pop(number, None)
            if not assigned:
                self._assigned.pop(change.former_worker, None)
        if change.after is Status.ASSIGNED:
            self.assign(change.worker, number)
            self._wake(change.worker)
            return
        if change.after is Status.CANCELLED and change.before in HELD and change.former_worker:
            # What was never told needs no notice, but whether it was is not known for sure.
            self.notice_cancelled(change.former_worker, number)
            self._wake(change.former_worker)
        elif change.before in TERMINAL and change.former_worker:
            self.confirm_cancelled(change.former_worker, number)

    async def wait(self, worker: int, seconds: float) -> None:
        """Wait until there is something new for a worker, for so long at most."""
        event = asyncio.Event()
        events = self._waiting.setdefault(worker, set())
        events.add(event)
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            events.discard(event)
            if not events:
                self._waiting.pop(worker, None)

    def close(self) -> None:
        """Let everybody who waits go."""
        for worker in list(self._waiting):
            self._wake(worker)

    def _wake(self, worker: int) -> None:
        for event in self._waiting.get(worker, ()):
            event.set()
