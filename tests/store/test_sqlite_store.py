"""The store in a file: groups, failures of the disk, crashes at every failpoint, versions, and who may open it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import DataLoss, FailedPrecondition, ResourceExhausted, Unavailable
from runtime.objects.files import ARENA_NAME, FileObjects
from runtime.objects.value import Value
from runtime.store import failpoints
from runtime.store.opening import TABLES
from runtime.store.sqlite.database import Database
from runtime.store.sqlite.object_tables import ObjectTables
from runtime.store.sqlite.task_tables import SqliteTaskTables
from runtime.tasks.filters import TaskFilter
from runtime.tasks.leases import LeaseLost
from runtime.tasks.model import FailureKind, TaskStatus
from runtime.tasks.tasks import Tasks
from tests.leaks import leak_check, run_async
from tests.peers import ROOT
from tests.tasks.plane import OPTIONS, acquire, open_plane, open_store, request, run_all


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    yield
    failpoints.clear()


def test_every_plane_is_in_the_list_of_tables() -> None:
    assert {name.partition(":")[2] for name in TABLES} >= {"ObjectTables", "SqliteTaskTables"}


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path / "data") as tasks:
            await tasks.create_session("s", OPTIONS)
            assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
            for path in (tmp_path / "data").iterdir():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path

    with leak_check():
        run_async(work)


def test_second_server_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "store.db"
        store = open_store(path)
        with pytest.raises(FailedPrecondition, match=f"in use by another server .process {os.getpid()}"):
            open_store(path)
        await store.close()
        await open_store(path).close()

    run_async(work)


def test_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "store.db"
        await open_store(path).close()
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE versions SET version = version + 1 WHERE plane = 'tasks'")
        connection.close()
        with pytest.raises(FailedPrecondition, match="newer version"):
            open_store(path)

    run_async(work)


def test_other_files_are_refused(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "other.db"
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE theirs (x)")
        connection.close()
        with pytest.raises(FailedPrecondition, match="another program"):
            open_store(path)
        text = tmp_path / "text.db"
        text.write_bytes(b"not a database" * 1000)
        with pytest.raises(DataLoss, match="damaged"):
            open_store(text)

    run_async(work)


def test_migrations_run_once_and_together(tmp_path: Path) -> None:
    class Old:
        PLANE = "tasks"
        MIGRATIONS = (("CREATE TABLE one (x)",),)

    class New:
        PLANE = "tasks"
        MIGRATIONS = (*Old.MIGRATIONS, ("ALTER TABLE one ADD COLUMN y", "CREATE TABLE two (z)"))

    class Broken:
        PLANE = "tasks"
        MIGRATIONS = (*New.MIGRATIONS, ("CREATE TABLE three (x)", "CREATE TABLE two (again)"))

    path = tmp_path / "store.db"
    Database(path, [Old]).close()
    with pytest.raises(Unavailable, match="already exists"):
        Database(path, [Broken])
    for _ in range(2):
        database = Database(path, [New])
        tables = {row[0] for row in database.writer.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables == {"versions", "openings", "tail", "one", "two"}
        assert database.check() == []
        database.close()


def test_write_that_raises_undoes_itself_alone(tmp_path: Path) -> None:
    async def work() -> None:
        store = open_store(tmp_path / "store.db")
        plane = store.plane(SqliteTaskTables)
        told: list[str] = []

        def good(name: str) -> None:
            def write(tables: SqliteTaskTables) -> None:
                tables.add_waiting([(1, name, 1)])
                tables.after_commit(lambda: told.append(name))

            return write  # type: ignore[return-value]

        def bad(tables: SqliteTaskTables) -> None:
            tables.add_waiting([(1, "bad", 1)])
            tables.count(1, TaskStatus.ERROR, 1)
            tables.note("bad")
            tables.after_commit(lambda: told.append("bad"))
            raise KeyError("mine")

        noted: list[object] = []
        plane.watch(noted.extend)
        futures = [plane.write(write) for write in (good("a"), bad, good("b"), bad)]  # type: ignore[arg-type,list-item]
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), KeyError, type(None), KeyError]
        assert told == ["a", "b"] and noted == []
        keys = plane.read(lambda tables: tables.connection.execute("SELECT key FROM waiting").fetchall())
        assert keys == [("a",), ("b",)]
        assert plane.read(lambda tables: tables.all_counts()) == {}
        await store.close()
        with pytest.raises(Unavailable):
            await plane.write(lambda tables: None)

    run_async(work)


def test_readers_cannot_write(tmp_path: Path) -> None:
    async def work() -> None:
        store = open_store(tmp_path / "store.db")
        plane = store.plane(SqliteTaskTables)
        for read in (plane.read, plane.read_in_thread):
            with pytest.raises(Unavailable):
                found = read(lambda tables: tables.add_waiting([(1, "k", 1)]))
                await found  # type: ignore[misc]
        await store.close()

    run_async(work)


@pytest.mark.parametrize("name", ["store.begin", "store.write", "store.commit.before"])
@pytest.mark.parametrize(
    ("error", "expected"), [("ENOSPC", ResourceExhausted), ("EIO", Unavailable)], ids=["full", "failing"]
)
def test_failing_disk_refuses_writes_lets_reads_go_on_and_recovers(
    tmp_path: Path, name: str, error: str, expected: type[Exception]
) -> None:
    async def run_next(tasks: Tasks) -> TaskStatus:
        while True:
            # A lease that was handed out before its write failed is lost.
            with contextlib.suppress(LeaseLost):
                return await (await acquire(tasks)).succeed({"b": Value(b"y")})

    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            assert await tasks.create_tasks("s", [request("a"), request("b")]) == ()
            lease = await acquire(tasks)
            # A lease may be had before it is on disk; from here on it is.
            await tasks.store.write(lambda tables: None)
            failpoints.set_failpoint(name, f"fail:{error}")
            with pytest.raises(expected):
                await tasks.create_tasks("s", [request("c")])
            with pytest.raises(expected):
                await tasks.cancel_session("s")
            outcome = asyncio.ensure_future(lease.succeed({"a": Value(b"x")}))
            running = asyncio.ensure_future(run_next(tasks))
            await asyncio.sleep(0.2)
            assert await tasks.task_statuses(["b", "c"]) == {"b": TaskStatus.SUBMITTED}
            assert not outcome.done()
            failpoints.clear()
            # The outcome of a task that has run is not forgotten.
            assert await outcome is TaskStatus.COMPLETED
            assert await running is TaskStatus.COMPLETED
            assert await tasks.create_tasks("s", [request("c")]) == ()
            assert tasks.store.read(lambda tables: tables.all_counts() == tables.recount())

    run_async(work)


def test_full_disk_as_sqlite_meets_it(tmp_path: Path) -> None:
    async def work() -> None:
        store = open_store(tmp_path / "store.db")
        plane = store.plane(SqliteTaskTables)
        pages = store.database.writer.execute("PRAGMA page_count").fetchone()[0]
        store.database.writer.execute(f"PRAGMA max_page_count = {pages + 2}")
        tasks = Tasks(plane, None)  # type: ignore[arg-type]
        await tasks.create_session("s", OPTIONS)
        with pytest.raises(ResourceExhausted, match="no space left"):
            await tasks.create_tasks("s", [request(f"t{number}", payload=b"x" * 10_000) for number in range(20)])
        assert await tasks.count_tasks(TaskFilter(sessions=("s",))) == {}
        store.database.writer.execute("PRAGMA max_page_count = 100000")
        assert await tasks.create_tasks("s", [request("t")]) == ()
        await store.close()

    run_async(work)


CRASHING = """
import asyncio, sys
from pathlib import Path
from runtime.objects.value import Value
from runtime.store import failpoints
from tests.tasks.plane import OPTIONS, acquire, open_plane, request

