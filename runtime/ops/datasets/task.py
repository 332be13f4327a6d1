"""Coroutines that wait without a thread: `Task` drives one, `Promise` is what it waits for.

There is no event loop: whoever keeps a promise wakes the task that awaits it and drives it on, in the same thread. A
task that has run for long gives its thread back at the next `PAUSE` and goes on in another.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import numpy as np

from runtime._ext.errors import ResourceExhausted

__all__ = ["PAUSE", "PAUSE_EVERY", "AsyncLock", "Promise", "Task"]

logger = logging.getLogger(__name__)

HandOver = Callable[[Callable[[], object]], object]
Done = Callable[[Any, "BaseException | None"], None]

PAUSE_EVERY = 32
"""Turns of a loop without bound between two awaits of `PAUSE`."""

# How long a task may hold the thread that started or woke it: that may be the loop which serves everybody.
FIRST_TURN_S = 1e-3
# And how long a thread of the pool, where others wait, too.
TURN_S = 10e-3

# Promises are kept in a moment; one lock for all costs less than one for each.
_LOCK = threading.Lock()


class Promise:
    """A value, or an error, that is to come. One task awaits it.

    Parameters
    ----------
    holds : bool
        Whether a task that is cancelled goes on waiting for it.

    Attributes
    ----------
    is_set : bool
    """

    __slots__ = ("_wake", "error", "holds", "is_set", "value")

    def __init__(self, holds: bool = False) -> None:
        self.holds = holds
        self.is_set = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._wake: Callable[[], object] | None = None

    def set(self, value: Any = None, error: BaseException | None = None) -> bool:
        """Keep it and drive on who awaits it, in this thread; False when it was kept before."""
        with _LOCK:
            if self.is_set:
                return False
            self.value, self.error = value, error
            self.is_set = True
            wake, self._wake = self._wake, None
        if wake is not None:
            wake()
        return True

    def keep(self, value: Any, error: BaseException | None) -> None:
        """As `set`, in the form of a callback."""
        self.set(value, error)

    def on_set(self, wake: Callable[[], object]) -> bool:
        """Have ``wake()`` called when it is kept; False, and nothing is called, when it is already."""
        with _LOCK:
            if self.is_set:
                return False
            self._wake = wake
            return True

    def __await__(self) -> Generator[Any, None, Any]:
        if not self.is_set:
            yield self
        if self.error is not None:
            raise self.error
        return self.value


class _Pause:
    """Awaited where a coroutine could run on and on: the task may go on in another thread, or end there."""

    def __await__(self) -> Generator[None, None, None]:
        yield None


PAUSE = _Pause()


class AsyncLock:
    """A lock that tasks wait for in turn."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[Promise] = deque()

    async def __aenter__(self) -> None:
        with _LOCK:
            if not self._held:
                self._held = True
                return
            turn = Promise()
            self._waiting.append(turn)
        await turn

    async def __aexit__(self, *exc_info: object) -> None:
        while True:
            with _LOCK:
                if not self._waiting:
                    self._held = False
                    return
                turn = self._waiting.popleft()
            if turn.set():  # else that task was cancelled while it waited
                return


class Task:
    """Drives a coroutine to its end.

    Parameters
    ----------
    coroutine : coroutine
    hand_over : callable or None
        ``hand_over(callable)`` has it called in another thread; without it everything runs in the caller's.
    done : callable
        ``done(value, error)`` is called once, by the thread that comes to the end.

    Notes
    -----
    One thread at a time drives. `cancel` may be called from any.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], hand_over: HandOver | None, done: Done) -> None:
        self._coroutine = coroutine
        self._hand_over = hand_over
        self._done = done
        self._waits_for: Promise | None = None
        self._error: BaseException | None = None

    def cancel(self, error: BaseException) -> None:
        """Have the coroutine end with an error at the place where it waits or pauses next."""
        self._error = error
        promise = self._waits_for
        if promise is not None and not promise.holds:
            promise.set(None, error)

    def start(self) -> None:
        """Begin here and now."""
        self._drive(FIRST_TURN_S)

    def start_elsewhere(self) -> None:
        """Begin in another thread, if there is one."""
        if self._hand_over is None:
            self._drive(TURN_S)
            return
        try:
            self._hand_over(self._go_on)
        except Exception as error:
            self._coroutine.close()
            self._done(None, error)

    def _go_on(self) -> None:
        self._drive(TURN_S)

    def _woken(self) -> None:
        self._drive(FIRST_TURN_S)

    def _drive(self, turn_s: float) -> None:
        coroutine = self._coroutine
        ends = time.perf_counter() + turn_s
        self._waits_for = None
        with np.errstate(all="ignore"):  # as kernels run everywhere
            while True:
                try:
                    waits_for = coroutine.send(None)
                except StopIteration as end:
                    self._done(end.value, None)
                    return
                except RecursionError:
                    self._done(None, ResourceExhausted("the datasets of an iterator lie in each other too deeply"))
                    return
                except BaseException as error:
                    self._done(None, error)
                    return
                if waits_for is None:
                    if self._error is not None:
                        self._throw(self._error)
                        return
                    if self._hand_over is not None and time.perf_counter() > ends:
                        self.start_elsewhere()
                        return
                    continue
                self._waits_for = waits_for
                if self._error is not None and not waits_for.holds:  # looked at after `cancel` can see the promise
                    waits_for.set(None, self._error)
                if waits_for.on_set(self._woken):
                    return
                self._waits_for = None

    def _throw(self, error: BaseException) -> None:
        """End the coroutine with an error; what it still awaits on the way out has no say."""
        try:
            self._coroutine.throw(error)
        except StopIteration as end:
            self._done(end.value, None)
        except BaseException as thrown:
            self._done(None, thrown)
        else:
            self._coroutine.close()
            self._done(None, error)
