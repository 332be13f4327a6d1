"""Which workers are there: when each was last heard of, from where, and which of two processes is the real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["Presence"]


class Presence:
    """Signs of life of workers, in memory. Belongs to one event loop; `present` may be read by any thread.

    Parameters
    ----------
    clock : callable
        Seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[int, float] = {}
        self._peers: dict[str, set[int]] = {}
        self._peer_of: dict[int, str] = {}
        self._present: Mapping[int, bool] = {}

    @property
    def present(self) -> Mapping[int, bool]:
        """The workers that may be given commands, with whether each can hold more than it runs; never changed."""
        return self._present

    def expect(self, worker: int) -> None:
        """Give a worker that the store knows the time from now on to show itself."""
        self._seen[worker] = self._clock()

    def touch(self, worker: int) -> None:
        """Note a sign of life of a worker, if it is known here."""
        if worker in self._seen:
            self._seen[worker] = self._clock()

    def hear(self, worker: int, peer: str, holds_more: bool) -> bool:
        """Note a sign of life; return whether the worker was not there before."""
        self._seen[worker] = self._clock()
        if self._peer_of.get(worker) != peer:
            self._forget_peer(worker)
            if peer:
                self._peer_of[worker] = peer
                self._peers.setdefault(peer, set()).add(worker)
        if self._present.get(worker) is holds_more:
            return False
        is_new = worker not in self._present
        self._present = {**self._present, worker: holds_more}
        return is_new

    def leave(self, worker: int) -> None:
        """Give the worker nothing more until it is heard of again."""
        if worker in self._present:
            self._present = {number: more for number, more in self._present.items() if number != worker}

    def give_up(self, worker: int) -> None:
        """Count the worker's silence no longer, until it is heard of again; where it called from is still known."""
        self._seen.pop(worker, None)

    def forget(self, worker: int) -> None:
        """Forget a worker that was deleted."""
        self.leave(worker)
        self._seen.pop(worker, None)
        self._forget_peer(worker)

    def behind(self, peer: str) -> int:
        """Return the one worker that calls from ``peer``; 0 if there is none, or more than one."""
        workers = self._peers.get(peer, ())
        return next(iter(workers)) if len(workers) == 1 else 0

    def silent(self, seconds: float) -> list[int]:
        """Return the workers that were not heard of for longer than that."""
        limit = self._clock() - seconds
        return [worker for worker, seen in self._seen.items() if seen < limit]

    def silence(self, worker: int) -> float:
        """Return for how long a worker has been silent, in seconds; infinite for one that is not known."""
        seen = self._seen.get(worker)
        return float("inf") if seen is None else self._clock() - seen

    def _forget_peer(self, worker: int) -> None:
        peer = self._peer_of.pop(worker, None)
        if peer is not None:
            others = self._peers[peer]
            others.discard(worker)
            if not others:
                del self._peers[peer]
