"""Which thread a step runs in: the caller's when it is measured to be short, a pool's otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext import worker_pool
from runtime.step.pool import GrowingPool

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.step.compile import CompiledStep

__all__ = ["StepRunner"]

Done = Callable[["list[Any] | None", "BaseException | None"], None]

# A loop that serves many clients must not stand still for longer; handing a step to a thread and back costs some
# 50 microseconds, so that a longer step loses little by it.
_SHORT_S = 1e-3

# Feeds below this many bytes are one size class; above, each doubling is one.
_SMALL_FEED_BYTES = 4096

# One slow run (another process had the processor) must not count for much; a fast one shows what the step can do.
_WEIGHT_SLOWER = 0.2
_WEIGHT_FASTER = 0.5


class StepRunner:
    """Runs steps, and measures how long they take.

    A step is judged by its size class, the total size of its feeds, so that a step that is usually short is not run
    on the loop when it gets a huge batch. The first run in a class goes to a thread, and so do all runs of a step whose
    time depends on values (`CompiledStep.bounded`).

    Parameters
    ----------
    num_threads : int, optional
        Size of the pool; by default the number of processors, at least 2. Threads start when they are needed. When
        all of them are held by long steps while others wait to begin, the pool grows for as long as that lasts.
    short_s : float
        Steps up to this long run in the caller's thread.

    Attributes
    ----------
    pool : GrowingPool
        The step threads.

    Notes
    -----
    Safe from several threads. The pool's threads are daemons; `close` ends them, and with the last runner of the
    process the helper threads of large kernels.
    """

    def __init__(self, num_threads: int | None = None, short_s: float = _SHORT_S) -> None:
        self.pool = GrowingPool(num_threads, "step")
        self._short_s = short_s
        worker_pool.retain()

    def runs_here(self, compiled: CompiledStep, feeds: Sequence[Any] = ()) -> bool:
        """Tell whether a step waits for nothing and is known to be short with feeds of this size."""
        if compiled.blocking or not compiled.bounded:
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
        measured = compiled.timing.get(_size_class(feeds)) if compiled.blocking and compiled.bounded else None
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
            # Who sends the answer, and the client, want the processor on which a helper looks out for the next kernel.
            worker_pool.dismiss()
            done(outputs, None)

    def hand_over(self, work: Callable[[], object]) -> None:
        """Have a callable called in a thread of the pool; what it raises is logged.

        Raises
        ------
        Cancelled
            If the runner is closed.
        """
        self.pool.hand_over(work)

    def close(self) -> None:
        """Let the pool finish what it has and end its threads; more work is refused. Closing again does nothing."""
        if self.pool.close():
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