async def main():
    async with open_plane(Path(sys.argv[1])) as tasks:
        failpoints.load()
        await tasks.create_session("s", OPTIONS)
        for number in range(20):
            name = f"t{number}"
            # By turns beside others, and in a file of its own.
            times = 4_400_000 if number % 2 else 20_000
            writer = tasks.writer()
            await writer.write(b"%d" % number * times)
            await tasks.create_tasks("s", [request(name)._replace(payload=await writer.finish())])
            print("created", name, flush=True)
            lease = await acquire(tasks)
            writer = lease.result_writer()
            await writer.write(lease.task.id.encode() * times)
            value = await writer.finish()
            await lease.succeed({lease.task.id: value})
            print("done", lease.task.id, flush=True)
            # A single one that is followed, and done at once.
            name = f"q{number}"
            follower = tasks.follower(lambda: None)
            follower.expect(1)
            await tasks.submit("s", [request(name)], None, follower, None)
            print("created", name, flush=True)
            lease = await acquire(tasks)
            await tasks.succeed_all([(lease, {name: Value(name.encode())})])
            print("done", name, flush=True)

asyncio.run(main())
"""


# What lies at a start is for tests of its own.
ONCE = ("store.migrate", "store.replay")
PLACES = [name for name in failpoints.NAMES if name.startswith(("store.", "objects.")) and name not in ONCE]
# The file of medium values grows once.
CRASHES = [(name, hit) for name in PLACES for hit in (1, 7) if (name, hit) != ("objects.arena.grow", 7)]


@pytest.mark.parametrize(("name", "hit"), CRASHES)
def test_crash_at_every_failpoint_loses_nothing_that_was_acknowledged(tmp_path: Path, name: str, hit: int) -> None:
    env = {**os.environ, failpoints.ENVIRONMENT: f"{name}=crash@{hit}"}
    done = subprocess.run(
        [sys.executable, "-c", CRASHING, str(tmp_path)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    # The last line may be cut.
    said = [line.split() for line in done.stdout.splitlines(keepends=True) if line.endswith("\n")]

    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            created = [task_id for what, task_id in said if what == "created"]
            statuses = await tasks.task_statuses(created)
            assert list(statuses) == created
            for what, task_id in said:
                if what == "done":
                    assert statuses[task_id] is TaskStatus.COMPLETED
            # Everything else runs to its end, and every result is whole.
            if await tasks.create_session("s", OPTIONS):
                assert not said
            unfinished = await tasks.list_tasks(TaskFilter(sessions=("s",), included=frozenset({TaskStatus.SUBMITTED})))
            for _ in unfinished:
                lease = await acquire(tasks)
                payload = b"".join([piece async for piece in lease.read_payload(100_000)])
                number = int(lease.task.id[1:].partition("#")[0])
                large = b"%d" % number * (4_400_000 if number % 2 else 20_000)
                assert payload == (large if lease.task.id.startswith("t") else b"payload")
                await lease.succeed({key: Value(key.encode()) for key in lease.task.expected_keys})
            for task_id in created:
                result = tasks.result("s", task_id)
                data = b"".join([piece async for piece in tasks.read(result.value)])
                times = 4_400_000 if int(task_id[1:]) % 2 else 20_000
                assert data in (task_id.encode(), task_id.encode() * times if task_id[0] == "t" else None)
            assert tasks.store.read(lambda tables: tables.all_counts() == tables.recount())
            # The sweep has removed what nobody refers to; the payload of who ended last goes in a thread.
            await tasks.swept()
            await tasks.objects.close()
            rows = tasks.store.read(lambda tables: tables.connection.execute("SELECT hex(digest) FROM objects"))  # type: ignore[attr-defined]
            referred = {row[0].lower() for row in rows}
            files = {path.name for path in (tmp_path / "objects").rglob("*") if path.is_file()} - {ARENA_NAME}
            objects = tasks.objects
            assert isinstance(objects, FileObjects)
            assert files == {name for name in referred if len(name) == 64}
            assert objects.arena.names == {bytes.fromhex(name) for name in referred if len(name) == 32}

    run_async(work)


def test_running_attempts_of_a_server_that_died_are_retried(tmp_path: Path) -> None:
    async def first() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("processing"), request("dispatched"), request("canceling")])
            processing = await acquire(tasks)
            (dispatched,) = await tasks.acquire("agent")
            canceling = await acquire(tasks)
            await asyncio.sleep(0.05)
            await tasks.cancel_tasks(TaskFilter(tasks=("canceling",)))
            for lease in (processing, dispatched, canceling):
                tasks.leases.remove(lease)  # as after kill -9: nobody gives them back

    async def second() -> None:
        async with open_plane(tmp_path) as tasks:
            assert await tasks.task_statuses(["processing", "processing###1", "dispatched", "canceling"]) == {
                "processing": TaskStatus.ERROR,
                "processing###1": TaskStatus.SUBMITTED,
                "dispatched": TaskStatus.SUBMITTED,
                "canceling": TaskStatus.CANCELED,
            }
            lease = await acquire(tasks)
            await lease.fail(FailureKind.CALL, "text")

    run_async(first)
    run_async(second)


def test_subtasks_of_a_server_that_died_go_when_their_parent_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it died before anything else had to be written of the parent."""
    monkeypatch.setattr("runtime.tasks.attempts._DISPATCH_DELAY_S", 3600.0)
    monkeypatch.setattr("runtime.tasks.attempts._START_DELAY_S", 3600.0)

    async def first() -> None:
        async with open_plane(tmp_path / "first") as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("parent")])
            lease = await acquire(tasks)
            assert await lease.stage_subtasks([request("child")], None) == ()
            shutil.copytree(tmp_path / "first", tmp_path / "second")  # what kill -9 leaves

    async def second() -> None:
        async with open_plane(tmp_path / "second") as tasks:
            assert await tasks.task_statuses(["parent", "child"]) == {
                "parent": TaskStatus.SUBMITTED, "child": TaskStatus.CANCELED
            }
            assert await run_all(tasks, 1) == ["parent"]

    run_async(first)
    run_async(second)


