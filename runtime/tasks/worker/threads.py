"""The threads in which tasks run."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from runtime.tasks.worker.task import TaskCancelled

__all__ = ["TaskThreads"]

logger = logging.getLogger(__name__)

_V = TypeVar("_V")
_Work = Callable[[], object]
_Wake = Callable[[], object]


class TaskThreads(concurrent.futures.Executor):
    """An executor that can also run something without a future, for a fraction of what that costs.

    Its threads are daemons: a function that does not end is not to keep a process that ends. Interrupts that come when
    their task has just ended are let pass.

    Parameters
    ----------
    limit : int
        Threads, made when they are needed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._num_busy = 0
        # How to wake threads that wait for something although they are taken.
        self._lingering: dict[_Wake, None] = {}
        self._is_over = False

    def start(self, work: _Work) -> None:
        """Run a function in a thread, when one is free.

        Raises
        ------
        RuntimeError
            After `shutdown`.
        """
        wakes: Sequence[_Wake] = ()
        with self._lock:
            if self._is_over:
                raise RuntimeError("the threads have been shut down")
            # Counted here and not where it is taken, so that two that come together have two threads.
            self._num_busy += 1
            if len(self._threads) < min(self._num_busy, self._limit):
                thread = threading.Thread(target=self._run, name=f"task-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            elif self._num_busy > self._limit:
                wakes = tuple(self._lingering)
        self._work.put(work)
        for wake in wakes:
            wake()

    @contextlib.contextmanager
    def lingering(self, wake: _Wake) -> Iterator[bool]:
        """Wait in a thread of these, which is taken meanwhile; whether it may.

        Parameters
        ----------
        wake : callable
            Called, in any thread, when another function wants the thread.
        """
        with self._lock:
            may_wait = self._num_busy <= self._limit and not self._is_over
            if may_wait:
                self._lingering[wake] = None
        try:
            yield may_wait
        finally:
            with self._lock:
                self._lingering.pop(wake, None)

    def submit(self, function: Callable[..., _V], /, *args: Any, **named: Any) -> concurrent.futures.Future[_V]:
        """See `concurrent.futures.Executor`."""
        future: concurrent.futures.Future[_V] = concurrent.futures.Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = function(*args, **named)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.start(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once they have done what was asked for, whatever ``cancel_futures`` is."""
        with self._lock:
            self._is_over = True
            threads = list(self._threads)
        for _ in threads:
            self._work.put(None)
        if wait:
            for thread in threads:
                thread.join()

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get()
                if work is None:
                    return
                try:
                    work()
                finally:
                    with self._lock:
                        self._num_busy -= 1
            except TaskCancelled:
                pass
            except BaseException:  # a thread that ended would be missing for good
                logger.exception("work in a thread for tasks failed")
