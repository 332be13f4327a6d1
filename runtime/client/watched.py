"""The connection of sessions to one server, and the watch over what they await there.

A server that stops answering without closing its connections (frozen, cut off) would let its clients wait for ever. So
while something is awaited from it, it is asked from time to time whether it is there; when it does not answer, the
waits end with an error, and the next call goes over a new connection. Any answer will do, also that it does not know
the question: TensorFlow's servers say that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import grpc

from runtime._ext.errors import Unavailable
from runtime.client.access import Access, address_of
from runtime.client.channels import open_channel

__all__ = ["HEALTH_CHECK", "Await", "WatchedChannel"]

logger = logging.getLogger(__name__)

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
# By so much more than the check's own limit this process must have stood still itself, and knows nothing then.
_STOOD_STILL_S = 1.0
_STOP_S = 2.0


class Await:
    """Something that is awaited from the server; a context manager.

    Attributes
    ----------
    began : float
        On the clock of `time.monotonic`.
    lost : Unavailable or None
        With which the wait has ended, if the server was found silent meanwhile.
    """

    __slots__ = ("_owner", "began", "ends", "lost", "what")

    def __init__(self, owner: WatchedChannel, what: Callable[[], str], ends: Callable[[], object] | None) -> None:
        self._owner = owner
        self.what = what
        self.ends = ends
        self.began = 0.0
        self.lost: Unavailable | None = None

    def __enter__(self) -> Await:
        self.began = time.monotonic()
        self._owner.opened(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._owner.ended(self)


class WatchedChannel:
    """A channel with a count of its users; the last one to leave closes it.

    Attributes
    ----------
    is_silent : bool
        Whether the server was found silent, and has answered nothing since.

    Notes
    -----
    Safe from several threads. The watch is a thread that begins with the first wait and ends with the last user.
    """

    _made: dict[tuple[str, Access, float], WatchedChannel] = {}
    _lock = threading.Lock()

    def __init__(self, key: tuple[str, Access, float], target: str) -> None:
        self._key = key
        address, self._access, self._timeout_s = key
        self._target = target
        self._address = address
        self._users = 0
        self._channel = open_channel(address, self._access)
        self._stubs: dict[str, Any] = {}
        self._awaited: dict[Await, None] = {}
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None
        self.is_silent = False

    @classmethod
    def acquire(cls, target: str, access: Access, timeout_s: float) -> WatchedChannel:
        """Return the channel to a target, made now if nobody uses one.

        Parameters
        ----------
        timeout_s : float
            Seconds after which a silent server ends what is awaited from it; 0 to wait for ever.
        """
        key = address_of(target), access, timeout_s
        with cls._lock:
            found = cls._made.get(key)
            if found is None:
                found = cls._made[key] = cls(key, target)
            found._users += 1
            return found

    def release(self) -> None:
        """Let go of the channel."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            del self._made[self._key]
            if self._stop is not None:
                self._stop.set()
        self._channel.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_STOP_S)

    def stub(self, path: str) -> Any:
        """Return what calls a method; for one call, as the channel may be another one later."""
        # The stubs before the channel, which `_lose` exchanges the other way round: no stub of the old channel comes
        # among those of the new one.
        stubs = self._stubs
        found = stubs.get(path)
        if found is None:
            found = stubs[path] = self._channel.unary_unary(path)
        return found

    def awaiting(self, what: Callable[[], str], ends: Callable[[], object] | None = None) -> Await:
        """Return a context manager: something is awaited while it lasts.

        Parameters
        ----------
        what : callable
            Returns what, for the error.
        ends : callable, optional
            Called from another thread when the server was found silent, behind `Await.lost`; calls by `stub` end
            anyway.
        """
        return Await(self, what, ends)

    # The watch

    def opened(self, wait: Await) -> None:
        """Note a wait."""
        self._awaited[wait] = None
        if self._stop is None and self._timeout_s:
            with self._lock:
                if self._stop is None and self._users:
                    self._stop = threading.Event()
                    self._thread = threading.Thread(target=self._watch, args=(self._stop,), daemon=True,
                                                    name="tensor-runtime-watch")
                    self._thread.start()

    def ended(self, wait: Await) -> None:
        """Forget a wait."""
        del self._awaited[wait]

    def _watch(self, stop: threading.Event) -> None:
        """Look after a third of the time, counted from the beginning of the longest wait."""
        pause_s = wait_s = self._timeout_s / 3
        while not stop.wait(wait_s):
            wait_s = pause_s
            began = min((wait.began for wait in tuple(self._awaited) if wait.began), default=None)
            if began is None:
                continue
            age_s = time.monotonic() - began
            if age_s < 0.75 * pause_s:
                wait_s = pause_s - age_s
                continue
            asked = time.monotonic()
            if self._answers(2 * pause_s):
                self.is_silent = False
                wait_s = max(0.0, pause_s - (time.monotonic() - asked))
            elif time.monotonic() - asked > 2 * pause_s + _STOOD_STILL_S:
                wait_s = 0.0
            elif not stop.is_set():
                self._lose()

    def _answers(self, timeout_s: float) -> bool:
        try:
            self.stub(HEALTH_CHECK)(b"", timeout=timeout_s, metadata=self._access.metadata())
        except grpc.RpcError as error:
            # Whatever else is wrong, the waits see it themselves.
            return bool(error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED)
        except ValueError:  # closed meanwhile
            pass
        return True

    def _lose(self) -> None:
        """End the waits; what comes next goes over a new connection."""
        with self._lock:
            if not self._users:
                return
            old, self._channel = self._channel, open_channel(self._address, self._access)
            self._stubs = {}
        # Looked at behind the exchange: whoever begins after it calls over the new connection, and all others end.
        now, clock = time.monotonic(), time.time()
        waits = [wait for wait in tuple(self._awaited) if 0.0 < wait.began <= now]
        logger.warning("a server does not answer", extra={"target": self._target, "waits": len(waits)})
        for wait in waits:
            age_s = now - wait.began
            since = time.strftime("%H:%M:%S", time.localtime(clock - age_s))
            wait.lost = Unavailable(f"{self._target} has not answered for {self._timeout_s:g} s; {wait.what()} was "
                                    f"awaited from it for {age_s:.1f} s, since {since}")
        self.is_silent = True
        old.close()
        for wait in waits:
            if wait.ends is not None:
                wait.ends()
