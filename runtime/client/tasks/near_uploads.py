"""New tasks by TaskUploads.CreateNear: payloads are written into the server's file, and only told of."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.client.tasks.creation import is_medium
from runtime.client.tasks.near import NearFile, NotNear, hello_to
from runtime.client.tasks.uploads import Sent, Upload
from runtime.errors import Error, Unavailable
from runtime.objects.extents import paged

if TYPE_CHECKING:
    from runtime._ext.http2_client_stream import StreamCall

__all__ = ["NearUpload"]

_PATH = "/runtime.v1.TaskUploads/CreateNear"

# Bytes for which places were asked and whose tasks are not stored yet: what the disk and the store can have at work.
# Several groups: one is being written while others wait for the disk; the server lends 128 MiB to one stream.
_AHEAD_BYTES = 96 << 20
# Places that are wanted by one message; a group has fewer.
_MOST_WANTED = 1000


class _Asked:
    """A group for whose payloads places were asked."""

    __slots__ = ("places", "sent", "sums", "tasks", "written")

    def __init__(self, sent: Sent) -> None:
        self.sent = sent
        self.tasks = [task for task in sent.group if is_medium(task.payload)]
        self.places: list[int] = []
        # The checksums of those that have a place.
        self.sums: list[int] = []
        self.written: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class NearUpload(Upload):
    """The same as `Upload`, for a server on the same machine.

    Once it has raised `NotNear`, `elsewhere` goes on with what is not stored.

    Parameters
    ----------
    may_begin : bool
        Whether tasks may begin before they are made: nobody else can have ids and keys like theirs.
    """

    def __init__(self, *arguments: Any, may_begin: bool) -> None:
        super().__init__(*arguments)
        self._may_begin = may_begin
        self._waiting_bytes = 0
        self._answer_came = asyncio.Event()

    def elsewhere(self) -> Upload:
        """Return what sends what is not stored."""
        upload = Upload(self._calls, self._session, self._groups, self._options, self._answered)
        upload._waiting, upload._has_more = self._waiting, self._has_more
        return upload

    async def _call(self) -> None:
        hello = hello_to(may_begin=self._may_begin)
        is_heard = False
        async with self._calls.stream(_PATH) as call:
            await call.send(hello.SerializeToString())
            answer = await call.receive()
            if answer is None:
                raise Unavailable(f"{_PATH} ended without an answer")
            file = await self._opened(hello, wire.runtime_v1.NearReply.FromString(answer))
            asked: deque[_Asked] = deque()
            sending = asyncio.ensure_future(self._send_near(call, file, asked))
            try:
                while (answer := await call.receive()) is not None:
                    reply = wire.runtime_v1.NearReply.FromString(answer)
                    if not reply.lent and not reply.HasField("created"):
                        raise NotNear  # the server does not see the lock
                    if reply.lent:
                        self._lent(file, asked, list(reply.lent), are_synced=not reply.may_end_first)
                    if reply.HasField("created"):
                        is_heard = True
                        nbytes = _lent_bytes(self._waiting[0]) if self._waiting else 0
                        await self._take_answer(list(reply.created.non_successfull_ids.ids))
                        self._waiting_bytes -= nbytes
                        self._answer_came.set()
            except Error:
                if sending.done() and not sending.cancelled() and (error := sending.exception()) is not None:
                    raise error from None  # which has ended the call
                raise
            finally:
                sending.cancel()
                await asyncio.wait([sending])
                file.close()
            if not sending.cancelled():
                sending.result()  # raises what has gone wrong with a payload
        if not is_heard and (self._has_more or self._waiting):
            raise Unavailable(f"{_PATH} ended without an answer")

    async def _opened(self, hello: wire.runtime_v1.NearRequest, reply: wire.runtime_v1.NearReply) -> NearFile:
        """Return the file; whoever is cancelled meanwhile leaves nothing open."""
        opening = asyncio.ensure_future(asyncio.to_thread(NearFile.open, hello, reply))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise

    async def _send_near(self, call: StreamCall, file: NearFile, asked: deque[_Asked]) -> None:
        """Send what was not answered, once more where that is so, and then the rest."""
        try:
            head = wire.runtime_v1.NearRequest(proof=file.proof)
            await call.send(head.SerializeToString())
            left = self._to_send()
            ready: deque[_Asked] = deque()
            request = wire.runtime_v1.NearRequest()
            self._waiting_bytes = 0
            following = next(left, None)
            while True:
                while following is not None and (
                    not self._waiting_bytes or self._waiting_bytes + _lent_bytes(following) <= _AHEAD_BYTES
                ):
                    found = _Asked(following)
                    self._waiting_bytes += _lent_bytes(following)
                    following = next(left, None)
                    ready.append(found)
                    if found.tasks:
                        if len(request.wanted) + len(found.tasks) > _MOST_WANTED:
                            await call.send(request.SerializeToString())
                            request.Clear()
                        asked.append(found)
                        request.wanted.extend(task.payload.size for task in found.tasks)
                    else:
                        found.written.set_result(None)
                if request.wanted or request.HasField("tasks"):
                    await call.send(request.SerializeToString())
                    request.Clear()
                if not ready:
                    if following is None:
                        break
                    self._answer_came.clear()
                    await self._answer_came.wait()
                    continue
                found = ready.popleft()
                await found.written
                found.sent.times += 1
                self._tell(request.tasks, found)
            self._has_more = False
            # Nothing is being written any more: before the server hears that this is all, the lock is gone.
            await asyncio.wrap_future(file.close())
            call.done_sending()
        except Error:
            pass  # the call has ended: who receives is told why
        except BaseException:
            call.cancel()
            raise

    def _to_send(self) -> Iterator[Sent]:
        yield from list(self._waiting)
        for group in self._groups:
            sent = Sent(group)
            self._waiting.append(sent)
            yield sent

    def _lent(self, file: NearFile, asked: deque[_Asked], places: Sequence[int], *, are_synced: bool) -> None:
        """Have payloads written to places, in the order in which these were asked for."""
        for place in places:
            if not asked:
                raise Unavailable(f"{_PATH} lends more places than asked")
            group = asked[0]
            group.places.append(place)
            if len(group.places) == len(group.tasks):
                asked.popleft()
                values: list[tuple[int, Sequence[Any]]] = [
                    (place, (task.payload.content,)) for place, task in zip(group.places, group.tasks, strict=True)
                    if place
                ]
                write = file.write(values, are_synced=are_synced)
                write.add_done_callback(lambda write, group=group: _written(write, group))  # type: ignore[misc]

    def _tell(self, message: wire.runtime_v1.NearTasks, group: _Asked) -> None:
        """Write a group into a message, with the places of its payloads."""
        message.session_id = self._session
        message.task_options.CopyFrom(self._options)
        places = iter(zip(group.tasks, group.places, strict=True))
        sums = iter(group.sums)
        following, place = next(places, (None, 0))
        for task in group.sent.group:
            told = message.task.add()
            request = told.request
            request.id = task.id
            request.expected_output_keys.extend(task.keys)
            request.data_dependencies.extend(task.dependencies)
            is_asked = task is following
            if is_asked and place:
                told.payload.offset, told.payload.size, told.payload.crc32c = place, task.payload.size, next(sums)
            else:
                request.payload = task.payload.tobytes()
            if is_asked:
                following, place = next(places, (None, 0))


def _lent_bytes(sent: Sent) -> int:
    """Return the bytes of the places that a group needs."""
    return sum(paged(task.payload.size) for task in sent.group if is_medium(task.payload))


def _written(write: asyncio.Future[list[int]], group: _Asked) -> None:
    if group.written.done():
        return
    if write.cancelled():
        group.written.cancel()
    elif isinstance(error := write.exception(), OSError):
        failure = NotNear()
        failure.__cause__ = error
        group.written.set_exception(failure)  # the server says what is wrong with the disk when it writes there
    elif error is not None:
        group.written.set_exception(error)
    else:
        group.sums = write.result()
        group.written.set_result(None)


def _close_opened(opening: asyncio.Future[NearFile]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
