"""Messages of a stream as the tasks in them: payloads of several are written at a time, and all keep their order."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from runtime.objects.value import Value
from runtime.tasks.model import TaskOptions, TaskRequest

__all__ = ["AHEAD_BYTES", "AHEAD_MESSAGES", "Intake", "Taken"]

_M = TypeVar("_M")

AHEAD_BYTES = 32 << 20
"""What is taken of one stream ahead of the message whose tasks are being stored."""
AHEAD_MESSAGES = 8
"""Messages of one stream that are taken so."""


class Taken(NamedTuple):
    """What a message asks for.

    Attributes
    ----------
    session : str
        The id of a session.
    options : TaskOptions or None
        Of the tasks, unless they are the session's.
    tasks : list of TaskRequest
    refused : tuple of str or None
        If the tasks are made already: the ids that stand against them. None if they are to be made.
    """

    session: str
    options: TaskOptions | None
    tasks: list[TaskRequest]
    refused: tuple[str, ...] | None = None


class Intake(Generic[_M]):
    """The messages of a stream, each as the tasks in it, whose payloads are durable.

    Payloads of several messages are written at the same time; they are handed on in the order in which they came.

    Parameters
    ----------
    requests : async iterator
    take : callable
        Takes a message, returns a coroutine for the tasks in it, whose payloads are held.
    size_of : callable
        Returns the bytes of a message.
    discard : callable
        Lets payloads go.
    """

    def __init__(
        self,
        requests: AsyncIterator[_M],
        take: Callable[[_M], Coroutine[Any, Any, Taken]],
        size_of: Callable[[_M], int],
        discard: Callable[[Iterable[Value]], None],
    ) -> None:
        self._requests = requests
        self._take = take
        self._size_of = size_of
        self._discard = discard
        self._taken: deque[tuple[asyncio.Future[Taken], int]] = deque()
        self._nbytes = 0
        self._changed = asyncio.Event()
        self._reader = asyncio.ensure_future(self._read())
        self._reader.add_done_callback(self._ended)

    async def next(self) -> Taken | None:
        """Return what was asked for next, whose payloads are held by the caller from now on; None at the end."""
        while not self._taken:
            if self._reader.done():
                self._reader.result()  # raises what has ended the stream
                return None
            self._changed.clear()
            await self._changed.wait()
        await asyncio.wait([self._taken[0][0]])
        taking, nbytes = self._taken.popleft()
        self._nbytes -= nbytes
        self._changed.set()
        return taking.result()

    def next_like(self, taken: Taken) -> list[TaskRequest] | None:
        """Return the tasks of the next message if they are ready, and for the same session with the same options."""
        if not self._taken or not (taking := self._taken[0][0]).done() or taking.cancelled() or taking.exception():
            return None
        following = taking.result()
        if following.refused is not None or (following.session, following.options) != (taken.session, taken.options):
            return None
        self._nbytes -= self._taken.popleft()[1]
        self._changed.set()
        return following.tasks

    def close(self) -> None:
        """Take nothing any more, and let go of what nobody has asked for."""
        self._reader.cancel()
        while self._taken:
            taking, _ = self._taken.popleft()
            taking.cancel()
            taking.add_done_callback(functools.partial(_let_go, self._discard))

    def _ended(self, reader: asyncio.Future[None]) -> None:
        if not reader.cancelled():
            reader.exception()  # told by `next`, unless nobody asks any more
        self._changed.set()

    async def _read(self) -> None:
        async for request in self._requests:
            nbytes = self._size_of(request)
            while self._taken and (self._nbytes + nbytes > AHEAD_BYTES or len(self._taken) >= AHEAD_MESSAGES):
                self._changed.clear()
                await self._changed.wait()
            self._nbytes += nbytes
            self._taken.append((asyncio.ensure_future(self._take(request)), nbytes))
            self._changed.set()


def _let_go(let_go: Callable[[Iterable[Value]], None], taking: asyncio.Future[Taken]) -> None:
    # One that is cancelled, or has failed, has left nothing.
    if not taking.cancelled() and taking.exception() is None:
        let_go([request.payload for request in taking.result().tasks])
