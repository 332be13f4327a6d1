"""Tasks that begin before they are made: what is on disk when they end, take long, fail, or when their server does."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import runtime
from runtime.client.tasks import session as session_module
from runtime.objects.value import Value
from runtime.store import failpoints
from runtime.tasks import early
from runtime.tasks.leases import Lease, LeaseLost
from runtime.tasks.model import FailureKind, TaskRequest
from tests.client.tasks.relays import Relay
from tests.conformance.armonik.submitter import Submitter, fails, plane, serve
from tests.leaks import run_async
from tests.tasks.near_client import MEDIUM, TIMEOUT_S, Near, client, near, of, settled


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    failpoints.clear()


class Hands:
    """Workers that have nothing to do, until a test ends what they were given."""

    def __init__(self) -> None:
        self.is_idle = True
        self.leases: list[Lease] = []
        self.num_syncs = 0

    def wants_early(self, number: int) -> bool:
        """Want everything, or nothing."""
        return self.is_idle

    def take_early(self, leases: Sequence[Lease]) -> None:
        """Take leases."""
        self.leases += leases

    async def given(self, number: int) -> list[Lease]:
        """Wait for so many leases, and return them."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.leases) < number:
                await asyncio.sleep(0.001)
        return self.leases

    def synced(self) -> None:
        """Count a sync of the payloads."""
        self.num_syncs += 1


@asynccontextmanager
async def idle(submitter: Submitter) -> AsyncIterator[Hands]:
    """Have workers that have nothing to do, and a queue that is known to be empty."""
    tasks = submitter.tasks
    hands = Hands()
    tasks.early.taker = hands
    asking = tasks.scheduler.request("nobody", 1)
    async with asyncio.timeout(TIMEOUT_S):
        while tasks.scheduler.has_ready:
            await asyncio.sleep(0.001)
    asking.cancel()
    failpoints.set_failpoint("objects.arena.sync", hands.synced)
    yield hands


@asynccontextmanager
async def begun(folder: Path, *names: str, **changes: Any) -> AsyncIterator[tuple[Submitter, Near, Hands, list[Lease]]]:
    """Have tasks of one message begin, which is not answered yet; return their leases, too."""
    async with plane(folder) as submitter, client(submitter) as one, idle(submitter) as hands:
        await one.begin(may_begin=True)
        await one.say(tasks=of(*await one.placed(*names), **changes))
        yield submitter, one, hands, list(await hands.given(len(names)))


async def succeed(submitter: Submitter, leases: Sequence[Lease]) -> None:
    """End tasks well, with one write."""
    await submitter.tasks.succeed_all([(lease, {lease.task.id: Value(lease.task.id.encode())}) for lease in leases])


async def value_of(submitter: Submitter, name: str) -> bytes:
    """Return the result of a task."""
    return (await submitter.tasks.wait_for_result("s", name)).value.data


def test_what_ends_at_once_is_made_with_its_end_and_its_payload_never_needs_the_disk(tmp_path: Path) -> None:
    async def work() -> None:
        async with begun(tmp_path, "a", "b", "c") as (submitter, one, hands, leases):
            assert b"".join([piece async for piece in leases[0].read_payload(1 << 20)]) == MEDIUM
            assert await submitter.statuses("a", "b", "c") == {}
            answer = asyncio.ensure_future(one.answer())
            await succeed(submitter, leases[1:])
            await asyncio.sleep(0.01)
            assert not answer.done(), "a message was answered before all its tasks were made"
            await succeed(submitter, leases[:1])
            assert await answer == []
            assert await submitter.statuses("a", "b", "c") == dict.fromkeys("abc", "COMPLETED")
            assert hands.num_syncs == 0
            one.go()
            await settled(submitter, 0)
        async with serve(tmp_path) as submitter:
            assert await submitter.statuses("a", "b", "c") == dict.fromkeys("abc", "COMPLETED")
            assert [await value_of(submitter, name) for name in "abc"] == [b"a", b"b", b"c"]

    run_async(work)


def test_what_takes_longer_is_made_first_and_its_payload_is_durable(tmp_path: Path) -> None:
    async def work() -> None:
        async with begun(tmp_path, "quick", "slow", "waits") as (submitter, one, hands, (quick, slow, waits)):
            await succeed(submitter, [quick])
            await slow.start()
            assert await one.answer() == []
            assert hands.num_syncs == 1
            await settled_status(submitter, {"quick": "COMPLETED", "slow": "PROCESSING", "waits": "DISPATCHED"})
            await succeed(submitter, [slow])
            await waits.start()
            await waits.succeed({"waits": Value(b"waits")})
            assert await submitter.statuses("quick", "slow", "waits") == dict.fromkeys(
                ("quick", "slow", "waits"), "COMPLETED"
            )
            one.go()
            await settled(submitter, 0)

    run_async(work)


