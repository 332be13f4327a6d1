"""One attempt: a call of Worker.Process from its first message to the recorded outcome.

What a worker sends is taken as it comes; what it asks for is answered from tasks of their own, so that a worker which
writes before it reads is never waited for by an agent that does the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.message import DecodeError

from runtime import wire
from runtime.errors import DataLoss, DeadlineExceeded, Error, InvalidArgument, ResourceExhausted, Unavailable
from runtime.tasks import messages
from runtime.tasks.agents.compute import Input, compute_messages, input_of
from runtime.tasks.agents.data import answer_messages
from runtime.tasks.agents.requests import Broken, Creation, Requests
from runtime.tasks.leases import Lease, LeaseLost
from runtime.tasks.model import FailureKind

if TYPE_CHECKING:
    from runtime.tasks.agents.link import WorkerLink
    from runtime.tasks.agents.resources import Resources
    from runtime.tasks.tasks import Tasks

__all__ = ["Attempt", "End"]

logger = logging.getLogger(__name__)

DEADLINE_TEXT = "Deadline Exceeded"
MISSING_ID = "missing request id"
# Input of at most so many bytes is sent before anything is awaited: it fits into any worker's window.
_SMALL_BYTES = 32 << 10
# Requests for data that are answered at a time; a worker with more of them waits.
_MAX_ANSWERS = 32
# How often a disk that fails may send one task back to the queue.
_MAX_RELEASES = 20
# What a worker gets to read that it has broken the protocol.
_LAST_WORD_S = 1.0
# A worker that says near the deadline that the deadline has passed is believed.
_NEAR_DEADLINE = 0.95
_MISSING_ID_REPLY = "Missing request Id"
_MISSING_ID_ERROR = "No request Id"


class End(enum.Enum):
    """How a call ended, for the agent."""

    CLEAN = "clean"
    """The worker has returned, and can be given the next task."""
    DIRTY = "dirty"
    """It may still be at work, or gone: it is to be asked how it is."""
    NO_SPACE = "no space"
    """The disk takes nothing now; the task went back to the queue."""


class ProcessCall(Protocol):
    """A call of Process: a `StreamCall`, or a part of a stream of tasks."""

    @property
    def is_done(self) -> bool: ...
    async def receive(self) -> bytes | None: ...
    async def send(self, message: bytes) -> None: ...
    def done_sending(self) -> None: ...
    def cancel(self) -> None: ...


class Attempt:
    """One attempt of a task on one worker.

    Parameters
    ----------
    tasks : Tasks
    lease : Lease
    link : WorkerLink
    resources : Resources
    releases : dict of int to int
        How often a task, by its number, has gone back to the queue because the disk failed; updated.

    Attributes
    ----------
    outcome : asyncio.Future or None
        Resolves when what became of the attempt is on disk.
    has_failed : bool
        Whether it ended without an answer of the worker's.
    """

    def __init__(
        self, tasks: Tasks, lease: Lease, link: WorkerLink, resources: Resources, releases: dict[int, int]
    ) -> None:
        self.lease = lease
        self.has_failed = False
        self.outcome: asyncio.Future[Any] | None = None
        self._tasks = tasks
        self._link = link
        self._resources = resources
        self._chunk_bytes = tasks.limits.chunk_bytes
        self._call: ProcessCall | None = None
        self._requests = Requests(tasks, lease, self._chunk_bytes)
        self._sending = asyncio.Lock()
        self._sender: asyncio.Task[None] | None = None
        self._input_failure: Error | None = None
        self._answers: dict[asyncio.Task[None], None] = {}
        self._creations: dict[asyncio.Task[None], None] = {}
        self._room = asyncio.Semaphore(_MAX_ANSWERS)
        self._releases = releases
        self._timed_out = False
        self._released = False
        self._output_seen = False

    async def run(self, call: ProcessCall | None = None, began: float = 0.0) -> End:
        """Run the attempt; its outcome is being recorded when this returns.

        Parameters
        ----------
        call : ProcessCall, optional
            Of a worker that has the input already and runs the task, since ``began`` of the loop's time; None: a new
            call of Process.
        """
        lease = self.lease
        timer: asyncio.TimerHandle | None = None
        given: Input | None = None
        try:
            loop = asyncio.get_running_loop()
            seconds = lease.task.options.max_duration_s
            if call is None:
                given = input_of(lease)
                if self._released:
                    await self._end(lease.release())
                    return End.CLEAN
                try:
                    call = self._link.process(seconds)
                except Unavailable:
                    await self._end(lease.release())
                    return End.DIRTY
                began = loop.time()
            self._call = call
            lease.on_interrupt = call.cancel
            timer = loop.call_at(began + seconds, self._expire)
            if lease.started_s is None:
                await lease.start()
            try:
                output = await self._converse(call, given)
            except Error as error:
                return await self._failed(error, loop.time() - began > seconds * _NEAR_DEADLINE)
            return await self._answered(call, output)
        except LeaseLost:
            return self._drop()
        except DataLoss as error:
            await self._fail(FailureKind.PROTOCOL, error.message)
            return self._drop()
        except Broken as error:
            await self._fail(FailureKind.PROTOCOL, str(error))
            return self._drop()
        finally:
            lease.on_interrupt = None
            if timer is not None:
                timer.cancel()
            self._let_go()

    def release(self) -> None:
        """Stop the call and give the task back to the queue, if it has not ended."""
        self._released = True
        if self._call is not None:
            self._call.cancel()

    # What is said

    async def _converse(self, call: ProcessCall, given: Input | None) -> wire.armonik.Output:
        """Send the input, take what comes, and return the worker's output.

        Raises
        ------
        Error
            With which the call ended, or the disk failed.
        Broken
            The worker broke the protocol.
        """
        if self.lease.is_interrupted:
            call.cancel()
        if given is None:
            pass
        elif given.size <= _SMALL_BYTES:
            await self._send_input(call, given)
        else:
            self._sender = asyncio.ensure_future(self._send_large_input(call, given))
        while True:
            data = await call.receive()
            if data is None:
                raise Unavailable("the worker ended its call without an output")
            try:
                reply = wire.armonik.ProcessReply.FromString(data)
            except DecodeError:
                raise Broken("the worker sent what is no ProcessReply") from None
            kind = reply.WhichOneof("type")
            if kind == "output":
                self._output_seen = True
                return reply.output
            if kind is None:
                raise Broken("the worker sent a ProcessReply without content")
            if not reply.request_id:
                await self._refuse_missing_id(kind)
                raise Broken(MISSING_ID)
            if kind == "result":
                await self._requests.result(reply.request_id, reply.result)
            elif kind == "create_small_task":
                self._create(self._requests.small(reply.request_id, reply.create_small_task))
            elif kind == "create_large_task":
                creation = await self._requests.large(reply.request_id, reply.create_large_task)
                if creation is not None:
                    self._create(creation)
            else:
                await self._room.acquire()
                self._in_background(self._answer(kind, reply.request_id, getattr(reply, kind).key))

    async def _send_input(self, call: ProcessCall, given: Input) -> None:
        async with contextlib.aclosing(compute_messages(self.lease, given, self._chunk_bytes)) as parts:  # type: ignore[type-var]
            async for part in parts:
                await call.send(part)

    async def _send_large_input(self, call: ProcessCall, given: Input) -> None:
        async with self._sending:
            try:
                await self._send_input(call, given)
            except DataLoss as error:
                self._input_failure = error
                call.cancel()
            except Error as error:
                if not call.is_done:
                    self._input_failure = error
                    call.cancel()

    async def _send(self, message: wire.armonik.ProcessRequest) -> None:
        """Send an answer, behind the whole input, unless the worker waits for none any more."""
        async with self._sending:
            if not self._output_seen and self._call is not None:
                await self._call.send(message.SerializeToString())

    async def _refuse_missing_id(self, kind: str) -> None:
        request = wire.armonik.ProcessRequest()
        if kind in ("create_small_task", "create_large_task"):
            request.create_task.reply_id = _MISSING_ID_REPLY
            request.create_task.reply.non_successfull_ids.SetInParent()
        elif kind == "result":
            return  # is never answered
        else:
            reply = getattr(request, kind)
            reply.reply_id = _MISSING_ID_REPLY
            reply.init.error = _MISSING_ID_ERROR
        with contextlib.suppress(Error, TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                await self._send(request)
                if self._call is not None:
                    # The end of a call takes along what the worker has not read yet.
                    self._call.done_sending()
                    while await self._call.receive() is not None:
                        pass

    # What is asked for

    def _create(self, creation: Creation) -> None:
        """Have new tasks made; their order is that of the calls."""
        work = asyncio.ensure_future(self._stage(creation))
        self._creations[work] = None
        work.add_done_callback(lambda done: self._creations.pop(done, None))

    async def _stage(self, creation: Creation) -> None:
        offending = creation.ids
        reason = creation.refused
        if reason:
            self._tasks.discard([request.payload for request in creation.requests])
        else:
            try:
                offending = await self.lease.stage_subtasks(creation.requests, creation.options)
            except LeaseLost:
                return  # the call is being cancelled
            except (InvalidArgument, ResourceExhausted, Unavailable) as error:
                reason = error.message
        if reason:
            logger.info("subtasks were refused", extra={"task": self.lease.task.id, "reason": reason})
        request = wire.armonik.ProcessRequest()
        request.create_task.reply_id = creation.request_id
        request.create_task.reply.CopyFrom(messages.created_message(offending))
        if reason and not offending:
            request.create_task.reply.non_successfull_ids.SetInParent()
        # What is made is made, whether or not the worker hears of it before its output.
        self._in_background(self._send_unless_over(request))

    async def _send_unless_over(self, message: wire.armonik.ProcessRequest) -> None:
        with contextlib.suppress(Error):  # the reader of the call is told too
            await self._send(message)

    async def _answer(self, kind: str, request_id: str, key: str) -> None:
        answers = answer_messages(
            self._tasks, self._resources, self.lease.task.session, kind, request_id, key, self._chunk_bytes
        )
        try:
            async with contextlib.aclosing(answers):  # type: ignore[type-var]
                async for message in answers:
                    await self._send(message)
        except Error as error:
            call = self._call
            if call is not None and not call.is_done and not self._output_seen:
                # The worker has a part already, and no message says that the rest will not come.
                self._input_failure = error
                call.cancel()
        finally:
            self._room.release()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        answer = asyncio.ensure_future(work)
        self._answers[answer] = None
        answer.add_done_callback(self._answers_done)

    def _answers_done(self, answer: asyncio.Task[None]) -> None:
        self._answers.pop(answer, None)
        if not answer.cancelled() and (error := answer.exception()) is not None:
            logger.error("a request for data could not be answered", exc_info=error)

    # The end

    async def _answered(self, call: ProcessCall, output: wire.armonik.Output) -> End:
        """Record the worker's answer, and let its call end."""
        for answer in self._answers:
            answer.cancel()
        self._releases.pop(self.lease.number, None)
        kind = output.WhichOneof("type")
        if kind == "ok":
            self._requests.check_complete()
            while self._creations:
                await asyncio.wait(self._creations)
            await self._end(self.lease.succeed(self._requests.take_values()))
        elif kind == "error":
            await self._end(self.lease.report_error(output.error.details))
        else:
            raise Broken("worker returned no output")
        if self._sender is not None and not self._sender.done():
            return self._drop()  # it has answered without having read its input
        call.done_sending()
        try:
            async with asyncio.timeout(self._tasks.limits.cancel_grace_s):
                while await call.receive() is not None:
                    pass  # too late to count
        except (Error, TimeoutError):
            return self._drop()
        return End.CLEAN

    async def _failed(self, error: Error, is_late: bool) -> End:
        """Record that there was no answer, for the first of the reasons that there are."""
        lease = self.lease
        if lease.is_lost:
            pass
        elif lease.is_cancelled:
            await self._end(lease.confirm_cancelled())
        elif self._released:
            await self._end(lease.release())
        elif self._timed_out or (is_late and isinstance(error, DeadlineExceeded)):
            await self._fail(FailureKind.TIMEOUT, DEADLINE_TEXT)
        elif isinstance(self._input_failure, DataLoss):
            await self._fail(FailureKind.PROTOCOL, self._input_failure.message)
        elif self._call is not None and not self._call.is_done or self._input_failure is not None:
            # Our own disk, not the worker.
            return await self._disk_failed(self._input_failure or error)
        else:
            await self._fail(FailureKind.CALL, error.message or f"the worker's call ended with {type(error).__name__}")
        return self._drop()

    async def _disk_failed(self, error: Error) -> End:
        """Give the task back, so that a disk which is full for a while costs no attempt; not for ever, though."""
        number = self.lease.number
        releases = self._releases[number] = self._releases.get(number, 0) + 1
        if releases <= _MAX_RELEASES:
            logger.warning("task %r goes back to the queue: %s", self.lease.task.id, error.message)
            await self._end(self.lease.release())
        else:
            del self._releases[number]
            await self._fail(FailureKind.CALL, error.message)
        self._drop()
        return End.NO_SPACE

    async def _fail(self, kind: FailureKind, text: str) -> None:
        self.has_failed = True
        await self._end(self.lease.fail(kind, text))

    async def _end(self, outcome: Coroutine[Any, Any, Any]) -> None:
        """Have the outcome recorded: in the background, for the next task need not wait for the disk."""
        self.outcome = asyncio.ensure_future(outcome)
        self.outcome.add_done_callback(self._recorded)
        await asyncio.sleep(0)  # so that what is asked for next comes behind it

    def _recorded(self, outcome: asyncio.Future[Any]) -> None:
        if outcome.cancelled():
            return
        error = outcome.exception()
        if error is not None and not isinstance(error, LeaseLost):
            logger.error("the outcome of task %r is not recorded: %s", self.lease.task.id, error)

    def _expire(self) -> None:
        if not self._output_seen:
            self._timed_out = True
            if self._call is not None:
                self._call.cancel()

    def _drop(self) -> End:
        """End the call as it is."""
        if self._call is not None:
            self._call.cancel()
        return End.DIRTY

    def _let_go(self) -> None:
        for work in (*self._answers, *self._creations):
            work.cancel()
        if self._sender is not None:
            self._sender.cancel()
        self._requests.discard()
        if self._call is not None and not self._call.is_done:
            self._call.cancel()
