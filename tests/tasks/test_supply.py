"""Leases that are kept ready for agents go back when nobody takes them; which tasks are wanted before they are made."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest

from runtime.tasks.agents import supply
from runtime.tasks.agents.supply import Supply
from runtime.tasks.filters import TaskFilter
from runtime.tasks.model import TaskStatus
from runtime.tasks.tasks import Tasks
from tests.leaks import run_async
from tests.tasks.plane import OPTIONS, open_plane, request

TIMEOUT_S = 30.0
STALE_S = 0.02
NAMES = tuple(f"t{number}" for number in range(20))


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give leases back soon."""
    monkeypatch.setattr(supply, "_STALE_S", STALE_S)


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[tuple[Tasks, Supply]]:
    """Supply one worker whose tasks have been quick so far."""
    async with open_plane() as tasks:
        await tasks.create_session("s", OPTIONS)
        supplied = Supply(tasks)
        supplied.took(0.0001, 1000)
        supplied.work(1)
        try:
            yield tasks, supplied
        finally:
            supplied.close()


async def waiting_in_queue(tasks: Tasks, number: int) -> None:
    """Wait until so many tasks are in the queue."""
    selection = TaskFilter(sessions=("s",))
    async with asyncio.timeout(TIMEOUT_S):
        while (await tasks.count_tasks(selection)).get(TaskStatus.SUBMITTED) != number:
            await asyncio.sleep(0.001)


def test_what_nobody_takes_goes_back_for_good() -> None:
    async def work() -> None:
        async with opened() as (tasks, supplied):
            await tasks.create_tasks("s", [request("long"), *map(request, NAMES)])
            lease = await supplied.next()
            assert lease.task.id == "long"
            # The worker is busy with it now.
            await waiting_in_queue(tasks, len(NAMES))
            fences = [tasks.task(name).row.fence for name in NAMES]
            await asyncio.sleep(5 * STALE_S)
            assert [tasks.task(name).row.fence for name in NAMES] == fences, "acquired again, and nobody asked"
            assert {tasks.task(name).row.status for name in NAMES} == {TaskStatus.SUBMITTED}
            # Whoever asks has them, in their order.
            assert (await supplied.next()).task.id == NAMES[0]

    run_async(work)


def test_who_asks_while_an_acquisition_is_given_up_has_one_of_its_own() -> None:
    async def work() -> None:
        async with opened() as (tasks, supplied):
            supplied.took(10.0)  # nothing is kept ready
            gone = supplied.next()
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.sleep(0)  # its callback has run, and the acquisition has not ended yet
            asked = supplied.next()
            await tasks.create_tasks("s", [request("t")])
            assert (await asyncio.wait_for(asked, TIMEOUT_S)).task.id == "t"

    run_async(work)


def test_what_is_put_back_is_for_those_who_wait() -> None:
    async def work() -> None:
        async with opened() as (tasks, supplied):
            supplied.took(10.0)  # nothing is kept ready
            await tasks.create_tasks("s", [request("a"), request("b")])
            leases = [await supplied.next(), await supplied.next()]
            gone, asked = supplied.next(), supplied.next()
            gone.cancel()
            await asyncio.sleep(0)  # the acquisition is for the other one now
            supplied.put_back(leases)
            assert await asked is leases[0]
            await waiting_in_queue(tasks, 1)
            await asyncio.sleep(5 * STALE_S)
            assert tasks.task("b").row.fence == leases[1].fence, "acquired again, and nobody asked"
            assert (await supplied.next()).task.id == "b"

    run_async(work)


def test_tasks_are_wanted_early_where_workers_are_quick_and_have_little_to_do() -> None:
    async def work() -> None:
        async with opened() as (tasks, supplied):
            assert tasks.early.taker is supplied
            assert supplied.wants_early(10)
            assert not supplied.wants_early(100_000)
            supplied.took(1.0)
            assert not supplied.wants_early(1)
            supplied.close()
            assert tasks.early.taker is None

    run_async(work)


def test_what_has_begun_early_and_nobody_takes_is_made_and_goes_to_the_queue() -> None:
    async def work() -> None:
        synced = []

        async def sync() -> None:
            synced.append(True)

        async with opened() as (tasks, supplied):
            begun = await tasks.early.begin("s", [request("first"), request("second")], None, sync)
            assert begun is not None
            await waiting_in_queue(tasks, 2)
            assert await begun.done == ()
            assert synced == [True]
            assert (await supplied.next()).task.id == "first"

    run_async(work)


def test_a_task_that_begins_early_is_dealt_out_before_less_important_ones() -> None:
    async def work() -> None:
        async def sync() -> None:
            pass

        async with opened() as (tasks, supplied):
            important = dataclasses.replace(OPTIONS, priority=2)
            for options, name in ((OPTIONS, "usual"), (important, "important")):
                assert await tasks.early.begin("s", [request(name)], options, sync) is not None
            lease = supplied.take()
            assert lease is not None and lease.task.id == "important"

    run_async(work)