async def settled_status(submitter: Submitter, expected: dict[str, str]) -> None:
    """Wait until tasks have these statuses: that they are with an agent is written some milliseconds later."""
    async with asyncio.timeout(TIMEOUT_S):
        while await submitter.statuses(*expected) != expected:
            await asyncio.sleep(0.005)


async def _ask_for_more(lease: Lease) -> None:
    assert await lease.stage_subtasks([TaskRequest("child", ("child",), (), Value(b"x"))]) == ()
    await lease.succeed({lease.task.id: Value(b"x")})


async def _write_a_large_result(lease: Lease) -> None:
    writer = lease.result_writer()
    await writer.write(b"x" * 5_000_000)
    await lease.succeed({lease.task.id: await writer.finish()})


async def _forget_the_result(lease: Lease) -> None:
    await lease.succeed({})


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda lease: lease.report_error("wrong"), "ERROR"),
        (lambda lease: lease.fail(FailureKind.CALL, "gone"), "ERROR"),
        (lambda lease: lease.release(), "SUBMITTED"),
        (_ask_for_more, "COMPLETED"),
        (_write_a_large_result, "COMPLETED"),
        (_forget_the_result, "COMPLETED"),
    ],
    ids=["error", "failure", "release", "subtasks", "large result", "no result"],
)
def test_whatever_else_becomes_of_a_task_it_is_made_first(
    tmp_path: Path, end: Callable[[Lease], Any], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "_LATEST_S", TIMEOUT_S)

    async def work() -> None:
        async with begun(tmp_path, "t", "other") as (submitter, one, hands, (lease, other)):
            await lease.start()
            await end(lease)
            assert await one.answer() == []
            assert hands.num_syncs >= 1
            assert (await submitter.statuses("t"))["t"] == status
            await other.start()
            await other.succeed({"other": Value(b"x")})
            submitter.tasks.early.taker = None
            await submitter.tasks.cancel_session("s")
            one.go()
            await settled(submitter, 0)

    run_async(work)


def test_a_task_that_is_tried_again_has_its_payload(tmp_path: Path) -> None:
    async def work() -> None:
        async with begun(tmp_path, "t", max_retries=2) as (submitter, one, hands, (lease,)):
            await lease.start()
            await lease.fail(FailureKind.CALL, "the worker was lost")
            assert await one.answer() == []
            (again,) = await submitter.tasks.acquire("agent")
            assert again.task.attempt == 1
            await again.start()
            assert b"".join([piece async for piece in again.read_payload(1 << 20)]) == MEDIUM
            await again.succeed({"t": Value(b"well")})
            assert await value_of(submitter, "t") == b"well"

    run_async(work)


