"""Medium values beside each other in one file: durable, found again, never written over, and bounded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path

import pytest

from runtime._ext.crc32c import crc32c
from runtime.errors import DataLoss, ResourceExhausted, Unavailable
from runtime.objects import arena, files
from runtime.objects.arena import KEY_BYTES, place_of
from runtime.objects.extents import PAGE_BYTES, paged
from runtime.objects.files import ARENA_NAME, INLINE_BYTES, MEDIUM_BYTES, FileObjects
from runtime.objects.head import HEAD_BYTES
from runtime.objects.value import Value
from runtime.store import failpoints
from runtime.tasks.model import TaskStatus
from tests.leaks import run_async
from tests.objects.test_files import content, files_of, written
from tests.tasks.plane import OPTIONS, acquire, open_plane, request

MEDIUM = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    failpoints.clear()


@contextlib.asynccontextmanager
async def objects_in(
    folder: Path, known: Iterable[Value] = (), arena_bytes: int = 1 << 28
) -> AsyncIterator[FileObjects]:
    objects = FileObjects(folder, arena_bytes=arena_bytes)
    objects.take_up((value.ref.digest, value.ref.size) for value in known if value.ref is not None)
    try:
        yield objects
    finally:
        await objects.close()


def name_of(value: Value) -> bytes:
    assert value.ref is not None and len(value.ref.digest) == KEY_BYTES
    return value.ref.digest


def remove(objects: FileObjects, value: Value) -> None:
    objects.let_go([value])
    objects.remove(name_of(value))


@pytest.mark.parametrize("size", [INLINE_BYTES, INLINE_BYTES + 1, 100_000, 1 << 20, MEDIUM_BYTES, MEDIUM_BYTES + 1])
@pytest.mark.parametrize("in_memory", [True, False])
def test_bytes_come_back(tmp_path: Path, size: int, in_memory: bool) -> None:
    data = random.Random(size).randbytes(size)

    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            writer = await written(objects, *[data[start : start + 84_000] for start in range(0, size, 84_000)])
            (put,) = await objects.put([[memoryview(data)[: size // 3], data[size // 3 :]]])
            for value in (writer, put):
                assert value.size == size
                if INLINE_BYTES < size <= MEDIUM_BYTES:
                    assert name_of(value) and value.ref is not None and value.ref.crc == crc32c(data, 0)
                else:
                    assert value.ref is None or value.ref.is_shared
                if not in_memory:
                    objects.recent.clear()
                for chunk_bytes in (50_000, 1 << 24):
                    pieces = [piece async for piece in objects.read(value, chunk_bytes)]
                    assert b"".join(pieces) == data and all(0 < len(piece) <= chunk_bytes for piece in pieces)

    run_async(work)


def test_a_start_finds_what_rows_refer_to_and_has_the_rest_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            values = [await written(objects, b"%d" % number + MEDIUM) for number in range(8)]
        kept = values[::2]
        async with objects_in(tmp_path, kept) as objects:
            assert objects.arena.names == {name_of(value) for value in kept}
            new = [await written(objects, b"new%d" % number + MEDIUM) for number in range(4)]
            # The places of those that nobody refers to.
            assert max(place_of(name_of(value)) for value in new) < 8 * paged(len(MEDIUM) + 4)
            objects.recent.clear()
            for number, value in enumerate(kept):
                assert await content(objects, value) == b"%d" % (2 * number) + MEDIUM
            for number, value in enumerate(new):
                assert await content(objects, value) == b"new%d" % number + MEDIUM
            for value in values[1::2]:
                with pytest.raises(DataLoss, match="is not there"):
                    await content(objects, value)

    run_async(work)


def test_until_rows_are_known_values_become_files(tmp_path: Path) -> None:
    async def work() -> None:
        objects = FileObjects(tmp_path)
        value = await written(objects, MEDIUM)
        assert value.ref is not None and value.ref.is_shared and ARENA_NAME not in files_of(tmp_path)
        await objects.close()

    run_async(work)


def test_places_that_overlap_are_read_but_nothing_is_written_there(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            value = await written(objects, MEDIUM)
        twin = Value(b"", value.ref._replace(digest=name_of(value)[:8] + bytes(8)))  # type: ignore[union-attr]
        async with objects_in(tmp_path, [value, twin]) as objects:
            assert await content(objects, value) == await content(objects, twin) == MEDIUM
            other = await written(objects, b"other" + MEDIUM)
            assert other.ref is not None and other.ref.is_shared

    run_async(work)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_noticed(tmp_path: Path, damage: str) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            values = [await written(objects, b"%d" % number + MEDIUM) for number in range(2)]
        path = tmp_path / ARENA_NAME
        place = place_of(name_of(values[1]))
        if damage == "flip":
            with path.open("r+b") as file:
                file.seek(place + len(MEDIUM) // 2)
                file.write(b"!")
        elif damage == "cut":
            os.truncate(path, place + len(MEDIUM) // 2)
        else:
            path.unlink()
        async with objects_in(tmp_path, values) as objects:
            with pytest.raises(DataLoss, match="is damaged"):
                await content(objects, values[1])
            if damage != "gone":
                assert await content(objects, values[0]) == b"0" + MEDIUM
            third = await written(objects, b"third" + MEDIUM)
            assert place_of(name_of(third)) not in {place_of(name_of(value)) for value in values}

    run_async(work)


def test_place_is_not_taken_while_it_is_read(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            value = await written(objects, MEDIUM)
            objects.recent.clear()
            pieces = objects.read(value, 10_000)
            found = [await anext(pieces)]
            remove(objects, value)
            other = await written(objects, b"other" + MEDIUM)
            assert place_of(name_of(other)) != place_of(name_of(value))
            found += [piece async for piece in pieces]
            assert b"".join(found) == MEDIUM
            with pytest.raises(DataLoss):
                await content(objects, value)
            third = await written(objects, MEDIUM)
            assert place_of(name_of(third)) == place_of(name_of(value)), "it is free now"

    run_async(work)


def test_held_value_keeps_its_place_until_it_is_let_go(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            value = await written(objects, MEDIUM)
            objects.remove(name_of(value))
            assert await content(objects, value) == MEDIUM
            objects.let_go([value])
            assert objects.arena.names == set() and objects.recent.nbytes == 0

    run_async(work)


def test_name_of_a_place_is_never_used_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            names = set()
            for number in range(20):
                value = await written(objects, b"%d" % number + MEDIUM)
                names.add(name_of(value))
                remove(objects, value)
                objects.remove(name_of(value))
            assert len(names) == 20 and len({place_of(name) for name in names}) == 1

    run_async(work)


@pytest.mark.parametrize("number", ["ENOSPC", "EIO"])
def test_full_arena_or_disk_falls_back_to_files(tmp_path: Path, number: str) -> None:
    async def work() -> None:
        async with objects_in(tmp_path / "full", arena_bytes=PAGE_BYTES * 64 + 1000) as objects:
            values = [await written(objects, b"%d" % number + MEDIUM) for number in range(4)]
            assert [value.ref is not None and value.ref.is_shared for value in values] == [False, False, True, True]
            assert (tmp_path / "full" / ARENA_NAME).stat().st_size == PAGE_BYTES * 64
            remove(objects, values[0])
            values[0] = await written(objects, b"0" + MEDIUM)
            assert name_of(values[0])
            for index, value in enumerate(values):
                assert await content(objects, value) == b"%d" % index + MEDIUM
        failpoints.set_failpoint("objects.arena.grow", f"fail:{number}")
        async with objects_in(tmp_path / "disk") as objects:
            value = await written(objects, MEDIUM)
            assert value.ref is not None and value.ref.is_shared
            failpoints.clear()
            assert name_of(await written(objects, b"again" + MEDIUM))

    run_async(work)


@pytest.mark.parametrize("point", ["objects.arena.write", "objects.arena.sync"])
@pytest.mark.parametrize(("number", "error"), [("ENOSPC", ResourceExhausted), ("EIO", Unavailable)])
def test_disk_that_is_full_or_fails(tmp_path: Path, point: str, number: str, error: type[Exception]) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            kept = await written(objects, MEDIUM)
            free = objects.arena.free_bytes
            failpoints.set_failpoint(point, f"fail:{number}")
            for _ in range(2):
                with pytest.raises(error, match=str(tmp_path)):
                    await written(objects, b"other", MEDIUM)
                with pytest.raises(error, match=str(tmp_path)):
                    await objects.put([[MEDIUM], [b"few"], [b"more", MEDIUM]])
            assert objects.arena.free_bytes == free and objects.arena.names == {name_of(kept)}
            objects.recent.clear()
            assert await content(objects, kept) == MEDIUM, "reads go on"
            failpoints.clear()
            value = await written(objects, b"other", MEDIUM)
            assert await content(objects, value) == b"other" + MEDIUM

    run_async(work)


def test_failed_sync_fails_everything_whose_writing_had_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages may be lost although the next sync says nothing of it."""
    begun, go = threading.Event(), threading.Event()
    fdatasync = os.fdatasync

    def fails_once(file: int) -> None:
        monkeypatch.setattr(os, "fdatasync", fdatasync)
        begun.set()
        assert go.wait(20)
        raise OSError(5, "Input/output error")

    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            await written(objects, b"before" + MEDIUM)
            monkeypatch.setattr(os, "fdatasync", fails_once)
            first = asyncio.ensure_future(written(objects, b"first" + MEDIUM))
            await asyncio.to_thread(begun.wait, 20)
            second = asyncio.ensure_future(written(objects, b"second" + MEDIUM))
            await asyncio.sleep(0.05)
            go.set()
            for write in (first, second):
                with pytest.raises(Unavailable):
                    await write
            third = await written(objects, b"third" + MEDIUM)
            objects.recent.clear()
            assert await content(objects, third) == b"third" + MEDIUM
            assert len(objects.arena.names) == 2

    run_async(work)


