"""TaskUploads.CreateNear: tasks whose payloads their client has written into the server's file of values itself."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TYPE_CHECKING

from runtime import wire
from runtime.errors import InvalidArgument, PermissionDenied, Unavailable
from runtime.objects.head import answer_to
from runtime.tasks import messages
from runtime.tasks.intake import Intake, Taken
from runtime.transport.place import here

if TYPE_CHECKING:
    from runtime.objects.lending import Lending
    from runtime.objects.value import Value
    from runtime.tasks.model import TaskOptions, TaskRequest
    from runtime.tasks.tasks import Tasks

__all__ = ["near_replies"]

_CHALLENGE_BYTES = 32
_SHORTEST_CHALLENGE, _LONGEST_CHALLENGE = 16, 64
# Of one request.
_MOST_WANTED = 1000
# Answers that the client has not taken; then nothing more is read of it.
_REPLIES_AHEAD = 32
# For which a client may say nothing while it is lent places: it holds what others could use.
_SILENT_S = 60.0


async def near_replies(
    tasks: Tasks, requests: AsyncIterator[bytes]
) -> AsyncGenerator[wire.runtime_v1.NearReply, None]:
    """Yield what a client is answered.

    Raises
    ------
    InvalidArgument
        It says what cannot be.
    PermissionDenied
        It cannot read the file.
    Unavailable
        It was silent for too long, or the disk fails.
    ResourceExhausted
        The disk is full.
    """
    first = await anext(requests, None)
    if first is None:
        return
    hello = messages.parse(wire.runtime_v1.NearRequest, first)
    if not _SHORTEST_CHALLENGE <= len(hello.challenge) <= _LONGEST_CHALLENGE:
        raise InvalidArgument(
            f"challenge: {len(hello.challenge)} bytes; it must have from {_SHORTEST_CHALLENGE} to {_LONGEST_CHALLENGE}"
        )
    boot_id = here().boot_id
    is_near = boot_id and hello.boot_id == boot_id
    lending = await tasks.objects.begin_lending() if is_near else None
    if lending is None:
        yield wire.runtime_v1.NearReply()
        return
    try:
        challenge = secrets.token_bytes(_CHALLENGE_BYTES)
        challenges = hello.challenge + challenge
        file = lending.file
        told = wire.runtime_v1.PlacesFile(boot_id=boot_id, **file._asdict())
        told.proof = answer_to(b"server", challenges, file.proof)
        yield wire.runtime_v1.NearReply(file=told, challenge=challenge, lock_at=lending.lock_at)
        try:
            async with asyncio.timeout(_SILENT_S):
                second = await anext(requests, None)
        except TimeoutError:
            raise _silent() from None
        if second is None:
            return
        answer = messages.parse(wire.runtime_v1.NearRequest, second)
        if not hmac.compare_digest(answer.proof, answer_to(b"client", challenges, file.proof)):
            raise PermissionDenied("proof: it is not that of a client which can read the file")
        if not await tasks.objects.is_locked(lending):
            yield wire.runtime_v1.NearReply()  # what locks are there is not seen here
            return
        stream = _NearStream(tasks, requests, lending, hello.may_begin)
        try:
            async for reply in stream.replies():
                yield reply
        finally:
            await stream.close()
    finally:
        tasks.objects.end_lending(lending)


def _silent() -> Unavailable:
    return Unavailable(f"nothing was heard for {_SILENT_S:g} s of a client that is lent places")


def _size_of(message: wire.runtime_v1.NearTasks) -> int:
    return message.ByteSize() + sum(task.payload.size for task in message.task)


class _NearStream:
    """What is said on one stream once the client has shown what it can do."""

    def __init__(self, tasks: Tasks, requests: AsyncIterator[bytes], lending: Lending, may_begin: bool) -> None:
        self._tasks = tasks
        self._lending = lending
        self._may_begin = may_begin
        self._session = ""
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._replies: deque[wire.runtime_v1.NearReply] = deque()
        self._changed = asyncio.Event()
        self._intake = Intake(self._with_tasks(requests), self._take, _size_of, tasks.discard)
        self._creating = asyncio.ensure_future(self._create())
        self._creating.add_done_callback(lambda _: self._changed.set())

    async def replies(self) -> AsyncIterator[wire.runtime_v1.NearReply]:
        """Yield what the client is answered; raises what ends the stream."""
        while True:
            while self._replies:
                reply = self._replies.popleft()
                self._changed.set()
                yield reply
            if self._creating.done():
                self._creating.result()
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(_SILENT_S):
                    await self._changed.wait()
            except TimeoutError:
                if self._lending.places and self._loop.time() - self._heard >= _SILENT_S:
                    raise _silent() from None

    async def close(self) -> None:
        """Take nothing any more. What was told of and not stored is let go."""
        self._creating.cancel()
        await asyncio.wait([self._creating])
        if not self._creating.cancelled():
            self._creating.exception()  # told by `replies`, unless nobody asks any more
        self._intake.close()

    def _reply(self, reply: wire.runtime_v1.NearReply) -> None:
        self._replies.append(reply)
        self._changed.set()

    async def _create(self) -> None:
        """Make the tasks that come, those of all messages whose payloads are on disk with one write."""
        while (taken := await self._intake.next()) is not None:
            if taken.refused is not None:
                number, offending = int(not taken.refused), taken.refused
            else:
                groups = [taken.tasks]
                while (following := self._intake.next_like(taken)) is not None:
                    groups.append(following)
                number, offending = await self._tasks.create_groups(taken.session, groups, taken.options)
            for _ in range(number):
                self._reply(wire.runtime_v1.NearReply(created=messages.created_message(())))
            if offending:
                self._reply(wire.runtime_v1.NearReply(created=messages.created_message(offending)))
                return

    async def _with_tasks(self, requests: AsyncIterator[bytes]) -> AsyncIterator[wire.runtime_v1.NearTasks]:
        """Yield the tasks that come; lend what is asked for between them."""
        while True:
            data = await anext(requests, None)
            if data is None:
                return
            self._heard = self._loop.time()
            request = messages.parse(wire.runtime_v1.NearRequest, data)
            if len(request.wanted) > _MOST_WANTED:
                raise InvalidArgument(f"wanted: {len(request.wanted)} places; {_MOST_WANTED} is the most at once")
            if request.wanted:
                places = await self._tasks.objects.lend(self._lending, request.wanted)
                may_end_first = self._may_begin and self._tasks.early.are_likely
                self._reply(wire.runtime_v1.NearReply(lent=places, may_end_first=may_end_first))
            if request.HasField("tasks"):
                yield request.tasks
            while len(self._replies) > _REPLIES_AHEAD:
                self._changed.clear()
                await self._changed.wait()

    async def _take(self, message: wire.runtime_v1.NearTasks) -> Taken:
        """Return the tasks of a message: their payloads are durable, or they have begun and are made by now."""
        session, options, group = self._asked(message)
        placed = [task.payload for task in message.task if task.HasField("payload")]
        places = [(place.offset, place.size, place.crc32c) for place in placed]
        objects = self._tasks.objects
        if not self._may_begin or len(places) < len(group) or not self._tasks.early.are_wanted(group):
            values = await objects.adopt(self._lending, places) if places else []
            return Taken(session, options, await self._with_payloads(message, group, values))
        values = objects.adopt_early(self._lending, places)
        requests = [task._replace(payload=value) for task, value in zip(group, values, strict=True)]
        begun = await self._tasks.early.begin(session, requests, options, self._sync)
        if begun is not None:
            return Taken(session, options, [], await asyncio.shield(begun.done))
        try:
            await self._sync()
        except BaseException:
            self._tasks.discard(values)
            raise
        return Taken(session, options, requests)

    async def _sync(self) -> None:
        await self._tasks.objects.sync_adopted(self._lending)

    def _asked(self, message: wire.runtime_v1.NearTasks) -> tuple[str, TaskOptions | None, list[TaskRequest]]:
        """Return session, options and tasks of a message, these without what lies in places."""
        if not message.session_id:
            raise InvalidArgument("tasks.session_id: must not be empty")
        options = messages.options_of(message.task_options) if message.HasField("task_options") else None
        if options is not None:
            self._tasks.check_options(options)
        if message.session_id != self._session:
            self._tasks.check_session(message.session_id)
            self._session = message.session_id
        group = messages.small_tasks_of([task.request for task in message.task], None)
        for index, (told, task) in enumerate(zip(message.task, group, strict=True)):
            if task.payload.size and told.HasField("payload"):
                raise InvalidArgument(f"tasks.task[{index}]: its payload is in the message, and has a place")
        return message.session_id, options, group

    async def _with_payloads(
        self, message: wire.runtime_v1.NearTasks, group: Sequence[TaskRequest], values: Sequence[Value]
    ) -> list[TaskRequest]:
        """Return tasks with all their payloads: those in places, and those that are in the message."""
        told = [task.HasField("payload") for task in message.task]
        others = [task.payload.data for is_told, task in zip(told, group, strict=True) if not is_told]
        try:
            sent = iter(await self._tasks.objects.put([(data,) for data in others]) if others else ())
        except BaseException:
            self._tasks.discard(values)
            raise
        placed = iter(values)
        return [
            task._replace(payload=next(placed if is_told else sent)) for is_told, task in zip(told, group, strict=True)
        ]
