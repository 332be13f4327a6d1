"""The task plane for programs on asyncio: ``runtime.AsyncTaskClient``.

>>> async with AsyncTaskClient("grpc://127.0.0.1:2222") as client:           # doctest: +SKIP
...     async with client.session(max_retries=2) as session:
...         tasks = await session.map([b"1", b"2", b"3"])
...         print(await session.gather(tasks, progress=True))
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from runtime import wire
from runtime.client.access import Access
from runtime.client.tasks.arguments import checked_handles, checked_number, checked_timeout, checked_whole
from runtime.client.tasks.calls import Calls
from runtime.client.tasks.completion import collect_one, completed
from runtime.client.tasks.failures import TaskFailed, failure_of
from runtime.client.tasks.payloads import Payload, decoded
from runtime.client.tasks.progress import Progress, progress_of
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

__all__ = ["AsyncTaskClient", "AsyncTaskHandle", "AsyncTaskSession", "make_options"]

TIMEOUT_S = 30.0
RETRY_S = 30.0
# Tasks and bytes of one request that has the payloads in it.
_BATCH_TASKS = 500
_BATCH_BYTES = 1 << 20
# The same for requests that have them in chunks: the server has them on disk, many at a time, before it answers.
_STREAM_TASKS = 100
_STREAM_BYTES = 32 << 20
# Large results that are fetched at once.
_FETCHES = 16
# Ids of one request that names tasks.
_IDS_AT_ONCE = 2000
# What a Duration holds.
_LONGEST_S = 315_576_000_000

_SUBMITTER = "/ArmoniK.api.grpc.v1.Submitter/"


def make_options(
    priority: int = 1, max_retries: int = 3, max_duration_s: float = 3600.0, options: Mapping[str, str] | None = None
) -> TaskOptions:
    """Return the options of tasks.

    Parameters
    ----------
    priority : int
        From 1; higher runs first.
    max_retries : int
        From 1: attempts after the first one, when the call of the worker fails.
    max_duration_s : float
        What one attempt may take.
    options : mapping of str to str, optional
        For the worker.

    Raises
    ------
    InvalidArgument
        For a value of another kind; the server checks the rest.
    """
    checked_number("max_duration_s", max_duration_s)
    if not 0 < max_duration_s <= _LONGEST_S:
        raise InvalidArgument(f"max_duration_s is {max_duration_s!r}; it must be above 0, and at most {_LONGEST_S}")
    checked_whole("priority", priority)
    checked_whole("max_retries", max_retries)
    entries = dict(options or {})
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidArgument(f"options: {key!r}: {value!r} is not a text with a text for its name")
    return TaskOptions(int(max_duration_s * 1e9), int(max_retries), int(priority), entries)


class AsyncTaskClient:
    """A server's tasks.

    Parameters
    ----------
    target : str
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` for TLS, or ``unix:PATH``.
    arrays : bool
        Whether payloads may be arrays (a mapping of names to arrays, or one alone) and results are: workers made by
        ``@worker(arrays=True)``.
    timeout_s : float
        For calls that are answered at once.
    retry_s : float
        For how long a server that cannot be reached is tried again, by calls that may be made twice.
    token, tls, ca, cert, key, server_name
        How to get in; see `runtime.Session`.

    Raises
    ------
    InvalidArgument
        For a target or access that cannot be used. Nothing is connected before the first call.

    Concurrency: belongs to the event loop on which it is first used.
    """

    def __init__(
        self,
        target: str,
        *,
        arrays: bool = False,
        timeout_s: float = TIMEOUT_S,
        retry_s: float = RETRY_S,
        token: str | None = None,
        tls: bool | None = None,
        ca: Any = None,
        cert: Any = None,
        key: Any = None,
        server_name: str | None = None,
    ) -> None:
        if not isinstance(target, str):
            raise InvalidArgument(f"target is {target!r}; it must be text such as grpc://HOST:PORT")
        self.arrays = arrays
        self.calls = Calls(target, Access.of(target, token, tls, ca, cert, key, server_name), timeout_s, retry_s)
        self._chunk_bytes = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connection. What was submitted goes on."""
        await self.calls.close()

    def session(
        self,
        id: str | None = None,
        *,
        priority: int = 1,
        max_retries: int = 3,
        max_duration_s: float = 3600.0,
        options: Mapping[str, str] | None = None,
    ) -> AsyncTaskSession:
        """Return a session, which is made at the first use or at the beginning of ``async with``.

        A ``with`` block that ends with an exception cancels it; otherwise its tasks go on.

        Parameters
        ----------
        id : str, optional
            Unique in the server; a random one when left out. To use a session that is there, see `attach`.
        priority, max_retries, max_duration_s, options
            Of the tasks that say nothing else; see `make_options`.
        """
        made = make_options(priority, max_retries, max_duration_s, options)
        return AsyncTaskSession(self, f"session-{uuid.uuid4()}" if id is None else id, made, exists=False)

    def attach(self, id: str, **options: Any) -> AsyncTaskSession:
        """Return a session that was made before; tasks get the options given here, or the usual ones."""
        return AsyncTaskSession(self, id, make_options(**options), exists=True)

    async def chunk_bytes(self) -> int:
        """Return the most bytes that one chunk of a payload may have."""
        if not self._chunk_bytes:
            reply = await self.submitter("GetServiceConfiguration", wire.armonik.Empty(), wire.armonik.Configuration)
            self._chunk_bytes = reply.data_chunk_max_size
        return self._chunk_bytes

    async def submitter(self, method: str, message: Any, reply: Any, *, waits: bool = False) -> Any:
        """Make a call of the Submitter that may be repeated."""
        return await self.calls.unary(_SUBMITTER + method, message, reply, waits=waits)


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
        if not isinstance(id, str) or not id:
            raise InvalidArgument(f"id of a session is {id!r}; it must be text that is not empty")
        self.client = client
        self.id = id
        self.options = options
        self._exists = exists
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
            request = wire.armonik.CreateSessionRequest(id=self.id, default_task_option=_message_of(self.options))
            sent = [0]

            async def once() -> Any:
                sent[0] += 1
                data = request.SerializeToString()
                return await self.client.calls.once(
                    _SUBMITTER + "CreateSession", (data,), wire.armonik.CreateSessionReply
                )

            reply = await self.client.calls.repeated(once)
            # A request that was sent twice finds what the first one has made.
            if reply.WhichOneof("result") == "error" and not (sent[0] > 1 and "exists already" in reply.error):
                raise AlreadyExists(f"{self.client.calls.target}: {reply.error}")
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
        (handle,) = await self.submit_all(
            [payload], ids=None if id is None else [id], keys=None if keys is None else [keys],
            dependencies=[dependencies], priority=priority, max_retries=max_retries, max_duration_s=max_duration_s,
            options=options,
        )
        return handle

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
        names = list(ids) if ids is not None else _random_ids(len(payloads))
        for name, values in (("ids", ids), ("keys", keys), ("dependencies", dependencies)):
            if values is not None and len(values) != len(payloads):
                raise InvalidArgument(f"{name}: {len(values)} for {len(payloads)} payloads")
        message = _message_of(self._with(priority, max_retries, max_duration_s, options))
        arrays = self.client.arrays
        new = [
            _New(
                name, tuple(keys[index]) if keys is not None else (name,),
                tuple(_keys_of(dependencies[index])) if dependencies is not None and dependencies[index] else (),
                Payload(payloads[index], arrays),
            )
            for index, name in enumerate(names)
        ]
        done = 0
        groups = _grouped(new, chunk_bytes)
        following = self._prepared(next(groups, None), message)
        while following is not None:
            group, request = following
            creation = self._create(group, request, message, is_named)
            try:
                if done + len(group) == len(new):
                    following = None
                    await creation
                else:
                    following = await self._beside(creation, groups, message)
            except (AlreadyExists, FailedPrecondition) as error:
                if not done:
                    raise
                raise type(error)(f"{error.message}; the first {done} of {len(new)} tasks are stored") from None
            done += len(group)
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
        async with contextlib.aclosing(completed(self, checked_handles(handles, AsyncTaskHandle), timeout_s)) as ended:
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
        wanted = checked_handles(handles, AsyncTaskHandle)
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

    def _prepared(
        self, found: tuple[list[_New], bool] | None, options: Any
    ) -> tuple[list[_New], bytes | None] | None:
        """Return a group with the request for it, if it is small enough for one message."""
        if found is None:
            return None
        group, is_small = found
        if not is_small:
            return group, None
        request = wire.armonik.CreateSmallTaskRequest(session_id=self.id, task_options=options)
        add = request.task_requests.add
        for task in group:
            add(
                id=task.id, expected_output_keys=task.keys, data_dependencies=task.dependencies,
                payload=task.payload.tobytes(),
            )
        return group, request.SerializeToString()

    async def _beside(
        self, creation: Coroutine[Any, Any, None], groups: Iterator[tuple[list[_New], bool]], options: Any
    ) -> tuple[list[_New], bytes | None] | None:
        """Wait for a creation, and prepare the next group while the server is at work."""
        creating = asyncio.ensure_future(creation)
        try:
            await asyncio.sleep(0)
            following = self._prepared(next(groups, None), options)
            await creating
            return following
        finally:
            creating.cancel()

    async def _create(self, group: Sequence[_New], request: bytes | None, options: Any, is_named: bool) -> None:
        if request is not None:
            await self._created(group, is_named, lambda: self.client.calls.once(
                _SUBMITTER + "CreateSmallTasks", (request,), wire.armonik.CreateTaskReply
            ))
            return
        chunk_bytes = await self.client.chunk_bytes()
        await self._created(group, is_named, lambda: self.client.calls.upload(
            _SUBMITTER + "CreateLargeTasks", _large(self.id, group, options, chunk_bytes), wire.armonik.CreateTaskReply
        ))

    async def _created(self, group: Sequence[_New], is_named: bool, create: Callable[[], Any]) -> None:
        """Have tasks made; one request may be sent again, since no id is stored twice."""
        sent = 0

        async def once() -> Any:
            nonlocal sent
            sent += 1
            return await create()

        reply = await self.client.calls.repeated(once)
        refused = list(reply.non_successfull_ids.ids)
        if not refused or (sent > 1 and not is_named and set(refused) >= {task.id for task in group}):
            # Random ids that are in use already come from the first request, whose answer was lost.
            return
        target = self.client.calls.target
        if await self._is_canceled():
            raise FailedPrecondition(f"{target}: session {self.id!r} is canceled; nothing can be submitted to it")
        shown = ", ".join(map(repr, refused[:10])) + (f" and {len(refused) - 10} more" if len(refused) > 10 else "")
        raise AlreadyExists(
            f"{target}: session {self.id!r}: the id, or a key, of these tasks is in use already: {shown}; "
            "none was stored"
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


class _New:
    """A task on its way."""

    __slots__ = ("dependencies", "id", "keys", "payload")

    def __init__(self, id: str, keys: tuple[str, ...], dependencies: tuple[str, ...], payload: Payload) -> None:
        if not id or not keys or not all(keys):
            raise InvalidArgument(f"task {id!r} with keys {keys!r}: neither ids nor keys may be empty")
        self.id = id
        self.keys = keys
        self.dependencies = dependencies
        self.payload = payload


class AsyncTaskHandle:
    """A task that was submitted.

    Attributes
    ----------
    session : AsyncTaskSession
    id : str
        Of its first attempt; later ones are ``ID###1`` and so on.
    keys : tuple of str
        Of its results.
    failure : TaskFailed or None
        Why it failed, once that is known here.
    """

    def __init__(self, session: AsyncTaskSession, id: str, keys: tuple[str, ...]) -> None:
        self.session = session
        self.id = id
        self.keys = keys
        self.failure: TaskFailed | None = None
        self._is_done = False
        self._values: dict[str, bytes] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r}>"

    @property
    def is_over(self) -> bool:
        """Whether it is known here that it has ended."""
        return self._is_done or self.failure is not None

    def succeeded(self) -> None:
        """Take note that all results are there."""
        self._is_done = True

    def keep(self, key: str, value: bytes) -> None:
        """Have the value of a result at hand, until `result` or `stream` has given it away."""
        if self._values is None:
            self._values = {key: value}
        else:
            self._values[key] = value

    def take_kept(self) -> Any:
        """Return the only result if it is at hand, and keep it no longer; None if not."""
        if not self._values or len(self.keys) != 1 or self.failure is not None:
            return None
        return decoded(self._values.pop(self.keys[0]), self.session.client.arrays)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Wait until it has ended, well or not; `failure` says which.

        Raises
        ------
        DeadlineExceeded
            After ``timeout_s`` seconds; the task goes on.
        """
        checked_timeout(timeout_s)
        try:
            async with asyncio.timeout(timeout_s) as bound:
                await self.ended()
        except TimeoutError:
            if not bound.expired():
                raise
            raise DeadlineExceeded(f"task {self.id!r} has not ended within {timeout_s:g} s") from None

    async def result(self, key: str | None = None, *, timeout_s: float | None = None) -> Any:
        """Return a result, as soon as it is there: bytes, or arrays as the client was told.

        Parameters
        ----------
        key : str, optional
            Which; may be left out when there is one.

        Raises
        ------
        TaskFailed
            With the worker's text.
        DeadlineExceeded
            After ``timeout_s`` seconds; the task goes on.
        """
        checked_timeout(timeout_s)
        wanted = self._key(key)
        try:
            async with asyncio.timeout(timeout_s) as bound:
                pieces = [piece async for piece in self.stream(wanted)]
        except TimeoutError:
            if not bound.expired():
                raise
            raise DeadlineExceeded(
                f"the result {wanted!r} of task {self.id!r} was not there within {timeout_s:g} s; the task goes on"
            ) from None
        return decoded(b"".join(pieces), self.session.client.arrays)

    async def results(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Return all results by key; see `result`."""
        return {key: await self.result(key, timeout_s=timeout_s) for key in self.keys}

    async def stream(self, key: str | None = None) -> AsyncGenerator[bytes, None]:
        """Yield a result in pieces, as soon as it is there.

        Raises
        ------
        TaskFailed
            With the worker's text.
        Unavailable
            If the server goes away in the middle.
        """
        wanted = self._key(key)
        if not (self._values and wanted in self._values):
            await self.available(wanted, with_value=True)
        if self._values and wanted in self._values:
            yield self._values.pop(wanted)
            return
        message = wire.armonik.ResultRequest(session=self.session.id, key=wanted)
        is_complete = False
        path = _SUBMITTER + "TryGetResultStream"
        calls = self.session.client.calls
        async with contextlib.aclosing(calls.download(path, message, wire.armonik.ResultReply)) as replies:
            async for reply in replies:
                kind = reply.WhichOneof("type")
                if kind == "error":
                    raise failure_of(reply.error)
                if kind == "not_completed_task":
                    raise Unavailable(f"{calls.target}: the result {wanted!r} is not there any more")
                if reply.result.WhichOneof("type") == "data_complete":
                    is_complete = True
                elif reply.result.data:
                    yield reply.result.data
        if not is_complete:
            raise Unavailable(f"{calls.target}: the result {wanted!r} ended before it was complete")

    async def status(self) -> str:
        """Return the status of its newest attempt that is known by id: ``SUBMITTED``, ``PROCESSING``, ..."""
        message = wire.armonik.GetTaskStatusRequest(task_ids=[self.id])
        reply = await self.session.client.submitter("GetTaskStatus", message, wire.armonik.GetTaskStatusReply)
        found = {entry.task_id: TaskStatus(entry.status).name for entry in reply.id_statuses}
        if self.id not in found:
            raise NotFound(f"{self.session.client.calls.target}: there is no task {self.id!r}")
        return found[self.id]

    async def cancel(self) -> None:
        """Cancel it; one that has ended stays as it is."""
        await self.session.cancel_tasks([self])

    async def available(self, key: str, *, with_value: bool = False) -> None:
        """Wait until a result is there, and keep it if asked to and it is small.

        Raises
        ------
        TaskFailed
            It never will be there.
        """
        if self.failure is not None:
            raise self.failure
        if self._is_done:
            return
        if with_value:
            with contextlib.suppress(Unimplemented):
                await collect_one(self, key)
                if self.failure is not None:
                    raise self.failure
                return
        message = wire.armonik.ResultRequest(session=self.session.id, key=key)
        reply = await self.session.client.submitter(
            "WaitForAvailability", message, wire.armonik.AvailabilityReply, waits=True
        )
        if reply.WhichOneof("type") == "error":
            self.failure = failure_of(reply.error)
            raise self.failure

    async def ended(self) -> None:
        """Wait until all results are there, or one never will be."""
        with contextlib.suppress(TaskFailed):
            for key in self.keys:
                await self.available(key)
            self._is_done = True

    def _key(self, key: str | None) -> str:
        if key is None:
            if len(self.keys) != 1:
                raise InvalidArgument(f"task {self.id!r} has several results; name one: {', '.join(self.keys)}")
            return self.keys[0]
        if key not in self.keys:
            raise InvalidArgument(f"task {self.id!r} has no result {key!r}; it has {', '.join(self.keys)}")
        return key


def _random_ids(number: int) -> list[str]:
    """Return ids that nobody has; those of one request follow each other, so that indices grow at one end."""
    common = f"task-{uuid.uuid4()}"
    return [common] if number == 1 else [f"{common}-{index}" for index in range(number)]


def _keys_of(dependencies: Iterable[str | AsyncTaskHandle]) -> Iterable[str]:
    if isinstance(dependencies, (str, AsyncTaskHandle)):
        raise InvalidArgument(f"dependencies: a list of keys or tasks is needed, not {dependencies!r} alone")
    for item in dependencies:
        if isinstance(item, str):
            yield item
        elif isinstance(item, AsyncTaskHandle):
            yield from item.keys
        else:
            raise InvalidArgument(f"dependencies: {item!r} is neither the key of a result nor a task")


def _message_of(options: TaskOptions) -> Any:
    message = wire.armonik.TaskOptions(
        options=options.entries, max_retries=options.max_retries, priority=options.priority
    )
    message.max_duration.FromNanoseconds(options.max_duration_ns)
    return message


def _grouped(tasks: Sequence[_New], chunk_bytes: int) -> Iterator[tuple[list[_New], bool]]:
    """Yield tasks in groups of one request each, and whether their payloads go into the request itself."""
    group: list[_New] = []
    nbytes, was_small = 0, True
    for task in tasks:
        is_small = task.payload.is_at_hand and 0 < task.payload.size < chunk_bytes
        most, most_bytes = (_BATCH_TASKS, _BATCH_BYTES) if was_small else (_STREAM_TASKS, _STREAM_BYTES)
        if group and (is_small != was_small or len(group) == most or nbytes + task.payload.size > most_bytes):
            yield group, was_small
            group, nbytes = [], 0
        group.append(task)
        nbytes += task.payload.size
        was_small = is_small
    if group:
        yield group, was_small


async def _large(session: str, group: Sequence[_New], options: Any, chunk_bytes: int) -> AsyncIterator[bytes]:
    request = wire.armonik.CreateLargeTaskRequest
    chunk = wire.armonik.DataChunk
    header = wire.armonik.TaskRequestHeader
    yield request(init_request=request.InitRequest(session_id=session, task_options=options)).SerializeToString()
    for task in group:
        told = header(id=task.id, expected_output_keys=task.keys, data_dependencies=task.dependencies)
        yield request(init_task=wire.armonik.InitTaskRequest(header=told)).SerializeToString()
        async for piece in task.payload.chunks(chunk_bytes):
            yield request(task_payload=chunk(data=piece)).SerializeToString()
        yield request(task_payload=chunk(data_complete=True)).SerializeToString()
    yield request(init_task=wire.armonik.InitTaskRequest(last_task=True)).SerializeToString()
