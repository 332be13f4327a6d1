"""TaskUploads.CreateNear by raw messages: who is lent places, what is refused, and what is left of streams that end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime import wire
from runtime.objects.files import FileObjects
from runtime.objects.head import answer_to, open_values
from runtime.objects.locks import lock
from runtime.store import failpoints
from runtime.tasks import near_uploads
from runtime.transport.place import here
from tests.conformance.armonik.submitter import Submitter, fails, of_session, plane, refused, serve
from tests.leaks import run_async
from tests.tasks.near_client import MEDIUM, arena_of, client, near, of, settled

R = wire.runtime_v1


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    failpoints.clear()


async def run(submitter: Submitter) -> dict[str, bytes]:
    """Run all tasks of the session; return their payloads."""
    found: dict[str, bytes] = {}

    async def keep(lease: Any) -> None:
        found[lease.task.id] = b"".join([piece async for piece in lease.read_payload(1 << 20)])
        await lease.succeed({lease.task.id: lease.task.payload._replace(data=b"", ref=None)})

    async with submitter.agents(keep, 2):
        await submitter.wait(of_session("s"))
    return found


def test_tasks_have_the_payloads_that_were_written(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one:
            await one.begin()
            contents = {f"t{index}": os.urandom(20_000 + 700_000 * index) for index in range(5)}
            places = await one.places(*map(len, contents.values()))
            tasks = [near(name, one.write(at, data)) for (name, data), at in zip(contents.items(), places, strict=True)]
            contents |= {"small": b"few", "empty": b"", "sent": os.urandom(200_000), "huge": os.urandom(5_000_000)}
            others = [near(name, payload=contents[name]) for name in ("small", "empty", "sent", "huge")]
            await one.say(tasks=of(*tasks[:3], *others[:2]))
            await one.say(tasks=of(others[2], tasks[3]))
            await one.say(tasks=of(others[3], tasks[4]))
            assert [await one.answer() for _ in range(3)] == [[]] * 3
            one.go()
            await one.call.done_writing()
            assert await one.hear() is None
            assert await run(submitter) == contents
            await settled(submitter, 0)

    run_async(work)


def test_answers_come_in_order_and_nothing_behind_a_refused_group_is_stored(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one:
            await one.begin()
            failpoints.set_failpoint("store.commit.before", "delay:0.05")
            tasks = await one.placed(*[f"t{index}" for index in range(6)])
            await one.say(tasks=of(tasks[0]))
            await one.say(tasks=of(tasks[1]))
            await one.say(tasks=of(tasks[2], near("t0", payload=b"again")))
            await one.say(tasks=of(tasks[3]))
            answers = []
            while (reply := await one.hear()) is not None:
                answers.append(refused(reply.created))
            assert answers == [[], [], ["t0"]]
            assert await submitter.statuses(*[f"t{index}" for index in range(6)]) == {
                "t0": "SUBMITTED", "t1": "SUBMITTED"
            }
            one.go()
            await settled(submitter, 2)
            assert await run(submitter) == {"t0": MEDIUM, "t1": MEDIUM}

    run_async(work)


def test_many_groups_are_answered_each(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one:
            await one.begin()
            for number in range(20):
                tasks = await one.placed(f"t{number}-0", f"t{number}-1", data=b"%d" % number * 20_000)
                await one.say(tasks=of(*tasks, priority=1 + number % 7 // 6))
                if number % 4 == 3:
                    assert [await one.answer() for _ in range(4)] == [[]] * 4
            found = await run(submitter)
            assert found == {f"t{number}-{k}": b"%d" % number * 20_000 for number in range(20) for k in range(2)}

    run_async(work)


@pytest.mark.parametrize(
    ("tasks", "code", "text"),
    [
        (of(near("t", payload=b"x"), session=""), grpc.StatusCode.INVALID_ARGUMENT, "session_id"),
        (of(near("t", payload=b"x"), session="nobody"), grpc.StatusCode.NOT_FOUND, "nobody"),
        (of(), grpc.StatusCode.INVALID_ARGUMENT, "at least one"),
        (of(near("")), grpc.StatusCode.INVALID_ARGUMENT, "task_requests[0].id"),
        (of(near("t"), priority=0), grpc.StatusCode.INVALID_ARGUMENT, "priority"),
        (of(near("t"), duration_s=None), grpc.StatusCode.INVALID_ARGUMENT, "max_duration"),
        (of(near("t", R.PlacedBytes(offset=4096, size=100_000))), grpc.StatusCode.INVALID_ARGUMENT, "at 4096 are not"),
        (of(near("t", R.PlacedBytes(offset=0, size=0))), grpc.StatusCode.INVALID_ARGUMENT, "not lent"),
        (of(near("t", R.PlacedBytes(offset=1 << 63, size=1 << 63))), grpc.StatusCode.INVALID_ARGUMENT, "not lent"),
        (of(near("t", R.PlacedBytes(offset=4096, size=8), b"x")), grpc.StatusCode.INVALID_ARGUMENT, "and has a place"),
    ],
)
def test_what_is_wrong_with_tasks_is_told_and_those_before_are_stored(
    tmp_path: Path, tasks: Any, code: grpc.StatusCode, text: str
) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one:
            await one.begin()
            before = await one.placed("before", "unused")
            await one.say(tasks=of(before[0]))
            await one.say(tasks=tasks)
            async with fails(code, text):
                while await one.hear() is not None:
                    pass
            assert await submitter.statuses("before", "t") == {"before": "SUBMITTED"}
            await settled(submitter, 1, 102_400)
            one.go()
            await settled(submitter, 1)

    run_async(work)


def test_places_of_others_and_places_that_were_told_of_are_refused(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one, client(submitter) as another:
            await one.begin()
            await another.begin()
            (foreign,) = await one.placed("foreign")
            await another.say(tasks=of(foreign))
            async with fails(grpc.StatusCode.INVALID_ARGUMENT, "not lent to this stream"):
                await another.hear()
            await one.say(tasks=of(foreign))
            assert await one.answer() == []
            again = R.NearTask()
            again.CopyFrom(foreign)
            again.request.id = again.request.expected_output_keys[0] = "again"
            await one.say(tasks=of(again))
            async with fails(grpc.StatusCode.INVALID_ARGUMENT, "told of before"):
                await one.hear()
            assert await submitter.statuses("foreign", "again") == {"foreign": "SUBMITTED"}

    run_async(work)


@pytest.mark.parametrize("boot_id", ["", "another"])
def test_clients_of_other_machines_are_told_of_no_file(tmp_path: Path, boot_id: str) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one:
            await one.say(boot_id=boot_id, challenge=bytes(32))
            assert await one.hear() == R.NearReply() and await one.hear() is None

    run_async(work)


def test_a_server_without_an_arena_tells_of_no_file(tmp_path: Path) -> None:
    async def work() -> None:
        (tmp_path / "objects" / "arena").mkdir(parents=True)
        async with plane(tmp_path) as submitter, client(submitter) as one:
            await one.say(boot_id=here().boot_id, challenge=bytes(32))
            assert await one.hear() == R.NearReply() and await one.hear() is None

    run_async(work)


@pytest.mark.parametrize("size", [0, 15, 65])
def test_a_challenge_has_a_size(tmp_path: Path, size: int) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one:
            await one.say(boot_id=here().boot_id, challenge=bytes(size))
            async with fails(grpc.StatusCode.INVALID_ARGUMENT, f"challenge: {size} bytes"):
                await one.hear()

    run_async(work)


def test_who_cannot_read_the_file_or_has_not_locked_it_is_lent_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter:
            async with client(submitter) as one:
                await one.greet()
                lock(one.file, one.lock_at)
                await one.say(proof=bytes(32), wanted=[100_000])
                async with fails(grpc.StatusCode.PERMISSION_DENIED, "proof"):
                    await one.hear()
            async with client(submitter) as one:
                await one.greet()
                lock(one.file, one.lock_at + 1)
                await one.say(proof=one.proof, wanted=[100_000])
                assert await one.hear() == R.NearReply() and await one.hear() is None
            async with client(submitter) as one, client(submitter) as another:
                # A proof is good for one stream.
                first, second = await one.greet(), await another.greet()
                assert first.lock_at != second.lock_at and first.challenge != second.challenge
                lock(another.file, another.lock_at)
                await another.say(proof=one.proof)
                async with fails(grpc.StatusCode.PERMISSION_DENIED, "proof"):
                    await another.hear()
            await settled(submitter, 0)

    run_async(work)


def test_too_many_places_at_once_are_refused(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one:
            await one.begin()
            assert len(await one.places(*[20_000] * 1000)) == 1000
            await one.say(wanted=[20_000] * 1001)
            async with fails(grpc.StatusCode.INVALID_ARGUMENT, "1001 places"):
                await one.hear()

    run_async(work)


def test_lent_bytes_are_bounded_whatever_is_asked(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one, client(submitter) as another:
            objects = submitter.tasks.objects
            assert isinstance(objects, FileObjects)
            for near_one in (one, another):
                await near_one.begin()
                found = [place for _ in range(10) for place in await near_one.places(*[1 << 20] * 20)]
                assert sum(map(bool, found)) == 128 and found[-1] == 0
            assert objects.lender.nbytes == 256 << 20

    run_async(work)


def test_who_takes_no_answers_is_not_read_any_further(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter:
            asked = 0
            said: asyncio.Queue[Any] = asyncio.Queue()

            async def requests() -> AsyncIterator[bytes]:
                nonlocal asked
                yield (await said.get()).SerializeToString()
                yield (await said.get()).SerializeToString()
                while True:
                    asked += 1
                    yield R.NearRequest(wanted=[1]).SerializeToString()
                    await asyncio.sleep(0)

            challenge = bytes(32)
            said.put_nowait(R.NearRequest(boot_id=here().boot_id, challenge=challenge))
            replies = near_uploads.near_replies(submitter.tasks, requests())
            first = await anext(replies)
            found = open_values(first.file.path, first.file.device, first.file.number, os.O_RDWR)
            assert found is not None
            lock(found[0], first.lock_at)
            said.put_nowait(R.NearRequest(proof=answer_to(b"client", challenge + first.challenge, found[1])))
            assert list((await anext(replies)).lent) == [0]
            await asyncio.sleep(0.2)
            was = asked
            assert 1 < was < 50
            await asyncio.sleep(0.2)
            assert asked == was
            for _ in range(was + 10):
                await anext(replies)
            assert asked > was
            await replies.aclose()
            os.close(found[0])

    run_async(work)


def test_who_is_silent_with_places_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_uploads, "_SILENT_S", 0.3)

    async def work() -> None:
        async with plane(tmp_path) as submitter:
            async with client(submitter) as one:
                await one.greet()
                async with fails(grpc.StatusCode.UNAVAILABLE, "nothing was heard"):
                    await one.hear()
            async with client(submitter) as one:
                await one.begin()
                await asyncio.sleep(0.6)  # without places it may be
                (tasks,) = await one.placed("t")
                await one.say(tasks=of(tasks))
                assert await one.answer() == []
                await asyncio.sleep(0.6)
                await one.places(100_000)
                async with fails(grpc.StatusCode.UNAVAILABLE, "nothing was heard"):
                    await one.hear()
                await settled(submitter, 1, 102_400)
                one.go()
                await settled(submitter, 1)

    run_async(work)


@pytest.mark.parametrize("step", ["asked", "greeted", "locked", "lent", "written", "told", "answered"])
def test_a_stream_that_is_cut_leaves_nothing_when_its_lock_is_gone(tmp_path: Path, step: str) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one:
            if step == "asked":
                await one.say(boot_id=here().boot_id, challenge=bytes(32))
            elif step == "greeted":
                await one.greet()
            else:
                await one.begin()
                if step != "locked":
                    places = await one.places(100_000, 100_000)
                    told = one.write(places[0], MEDIUM)
                    if step in ("told", "answered"):
                        failpoints.set_failpoint("objects.arena.sync", "delay:0.1")
                        await one.say(tasks=of(near("t", told)))
                    if step == "answered":
                        assert await one.answer() == []
            await asyncio.sleep(0.05)
            one.call.cancel()
            await asyncio.sleep(0.4)
            objects = submitter.tasks.objects
            assert isinstance(objects, FileObjects)
            is_lent = step not in ("asked", "greeted", "locked")
            assert (objects.arena.withheld_bytes > 0) is is_lent
            one.go()
            stored = len(await submitter.statuses("t"))
            assert stored == (step == "answered")
            await settled(submitter, stored)
            if stored:
                assert await run(submitter) == {"t": MEDIUM}

    run_async(work)


@pytest.mark.parametrize(
    ("number", "code"), [("ENOSPC", grpc.StatusCode.RESOURCE_EXHAUSTED), ("EIO", grpc.StatusCode.UNAVAILABLE)]
)
@pytest.mark.parametrize("point", ["objects.arena.sync", "store.commit.before"])
def test_a_disk_that_is_full_or_fails_ends_the_stream(
    tmp_path: Path, point: str, number: str, code: grpc.StatusCode
) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter:
            async with client(submitter) as one:
                await one.begin()
                names = [f"t{index}" for index in range(6)]
                tasks = await one.placed(*names)
                failpoints.set_failpoint(point, f"raise:{number}@2")
                num_answers = 0
                async with fails(code):
                    for given in tasks:
                        await one.say(tasks=of(given))
                        assert await one.answer() == []
                        num_answers += 1
                failpoints.clear()
                stored = await submitter.statuses(*names)
                assert set(stored) == set(names[: len(stored)]) and num_answers <= len(stored) < 6
                one.go()
                await settled(submitter, len(stored))
            async with client(submitter) as one:
                await one.begin()
                await one.say(tasks=of(*await one.placed("again")))
                assert await one.answer() == []

    run_async(work)


def test_a_full_arena_has_payloads_sent(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path, task_arena_size="1MiB") as submitter, client(submitter) as one:
            await one.begin()
            places = await one.places(*[100_000] * 5)
            assert [bool(place) for place in places] == [True, True, False, False, False]
            tasks = [near(f"t{index}", one.write(place, MEDIUM)) for index, place in enumerate(places[:2])]
            await one.say(tasks=of(*tasks, *[near(f"u{index}", payload=b"%d" % index * 200_000) for index in range(9)]))
            assert await one.answer() == []
            found = await run(submitter)
            assert found == {f"t{i}": MEDIUM for i in range(2)} | {f"u{i}": b"%d" % i * 200_000 for i in range(9)}

    run_async(work)


def test_what_was_stored_outlives_the_server(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter, client(submitter) as one:
            await one.begin()
            tasks = await one.placed("t0", "t1", "lost")
            await one.say(tasks=of(*tasks[:2]))
            assert await one.answer() == []
            # The lock stays: as of a client that is frozen while the server goes and comes again.
            file, one.file = one.file, -1
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            assert arena_of(submitter).withheld_bytes > 0
            os.pwrite(file, b"\xff" * 100_000, tasks[2].payload.offset)
            async with client(submitter) as one:
                await one.begin()
                await one.say(tasks=of(*await one.placed("t2", data=b"new" * 30_000)))
                assert await one.answer() == []
            os.pwrite(file, b"\xff" * 100_000, tasks[2].payload.offset)
            os.close(file)
            assert await run(submitter) == {"t0": MEDIUM, "t1": MEDIUM, "t2": b"new" * 30_000}
            await settled(submitter, 0)

    run_async(work)
