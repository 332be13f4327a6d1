"""Which of many tasks have ended.

One call for thousands where the server has it, else a call each for some of them and a common look now and then for the
rest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from runtime import wire
from runtime._ext.task_messages import collected_values
from runtime.client.tasks.failures import failure_with
from runtime.errors import DeadlineExceeded, Internal, Unavailable, Unimplemented
from runtime.tasks.model import ResultStatus

if TYPE_CHECKING:
    from runtime.client.tasks.handle import AsyncTaskHandle
    from runtime.client.tasks.session import AsyncTaskSession

__all__ = ["collect_one", "completed"]

_V = TypeVar("_V")

# Tasks of one call that collects.
COLLECTED = 10_000
# Calls that wait at once for one result each: far below what one connection carries.
WAITS = 256
# How often the tasks without a call of their own are looked at, and keys of one look.
LOOK_S = 1.0
_LOOK_KEYS = 2000
_PATH = "/runtime.v1.Results/Collect"


async def completed(
    session: AsyncTaskSession, handles: Sequence[AsyncTaskHandle], timeout_s: float | None, *, with_values: bool = False
) -> AsyncGenerator[list[AsyncTaskHandle], None]:
    """Yield handles as their tasks end, those together of which one message tells.

    Parameters
    ----------
    with_values : bool
        Whether small results are kept by the handles until they are asked for.

    Raises
    ------
    DeadlineExceeded
        After ``timeout_s`` seconds.
    Error
        If the server cannot be asked.
    """
    deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
    left = dict.fromkeys(handle for handle in handles if not handle.is_over)
    if over := [handle for handle in dict.fromkeys(handles) if handle.is_over]:
        yield over
    try:
        for make in (_collected, _waited):
            if not left:
                return
            async with contextlib.aclosing(make(session, dict(left), deadline, with_values)) as ended:
                with contextlib.suppress(Unimplemented):  # by a server of another kind
                    async for some in ended:
                        for handle in some:
                            del left[handle]
                        yield some
    except _TimeIsUp:
        raise DeadlineExceeded(f"{len(left)} of {len(handles)} tasks have not ended within {timeout_s:g} s") from None


async def collect_one(handle: AsyncTaskHandle, key: str) -> None:
    """Wait until one result of a task is there, and have the task keep it if it is small; or note why it never will be.

    Raises
    ------
    Unimplemented
        By a server of another kind.
    Error
        If the server cannot be asked.
    """
    session = handle.session
    request = wire.runtime_v1.CollectRequest(session_id=session.id, key=[key])

    async def once() -> None:
        replies = session.client.calls.download(_PATH, request, wire.runtime_v1.CollectReply)
        async with contextlib.aclosing(replies):
            async for reply in replies:
                for result in reply.result:
                    if result.status == "ABORTED":
                        handle.failure = failure_with(result.owner_id, result.owner_status, result.error)
                    elif result.HasField("value"):
                        handle.keep(key, result.value)

    await session.client.calls.repeated(once)


class _Reply:
    """A CollectReply: as keys and values where it has nothing else, which is what most have."""

    __slots__ = ("others", "values")

    def __init__(self, data: bytes) -> None:
        values = collected_values(data)
        self.values: Sequence[tuple[str, bytes]] = values or ()
        self.others: Sequence[Any] = () if values is not None else wire.runtime_v1.CollectReply.FromString(data).result

    @classmethod
    def FromString(cls, data: bytes) -> _Reply:
        """Read one, as a class of protobuf's does."""
        return cls(data)


class _TimeIsUp(Exception):
    """The deadline has come. Not by ``asyncio.timeout``: each step of a generator may run in a task of its own."""