def test_nothing_is_returned_before_a_sync_that_began_after_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    lock = threading.Lock()

    def noted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            with lock:
                steps.append(f"{name} begins")
            found = function(*arguments)
            with lock:
                steps.append(f"{name} ends")
            return found

        return run

    monkeypatch.setattr("runtime.objects.arena._write", noted("write", arena._write))
    monkeypatch.setattr(os, "fdatasync", noted("sync", os.fdatasync))

    async def one(objects: FileObjects, number: int) -> None:
        await written(objects, b"%d" % number + MEDIUM)
        with lock:
            steps.append("returned")

    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            await asyncio.gather(*[one(objects, number) for number in range(20)])
        assert steps.count("returned") == 20 and steps.count("sync begins") < 20, "many have one sync together"
        num_durable, seen_at_begin = 0, 0
        num_written = num_returned = 0
        for step in steps:
            if step == "write ends":
                num_written += 1
            elif step == "sync begins":
                seen_at_begin = num_written
            elif step == "sync ends":
                num_durable = seen_at_begin
            elif step == "returned":
                num_returned += 1
                assert num_returned <= num_durable

    run_async(work)


def test_abandoned_writes_leave_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            await written(objects, MEDIUM)
            free = objects.arena.free_bytes
            for point in ("objects.arena.write", "objects.arena.sync"):
                failpoints.set_failpoint(point, "delay:0.1")
                write = asyncio.ensure_future(written(objects, b"other" + MEDIUM))
                await asyncio.sleep(0.03)
                write.cancel()
                await asyncio.wait([write])
                assert write.cancelled() and objects.arena.free_bytes < free, "a thread may still write there"
                async with asyncio.timeout(20):
                    while objects.arena.free_bytes < free:
                        await asyncio.sleep(0.01)
            assert len(objects.arena.names) == 1

    run_async(work)


