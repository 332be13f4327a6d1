"""A small world with one server, some clients and some agents, in which everything may go wrong; a seed decides what.

The server is the real domain code on the real store in memory. The clock, the network and the disk's failures are not.
A crash ends the server's process at a failpoint: nothing of it is left but what was committed; a new server opens it.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from runtime.errors import Error, FailedPrecondition, NotFound, Unavailable
from runtime.objects.value import Value
from runtime.store import failpoints
from runtime.tasks.creation import Refused
from runtime.tasks.filters import TaskFilter
from runtime.tasks.leases import Lease, LeaseLost
from runtime.tasks.model import TERMINAL, FailureKind, TaskOptions, TaskRequest, TaskStatus
from runtime.tasks.tasks import ResultView, Tasks
from tests.tasks.simulation.clock import FakeLoop
from tests.tasks.simulation.objects import LARGE, MEDIUM
from tests.tasks.simulation.record import Record
from tests.tasks.simulation.server import DELAY, LIMITS, Crash, Disk, Server

V = TypeVar("V")

CRASH_POINTS = (
    "store.begin", "store.write", "store.commit.before", "store.commit.after", "store.tail.append", "store.tail.settle",
    "objects.rename", "objects.sync_folder", "objects.remove", "objects.arena.write", "objects.arena.sync",
)  # fmt: skip


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, loop: FakeLoop) -> None:
        self.random = random.Random(seed)
        self.loop = loop
        self.disk = Disk()
        self.limits = replace(LIMITS, retry_delay=DELAY) if self.random.random() < 0.5 else LIMITS
        self.record = Record(self.disk, self.limits.retry_delay)
        self.server: Server | None = None
        self.up = asyncio.Event()
        self.num_crashes = 0
        self.num_jumps = 0
        self.num_running = 0
        self.calm = False
        # Outcomes that are to be written together, with whoever waits for that.
        self._together: tuple[Tasks, list[tuple[Lease, dict[str, Value]]], asyncio.Future[None]] | None = None

    async def run(self) -> None:
        """Live through the seed's story, and check that it ended well."""
        self._make_server()
        await self._boot()
        story = asyncio.current_task()
        assert story is not None
        others = [asyncio.ensure_future(self._keep_up())]
        others += [asyncio.ensure_future(self._agent(f"agent-{number}")) for number in range(self._pick(1, 3))]
        for task in others:
            # What goes wrong there ends the story.
            task.add_done_callback(lambda done: done.cancelled() or (done.exception() and story.cancel()))
        try:
            await asyncio.gather(*[self._client(number) for number in range(self._pick(1, 2))])
            self.calm = True
            failpoints.clear()  # what is left to be done would end a server that nobody starts again
            await self._settle()
        finally:
            for task in others:
                task.cancel()
            for task in others:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        failpoints.clear()
        self.record.check_end()
        assert not +self.server.objects.held, "objects are held by nobody"
        await asyncio.sleep(2 * LIMITS.retention_s)
        self.record.check_nothing_is_left()

    # The server's lives

    def _make_server(self) -> None:
        self.server = Server(self.disk, self.limits, self.random, self.crashed)
        self.server.tasks.early.taker = EarlyAgents(self, self.server)

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
            self._set_crash()
            assert self.server is not None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.server.gone.wait(), 5.0)
            failpoints.clear()
            while self.server.gone.is_set():
                await asyncio.sleep(self.random.uniform(0.0, 0.5))
                self.record.check_counters()
                self._make_server()
                if self.random.random() < 0.2 and self.num_crashes < 3:
                    # It may well die again while it takes up what it finds.
                    self._set_crash(most=2)
                with contextlib.suppress(Unavailable):
                    await self._boot()
                failpoints.clear()

    def _set_crash(self, most: int = 6) -> None:
        """Choose where the server will end."""
        left = self._pick(0, most)

        def crash() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash

        failpoints.set_failpoint(self.random.choice(CRASH_POINTS), crash)

    def crashed(self) -> None:
        """End the server's process: its memory is gone, its transaction undone, its connections are closed."""
        self.num_crashes += 1
        failpoints.clear()
        self.up.clear()
        assert self.server is not None
        if self.disk.connection.in_transaction:
            self.disk.connection.execute("ROLLBACK")
        self.server.die()

    # Clients

    async def _client(self, number: int) -> None:
        sessions = [f"s{number}.{index}" for index in range(self._pick(1, 2))]
        for session in sessions:
            await self._retrying(lambda tasks, session=session: tasks.create_session(session, self._options()))
            self.record.sessions.append(session)
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
                requests.append(TaskRequest(name, outputs, needs, Value(self._payload(name))))
            self.random.shuffle(requests)
            options = self._options() if self.random.random() < 0.5 else None
            await self._create(session, requests, options)
            if self.random.random() < 0.5:
                names = [f"{session}/s{batch}.{index}" for index in range(self._pick(1, 3))]
                singles = [TaskRequest(name, (name,), (), Value(name.encode())) for name in names]
                await asyncio.gather(*[self._create(session, [single], None) for single in singles])
            for request in requests:
                if request.id in self.record.created and self.random.random() < 0.3:
                    waits.append(asyncio.ensure_future(self._wait(session, request.expected_keys[0])))
            if requests[0].id in self.record.created and self.random.random() < 0.2:
                await self._clash(session, requests[0])
            await self._look()
            if self.random.random() < 0.15 and self.record.created:
                await self._cancel(self.random.choice(list(self.record.created)))
            if self.random.random() < 0.04:
                await self._cancel_session(session)
            await asyncio.sleep(self.random.expovariate(2.0))
        for wait in waits:
            await wait
        if self.random.random() < 0.3:
            await self._delete(self.random.choice(sessions))

    async def _create(self, session: str, requests: list[TaskRequest], options: TaskOptions | None) -> None:
        """Create as a careful client does: after an unknown outcome it sends the request once more."""

        async def create(tasks: Tasks) -> tuple[str, ...]:
            if may_begin and tasks.early.are_wanted(requests):
                return await self._begin(tasks, session, requests, options)
            payloads = await _written(tasks, {request.id: request.payload.data for request in requests})
            written = [request._replace(payload=payloads[request.id]) for request in requests]
            if any(payload.ref is not None for payload in payloads.values()):
                return await tasks.create_tasks(session, written, options)
            return await self._submit(tasks, session, written, options)

        is_first = True
        all_of_them = requests
        # Which agents begin with before it is made, as those do whose payloads lie in a server's file.
        may_begin = self.random.random() < 0.5
        self.record.asked.update({request.id: request for request in requests} if may_begin else {})
        while True:
            try:
                offending = await self._call(create)
            except Unavailable:
                is_first = False
                continue
            except FailedPrecondition:
                assert session in self.record.canceled_sessions
                return
            # Ids in use are those of the first try, which was all of the request or nothing of it, as a rule.
            assert not offending or not is_first, offending
            left = [request for request in requests if request.id not in offending]
            if offending and left:
                assert may_begin, offending
                requests = left
                continue
            self.record.note_created(session, all_of_them)
            return

    async def _begin(
        self, tasks: Tasks, session: str, requests: list[TaskRequest], options: TaskOptions | None
    ) -> tuple[str, ...]:
        """Create as a client of the same machine does, whose tasks begin before their payloads are durable."""
        objects: Any = tasks.objects
        written = [request._replace(payload=objects.early(request.payload.data)) for request in requests]
        begun = await tasks.early.begin(session, written, options, objects.sync)
        if begun is not None:
            return await asyncio.shield(begun.done)
        await objects.sync()
        return await tasks.create_tasks(session, written, options)

    async def _submit(
        self, tasks: Tasks, session: str, requests: list[TaskRequest], options: TaskOptions | None
    ) -> tuple[str, ...]:
        """Create as a stream of submissions does, which is told of the results."""
        follower = tasks.follower(lambda: None)
        follower.expect(sum(len(request.expected_keys) for request in requests))
        try:
            await tasks.submit(session, requests, options, follower, None)
        except Refused as refused:
            return refused.ids
        finally:
            follower.leave()
        return ()

    async def _clash(self, session: str, known: TaskRequest) -> None:
        """Ask for a task that there is and for one that there is not, twice at once: nothing of it may be made."""
        unknown = TaskRequest(f"{known.id}!", (f"{known.id}!",), (), Value(b""))

        async def clash(tasks: Tasks) -> None:
            requests = [unknown, known._replace(payload=Value(b""))]
            with contextlib.suppress(FailedPrecondition):
                for offending in await asyncio.gather(*[tasks.create_tasks(session, requests) for _ in range(2)]):
                    assert offending == (known.id,), offending
            assert not await tasks.task_statuses([unknown.id]), "a task was made that had been refused"

        await self._retrying(clash)

    async def _cancel(self, name: str) -> None:
        async def cancel(tasks: Tasks) -> None:
            await tasks.cancel_tasks(TaskFilter(tasks=(name,)))
            self.record.note_canceled(name)

        await self._retrying(cancel)

    async def _cancel_session(self, session: str) -> None:
        self.record.canceled_sessions.add(session)
        with contextlib.suppress(Error):
            await self._retrying(lambda tasks: tasks.cancel_session(session))

    async def _delete(self, session: str) -> None:
        """Delete a session; one in which something has not ended stays as it is."""
        selection = TaskFilter(sessions=(session,))
        is_over = self.random.random() < 0.7
        if is_over:
            await self._retrying(lambda tasks: tasks.wait_for_tasks(selection))
        is_first = True

        async def delete(tasks: Tasks) -> bool:
            nonlocal is_first
            is_again, is_first = not is_first, False
            try:
                await tasks.retention.delete(session)
            except FailedPrecondition:
                assert not is_over, "a session where all had ended was not deleted"
                return False
            except NotFound:
                assert is_again, "a session is gone that nobody has deleted"
            return True

        self.record.going.add(session)
        if await self._retrying(delete):
            self.record.note_deleted(session)
        else:
            self.record.going.remove(session)

    async def _wait(self, session: str, key: str) -> None:
        async def wait(tasks: Tasks) -> ResultView:
            return await tasks.wait_for_result(session, key)

        self.record.note_result(session, key, await self._retrying(wait))

    async def _look(self) -> None:
        """Read statuses as clients do."""
        ids = list(self.record.created)

        async def look(tasks: Tasks) -> None:
            # Checked where it is read: answers may overtake each other on their way.
            self.record.note_statuses(ids, await tasks.task_statuses(ids))

        await self._retrying(look)

    async def _settle(self) -> None:
        """Wait until everything has ended, and nobody does anything more."""
        for session in self.record.sessions:
            selection = TaskFilter(sessions=(session,))
            counts = await self._retrying(lambda tasks, selection=selection: tasks.wait_for_tasks(selection))
            assert set(counts) <= TERMINAL, "a wait has ended before its tasks"
        await self._look()
        while self.num_running:
            await asyncio.sleep(LIMITS.lease_ttl_s)
        await self._retrying(lambda tasks: tasks.swept())

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
                    self.record.note_lease(lease)
                    self.num_running += 1
                    try:
                        await server.ask(lambda tasks, lease=lease: self.run_lease(tasks, lease))
                    finally:
                        self.num_running -= 1
            except (Unavailable, LeaseLost):
                await asyncio.sleep(0.01)

    async def run_lease(self, tasks: Tasks, lease: Lease) -> None:
        """Do with a lease what an agent may do."""
        chance = self.random.random
        if not self.calm and chance() < 0.08:
            ghost = copy.copy(lease)
            await lease.release()
            if chance() < 0.5:
                # By then another agent may have it, under the same number.
                await asyncio.sleep(self.random.expovariate(3.0))
                await self._haunt(tasks, ghost, {})
            return
        is_quick = chance() < 0.3
        await lease.start()
        contents = {
            key: b"%s %s" % (self._large(), f"{lease.task.id}:{key}".encode()) for key in lease.task.expected_keys
        }
        payload = [piece async for piece in lease.read_payload(1 << 20)]
        self.record.check_input(lease, b"".join(payload))
        if is_quick and not lease.is_cancelled:
            await tasks.succeed_all([(lease, {key: Value(content) for key, content in contents.items()})])
            await self._note_success(tasks, lease, contents)
            return
        await asyncio.sleep(self.random.expovariate(5.0))
        await self._ask_for_subtasks(tasks, lease, contents)
        if not self.calm:
            if chance() < 0.07:
                # Dead, or so slow that it is taken for dead; what it says afterwards comes too late.
                ghost = copy.copy(lease)
                silent_s, jumps = LIMITS.lease_ttl_s * self.random.uniform(0.5, 2.5), self.num_jumps
                await asyncio.sleep(silent_s)
                if silent_s > LIMITS.lease_ttl_s * 1.3 and jumps == self.num_jumps:
                    assert lease.is_lost, "an agent that was not heard of has kept its lease"
                if lease.is_lost:
                    # A copy that was never told so: only the fence stands against it.
                    await self._haunt(tasks, ghost, contents)
            elif chance() < 0.3:
                for _ in range(self._pick(1, 6)):
                    lease.renew()
                    await asyncio.sleep(LIMITS.heartbeat_s)
                    if not self._may_be_unmade(lease):
                        assert lease.is_cancelled or not lease.is_lost, "an agent that was heard of has lost its lease"
                    if lease.is_cancelled:
                        break
            if chance() < 0.02:
                self.num_jumps += 1
                self.loop.now += LIMITS.lease_ttl_s * 3
        await self._end(tasks, lease, contents)

    async def _ask_for_subtasks(self, tasks: Tasks, lease: Lease, contents: dict[str, bytes]) -> None:
        """Perhaps let a subtask make one of the results, or a result of its own."""
        name = lease.task.id
        if name.count(">") >= 2 or self.random.random() >= 0.2:
            return
        handed = lease.task.expected_keys[: self._pick(0, 1)]
        child = f"{name}>"
        payloads = await _written(tasks, {child: self._payload(child)})
        offending = await lease.stage_subtasks([TaskRequest(child, (*handed, f"{child}new"), (), payloads[child])])
        if not offending:
            for key in handed:
                del contents[key]

    async def _end(self, tasks: Tasks, lease: Lease, contents: dict[str, bytes]) -> None:
        kind = self.random.random()
        if lease.is_cancelled:
            await lease.confirm_cancelled()
        elif not self.calm and self.random.random() < 0.03:
            await lease.release()
        elif kind < 0.12:
            failure = self.random.choice([FailureKind.CALL, FailureKind.TIMEOUT])
            self.record.note_failed(lease, await lease.fail(failure, "call failed"))
        elif kind < 0.17:
            self.record.note_answer(lease, await lease.report_error("answer"))
        elif kind < 0.2:
            values = await _written(tasks, {**contents, "not its own": b""})
            self.record.note_answer(lease, await lease.succeed(values))
        elif kind < 0.4:
            await self._succeed_together(tasks, lease, contents)
        else:
            # Some forget a result.
            made = dict(list(contents.items())[: -1 if kind < 0.45 else None])
            copies = [await _written(tasks, made) for _ in range(2 if kind > 0.9 else 1)]
            answers = await asyncio.gather(*map(lease.succeed, copies), return_exceptions=True)
            ended = [answer for answer in answers if not isinstance(answer, LeaseLost)]
            assert len(ended) <= 1, "two outcomes of one attempt were recorded"
            for answer in ended:
                if isinstance(answer, BaseException):
                    raise answer
                if answer is TaskStatus.COMPLETED:
                    self.record.note_committed(lease, made)

    async def _succeed_together(self, tasks: Tasks, lease: Lease, contents: dict[str, bytes]) -> None:
        """Succeed with others in one write, as agents do that give their workers many tasks at a time."""
        mine = lease, {key: Value(content) for key, content in contents.items()}
        if self._together is not None and self._together[0] is tasks:
            _, ended, written = self._together
            ended.append(mine)
            await written
        else:
            ended, written = [mine], self.loop.create_future()
            self._together = tasks, ended, written
            await asyncio.sleep(self.random.uniform(0.0, 0.3))
            self._together = None
            await tasks.succeed_all(ended)
            written.set_result(None)
        await self._note_success(tasks, lease, contents)

    async def _note_success(self, tasks: Tasks, lease: Lease, contents: dict[str, bytes]) -> None:
        if lease.is_lost:
            return
        statuses = await tasks.task_statuses([lease.task.id])
        assert statuses or self._may_be_unmade(lease), "a task has ended and is not there"
        if statuses.get(lease.task.id) is TaskStatus.COMPLETED:
            self.record.note_committed(lease, contents)

    def _may_be_unmade(self, lease: Lease) -> bool:
        """Return whether a task that has begun may never be made: its session was canceled before it was."""
        return lease.task.id in self.record.asked and lease.task.session in self.record.canceled_sessions

    async def _haunt(self, tasks: Tasks, ghost: Lease, contents: dict[str, bytes]) -> None:
        # The loss is written by now, so the attempt has its successor.
        await asyncio.sleep(0.1)
        values = await _written(tasks, contents)
        says: list[Callable[[Lease], Awaitable[Any]]] = [
            lambda late: late.succeed(values),
            lambda late: late.stage_subtasks([TaskRequest("ghost", ("ghost",))]),
            lambda late: late.fail(FailureKind.CALL, "late"),
        ]
        for say in says:
            with contextlib.suppress(LeaseLost):
                await say(copy.copy(ghost))
                raise AssertionError("a lease that was lost has changed something")

    # Choices

    def _options(self) -> TaskOptions:
        return TaskOptions(10**9, self._pick(1, 2), self._pick(1, 3), {"k": str(self._pick(1, 3))})

    def _payload(self, name: str) -> bytes:
        # Large ones have few contents, so that objects are shared.
        kind = self.random.random()
        return LARGE + b"%d" % self._pick(0, 2) if kind < 0.2 else MEDIUM * (kind < 0.4) + name.encode()

    def _large(self) -> bytes:
        kind = self.random.random()
        return LARGE if kind < 0.2 else MEDIUM if kind < 0.4 else b"small"

    def _pick(self, low: int, high: int) -> int:
        return self.random.randint(low, high)


