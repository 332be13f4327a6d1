"""Attempts after a failure wait as long as the server is told, across restarts, and not for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runtime.tasks.delays import RetryDelay
from runtime.tasks.inspection import Inspector, Workforce
from runtime.tasks.model import FailureKind, TaskStatus
from runtime.tasks.tasks import Limits, Tasks
from tests.leaks import run_async
from tests.tasks.plane import OPTIONS, Clock, acquire, open_plane, request


@pytest.mark.parametrize(
    ("delay", "waits"),
    [
        (RetryDelay(), [0.0, 0.0, 0.0, 0.0]),
        (RetryDelay(1.0, 5.0), [0.0, 1.0, 2.0, 4.0, 5.0, 5.0]),
        (RetryDelay(9.0, 5.0), [0.0, 9.0, 9.0]),
    ],
)
def test_delay_doubles_up_to_its_bound(delay: RetryDelay, waits: list[float]) -> None:
    assert [delay.before(attempt) for attempt in range(len(waits))] == waits
    assert delay.before(10_000) == waits[-1]


async def fail_next(tasks: Tasks) -> str:
    lease = await acquire(tasks)
    await lease.fail(FailureKind.CALL, "broken")
    return lease.task.id


async def why(tasks: Tasks, task_id: str) -> str:
    return (await Inspector(tasks).task(task_id, Workforce(1, 0, (), {}, {}))).why[0]


def test_attempt_waits_its_time_while_others_run() -> None:
    clock = Clock()

    async def work() -> None:
        async with open_plane(limits=Limits(retry_delay=RetryDelay(0.1)), now_s=clock) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("a")])
            assert await fail_next(tasks) == "a"
            assert "0.1 s more, before attempt 2" in await why(tasks, "a")
            await tasks.create_tasks("s", [request("b")])
            assert (await acquire(tasks)).task.id == "b"
            started = asyncio.get_running_loop().time()
            clock.now_s += 0.1
            assert await fail_next(tasks) == "a###1"
            assert asyncio.get_running_loop().time() - started >= 0.09
            assert "0.2 s more, before attempt 3" in await why(tasks, "a")

    run_async(work)


def test_delay_outlives_the_server(tmp_path: Path) -> None:
    clock = Clock()
    limits = Limits(retry_delay=RetryDelay(1000.0, 1000.0))

    async def fail() -> None:
        async with open_plane(tmp_path, limits, now_s=clock) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("a")])
            await fail_next(tasks)

    async def early() -> None:
        async with open_plane(tmp_path, limits, now_s=clock) as tasks:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(tasks.acquire("agent"), 0.2)

    async def late() -> None:
        clock.now_s += 1000.0
        async with open_plane(tmp_path, limits, now_s=clock) as tasks:
            assert (await acquire(tasks)).task.id == "a###1"

    for work in (fail, early, late):
        run_async(work)


def test_canceled_attempt_does_not_come_back() -> None:
    async def work() -> None:
        async with open_plane(limits=Limits(retry_delay=RetryDelay(0.05))) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("a")])
            await fail_next(tasks)
            await tasks.cancel_session("s")
            while tasks.store.read(lambda tables: tables.next_due()) is not None:
                await asyncio.sleep(0.01)
            assert tasks.task("a###1").row.status is TaskStatus.CANCELED

    run_async(work)


def test_clock_that_is_put_back_holds_nobody_longer_than_the_longest_delay() -> None:
    clock = Clock()

    async def work() -> None:
        async with open_plane(limits=Limits(retry_delay=RetryDelay(0.05, 0.1)), now_s=clock) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("a")])
            await fail_next(tasks)
            clock.now_s -= 3600.0
            assert (await acquire(tasks)).task.id == "a###1"

    run_async(work)
