"""runtime.v1.Submissions: tasks submitted a few at a time on one stream, and their results as they come."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.submission_messages import news_bytes, plain_submission
from runtime.errors import Error, Internal, InvalidArgument, ResourceExhausted, Unavailable
from runtime.objects.value import Value
from runtime.tasks import messages
from runtime.tasks.creation import Refused
from runtime.tasks.model import ResultStatus
from runtime.tasks.results_service import checked_inline_bytes, tell_small_result
from runtime.tasks.service import small_request_of

if TYPE_CHECKING:
    from runtime.edge.plane import Handler
    from runtime.tasks.following import Followed
    from runtime.tasks.tasks import ResultView, Tasks

__all__ = ["SERVICE", "SubmissionsService"]

logger = logging.getLogger(__name__)

SERVICE = "runtime.v1.Submissions"

MAX_AWAITED = 4096
# Submissions of one stream that are being made, or whose answers the client does not read, at a time, and their bytes;
# the next one is read when one of them has been answered.
_MAX_OPEN, _MAX_OPEN_BYTES = 64, 4 << 20
# Results that are looked up together.
_AT_ONCE = 256
# A message is sent when it has so many bytes of values.
_MESSAGE_BYTES = 256 << 10


class SubmissionsService:
    """The call of Submissions.

    Parameters
    ----------
    tasks : callable
        Returns the tasks of the server.
    chunk_bytes, lenient_small_tasks
        See `runtime.tasks.service.SubmitterService`.
    """

    def __init__(self, tasks: Callable[[], Awaitable[Tasks]], chunk_bytes: int, lenient_small_tasks: bool) -> None:
        self._tasks = tasks
        self._chunk_bytes = chunk_bytes
        self._lenient = lenient_small_tasks

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {SERVICE: {"Run": self.run}}

    async def run(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Run."""
        post = getattr(context, "post", None)
        stream = _Stream(await self._tasks(), self._chunk_bytes, self._lenient, post)
        take_by = getattr(context, "take_by", None)
        if take_by is not None:
            take_by(stream.take)
        reader = asyncio.ensure_future(stream.read(requests))
        try:
            while news := await stream.next(reader):
                for message in news:
                    yield message
                stream.sent()
        finally:
            # What is being made goes on; whoever has gone finds it by asking.
            stream.close()
            reader.cancel()
            await asyncio.wait([reader])
            if not reader.cancelled():
                reader.exception()  # `next` has raised it, or the caller has gone