def test_memory_is_bounded_with_many_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PUT_BYTES", 4 * len(MEDIUM))
    monkeypatch.setattr(files, "_GATHERED_BYTES", 3 << 20)
    most = 0

    async def work() -> None:
        nonlocal most
        async with objects_in(tmp_path) as objects:
            objects.recent._limit_bytes = 10 * len(MEDIUM)

            async def one(number: int) -> Value:
                nonlocal most
                (value,) = await objects.put([[b"%03d" % number, MEDIUM[3:]]])
                most = max(most, objects.put_bytes)
                assert objects.recent.nbytes <= 10 * len(MEDIUM)
                return value

            values = await asyncio.gather(*[one(number) for number in range(50)])
            assert most <= 4 * len(MEDIUM) and objects.put_bytes == 0
            for number, value in enumerate(values):
                assert await content(objects, value) == b"%03d" % number + MEDIUM[3:]
            # Of writers that may turn out to have medium values, those beyond the bound write files.
            writers = [objects.writer() for _ in range(5)]
            for _ in range(2):
                for number, writer in enumerate(writers):
                    await writer.write(b"%d" % number * (1 << 20))
            places = [await writer.finish() for writer in writers]
            assert 0 < sum(value.ref is not None and value.ref.is_shared for value in places) < 5
            for number, value in enumerate(places):
                assert await content(objects, value) == b"%d" % number * (2 << 20)
            discarded = objects.writer()
            await discarded.write(b"x" * (1 << 20))
            discarded.discard()
            assert objects.gather(3 << 20), "nobody keeps anything any more"

    run_async(work)


