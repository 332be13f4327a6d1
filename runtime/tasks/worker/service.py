"""ArmoniK.api.grpc.v1.Worker over a function, for anybody's agent, and runtime.v1.TaskBatches for ours."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.http2_aside import begin_aside
from runtime.errors import Cancelled, InvalidArgument, Unknown
from runtime.tasks import messages
from runtime.tasks.worker.batches import BatchRunner
from runtime.tasks.worker.conversation import Conversation, Input
from runtime.tasks.worker.function import Worker, traceback_text
from runtime.tasks.worker.interrupts import raise_in_thread
from runtime.tasks.worker.task import AsyncTask, Task, TaskBase, TaskCancelled, TaskError, sendable
from runtime.tasks.worker.threads import TaskThreads

if TYPE_CHECKING:
    from runtime.edge.plane import Handler

__all__ = ["SERVICE", "WorkerService"]

logger = logging.getLogger(__name__)

SERVICE = "ArmoniK.api.grpc.v1.Worker"
BATCHES = "runtime.v1.TaskBatches"

_Health = wire.armonik.HealthCheckReply
_SERVING = _Health(status=_Health.SERVING).SerializeToString()
_NOT_SERVING = _Health(status=_Health.NOT_SERVING).SerializeToString()

# What a function that nobody waits for gets to notice, before TaskCancelled is raised wherever it is.
_NOTICE_S = 1.0
# Behind that, what it gets to end, before `stuck` is called.
_STUCK_S = 20.0


class _Run:
    """A call of an ordinary function in a thread."""

    def __init__(self, worker: Worker, task: TaskBase) -> None:
        self._worker = worker
        self._task = task
        self._thread: int | None = None
        self._is_over = False
        self._lock = threading.Lock()

    def __call__(self) -> Any:
        """Run the function; in the thread."""
        with self._lock:
            self._thread = threading.get_ident()
        try:
            self._task.check()
            return self._worker.run(self._task)
        finally:
            with self._lock:
                self._is_over = True
                # What was set a moment ago is not for the next task of this thread.
                raise_in_thread(self._thread, None)

    def interrupt(self) -> None:
        """Raise TaskCancelled in the thread, as soon as Python code runs there."""
        with self._lock:
            if self._thread is not None and not self._is_over:
                raise_in_thread(self._thread, TaskCancelled)


class WorkerService:
    """Runs tasks, as many at a time as it is told. Belongs to its loop.

    Parameters
    ----------
    worker : Worker
        What runs them.
    concurrency : int
        Tasks at a time; further calls are made to wait.
    progress : callable
        Called with id, fraction and text when a task tells how far it is; from any thread.
    stuck : callable
        Called when a function that nobody waits for does not end, whatever is done: the process is of no use any more.

    Attributes
    ----------
    is_draining : bool
        Whether agents are told to give no further task.
    """

    def __init__(
        self,
        worker: Worker,
        concurrency: int = 1,
        *,
        progress: Callable[[str, float, str], object] = lambda task_id, fraction, text: None,
        stuck: Callable[[], object] = lambda: None,
    ) -> None:
        self.worker = worker
        self.is_draining = False
        self._progress = progress
        self._stuck = stuck
        self._loop = asyncio.get_running_loop()
        self._concurrency = concurrency
        self._free = asyncio.Semaphore(concurrency)
        self._threads = TaskThreads(concurrency)
        # Functions that nobody waits for; each says whether it has ended.
        self._left: dict[Callable[[], bool], None] = {}

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        found: dict[str, Mapping[str, Handler]] = {
            SERVICE: {"Process": self.process, "HealthCheck": self.health_check}
        }
        if self.takes_batches:
            found[BATCHES] = {"Run": self.run_batches}
        return found

    @property
    def takes_batches(self) -> bool:
        """Whether it serves TaskBatches. Coroutines do not: they are there to wait for something."""
        return not self.worker.is_async

    def close(self) -> None:
        """Let the threads end that have nothing to do."""
        self._threads.shutdown(wait=False)

    async def health_check(self, request: bytes, context: Any) -> bytes:
        """HealthCheck: not serving at the end, and while a function still runs that was given up."""
        messages.parse(wire.armonik.Empty, request)
        is_free = all(has_ended() for has_ended in self._left)
        return _SERVING if is_free and not self.is_draining else _NOT_SERVING

    async def run_batches(self, requests: AsyncIterator[bytes], call: Any) -> AsyncIterator[bytes]:
        """Run of TaskBatches."""
        runner = BatchRunner(
            self.worker, self._threads, self._concurrency, self._progress, self._leave_behind, call.send, call.post,
            lambda: begin_aside(call),
        )
        call.take_by(runner.take)
        await runner.serve(requests)
        return
        yield b""  # type: ignore[unreachable]  # as above

    async def process(self, requests: AsyncIterator[bytes], call: Any) -> AsyncIterator[bytes]:
        """Process: one task."""
        conversation = Conversation(requests, call.send)
        try:
            given = await conversation.read_input()
            async with self._free:
                text = await self._run(given, conversation, call)
                # Before the place is free: one task at a time, its last message included.
                await (conversation.ok() if text is None else conversation.error(text))
        finally:
            conversation.close()
        return
        yield b""  # type: ignore[unreachable]  # makes this a generator; messages leave by `call.send`

    async def _run(self, given: Input, conversation: Conversation, call: Any) -> str | None:
        """Run a task and send its results; return the text of an error that is an answer.

        Raises
        ------
        Unknown
            The function raised; the text is the traceback.
        """
        arguments = (given, conversation, self.worker.is_arrays, self._progress, call.time_remaining)
        task: TaskBase = AsyncTask(*arguments) if self.worker.is_async else Task(self._loop, *arguments)
        try:
            if self.worker.is_async:
                returned = await self._run_coroutine(task)
            else:
                returned = await self._run_in_thread(task)
        except TaskError as error:
            return sendable(error)
        except TaskCancelled as error:
            raise Cancelled(sendable(error) or f"task {task.id!r} is cancelled") from None
        except (Exception, SystemExit) as error:  # sys.exit() ends a task, not the loop that serves others
            text = traceback_text(error)
            logger.warning("task %r failed\n%s", task.id, text)
            raise Unknown(text) from None
        try:
            values = self.worker.results(task, returned)
            encoded = {key: task.to_bytes(value, f"result {key!r}") for key, value in values.items()}
        except (TaskError, InvalidArgument) as error:
            return sendable(error)
        for key, value in encoded.items():
            await conversation.result(key, value)
        return None

    async def _run_coroutine(self, task: TaskBase) -> Any:
        try:
            return await self.worker.run(task)
        except asyncio.CancelledError:
            task.cancel()
            raise

    async def _run_in_thread(self, task: TaskBase) -> Any:
        run = _Run(self.worker, task)
        work = self._loop.run_in_executor(self._threads, run)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            task.cancel()
            if not work.done():
                work.add_done_callback(_ignore)
                self._leave_behind(run.interrupt, work.done)
            raise

    def _leave_behind(self, interrupt: Callable[[], None], has_ended: Callable[[], bool]) -> None:
        """Have a function end that nobody waits for."""
        self._left[has_ended] = None
        self._loop.call_later(_NOTICE_S, self._interrupt, interrupt, has_ended, _STUCK_S)

    def _interrupt(self, interrupt: Callable[[], None], has_ended: Callable[[], bool], left_s: float) -> None:
        """Have it end; again, when it has caught what it was sent."""
        if has_ended():
            del self._left[has_ended]
            return
        if left_s <= 0:
            logger.error("a function that is cancelled does not end")
            self._stuck()
            return
        interrupt()
        self._loop.call_later(_NOTICE_S, self._interrupt, interrupt, has_ended, left_s - _NOTICE_S)


def _ignore(work: asyncio.Future[Any]) -> None:
    if not work.cancelled():
        work.exception()  # nobody wants to know
