"""One task's part of a stream of tasks: what looks to an `Attempt` like a call of Process."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from runtime import wire
from runtime.errors import Cancelled, Error

if TYPE_CHECKING:
    from runtime.tasks.agents.batches import BatchStream

__all__ = ["MAX_UNREAD", "BatchedCall"]

MAX_UNREAD = 64
"""Messages of one task that lie in memory before the worker is held back: chunks that the disk takes more slowly."""


class BatchedCall:
    """A call of Process as far as its task is concerned. Belongs to the loop of its stream.

    Parameters
    ----------
    stream : BatchStream
    number : int
        The task's, in the stream.

    Attributes
    ----------
    is_done : bool
        Whether nothing more comes.
    """

    def __init__(self, stream: BatchStream, number: int) -> None:
        self.is_done = False
        self._stream = stream
        self._number = number
        self._inbox: deque[bytes] = deque()
        self._error: Error | None = None
        self._reader: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    async def receive(self) -> bytes | None:
        """Return the next ProcessReply, None after the output; raises the error with which the task ended."""
        while not self._inbox:
            if self.is_done:
                if self._error is not None:
                    raise self._error
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        message = self._inbox.popleft()
        if len(self._inbox) <= MAX_UNREAD // 2:
            self._make_room()
        return message

    async def send(self, message: bytes) -> None:
        """Send a ProcessRequest; raises the error with which the task, or the stream, has ended."""
        if self.is_done:
            raise self._error or Cancelled("the call has ended")
        talk = wire.runtime_v1.TaskTalk(number=self._number, message=message)
        await self._stream.say(wire.runtime_v1.TaskOrders(talk=[talk]))

    def done_sending(self) -> None:
        """Say nothing more: the output has ended the task."""

    def cancel(self) -> None:
        """Have the task end, if it has not."""
        if not self.is_done:
            self._stream.drop(self._number)
            self.end(Cancelled("the call was cancelled"))

    # For the stream

    async def room(self) -> None:
        """Wait until what has come is read, up to a few messages, or nobody reads it any more."""
        while len(self._inbox) > MAX_UNREAD and not self.is_done:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def put(self, message: bytes) -> None:
        """Take a ProcessReply."""
        self._inbox.append(message)
        self._wake()

    def end(self, error: Error | None) -> None:
        """Nothing more comes."""
        if not self.is_done:
            self.is_done = True
            self._error = error
            self._wake()
            self._make_room()

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
