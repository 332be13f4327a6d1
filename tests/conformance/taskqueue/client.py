"""Speaking to a server as raw clients do, in few words."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import runtime
from tests.conformance.taskqueue.messages import CLASSES, Stub

# Generous: the machine may have much else to do.
PATIENCE_S = 60.0


class Queue:
    """One client of a server."""

    def __init__(self, channel: grpc.Channel, address: str, token: str | None = None) -> None:
        self.stub = Stub(channel, token)
        self.address = address

    def submit(self, command: str = "true", container: str = "bare", **metadata: object) -> int:
        request = CLASSES["TaskRequest"](command=command, container=container)
        return int(self.stub.call("SubmitTask", request, **metadata).task_id)

    def register(self, name: str = "w", concurrency: int | None = None, **metadata: object) -> int:
        info = CLASSES["WorkerInfo"](name=name)
        if concurrency is not None:
            info.concurrency = concurrency
        return int(self.stub.call("RegisterWorker", info, **metadata).worker_id)

    def ping(self, worker: int, **metadata: object) -> list[tuple[int, str]]:
        """Return ids and statuses of what is listed."""
        return [(task.task_id, task.status) for task in self.ping_whole(worker, **metadata).tasks]

    def ping_whole(self, worker: int, **metadata: object) -> Any:
        return self.stub.call("PingAndTakeNewTasks", CLASSES["WorkerId"](worker_id=worker), **metadata)

    def update(self, task: int, status: str, **metadata: object) -> bool:
        request = CLASSES["TaskStatusUpdate"](task_id=task, new_status=status)
        return bool(self.stub.call("UpdateTaskStatus", request, **metadata).success)

    def path(self, task: int, statuses: str, **metadata: object) -> None:
        """Report one status after the other."""
        for status in statuses:
            assert self.update(task, status, **metadata)

    def send(self, entries: Iterable[tuple[int, str, str]], timeout: float = 30.0, **metadata: object) -> bool:
        logs = (CLASSES["TaskLog"](task_id=task, log_type=kind, log_text=text) for task, kind, text in entries)
        return bool(self.stub.call("SendTaskLogs", logs, timeout, **metadata).success)

    def follow(self, task: int, timeout: float = PATIENCE_S, **metadata: object) -> Any:
        return self.stub.call("StreamTaskLogs", CLASSES["TaskId"](task_id=task), timeout, **metadata)

    def output(self, task: int) -> list[tuple[str, str]]:
        """Return what there is of a task's output now."""
        return [(entry.log_type, entry.log_text) for entry in self.follow(task, x_tq_follow=0)]

    def tasks(self, status: str | None = None, **metadata: object) -> list[Any]:
        request = CLASSES["ListTasksRequest"]()
        if status is not None:
            request.status_filter = status
        return list(self.stub.call("ListTasks", request, **metadata).tasks)

    def status(self, task: int) -> str:
        return str(next(one.status for one in self.tasks() if one.task_id == task))

    def statuses(self) -> dict[int, str]:
        return {task.task_id: task.status for task in self.tasks()}

    def workers(self) -> list[tuple[int, str, int]]:
        answer = self.stub.call("ListWorkers", CLASSES["ListWorkersRequest"]())
        return [(worker.worker_id, worker.name, worker.concurrency) for worker in answer.workers]

    def create_workers(self, provider: str = "local", number: int = 1, **fields: Any) -> list[int]:
        request = CLASSES["WorkerRequest"](provider=provider, number=number, **fields)
        return list(self.stub.call("CreateWorker", request).worker_ids)

    def delete_worker(self, worker: int) -> bool:
        return bool(self.stub.call("DeleteWorker", CLASSES["WorkerId"](worker_id=worker)).success)


@contextlib.contextmanager
def connect(address: str, token: str | None = None) -> Iterator[Queue]:
    """Give a client with a connection of its own."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1),
               ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options) as channel:
        yield Queue(channel, address, token)


@contextlib.contextmanager
def serving(folder: Path, **options: Any) -> Iterator[Queue]:
    """Give a client of a server in this process, which keeps its data in ``folder``."""
    with (
        runtime.Server(services=("command",), data_dir=folder / "data", **options) as server,
        connect(server.address) as client,
    ):
        yield client


def code(call: Callable[[], object]) -> grpc.StatusCode:
    """Return the code with which a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()  # type: ignore[attr-defined,no-any-return]


def wait_until(is_so: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    """Wait until something is so; fail when it does not get so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
