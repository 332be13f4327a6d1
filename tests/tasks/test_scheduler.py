"""Who waits for a task has it as soon as one is ready, whatever else is written with it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from runtime.objects.value import Value
from tests.leaks import run_async
from tests.tasks.plane import OPTIONS, acquire, open_plane, request

TIMEOUT_S = 30.0


def test_a_task_gets_ready_in_the_group_of_a_creation_that_had_none(tmp_path: Path) -> None:
    """The creation looks at the queue for who waits, finds nothing, and the end of an input is written behind it."""

    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("input")])
            lease = await acquire(tasks)
            waiting = asyncio.ensure_future(acquire(tasks))
            while tasks.scheduler.has_ready:  # until the store has said that nothing is
                await asyncio.sleep(0.001)
            go_on = threading.Event()
            held = tasks.store.write(lambda tables: go_on.wait(TIMEOUT_S))
            await asyncio.sleep(0.01)  # the writer has begun with it: what comes now is one group
            created = asyncio.ensure_future(tasks.create_tasks("s", [request("reader", needs=("input",))]))
            await asyncio.sleep(0)
            ended = asyncio.ensure_future(lease.succeed({"input": Value(b"x")}))
            await asyncio.sleep(0.01)
            go_on.set()
            await asyncio.gather(held, created, ended)
            assert (await asyncio.wait_for(waiting, TIMEOUT_S)).task.id == "reader"

    run_async(work)