def test_space_behind_the_last_value_goes_back_at_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.objects.arena._STEP_BYTES", 16 << 20)

    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            values = [await written(objects, b"%02d" % number * (1 << 20)) for number in range(20)]
        assert (tmp_path / ARENA_NAME).stat().st_size == (48 << 20) + HEAD_BYTES
        lowest = min(values, key=lambda value: place_of(name_of(value)))
        async with objects_in(tmp_path, [lowest]) as objects:
            assert (tmp_path / ARENA_NAME).stat().st_size == 16 << 20
            assert await content(objects, lowest) == b"%02d" % values.index(lowest) * (1 << 20)

    run_async(work)


def test_value_goes_with_its_last_row(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            objects = tasks.objects
            assert isinstance(objects, FileObjects)
            await tasks.create_session("s", OPTIONS)
            writer = tasks.writer()
            await writer.write(MEDIUM)
            payload = await writer.finish()
            await tasks.create_tasks("s", [request("a")._replace(payload=payload)])
            assert objects.arena.names == {name_of(payload)}
            lease = await acquire(tasks)
            objects.recent.clear()
            assert b"".join([piece async for piece in lease.read_payload(1 << 20)]) == MEDIUM
            writer = lease.result_writer()
            await writer.write(b"result" + MEDIUM)
            result = await writer.finish()
            assert await lease.succeed({"a": result}) is TaskStatus.COMPLETED
            async with asyncio.timeout(20):
                while objects.arena.names != {name_of(result)}:
                    await asyncio.sleep(0.005)
        async with open_plane(tmp_path) as tasks:
            objects = tasks.objects
            assert isinstance(objects, FileObjects)
            assert objects.arena.names == {name_of(result)}
            assert await content(objects, tasks.result("s", "a").value) == b"result" + MEDIUM

    run_async(work)


def test_refused_tasks_leave_no_value(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            objects = tasks.objects
            assert isinstance(objects, FileObjects)
            await tasks.create_session("s", OPTIONS)
            for number, expected in enumerate(((), ("a",))):
                (payload,) = await objects.put([[b"%d" % number, MEDIUM]])
                assert await tasks.create_tasks("s", [request("a")._replace(payload=payload)]) == expected
                assert len(objects.arena.names) == 1

    run_async(work)