class EarlyAgents:
    """Agents of one life of the server that have nothing to do, or say so."""

    def __init__(self, world: World, server: Server) -> None:
        self._world = world
        self._server = server

    def wants_early(self, number: int) -> bool:
        """Want most of what there is."""
        return self._world.random.random() < 0.8

    def take_early(self, leases: Sequence[Lease]) -> None:
        """Run tasks, each beside the others."""
        for lease in leases:
            self._world.record.note_lease(lease)
            asyncio.ensure_future(self._run(lease))

    async def _run(self, lease: Lease) -> None:
        self._world.num_running += 1
        try:
            with contextlib.suppress(Unavailable, LeaseLost):
                await self._server.ask(lambda tasks: self._world.run_lease(tasks, lease))
        finally:
            self._world.num_running -= 1


async def _written(tasks: Tasks, contents: dict[str, bytes]) -> dict[str, Value]:
    """Return the values of these contents, held."""
    values = {}
    for name, content in contents.items():
        writer = tasks.writer()
        await writer.write(content)
        values[name] = await writer.finish()
    return values


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
    except BaseException:
        failpoints.clear()
        loop.abandon()
        raise
    finally:
        failpoints.clear()
        asyncio.set_event_loop(None)
        loop.close()
    assert not unexpected, unexpected
    return world


def run_seeds(seeds: Iterable[int]) -> int:
    """Run stories without what the server would log of them; return how often a server crashed."""
    crashes = 0
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        for seed in seeds:
            try:
                crashes += run_seed(seed).num_crashes
            except BaseException as error:
                error.add_note(f"TENSOR_RUNTIME_SEED={seed} tells this story again")
                raise
    finally:
        logging.disable(disabled)
    return crashes
