"""A session of the task plane, by which tasks are submitted and waited for."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from runtime import wire
from runtime.client.tasks.arguments import checked_handles, checked_text, checked_texts, checked_timeout
from runtime.client.tasks.calls import SUBMITTER
from runtime.client.tasks.completion import completed
from runtime.client.tasks.creation import (
    SMALL_TASKS,
    Form,
    NewTask,
    grouped,
    is_medium,
    keys_of,
    large_requests,
    make_options,
    options_message,
    random_ids,
    request_head,
    requested,
    small_request,
)
from runtime.client.tasks.handle import AsyncTaskHandle
from runtime.client.tasks.near import NotNear
from runtime.client.tasks.near_uploads import NearUpload
from runtime.client.tasks.payloads import Payload
from runtime.client.tasks.progress import Progress, progress_of
from runtime.client.tasks.submissions import MAX_BYTES, Submission
from runtime.client.tasks.uploads import Upload
from runtime.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)
from runtime.tasks.model import TaskOptions, TaskStatus

if TYPE_CHECKING:
    from runtime.client.tasks.aio import AsyncTaskClient

__all__ = ["AsyncTaskSession"]

# Large results that are fetched at once.
_FETCHES = 16
# Medium payloads of one submission from where on it is worth while to agree with a near server on where they go: that
# takes two questions and opens its file.
_NEAR_BYTES = 4 << 20
# Ids of one request that names tasks.
_IDS_AT_ONCE = 2000


class _Stored:
    """How far a submission is.

    Attributes
    ----------
    number, total : int
        Tasks that are stored, and all of them.
    is_near : bool
        Whether a near server is only told of payloads.
    may_begin : bool
        Whether tasks may begin before they are stored.
    """

    __slots__ = ("is_near", "may_begin", "number", "total")

    def __init__(self, total: int, is_near: bool, may_begin: bool) -> None:
        self.may_begin = may_begin
        self.number = 0
        self.total = total
        self.is_near = is_near


class AsyncTaskSession:
    """A session and its tasks; made by `AsyncTaskClient.session`.

    Attributes
    ----------
    client : AsyncTaskClient
    id : str
    options : TaskOptions
        Of tasks that say nothing else.
    """

    def __init__(self, client: AsyncTaskClient, id: str, options: TaskOptions, *, exists: bool) -> None:
        self.client = client
        self.id = checked_text("id of a session", id)
        self.options = options
        self._exists = exists
        self._head: bytes | None = None
        # Ids of tasks that are submitted one after the other follow each other, so that indices grow at one end.
        self._prefix = f"{random_ids(1)[0]}-"
        self._numbers = itertools.count()
        self._creating = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.create()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with contextlib.suppress(NotFound, Unavailable):
                await self.cancel()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r} on {self.client.calls.target}>"

    async def create(self) -> None:
        """Make the session at the server, if that was not done yet.

        Raises
        ------
        AlreadyExists
            If another one has the id.
        """
        async with self._creating:
            if self._exists:
                return
            request = wire.armonik.CreateSessionRequest(id=self.id, default_task_option=options_message(self.options))
            sent = [0]

            async def once() -> Any:
                sent[0] += 1
                data = request.SerializeToString()
                return await self.client.calls.once(
                    SUBMITTER + "CreateSession", (data,), wire.armonik.CreateSessionReply
                )

            reply = await self.client.calls.repeated(once)
            # A request that was sent twice finds what the first one has made.
            if reply.WhichOneof("result") == "error" and not (sent[0] > 1 and "exists already" in reply.error):
                raise AlreadyExists(f"{self.client.calls.target}: {reply.error}; `attach` uses a session that exists")
            self._exists = True

    def handle(self, id: str, keys: Sequence[str] | None = None) -> AsyncTaskHandle:
        """Return the handle of a task that was submitted before; ``keys`` are its results', its id when left out."""
        return AsyncTaskHandle(self, id, (id,) if keys is None else tuple(keys))

    # -- submitting ------------------------------------------------------------------------------------------------

    async def submit(
        self,
        payload: Any = b"",
        *,
        id: str | None = None,
        keys: Sequence[str] | None = None,
        dependencies: Iterable[str | AsyncTaskHandle] = (),
        priority: int | None = None,
        max_retries: int | None = None,
        max_duration_s: float | None = None,
        options: Mapping[str, str] | None = None,
    ) -> AsyncTaskHandle:
        """Submit one task; it is stored when this returns.

        Parameters
        ----------
        payload : bytes-like, os.PathLike, or arrays
            A path stands for the file's content; arrays as the client was told.
        id : str, optional
            Unique in the whole server; a random one when left out.
        keys : sequence of str, optional
            Keys of its results, unique in the session; its id when left out.
        dependencies : iterable of str or handle
            Keys of results, or tasks for all of theirs, that must be there before it runs.
        priority, max_retries, max_duration_s, options
            What differs from the session's options.

        Raises
        ------
        AlreadyExists
            If the id or a key is in use; names the task.
        FailedPrecondition
            If the session is canceled.
        NotFound
            If there is no such session.
        """
        await self.create()
        await self.client.chunk_bytes()
        dependencies = list(keys_of(dependencies))  # read once, though there are two ways
        submission = self.submission(
            payload, id=id, keys=keys, dependencies=dependencies, priority=priority, max_retries=max_retries,
            max_duration_s=max_duration_s, options=options,
        )
        if submission is not None:
            with contextlib.suppress(Unimplemented):  # by a server of another kind
                await self.client.submissions.submit(submission)
                return await self.submitted(submission)
        (handle,) = await self.submit_all(
            [payload], ids=None if id is None else [id], keys=None if keys is None else [keys],
            dependencies=[dependencies], priority=priority, max_retries=max_retries, max_duration_s=max_duration_s,
            options=options,
        )
        return handle

    def submission(
        self,
        payload: Any,
        *,
        id: str | None = None,
        keys: Sequence[str] | None = None,
        dependencies: Iterable[str | AsyncTaskHandle] = (),
        priority: int | None = None,
        max_retries: int | None = None,
        max_duration_s: float | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Submission | None:
        """Return a task of `submit` ready for the stream of submissions; None when it is to go another way.

        From any thread.
        """
        submissions, chunk_bytes = self.client.submissions, self.client.known_chunk_bytes
        if not self._exists or not chunk_bytes or not submissions.has_room:
            return None
        name = f"{self._prefix}{next(self._numbers)}" if id is None else checked_text("id", id)
        given = (name,) if keys is None else checked_texts("keys", keys)
        if len(given) != 1:
            return None
        task = NewTask(name, given, tuple(keys_of(dependencies)), Payload(payload, self.client.arrays))
        if not task.payload.is_at_hand or not 0 < task.payload.size < min(chunk_bytes, MAX_BYTES):
            return None
        if (priority, max_retries, max_duration_s, options) == (None, None, None, None):
            if self._head is None:
                self._head = request_head(self.id, options_message(self.options))
            head = self._head
        else:
            head = request_head(self.id, options_message(self._with(priority, max_retries, max_duration_s, options)))
        request = head + requested(task)
        return Submission(request, AsyncTaskHandle(self, name, given), id is not None)

    async def submitted(self, submission: Submission) -> AsyncTaskHandle:
        """Return the handle of a submission that was answered, having sent it again if the answer was lost.

        Raises
        ------
        Unimplemented
            By a server of another kind.
        Error
            As `submit`.
        """
        is_answered = True

        async def outcome() -> Sequence[str]:
            nonlocal is_answered
            if not is_answered:
                await self.client.submissions.submit(submission)
            is_answered = False
            return submission.outcome()

        await self._created([submission.handle.id], submission.is_named, outcome)
        return submission.handle

    async def map(
        self, payloads: Iterable[Any], *, dependencies: Iterable[str | AsyncTaskHandle] = (), **options: Any
    ) -> list[AsyncTaskHandle]:
        """Submit a task for each payload, many with one request; ``dependencies`` and ``options`` are those of all."""
        given = list(payloads)
        needed = list(dependencies)
        return await self.submit_all(given, dependencies=[needed] * len(given), **options)

    async def submit_all(
        self,
        payloads: Sequence[Any],
        *,
        ids: Sequence[str] | None = None,
        keys: Sequence[Sequence[str]] | None = None,
        dependencies: Sequence[Iterable[str | AsyncTaskHandle]] | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        max_duration_s: float | None = None,
        options: Mapping[str, str] | None = None,
    ) -> list[AsyncTaskHandle]:
        """Submit tasks, each with an id, keys and dependencies of its own; see `submit`.

        Tasks are stored in their order, in groups. When one group is refused, those before it are stored; the error
        says how many.
        """
        await self.create()
        chunk_bytes = await self.client.chunk_bytes()
        is_named = ids is not None
        names = [checked_text("id", id) for id in ids] if ids is not None else random_ids(len(payloads))
        for name, values in (("ids", ids), ("keys", keys), ("dependencies", dependencies)):
            if values is not None and len(values) != len(payloads):
                raise InvalidArgument(f"{name}: {len(values)} for {len(payloads)} payloads")
        message = options_message(self._with(priority, max_retries, max_duration_s, options))
        arrays = self.client.arrays
        new = [
            NewTask(
                name, checked_texts("keys", keys[index]) if keys is not None else (name,),
                tuple(keys_of(dependencies[index])) if dependencies is not None and dependencies[index] else (),
                Payload(payloads[index], arrays),
            )
            for index, name in enumerate(names)
        ]
        medium_bytes = sum(task.payload.size for task in new if is_medium(task.payload))
        is_near = self.client.may_be_near and medium_bytes >= _NEAR_BYTES
        stored = _Stored(len(new), is_near, not is_named and keys is None)
        groups = grouped(new, chunk_bytes, has_medium=self.client.has_uploads, is_near=stored.is_near)
        try:
            for form, some in itertools.groupby(groups, key=lambda found: found[0]):
                # Several requests do not wait for each other's answers.
                are_several = form is Form.MEDIUM or (form is Form.SMALL and len(new) > SMALL_TASKS)
                together = are_several and self.client.has_uploads
                submit = self._submit_together if together else self._submit_apart
                await submit((group for _, group in some), form, message, is_named, stored)
        except (AlreadyExists, FailedPrecondition) as error:
            if not stored.number:
                raise
            text = f"{error.message}; the first {stored.number} of {stored.total} tasks are stored"
            raise type(error)(text) from None
        return [AsyncTaskHandle(self, task.id, task.keys) for task in new]

    # -- waiting ---------------------------------------------------------------------------------------------------

    async def as_completed(
        self, handles: Iterable[AsyncTaskHandle], *, timeout_s: float | None = None
    ) -> AsyncGenerator[AsyncTaskHandle, None]:
        """Yield handles as their tasks end, well or not.

        Raises
        ------
        DeadlineExceeded
            If some have not ended after ``timeout_s`` seconds; names how many, and one of them.
        """
        checked_timeout(timeout_s)
        async with contextlib.aclosing(completed(self, self._mine(handles), timeout_s)) as ended:
            async for some in ended:
                for handle in some:
                    yield handle

    async def gather(
        self,
        handles: Iterable[AsyncTaskHandle],
        *,
        timeout_s: float | None = None,
        progress: bool | Progress = False,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Return the results of tasks in their order, each as `AsyncTaskHandle.result` has it.

        Parameters
        ----------
        progress : bool or callable
            True shows a bar on the standard error stream; a callable gets ``(done, total, failed)``.
        return_exceptions : bool
            Whether failures take the place of results; otherwise the first one ends the waiting.

        Raises
        ------
        TaskFailed
            Of the first task that failed. The others go on; cancel them if they are of no use.
        DeadlineExceeded
            After ``timeout_s`` seconds.
        """
        checked_timeout(timeout_s)
        wanted = self._mine(handles)
        tell = progress_of(progress)
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        done = failed = 0
        tell(0, len(wanted), 0)
        try:
            async with contextlib.aclosing(completed(self, wanted, timeout_s, with_values=True)) as ended:
                async for some in ended:
                    for handle in some:
                        done += 1
                        failed += handle.failure is not None
                        tell(done, len(wanted), failed)
                        if handle.failure is not None and not return_exceptions:
                            raise handle.failure
        finally:
            tell.close()
        at_once = asyncio.Semaphore(_FETCHES)

        async def fetch(handle: AsyncTaskHandle) -> Any:
            if handle.failure is not None:
                return handle.failure
            async with at_once:
                left = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
                return await handle.result(timeout_s=left)

        # The same task may be there more than once; its value is fetched once.
        values = {handle: handle.take_kept() for handle in wanted}
        left = [handle for handle, value in values.items() if value is None]
        values.update(zip(left, await asyncio.gather(*map(fetch, left)), strict=True))
        return [values[handle] for handle in wanted]

    async def wait(self, timeout_s: float | None = None) -> dict[str, int]:
        """Wait until no task of the session is left to run, and return how many attempts have each status.

        Raises
        ------
        DeadlineExceeded
            After ``timeout_s`` seconds, with the counts; the tasks go on.
        NotFound
            If there is no such session.
        """
        checked_timeout(timeout_s)
        chosen = wire.armonik.TaskFilter(session=wire.armonik.TaskFilter.IdsRequest(ids=[self.id]))
        message = wire.armonik.WaitRequest(filter=chosen)
        try:
            async with asyncio.timeout(timeout_s) as bound:
                reply = await self.client.submitter("WaitForCompletion", message, wire.armonik.Count, waits=True)
        except TimeoutError:
            if not bound.expired():
                raise
            left = " ".join(f"{name}={count}" for name, count in sorted((await self.counts()).items()))
            raise DeadlineExceeded(f"session {self.id!r} has not ended within {timeout_s:g} s: {left}") from None
        return await self._counts_of(reply)

    async def counts(self) -> dict[str, int]:
        """Return how many attempts of the session have each status.

        Raises
        ------
        NotFound
            If there is no such session.
        """
        chosen = wire.armonik.TaskFilter.IdsRequest(ids=[self.id])
        message = wire.armonik.TaskFilter(session=chosen)
        reply = await self.client.submitter("CountTasks", message, wire.armonik.Count)
        return await self._counts_of(reply)

    # -- ending ----------------------------------------------------------------------------------------------------

    async def cancel(self) -> None:
        """Cancel the session and all of its tasks; nothing can be submitted afterwards.

        Raises
        ------
        NotFound
            If it does not exist or is canceled already.
        """
        if not self._exists:
            return
        await self.client.submitter("CancelSession", wire.armonik.Session(id=self.id), wire.armonik.Empty)

    async def cancel_tasks(self, handles: Iterable[AsyncTaskHandle]) -> None:
        """Cancel tasks; those that have ended stay as they are."""
        ids = [handle.id for handle in checked_handles(handles, AsyncTaskHandle)]
        for start in range(0, len(ids), _IDS_AT_ONCE):
            chosen = wire.armonik.TaskFilter.IdsRequest(ids=ids[start : start + _IDS_AT_ONCE])
            await self.client.submitter("CancelTasks", wire.armonik.TaskFilter(task=chosen), wire.armonik.Empty)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _mine(self, handles: Iterable[AsyncTaskHandle]) -> list[AsyncTaskHandle]:
        found = checked_handles(handles, AsyncTaskHandle)
        for handle in found:
            if handle.session is not self and handle.session.id != self.id:
                raise InvalidArgument(
                    f"handles: task {handle.id!r} is of session {handle.session.id!r}, not of {self.id!r}"
                )
        return found

    def _with(
        self, priority: int | None, max_retries: int | None, max_duration_s: float | None,
        options: Mapping[str, str] | None,
    ) -> TaskOptions:
        mine = self.options
        return make_options(
            mine.priority if priority is None else priority,
            mine.max_retries if max_retries is None else max_retries,
            mine.max_duration_s if max_duration_s is None else max_duration_s,
            mine.entries if options is None else options,
        )

    async def _submit_apart(
        self, groups: Iterator[list[NewTask]], form: Form, options: Any, is_named: bool, stored: _Stored
    ) -> None:
        """Have groups made by a call each."""
        following = self._prepared(next(groups, None), form, options)
        while following is not None:
            group, request = following
            creation = self._create(group, request, options, is_named)
            if stored.number + len(group) == stored.total:
                following = None
                await creation
            else:
                following = await self._beside(creation, groups, form, options)
            stored.number += len(group)

    async def _submit_together(
        self, groups: Iterator[list[NewTask]], form: Form, options: Any, is_named: bool, stored: _Stored
    ) -> None:
        """The same by one call, which takes further groups while the server stores those before them."""

        async def answered(group: Sequence[NewTask], refused: list[str], times: int) -> list[NewTask]:
            again = []
            if refused and times > 1 and stored.may_begin:
                # A request before has made some of them, which had begun by then.
                again = [task for task in group if task.id not in refused]
            if len(again) in (0, len(group)):
                await self._check_answer([task.id for task in group], refused, times, is_named)
            stored.number += len(group) - len(again)
            return again

        upload: Upload
        if form is Form.MEDIUM and stored.is_near:
            upload = NearUpload(self.client.calls, self.id, groups, options, answered, may_begin=stored.may_begin)
        else:
            upload = Upload(self.client.calls, self.id, groups, options, answered)
        try:
            if isinstance(upload, NearUpload):
                try:
                    await upload.run()
                    return
                except (NotNear, Unimplemented):  # another machine or user, or an older server
                    self.client.may_be_near = stored.is_near = False
                    upload = upload.elsewhere()
            await upload.run()
        except Unimplemented:  # by a server of another kind, or an older one
            self.client.has_uploads = False
            chunk_bytes = await self.client.chunk_bytes()
            for group in upload.left():
                for form, part in grouped(group, chunk_bytes):
                    await self._submit_apart(iter([part]), form, options, is_named, stored)

    def _prepared(
        self, group: list[NewTask] | None, form: Form, options: Any
    ) -> tuple[list[NewTask], bytes | None] | None:
        """Return a group with the request for it, if it is small enough for one message."""
        if group is None:
            return None
        return group, small_request(self.id, group, options) if form is Form.SMALL else None

    async def _beside(
        self, creation: Coroutine[Any, Any, None], groups: Iterator[list[NewTask]], form: Form, options: Any
    ) -> tuple[list[NewTask], bytes | None] | None:
        """Wait for a creation, and prepare the next group while the server is at work."""
        creating = asyncio.ensure_future(creation)
        try:
            await asyncio.sleep(0)
            following = self._prepared(next(groups, None), form, options)
            await creating
            return following
        finally:
            creating.cancel()

    async def _create(self, group: Sequence[NewTask], request: bytes | None, options: Any, is_named: bool) -> None:
        if request is not None:
            await self._created([task.id for task in group], is_named, lambda: _refused(self.client.calls.once(
                SUBMITTER + "CreateSmallTasks", (request,), wire.armonik.CreateTaskReply
            )))
            return
        chunk_bytes = await self.client.chunk_bytes()
        await self._created([task.id for task in group], is_named, lambda: _refused(self.client.calls.upload(
            SUBMITTER + "CreateLargeTasks", large_requests(self.id, group, options, chunk_bytes),
            wire.armonik.CreateTaskReply,
        )))

    async def _created(
        self, ids: Sequence[str], is_named: bool, create: Callable[[], Awaitable[Sequence[str]]]
    ) -> None:
        """Have tasks made by what returns the refused ids; it may be done again, since no id is stored twice."""
        sent = 0

        async def once() -> Sequence[str]:
            nonlocal sent
            sent += 1
            return await create()

        refused = await self.client.calls.repeated(once)
        await self._check_answer(ids, refused, sent, is_named)

    async def _check_answer(self, ids: Iterable[str], refused: Sequence[str], sent: int, is_named: bool) -> None:
        """Raise why tasks that were sent so many times are not stored, if they are not."""
        if not refused or (sent > 1 and not is_named and set(refused) >= set(ids)):
            # Random ids that are in use already come from the first request, whose answer was lost.
            return
        target = self.client.calls.target
        if await self._is_canceled():
            raise FailedPrecondition(f"{target}: session {self.id!r} is canceled; nothing can be submitted to it")
        shown = ", ".join(map(repr, refused[:10])) + (f" and {len(refused) - 10} more" if len(refused) > 10 else "")
        what = "none was stored" if sent == 1 else f"perhaps by this very request, which was sent {sent} times"
        raise AlreadyExists(
            f"{target}: session {self.id!r}: the id, or a key, of these tasks is in use already: {shown}; {what}"
        )

    async def _counts_of(self, reply: Any) -> dict[str, int]:
        counts = {TaskStatus(entry.status).name: entry.count for entry in reply.values if entry.count}
        # The calls that count know tasks only: nothing is also what they say of a session that does not exist.
        if not counts and self._exists and not await self._is_listed(wire.armonik.SessionFilter(sessions=[self.id])):
            raise NotFound(f"{self.client.calls.target}: session {self.id!r} is not known")
        return counts

    async def _is_canceled(self) -> bool:
        chosen = wire.armonik.SessionFilter.StatusesRequest(statuses=[2])  # type: ignore[list-item]
        return await self._is_listed(wire.armonik.SessionFilter(sessions=[self.id], included=chosen))

    async def _is_listed(self, message: Any) -> bool:
        reply = await self.client.submitter("ListSessions", message, wire.armonik.SessionIdList)
        return self.id in reply.session_ids


async def _refused(creation: Awaitable[Any]) -> Sequence[str]:
    return tuple((await creation).non_successfull_ids.ids)
