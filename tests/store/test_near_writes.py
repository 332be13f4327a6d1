"""Writes on the loop itself: one record for a task and its end, none later than promised, never in anybody's way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import NotFound, ResourceExhausted, Unavailable
from runtime.objects.value import Value
from runtime.store import failpoints
from runtime.store.sqlite import near_writes
from runtime.store.sqlite.tail_log import TailFile
from runtime.store.store import Wait
from runtime.tasks.creation import Refused
from runtime.tasks.filters import TaskFilter
from runtime.tasks.leases import Lease
from runtime.tasks.model import TaskStatus
from runtime.tasks.tasks import Tasks
from tests.leaks import run_async
from tests.store.test_tail import check, plane, tail
from tests.tasks.plane import request


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    yield
    failpoints.clear()


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every record that is appended from now on."""
    found: list[bytes] = []
    append = TailFile.append

    def keep(self: TailFile, record: bytes) -> None:
        append(self, record)
        found.append(record)

    monkeypatch.setattr(TailFile, "append", keep)
    # However slow this machine's disk is.
    monkeypatch.setattr(near_writes, "_QUICK_S", 10.0)
    return found


class Agent:
    """Waits for tasks before they are made."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        tasks._duration_s = 0.0

    async def next(self) -> asyncio.Future[list[Lease]]:
        waiting = self._tasks.scheduler.request("agent", 1)
        # Whatever was ready before is handed out by then, and nobody looks.
        for _ in range(100):
            await asyncio.sleep(0.001)
            if not self._tasks.scheduler._asking:
                break
        return waiting

    def end(self, lease: Lease) -> asyncio.Future[None]:
        lease.started_s = time.time()
        values = {key: Value(b"result of " + key.encode()) for key in lease.task.expected_keys}
        return self._tasks.succeed_all([(lease, values)])


def submit(tasks: Tasks, *names: str, needs: tuple[str, ...] = ()) -> tuple[Any, asyncio.Future[Any]]:
    follower = tasks.follower(lambda: None)
    follower.expect(len(names))
    return follower, tasks.submit("s", [request(name, needs=needs) for name in names], None, follower, "tag")


async def first(tasks: Tasks) -> Agent:
    """Have all ended that `plane` has made."""
    agent = Agent(tasks)
    (lease,) = await tasks.acquire("agent")
    await agent.end(lease)
    return agent


def test_a_task_and_its_quick_end_are_one_record(tmp_path: Path, records: list[bytes]) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            agent = await first(tasks)
            for number in range(10):
                tasks._duration_s = 0.0
                waiting = await agent.next()
                records.clear()
                follower, making = submit(tasks, f"t{number}")
                (lease,) = await waiting
                assert not making.done(), "a task was told to be made that is nowhere"
                assert not records
                await agent.end(lease)
                await making
                assert len(records) == 1
                while not follower.has_news:
                    await asyncio.sleep(0)
                (told,) = follower.take(10)
                assert told.value.data == b"result of t%d" % number
            await check(tasks, [f"t{number}" for number in range(10)], [])

    run_async(work)


def test_a_task_that_takes_long_is_on_disk_soon_and_the_next_ones_do_not_wait(
    tmp_path: Path, records: list[bytes]
) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            agent = await first(tasks)
            leases = []
            for number in range(near_writes._FIRST_PAUSE + 1):
                tasks._duration_s = 0.0
                waiting = await agent.next()
                records.clear()
                _, making = submit(tasks, f"t{number}")
                (lease,) = await waiting
                leases.append(lease)
                assert making.done() == (number > 0)
                await asyncio.wait_for(making, 5.0)
                assert len(records) == 1
            for lease in leases:
                await agent.end(lease)
            await check(tasks, [lease.task.id for lease in leases], [])

    run_async(work)


def test_who_reads_or_writes_meanwhile_finds_what_was_begun(tmp_path: Path, records: list[bytes]) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            agent = await first(tasks)
            waiting = await agent.next()
            _, making = submit(tasks, "read")
            (lease,) = await waiting
            assert not making.done()
            # On the loop itself, where nothing else can end the wait.
            assert tasks.store.read(lambda tables: tables.task_statuses(["read"]))["read"] is TaskStatus.SUBMITTED
            await making
            await agent.end(lease)

            tasks._duration_s = 0.0
            order: list[str] = []
            for name in ("written", "canceled"):
                waiting = await agent.next()
                _, making = submit(tasks, name)
                (lease,) = await waiting
                order.clear()
                making.add_done_callback(lambda _: order.append("made"))
                if name == "written":
                    other = asyncio.ensure_future(tasks.create_tasks("s", [request("other")]))
                else:
                    other = asyncio.ensure_future(tasks.cancel_tasks(TaskFilter(tasks=(name,))))
                other.add_done_callback(lambda _: order.append("other"))
                await other
                assert order == ["made", "other"]
                await agent.end(lease) if name == "written" else await lease.confirm_cancelled()
            await check(tasks, ["read", "written"], ["other"])
            assert await tasks.task_statuses(["canceled"]) == {"canceled": TaskStatus.CANCELED}

    run_async(work)


def test_several_at_once_are_one_record_and_keep_their_order(tmp_path: Path, records: list[bytes]) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            await first(tasks)
            await asyncio.sleep(0.05)
            records.clear()
            await asyncio.gather(*[submit(tasks, f"t{number}")[1] for number in range(10)])
            assert len(records) == 1
            # What cannot be ends alone.
            makings = [submit(tasks, f"t{number}")[1] for number in range(10, 13)]
            unknown = tasks.submit("none", [request("x")], None, tasks.follower(lambda: None), None)
            makings += [submit(tasks, f"t{number}")[1] for number in range(12, 16)]
            done = await asyncio.gather(unknown, *makings, return_exceptions=True)
            assert [type(one) for one in done] == [NotFound, tuple, tuple, tuple, Refused, tuple, tuple, tuple]
            await check(tasks, [], [f"t{number}" for number in range(16)])

    run_async(work)


def test_what_needs_the_tables_is_committed_there(tmp_path: Path, records: list[bytes]) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            agent = await first(tasks)
            records.clear()
            makings = [submit(tasks, "a")[1], submit(tasks, "b", needs=("a",))[1], submit(tasks, "c")[1]]
            await asyncio.gather(*makings)
            assert not records
            assert not tail(tasks)
            for name in ("a", "c", "b"):
                (lease,) = await tasks.acquire("agent")
                assert lease.task.id == name
                await agent.end(lease)
            await check(tasks, ["a", "b", "c"], [])

    run_async(work)


def test_a_record_that_fails_takes_the_task_and_its_end_along(tmp_path: Path, records: list[bytes]) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            agent = await first(tasks)
            waiting = await agent.next()
            failpoints.set_failpoint("store.tail.append", "raise:EIO")
            _, making = submit(tasks, "a")
            (lease,) = await waiting
            ended = agent.end(lease)
            with pytest.raises(Unavailable):
                await making
            # The outcome is tried again, and finds that there is no such task.
            await ended
            assert lease.is_lost
            assert not await tasks.task_statuses(["a"])
            _, making = submit(tasks, "a")
            await making
            await check(tasks, [], ["a"])

    run_async(work)


@pytest.mark.parametrize("place", ["store.begin", "store.write", "store.commit.before", "store.commit.after"])
def test_a_failure_anywhere_is_told(tmp_path: Path, records: list[bytes], place: str) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            await first(tasks)
            await asyncio.sleep(0.05)
            failpoints.set_failpoint(place, "raise:ENOSPC")
            with pytest.raises(ResourceExhausted):
                await submit(tasks, "a")[1]
            await submit(tasks, "b")[1]
            await check(tasks, [], ["b"])

    run_async(work)


def test_a_slow_log_does_not_hold_the_loop_up(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            await first(tasks)
            failpoints.set_failpoint("store.tail.append", "delay:0.2")
            await submit(tasks, "a")[1]  # may have
            making = asyncio.ensure_future(submit(tasks, "b")[1])
            turns = 0
            while not making.done():
                turns += 1
                await asyncio.sleep(0.005)
            assert turns > 5, "the loop stood still"
            failpoints.clear()
            await check(tasks, [], ["a", "b"])

    run_async(work)


def test_a_thread_that_waits_has_its_turn(tmp_path: Path, records: list[bytes]) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            await first(tasks)
            is_over = False

            async def keep_busy() -> int:
                number = 0
                while not is_over:
                    await submit(tasks, f"t{number}")[1]
                    number += 1
                return number

            busy = asyncio.ensure_future(keep_busy())
            for _ in range(50):
                found = await tasks.store.read_in_thread(lambda tables: tables.task_statuses(["t0"]))
                assert found == {} or found["t0"] is TaskStatus.SUBMITTED
                await asyncio.sleep(0)
            is_over = True
            made = await busy
            assert made
            await check(tasks, [], [f"t{number}" for number in range(made)])

    run_async(work)


def test_closing_leaves_nothing_undone(tmp_path: Path, records: list[bytes]) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            agent = await first(tasks)
            waiting = await agent.next()
            _, making = submit(tasks, "a")
            await waiting
        assert making.done()
        assert making.exception() is None
        async with plane(tmp_path) as tasks:
            await check(tasks, [], ["a"])
            write = tasks.store.write(lambda tables: 7, Wait.FOR_NEXT)
        assert await write == 7
        with pytest.raises(Unavailable):
            await tasks.store.write(lambda tables: 7, Wait.FOR_NEXT)

    run_async(work)
