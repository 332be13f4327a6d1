"""A small world with one server, some clients and some agents, in which everything may go wrong; a seed decides what.

The server is the real domain code on the real store in memory. The clock, the network and the disk's failures are not.
A crash ends the server's process at a failpoint: nothing of it is left but what was committed; a new server opens it.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import random
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from runtime.errors import Error, FailedPrecondition, Unavailable
from runtime.objects.files import FileObjects
from runtime.objects.value import Value
from runtime.store import failpoints
from runtime.store.sqlite.object_tables import ObjectTables
from runtime.store.sqlite.store import SqliteStore
from runtime.store.sqlite.task_tables import SqliteTaskTables
from runtime.tasks.filters import TaskFilter
from runtime.tasks.leases import Lease, LeaseLost
from runtime.tasks.model import TERMINAL, FailureKind, ResultStatus, TaskOptions, TaskRequest, TaskStatus
from runtime.tasks.tasks import Limits, Tasks
from runtime.tasks.transitions import LEGAL
from tests.tasks.simulation.clock import FakeLoop

V = TypeVar("V")

LIMITS = Limits(lease_ttl_s=2.0, heartbeat_s=0.5, cancel_grace_s=0.7)
CRASH_POINTS = ("store.begin", "store.write", "store.commit.before", "store.commit.after")


class Crash(KeyboardInterrupt):
    """The server's process ends here; the loop hands on nothing else than interrupts."""


@functools.cache
def _empty_disk() -> bytes:
    """Return a file with empty tables, as bytes."""
    loop = FakeLoop()

    async def make() -> bytes:
        store = SqliteStore(None, [ObjectTables, SqliteTaskTables], threads=False)
        return store.database.writer.serialize()

    try:
        return loop.run_until_complete(make())
    finally:
        loop.close()


