"""What a worker sends during a call: results and new tasks, each under a request id, interleaved as it likes."""

from __future__ import annotations

from runtime import wire
from runtime.errors import InvalidArgument
from runtime.objects.objects import ValueWriter
from runtime.objects.value import Value
from runtime.tasks import messages
from runtime.tasks.leases import Lease
from runtime.tasks.model import TaskOptions, TaskRequest
from runtime.tasks.tasks import Tasks

__all__ = ["Broken", "Creation", "Requests"]

# Requests of one call that may be open at a time: each may hold an open file.
_MAX_OPEN = 1024


class Broken(Exception):
    """The worker broke the protocol; the text says how, and becomes the task's error."""


class Creation:
    """A complete request for new tasks.

    Attributes
    ----------
    request_id : str
    requests : list of TaskRequest
        Their payloads are held.
    options : TaskOptions or None
        None for the session's.
    refused : str
        Why nothing can come of it, whatever the store says; empty otherwise.
    ids : tuple of str
        Of the tasks that are asked for.
    """

    __slots__ = ("ids", "options", "refused", "request_id", "requests")

    def __init__(self, request_id: str, requests: list[TaskRequest], options: TaskOptions | None, refused: str,
                 ids: tuple[str, ...]) -> None:
        self.request_id = request_id
        self.requests = requests
        self.options = options
        self.refused = refused
        self.ids = ids


class _Results:
    """Results under one request id: ``init.key``, data, ``data_complete``, perhaps more keys, ``init.last_result``."""

    __slots__ = ("is_empty", "key", "writer")

    def __init__(self) -> None:
        self.key = ""
        self.writer: ValueWriter | None = None
        self.is_empty = True


class _Tasks:
    """New tasks under one request id, while their payloads come."""

    __slots__ = ("options", "refused", "stream")

    def __init__(self, stream: messages.TaskStream, options: TaskOptions | None, refused: str) -> None:
        self.stream = stream
        self.options = options
        self.refused = refused


