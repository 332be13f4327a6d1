"""Sessions go with all that belongs to them: when a client says so, or when nothing has happened in them for long."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from pathlib import Path

import pytest

from runtime.errors import FailedPrecondition, NotFound
from runtime.objects.value import Value
from runtime.store import failpoints
from runtime.store.opening import FILE_NAME
from runtime.store.sqlite.database import Database
from runtime.store.sqlite.object_tables import ObjectTables
from runtime.store.sqlite.task_tables import SqliteTaskTables
from runtime.tasks import retention
from runtime.tasks.filters import SessionFilter, TaskFilter
from runtime.tasks.model import TaskOptions
from runtime.tasks.tasks import Limits, Tasks
from tests.leaks import run_async
from tests.tasks.plane import OPTIONS, Clock, acquire, open_plane, request, run_all

DAY_S = 86400.0
LARGE = b"x" * 4_300_000


async def run_large(tasks: Tasks) -> None:
    """Let the next task succeed with a result that lies in an object."""
    lease = await acquire(tasks)
    writer = lease.result_writer()
    await writer.write(LARGE)
    await lease.succeed({lease.task.expected_keys[0]: await writer.finish()})


def counted(folder: Path) -> dict[str, int]:
    """Return how many rows each table has."""
    names = ("sessions", "tasks", "specs", "results", "task_counts", "objects", "deletions", "options")
    connection = sqlite3.connect(folder / FILE_NAME)
    try:
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}
    finally:
        connection.close()


def test_deleted_session_leaves_no_row_and_no_object(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            for session in ("kept", "gone"):
                await tasks.create_session(session, OPTIONS)
                await tasks.create_tasks(session, [request(f"{session}{number}") for number in range(3)])
            for number in range(6):
                await (run_large(tasks) if number < 2 else run_all(tasks, 1))
            await tasks.create_tasks("kept", [request("other")])
            await run_large(tasks)
            before = len(list((tmp_path / "objects").glob("??/*")))
            with pytest.raises(NotFound):
                await tasks.retention.delete("nobody")
            await tasks.retention.delete("gone")
            with pytest.raises(NotFound):
                await tasks.retention.delete("gone")
            assert tasks.list_sessions(SessionFilter()) == ["kept"]
            for ask in (lambda: tasks.task("gone0"), lambda: tasks.result("gone", "gone0")):
                with pytest.raises(NotFound):
                    ask()
            assert await tasks.task_statuses(["gone0", "kept0"]) == await tasks.task_statuses(["kept0"]) != {}
            # The same content is referred to by what is kept.
            assert len(list((tmp_path / "objects").glob("??/*"))) == before == 1
            # Its ids and keys are free again.
            assert await tasks.create_session("gone", OPTIONS)
            assert await tasks.create_tasks("gone", [request("gone0")]) == ()
            await run_all(tasks, 1)
            await tasks.retention.delete("gone")
            await tasks.retention.delete("kept")
        assert set(counted(tmp_path).values()) == {0}
        assert list((tmp_path / "objects").glob("??/*")) == []

    run_async(work)


def test_options_go_with_the_last_session_that_has_them(tmp_path: Path) -> None:
    def own(number: int) -> TaskOptions:
        return dataclasses.replace(OPTIONS, entries={"number": str(number)})

    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            for session in ("first", "second"):
                await tasks.create_session(session, own(0))
                for number in range(1, 4):
                    named = number if number > 2 else f"{session}{number}"
                    options = dataclasses.replace(OPTIONS, entries={"of": str(named)})
                    assert await tasks.create_tasks(session, [request(f"{session}{number}")], options) == ()
            # With its parent's, and with its own.
            lease = await acquire(tasks)
            assert await lease.stage_subtasks([request("child")]) == ()
            assert await lease.stage_subtasks([request("other")], own(9)) == ()
            await lease.succeed({lease.task.expected_keys[0]: Value(b"")})
            await run_all(tasks, 7)
            assert counted(tmp_path)["options"] == 7
            # As many parts as it takes, each with few rows.
            number = await tasks.store.write(lambda tables: retention.begin(tables, "first"))
            while await tasks.store.write(lambda tables: retention.delete_part(tables, number, 2)):
                pass
            assert counted(tmp_path)["options"] == 4
            assert tasks.store.read(lambda tables: tables.options(tables.spec(
                tasks.task("second3").row.spec).options_number)).entries == {"of": "3"}
            # What is gone is made again.
            await tasks.create_session("first", own(0))
            assert await tasks.create_tasks("first", [request("first1")], own(9)) == ()
            assert (await acquire(tasks)).task.options.entries == {"number": "9"}

    run_async(work)


def test_session_with_unfinished_tasks_is_not_deleted() -> None:
    async def work() -> None:
        async with open_plane() as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("a"), request("b")])
            lease = await acquire(tasks)
            with pytest.raises(FailedPrecondition, match="2 tasks that have not ended: cancel it"):
                await tasks.retention.delete("s")
            await tasks.cancel_session("s")
            with pytest.raises(FailedPrecondition, match="1 tasks"):
                await tasks.retention.delete("s")
            await lease.confirm_cancelled()
            await tasks.retention.delete("s")
            assert tasks.list_sessions(SessionFilter()) == []

    run_async(work)


def test_deletion_while_others_read_or_cancel_what_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.tasks.tasks._CANCELED_AT_ONCE", 1)
    names = [f"t{number}" for number in range(4)]

    async def work() -> None:
        async with open_plane() as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request(name) for name in names])
            reading = tasks.collect("s", names)
            first = asyncio.ensure_future(anext(reading))
            await run_all(tasks, 1)
            await first
            for _ in names[1:]:
                await (await acquire(tasks)).report_error("broken")
            await asyncio.gather(
                *[tasks.cancel_tasks(TaskFilter(tasks=tuple(names))) for _ in range(2)], tasks.retention.delete("s")
            )
            with pytest.raises(NotFound, match="session 's' was deleted before all of its results had been read"):
                await anext(reading)

    run_async(work)


def test_quiet_sessions_go_and_others_stay() -> None:
    clock = Clock()

    async def work() -> None:
        async with open_plane(limits=Limits(retention_s=10 * DAY_S), now_s=clock) as tasks:
            for session in ("quiet", "canceled", "late", "waiting", "empty"):
                await tasks.create_session(session, OPTIONS)
                if session != "empty":
                    await tasks.create_tasks(session, [request(session, needs=("never",) * (session == "waiting"))])
            await run_all(tasks, 3)
            await tasks.cancel_session("canceled")
            clock.now_s += 6 * DAY_S
            assert await tasks.retention.look() == 0
            await tasks.create_tasks("late", [request("later")])
            await run_all(tasks, 1)
            clock.now_s += 6 * DAY_S
            assert await tasks.retention.look() == 3
            assert tasks.list_sessions(SessionFilter()) == ["late", "waiting"]
            assert await tasks.count_tasks(TaskFilter(sessions=("quiet", "canceled"))) == {}
            clock.now_s += 6 * DAY_S
            assert await tasks.retention.look() == 1
            assert tasks.list_sessions(SessionFilter()) == ["waiting"]

    run_async(work)


def test_sessions_are_looked_for_from_time_to_time() -> None:
    async def work() -> None:
        async with open_plane(limits=Limits(retention_s=0.08)) as tasks:
            await tasks.create_session("s", OPTIONS)
            while tasks.list_sessions(SessionFilter()):
                await asyncio.sleep(0.01)

    run_async(work)


def test_deletion_goes_on_after_the_disk_has_failed(tmp_path: Path) -> None:
    commits = 0

    def fail_the_second() -> None:
        nonlocal commits
        commits += 1
        if commits == 2:
            raise sqlite3.OperationalError("disk I/O error")

    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("a")])
            await run_all(tasks, 1)
            failpoints.set_failpoint("store.commit.before", fail_the_second)
            try:
                await tasks.retention.delete("s")
            finally:
                failpoints.clear()
        assert commits > 2 and set(counted(tmp_path).values()) == {0}

    run_async(work)


def test_next_start_goes_on_with_a_deletion(tmp_path: Path) -> None:
    async def begin() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request(str(number)) for number in range(20)])
            await run_all(tasks, 20)
            number = await tasks.store.write(lambda tables: retention.begin(tables, "s"))
            for _ in range(6):
                await tasks.store.write(lambda tables: retention.delete_part(tables, number, 5))
        assert counted(tmp_path) | {"task_counts": 0} == {
            "sessions": 0, "tasks": 10, "specs": 10, "results": 0, "task_counts": 0, "objects": 0, "deletions": 1,
            "options": 1,
        }

    async def go_on() -> None:
        async with open_plane(tmp_path) as tasks:
            while tasks.store.read(lambda tables: tables.deletions_left()):
                await asyncio.sleep(0.01)
        assert set(counted(tmp_path).values()) == {0}

    run_async(begin)
    run_async(go_on)


def test_file_of_the_first_version_is_taken_up(tmp_path: Path) -> None:
    class First:
        PLANE = "tasks"
        MIGRATIONS = SqliteTaskTables.MIGRATIONS[:1]

    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            await run_session(tasks)
            await tasks.retention.delete("s")

    async def run_session(tasks: Tasks) -> None:
        assert await tasks.create_tasks("s", [request("a")]) == ()
        await run_all(tasks, 1)

    Database(tmp_path / FILE_NAME, [ObjectTables, First]).close()
    run_async(work)
    assert set(counted(tmp_path).values()) == {0}


def test_file_of_the_second_version_knows_whose_options_there_are(tmp_path: Path) -> None:
    class Second:
        PLANE = "tasks"
        MIGRATIONS = SqliteTaskTables.MIGRATIONS[:2]

    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            assert counted(tmp_path)["options"] == 3
            assert tasks.task("t").row.spec == 4
            await tasks.retention.delete("s")
            assert counted(tmp_path)["options"] == 1
            await tasks.retention.delete("other")

    database = Database(tmp_path / FILE_NAME, [ObjectTables, Second])
    execute = database.writer.execute
    for session, name, options in ((1, "s", 10), (2, "other", 11)):
        execute("INSERT INTO sessions VALUES (?, ?, 1, ?, 0.0, NULL)", (session, name, options))
    for number in range(10, 14):
        execute("INSERT INTO options VALUES (?, ?, 1, 1, '{}')", (number, number))
    execute("INSERT INTO specs VALUES (4, 1, 12, 0, '', '', x'', NULL, 0, 0)")
    execute("INSERT INTO tasks VALUES (4, 't', 1, 4, 0, 1, 1, 4, 0, 0, 0, '', 0, 0.0, NULL, NULL, 0.0, '')")
    execute("INSERT INTO task_counts VALUES (1, 4, 1)")
    database.close()
    run_async(work)
    assert set(counted(tmp_path).values()) == {0}
