"""The queue is the store's: what a server holds in memory does not grow with the tasks that wait in it."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from runtime.tasks.filters import TaskFilter
from runtime.tasks.inspection import Inspector
from runtime.tasks.tasks import Tasks
from tests.leaks import run_async
from tests.tasks.plane import OPTIONS, open_plane, request, run_all

PART = 1000


def _blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


async def _queue(tasks: Tasks, first: int, parts: int, session: str = "s") -> None:
    """Queue tasks, every second of which waits for the one before it."""
    for start in range(first, first + parts * PART, PART):
        requests = [
            request(f"t{number}", needs=(f"t{number - 1}",) * (number % 2)) for number in range(start, start + PART)
        ]
        assert await tasks.create_tasks(session, requests) == ()


async def _use(tasks: Tasks) -> None:
    """Ask whatever looks at the queue, and run some of it."""
    await run_all(tasks, 20)
    everything = TaskFilter(sessions=("s",))
    await tasks.count_tasks(everything)
    assert len(await tasks.list_tasks(everything)) >= PART
    inspector = Inspector(tasks)
    await inspector.tasks("s", ["SUBMITTED"], 0, 100)
    await inspector.sessions()


def test_queued_tasks_cost_no_objects(tmp_path: Path) -> None:
    async def fill() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            # What is ready is kept at hand while it is little, and not any more when it has been a lot.
            await _queue(tasks, 0, 1)
            await _use(tasks)
            await _queue(tasks, PART, 9)
            await _use(tasks)
            before = _blocks()
            await _queue(tasks, 10 * PART, 8)
            await _use(tasks)
            assert _blocks() - before < 8 * PART / 10, "memory grows with the tasks that are queued"

    async def restart() -> None:
        before = _blocks()
        async with open_plane(tmp_path) as tasks:
            await _use(tasks)
            assert _blocks() - before < 8 * PART / 4, "memory after a restart grows with the tasks that are queued"
            await tasks.create_session("other", OPTIONS)
            await _queue(tasks, 30 * PART, 2, "other")
            await tasks.cancel_session("other")
            before = _blocks()
            await tasks.cancel_session("s")
            assert _blocks() - before < 8 * PART / 10, "canceled tasks stay in memory"

    run_async(fill)
    run_async(restart)
