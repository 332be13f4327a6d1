"""The task plane for ordinary programs: ``runtime.TaskClient``.

>>> with TaskClient("grpc://127.0.0.1:2222") as client, client.session() as session:     # doctest: +SKIP
...     tasks = session.map([b"1", b"2", b"3"])
...     print(session.gather(tasks, progress=True))
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from runtime.client.tasks.aio import AsyncTaskClient, AsyncTaskHandle, AsyncTaskSession
from runtime.client.tasks.arguments import checked_handles
from runtime.client.tasks.failures import TaskFailed
from runtime.client.tasks.payloads import decoded
from runtime.client.tasks.progress import Progress
from runtime.client.tasks.submissions import Submission
from runtime.edge.loops import new_loop
from runtime.errors import FailedPrecondition, Unimplemented

__all__ = ["TaskClient", "TaskHandle", "TaskSession"]

_V = TypeVar("_V")

_CLOSE_S = 5.0


class _Background:
    """An event loop on a thread of its own, on which coroutines of other threads run."""

    def __init__(self) -> None:
        self._loop = new_loop("auto")
        self._thread = threading.Thread(target=self._loop.run_forever, name="tensor-runtime-tasks", daemon=True)
        self._thread.start()
        self._is_closed = False
        self._process = os.getpid()

    def run(self, work: Coroutine[Any, Any, _V]) -> _V:
        """Return what a coroutine returns; interrupting the waiting cancels it."""
        if not self._takes_work:
            work.close()
            self._refuse()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            if self._is_closed:  # by another thread
                self._refuse()
            raise
        except BaseException:
            future.cancel()
            raise

    def soon(self, function: Callable[[_V], object], argument: _V) -> None:
        """Call a function on the loop."""
        if not self._takes_work:
            self._refuse()
        self._loop.call_soon_threadsafe(function, argument)

    def check_taking(self) -> None:
        """Raise FailedPrecondition where the loop takes no work: see `check_waiting`; or the client is closed."""
        if not self._takes_work:
            self._refuse()

    def iterate(self, items: AsyncIterator[_V]) -> Iterator[_V]:
        """Yield what an asynchronous generator yields."""
        end: Any = object()

        async def following() -> _V:
            return await anext(items, end)

        async def finish() -> None:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

        try:
            while (item := self.run(following())) is not end:
                yield item
        finally:
            if not self._is_closed and not self._is_forked:
                self.run(finish())

    def close(self, work: Coroutine[Any, Any, object]) -> None:
        """Run a last coroutine and end the thread; again, or in a child that was forked, without effect."""
        if self._is_closed or self._is_forked:
            work.close()
            return
        self._is_closed = True
        with contextlib.suppress(concurrent.futures.TimeoutError):
            asyncio.run_coroutine_threadsafe(work, self._loop).result(_CLOSE_S)
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()

    def check_waiting(self) -> None:
        """Raise FailedPrecondition where waiting for the loop has no end: in its thread, or in a forked child."""
        if self._is_forked or threading.current_thread() is self._thread:
            self._refuse()

    @property
    def _is_forked(self) -> bool:
        return os.getpid() != self._process

    @property
    def _takes_work(self) -> bool:
        return not self._is_closed and threading.current_thread() is not self._thread and not self._is_forked

    def _refuse(self) -> NoReturn:
        if self._is_forked:
            raise FailedPrecondition(
                "a TaskClient is of use in the process that made it: a child that was forked has not got its thread; "
                "make one there"
            )
        raise FailedPrecondition("the TaskClient is closed" if self._is_closed else
                                 "a TaskClient cannot be used from its own callbacks; use AsyncTaskClient")

    def _stop(self) -> None:
        left = [task for task in asyncio.all_tasks(self._loop) if not task.done()]
        for task in left:
            task.cancel()
        ended = asyncio.gather(*left, return_exceptions=True)
        ended.add_done_callback(lambda _: self._loop.stop())


class TaskClient:
    """A server's tasks; see `runtime.client.tasks.aio.AsyncTaskClient` for the arguments.

    Concurrency: may be used by any number of threads. It has one of its own until `close`.
    """

    def __init__(self, target: str, **options: Any) -> None:
        self.asynchronous = AsyncTaskClient(target, **options)
        self.asynchronous.submissions.serves_threads = True
        self.background = _Background()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TaskClient {self.asynchronous.calls.target}>"

    def close(self) -> None:
        """Let go of the connection and the thread. What was submitted goes on."""
        self.background.close(self.asynchronous.close())

    def session(
        self,
        id: str | None = None,
        *,
        priority: int = 1,
        max_retries: int = 3,
        max_duration_s: float = 3600.0,
        options: Mapping[str, str] | None = None,
    ) -> TaskSession:
        """Return a session, which is made at the first use or at the beginning of ``with``.

        A ``with`` block that ends with an exception cancels it; otherwise its tasks go on. See
        `runtime.client.tasks.aio.AsyncTaskClient.session`.
        """
        made = self.asynchronous.session(
            id, priority=priority, max_retries=max_retries, max_duration_s=max_duration_s, options=options
        )
        return TaskSession(self, made)

    def attach(self, id: str, **options: Any) -> TaskSession:
        """Return a session that was made before; tasks get the options given here, or the usual ones."""
        return TaskSession(self, self.asynchronous.attach(id, **options))


class TaskSession:
    """A session and its tasks; made by `TaskClient.session`. Its methods are those of `AsyncTaskSession`.

    Attributes
    ----------
    client : TaskClient
    id : str
    """

    def __init__(self, client: TaskClient, asynchronous: AsyncTaskSession) -> None:
        self.client = client
        self.id = asynchronous.id
        self.asynchronous = asynchronous

    def __enter__(self) -> Self:
        self._run(self.asynchronous.create())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self.asynchronous.__aexit__(kind, error, trace))

    def __repr__(self) -> str:
        return f"<TaskSession {self.id!r} on {self.client.asynchronous.calls.target}>"

    def submit(
        self, payload: Any = b"", *, dependencies: Iterable[str | TaskHandle] = (), **options: Any
    ) -> TaskHandle:
        """Submit one task; it is stored when this returns. See `AsyncTaskSession.submit`."""
        needed = _inner(dependencies)
        submission = self.asynchronous.submission(payload, dependencies=needed, **options)
        if submission is not None:
            with contextlib.suppress(Unimplemented):  # by a server of another kind
                return TaskHandle(self, self._submitted(submission))
        return TaskHandle(self, self._run(self.asynchronous.submit(payload, dependencies=needed, **options)))

    def _submitted(self, submission: Submission) -> AsyncTaskHandle:
        """Submit without a coroutine: one after the other, that takes as long as the server does."""
        submissions, background = self.client.asynchronous.submissions, self.client.background
        background.check_taking()
        latch = threading.Lock()
        latch.acquire()
        submission.answered = functools.partial(_free, latch)
        try:
            if not submissions.post_here(submission):
                background.soon(submissions.post, submission)
            if not submissions.wait(latch, submissions.timeout_s):
                raise submissions.late()
        except BaseException:
            submission.is_given_up = True
            raise
        if submission.error is None and not submission.refused:
            return submission.handle
        return self._run(self.asynchronous.submitted(submission))

    def map(
        self, payloads: Iterable[Any], *, dependencies: Iterable[str | TaskHandle] = (), **options: Any
    ) -> list[TaskHandle]:
        """Submit a task for each payload, many with one request. See `AsyncTaskSession.map`."""
        made = self._run(self.asynchronous.map(payloads, dependencies=_inner(dependencies), **options))
        return [TaskHandle(self, handle) for handle in made]

    def submit_all(
        self, payloads: Sequence[Any], *, dependencies: Sequence[Iterable[str | TaskHandle]] | None = None,
        **options: Any,
    ) -> list[TaskHandle]:
        """Submit tasks, each with an id, keys and dependencies of its own. See `AsyncTaskSession.submit_all`."""
        needed = None if dependencies is None else [_inner(one) for one in dependencies]
        made = self._run(self.asynchronous.submit_all(payloads, dependencies=needed, **options))
        return [TaskHandle(self, handle) for handle in made]

    def handle(self, id: str, keys: Sequence[str] | None = None) -> TaskHandle:
        """Return the handle of a task that was submitted before; ``keys`` are its results', its id when left out."""
        return TaskHandle(self, self.asynchronous.handle(id, keys))

    def as_completed(self, handles: Iterable[TaskHandle], *, timeout_s: float | None = None) -> Iterator[TaskHandle]:
        """Yield handles as their tasks end, well or not. See `AsyncTaskSession.as_completed`."""
        outer = {handle.asynchronous: handle for handle in checked_handles(handles, TaskHandle)}
        ended = self.asynchronous.as_completed(list(outer), timeout_s=timeout_s)
        for handle in self.client.background.iterate(ended):
            yield outer[handle]

    def gather(
        self,
        handles: Iterable[TaskHandle],
        *,
        timeout_s: float | None = None,
        progress: bool | Progress = False,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Return the results of tasks in their order. See `AsyncTaskSession.gather`."""
        return self._run(self.asynchronous.gather(
            _all_inner(handles), timeout_s=timeout_s, progress=progress, return_exceptions=return_exceptions
        ))

    def wait(self, timeout_s: float | None = None) -> dict[str, int]:
        """Wait until no task of the session is left to run. See `AsyncTaskSession.wait`."""
        return self._run(self.asynchronous.wait(timeout_s))

    def counts(self) -> dict[str, int]:
        """Return how many attempts of the session have each status."""
        return self._run(self.asynchronous.counts())

    def cancel(self) -> None:
        """Cancel the session and all of its tasks. See `AsyncTaskSession.cancel`."""
        self._run(self.asynchronous.cancel())

    def cancel_tasks(self, handles: Iterable[TaskHandle]) -> None:
        """Cancel tasks; those that have ended stay as they are."""
        self._run(self.asynchronous.cancel_tasks(_all_inner(handles)))

    def _run(self, work: Coroutine[Any, Any, _V]) -> _V:
        return self.client.background.run(work)


class TaskHandle:
    """A task that was submitted. Its methods are those of `AsyncTaskHandle`.

    Attributes
    ----------
    session : TaskSession
    id : str
        Of its first attempt.
    keys : tuple of str
        Of its results.
    """

    def __init__(self, session: TaskSession, asynchronous: AsyncTaskHandle) -> None:
        self.session = session
        self.id = asynchronous.id
        self.keys = asynchronous.keys
        self.asynchronous = asynchronous

    def __repr__(self) -> str:
        return f"<TaskHandle {self.id!r}>"

    @property
    def failure(self) -> TaskFailed | None:
        """Why it failed, once that is known here."""
        return self.asynchronous.failure

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until it has ended, well or not. See `AsyncTaskHandle.wait`."""
        self._run(self.asynchronous.wait(timeout_s))

    def result(self, key: str | None = None, *, timeout_s: float | None = None) -> Any:
        """Return a result, as soon as it is there. See `AsyncTaskHandle.result`."""
        if len(self.keys) == 1 and key in (None, self.keys[0]):
            self.session.client.background.check_waiting()
            began = time.monotonic()
            value = self.asynchronous.await_told(timeout_s)
            if value is not None:
                return decoded(value, self.session.client.asynchronous.arrays, self.keys[0])
            if timeout_s is not None:
                timeout_s = max(0.0, timeout_s - (time.monotonic() - began))
        return self._run(self.asynchronous.result(key, timeout_s=timeout_s))

    def results(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Return all results by key."""
        return self._run(self.asynchronous.results(timeout_s=timeout_s))

    def stream(self, key: str | None = None) -> Iterator[bytes]:
        """Yield a result in pieces, as soon as it is there. See `AsyncTaskHandle.stream`."""
        return self.session.client.background.iterate(self.asynchronous.stream(key))

    def status(self) -> str:
        """Return the status of its first attempt: ``SUBMITTED``, ``PROCESSING``, ..."""
        return self._run(self.asynchronous.status())

    def cancel(self) -> None:
        """Cancel it; one that has ended stays as it is."""
        self._run(self.asynchronous.cancel())

    def _run(self, work: Coroutine[Any, Any, _V]) -> _V:
        return self.session.client.background.run(work)


def _free(latch: threading.Lock) -> None:
    with contextlib.suppress(RuntimeError):  # it is free already
        latch.release()


def _inner(dependencies: Iterable[str | TaskHandle]) -> Any:
    if isinstance(dependencies, str):
        return dependencies  # refused there, with words
    if isinstance(dependencies, TaskHandle):
        return dependencies.asynchronous
    # Whatever is neither is refused there, too.
    return [item.asynchronous if isinstance(item, TaskHandle) else item for item in dependencies]


def _all_inner(handles: Iterable[TaskHandle]) -> list[AsyncTaskHandle]:
    return [handle.asynchronous for handle in checked_handles(handles, TaskHandle)]
