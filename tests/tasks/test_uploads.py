"""runtime.v1.TaskUploads: requests that follow each other, in order, durable, up to the first that is refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime import wire
from runtime.objects.files import FileObjects
from runtime.store import failpoints
from tests.conformance.armonik.submitter import A, Submitter, fails, of_session, options, plane, refused, task
from tests.leaks import run_async

MEDIUM = b"x" * 100_000
TIMEOUT_S = 20.0


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    failpoints.clear()


def of(*tasks: Any, session: str = "s", **changes: Any) -> Any:
    """Return a request for tasks."""
    return A.CreateSmallTaskRequest(session_id=session, task_options=options(**changes), task_requests=tasks)


def create(submitter: Submitter, requests: Iterable[Any]) -> Any:
    """Begin the call."""
    method = wire.SERVICES["runtime.v1.TaskUploads"]["Create"]
    call = submitter.channel.stream_stream(
        method.path, request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=method.response.FromString,
    )

    async def each() -> AsyncIterator[Any]:
        for request in requests:
            yield request

    return call(each(), timeout=TIMEOUT_S)


def places(submitter: Submitter) -> int:
    """Return how many medium values there are."""
    objects = submitter.tasks.objects
    assert isinstance(objects, FileObjects)
    return len(objects.arena.names)


def test_each_request_is_answered_in_its_turn(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter:
            payloads = [b"", b"few", MEDIUM, b"y" * 5_000_000, b"z" * 17_000]
            requests = [
                of(*[task(f"t{number}-{index}", payload=payload) for index, payload in enumerate(payloads)])
                for number in range(12)
            ]
            answers = [refused(reply) async for reply in create(submitter, requests)]
            assert answers == [[]] * 12
            assert await submitter.counts(of_session("s")) == {"SUBMITTED": 60}
            found: dict[str, bytes] = {}

            async def keep(lease: Any) -> None:
                found[lease.task.id] = b"".join([piece async for piece in lease.read_payload(1 << 20)])
                await lease.succeed({lease.task.id: lease.task.payload._replace(data=b"", ref=None)})

            async with submitter.agents(keep, 2):
                await submitter.wait(of_session("s"))
            for number in range(12):
                assert [found[f"t{number}-{index}"] for index in range(5)] == payloads
            async with asyncio.timeout(TIMEOUT_S):
                while places(submitter):
                    await asyncio.sleep(0.01)

    run_async(work)


def test_nothing_behind_a_refused_request_is_stored(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter:
            requests = [of(task(f"t{number}", payload=MEDIUM)) for number in range(3)]
            requests += [of(task("new", payload=MEDIUM), task("t1", payload=MEDIUM))]
            requests += [of(task(f"behind{number}", payload=MEDIUM)) for number in range(3)]
            answers = [refused(reply) async for reply in create(submitter, requests)]
            assert answers == [[], [], [], ["t1"]]
            assert await submitter.statuses("t0", "t2", "new", "behind0", "behind2") == {
                "t0": "SUBMITTED", "t2": "SUBMITTED"
            }
            async with asyncio.timeout(TIMEOUT_S):
                while places(submitter) != 3:
                    await asyncio.sleep(0.01)

    run_async(work)


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (of(task("t")), grpc.StatusCode.OK, ""),
        (of(task("t"), session=""), grpc.StatusCode.INVALID_ARGUMENT, "session_id"),
        (of(task("t"), session="nobody"), grpc.StatusCode.NOT_FOUND, "nobody"),
        (of(), grpc.StatusCode.INVALID_ARGUMENT, "at least one"),
        (of(task("")), grpc.StatusCode.INVALID_ARGUMENT, "task_requests[0].id"),
        (of(A.TaskRequest(id="t", payload=MEDIUM)), grpc.StatusCode.INVALID_ARGUMENT, "expected_output_keys"),
        (of(task("t"), priority=0), grpc.StatusCode.INVALID_ARGUMENT, "priority"),
        (of(task("t"), duration_s=None), grpc.StatusCode.INVALID_ARGUMENT, "max_duration"),
        (A.CreateSmallTaskRequest(session_id="s", task_requests=[task("t")]), grpc.StatusCode.OK, ""),
    ],
)
def test_what_is_wrong_with_a_request_is_told(
    tmp_path: Path, request_: Any, code: grpc.StatusCode, text: str
) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter:
            before = of(task("before", payload=MEDIUM))
            answers = []
            async with fails(code, text) if code is not grpc.StatusCode.OK else contextlib.nullcontext():
                async for reply in create(submitter, [before, request_, of(task("behind"))]):
                    answers.append(refused(reply))
            is_well = code is grpc.StatusCode.OK
            assert answers == [[]] * (3 if is_well else 1)
            assert set(await submitter.statuses("before", "t", "behind")) == (
                {"before", "t", "behind"} if is_well else {"before"}
            )

    run_async(work)


@pytest.mark.parametrize(
    ("number", "code"), [("ENOSPC", grpc.StatusCode.RESOURCE_EXHAUSTED), ("EIO", grpc.StatusCode.UNAVAILABLE)]
)
@pytest.mark.parametrize("point", ["objects.arena.write", "objects.arena.sync", "store.commit.before"])
def test_disk_that_is_full_or_fails_ends_the_stream(
    tmp_path: Path, point: str, number: str, code: grpc.StatusCode
) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter:
            failpoints.set_failpoint(point, f"raise:{number}@2")
            answers = []
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                async for reply in create(submitter, [of(task(f"t{i}", payload=MEDIUM)) for i in range(8)]):
                    answers.append(refused(reply))
            # gRPC's client may tell of a message that it could not send any more in place of the status.
            assert failure.value.code() in (code, grpc.StatusCode.INTERNAL)
            failpoints.clear()
            # A beginning of them is stored, and nothing is answered that is not.
            stored = set(await submitter.statuses(*[f"t{i}" for i in range(8)]))
            assert stored == {f"t{i}" for i in range(len(stored))} and len(answers) <= len(stored) < 8
            async with asyncio.timeout(TIMEOUT_S):
                while places(submitter) != len(stored):
                    await asyncio.sleep(0.01)
            left = [refused(reply) async for reply in create(submitter, [of(task("again", payload=MEDIUM))])]
            assert left == [[]]

    run_async(work)


def test_client_that_goes_leaves_whole_requests(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter:
            failpoints.set_failpoint("objects.arena.sync", "delay:0.02")
            call = create(submitter, [of(*[task(f"t{i}-{k}", payload=MEDIUM) for k in range(3)]) for i in range(30)])
            async for _ in call:
                break
            call.cancel()
            await asyncio.sleep(0.2)
            failpoints.clear()
            ids = [f"t{i}-{k}" for i in range(30) for k in range(3)]
            async with asyncio.timeout(TIMEOUT_S):
                while places(submitter) != len(await submitter.statuses(*ids)):
                    await asyncio.sleep(0.01)
            stored = await submitter.statuses(*ids)
            assert list(stored) == ids[: len(stored)] and len(stored) % 3 == 0 and 3 <= len(stored) < 90

    run_async(work)


def test_server_reads_no_further_than_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.tasks import intake

    monkeypatch.setattr(intake, "AHEAD_BYTES", 3 * len(MEDIUM))
    most = 0
    taken = deque.append

    class Counted(deque[Any]):
        def append(self, item: Any) -> None:
            nonlocal most
            taken(self, item)
            most = max(most, sum(nbytes for _, nbytes in self))

    monkeypatch.setattr(intake, "deque", Counted)

    async def work() -> None:
        async with plane(tmp_path) as submitter:
            requests = [of(task(f"t{i}", payload=MEDIUM)) for i in range(30)]
            assert [refused(reply) async for reply in create(submitter, requests)] == [[]] * 30
        assert len(MEDIUM) < most <= 3 * len(MEDIUM)

    run_async(work)


def test_size_of_the_file_is_a_setting(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path, task_arena_size="256KiB") as submitter:
            requests = [of(task(f"t{i}", payload=MEDIUM)) for i in range(5)]
            assert [refused(reply) async for reply in create(submitter, requests)] == [[]] * 5
            assert places(submitter) == 2, "those for which there is room"
            # The others have one file, since they are equal.
            assert len([path for path in (tmp_path / "objects").rglob("*") if path.is_file()]) == 2

    run_async(work)
