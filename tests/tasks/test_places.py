"""Input that workers of the same machine read from where it lies, and what happens when it is not there."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import wire
from runtime._ext.crc32c import crc32c
from runtime.errors import DataLoss
from runtime.objects.files import FileObjects
from runtime.objects.head import HEAD_BYTES, write_head
from runtime.tasks.agents import batches
from runtime.tasks.agents.batches import BatchStream
from runtime.tasks.worker import Task, worker
from runtime.tasks.worker.places import Places
from runtime.transport.place import here
from tests.conformance.armonik.submitter import (
    DONE,
    LAST,
    A,
    Submitter,
    begin,
    chunk,
    header,
    of_session,
    serve,
    task,
)
from tests.leaks import run_async
from tests.tasks import worker_functions
from tests.tasks.test_batches import registered, strange_worker

R = wire.runtime_v1
TIMEOUT_S = 30.0


@worker
def double_or_sizes(payload: bytes, task: Task) -> bytes:
    """Return the payload twice, or the sizes of the dependencies."""
    if payload == b"sizes":
        return b" ".join(b"%d" % len(data) for data in task.dependencies.values())
    return payload * 2


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Sizes of the values that were sent as places."""
    found: list[int] = []
    place = batches._place

    def noted(message: Any, value: Any) -> None:
        found.append(value.size)
        place(message, value)

    monkeypatch.setattr(batches, "_place", noted)
    yield found


async def medium(submitter: Submitter, name: str, data: bytes, needs: tuple[str, ...] = ()) -> None:
    """Create a task with such a payload."""
    pieces = [chunk(data[at : at + 80_000]) for at in range(0, len(data), 80_000)]
    assert await submitter.stream([begin(), header(name, needs=needs), *pieces, DONE, LAST]) == []


async def ready_to_read(submitter: Submitter) -> None:
    """Have a worker say that it reads places, which a first value makes it do."""
    await medium(submitter, "first", b"f" * 20_000)
    assert await submitter.available("first") is None
    streams = [found for found in gc.get_objects() if isinstance(found, BatchStream) and not found.is_over]
    async with asyncio.timeout(TIMEOUT_S):
        while not any(stream.reads_places for stream in streams):
            await asyncio.sleep(0.005)


def test_payloads_and_dependencies_are_read_where_they_lie(tmp_path: Path, places: list[int]) -> None:
    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            await submitter.session()
            async with registered(submitter, tmp_path, double_or_sizes):
                await ready_to_read(submitter)
                assert places == []
                sizes = (20_000, 300_000, 1_000_000)
                for number, size in enumerate(sizes):
                    await medium(submitter, f"t{number}", b"%d" % number * size)
                await submitter.wait(of_session("s"))
                for number, size in enumerate(sizes):
                    assert await submitter.data(f"t{number}") == b"%d" % number * (2 * size)
                # What was given back by a busy worker is sent again.
                assert list(dict.fromkeys(places)) == list(sizes)
                await submitter.create(task("sum", payload=b"sizes", needs=("t0", "t1")))
                assert await submitter.available("sum") is None
                assert await submitter.data("sum") == b"40000 600000"
                assert {40_000, 600_000} <= set(places)

    run_async(work)


def test_input_that_is_not_found_is_sent_and_costs_no_attempt(
    tmp_path: Path, places: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: Places, place: Any) -> bytes:
        raise DataLoss("not there")

    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            await submitter.session(max_retries=1)
            async with registered(submitter, tmp_path, worker_functions.double):
                await ready_to_read(submitter)
                monkeypatch.setattr(Places, "read", lost)
                for number in range(5):
                    await medium(submitter, f"t{number}", b"%d" % number * 100_000)
                await submitter.wait(of_session("s"))
                for number in range(5):
                    assert await submitter.data(f"t{number}") == b"%d" % number * 200_000
                assert await submitter.statuses(*[f"t{number}###1" for number in range(5)]) == {}
                assert 1 <= len(places) <= 5

    run_async(work)


def test_damaged_input_ends_its_task(tmp_path: Path, places: list[int]) -> None:
    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            await submitter.session()
            async with registered(submitter, tmp_path, worker_functions.double):
                await ready_to_read(submitter)
                create = submitter.tasks.create_tasks

                async def damaging(*arguments: Any) -> Any:
                    objects = submitter.tasks.objects
                    assert isinstance(objects, FileObjects)
                    objects.recent.clear()
                    path = objects.folder / "arena"
                    path.write_bytes(path.read_bytes().replace(b"x" * 1000, b"y" * 1000))
                    return await create(*arguments)

                submitter.tasks.create_tasks = damaging  # type: ignore[method-assign]
                await medium(submitter, "t", b"x" * 100_000)
                error = (await submitter.available("t")).errors[0]
                assert error.task_status == A.TASK_STATUS_ERROR and "is damaged" in error.detail
                assert places == [100_000]

    run_async(work)


