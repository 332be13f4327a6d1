"""Tasks that are submitted one after the other: on one stream, on which their small results come back by themselves.

A call for each task and another one for its result would cost both sides more than the task. What was not told when the
stream breaks is asked for as if there had been none.

The stream belongs to a loop. A thread that submits a task sends it by itself when nothing else is on its way, and one
that waits reads what comes as long as nobody else does (`runtime._ext.http2_aside`): to wake the loop and to be woken
by it would cost more than the rest.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext.http2_aside import Aside, begin_aside
from runtime._ext.submission_messages import plain_news, submission_bytes
from runtime.client.tasks.failures import failure_with
from runtime.errors import CODES, DeadlineExceeded, Error, FailedPrecondition, Unavailable, Unimplemented, Unknown

if TYPE_CHECKING:
    from runtime._ext.http2_client_stream import StreamCall
    from runtime.client.tasks.calls import Calls
    from runtime.client.tasks.handle import AsyncTaskHandle

__all__ = ["MAX_BYTES", "Submission", "Submissions"]

MAX_BYTES = 256 << 10
"""A task with a payload of so many bytes goes by a request of its own."""

_PATH = "/runtime.v1.Submissions/Run"
# Submissions that have not been answered; more go by requests of their own, each of which waits for its turn.
_MAX_OPEN = 64
# Tasks whose results are to be told unasked; the results of others are asked for.
_MAX_TOLD = 256
# Results of more bytes are fetched when they are asked for, and so are the oldest when there are too many of them.
_INLINE_BYTES, _KEPT_BYTES = 64 << 10, 16 << 20
# What a handle takes that nobody else holds any more, beside its value; or empty results would be kept without end.
_HANDLE_BYTES = 1 << 10
# A stream on which nothing happens for so long is closed.
_IDLE_S = 10.0


class Submission:
    """A task with one result on its way to the server.

    Parameters
    ----------
    request : bytes
        The CreateSmallTaskRequest.
    handle : AsyncTaskHandle
    is_named : bool
        Whether its id was chosen by the caller.
    answered : callable
        Called without arguments when it has an answer or will have none; perhaps twice, and from any thread where the
        stream serves threads.

    Attributes
    ----------
    refused : sequence of str
        Ids that stand against it.
    error : Error or None
        With which it was answered.
    is_given_up : bool
        Whether nobody waits for the answer any more: it is not sent if it was not yet.
    """

    __slots__ = ("answered", "error", "handle", "is_given_up", "is_named", "refused", "request")

    def __init__(self, request: bytes, handle: AsyncTaskHandle, is_named: bool) -> None:
        self.request = request
        self.handle = handle
        self.is_named = is_named
        self.answered: Callable[[], object] = _nothing
        self.refused: Sequence[str] = ()
        self.error: Error | None = None
        self.is_given_up = False

    def outcome(self) -> Sequence[str]:
        """Return `refused`, or raise the error."""
        if self.error is not None:
            raise type(self.error)(self.error.message)
        return self.refused


class Submissions:
    """What a client submits by itself. Belongs to its loop, apart from what says that any thread may call it.

    Parameters
    ----------
    calls : Calls
    timeout_s : float
        Within which a submission is answered.

    Attributes
    ----------
    is_refused : bool
        Whether the server has no such service.
    serves_threads : bool
        Whether threads besides the loop's submit and wait; to be set before the first use.
    """

    def __init__(self, calls: Calls, timeout_s: float) -> None:
        self.is_refused = False
        self.serves_threads = False
        self.timeout_s = timeout_s
        self._calls = calls
        self._is_closed = False
        self._stream: _Stream | None = None
        self._lock = threading.Lock()
        # Whose value is at hand, oldest first.
        self._kept: OrderedDict[AsyncTaskHandle, int] = OrderedDict()
        self._kept_bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether a further submission is taken now; for any thread."""
        stream = self._stream
        return not (self.is_refused or self._is_closed) and (stream is None or stream.num_open < _MAX_OPEN)

    async def submit(self, submission: Submission) -> None:
        """Submit a task and wait for the answer, which is then in the submission.

        Raises
        ------
        DeadlineExceeded
            It is not answered in time.
        """
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not answered.done():
                answered.set_result(None)

        submission.answered = functools.partial(loop.call_soon_threadsafe, settle) if self.serves_threads else settle
        self.post(submission)
        try:
            async with asyncio.timeout(self.timeout_s):
                await answered
        except TimeoutError:
            raise self.late() from None
        finally:
            submission.is_given_up = not answered.done() or answered.cancelled()

    def post_here(self, submission: Submission) -> bool:
        """Submit a task in the calling thread if that goes at once; tell whether it did. Else see `post`."""
        stream = self._stream
        return stream is not None and not self._is_closed and stream.post_here(submission)

    def wait(self, latch: threading.Lock, timeout_s: float) -> bool:
        """Wait in the calling thread until a latch is free, and take it; tell whether it was in time.

        Parameters
        ----------
        latch : threading.Lock
            One that an answer or a result releases. What comes for others meanwhile is told to them.
        """
        stream = self._stream
        aside = None if stream is None else stream.aside
        if stream is not None and aside is not None:
            until = time.monotonic() + timeout_s
            if aside.read(functools.partial(latch.acquire, False), stream.take_plain, timeout_s):
                return True
            timeout_s = max(0.0, until - time.monotonic())
        return latch.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX))

    def post(self, submission: Submission) -> None:
        """Submit a task; its result is told to its handle, as a rule."""
        if self._is_closed:
            submission.error = FailedPrecondition(f"{self._calls.target}: the client was closed")
            submission.answered()
            return
        stream = self._stream
        if stream is None or stream.is_over:
            stream = self._stream = _Stream(self._calls, self)
        stream.post(submission)

    def late(self) -> DeadlineExceeded:
        """Return the error of a submission that is not answered."""
        return DeadlineExceeded(f"{self._calls.target}: {_PATH} was not answered within {self.timeout_s:g} s")

    def keep(self, handle: AsyncTaskHandle, key: str, value: bytes) -> None:
        """Give a handle the value of its result, and take the oldest ones from others if there are too many."""
        forgotten = []
        with self._lock:
            handle.keep(key, value)
            nbytes = len(value) + _HANDLE_BYTES
            self._kept_bytes += nbytes - self._kept.pop(handle, 0)
            self._kept[handle] = nbytes
            while self._kept_bytes > _KEPT_BYTES:
                oldest, freed = self._kept.popitem(last=False)
                self._kept_bytes -= freed
                forgotten.append(oldest)
        for oldest in forgotten:
            oldest.forget()

    def given(self, handle: AsyncTaskHandle) -> None:
        """Note that a handle has given its value away; from any thread."""
        with self._lock:
            self._kept_bytes -= self._kept.pop(handle, 0)

    async def close(self) -> None:
        """End the stream, and take nothing more. What was submitted goes on."""
        self._is_closed = True
        if self._stream is not None:
            await self._stream.close()


