"""A task plane without a server: made on the running loop, driven by its domain interface."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from runtime.objects.files import FileObjects
from runtime.objects.value import Value
from runtime.store.sqlite.object_tables import ObjectTables
from runtime.store.sqlite.store import SqliteStore
from runtime.store.sqlite.task_tables import SqliteTaskTables
from runtime.tasks.leases import Lease
from runtime.tasks.model import TaskOptions, TaskRequest
from runtime.tasks.tasks import Limits, Tasks

SECOND_NS = 1_000_000_000
OPTIONS = TaskOptions(max_duration_ns=60 * SECOND_NS, max_retries=2, priority=1)


def open_store(path: Path | None) -> SqliteStore:
    """Return a store with the tables of the task plane."""
    return SqliteStore(path, [ObjectTables, SqliteTaskTables], threads=path is not None)


class Clock:
    """A date that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1.7e9

    def __call__(self) -> float:
        return self.now_s


@contextlib.asynccontextmanager
async def open_plane(
    folder: Path | None = None, limits: Limits | None = None, now_s: Callable[[], float] = time.time
) -> AsyncIterator[Tasks]:
    """Return a plane on a store in ``folder``, or in memory."""
    store = open_store(None if folder is None else folder / "store.db")
    objects = FileObjects(Path("/nonexistent") if folder is None else folder / "objects")
    tasks = Tasks(store.plane(SqliteTaskTables), objects, limits, now_s=now_s)
    try:
        await tasks.start()
        yield tasks
    finally:
        await tasks.stop()
        await objects.close()
        await store.close()


def request(
    task_id: str, *keys: str, needs: tuple[str, ...] = (), payload: bytes = b"payload"
) -> TaskRequest:
    """Return the request for a task; its only key is its id unless others are given."""
    return TaskRequest(task_id, keys or (task_id,), needs, Value(payload))


async def acquire(tasks: Tasks, agent: str = "agent") -> Lease:
    """Return the lease of the next task, started."""
    (lease,) = await tasks.acquire(agent)
    await lease.start()
    return lease


async def run_all(tasks: Tasks, number: int, agent: str = "agent") -> list[str]:
    """Let so many tasks succeed, one after the other, and return their ids."""
    ids = []
    for _ in range(number):
        lease = await acquire(tasks, agent)
        await lease.succeed({key: Value(key.encode()) for key in lease.task.expected_keys})
        ids.append(lease.task.id)
    return ids