class Server:
    """One life of the server, from its start to a crash or the end."""

    def __init__(self, disk: sqlite3.Connection) -> None:
        self.store = SqliteStore(None, [ObjectTables, SqliteTaskTables], threads=False, connection=disk)
        self.tasks = Tasks(
            self.store.plane(SqliteTaskTables),
            FileObjects(Path("/nonexistent")),
            LIMITS,
            now_s=asyncio.get_running_loop().time,
        )
        self.gone = asyncio.Event()

    def die(self) -> None:
        """Do nothing any more, and let everybody outside know: what a process does that has ended."""
        store: Any = self.store
        while not store._queue.empty():
            store._queue.get()
        store.write = lambda tables, function: asyncio.get_event_loop().create_future()
        tasks: Any = self.tasks
        tasks.leases.close()
        for timer in (tasks._start_timer, tasks._outcomes._retry, tasks.scheduler._retry):
            if timer is not None:
                timer.cancel()
        for group in tasks.waiting._groups.values():
            group.close()
        for task in tasks._background:
            task.cancel()
        self.gone.set()

    async def ask(self, work: Callable[[Tasks], Awaitable[V]]) -> V:
        """Call the server as a client does; UNAVAILABLE when it dies meanwhile, whatever has become of the call."""
        if self.gone.is_set():
            raise Unavailable("connection refused")
        call = asyncio.ensure_future(work(self.tasks))
        gone = asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait([call, gone], return_when=asyncio.FIRST_COMPLETED)
            if self.gone.is_set():
                raise Unavailable("connection reset")
            return call.result()
        finally:
            for future in (call, gone):
                future.cancel()
            with contextlib.suppress(asyncio.CancelledError, Error):
                await call


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, loop: FakeLoop) -> None:
        self.random = random.Random(seed)
        self.loop = loop
        self.disk = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.disk.deserialize(_empty_disk())
        self.server: Server | None = None
        self.up = asyncio.Event()
        self.num_crashes = 0
        self.calm = False
        self.agents: list[asyncio.Task[None]] = []
        # What was acknowledged, and what was seen.
        self.sessions: list[str] = []
        self.created: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.canceled_sessions: set[str] = set()
        self.committed: dict[str, dict[str, bytes]] = {}
        self.seen: dict[str, TaskStatus] = {}
        self.finals: dict[tuple[str, str], tuple[ResultStatus, bytes, str]] = {}

    async def run(self) -> None:
        """Live through the seed's story, and check that it ended well."""
        self._start_server()
        await self._boot()
        keeper = asyncio.ensure_future(self._keep_up())
        self.agents = [asyncio.ensure_future(self._agent(f"agent-{number}")) for number in range(self._pick(1, 3))]
        try:
            clients = [asyncio.ensure_future(self._client(number)) for number in range(self._pick(1, 2))]
            await asyncio.gather(*clients)
            self.calm = True
            await self._settle()
        finally:
            for task in (*self.agents, keeper):
                task.cancel()
            for task in (*self.agents, keeper):
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._check_end()

    # The server's lives

    def _start_server(self) -> None:
        self.server = Server(self.disk)

    async def _boot(self) -> None:
        assert self.server is not None
        await self.server.ask(lambda tasks: tasks.start())
        self.up.set()

    async def _keep_up(self) -> None:
        """Crash the server now and then, and start it again."""
        while True:
            await asyncio.sleep(self.random.expovariate(1 / 2.0))
            if self.calm or self.num_crashes >= 3:
                return
            point, after = self.random.choice(CRASH_POINTS), self._pick(0, 6)

            def crash(left: list[int] = [after]) -> None:  # noqa: B006 - one counter for each failpoint
                left[0] -= 1
                if left[0] < 0:
                    raise Crash

            failpoints.set_failpoint(point, crash)
            assert self.server is not None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.server.gone.wait(), 5.0)
            failpoints.clear()
            if self.server.gone.is_set():
                await asyncio.sleep(self.random.uniform(0.0, 0.5))
                self._check_store()
                self._start_server()
                await self._boot()

    def crashed(self) -> None:
        """End the server's process: its memory is gone, its transaction undone, its connections are closed."""
        self.num_crashes += 1
        failpoints.clear()
        self.up.clear()
        assert self.server is not None
        server = self.server
        if self.disk.in_transaction:
            self.disk.execute("ROLLBACK")
        server.die()

    # Clients

    async def _client(self, number: int) -> None:
        sessions = [f"s{number}.{index}" for index in range(self._pick(1, 2))]
        for session in sessions:
            await self._retrying(lambda tasks, session=session: tasks.create_session(session, self._options()))
            self.sessions.append(session)
        waits: list[asyncio.Future[None]] = []
        keys: list[str] = []
        for batch in range(self._pick(2, 5)):
            session = self.random.choice(sessions)
            requests = []
            for index in range(self._pick(1, 4)):
                name = f"{session}/t{batch}.{index}"
                known = [key for key in keys if key.startswith(session)]
                needs = tuple(dict.fromkeys(self.random.choices(known, k=self._pick(0, 2)))) if known else ()
                outputs = (name,) if self.random.random() < 0.8 else (name, f"{name}+")
                keys += outputs
                requests.append(TaskRequest(name, outputs, needs, Value(name.encode())))
            self.random.shuffle(requests)
            options = self._options() if self.random.random() < 0.5 else None
            await self._create(session, requests, options)
            for request in requests:
                if request.id in self.created and self.random.random() < 0.3:
                    waits.append(asyncio.ensure_future(self._wait(session, request.expected_keys[0])))
            await self._look()
            if self.random.random() < 0.15 and self.created:
                await self._cancel(self.random.choice(list(self.created)))
            if self.random.random() < 0.04:
                await self._cancel_session(session)
            await asyncio.sleep(self.random.expovariate(2.0))
        for wait in waits:
            await wait

    async def _create(self, session: str, requests: list[TaskRequest], options: TaskOptions | None) -> None:
        """Create as a careful client does: after an unknown outcome it sends the request once more."""
        is_first = True
        while True:
            try:
                offending = await self._call(lambda tasks: tasks.create_tasks(session, requests, options))
            except Unavailable:
                is_first = False
                continue
            except FailedPrecondition:
                assert session in self.canceled_sessions
                return
            # It is all of the request or nothing of it, so ids in use are those of the first try.
            assert not offending or (not is_first and len(offending) == len(requests)), offending
            for request in requests:
                self.created[request.id] = session, request.expected_keys
            return

    async def _cancel(self, name: str) -> None:
        await self._retrying(lambda tasks: tasks.cancel_tasks(TaskFilter(tasks=(name,))))

    async def _cancel_session(self, session: str) -> None:
        self.canceled_sessions.add(session)
        with contextlib.suppress(Error):
            await self._retrying(lambda tasks: tasks.cancel_session(session))

    async def _wait(self, session: str, key: str) -> None:
        result = await self._retrying(lambda tasks: tasks.wait_for_result(session, key))
        assert result.status is not ResultStatus.CREATED
        self._note_result(session, key, result)

    async def _look(self) -> None:
        """Read statuses as clients do, and check that they only ever move along the state machine."""
        ids = list(self.created)

        async def look(tasks: Tasks) -> None:
            # Checked where it is read: answers may overtake each other on their way.
            statuses = await tasks.task_statuses(ids)
            assert set(statuses) == set(ids), "a task that was acknowledged is lost"
            for task_id, status in statuses.items():
                before = self.seen.get(task_id, TaskStatus.CREATING)
                assert _reaches(before, status), f"{task_id}: {before.name} became {status.name}"
                self.seen[task_id] = status

        await self._retrying(look)

    async def _settle(self) -> None:
        """Wait until everything has ended."""
        for session in self.sessions:
            selection = TaskFilter(sessions=(session,))
            counts = await self._retrying(lambda tasks, selection=selection: tasks.wait_for_tasks(selection))
            assert set(counts) <= TERMINAL
        await self._look()

    async def _retrying(self, work: Callable[[Tasks], Awaitable[V]]) -> V:
        while True:
            with contextlib.suppress(Unavailable):
                return await self._call(work)

    async def _call(self, work: Callable[[Tasks], Awaitable[V]]) -> V:
        """Call the server over a network that takes its time both ways."""
        await asyncio.sleep(self.random.expovariate(50.0))
        await self.up.wait()
        assert self.server is not None
        answer = await self.server.ask(work)
        await asyncio.sleep(self.random.expovariate(50.0))
        return answer

    # Agents

    async def _agent(self, name: str) -> None:
        """Run tasks; sometimes fail, fall silent, speak late or twice. Lives in the server's process."""
        while True:
            await self.up.wait()
            server = self.server
            assert server is not None
            try:
                leases = await server.ask(lambda tasks: tasks.acquire(name, self._pick(1, 2)))
                for lease in leases:
                    await server.ask(lambda tasks, lease=lease: self._run(lease))
            except (Unavailable, LeaseLost):
                await asyncio.sleep(0.01)

    async def _run(self, lease: Lease) -> None:
        chance = self.random.random
        if not self.calm and chance() < 0.05:
            await lease.release()
            return
        await lease.start()
        values = {key: Value(f"{lease.task.id}:{key}".encode()) for key in lease.task.expected_keys}
        for key in lease.task.dependencies:
            lease.dependency(key)
        await asyncio.sleep(self.random.expovariate(5.0))
        depth = lease.task.id.count(">")
        if depth < 2 and chance() < 0.2:
            handed = lease.task.expected_keys[: self._pick(0, 1)]
            child = f"{lease.task.id}>"
            offending = await lease.stage_subtasks([TaskRequest(child, (*handed, f"{child}new"), (), Value(b"x"))])
            if not offending:
                for key in handed:
                    del values[key]
        if not self.calm:
            if chance() < 0.07:
                # Dead, or so slow that it is taken for dead; what it says afterwards comes too late.
                ghost = copy.copy(lease)
                await asyncio.sleep(LIMITS.lease_ttl_s * self.random.uniform(0.5, 2.5))
                if lease.is_lost:
                    # A copy that was never told so: only the fence stands against it.
                    await self._haunt(ghost, values)
            elif chance() < 0.3:
                for _ in range(self._pick(1, 6)):
                    await asyncio.sleep(LIMITS.heartbeat_s)
                    if lease.interrupted.is_set():
                        break
                    lease.renew()
            if chance() < 0.02:
                self.loop.now += LIMITS.lease_ttl_s * 3
        kind = chance()
        if lease.is_cancelled:
            await lease.confirm_cancelled()
        elif kind < 0.12:
            await lease.fail(self.random.choice([FailureKind.CALL, FailureKind.TIMEOUT]), "call failed")
        elif kind < 0.17:
            await lease.report_error("answer")
        elif kind < 0.2:
            await lease.succeed({**values, "not its own": Value(b"")})
        elif kind < 0.5:
            # Together with others, as agents do that give their workers many tasks at a time.
            await lease._tasks.succeed_all([(lease, values)])
        else:
            copies = [lease.succeed(values) for _ in range(2 if kind < 0.3 else 1)]
            answers = await asyncio.gather(*copies, return_exceptions=True)
            ended = [answer for answer in answers if not isinstance(answer, LeaseLost)]
            assert len(ended) <= 1, "two outcomes of one attempt were recorded"
            for answer in ended:
                if isinstance(answer, BaseException):
                    raise answer
                if answer is TaskStatus.COMPLETED:
                    assert lease.task.id not in self.committed
                    self.committed[lease.task.id] = {key: value.data for key, value in values.items()}

    async def _haunt(self, ghost: Lease, values: dict[str, Value]) -> None:
        # The loss is written by now, so the attempt has its successor.
        await asyncio.sleep(0.1)
        for late in (
            lambda: ghost.succeed(values),
            lambda: ghost.stage_subtasks([TaskRequest("ghost", ("ghost",))]),
        ):
            try:
                await late()  # type: ignore[operator]
            except LeaseLost:
                continue
            raise AssertionError("a lease that was lost has changed something")

    # What must hold

    def _note_result(self, session: str, key: str, result: Any) -> None:
        found = result.status, result.value.data, result.owner
        assert self.finals.setdefault((session, key), found) == found, "a result that had ended has changed"

    def _check_store(self) -> None:
        """Check what is on the disk while no server runs."""
        tables = SqliteTaskTables(self.disk, 0)
        assert tables.all_counts() == tables.recount()

    def _check_end(self) -> None:
        tables = SqliteTaskTables(self.disk, 0)
        self._check_store()
        assert self.disk.execute("SELECT count(*) FROM results WHERE status = 1").fetchone() == (0,)
        assert self.disk.execute("SELECT count(*) FROM waiting").fetchone() == (0,)
        assert self.disk.execute("SELECT count(*) FROM tasks WHERE owner <> ''").fetchone() == (0,)
        selected = TaskFilter(sessions=tuple(self.sessions))
        every = [tables.task(number) for number in tables.task_numbers(selected)]
        assert {row.status for row in every} <= TERMINAL
        numbers = {row.number: row for row in every}
        for row in every:
            assert row.ended_s is not None and row.attempt <= row.max_retries
            assert (row.next == 0) or numbers[row.next].attempt == row.attempt + 1
            if row.id in self.committed:
                assert row.status is TaskStatus.COMPLETED, "an outcome that was acknowledged is lost"
        for task_id, values in self.committed.items():
            row = tables.task_by_id(task_id)
            assert row is not None
            for key, data in values.items():
                result = tables.result(row.session, key)
                assert result is not None and result.owner == row.number
                assert (result.status, result.value.data) == (ResultStatus.COMPLETED, data)
        for (session_id, key), (status, data, _) in self.finals.items():
            session = tables.session_by_id(session_id)
            assert session is not None
            result = tables.result(session.number, key)
            assert result is not None and (result.status, result.value.data) == (status, data)
        for task_id, (session_id, keys) in self.created.items():
            session = tables.session_by_id(session_id)
            assert session is not None
            assert len(tables.results(session.number, keys)) == len(keys), f"results of {task_id} are lost"

    def _options(self) -> TaskOptions:
        return TaskOptions(10**9, self._pick(1, 2), self._pick(1, 3))

    def _pick(self, low: int, high: int) -> int:
        return self.random.randint(low, high)


def _reaches(before: TaskStatus, after: TaskStatus) -> bool:
    reached = {before}
    while True:
        further = reached | {status for known in reached for status in LEGAL.get(known, ())}
        if further == reached:
            return after in reached
        reached = further


def run_seed(seed: int) -> World:
    """Run one story; raises what went wrong."""
    loop = FakeLoop()
    asyncio.set_event_loop(loop)
    world = World(seed, loop)
    unexpected: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unexpected.append(context))
    try:
        main = loop.create_task(world.run())
        while not main.done():
            try:
                loop.run_until_complete(main)
            except Crash:
                world.crashed()
        main.result()
    finally:
        failpoints.clear()
        asyncio.set_event_loop(None)
        loop.close()
        world.disk.close()
    assert not unexpected, unexpected
    return world
