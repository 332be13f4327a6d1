"""Which of many tasks have ended: a call each for some, a common look now and then for the rest."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.errors import DeadlineExceeded
from runtime.tasks.model import ResultStatus

if TYPE_CHECKING:
    from runtime.client.tasks.aio import AsyncTaskHandle, AsyncTaskSession

__all__ = ["completed"]

# Calls that wait at once: far below what one connection carries.
WAITS = 256
# How often the tasks without a call of their own are looked at, and keys of one look.
LOOK_S = 1.0
_LOOK_KEYS = 2000


async def completed(
    session: AsyncTaskSession, handles: Sequence[AsyncTaskHandle], timeout_s: float | None
) -> AsyncGenerator[AsyncTaskHandle, None]:
    """Yield handles as their tasks end.

    Raises
    ------
    DeadlineExceeded
        After ``timeout_s`` seconds.
    Error
        If the server cannot be asked.
    """
    loop = asyncio.get_running_loop()
    deadline = None if timeout_s is None else loop.time() + timeout_s
    later = deque(dict.fromkeys(handles))
    left = len(later)
    running: set[asyncio.Task[AsyncTaskHandle]] = set()
    look: asyncio.Task[list[AsyncTaskHandle]] | None = None

    def start(handle: AsyncTaskHandle) -> None:
        running.add(asyncio.ensure_future(_wait(handle)))

    try:
        while left:
            while later and len(running) < WAITS:
                start(later.popleft())
            if later and look is None:
                look = asyncio.ensure_future(_look(session, list(later)))
            waited: set[asyncio.Future[Any]] = {*running, *([] if look is None else [look])}
            until = None if deadline is None else max(0.0, deadline - loop.time())
            done, _ = await asyncio.wait(waited, timeout=until, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                waiting = sum(not task.done() for task in running) + len(later)
                raise DeadlineExceeded(f"{waiting} of {len(handles)} tasks have not ended within {timeout_s:g} s")
            if look is not None and look in done:
                # These end at once; they do not count for the limit. Some have got a call of their own meanwhile.
                ended = set(look.result())
                look = None
                for handle in [handle for handle in later if handle in ended]:
                    start(handle)
                later = deque(handle for handle in later if handle not in ended)
            for task in [task for task in running if task in done]:
                running.discard(task)
                left -= 1
                yield task.result()
    finally:
        left_over: list[asyncio.Future[Any]] = [*running, *([] if look is None else [look])]
        for future in left_over:
            future.cancel()
        await asyncio.gather(*left_over, return_exceptions=True)


async def _wait(handle: AsyncTaskHandle) -> AsyncTaskHandle:
    await handle.ended()
    return handle


async def _look(session: AsyncTaskSession, handles: list[AsyncTaskHandle]) -> list[AsyncTaskHandle]:
    """Return those whose results are all there, or one of them never will be; after a while."""
    await asyncio.sleep(LOOK_S)
    settled: dict[str, ResultStatus] = {}
    for keys in _in_parts([key for handle in handles for key in handle.keys]):
        message = wire.armonik.GetResultStatusRequest(session_id=session.id, result_ids=keys)
        reply = await session.client.submitter("GetResultStatus", message, wire.armonik.GetResultStatusReply)
        settled.update((entry.result_id, ResultStatus(entry.status)) for entry in reply.id_statuses)
    return [handle for handle in handles if _is_over([settled.get(key) for key in handle.keys])]


def _is_over(statuses: list[ResultStatus | None]) -> bool:
    return ResultStatus.ABORTED in statuses or all(status is ResultStatus.COMPLETED for status in statuses)


def _in_parts(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), _LOOK_KEYS):
        yield keys[start : start + _LOOK_KEYS]
