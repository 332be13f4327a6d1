"""Checks that nothing is left behind: threads, file descriptors, tasks of an event loop."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

# Threads and sockets that are being closed by another thread may need a moment to go.
SETTLE_S = 5.0
RUN_TIMEOUT_S = 60.0

Result = TypeVar("Result")


def open_descriptors() -> collections.Counter[str]:
    """Return what each open file descriptor of this process is, without those that name no lasting thing."""
    found: collections.Counter[str] = collections.Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            kind = os.readlink(f"/proc/self/fd/{name}")
            found[kind.split(":")[0] if kind.startswith(("socket:", "pipe:")) else kind] += 1
    return found


def running_threads() -> collections.Counter[str]:
    """Return the names of every thread of this process that Python knows."""
    return collections.Counter(thread.name for thread in threading.enumerate())


def native_threads() -> int:
    """Return how many threads this process has, those of libraries included."""
    return len(os.listdir("/proc/self/task"))


@contextlib.contextmanager
def leak_check(settle_s: float = SETTLE_S) -> Iterator[None]:
    """Fail when the block leaves a Python thread or a file descriptor behind that was not there before.

    Libraries that start threads or open descriptors for the whole process on first use (gRPC does) must have been
    used once before, or the first use counts as a leak.
    """
    before = running_threads(), open_descriptors()
    yield
    deadline = time.monotonic() + settle_s
    while True:
        gc.collect()
        threads, descriptors = running_threads() - before[0], open_descriptors() - before[1]
        if not threads and not descriptors:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"left behind: threads {dict(threads)}, descriptors {dict(descriptors)}")
        threading.Event().wait(0.01)


def run_async(
    work: Callable[[], Coroutine[Any, Any, Result]],
    timeout_s: float = RUN_TIMEOUT_S,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> Result:
    """Run a coroutine function in an event loop of its own; fail when it leaves a task behind.

    Parameters
    ----------
    work : callable
        Takes nothing and returns the coroutine to run.
    timeout_s : float
        Seconds after which the coroutine is cancelled and :class:`TimeoutError` raised.
    loop_factory : callable, optional
        Makes the loop; asyncio's own by default.
    """

    async def bounded() -> Result:
        async with asyncio.timeout(timeout_s):
            result = await work()
        # A task that was cancelled a moment ago needs a turn of the loop to end.
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left, timeout=0.05)
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"tasks left behind: {left}")
        return result

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(bounded())