class Requests:
    """The requests of one call.

    Parameters
    ----------
    tasks : Tasks
    lease : Lease
        Of the attempt.
    chunk_bytes : int
        Most bytes of a chunk.

    Attributes
    ----------
    values : dict of str to Value
        The complete results by key; held.
    """

    def __init__(self, tasks: Tasks, lease: Lease, chunk_bytes: int) -> None:
        self.values: dict[str, Value] = {}
        self._tasks = tasks
        self._lease = lease
        self._chunk_bytes = chunk_bytes
        self._results: dict[str, _Results] = {}
        self._creations: dict[str, _Tasks] = {}

    # Results

    async def result(self, request_id: str, message: wire.armonik.ProcessReply.Result) -> None:
        """Take a ``result`` message.

        Raises
        ------
        Broken
            It may not come now, or not at all.
        ResourceExhausted, Unavailable
            The disk is full, or fails.
        """
        request = self._results.get(request_id)
        kind = message.WhichOneof("type")
        if kind == "init":
            await self._init_result(request_id, request, message.init)
        elif kind == "data":
            if request is None or request.writer is None:
                raise Broken(f"request {request_id!r}: data of a result without its init.key")
            await self._result_data(request_id, request, request.writer, message.data)
        else:
            raise Broken(f"request {request_id!r}: a result message has neither init nor data")

    async def _init_result(
        self, request_id: str, request: _Results | None, init: wire.armonik.InitKeyedDataStream
    ) -> None:
        if request is not None and request.writer is not None:
            raise Broken(f"request {request_id!r}: the data of result {request.key!r} are not complete yet")
        kind = init.WhichOneof("type")
        if kind == "last_result":
            if request is None or request.is_empty or not init.last_result:
                raise Broken(f"request {request_id!r}: init.last_result without a result, or not true")
            del self._results[request_id]
            return
        if kind != "key" or not init.key:
            raise Broken(f"request {request_id!r}: the init of a result has no key")
        if init.key not in self._lease.task.expected_keys:
            raise Broken(f"result {init.key!r} does not belong to task {self._lease.task.id!r}")
        if request is None:
            self._check_open(request_id)
            request = self._results[request_id] = _Results()
        request.key = init.key
        request.writer = self._lease.result_writer()

    async def _result_data(
        self, request_id: str, request: _Results, writer: ValueWriter, chunk: wire.armonik.DataChunk
    ) -> None:
        kind = chunk.WhichOneof("type")
        if kind == "data":
            if len(chunk.data) > self._chunk_bytes:
                raise Broken(
                    f"request {request_id!r}: a chunk of {len(chunk.data)} bytes of result {request.key!r}; "
                    f"data_chunk_max_size is {self._chunk_bytes}"
                )
            await writer.write(chunk.data)
        elif kind == "data_complete" and chunk.data_complete:
            value = await writer.finish()
            request.writer = None
            request.is_empty = False
            earlier = self.values.get(request.key)
            self.values[request.key] = value
            if earlier is not None:
                self._tasks.discard([earlier])
        else:
            raise Broken(f"request {request_id!r}: a chunk of result {request.key!r} has no data and is not the last")

    # New tasks

    def small(self, request_id: str, message: wire.armonik.ProcessReply.CreateSmallTaskRequest) -> Creation:
        """Take a ``create_small_task`` message."""
        ids = tuple(dict.fromkeys(request.id for request in message.task_requests if request.id))
        try:
            options = messages.options_of(message.task_options) if message.HasField("task_options") else None
            return Creation(
                request_id, messages.small_tasks_of(message.task_requests, self._chunk_bytes), options, "", ids
            )
        except InvalidArgument as error:
            return Creation(request_id, [], None, error.message, ids)

    async def large(
        self, request_id: str, message: wire.armonik.ProcessReply.CreateLargeTaskRequest
    ) -> Creation | None:
        """Take a ``create_large_task`` message; return the request when it is complete.

        Raises
        ------
        Broken
            It may not come now.
        ResourceExhausted, Unavailable
            The disk is full, or fails.
        """
        kind = message.WhichOneof("type")
        request = self._creations.get(request_id)
        if request is None:
            if kind != "init_request":
                raise Broken(f"request {request_id!r}: create_large_task begins with init_request")
            self._check_open(request_id)
            options, refused = None, ""
            if message.init_request.HasField("task_options"):
                try:
                    options = messages.options_of(message.init_request.task_options)
                except InvalidArgument as error:
                    refused = error.message
            stream = messages.TaskStream(self._tasks.writer, self._chunk_bytes)
            self._creations[request_id] = _Tasks(stream, options, refused)
            return None
        stream = request.stream
        try:
            if kind == "init_task":
                await stream.init_task(message.init_task)
            elif kind == "task_payload":
                await stream.task_payload(message.task_payload)
            else:
                raise Broken(f"request {request_id!r}: create_large_task has a second init_request, or nothing")
            if not stream.is_over:
                return None
            requests = await stream.finish()
        except InvalidArgument as error:
            raise Broken(f"request {request_id!r}: {error.message}") from None
        del self._creations[request_id]
        ids = tuple(dict.fromkeys(task.id for task in requests))
        return Creation(request_id, requests, request.options, request.refused, ids)

    # The end

    def check_complete(self) -> None:
        """Raise Broken if a request is still open."""
        for request_id in (*self._results, *self._creations):
            raise Broken(f"request {request_id!r} was not complete when the output came")

    def take_values(self) -> dict[str, Value]:
        """Return the results; who takes them holds them."""
        values, self.values = self.values, {}
        return values

    def discard(self) -> None:
        """Forget everything."""
        for request in self._results.values():
            if request.writer is not None:
                request.writer.discard()
        self._results.clear()
        for creation in self._creations.values():
            creation.stream.discard(self._tasks.discard)
        self._creations.clear()
        self._tasks.discard(self.take_values().values())

    def _check_open(self, request_id: str) -> None:
        if request_id in self._results or request_id in self._creations:
            raise Broken(f"request {request_id!r} is of another kind")
        if len(self._results) + len(self._creations) >= _MAX_OPEN:
            raise Broken(f"more than {_MAX_OPEN} requests are open at a time")
