"""A task as its function sees it."""

from __future__ import annotations

import asyncio
import numbers
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from runtime.errors import InvalidArgument
from runtime.tasks.model import TaskOptions
from runtime.tasks.worker.conversation import Conversation, Input, NewTask

if TYPE_CHECKING:
    import numpy as np

__all__ = ["AsyncTask", "Subtask", "Task", "TaskBase", "TaskCancelled", "TaskError", "sendable"]

R = TypeVar("R")

Value = Any
"""``bytes``, or for workers with ``arrays=True`` an array or a mapping of names to arrays."""


def sendable(text: object) -> str:
    """Return what a function says as text that a message can carry: names of files may have surrogates in them."""
    return str(text).encode("utf-8", "backslashreplace").decode()


class TaskError(Exception):
    """Ends the task for good, with a text for whoever waits for its results; any other exception has it tried again."""


class TaskCancelled(BaseException):
    """The task is cancelled, has taken longer than it may, or its server is gone: its results are of no use to anybody.

    No `Exception`, so that a function which catches those ends all the same.
    """


@dataclass(frozen=True, slots=True)
class Subtask:
    """A task that a task asks for.

    Attributes
    ----------
    payload : bytes, or arrays
        As the worker has it.
    id : str
        Unique in the whole server; when empty, that of the asking task with a number behind it.
    keys : sequence of str
        Keys of its results; its id when empty. One of the asking task's own keys hands the result over: the subtask
        makes it.
    dependencies : sequence of str
        Keys of results of the session that it needs.
    """

    payload: Value = b""
    id: str = ""
    keys: Sequence[str] = ()
    dependencies: Sequence[str] = ()


class TaskBase:
    """What both kinds of tasks have.

    Attributes
    ----------
    id, session : str
        Of the attempt (``ID###N`` is the N-th further one), and of its session.
    options : dict of str to str
        The entries of the task's options.
    expected_keys : tuple of str
        Keys of the results that are to be made.
    payload : bytes
    dependencies : dict of str to bytes
        The values of the data dependencies, in the order of the task.
    sent, handed_over : set of str
        Keys whose values were sent, and those that subtasks are to make.
    """

    def __init__(
        self,
        given: Input,
        conversation: Conversation,
        is_arrays: bool,
        progress: Callable[[str, float, str], object],
        deadline_s: Callable[[], float | None],
    ) -> None:
        self.id = given.task
        self.session = given.session
        self.options = given.options
        self.expected_keys = given.keys
        self.payload = given.payload
        self.dependencies = given.dependencies
        self.sent: set[str] = set()
        self.handed_over: set[str] = set()
        self._conversation = conversation
        self._is_arrays = is_arrays
        self._progress = progress
        self._deadline_s = deadline_s
        self._cancelled = threading.Event()
        self._num_subtasks = 0

    @cached_property
    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The payload's arrays by name; read-only."""
        from runtime.tasks.arrays import decode_arrays

        return decode_arrays(self.payload)

    def dependency_arrays(self, key: str) -> dict[str, np.ndarray[Any, Any]]:
        """Return the arrays of a data dependency by name; read-only."""
        from runtime.tasks.arrays import decode_arrays

        if key not in self.dependencies:
            known = ", ".join(self.dependencies) or "none"
            raise InvalidArgument(f"task {self.id!r} has no data dependency {key!r}; it has {known}")
        return decode_arrays(self.dependencies[key])

    @property
    def attempt(self) -> int:
        """0 for the first attempt, 1 for the one after it, and so on."""
        number = self.id.rpartition("###")[2]
        return int(number) if "###" in self.id and number.isascii() and number.isdigit() else 0

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody wants the results any more."""
        return self._cancelled.is_set()

    def check(self) -> None:
        """Raise TaskCancelled if nobody wants the results any more."""
        if self._cancelled.is_set():
            raise TaskCancelled(f"task {self.id!r} is cancelled")

    def time_remaining(self) -> float | None:
        """Return the seconds that are left of the task's time; None where the agent has set no limit."""
        return self._deadline_s()

    def progress(self, fraction: float, text: str = "") -> None:
        """Tell how far the task is, from 0 to 1. Never waits; without effect where nobody listens.

        Raises
        ------
        InvalidArgument
            For a fraction outside of 0 to 1.
        """
        given: object = fraction
        if not isinstance(given, numbers.Real) or not 0.0 <= float(given) <= 1.0:
            raise InvalidArgument(f"progress: fraction is {fraction!r}; it must be from 0 to 1")
        self._progress(self.id, float(fraction), sendable(text))

    def cancel(self) -> None:
        """Note that nobody wants the results any more."""
        self._cancelled.set()

    async def _send_value(self, key: str, value: Value) -> None:
        self.check()
        if key not in self.expected_keys:
            raise InvalidArgument(f"task {self.id!r} makes no result {key!r}; it makes {', '.join(self.expected_keys)}")
        if key in self.handed_over:
            raise InvalidArgument(f"task {self.id!r}: result {key!r} was handed over to a subtask")
        await self._conversation.result(key, self.to_bytes(value, f"result {key!r}"))
        self.sent.add(key)

    async def _create_tasks(self, subtasks: Sequence[Subtask], options: TaskOptions | None) -> tuple[str, ...]:
        self.check()
        if not subtasks:
            return ()
        tasks = []
        for subtask in subtasks:
            if not isinstance(subtask, Subtask):
                raise InvalidArgument(f"subtasks: {type(subtask).__name__} is no Subtask; write Subtask(payload)")
            if isinstance(subtask.keys, str) or isinstance(subtask.dependencies, str):
                raise InvalidArgument(f"subtask {subtask.id!r}: keys and dependencies are lists, not a text alone")
            task_id = subtask.id
            if not task_id:
                self._num_subtasks += 1
                task_id = f"{self.id}/{self._num_subtasks}"
            keys = tuple(subtask.keys) or (task_id,)
            payload = self.to_bytes(subtask.payload, f"payload of subtask {task_id!r}")
            tasks.append(NewTask(task_id, keys, tuple(subtask.dependencies), payload))
        await self._conversation.create(tasks, options)
        self.handed_over.update(key for task in tasks for key in task.keys if key in self.expected_keys)
        return tuple(task.id for task in tasks)

    def to_bytes(self, value: Value, what: str) -> bytes:
        """Return the bytes of a value; raises InvalidArgument, which begins with ``what``, if it is of another kind."""
        if isinstance(value, bytes):
            return value
        if isinstance(value, (bytearray, memoryview)):
            return bytes(value)
        if not self._is_arrays:
            raise InvalidArgument(
                f"{what}: bytes are needed, not {type(value).__name__}; @worker(arrays=True) takes arrays"
            )
        from runtime.tasks.arrays import encode_arrays

        return encode_arrays(value)


