"""One task that was submitted, as its submitter holds it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.client.tasks.arguments import checked_timeout
from runtime.client.tasks.calls import SUBMITTER
from runtime.client.tasks.completion import collect_one
from runtime.client.tasks.failures import TaskFailed, failure_of
from runtime.client.tasks.payloads import decoded
from runtime.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable, Unimplemented
from runtime.tasks.model import TaskStatus

if TYPE_CHECKING:
    from runtime.client.tasks.session import AsyncTaskSession

__all__ = ["AsyncTaskHandle"]

# How often a thread looks by itself whether its result was told: one that was interrupted at the wrong moment may have
# taken the latch along.
_LATCH_S = 2.0


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
        # While its result is to be told on the stream of submissions: who waits for that on the loop, and in threads.
        self._is_coming = False
        self._coming: Callable[[], object] | None = None
        self._latch: Any = None

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
        value = self._given(self.keys[0])
        return None if value is None else decoded(value, self.session.client.arrays, self.keys[0])

    def forget(self) -> None:
        """Keep no value any more."""
        self._values = None

    # For the stream of submissions, which tells the result of a task that has one

    def expect(self) -> None:
        """Take note that the result will be told."""
        self._latch = threading.Lock()
        self._latch.acquire()
        self._is_coming = True

    def unexpect(self) -> None:
        """Take note that its submission was not sent."""
        self._is_coming = False

    def told(self) -> None:
        """Take note that the result was told, or will have to be asked for; again without effect. From any thread."""
        self._is_coming = False
        with contextlib.suppress(RuntimeError):  # it is free already
            self._latch.release()
        if self._coming is not None:
            self._coming()

    def await_told(self, timeout_s: float | None) -> bytes | None:
        """Wait in a thread until the result was told, and return its value if it is at hand.

        Raises
        ------
        TaskFailed
            It never will be there.
        DeadlineExceeded
            After ``timeout_s`` seconds; the task goes on.
        """
        checked_timeout(timeout_s)
        deadline = None if timeout_s is None else time.monotonic() + max(0.0, float(timeout_s))
        while self._is_coming and not self.is_over:
            left_s = _LATCH_S if deadline is None else min(_LATCH_S, max(0.0, deadline - time.monotonic()))
            if self.session.client.submissions.wait(self._latch, left_s):
                self._latch.release()
                break
            if deadline is not None and time.monotonic() >= deadline:
                raise self._late(self.keys[0], timeout_s)
        if self.failure is not None:
            raise self.failure
        return self._given(self.keys[0]) if self._values else None

    # Waiting

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

        async def whole() -> list[bytes]:
            return [piece async for piece in self.stream(wanted)]

        try:
            async with asyncio.timeout(timeout_s) as bound:
                pieces = await self.session.client.calls.repeated(whole)
        except TimeoutError:
            if not bound.expired():
                raise
            raise self._late(wanted, timeout_s) from None
        return decoded(b"".join(pieces), self.session.client.arrays, wanted)

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
            value = self._given(wanted)
            if value is not None:
                yield value
                return
        message = wire.armonik.ResultRequest(session=self.session.id, key=wanted)
        is_complete = False
        path = SUBMITTER + "TryGetResultStream"
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
        if self._is_coming and not self.is_over:
            await self._was_told()
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

    async def _was_told(self) -> None:
        loop = asyncio.get_running_loop()
        others, told = self._coming, asyncio.Event()

        def wake() -> None:
            if others is not None:
                others()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(told.set)

        # First this, then a second look: a thread that tells takes these steps the other way round.
        self._coming = wake
        if self._is_coming:
            await told.wait()

    async def ended(self) -> None:
        """Wait until all results are there, or one never will be."""
        with contextlib.suppress(TaskFailed):
            for key in self.keys:
                await self.available(key)
            self._is_done = True

    def _given(self, key: str) -> bytes | None:
        """Return a value that is at hand, and keep it no longer; from any thread."""
        values = self._values
        value = None if values is None else values.pop(key, None)
        self.session.client.submissions.given(self)
        return value

    def _late(self, key: str, timeout_s: float | None) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the result {key!r} of task {self.id!r} was not there within {timeout_s:g} s; the task goes on"
        )

    def _key(self, key: str | None) -> str:
        if key is None:
            if len(self.keys) != 1:
                raise InvalidArgument(f"task {self.id!r} has several results; name one: {', '.join(self.keys)}")
            return self.keys[0]
        if key not in self.keys:
            raise InvalidArgument(f"task {self.id!r} has no result {key!r}; it has {', '.join(self.keys)}")
        return key
