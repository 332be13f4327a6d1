"""The log beside the tables: what is told is durable, seen by whoever reads, put into the tables once, never lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import DataLoss, ResourceExhausted, Unavailable
from runtime.objects.value import Value
from runtime.store import failpoints
from runtime.store.sqlite import store as sqlite_store
from runtime.store.sqlite import tailed_tables
from runtime.store.sqlite.tail_log import LOG_BYTES, TailFile
from runtime.store.sqlite.tail_records import End, Made, ended_bytes, made_bytes, read_changes
from runtime.tasks import attempts
from runtime.tasks.creation import Refused
from runtime.tasks.filters import TaskFilter
from runtime.tasks.model import TaskRequest, TaskStatus
from runtime.tasks.tasks import Tasks
from tests.leaks import run_async
from tests.peers import ROOT
from tests.tasks.plane import OPTIONS, acquire, open_plane, request


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    yield
    failpoints.clear()


@pytest.fixture
def lasting_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is put into the tables only because time passes."""
    monkeypatch.setattr(sqlite_store, "_SETTLE_S", 3600.0)
    monkeypatch.setattr(attempts, "_DISPATCH_DELAY_S", 3600.0)


# The file


def filled(path: Path, *records: bytes, epoch: int = 1, last: int = 0) -> TailFile:
    log = TailFile(path)
    log.begin(epoch, last)
    for record in records:
        assert log.has_room(len(record))
        log.append(record)
    return log


def read(path: Path) -> list[tuple[int, bytes]]:
    return [(number, record) for _, number, record in TailFile(path).records()]


def test_records_are_read_in_order_up_to_the_first_that_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read(path) == []
    filled(path, b"one", b"", b"three" * 1000).close()
    whole = [(1, b"one"), (2, b""), (3, b"three" * 1000)]
    assert read(path) == whole
    data = path.read_bytes()
    assert len(data) == LOG_BYTES
    for cut in (0, 10, 30, 60, 80, 5000):
        path.write_bytes(data[:cut])
        found = read(path)
        assert found == whole[: len(found)]
        assert len(found) < 3
    for at in (0, 5, 9, 13, 18, 25):  # what it is, checksum, size, opening, number, content of the first
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert read(path) == []


def test_records_of_an_earlier_round_are_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = filled(path, *[b"old %d" % number for number in range(20)])
    log.restart()
    assert log.last == 20
    log.append(b"new 0")
    assert read(path) == [(21, b"new 0")]
    log.close()
    # The same lengths, and numbers that fit by chance: of another opening.
    filled(path, b"newer", epoch=2, last=0).close()
    assert read(path) == [(1, b"newer")]


def test_a_full_log_has_no_room_until_it_begins_anew(tmp_path: Path) -> None:
    log = filled(tmp_path / "log", bytes(LOG_BYTES - 100))
    assert not log.has_room(100)
    with pytest.raises(ValueError, match="no room"):
        log.append(bytes(100))
    log.restart()
    assert log.has_room(100)
    log.close()


def test_a_log_that_cannot_be_made_has_no_room(tmp_path: Path) -> None:
    log = TailFile(tmp_path / "missing" / "log")
    log.begin(1, 0)
    assert not log.has_room(1)


def test_changes_are_what_was_recorded(tmp_path: Path) -> None:
    made = Made(7, 3, 5, 2, 8, 1.5, 2.5, "täsk")
    made.options, made.key, made.payload = 4, "schlüssel", b"\0payload"
    end = End(7, 3.5, 4.5, b"result")
    both = made_bytes(made) + ended_bytes(end)
    first, second = read_changes([both])
    assert isinstance(first, Made)
    assert isinstance(second, End)
    assert [getattr(first, name) for name in Made.__slots__] == [getattr(made, name) for name in Made.__slots__]
    assert [getattr(second, name) for name in End.__slots__] == [getattr(end, name) for name in End.__slots__]
    for record in (both[:-1], both[: len(made_bytes(made)) - 1], b"\x09" + both):
        with pytest.raises(DataLoss, match="store's tail"):
            list(read_changes([record]))


