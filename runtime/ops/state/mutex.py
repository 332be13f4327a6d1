"""A mutex that steps lock: whoever waits for it holds no thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from runtime._ext.errors import Cancelled
from runtime.ops.state.waiting import Done, Waiting, call_all

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext

__all__ = ["Mutex", "MutexLock"]

_CANCELLED = "Lock acquisition was cancelled"


class Mutex:
    """A mutex; safe from several threads."""

    def __init__(self, name: str) -> None:
        self.name = name
        # A lock that nobody needs any more is let go by whoever drops it, maybe while this lock is held.
        self._guard = threading.RLock()
        self._waiting = Waiting(self._guard)
        self._held = False

    def __repr__(self) -> str:
        return f"<Mutex {self.name} {'held' if self._held else 'free'}, {len(self._waiting)} waiting>"

    def acquire(self, step: StepContext, done: Done) -> None:
        """Lock it, in order of arrival; ``done(MutexLock, None)``."""

        def attempt() -> tuple[MutexLock, None] | None:
            if self._held:
                return None
            self._held = True
            return MutexLock(self, step), None

        self._waiting.submit(step, attempt, done, _CANCELLED, lambda: f"lock of {self!r}")

    def release(self) -> None:
        """Unlock it, and let the next one have it."""
        with self._guard:
            self._held = False
            completions = self._waiting.drive()
        call_all(completions)

    def close(self) -> None:
        """End everything that waits."""
        with self._guard:
            completions = self._waiting.fail(lambda: Cancelled(_CANCELLED))
        call_all(completions)


class MutexLock:
    """Holds a mutex as long as it exists."""

    __slots__ = ("_mutex", "_step")

    def __init__(self, mutex: Mutex, step: StepContext) -> None:
        self._mutex: Mutex | None = mutex
        self._step = step

    def __del__(self) -> None:
        mutex, self._mutex = self._mutex, None
        if mutex is None:
            return
        # Whoever drops the last reference may be anywhere; the next holder's work is not its own.
        if self._step.hand_over is not None:
            self._step.hand_over(mutex.release)
        else:
            mutex.release()
