"""The queue's head in memory says what the index says, and what is left to be written is written, or never was."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.objects.value import Value
from runtime.store import failpoints
from runtime.store.sqlite import task_queue
from runtime.store.sqlite.database import Database
from runtime.store.sqlite.object_tables import ObjectTables
from runtime.store.sqlite.task_tables import SqliteTaskTables
from runtime.tasks import cancellation, creation, endings, retries, scheduler, transitions
from runtime.tasks.model import (
    FailureKind,
    SessionRow,
    SessionStatus,
    TaskOptions,
    TaskRequest,
    TaskRow,
    TaskStatus,
)
from tests.leaks import run_async
from tests.tasks.plane import OPTIONS, open_plane, request

TIMEOUT_S = 30.0


class Queue:
    """Tables in memory, written as a store does: a transaction around each write, undone when that fails."""

    def __init__(self) -> None:
        self.database = Database(None, [ObjectTables, SqliteTaskTables])
        self.tables = SqliteTaskTables(self.database.writer, self.database.epoch)
        self.sessions = ["s0", "s1", "s2"]
        self.made = 0

        def make(tables: SqliteTaskTables) -> None:
            for number, session in enumerate(self.sessions, 1):
                options = tables.store_options(OPTIONS, number)
                tables.insert_session(SessionRow(number, session, SessionStatus.RUNNING, options, 0.0))

        self.write(make)

    def write(self, function: Callable[[SqliteTaskTables], Any], is_undone: bool = False) -> Any:
        """Run a write, and commit it or undo it."""
        self.database.writer.execute("BEGIN")
        found = function(self.tables)
        self.tables.keep()
        self.tables.flush()
        if is_undone:
            self.database.writer.execute("ROLLBACK")
            self.tables.discard()
        else:
            self.database.writer.execute("COMMIT")
            self.tables.committed()
        return found

    def create(self, chance: random.Random, is_undone: bool = False) -> None:
        """Make some tasks; one of them may need another."""
        session, priority = chance.choice(self.sessions), chance.randint(1, 3)
        ids = [f"t{self.made + index}" for index in range(chance.randint(1, 60))]
        self.made += len(ids)
        requests = [TaskRequest(name, (name,), (), Value(b"x")) for name in ids]
        if len(ids) > 1 and chance.random() < 0.3:
            requests[-1] = requests[-1]._replace(dependencies=(ids[0],))
        options = TaskOptions(OPTIONS.max_duration_ns, 1, priority)
        self.write(lambda tables: creation.create_tasks(tables, session, options, requests, 1.0), is_undone)

    def rows(self, condition: str) -> list[TaskRow]:
        """Return tasks as they are to the writer, by a condition on the file."""
        numbers = self.database.writer.execute(f"SELECT number FROM tasks WHERE {condition} ORDER BY number")
        return [self.tables.task(number) for (number,) in numbers.fetchall()]

    def indexed(self) -> list[int]:
        """Return what is ready by the index, in its order, without what has been acquired."""
        rows = self.database.writer.execute(
            "SELECT number FROM tasks WHERE status = 2 AND missing = 0 ORDER BY priority DESC, session, place"
        )
        return [number for (number,) in rows if number not in self.tables._taken]

    def told(self) -> list[int]:
        """Return the same by the methods that the scheduler calls."""
        tables, found = self.tables, []
        priority = tables.top_priority()
        while priority is not None:
            session = tables.next_ready_session(priority, 0)
            while session is not None:
                found += [task.number for task in tables.ready_tasks(priority, session, 10**6)]
                session = tables.next_ready_session(priority, session)
            priority = tables.next_priority(priority)
        return found

    def check(self) -> None:
        """Check memory against the file."""
        told, indexed = self.write(lambda tables: (self.told(), self.indexed()))
        assert told == indexed
        reader = SqliteTaskTables(self.database.writer, 0)
        assert reader.recount() == reader.all_counts()


@pytest.mark.parametrize("most", [20, 200, 4096])
@pytest.mark.parametrize("seed", range(5))
def test_memory_and_index_tell_the_same_story(monkeypatch: pytest.MonkeyPatch, seed: int, most: int) -> None:
    monkeypatch.setattr(task_queue, "_READY_KEPT", most)
    monkeypatch.setattr(task_queue, "_READY_AGAIN", most // 4)
    chance, queue, turns = random.Random(seed), Queue(), dict[int, int]()
    was_in_memory = num_left = 0

    def take(tables: SqliteTaskTables) -> None:
        transitions.dispatch_all(tables, scheduler.next_tasks(tables, turns, chance.randint(1, 40)), "agent")

    for _ in range(150):
        kind, is_undone = chance.random(), chance.random() < 0.15
        if kind < 0.3:
            queue.create(chance, is_undone)
        elif kind < 0.65:
            queue.write(take, is_undone)
        else:
            among = queue.rows("status IN (2, 3, 8, 10)")
            some = chance.sample(among, min(len(among), chance.randint(1, 10)))
            running = [task for task in some if task.status in (TaskStatus.DISPATCHED, TaskStatus.PROCESSING)]
            if kind < 0.75:
                ended = [
                    transitions.Completion(task.session, task.number, task.id, task.status, 1.0, task.id, Value(b"r"))
                    for task in running if task.attempt == 0
                ]
                queue.write(lambda tables, ended=ended: transitions.complete_all(tables, ended, 2.0), is_undone)
            elif kind < 0.8:
                for task in running:
                    queue.write(lambda tables, task=task: endings.release(tables, task, 2.0))
            elif kind < 0.85:
                for task in running:
                    transitions.began(task, 1.0) if task.status is TaskStatus.DISPATCHED else None
                    queue.write(lambda tables, task=task: retries.fail(tables, task, FailureKind.CALL, "", 2.0))
            elif kind < 0.95:
                numbers = [task.number for task in some]
                queue.write(lambda tables, numbers=numbers: cancellation.cancel_tasks(tables, numbers, 2.0), is_undone)
            else:
                last = max((task.fence for task in running), default=0)
                queue.write(lambda tables, last=last: tables.write_dispatches(last), is_undone)
        queue.check()
        was_in_memory += queue.tables._ready is not None
        num_left += len(queue.tables._taken)
    assert was_in_memory and (num_left or most == 20), "nothing was in memory"


def test_dispatch_is_known_to_writes_before_it_is_in_the_file() -> None:
    queue = Queue()
    queue.create(random.Random(1))

    def take(tables: SqliteTaskTables) -> list[TaskRow]:
        chosen = scheduler.next_tasks(tables, {}, 1)
        transitions.dispatch_all(tables, chosen, "agent")
        return chosen

    (task,) = queue.write(take)
    known = queue.tables.task(task.number), queue.tables.task_by_id(task.id)
    assert [(row.status, row.owner, row.fence) for row in known if row] == [(3, "agent", task.fence)] * 2
    assert queue.tables.standing([task.number]) == {task.number: (task.fence, TaskStatus.DISPATCHED)}
    reader = SqliteTaskTables(queue.database.writer, 0)
    assert reader.task(task.number).status is TaskStatus.SUBMITTED
    queue.write(lambda tables: tables.write_dispatches(task.fence - 1))
    assert reader.task(task.number).status is TaskStatus.SUBMITTED
    queue.write(lambda tables: tables.write_dispatches(task.fence))
    row = reader.task(task.number)
    assert (row.status, row.owner, row.fence) == (TaskStatus.DISPATCHED, "agent", task.fence)
    assert reader.recount() == reader.all_counts()


def test_results_of_earlier_versions_are_found_by_their_keys() -> None:
    """They have numbers of their own, from 1 on."""
    queue = Queue()
    requests = [TaskRequest(f"t{index}", (f"t{index}",)) for index in range(40)]
    queue.write(lambda tables: creation.create_tasks(tables, "s1", OPTIONS, requests, 1.0))
    execute = queue.database.writer.execute
    assert execute("SELECT count(*) FROM results WHERE number = owner").fetchone() == (40,)
    execute("UPDATE results SET number = number & 0xffff WHERE number % 3 = 0")

    def end(tables: SqliteTaskTables) -> None:
        chosen = scheduler.next_tasks(tables, {}, 30)
        transitions.dispatch_all(tables, chosen, "agent")
        done = [
            transitions.Completion(one.session, one.number, one.id, one.status, 1.0, one.id, Value(one.id.encode()))
            for one in chosen
        ]
        transitions.complete_all(tables, done, 2.0)

    queue.write(end)
    found = execute("SELECT key, data, size FROM results WHERE status = 2 ORDER BY owner").fetchall()
    assert found == [(f"t{index}", b"t%d" % index, len(f"t{index}")) for index in range(30)]
    assert execute("SELECT count(*) FROM results WHERE status = 1 AND size = 0").fetchone() == (10,)


def test_agents_task_is_seen_as_dispatched_a_moment_later(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("t"), request("u")])
            await tasks.acquire("agent", 2)
            async with asyncio.timeout(TIMEOUT_S):
                while set((await tasks.task_statuses(["t", "u"])).values()) != {TaskStatus.DISPATCHED}:
                    await asyncio.sleep(0.001)

    run_async(work)


def test_acquisition_is_forgotten_when_the_disk_has_failed(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("t")])

            def fail() -> None:
                failpoints.clear()
                raise OSError(5, "Input/output error")

            failpoints.set_failpoint("store.commit.before", fail)
            (lost,) = await tasks.acquire("agent")
            await asyncio.wait_for(lost.interrupted.wait(), TIMEOUT_S)
            assert lost.is_lost
            (lease,) = await asyncio.wait_for(tasks.acquire("agent"), TIMEOUT_S)
            assert lease.task.id == "t" and lease.fence != lost.fence
            with pytest.raises(Exception, match="has ended"):
                await lost.succeed({"t": Value(b"late")})
            await lease.start()
            assert await lease.succeed({"t": Value(b"in time")}) is TaskStatus.COMPLETED
            assert tasks.store.read(lambda tables: tables.recount() == tables.all_counts())

    run_async(work)
