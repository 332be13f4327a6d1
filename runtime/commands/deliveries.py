"""What a worker is told in answer to a ping: each assigned command once in a while, and what was cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runtime.commands.model import HELD, TERMINAL, CommandChange, Status

__all__ = ["CANCEL_NOTICE_S", "OFFERS", "Deliveries"]

OFFERS = 4
"""Periods without a confirmation after which a command goes back to the queue."""
CANCEL_NOTICE_S = 60.0


@dataclass(slots=True)
class _Offer:
    worker: int
    first: float
    last: float


class Deliveries:
    """Offers and notices, in memory: after a restart of the server what is assigned is offered again.

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
        self._offers: dict[int, _Offer] = {}
        self._cancelled: dict[int, dict[int, float]] = {}
        self._waiting: dict[int, set[asyncio.Event]] = {}

    def offer(self, worker: int, number: int) -> bool:
        """Return whether an assigned command is to be told to its worker now, and note that it is."""
        now = self._clock()
        offer = self._offers.get(number)
        if offer is None or offer.worker != worker:
            self._offers[number] = _Offer(worker, now, now)
            return True
        if now - offer.last < self._period_s:
            return False
        offer.last = now
        return True

    def forget(self, numbers: Iterable[int]) -> None:
        """Let commands be offered at once: their worker begins anew."""
        for number in numbers:
            self._offers.pop(number, None)

    def unconfirmed(self) -> list[tuple[int, int]]:
        """Return commands, with their workers, that were offered for all periods in vain."""
        limit = self._clock() - OFFERS * self._period_s
        return [(number, offer.worker) for number, offer in self._offers.items() if offer.first <= limit]

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
        if change.after is Status.ASSIGNED:
            self._offers.pop(number, None)
            self._wake(change.worker)
            return
        if change.before is Status.ASSIGNED:
            self._offers.pop(number, None)
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
