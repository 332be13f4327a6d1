"""Event loops for servers: which kind, and what becomes of one when its server has stopped.

gRPC's asyncio layer has one poller thread for the whole process. It learns of every loop on which a server or
channel is made and forgets them all together, when the last gRPC object of the process is gone. A loop that is
closed before that stays in its table for good (about 250 KB with what hangs on it), and events meant for it raise
inside the loops of others. So a loop is closed when gRPC has let go of it, and kept for the next server otherwise.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from runtime.errors import InvalidArgument

_POLLER_THREAD = "_poll_wrapper"  # part of the name Python gives the poller's thread, after its target

_spare: dict[str, list[asyncio.AbstractEventLoop]] = {}
_lock = threading.Lock()


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Return a new event loop; nothing is installed globally.

    Parameters
    ----------
    kind : str
        ``uvloop``, ``asyncio``, or ``auto`` for uvloop where it is installed.

    Raises
    ------
    InvalidArgument
        If uvloop is asked for and not installed.
    """
    if kind != "asyncio":
        try:
            import uvloop
        except ImportError as error:
            if kind == "uvloop":
                raise InvalidArgument(
                    f"setting loop: 'uvloop' is asked for but cannot be imported ({error}); install uvloop or use auto"
                ) from error
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def borrow_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Return a loop for one server's thread: one left by an earlier server if there is, else a new one."""
    with _lock:
        left = _spare.get(kind)
        if left:
            return left.pop()
    return new_loop(kind)


def run(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` to its end on ``loop`` in this thread, then end what it left behind there."""
    # An executor of this run: asyncio's own shutdown of the default one would mark the loop for good.
    executor = ThreadPoolExecutor(thread_name_prefix="tensor-runtime")
    loop.set_default_executor(executor)
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main)
    finally:
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            # A turn for what the ended tasks have left to close.
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            asyncio.set_event_loop(None)
            executor.shutdown(wait=True, cancel_futures=True)


def give_back(kind: str, loop: asyncio.AbstractEventLoop, *, alone: bool) -> None:
    """Close a loop that has ended, or keep it for the next server while gRPC still knows it.

    Parameters
    ----------
    kind : str
        What :func:`borrow_loop` was called with.
    loop : AbstractEventLoop
        A loop that does not run any more.
    alone : bool
        Whether no other server of ours runs in this process. Then what keeps gRPC's poller may be garbage in
        cycles, and collecting it is worth the time.
    """
    if alone and _grpc_holds_loops():
        gc.collect()
    if _grpc_holds_loops():
        with _lock:
            _spare.setdefault(kind, []).append(loop)
        return
    with _lock:
        free = [loop, *(spare for loops in _spare.values() for spare in loops)]
        _spare.clear()
    for ended in free:
        # Not earlier: a loop on which this ran warns of every async generator that it sees afterwards.
        ended.run_until_complete(ended.shutdown_asyncgens())
        ended.close()


def _grpc_holds_loops() -> bool:
    return any(_POLLER_THREAD in thread.name for thread in threading.enumerate())