@pytest.mark.parametrize("has_begun", [False, True])
def test_worker_that_loses_the_file(tmp_path: Path, places: list[int], has_begun: bool) -> None:
    seen: list[tuple[str, bool]] = []

    async def run(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        async for orders in requests:
            if orders.HasField("places"):
                assert orders.places.boot_id == here().boot_id and Path(orders.places.path).name == "arena"
                yield R.TaskNews(reads_places=True).SerializeToString()
            for given in orders.task:
                seen.append((given.task_id, given.HasField("placed_payload")))
                if given.HasField("placed_payload"):
                    begun = [given.number] if has_begun else []
                    yield R.TaskNews(begun=begun).SerializeToString()
                    # That it reads places is told once; later it is of no use.
                    yield R.TaskNews(unread=[given.number], reads_places=True).SerializeToString()
                else:
                    end = R.TaskEnd(number=given.number, value=b"%d" % len(given.payload))
                    yield R.TaskNews(end=[end]).SerializeToString()

    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            await submitter.session()
            async with strange_worker(submitter, run):
                await ready_to_read(submitter)
                await medium(submitter, "t", b"x" * 100_000)
                assert await submitter.available("t") is None
                assert await submitter.data("t") == b"100000"
                again = "t###1" if has_begun else "t"
                assert seen == [("first", False), ("t", True), (again, False)]

    run_async(work)


def test_worker_that_was_not_told_of_the_file_gets_no_places(
    tmp_path: Path, places: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.tasks.agents.agent.is_local", lambda address: False)

    async def run(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        async for orders in requests:
            assert not orders.HasField("places")
            ends = [R.TaskEnd(number=given.number, value=b"%d" % len(given.payload)) for given in orders.task]
            yield R.TaskNews(end=ends, reads_places=True).SerializeToString()

    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            await submitter.session()
            async with strange_worker(submitter, run):
                for number in range(3):
                    await medium(submitter, f"t{number}", b"x" * 100_000)
                    assert await submitter.available(f"t{number}") is None
                assert places == []

    run_async(work)


def made(file: Path, content: bytes) -> bytes:
    """Make a file of values with some content behind its head; return the proof in it."""
    with open(file, "wb") as opened:
        proof = write_head(opened.fileno())
    with open(file, "ab") as opened:
        opened.write(content)
    return proof


def told(file: Path, proof: bytes, **changes: Any) -> Any:
    """Return what an agent says of a file."""
    status = file.stat()
    known = {
        "path": str(file), "boot_id": here().boot_id, "device": status.st_dev, "number": status.st_ino, "proof": proof
    }
    return R.PlacesFile(**{**known, **changes})


def test_only_the_very_same_file_is_read(tmp_path: Path) -> None:
    file, other, link = tmp_path / "file", tmp_path / "other", tmp_path / "link"
    proof = made(file, b"content")
    other.write_bytes(file.read_bytes())
    link.symlink_to(file)
    assert Places.open(told(file, proof)) is not None
    os.mkfifo(tmp_path / "pipe")
    for strange in (tmp_path / "pipe", tmp_path):
        assert Places.open(told(strange, proof)) is None
    for path in (other, link, tmp_path / "none", tmp_path / "pipe", tmp_path, "\0"):
        assert Places.open(told(file, proof, path=str(path))) is None
    changed: list[dict[str, Any]] = [{"boot_id": ""}, {"boot_id": "another"}, {"device": 1}, {"number": 1}]
    for changes in changed:
        assert Places.open(told(file, proof, **changes)) is None


def test_no_other_file_of_the_user_is_read(tmp_path: Path) -> None:
    file, secret = tmp_path / "file", tmp_path / "secret"
    proof = made(file, b"content")
    secret.write_bytes(b"what an agent is not to know" * 500)
    for said in (proof, b"", secret.read_bytes()[24:56], bytes(len(proof))):
        assert Places.open(told(secret, said)) is None
    # Another server's values neither: who cannot read its file does not know the proof.
    for said in (b"", bytes(len(proof)), proof[:-1], proof + b"\0"):
        assert Places.open(told(file, said)) is None


def test_what_is_read_is_checked_and_the_file_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    found = Places.open(told(file, made(file, b"content")))
    assert found is not None
    place = R.PlacedBytes(offset=HEAD_BYTES, size=7, crc32c=crc32c(b"content"))
    assert found.read(place) == b"content"
    for changes in ({"offset": 9}, {"size": 8}, {"size": 1 << 40}, {"crc32c": 1}, {"offset": 1 << 63}):
        wrong = R.PlacedBytes(offset=HEAD_BYTES, size=7, crc32c=crc32c(b"content"))
        for name, value in changes.items():
            setattr(wrong, name, value)
        with pytest.raises(DataLoss):
            found.read(wrong)
    descriptor = found._file
    del found
    with contextlib.suppress(OSError):
        os.fstat(descriptor)
        raise AssertionError("the file is open still")
