"""The agent's calls of the server: which ones there are, who it is, and what an answer of no means."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from runtime import wire
from runtime.client.channels import Access, address_of
from runtime.errors import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
    from_rpc_error,
)

__all__ = ["GONE", "Calls", "Pinged", "Task", "persist"]

CALL_S = 10.0
HOLD_S = 3.0
# A ping that may be held gets its answer a second before its deadline.
PING_S = HOLD_S + 2.0
SEND_S = 600.0
_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", 256 << 20),
    ("grpc.max_metadata_size", 256 << 10),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 100),
)
_PATH = "/taskqueue.TaskQueue/"
# What passes by itself.
_PASSING = (Unavailable, DeadlineExceeded, ResourceExhausted)
GONE = (NotFound, FailedPrecondition, Aborted)
"""Answers that say that a command is not this worker's any more."""

_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Task:
    """A command as the server lists it."""

    number: int
    text: str
    container: str
    status: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Pinged:
    """The answer to a ping: how many commands may run, what there is, and what is lost."""

    concurrency: int
    tasks: Sequence[Task]
    lost: frozenset[int]


class Calls:
    """A connection to one server, as one process of a worker.

    Parameters
    ----------
    target : str
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` or ``unix:PATH``.
    access : Access
    """

    def __init__(self, target: str, access: Access) -> None:
        address = address_of(target)
        options: list[tuple[str, Any]] = list(_OPTIONS)
        if access.server_name is not None:
            options.append(("grpc.ssl_target_name_override", access.server_name))
        if access.tls:
            credentials = grpc.ssl_channel_credentials(access.ca, access.key, access.cert)
            self._channel = grpc.aio.secure_channel(address, credentials, options)
        else:
            self._channel = grpc.aio.insecure_channel(address, options)
        self._access = access
        self.instance = secrets.token_hex(8)
        self.worker = 0

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def register(self, name: str, concurrency: int, owned: Mapping[int, int]) -> int:
        """Register, with what this worker still has; return its id."""
        request = wire.taskqueue.WorkerInfo(name=name, concurrency=concurrency)
        answer, _ = await self._unary("RegisterWorker", request, wire.taskqueue.WorkerId, CALL_S, _owned(owned))
        self.worker = int(answer.worker_id)
        return self.worker

    async def ping(self, owned: Mapping[int, int]) -> Pinged:
        """Say that this worker lives, and wait a little for something to do."""
        more = (*_owned(owned), ("x-tq-ping-hold-ms", str(int(HOLD_S * 1000))))
        request = wire.taskqueue.WorkerId(worker_id=self.worker)
        answer, trailers = await self._unary(
            "PingAndTakeNewTasks", request, wire.taskqueue.TaskListAndOther, PING_S, more
        )
        attempts = dict(item.split(".") for item in filter(None, trailers.get("x-tq-attempts", "").split(",")))
        lost = frozenset(int(item) for item in filter(None, trailers.get("x-tq-lost", "").split(",")))
        tasks = [
            Task(task.task_id, task.command, task.container, task.status, int(attempts.get(str(task.task_id), 1)))
            for task in answer.tasks
        ]
        return Pinged(answer.concurrency, tasks, lost)

    async def update(self, number: int, attempt: int, status: str) -> None:
        """Report a status."""
        request = wire.taskqueue.TaskStatusUpdate(task_id=number, new_status=status)
        await self._unary(
            "UpdateTaskStatus", request, wire.taskqueue.Ack, CALL_S, (("x-tq-attempt", str(attempt)),)
        )

    async def send(
        self, number: int, attempt: int, first: int, entries: AsyncIterator[tuple[str, str]]
    ) -> None:
        """Send output, the first line of which has the number ``first`` in this attempt; returns when it is kept."""
        metadata = (*self._metadata(), ("x-tq-attempt", str(attempt)), ("x-tq-log-sequence", str(first)))
        log = wire.taskqueue.TaskLog

        async def messages() -> AsyncIterator[bytes]:
            async for kind, text in entries:
                yield log(task_id=number, log_type=kind, log_text=text).SerializeToString()

        try:
            call: Any = self._channel.stream_unary(f"{_PATH}SendTaskLogs")
            await call(messages(), timeout=SEND_S, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def _unary(
        self, method: str, request: Any, kind: type[Any], timeout: float, more: Iterable[tuple[str, str]] = ()
    ) -> tuple[Any, dict[str, str]]:
        call: Any = self._channel.unary_unary(_PATH + method)(
            request.SerializeToString(), timeout=timeout, metadata=(*self._metadata(), *more)
        )
        try:
            answer = await call
            trailers = {str(key): str(value) for key, value in (await call.trailing_metadata() or ())}
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return kind.FromString(answer), trailers

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        own = (("x-tq-worker-instance", self.instance),)
        if self.worker:
            own = (*own, ("x-tq-worker-id", str(self.worker)))  # type: ignore[assignment]
        return (*self._access.metadata(), *own)


async def persist(call: Callable[[], Any], until: asyncio.Event | None = None) -> Any:
    """Make a call again and again while the server is away.

    Parameters
    ----------
    call : callable
        Returns an awaitable.
    until : Event, optional
        Set when it is no longer worth it: then the last error is raised.

    Raises
    ------
    Error
        Any answer that does not pass by itself.
    """
    tries = 0
    while True:
        try:
            return await call()
        except _PASSING:
            if until is not None and until.is_set():
                raise
            pause = _PAUSES_S[min(tries, len(_PAUSES_S) - 1)] * (0.75 + random.random() / 2)
            tries += 1
            if until is None:
                await asyncio.sleep(pause)
            else:
                try:
                    async with asyncio.timeout(pause):
                        await until.wait()
                except TimeoutError:
                    pass


def _owned(owned: Mapping[int, int]) -> tuple[tuple[str, str], ...]:
    return (("x-tq-owned", ",".join(f"{number}.{attempt}" for number, attempt in owned.items())),)