async def _first(waits: Sequence[asyncio.Future[Any]], deadline: float | None) -> set[asyncio.Future[Any]]:
    left_s = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
    done, _ = await asyncio.wait(waits, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        raise _TimeIsUp
    return done


# -- one call for many -------------------------------------------------------------------------------------------------


async def _collected(
    session: AsyncTaskSession, left: dict[AsyncTaskHandle, None], deadline: float | None, with_values: bool
) -> AsyncGenerator[list[AsyncTaskHandle], None]:
    ended: asyncio.Queue[list[AsyncTaskHandle]] = asyncio.Queue()
    number = len(left)
    collectors = [
        asyncio.ensure_future(_collect(session, part, with_values, ended)) for part in _in_parts(list(left), COLLECTED)
    ]
    try:
        while number:
            following = asyncio.ensure_future(ended.get())
            try:
                await _first([following, *collectors], deadline)
            finally:
                following.cancel()
            for collector in [collector for collector in collectors if collector.done()]:
                collectors.remove(collector)
                collector.result()  # raises what has ended it
            if following.done() and not following.cancelled():
                number -= len(following.result())
                yield following.result()
            while not ended.empty():
                some = ended.get_nowait()
                number -= len(some)
                yield some
    finally:
        for collector in collectors:
            collector.cancel()
        await asyncio.gather(*collectors, return_exceptions=True)


async def _collect(
    session: AsyncTaskSession, handles: Sequence[AsyncTaskHandle], with_values: bool,
    ended: asyncio.Queue[list[AsyncTaskHandle]],
) -> None:
    """Put the handles into the queue as their tasks end, those of a message together."""
    by_key = {key: handle for handle in handles for key in handle.keys}
    missing = {handle: len(handle.keys) for handle in handles}

    def told(key: str) -> AsyncTaskHandle:
        handle = by_key.pop(key, None)
        if handle is None:
            raise Internal(f"{session.client.calls.target}: {_PATH} tells of the result {key!r}, which it has told of "
                           "before or was not asked for")
        missing[handle] -= 1
        return handle

    async def once() -> None:
        request = wire.runtime_v1.CollectRequest(session_id=session.id, key=by_key, without_values=not with_values)
        replies = session.client.calls.download(_PATH, request, _Reply)
        async with contextlib.aclosing(replies):
            async for reply in replies:
                some: list[AsyncTaskHandle] = []
                for key, value in reply.values:
                    handle = told(key)
                    handle.keep(key, value)
                    if not missing[handle] and handle.failure is None:
                        handle.succeeded()
                        some.append(handle)
                for result in reply.others:
                    handle = told(result.key)
                    if result.status == "ABORTED":
                        if handle.failure is None:
                            handle.failure = failure_with(result.owner_id, result.owner_status, result.error)
                            some.append(handle)
                    else:
                        if result.HasField("value"):
                            handle.keep(result.key, result.value)
                        if not missing[handle] and handle.failure is None:
                            handle.succeeded()
                            some.append(handle)
                if some:
                    ended.put_nowait(some)
        if by_key:
            raise Unavailable(f"{session.client.calls.target}: {_PATH} ended before it told of the result "
                              f"{next(iter(by_key))!r}")

    await session.client.calls.repeated(once)


# -- a call each -------------------------------------------------------------------------------------------------------


async def _waited(
    session: AsyncTaskSession, left: dict[AsyncTaskHandle, None], deadline: float | None, with_values: bool
) -> AsyncGenerator[list[AsyncTaskHandle], None]:
    later = deque(left)
    number = len(later)
    running: set[asyncio.Task[AsyncTaskHandle]] = set()
    look: asyncio.Task[list[AsyncTaskHandle]] | None = None

    def start(handle: AsyncTaskHandle) -> None:
        running.add(asyncio.ensure_future(_wait(handle)))

    try:
        while number:
            while later and len(running) < WAITS:
                start(later.popleft())
            if later and look is None:
                look = asyncio.ensure_future(_look(session, list(later)))
            done = await _first([*running, *([] if look is None else [look])], deadline)
            if look is not None and look in done:
                # These end at once; they do not count for the limit. Some have got a call of their own meanwhile.
                ended = set(look.result())
                look = None
                for handle in [handle for handle in later if handle in ended]:
                    start(handle)
                later = deque(handle for handle in later if handle not in ended)
            for task in [task for task in running if task in done]:
                running.discard(task)
                number -= 1
                yield [task.result()]
    finally:
        over: list[asyncio.Future[Any]] = [*running, *([] if look is None else [look])]
        for future in over:
            future.cancel()
        await asyncio.gather(*over, return_exceptions=True)


async def _wait(handle: AsyncTaskHandle) -> AsyncTaskHandle:
    await handle.ended()
    return handle


async def _look(session: AsyncTaskSession, handles: list[AsyncTaskHandle]) -> list[AsyncTaskHandle]:
    """Return those whose results are all there, or one of them never will be; after a while."""
    await asyncio.sleep(LOOK_S)
    settled: dict[str, ResultStatus] = {}
    for keys in _in_parts([key for handle in handles for key in handle.keys], _LOOK_KEYS):
        message = wire.armonik.GetResultStatusRequest(session_id=session.id, result_ids=keys)
        reply = await session.client.submitter("GetResultStatus", message, wire.armonik.GetResultStatusReply)
        settled.update((entry.result_id, ResultStatus(entry.status)) for entry in reply.id_statuses)
    return [handle for handle in handles if _is_over([settled.get(key) for key in handle.keys])]


def _is_over(statuses: list[ResultStatus | None]) -> bool:
    return ResultStatus.ABORTED in statuses or all(status is ResultStatus.COMPLETED for status in statuses)


def _in_parts(items: list[_V], size: int) -> Iterator[list[_V]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