class _Stream:
    """One stream to the server; made anew when it has ended.

    Attributes
    ----------
    aside : Aside or None
        By which threads send and read; None where they cannot.
    """

    def __init__(self, calls: Calls, owner: Submissions) -> None:
        self.is_over = False
        self.aside: Aside | None = None
        self._calls = calls
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._error: Error = Unavailable(f"{calls.target}: {_PATH} has ended")
        self._call: StreamCall | None = None
        self._waiting: list[Submission] = []
        # Numbers are sent as they grow.
        self._numbering = threading.Lock()
        self._last_number = 0
        self._open: dict[int, Submission] = {}
        self._told: dict[int, AsyncTaskHandle] = {}
        self._used = 0.0
        self._idle: asyncio.TimerHandle | None = None
        self._runner = asyncio.ensure_future(self._run())

    @property
    def num_open(self) -> int:
        """Submissions that have not been answered."""
        return len(self._open) + len(self._waiting)

    def post(self, submission: Submission) -> None:
        """See `Submissions.post`."""
        if self._call is None:
            self._waiting.append(submission)
            return
        with self._numbering:
            number, message = self._numbered(submission)
            try:
                self._call.post(message)
                return
            except Error as error:
                reason = error.message
        # How the stream has ended is found out by who reads from it, too; this one is sent again anyhow.
        self._answer(number, Unavailable(f"{self._calls.target}: {reason}"))

    def post_here(self, submission: Submission) -> bool:
        """See `Submissions.post_here`."""
        aside = self.aside
        if aside is None or self.is_over:
            return False
        is_sent = False
        with self._numbering:
            number, message = self._numbered(submission)
            try:
                is_sent = aside.post(message)
                if not is_sent:
                    self._last_number = number - 1  # for the next one
            finally:
                if not is_sent:
                    self._open.pop(number, None)
                    if self._told.pop(number, None) is not None:
                        submission.handle.unexpect()
        return is_sent

    def _numbered(self, submission: Submission) -> tuple[int, bytes]:
        """Return the number of a submission that is about to be sent, and its message."""
        self._used = time.monotonic()
        self._last_number = number = self._last_number + 1
        tells = len(self._told) < _MAX_TOLD
        message = submission_bytes(number, submission.request, tells, _INLINE_BYTES)
        self._open[number] = submission
        if tells:
            self._told[number] = submission.handle
            submission.handle.expect()
        return number, message

    async def close(self) -> None:
        """End the stream at once."""
        self._runner.cancel()
        await asyncio.wait([self._runner])

    async def _run(self) -> None:
        try:
            async with self._calls.stream(_PATH) as call:
                self._call = call
                call.take_by(self.take_plain)
                if self._owner.serves_threads:
                    self.aside = begin_aside(call)
                waiting, self._waiting = self._waiting, []
                for submission in waiting:
                    if not submission.is_given_up:
                        self.post(submission)
                self._idle = self._loop.call_later(_IDLE_S, self._look)
                while (data := await call.receive()) is not None:
                    self._take(data)
        except Error as error:
            self._error = error
        finally:
            self._end()

    def _end(self) -> None:
        self.is_over = True
        self.aside = None
        if self._idle is not None:
            self._idle.cancel()
        if isinstance(self._error, Unimplemented):
            self._owner.is_refused = True
        for number in list(self._open):
            self._answer(number, self._error)
        for number in list(self._told):
            self._over(number)
        waiting, self._waiting = self._waiting, []
        for submission in waiting:
            submission.error = self._error
            submission.answered()

    def _look(self) -> None:
        """Close a stream that nobody uses, so that it does not keep the server's connection busy for ever."""
        if self._open or self._told or time.monotonic() - self._used < _IDLE_S:
            self._idle = self._loop.call_later(_IDLE_S, self._look)
        elif self._call is not None:
            self.is_over = True
            self._call.done_sending()

    def take_plain(self, data: bytes) -> bool:
        """Take a message that tells of nothing unusual, and tell whether it is one.

        In the thread that has read it. If that is interrupted the loop takes the message once more, so each step may be
        taken twice.
        """
        plain = plain_news(data)
        if plain is None:
            return False
        answers, results = plain
        for number, key, value in results:
            handle = self._told.get(number)
            if handle is not None:
                self._owner.keep(handle, key, value)
                handle.succeeded()
                self._over(number)
        for number in answers:
            self._answer(number, None)
        return True

    def _take(self, data: bytes) -> None:
        """Take any other message."""
        try:
            news = wire.runtime_v1.SubmissionNews.FromString(data)
        except DecodeError:
            raise Unknown(f"{self._calls.target}: {_PATH} sent what is no SubmissionNews") from None
        for told in news.result:
            handle = self._told.get(told.number)
            if handle is not None:
                self._settle(handle, told.result)
                self._over(told.number)
        for said in news.answer:
            if said.code:
                kind = CODES.get(said.code, Unknown)
                self._answer(said.number, kind(f"{self._calls.target}: {said.message}"))
            else:
                self._answer(said.number, None, said.refused_id)

    def _settle(self, handle: AsyncTaskHandle, result: Any) -> None:
        if not result.status:
            return  # its session was deleted; whoever asks is told so
        if result.status == "ABORTED":
            handle.failure = failure_with(result.owner_id, result.owner_status, result.error)
            return
        if result.HasField("value"):
            self._owner.keep(handle, result.key, result.value)
        handle.succeeded()

    def _answer(self, number: int, error: Error | None, refused: Sequence[str] = ()) -> None:
        """Tell a submission what has become of it."""
        submission = self._open.get(number)
        if error is not None or refused:
            self._over(number)
        if submission is not None:
            submission.error = error
            submission.refused = tuple(refused)
            submission.answered()
            self._open.pop(number, None)

    def _over(self, number: int) -> None:
        """Nothing more is told of a submission."""
        handle = self._told.get(number)
        if handle is not None:
            handle.told()
            self._told.pop(number, None)


def _nothing() -> None:
    return None
