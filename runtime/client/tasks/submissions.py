"""Tasks that are submitted one after the other: on one stream, on which their small results come back by themselves.

A call for each task and another one for its result would cost both sides more than the task. What was not told when the
stream breaks is asked for as if there had been none.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from runtime import wire
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
        Called without arguments on the client's loop, when it has an answer or will have none.

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
    """

    def __init__(self, calls: Calls, timeout_s: float) -> None:
        self.is_refused = False
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
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        submission.answered = lambda: None if answered.done() else answered.set_result(None)
        self.post(submission)
        try:
            async with asyncio.timeout(self.timeout_s):
                await answered
        except TimeoutError:
            raise self.late() from None
        finally:
            submission.is_given_up = not answered.done() or answered.cancelled()

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
            self._kept[handle] = nbytes = len(value) + _HANDLE_BYTES
            self._kept_bytes += nbytes
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
    """One stream to the server; made anew when it has ended."""

    def __init__(self, calls: Calls, owner: Submissions) -> None:
        self.is_over = False
        self._calls = calls
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._error: Error = Unavailable(f"{calls.target}: {_PATH} has ended")
        self._call: StreamCall | None = None
        self._waiting: list[Submission] = []
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
        self._used = self._loop.time()
        self._last_number = number = self._last_number + 1
        tells = len(self._told) < _MAX_TOLD
        self._open[number] = submission
        if tells:
            self._told[number] = submission.handle
            submission.handle.expect()
        try:
            self._call.post(submission_bytes(number, submission.request, tells, _INLINE_BYTES))
        except Error as error:
            # How the stream has ended is found out by who reads from it, too; this one is sent again anyhow.
            self._answer(number, Unavailable(f"{self._calls.target}: {error.message}"))

    async def close(self) -> None:
        """End the stream at once."""
        self._runner.cancel()
        await asyncio.wait([self._runner])

    async def _run(self) -> None:
        try:
            async with self._calls.stream(_PATH) as call:
                self._call = call
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
        if self._open or self._told or self._loop.time() - self._used < _IDLE_S:
            self._idle = self._loop.call_later(_IDLE_S, self._look)
        elif self._call is not None:
            self.is_over = True
            self._call.done_sending()

    def _take(self, data: bytes) -> None:
        plain = plain_news(data)
        if plain is not None:
            answers, results = plain
            for number, key, value in results:
                handle = self._told.get(number)
                if handle is not None:
                    self._owner.keep(handle, key, value)
                    handle.succeeded()
                    self._over(number)
            for number in answers:
                self._answer(number, None)
            return
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
        submission = self._open.pop(number, None)
        if error is not None or refused:
            self._over(number)
        if submission is not None:
            submission.error = error
            submission.refused = tuple(refused)
            submission.answered()

    def _over(self, number: int) -> None:
        """Nothing more is told of a submission."""
        handle = self._told.pop(number, None)
        if handle is not None:
            handle.told()


def _nothing() -> None:
    return None