# The tables


@contextlib.asynccontextmanager
async def plane(folder: Path) -> AsyncIterator[Tasks]:
    async with open_plane(folder) as tasks:
        if await tasks.create_session("s", OPTIONS):
            await submit(tasks, "first")  # what the session's tasks have in common is known from now on
        yield tasks


async def submit(tasks: Tasks, *names: str, requests: list[TaskRequest] | None = None) -> Any:
    """Make tasks as a stream does; return who follows them."""
    follower = tasks.follower(lambda: None)
    follower.expect(len(names))
    await tasks.submit("s", requests or [request(name) for name in names], None, follower, "tag")
    return follower


async def complete(tasks: Tasks, *names: str) -> None:
    """Have the next tasks run, which are these, and end at once."""
    ended = []
    for name in names:
        (lease,) = await tasks.acquire("agent")
        lease.started_s = time.time()
        assert lease.task.id == name
        ended.append((lease, {key: Value(b"result of " + key.encode()) for key in lease.task.expected_keys}))
    await tasks.succeed_all(ended)


def tail(tasks: Tasks) -> dict[int, Made]:
    found: dict[int, Made] = tasks.store._written._tail  # type: ignore[attr-defined]
    return found


async def check(tasks: Tasks, completed: list[str], submitted: list[str]) -> None:
    expected = dict.fromkeys(completed, TaskStatus.COMPLETED) | dict.fromkeys(submitted, TaskStatus.SUBMITTED)
    assert await tasks.task_statuses([*completed, *submitted]) == expected
    for name in completed:
        assert tasks.result("s", name).value.data == b"result of " + name.encode()
    assert tasks.store.read(lambda tables: tables.all_counts() == tables.recount())
    assert tasks.store.read(lambda tables: tables.connection.execute("PRAGMA integrity_check").fetchone()) == ("ok",)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("lasting_tail")
