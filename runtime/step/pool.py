"""Threads for work that takes long, more of them while all are held."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from runtime._ext import running_step
from runtime._ext.errors import Cancelled

__all__ = ["GrowingPool"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_JOIN_S = 5.0

# When no thread has taken new work for so long although some lies there, all of them are held by long work: one that
# never ends must not keep everybody else's from beginning.
_STALL_S = 0.05
# Threads beyond the pool's size end after so long without work.
_SPARE_S = 2.0
_MOST_THREADS = 256


class GrowingPool:
    """Runs callables in threads.

    Parameters
    ----------
    num_threads : int, optional
        By default the number of processors, at least 2. Threads start when they are needed. When all of them are held
        while other work waits to begin, the pool grows for as long as that lasts.
    name : str
        What the threads are called.

    Notes
    -----
    Safe from several threads. The threads are daemons; `close` ends them.
    """

    def __init__(self, num_threads: int | None, name: str) -> None:
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads is {num_threads}; at least 1 is needed")
        self._limit = (
            num_threads
            if num_threads is not None
            else max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2)
        )
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._taken = 0
        self._started = 0
        self._watch: threading.Thread | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()

    def hand_over(self, work: Callable[[], object]) -> None:
        """Have a callable called in a thread of the pool; what it raises is logged.

        Raises
        ------
        Cancelled
            If the pool is closed.
        """
        with self._lock:
            if self._closing.is_set():
                raise Cancelled(f"the {self._name} threads are closed")
            self._work.put(work)
            if self._idle > 0:
                self._idle -= 1  # that thread is spoken for; it counts itself idle again when it is done
            elif len(self._threads) < self._limit:
                self._add_thread()
            elif self._watch is None:
                self._watch = threading.Thread(target=self._grow, name=f"{self._name}-watch", daemon=True)
                self._watch.start()

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Have a callable called in a thread and return the promise of its result.

        Raises
        ------
        Cancelled
            If the pool is closed.
        """
        future: Future[_T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self.hand_over(run)
        return future

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"{self._name}-{self._started}", daemon=True)
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
        running_step.install_here()
        while True:
            work = self._next()
            if work is None:
                return
            self._taken += 1  # that it changes is all that counts
            try:
                work()
            except BaseException:
                logger.exception("work in a %s thread failed", self._name)
            del work  # or the last step's tensors stay until the next one comes
            with self._lock:
                if self._work.empty():
                    self._idle += 1

    def close(self, *, wait: bool = True) -> bool:
        """End the threads; more work is refused.

        Parameters
        ----------
        wait : bool
            Whether to finish what there is. If not, what has not begun is dropped, and the threads end by themselves.

        Returns
        -------
        bool
            False when the pool was closed before, and nothing was done.
        """
        with self._lock:
            if self._closing.is_set():
                return False
            self._closing.set()
            threads, watch = list(self._threads), self._watch
        while not wait and not self._work.empty():
            with contextlib.suppress(queue.Empty):
                self._work.get_nowait()
        for _ in threads:
            self._work.put(None)
        if not wait:
            return True
        if watch is not None:
            watch.join(_JOIN_S)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)
                if thread.is_alive():
                    logger.warning("thread %s is still busy %s s after its pool was closed", thread.name, _JOIN_S)
        return True
