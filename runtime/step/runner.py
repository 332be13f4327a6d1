"""Which thread a step runs in: the caller's when it is measured to be short, a pool's otherwise."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext import worker_pool
from runtime._ext.errors import Cancelled

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.step.compile import CompiledStep

__all__ = ["StepRunner"]

logger = logging.getLogger(__name__)

Done = Callable[["list[Any] | None", "BaseException | None"], None]

# A loop that serves many clients must not stand still for longer; handing a step to a thread and back costs some
# 50 microseconds, so that a longer step loses little by it.
_SHORT_S = 1e-3

# Feeds below this many bytes are one size class; above, each doubling is one.
_SMALL_FEED_BYTES = 4096

# One slow run (another process had the processor) must not count for much; a fast one shows what the step can do.
_WEIGHT_SLOWER = 0.2
_WEIGHT_FASTER = 0.5

_JOIN_S = 5.0

# When no thread has taken new work for so long although some lies there, all of them are held by long steps: a loop
# that never ends must not keep everybody else's steps from beginning.
_STALL_S = 0.05
# Threads beyond the pool's size end after so long without work.
_SPARE_S = 2.0
_MOST_THREADS = 256


class StepRunner:
    """Runs steps, and measures how long they take.

    A step is judged by its size class, the total size of its feeds, so that a step that is usually short is not run
    on the loop when it gets a huge batch. The first run in a class goes to a thread.

    Parameters
    ----------
    num_threads : int, optional
        Size of the pool; by default the number of processors, at least 2. Threads start when they are needed. When
        all of them are held by long steps while others wait to begin, the pool grows for as long as that lasts.
    short_s : float
        Steps up to this long run in the caller's thread.

    Notes
    -----
    Safe from several threads. The pool's threads are daemons; `close` ends them, and with the last runner of the
    process the helper threads of large kernels.
    """

    def __init__(self, num_threads: int | None = None, short_s: float = _SHORT_S) -> None:
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads is {num_threads}; at least 1 is needed")
        self._limit = (
            num_threads
            if num_threads is not None
            else max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2)
        )
        self._short_s = short_s
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._taken = 0
        self._started = 0
        self._watch: threading.Thread | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        worker_pool.retain()

    def runs_here(self, compiled: CompiledStep, feeds: Sequence[Any] = ()) -> bool:
        """Tell whether a step waits for nothing and is known to be short with feeds of this size."""
        if compiled.blocking:
            return False
        measured = compiled.timing.get(_size_class(feeds))
        return measured is not None and measured <= self._short_s

    def run(self, compiled: CompiledStep, step: StepContext, feeds: Sequence[Any]) -> list[Any]:
        """Run a step that waits for nothing, here and now.

        Raises
        ------
        Error
            What the step ends with.
        """
        started = time.perf_counter()
        try:
            return compiled.run(step, feeds)
        finally:
            _measure(compiled, feeds, time.perf_counter() - started)

    def start(self, compiled: CompiledStep, step: StepContext, feeds: Sequence[Any], done: Done) -> None:
        """Run a step without holding up the caller; ``done(outputs, error)`` is called once, from any thread.

        A step that may wait begins in the caller's thread when its beginning is known to be short; what follows a wait
        runs in the pool. Waiting steps hold no thread.

        Raises
        ------
        Cancelled
            If the runner is closed.
        """
        if step.hand_over is None:
            step.hand_over = self.hand_over
        measured = compiled.timing.get(_size_class(feeds)) if compiled.blocking else None
        if measured is not None and measured <= self._short_s:
            self._start_waiting(compiled, step, feeds, done)
        elif compiled.blocking:
            self.hand_over(lambda: self._start_waiting(compiled, step, feeds, done))
        else:
            self.hand_over(lambda: self._run_to_end(compiled, step, feeds, done))

    def _start_waiting(self, compiled: CompiledStep, step: StepContext, feeds: Sequence[Any], done: Done) -> None:
        started = time.perf_counter()
        compiled.start(step, feeds, done)
        _measure(compiled, feeds, time.perf_counter() - started)

    def _run_to_end(self, compiled: CompiledStep, step: StepContext, feeds: Sequence[Any], done: Done) -> None:
        try:
            outputs = self.run(compiled, step, feeds)
        except BaseException as error:
            done(None, error)
        else:
            done(outputs, None)

    def hand_over(self, work: Callable[[], object]) -> None:
        """Have a callable called in a thread of the pool; what it raises is logged.

        Raises
        ------
        Cancelled
            If the runner is closed.
        """
        with self._lock:
            if self._closing.is_set():
                raise Cancelled("the step runner is closed")
            self._work.put(work)
            if self._idle > 0:
                self._idle -= 1  # that thread is spoken for; it counts itself idle again when it is done
            elif len(self._threads) < self._limit:
                self._add_thread()
            elif self._watch is None:
                self._watch = threading.Thread(target=self._grow, name="step-watch", daemon=True)
                self._watch.start()

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"step-{self._started}", daemon=True)
        self._started += 1
        self._threads.append(thread)
        thread.start()

    def _grow(self) -> None:
        """Add threads while work lies there that no thread takes; ends when none does."""
        taken = -1
        while True:
            with self._lock:
                waiting = self._work.qsize()
                if not waiting or self._closing.is_set():
                    self._watch = None
                    return
                if self._taken == taken:
                    have = len(self._threads)
                    for _ in range(min(waiting, have, _MOST_THREADS - have)):
                        self._add_thread()
                taken = self._taken
            self._closing.wait(_STALL_S)

    def _next(self) -> Callable[[], object] | None:
        """Wait for work; None when the thread is to end."""
        while True:
            try:
                return self._work.get(timeout=_SPARE_S if len(self._threads) > self._limit else None)
            except queue.Empty:
                with self._lock:
                    if len(self._threads) > self._limit and self._work.empty():
                        if self._idle > 0:  # 0 when another thread took the work that this one was spoken for
                            self._idle -= 1
                        self._threads.remove(threading.current_thread())
                        return None

    def _serve(self) -> None:
        while True:
            work = self._next()
            if work is None:
                return
            self._taken += 1  # that it changes is all that counts
            try:
                work()
            except BaseException:
                logger.exception("work in a step thread failed")
            del work  # or the last step's tensors stay until the next one comes
            with self._lock:
                if self._work.empty():
                    self._idle += 1

    def close(self) -> None:
        """Let the pool finish what it has and end its threads; more work is refused. Closing again does nothing."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
            threads, watch = list(self._threads), self._watch
        for _ in threads:
            self._work.put(None)
        if watch is not None:
            watch.join(_JOIN_S)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)
                if thread.is_alive():
                    logger.warning("thread %s is still busy %s s after the runner was closed", thread.name, _JOIN_S)
        worker_pool.release()

    def __enter__(self) -> StepRunner:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _size_class(feeds: Sequence[Any]) -> int:
    total = 0
    for value in feeds:
        total += value.nbytes
    return (total // _SMALL_FEED_BYTES).bit_length()


def _measure(compiled: CompiledStep, feeds: Sequence[Any], seconds: float) -> None:
    """Let a run count, more recent ones for more."""
    size = _size_class(feeds)
    known = compiled.timing.get(size)
    if known is None:
        compiled.timing[size] = seconds
    else:
        compiled.timing[size] = known + (seconds - known) * (_WEIGHT_FASTER if seconds < known else _WEIGHT_SLOWER)