def test_single_tasks_are_in_the_log_alone_and_every_read_sees_them(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            await complete(tasks, "first")
            for number in range(5):
                await submit(tasks, f"t{number}")
            await complete(tasks, "t0", "t1")
            assert [made.id for made in tail(tasks).values()] == ["t0", "t1", "t2", "t3", "t4"]
            in_thread = await tasks.store.read_in_thread(lambda tables: tables.task_statuses(["t0", "t2"]))
            assert in_thread == {"t0": TaskStatus.COMPLETED, "t2": TaskStatus.SUBMITTED}
            assert not tail(tasks)
            await check(tasks, ["first", "t0", "t1"], ["t2", "t3", "t4"])
            await submit(tasks, "t5")
            assert tail(tasks)
            await check(tasks, ["t0"], ["t5"])
            await complete(tasks, "t2", "t3", "t4", "t5")
            assert await tasks.count_tasks(TaskFilter(sessions=("s",))) == {TaskStatus.COMPLETED: 7}

    run_async(work)


@pytest.mark.usefixtures("lasting_tail")
def test_writes_that_need_the_tables_find_the_tail_there(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            await complete(tasks, "first")
            await submit(tasks, "a")
            await submit(tasks, "b")
            await complete(tasks, "a")
            assert tail(tasks)
            # One that needs the result of one in the tail, and of one that is not there yet.
            assert await tasks.create_tasks("s", [request("both", needs=("a", "b"))]) == ()
            assert not tail(tasks)
            await submit(tasks, "c")
            await tasks.cancel_tasks(TaskFilter(tasks=("c",)))
            assert await tasks.task_statuses(["c"]) == {"c": TaskStatus.CANCELED}
            await complete(tasks, "b")
            await complete(tasks, "both")
            await check(tasks, ["a", "b", "both"], [])

    run_async(work)


@pytest.mark.usefixtures("lasting_tail")
def test_names_in_use_are_refused_wherever_they_are(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            await submit(tasks, "in the tail")
            await tasks.create_tasks("s", [request("in the tables")])
            await submit(tasks, "in the tail again")
            for name in ("first", "in the tail", "in the tables", "in the tail again"):
                with pytest.raises(Refused) as refused:
                    await submit(tasks, requests=[request("new"), request(name)])
                assert refused.value.ids == (name,)
                with pytest.raises(Refused) as refused:
                    await submit(tasks, requests=[request(f"other {name}", name)])
                assert refused.value.ids == (f"other {name}",)
                with pytest.raises(Refused):
                    await submit(tasks, requests=[request("twice"), request("twice")])
                await submit(tasks, f"behind {name}")
            assert not await tasks.task_statuses(["new", "twice"])
            await check(tasks, [], ["in the tail", "behind in the tail", "behind in the tail again"])

    run_async(work)


def test_time_and_number_put_the_tail_into_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            await submit(tasks, "a")
            for _ in range(1000):
                if not tail(tasks):
                    break
                await asyncio.sleep(0.005)
            assert not tail(tasks), "nobody has put the tail into the tables"
            monkeypatch.setattr(sqlite_store, "_SETTLE_S", 3600.0)
            monkeypatch.setattr(tailed_tables, "_MOST_TASKS", 10)
            most = 0
            for number in range(35):
                await submit(tasks, f"t{number}")
                most = max(most, len(tail(tasks)))
            assert most == 10
            await check(tasks, [], [f"t{number}" for number in range(35)])

    run_async(work)


@pytest.mark.usefixtures("lasting_tail")
def test_large_contents_do_not_outgrow_the_log(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            await complete(tasks, "first")
            names = [f"t{number}" for number in range(60)]
            for name in names:
                await submit(tasks, requests=[request(name, payload=bytes(15_000))])
                lease = await acquire(tasks)
                await tasks.succeed_all([(lease, {name: Value(b"r" * 16_000)})])
            assert all(len(tasks.result("s", name).value.data) == 16_000 for name in names)
            assert (tmp_path / "store.db.tail").stat().st_size == LOG_BYTES

    run_async(work)


# Failures


@pytest.mark.usefixtures("lasting_tail")
def test_a_failing_log_refuses_what_it_did_not_take_and_nothing_else(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            await submit(tasks, "a")
            for name, error in (("EIO", Unavailable), ("ENOSPC", ResourceExhausted)):
                failpoints.set_failpoint("store.tail.append", f"raise:{name}")
                with pytest.raises(error):
                    await submit(tasks, name)
                assert tail(tasks)
                # The tables say at once that a record which may be there is void; nothing stands against another try.
                await submit(tasks, name)
                assert not tail(tasks)
                await submit(tasks, f"behind {name}")
                assert tail(tasks)
            await check(tasks, [], ["a", "EIO", "behind EIO", "ENOSPC", "behind ENOSPC"])
            await complete(tasks, "first", "a")

    run_async(work)


@pytest.mark.usefixtures("lasting_tail")
def test_reads_go_on_while_the_tables_cannot_take_the_tail(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as tasks:
            await complete(tasks, "first")
            await submit(tasks, "a")
            failpoints.set_failpoint("store.commit.before", "fail:ENOSPC")
            failpoints.set_failpoint("store.tail.settle", "fail:ENOSPC")
            await check(tasks, ["first"], ["a"])
            assert await tasks.store.read_in_thread(lambda tables: tables.task_statuses(["a"])) == {
                "a": TaskStatus.SUBMITTED
            }
            assert tail(tasks)
            with pytest.raises(ResourceExhausted):
                await submit(tasks, "b")
            with pytest.raises(ResourceExhausted):
                await tasks.create_tasks("s", [request("c")])
            assert await tasks.task_statuses(["a", "b", "c"]) == {"a": TaskStatus.SUBMITTED}
            failpoints.clear()
            await submit(tasks, "b")
            await complete(tasks, "a", "b")
            await check(tasks, ["a", "b"], [])

    run_async(work)


def test_a_disk_that_does_not_answer_ends_a_read_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "_LOOK_S", 0.1)
    monkeypatch.setattr(sqlite_store, "_SETTLE_S", 3600.0)

    async def work() -> None:
        async with plane(tmp_path) as tasks:
            await submit(tasks, "a")
            failpoints.set_failpoint("store.tail.settle", "delay:0.5")
            with pytest.raises(Unavailable, match=r"the disk has not taken for 0\.1 s what was written last"):
                await tasks.task_statuses(["a"])
            await asyncio.sleep(0.6)
            failpoints.clear()
            await check(tasks, [], ["a"])

    run_async(work)


def test_a_file_of_an_earlier_state_does_without_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def early() -> None:
        async with plane(tmp_path) as tasks:
            await complete(tasks, "first")
            await submit(tasks, "a")

    async def late() -> None:
        async with plane(tmp_path) as tasks:
            await submit(tasks, "b")
            kept["log"] = (tmp_path / "store.db.tail").read_bytes()

    async def last() -> None:
        async with plane(tmp_path) as tasks:
            await check(tasks, ["first"], ["a"])
            assert not await tasks.task_statuses(["b"])
            await submit(tasks, "b")
            await complete(tasks, "a", "b")

    kept: dict[str, bytes] = {}
    run_async(early)
    kept["file"] = (tmp_path / "store.db").read_bytes()
    run_async(late)
    (tmp_path / "store.db").write_bytes(kept["file"])
    (tmp_path / "store.db.tail").write_bytes(kept["log"])
    run_async(last)
    assert "older than the log beside it" in caplog.text


DYING = """
import asyncio, sys
from pathlib import Path
from runtime.store import failpoints
from runtime.store.sqlite import store as sqlite_store
from tests.store.test_tail import complete, plane, submit

sqlite_store._SETTLE_S = 3600.0

async def main():
    async with plane(Path(sys.argv[1])) as tasks:
        await complete(tasks, "first")
        for number in range(30):
            await submit(tasks, f"t{number}")
            if number % 2:
                await complete(tasks, f"t{number // 2}")
        failpoints.set_failpoint(sys.argv[2], "crash")
        await tasks.create_tasks("s", [])

asyncio.run(main())
"""


@pytest.mark.parametrize("place", ["store.begin", "store.tail.settle", "store.commit.after"])
def test_what_was_told_is_there_after_a_kill_and_put_into_the_tables_once(tmp_path: Path, place: str) -> None:
    script = DYING.replace(
        'await tasks.create_tasks("s", [])',
        'await tasks.task_statuses(["t0"])' if place == "store.tail.settle" else 'await submit(tasks, "last")',
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), place], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    # It may well die again while it takes up what it finds, at first or when the tables know it.
    opening = "import sys; from pathlib import Path; from runtime.store import failpoints; failpoints.load(); "
    opening += "from runtime.store.sqlite.database import Database; from runtime.store.sqlite.task_tables import *; "
    opening += "Database(Path(sys.argv[1]), [SqliteTaskTables]); import os; os.kill(os.getpid(), 9)"
    for actions in ("store.replay=crash", "store.replay=crash", ""):
        done = subprocess.run(
            [sys.executable, "-c", opening, str(tmp_path / "store.db")], cwd=ROOT, capture_output=True, text=True,
            timeout=60, env={**os.environ, failpoints.ENVIRONMENT: actions},
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr

    async def work() -> None:
        async with plane(tmp_path) as tasks:
            completed = [f"t{number}" for number in range(15)]
            left = [f"t{number}" for number in range(15, 30)]
            await check(tasks, ["first", *completed], left)
            assert ("last" in await tasks.task_statuses(["last"])) == (place == "store.commit.after")
            left += ["last"] if place == "store.commit.after" else []
            await complete(tasks, *left)
            await check(tasks, [*completed, *left], [])

    run_async(work)
