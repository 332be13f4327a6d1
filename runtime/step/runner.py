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


class StepRunner:
    """Runs steps, and measures how long they take.

    A step is judged by its size class, the total size of its feeds, so that a step that is usually short is not run
    on the loop when it gets a huge batch. The first run in a class goes to a thread.

    Parameters
    ----------
    num_threads : int, optional
        Size of the pool; by default the number of processors, at least 2. Threads start when they are needed.
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
        self._closed = False
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
            if self._closed:
                raise Cancelled("the step runner is closed")
            if self._idle > 0:
                self._idle -= 1  # that thread is spoken for; it counts itself idle again when it is done
            elif len(self._threads) < self._limit:
                thread = threading.Thread(target=self._serve, name=f"step-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._work.put(work)

    def _serve(self) -> None:
        while True:
            work = self._work.get()
            if work is None:
                return
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
            if self._closed:
                return
            self._closed = True
            threads = list(self._threads)
        for _ in threads:
            self._work.put(None)
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