class _Stream:
    """One call.

    What there is to say is posted by callbacks as soon as it is known, without a turn of a task. Where that will not do
    - the client reads slowly, a value lies on the disk, the transport posts nothing - the call's own task sends it.
    """

    def __init__(
        self, tasks: Tasks, chunk_bytes: int, lenient: bool, post: Callable[[bytes], bool] | None
    ) -> None:
        self._tasks = tasks
        self._chunk_bytes = chunk_bytes
        self._lenient = lenient
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._follower = tasks.follower(self._news_came)
        # Numbers, refused ids, codes, texts; and the bytes of the submissions.
        self._answers: list[tuple[int, Sequence[str], int, str, int]] = []
        self._results: deque[tuple[Followed, ResultView | None]] = deque()
        self._num_open = self._held_bytes = 0
        self._last_number = 0
        # Whether `read` has a submission for which there is no room yet: nothing overtakes it.
        self._is_held = False
        self._room = asyncio.Event()
        self._wake = asyncio.Event()
        self._is_flushing = self._waits_for_answers = self._is_closed = False
        self._is_slow = post is None
        self._failure: Exception | None = None

    async def read(self, requests: AsyncIterator[bytes]) -> None:
        """Take submissions until the client closes its side.

        Raises
        ------
        InvalidArgument
            The client sends what cannot be.
        """
        try:
            async for data in requests:
                self._is_held = True
                while self._is_full:
                    self._room.clear()
                    await self._room.wait()
                self._is_held = False
                if self._follower.is_closed:
                    return  # whoever is not answered asks the next server
                submission = plain_submission(data) or _submission_of(data)
                number = submission[0]
                if number <= self._last_number:
                    raise InvalidArgument(f"number: {number} behind {self._last_number}; it must grow")
                self._last_number = number
                self._held_bytes += len(data)
                self._submit(submission, len(data))
        finally:
            self._wake.set()

    def take(self, data: bytes) -> bool:
        """Take a submission as soon as it has come, if it is a usual one and there is room; else `read` takes it."""
        if self._is_held or self._is_closed or self._follower.is_closed or self._is_full:
            return False
        submission = plain_submission(data)
        if submission is None or submission[0] <= self._last_number:
            return False
        self._last_number = submission[0]
        self._held_bytes += len(data)
        try:
            self._submit(submission, len(data))
        except Exception as error:
            self._failure = error  # raised by `next`
            self._wake.set()
        return True

    @property
    def _is_full(self) -> bool:
        return self._num_open + len(self._answers) >= _MAX_OPEN or self._held_bytes >= _MAX_OPEN_BYTES

    async def next(self, reader: asyncio.Future[None]) -> list[bytes]:
        """Return messages that are to be sent by the call's task; none when everything has been told.

        Raises
        ------
        InvalidArgument
            As `read`.
        Unavailable
            The server stops.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            if self._answers or self._results or (self._is_slow and self._follower.has_news):
                self._is_slow = True
                if found := await self._messages():
                    return found
                continue
            if reader.done() and not self._follower.is_closed:
                reader.result()
                if not self._num_open and not self._follower.num_awaited:
                    return []
            if self._follower.is_closed and not self._follower.has_news and not self._num_open:
                raise Unavailable("the server stops")
            await self._wake.wait()
            self._wake.clear()

    def sent(self) -> None:
        """Everything that `next` had returned has left."""
        self._is_slow = self._post is None
        self._news_came()

    def close(self) -> None:
        """Follow nothing any more."""
        self._is_closed = True
        self._follower.leave()

    def _submit(self, submission: tuple[int, bytes, bool, int], nbytes: int) -> None:
        """Have the tasks of a submission made."""
        number, request, tells_results, inline_bytes = submission
        num_awaited = 0
        try:
            session_id, requests, options = small_request_of(request, self._chunk_bytes, self._lenient)
            if tells_results:
                limit = checked_inline_bytes(inline_bytes)
                num_awaited = sum(len(request.expected_keys) for request in requests)
                whole = self._follower.num_awaited + num_awaited
                if whole > MAX_AWAITED:
                    raise ResourceExhausted(
                        f"tells_results: {whole} results would be awaited on this stream; at most {MAX_AWAITED} are, "
                        "so ask runtime.v1.Results for the others"
                    )
                self._follower.expect(num_awaited)
                making = self._tasks.submit(session_id, requests, options, self._follower, (number, limit))
            else:
                making = self._tasks.submit(session_id, requests, options)
        except Error as error:
            self._answer(number, nbytes, (), error)
            return
        self._num_open += 1
        making.add_done_callback(functools.partial(self._made, number, nbytes, num_awaited))

    def _made(self, number: int, nbytes: int, num_awaited: int, making: asyncio.Future[tuple[str, ...]]) -> None:
        self._num_open -= 1
        error = making.exception()
        refused: Sequence[str] = ()
        if isinstance(error, Refused):
            refused, error = error.ids, None
        if refused or error is not None:
            self._follower.expect(-num_awaited)
        self._note_answer(number, nbytes, refused, error)
        if self._num_open:
            self._news_came()
        else:
            self._flush()  # now: no other answer is going to come along

    def _answer(self, number: int, nbytes: int, refused: Sequence[str], error: BaseException | None) -> None:
        self._note_answer(number, nbytes, refused, error)
        self._news_came()

    def _note_answer(self, number: int, nbytes: int, refused: Sequence[str], error: BaseException | None) -> None:
        code, text = 0, ""
        if isinstance(error, Error):
            code, text = error.code, error.message
        elif error is not None:
            logger.error("tasks of a submission could not be made", exc_info=error)
            code, text = Internal.code, f"the tasks could not be made: {type(error).__name__}: {error}"
        self._answers.append((number, refused, code, text, nbytes))

    # What is said

    def _news_came(self) -> None:
        if not self._num_open and self._follower.has_all_news:
            self._flush()  # now: nothing else is going to come along
        elif not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush_soon)

    def _flush_soon(self) -> None:
        if self._num_open and not self._waits_for_answers:
            # What has become of a task and that it was made may be told in one turn: one message.
            self._waits_for_answers = True
            self._loop.call_soon(self._flush_soon)
            return
        self._waits_for_answers = self._is_flushing = False
        self._flush()

    def _flush(self) -> None:
        """Post what there is to say, or have the call's task send it."""
        if self._is_closed:
            return
        has_news = self._answers or self._results or self._follower.has_news
        if has_news and self._post is not None and not self._is_slow:
            try:
                self._results += self._tasks.followed(self._follower.take(_AT_ONCE))
                self._post_small(self._post)
            except Exception as error:  # the call has ended, or the store fails
                self._failure = error  # raised by `next`
        follower = self._follower
        if self._is_slow or self._failure is not None or follower.is_closed or not follower.num_awaited:
            self._wake.set()

    def _post_small(self, post: Callable[[bytes], bool]) -> None:
        if any(view is not None and view.value.ref is not None for _, view in self._results):
            self._is_slow = True
            return
        results = [(one, view, one.tag[1]) for one, view in self._results]
        self._results.clear()
        for message in self._encoded(results):
            if not post(message):
                self._is_slow = True
        if self._follower.has_news:
            self._news_came()

    async def _messages(self) -> list[bytes]:
        """Return messages of a part of what there is to say, with values from the disk."""
        if not self._results:
            self._results += self._tasks.followed(self._follower.take(_AT_ONCE))
        results: list[tuple[Followed, ResultView | None, int]] = []
        nbytes = 0
        while self._results and nbytes < _MESSAGE_BYTES:
            one, view = self._results.popleft()
            limit = one.tag[1]
            if view is not None and view.value.ref is not None and view.value.size <= limit:
                try:
                    data = b"".join([piece async for piece in self._tasks.read(view.value)])
                except Error:
                    limit = -1  # whoever asks for it is told why
                else:
                    view = view._replace(value=Value(data))
                    nbytes += len(data)
            results.append((one, view, limit))
        return self._encoded(results)

    def _encoded(self, results: Sequence[tuple[Followed, ResultView | None, int]]) -> list[bytes]:
        """Return messages of all answers, and of results with the values that are at hand and below a limit each."""
        plain = self._plain(results)
        if plain is not None:
            return plain
        news = self._said()
        found: list[bytes] = []
        nbytes = 0
        for one, view, limit in results:
            entry = news.result.add(number=one.tag[0]).result
            if view is None:
                entry.key = one.key
            else:
                nbytes += tell_small_result(entry, view, limit)
            if nbytes >= _MESSAGE_BYTES:
                found.append(news.SerializeToString())
                news, nbytes = wire.runtime_v1.SubmissionNews(), 0
        if news.answer or news.result:
            found.append(news.SerializeToString())
        return found

    def _plain(self, results: Sequence[tuple[Followed, ResultView | None, int]]) -> list[bytes] | None:
        """Do the same if every answer is that the tasks were made, and every result is there with a small value."""
        if any(refused or code for _, refused, code, _, _ in self._answers):
            return None
        told = []
        nbytes = 0
        for one, view, limit in results:
            if view is None or view.status is not ResultStatus.COMPLETED:
                return None
            value = view.value
            nbytes += value.size
            if value.ref is not None or value.size > limit:
                return None
            told.append((one.tag[0], view.key, value.data))
        if nbytes > _MESSAGE_BYTES:
            return None
        answers = self._take_answers()
        return [news_bytes([number for number, _, _, _, _ in answers], told)] if answers or told else []

    def _said(self) -> wire.runtime_v1.SubmissionNews:
        """Return a message with all answers."""
        news = wire.runtime_v1.SubmissionNews()
        for number, refused, code, text, _ in self._take_answers():
            news.answer.add(number=number, refused_id=refused, code=code, message=text)
        return news

    def _take_answers(self) -> list[tuple[int, Sequence[str], int, str, int]]:
        """Return all answers, which leave now: there is room for as many submissions."""
        answers, self._answers = self._answers, []
        if answers:
            self._held_bytes -= sum(nbytes for _, _, _, _, nbytes in answers)
            self._room.set()
        return answers


def _submission_of(data: bytes) -> tuple[int, bytes, bool, int]:
    message = messages.parse(wire.runtime_v1.Submission, data)
    return message.number, message.request, message.tells_results, message.inline_bytes