def test_nothing_begins_of_a_message_with_an_id_that_is_in_use(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one, idle(submitter) as hands:
            await submitter.tasks.create_tasks("s", [TaskRequest("old", ("old",))])
            submitter.tasks.scheduler.has_ready = False  # as if somebody had it
            await one.begin(may_begin=True)
            await one.say(tasks=of(*await one.placed("new", "old")))
            assert await one.answer() == ["old"]
            assert not hands.leases
            assert await submitter.statuses("new", "old") == {"old": "SUBMITTED"}
            one.go()
            await settled(submitter, 0)

    run_async(work)


def test_a_client_that_asks_once_more_is_told_what_was_made(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, idle(submitter) as hands:
            async with client(submitter) as one:
                await one.begin(may_begin=True)
                await one.say(tasks=of(*await one.placed("a", "b")))
                first = list(await hands.given(2))
            # It is gone; what has begun goes on.
            await succeed(submitter, first[:1])
            async with client(submitter) as two:
                await two.begin(may_begin=True)
                await two.say(tasks=of(*await two.placed("a", "b")))
                assert await two.answer() == ["a"]
            async with client(submitter) as three:
                await three.begin(may_begin=True)
                await three.say(tasks=of(*await three.placed("b")))
                second = (await hands.given(3))[2]
                await succeed(submitter, [second])
                assert await three.answer() == []
                await succeed(submitter, first[1:])  # it has run twice, and has one outcome
                assert first[1].is_lost
                assert await submitter.statuses("a", "b") == dict.fromkeys("ab", "COMPLETED")
                three.go()
                await settled(submitter, 0)

    run_async(work)


def test_a_session_that_is_canceled_meanwhile_gets_no_tasks(tmp_path: Path) -> None:
    async def work() -> None:
        async with begun(tmp_path, "a", "b") as (submitter, one, hands, leases):
            await submitter.tasks.cancel_session("s")
            await succeed(submitter, leases[:1])
            async with fails(grpc.StatusCode.FAILED_PRECONDITION, "is canceled"):
                await one.answer()
            with pytest.raises(LeaseLost):
                await leases[1].succeed({"b": Value(b"b")})
            assert [lease.is_lost for lease in leases] == [True, True]
            assert await submitter.statuses("a", "b") == {}
            one.go()
            await settled(submitter, 0)

    run_async(work)


def test_a_session_that_was_deleted_and_made_anew_gets_no_tasks_of_the_old_one(tmp_path: Path) -> None:
    async def work() -> None:
        async with begun(tmp_path, "a") as (submitter, one, hands, leases):
            await submitter.tasks.retention.delete("s")
            await submitter.session()
            await succeed(submitter, leases)
            async with fails(grpc.StatusCode.NOT_FOUND, "was deleted"):
                await one.answer()
            assert await submitter.statuses("a") == {}

    run_async(work)


def test_a_server_that_stops_leaves_nothing_of_what_was_not_made(tmp_path: Path) -> None:
    async def work() -> None:
        async with begun(tmp_path, "a", "b") as (submitter, one, hands, leases):
            await submitter.tasks.stop()
            async with fails(grpc.StatusCode.UNAVAILABLE, "the server stops"):
                await one.answer()
            assert all(lease.is_lost for lease in leases)
        async with serve(tmp_path) as submitter:
            assert await submitter.statuses("a", "b") == {}
            await settled(submitter, 0)

    run_async(work)


def fail(code: int) -> Callable[[], None]:
    """Return what fails as the disk does."""

    def fails_so() -> None:
        raise OSError(code, "the disk fails")

    return fails_so


def test_a_full_disk_is_told_at_once_and_for_a_while_nothing_begins(tmp_path: Path) -> None:
    async def work() -> None:
        async with begun(tmp_path, "a", "b") as (submitter, one, hands, leases):
            for point in ("store.tail.append", "store.commit.before"):
                failpoints.set_failpoint(point, fail(errno.ENOSPC))
            recording = asyncio.ensure_future(succeed(submitter, leases))
            async with fails(grpc.StatusCode.UNAVAILABLE, "the disk failed"):
                await one.answer()
            assert not submitter.tasks.early.are_likely
            async with client(submitter) as two:
                await two.begin(may_begin=True)
                await two.say(tasks=of(*await two.placed("a", "b")))
                async with fails(grpc.StatusCode.RESOURCE_EXHAUSTED):
                    await two.answer()
            failpoints.clear()
            await recording
            assert all(lease.is_lost for lease in leases)
            assert await submitter.statuses("a", "b") == {}
            async with client(submitter) as three:
                await three.begin(may_begin=True)
                await three.say(tasks=of(*await three.placed("a", "b")))
                assert await three.answer() == []
            assert len(hands.leases) == 2
            assert await submitter.statuses("a", "b") == dict.fromkeys("ab", "SUBMITTED")

    run_async(work)


def test_payloads_that_do_not_get_on_disk_end_their_tasks(tmp_path: Path) -> None:
    async def work() -> None:
        async with begun(tmp_path, "quick", "slow") as (submitter, one, hands, (quick, slow)):
            failpoints.set_failpoint("objects.arena.sync", fail(errno.EIO))
            await succeed(submitter, [quick])
            async with fails(grpc.StatusCode.UNAVAILABLE):
                await one.answer()
            assert slow.is_lost
            assert await submitter.statuses("quick", "slow") == {"quick": "COMPLETED"}
            failpoints.clear()
            one.go()
            await settled(submitter, 0)

    run_async(work)


def test_a_write_that_cannot_even_prepare_begins_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one, idle(submitter) as hands:
            await one.begin(may_begin=True)
            tasks = await one.placed("a")
            failpoints.set_failpoint("store.begin", fail(errno.EIO))
            await one.say(tasks=of(*tasks))
            async with fails(grpc.StatusCode.UNAVAILABLE):
                await one.answer()
            assert not hands.leases
            failpoints.clear()
            one.go()
            await settled(submitter, 0)

    run_async(work)


async def _two_keys(one: Near) -> list[Any]:
    (task,) = await one.placed("t")
    task.request.expected_output_keys.append("another")
    return [task]


async def _needs(one: Near) -> list[Any]:
    (task,) = await one.placed("t")
    task.request.data_dependencies.append("first")
    return [task]


async def _partly_sent(one: Near) -> list[Any]:
    return [*await one.placed("t"), near("u", payload=b"few")]



@pytest.mark.parametrize("tasks", [_two_keys, _needs, _partly_sent])
def test_tasks_that_are_not_simple_are_made_first(tmp_path: Path, tasks: Callable[[Near], Any]) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one, idle(submitter) as hands:
            await one.begin(may_begin=True)
            await one.say(tasks=of(*await tasks(one)))
            assert await one.answer() == []
            assert (await submitter.statuses("t"))["t"] == "SUBMITTED"
            assert not hands.leases

    run_async(work)


def test_tasks_wait_where_nobody_said_that_they_may_begin_or_something_comes_before_them(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, idle(submitter) as hands:
            async with client(submitter) as one:
                await one.begin()
                await one.say(tasks=of(*await one.placed("old client")))
                assert await one.answer() == []
                # That one is in the queue now.
                assert not submitter.tasks.early.are_likely
            async with client(submitter) as two:
                await two.begin(may_begin=True)
                await two.say(tasks=of(*await two.placed("behind it")))
                assert await two.answer() == []
            await submitter.tasks.cancel_session("s")
            await submitter.session("again")
            async with idle(submitter), client(submitter) as three:
                hands.is_idle = False
                submitter.tasks.early.taker = hands
                await three.begin(may_begin=True)
                await three.say(tasks=of(*await three.placed("nobody is idle"), session="again"))
                assert await three.answer() == []
            assert not hands.leases

    run_async(work)


def test_the_client_sends_again_what_of_a_message_was_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_NEAR_BYTES", 1)
    monkeypatch.setattr(early, "_LATEST_S", TIMEOUT_S)

    async def work() -> None:
        async with plane(tmp_path) as submitter, idle(submitter) as hands:
            with Relay(submitter.address) as relay:
                async with runtime.AsyncTaskClient(relay.target) as one:
                    session = one.session()
                    mapping = asyncio.ensure_future(session.map([MEDIUM] * 3))
                    first = list(await hands.given(3))
                    await succeed(submitter, first[:1])
                    relay.cut()
                    again = (await hands.given(5))[3:]
                    assert [lease.task.id for lease in again] == [lease.task.id for lease in first[1:]]
                    await succeed(submitter, again)
                    handles = await mapping
                    ids = [handle.id for handle in handles]
                    assert await session.gather(handles, timeout_s=TIMEOUT_S) == [name.encode() for name in ids]
                    await succeed(submitter, first[1:])
                    assert [lease.is_lost for lease in first] == [False, True, True]
                    assert await session.counts() == {"COMPLETED": 3}

    run_async(work)


def test_what_has_begun_is_stopped_when_its_preparation_does_not_get_on_disk(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one, idle(submitter) as hands:
            await one.begin(may_begin=True)
            tasks = await one.placed("a", "b")
            failpoints.set_failpoint("store.commit.before", fail(errno.EIO))
            await one.say(tasks=of(*tasks, priority=2))  # options that the tables do not have
            async with fails(grpc.StatusCode.UNAVAILABLE):
                await one.answer()
            assert [lease.is_lost for lease in hands.leases] == [True, True]
            failpoints.clear()
            assert await submitter.statuses("a", "b") == {}
            one.go()
            await settled(submitter, 0)

    run_async(work)


def test_a_client_that_goes_while_its_tasks_are_prepared_leaves_nothing_behind(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, idle(submitter) as hands:
            async with client(submitter) as one:
                await one.begin(may_begin=True)
                tasks = await one.placed("a")
                failpoints.set_failpoint("store.commit.before", "delay:0.2")
                await one.say(tasks=of(*tasks, priority=2))
                leases = await hands.given(1)
            await asyncio.sleep(0.05)  # the stream has ended, and the write has not
            failpoints.clear()
            await succeed(submitter, leases)
            assert await submitter.statuses("a") == {"a": "COMPLETED"}
            await settled(submitter, 0)

    run_async(work)