@pytest.mark.parametrize(
    "text", ["nowhere=crash", "store.begin", "store.begin=explode", "store.begin=raise:ENOTHING", "store.begin=crash@0"]
)
def test_failpoints_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        failpoints.load(text)


def test_failpoints_count_their_hits() -> None:
    failpoints.load("store.begin=raise:EIO@2; store.write=fail:ENOSPC@2")
    failpoints.hit("store.begin")
    with pytest.raises(OSError):
        failpoints.hit("store.begin")
    failpoints.hit("store.begin")
    failpoints.hit("store.write")
    for _ in range(3):
        with pytest.raises(OSError):
            failpoints.hit("store.write")


def test_store_of_before_places_is_taken_up_and_does_not_go_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = {"file": b"f" * 5_000_000, "old": b"o" * 300_000}

    async def before() -> None:
        monkeypatch.setattr(ObjectTables, "MIGRATIONS", ObjectTables.MIGRATIONS[:1])
        monkeypatch.setattr(FileObjects, "take_up", lambda self, objects: None)
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            for name, data in payloads.items():
                writer = tasks.writer()
                await writer.write(data)
                await tasks.create_tasks("s", [request(name)._replace(payload=await writer.finish())])
        monkeypatch.undo()

    async def after() -> None:
        async with open_plane(tmp_path) as tasks:
            writer = tasks.writer()
            await writer.write(b"n" * 300_000)
            value = await writer.finish()
            assert value.ref is not None and not value.ref.is_shared
            await tasks.create_tasks("s", [request("new")._replace(payload=value)])
            for name, data in {**payloads, "new": b"n" * 300_000}.items():
                lease = await acquire(tasks)
                assert lease.task.id == name
                assert b"".join([piece async for piece in lease.read_payload(1 << 20)]) == data
                await lease.succeed({name: Value(b"")})

    run_async(before)
    run_async(after)
    monkeypatch.setattr(ObjectTables, "MIGRATIONS", ObjectTables.MIGRATIONS[:1])
    with pytest.raises(FailedPrecondition, match="newer version"):
        open_store(tmp_path / "store.db")
