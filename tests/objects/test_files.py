"""Objects in files: their bytes and checksums, the order of syncs, garbage, and a disk that is full or fails."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from runtime._ext.crc32c import crc32c
from runtime.errors import DataLoss, ResourceExhausted, Unavailable
from runtime.objects.files import INLINE_BYTES, FileObjects
from runtime.objects.value import Value
from runtime.store import failpoints
from runtime.tasks.model import FailureKind, TaskStatus
from tests.leaks import run_async
from tests.tasks.plane import OPTIONS, acquire, open_plane, request

LARGE = bytes(range(256)) * 20_000


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    failpoints.clear()


@contextlib.asynccontextmanager
async def objects_in(folder: Path) -> AsyncIterator[FileObjects]:
    objects = FileObjects(folder)
    try:
        yield objects
    finally:
        await objects.close()


async def written(objects: FileObjects, *pieces: bytes) -> Value:
    writer = objects.writer()
    for piece in pieces:
        await writer.write(piece)
    return await writer.finish()


async def content(objects: FileObjects, value: Value, chunk_bytes: int = 1 << 16) -> bytes:
    return b"".join([piece async for piece in objects.read(value, chunk_bytes)])


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES, INLINE_BYTES + 1, 1 << 20, (1 << 20) + 1, len(LARGE)])
@pytest.mark.parametrize("piece_bytes", [1 << 16, 1 << 21])
def test_bytes_come_back(tmp_path: Path, size: int, piece_bytes: int) -> None:
    data = LARGE[:size]

    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            pieces = [data[start : start + piece_bytes] for start in range(0, size, piece_bytes)]
            value = await written(objects, *pieces)
            assert value.size == size
            for chunk_bytes in (1000 if size < 1 << 20 else 50_000, 84_000, 1 << 24):
                pieces = [piece async for piece in objects.read(value, chunk_bytes)]
                assert b"".join(pieces) == data and all(0 < len(piece) <= chunk_bytes for piece in pieces)
            if size <= INLINE_BYTES:
                assert value == Value(data) and files_of(tmp_path) == set()
                return
            assert value.ref is not None
            assert value.ref == (hashlib.sha256(data).digest(), size, crc32c(data, 0))
            name = value.ref.digest.hex()
            assert files_of(tmp_path) == {f"{name[:2]}/{name}"}

    run_async(work)


def test_many_small_pieces_and_writes_that_are_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda file, views: writev(file, [views[0][: max(1, len(views[0]) // 3)]]))

    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            value = await written(objects, LARGE[:100_000], b"", LARGE[100_000:200_000])
            assert await content(objects, value) == LARGE[:200_000]
            monkeypatch.undo()
            value = await written(objects, *[LARGE[at : at + 7] for at in range(0, 21_000, 7)])
            assert await content(objects, value) == LARGE[:21_000]

    run_async(work)


def test_a_reader_is_ahead_of_those_alone_who_take_what_it_reads(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            value = await written(objects, LARGE)
            reads: list[int] = []
            preadv = os.preadv

            def noted(file: int, views: list[memoryview], at: int) -> int:
                reads.append(len(views[0]))
                return preadv(file, views, at)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "preadv", noted)
                pieces = objects.read(value, 84_000)
                await anext(pieces)
                assert reads == [84_000]
                async for _ in pieces:
                    pass
            assert reads[:3] == [84_000, 4 * 84_000, 12 * 84_000] and max(reads) <= 1 << 20
            assert sum(reads) == len(LARGE)

    run_async(work)


def test_same_bytes_are_one_file(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            both = written(objects, LARGE), written(objects, LARGE[:70_000], LARGE[70_000:])
            first, second = await asyncio.gather(*both)
            assert first == second and len(files_of(tmp_path)) == 1
            assert first.ref is not None
            objects.let_go([first])
            objects.remove(first.ref.digest)
            assert await content(objects, second) == LARGE, "the second one still holds it"
            objects.let_go([second])
            objects.remove(first.ref.digest)
            again = await written(objects, LARGE)
            assert await content(objects, again) == LARGE, "it was written while it was being removed"

    run_async(work)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "longer"])
def test_damage_is_noticed(tmp_path: Path, damage: str) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            value = await written(objects, LARGE)
            assert value.ref is not None
            path = objects.path(value.ref.digest)
            if damage == "flip":
                with path.open("r+b") as file:
                    file.seek(len(LARGE) // 2)
                    file.write(b"!")
            elif damage == "cut":
                os.truncate(path, len(LARGE) - 1)
            elif damage == "gone":
                path.unlink()
            else:
                with path.open("ab") as file:
                    file.write(b"more")
                assert await content(objects, value) == LARGE, "what was written is there"
                return
            with pytest.raises(DataLoss):
                await content(objects, value)

    run_async(work)


def test_file_and_folder_are_synced_before_anybody_may_refer_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def name_of(descriptor: int) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        return "root" if path == tmp_path else "file" if path.is_file() else "folder"

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        steps.append(f"sync {name_of(descriptor)}")

    def noted_rename(source: Path, target: Path) -> None:
        rename(source, target)
        steps.append("rename")

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)

    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            await written(objects, LARGE)
            # The new folder is an entry of the root.
            assert steps == ["sync file", "sync root", "rename", "sync folder"]
            steps.clear()
            await written(objects, LARGE)
            assert steps == ["sync file", "rename", "sync folder"]

    run_async(work)


@pytest.mark.parametrize("point", ["objects.write", "objects.sync", "objects.rename", "objects.sync_folder"])
@pytest.mark.parametrize(("number", "error"), [("ENOSPC", ResourceExhausted), ("EIO", Unavailable)])
def test_disk_that_is_full_or_fails(tmp_path: Path, point: str, number: str, error: type[Exception]) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            kept = await written(objects, LARGE)
            before = files_of(tmp_path)
            failpoints.set_failpoint(point, f"fail:{number}")
            for _ in range(2):
                with pytest.raises(error, match=str(tmp_path)):
                    await written(objects, b"other", LARGE)
            assert await content(objects, kept) == LARGE, "reads go on"
            assert await written(objects, b"few") == Value(b"few"), "few bytes need no file"
            failpoints.clear()
            value = await written(objects, b"other", LARGE)
            assert await content(objects, value) == b"other" + LARGE
            assert value.ref is not None
            name = value.ref.digest.hex()
            assert files_of(tmp_path) == before | {f"{name[:2]}/{name}"}, "nothing is left of what failed"

    run_async(work)


def test_discarded_and_abandoned_writers_leave_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            writer = objects.writer()
            await writer.write(LARGE)
            assert files_of(tmp_path)
            writer.discard()
            failpoints.set_failpoint("objects.sync", "delay:0.2")
            work = asyncio.ensure_future(written(objects, LARGE))
            await asyncio.sleep(0.05)
            work.cancel()
            await asyncio.wait([work])
            async with asyncio.timeout(20):
                while files_of(tmp_path):
                    await asyncio.sleep(0.01)

    run_async(work)


def test_sweep_removes_what_no_row_refers_to(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            kept = await written(objects, LARGE)
            left = await written(objects, b"left", LARGE)
            held = await written(objects, b"held", LARGE)
            objects.let_go([kept, left])
            (tmp_path / "writing" / "1-0").write_bytes(b"of a process that is gone")
            assert kept.ref is not None and left.ref is not None
            digests = {kept.ref.digest}

            async def referred(names: list[bytes]) -> set[bytes]:
                return digests & set(names)

            assert await objects.sweep(referred) == 1
            assert await content(objects, kept) == LARGE and await content(objects, held) == b"held" + LARGE
            with pytest.raises(DataLoss):
                await content(objects, left)
            assert not list((tmp_path / "writing").iterdir())

    run_async(work)


def test_object_goes_with_its_last_row(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            names = ("a", "b")
            for name in names:
                writer = tasks.writer()
                await writer.write(LARGE)
                await tasks.create_tasks("s", [request(name)._replace(payload=await writer.finish())])
            (payload,) = files_of(tmp_path / "objects")
            for name in names:
                assert payload in files_of(tmp_path / "objects")
                lease = await acquire(tasks)
                assert b"".join([piece async for piece in lease.read_payload(1 << 20)]) == LARGE
                writer = lease.result_writer()
                await writer.write(name.encode() + LARGE)
                assert await lease.succeed({name: await writer.finish()}) is TaskStatus.COMPLETED
            async with asyncio.timeout(20):
                while payload in files_of(tmp_path / "objects"):  # the results stay
                    await asyncio.sleep(0.01)
            assert len(files_of(tmp_path / "objects")) == 2
        async with open_plane(tmp_path) as tasks:
            assert await tasks.swept() == 0
            assert await content_of(tasks.result("s", "b").value, tasks.objects) == b"b" + LARGE

    run_async(work)


def test_task_whose_payload_is_lost_is_an_error(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            writer = tasks.writer()
            await writer.write(LARGE)
            await tasks.create_tasks("s", [request("t")._replace(payload=await writer.finish())])
            for path in (tmp_path / "objects").rglob("*"):
                if path.is_file():
                    path.unlink()
            lease = await acquire(tasks)
            with pytest.raises(DataLoss):
                [piece async for piece in lease.read_payload(1 << 20)]
            assert await lease.fail(FailureKind.PROTOCOL, "the payload is lost") is TaskStatus.ERROR
            assert await tasks.task_statuses(["t", "t###1"]) == {"t": TaskStatus.ERROR}

    run_async(work)


async def content_of(value: Value, objects: object) -> bytes:
    assert isinstance(objects, FileObjects)
    return await content(objects, value)
