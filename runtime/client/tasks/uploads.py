"""New tasks by runtime.v1.TaskUploads: requests follow each other without waiting for the answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.client.tasks.creation import NewTask, upload_request
from runtime.errors import Error, Unavailable

if TYPE_CHECKING:
    from runtime._ext.http2_client_stream import StreamCall
    from runtime.client.tasks.calls import Calls

__all__ = ["Sent", "Upload"]

_PATH = "/runtime.v1.TaskUploads/Create"


class Sent:
    """A group that has not been answered."""

    __slots__ = ("group", "times")

    def __init__(self, group: list[NewTask]) -> None:
        self.group = group
        self.times = 0


class Upload:
    """Groups of tasks, which the server stores one after the other. One coroutine uses it.

    How much is on the way is for the call's window to say: the server stops reading when it is behind.

    Parameters
    ----------
    calls : Calls
    session : str
    groups : iterator of list of NewTask
    options : Message
        Of all tasks.
    answered : callable
        Awaited with a group, the ids that the server holds against it, and how often it was sent. Raises what ends the
        upload; returns which tasks of the group are to be sent once more, the others are stored.
    """

    def __init__(
        self, calls: Calls, session: str, groups: Iterator[list[NewTask]], options: Any,
        answered: Callable[[Sequence[NewTask], list[str], int], Awaitable[list[NewTask]]],
    ) -> None:
        self._calls = calls
        self._session = session
        self._groups = groups
        self._options = options
        self._answered = answered
        self._waiting: deque[Sent] = deque()
        self._has_more = True

    async def run(self) -> None:
        """Return when all groups are stored.

        Raises
        ------
        Unimplemented
            The server has no such call; `left` has what it was to store.
        Error
            What the server answers, or ``answered`` raises.
        """
        while self._has_more or self._waiting:
            await self._calls.repeated(self._call_for_rest)

    def left(self) -> Iterator[list[NewTask]]:
        """Yield the groups that are not stored."""
        yield from [sent.group for sent in self._waiting]
        yield from self._groups

    async def _call_for_rest(self) -> None:
        """Call the server if there is something that is not stored: the last answer may have come before a break."""
        if not self._waiting:
            group = next(self._groups, None)
            self._has_more = group is not None
            if group is None:
                return
            self._waiting.append(Sent(group))
        await self._call()

    async def _call(self) -> None:
        is_heard = False
        async with self._calls.stream(_PATH) as call:
            sending = asyncio.ensure_future(self._send(call))
            try:
                while (answer := await call.receive()) is not None:
                    is_heard = True
                    reply = wire.armonik.CreateTaskReply.FromString(answer)
                    await self._take_answer(list(reply.non_successfull_ids.ids))
            finally:
                sending.cancel()
                await asyncio.wait([sending])
            if not sending.cancelled():
                sending.result()  # raises what has gone wrong with a payload
        if not is_heard and (self._has_more or self._waiting):
            raise Unavailable(f"{_PATH} ended without an answer")

    async def _take_answer(self, refused: list[str]) -> None:
        """Take the answer to the group that waits for one first."""
        if not self._waiting or not self._waiting[0].times:
            raise Unavailable("an upload was answered more often than asked")
        sent = self._waiting[0]
        again = await self._answered(sent.group, refused, sent.times)
        if again:
            sent.group = again
        else:
            self._waiting.popleft()

    async def _send(self, call: StreamCall) -> None:
        """Send what was not answered, once more where that is so, and then the rest."""
        try:
            for sent in list(self._waiting):
                await self._send_one(call, sent)
            while (group := next(self._groups, None)) is not None:
                sent = Sent(group)
                self._waiting.append(sent)
                await self._send_one(call, sent)
            self._has_more = False
            call.done_sending()
        except Error:
            pass  # the call has ended: who receives is told why

    async def _send_one(self, call: StreamCall, sent: Sent) -> None:
        sent.times += 1
        await call.send(upload_request(self._session, sent.group, self._options))