class AsyncTask(TaskBase):
    """A task of a function that is a coroutine: what needs the agent is awaited."""

    async def send(self, key: str, value: Value) -> None:
        """Send the value of a result; it counts when the task succeeds.

        Raises
        ------
        InvalidArgument
            The task does not make it, or the value is of another kind.
        """
        await self._send_value(key, value)

    async def create_tasks(self, subtasks: Sequence[Subtask], options: TaskOptions | None = None) -> tuple[str, ...]:
        """Ask for new tasks, which run when this one has succeeded; return their ids.

        Parameters
        ----------
        options : TaskOptions, optional
            The session's when left out.

        Raises
        ------
        FailedPrecondition
            They are refused; names the ids that stand against it. None of them is made.
        """
        return await self._create_tasks(subtasks, options)

    async def resource(self, key: str) -> bytes:
        """Return a resource of the server; raises NotFound."""
        return await self._conversation.data("resource", key)

    async def common_data(self, key: str) -> bytes:
        """Return a completed result of the session; raises NotFound."""
        return await self._conversation.data("common_data", key)

    async def direct_data(self, key: str) -> bytes:
        """Return direct data, which no server of today has; raises NotFound."""
        return await self._conversation.data("direct_data", key)


class Task(TaskBase):
    """A task of an ordinary function, which runs in a thread of its own: what needs the agent waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._loop = loop
        self._waits: set[Any] = set()

    def send(self, key: str, value: Value) -> None:
        """Send the value of a result; it counts when the task succeeds.

        Raises
        ------
        InvalidArgument
            The task does not make it, or the value is of another kind.
        """
        self.wait_for(self._send_value(key, value))

    def create_tasks(self, subtasks: Sequence[Subtask], options: TaskOptions | None = None) -> tuple[str, ...]:
        """Ask for new tasks, which run when this one has succeeded; return their ids. See `AsyncTask.create_tasks`."""
        return self.wait_for(self._create_tasks(subtasks, options))

    def resource(self, key: str) -> bytes:
        """Return a resource of the server; raises NotFound."""
        return self.wait_for(self._conversation.data("resource", key))

    def common_data(self, key: str) -> bytes:
        """Return a completed result of the session; raises NotFound."""
        return self.wait_for(self._conversation.data("common_data", key))

    def direct_data(self, key: str) -> bytes:
        """Return direct data, which no server of today has; raises NotFound."""
        return self.wait_for(self._conversation.data("direct_data", key))

    def cancel(self) -> None:
        """Note that nobody wants the results any more, and wake the function if it waits for the agent."""
        super().cancel()
        for wait in list(self._waits):
            wait.cancel()

    def wait_for(self, work: Coroutine[Any, Any, R]) -> R:
        """Return what a coroutine on the worker's loop returns; raises TaskCancelled when nobody wants it any more."""
        if self._cancelled.is_set():
            work.close()
            self.check()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._waits.add(future)
        if self._cancelled.is_set():
            future.cancel()
        try:
            return future.result()
        except BaseException:
            self.check()
            raise
        finally:
            self._waits.discard(future)

