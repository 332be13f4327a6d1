"""How often one host may call: limits that cost a stranger more than they cost the server."""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from runtime.errors import ResourceExhausted

__all__ = ["PeerLimits"]

CALLS_PER_S = 10.0
BURST = 50.0
MAX_CALLS_AT_ONCE = 64
# Refused offers of one peer within a minute after which its answers are held back, and for how long.
MAX_FAILURES = 5
FAILURE_WINDOW_S = 60.0
FAILURE_DELAY_S = 2.0
# Peers that are remembered; the longest silent one is forgotten first, which gives it a fresh start.
MAX_PEERS = 100_000


class _Peer:
    __slots__ = ("allowance", "at_once", "failures", "filled_at")

    def __init__(self, now: float) -> None:
        self.allowance = BURST
        self.filled_at = now
        self.at_once = 0
        self.failures: deque[float] | None = None


class PeerLimits:
    """Counts the calls of every peer.

    Parameters
    ----------
    clock : callable
        Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    @contextlib.contextmanager
    def admit(self, name: str) -> Iterator[None]:
        """Count a call of a peer for as long as the context lasts.

        Raises
        ------
        ResourceExhausted
            If it has used up its calls, or has too many open.
        """
        now = self._clock()
        peer = self._peer(name, now)
        peer.allowance = min(BURST, peer.allowance + (now - peer.filled_at) * CALLS_PER_S)
        peer.filled_at = now
        if peer.allowance < 1:
            raise ResourceExhausted(f"{name} makes more than {CALLS_PER_S:g} calls a second; call again in a second")
        if peer.at_once >= MAX_CALLS_AT_ONCE:
            raise ResourceExhausted(f"{name} has {MAX_CALLS_AT_ONCE} calls open; wait for one of them")
        peer.allowance -= 1
        peer.at_once += 1
        try:
            yield
        finally:
            peer.at_once -= 1

    def count_failure(self, name: str) -> None:
        """Note that an offer of a peer was refused."""
        now = self._clock()
        peer = self._peer(name, now)
        if peer.failures is None:
            peer.failures = deque(maxlen=MAX_FAILURES)
        peer.failures.append(now)

    def delay(self, name: str) -> float:
        """Return for how many seconds an answer to a peer is held back."""
        peer = self._peers.get(name)
        if peer is None or peer.failures is None or len(peer.failures) < MAX_FAILURES:
            return 0.0
        return FAILURE_DELAY_S if self._clock() - peer.failures[0] < FAILURE_WINDOW_S else 0.0

    def _peer(self, name: str, now: float) -> _Peer:
        peer = self._peers.get(name)
        if peer is None:
            if len(self._peers) >= MAX_PEERS:
                self._forget()
            peer = self._peers[name] = _Peer(now)
        else:
            self._peers.move_to_end(name)
        return peer

    def _forget(self) -> None:
        # Nearly always the first; a peer with open calls is still needed.
        for name, peer in self._peers.items():
            if peer.at_once == 0:
                del self._peers[name]
                return
