"""Places of an arena in the hands of others: values when they say so, nobody else's as long as they may write there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from runtime._ext.crc32c import crc32c
from runtime.errors import InvalidArgument, ResourceExhausted, Unavailable
from runtime.objects import lending as lending_module
from runtime.objects.extents import paged
from runtime.objects.files import ARENA_NAME, INLINE_BYTES, MEDIUM_BYTES, FileObjects
from runtime.objects.lending import Lending
from runtime.objects.locks import lock, unlock
from runtime.objects.value import Value
from runtime.store import failpoints
from tests.leaks import run_async
from tests.objects.test_arena import MEDIUM, name_of, objects_in, remove
from tests.objects.test_files import content
from tests.peers import ROOT

WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    failpoints.clear()


class Borrower:
    """One in this process, with a description of its own."""

    def __init__(self, lending: Lending) -> None:
        self.lending = lending
        self.file = os.open(lending.file.path, os.O_RDWR)
        self.is_gone = False
        lock(self.file, lending.lock_at)

    def write(self, place: int, data: bytes) -> tuple[int, int, int]:
        """Write a value; return what is told of it."""
        os.pwrite(self.file, data, place)
        return place, len(data), crc32c(data)

    def go(self) -> None:
        """Let the lock go."""
        if not self.is_gone:
            self.is_gone = True
            unlock(self.file, self.lending.lock_at)
            os.close(self.file)


@contextlib.asynccontextmanager
async def borrower(objects: FileObjects):  # type: ignore[no-untyped-def]
    """Return one that is lent places, and let it go at the end, its lock and all."""
    lending = await objects.begin_lending()
    assert lending is not None
    found = Borrower(lending)
    assert await objects.is_locked(lending)
    try:
        yield found
    finally:
        objects.end_lending(lending)
        found.go()


async def until(objects: FileObjects, free_bytes: int) -> None:
    """Wait until so many bytes can be taken."""
    async with asyncio.timeout(WAIT_S):
        while objects.arena.free_bytes != free_bytes:
            await asyncio.sleep(0.01)


async def other_values(objects: FileObjects, number: int = 30) -> list[tuple[Value, bytes]]:
    """Write values of somebody else's."""
    contents = [b"other %d " % index + MEDIUM for index in range(number)]
    return list(zip(await objects.put([[data] for data in contents]), contents, strict=True))


async def check(objects: FileObjects, values: Sequence[tuple[Value, bytes]]) -> None:
    """Read values from the disk and compare them."""
    objects.recent.clear()
    for value, data in values:
        assert await content(objects, value) == data


def test_what_was_written_to_lent_places_becomes_values(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects, borrower(objects) as one:
            sizes = [INLINE_BYTES + 1, 100_000, 1 << 20, MEDIUM_BYTES]
            places = await objects.lend(one.lending, sizes)
            assert len(set(places)) == 4 and all(place and place % 4096 == 0 for place in places)
            others = await other_values(objects)
            contents = [os.urandom(size) for size in sizes]
            told = [one.write(place, data) for place, data in zip(places, contents, strict=True)]
            values = await objects.adopt(one.lending, told[:3]) + await objects.adopt(one.lending, told[3:])
            assert [value.size for value in values] == sizes and one.lending.nbytes == 0 == objects.lender.nbytes
            assert {name_of(value) for value in values} <= objects.arena.names
            await check(objects, [*zip(values, contents, strict=True), *others])
            objects.end_lending(one.lending)
            one.go()
        async with objects_in(tmp_path, [*values, *(value for value, _ in others)]) as objects:
            await check(objects, [*zip(values, contents, strict=True), *others])
            free = objects.arena.free_bytes
            objects.remove(name_of(values[3]))
            assert objects.arena.free_bytes == free + MEDIUM_BYTES

    run_async(work)


def test_places_of_one_who_still_holds_its_lock_are_not_taken(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path, arena_bytes=1 << 24) as objects:
            await objects.put([[MEDIUM]])
            free = objects.arena.free_bytes
            async with borrower(objects) as one:
                places = await objects.lend(one.lending, [1 << 20] * 4)
                objects.end_lending(one.lending)
                assert objects.arena.withheld_bytes == 4 << 20 == objects.lender.nbytes
                # More than fits, so that every place is taken that may be.
                others = await other_values(objects, 200)
                for place in places:
                    one.write(place, b"\xff" * (1 << 20))  # late, as one that was frozen
                await check(objects, others)
                for value, _ in others:
                    if value.ref is not None and not value.ref.is_shared:
                        remove(objects, value)
                assert objects.arena.free_bytes == free - (4 << 20)
                one.go()
                await until(objects, free)
                assert objects.lender.nbytes == 0 == objects.arena.withheld_bytes

    run_async(work)


def test_room_that_is_needed_is_looked_for_among_what_is_withheld(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path, arena_bytes=8 << 20) as objects, borrower(objects) as one:
            lent = await objects.lend(one.lending, [1 << 20] * 2)
            assert all(lent)
            objects.end_lending(one.lending)
            values = await objects.put([[b"%d" % index * (1 << 20)] for index in range(7)])
            assert sum(value.ref is not None and not value.ref.is_shared for value in values) == 5
            one.go()
            (value,) = await objects.put([[b"x" * (1 << 20)]])
            assert value.ref is not None and value.ref.place in lent

    run_async(work)


@pytest.mark.parametrize("freeze", [False, True])
def test_places_of_a_process_come_back_when_it_is_gone(tmp_path: Path, freeze: bool) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            await objects.put([[MEDIUM]])
            free = objects.arena.free_bytes
            lending = await objects.begin_lending()
            assert lending is not None and not await objects.is_locked(lending)
            with borrowing(lending.file.path, lending.lock_at) as process:
                assert await objects.is_locked(lending)
                (place,) = await objects.lend(lending, [1 << 20])
                if freeze:
                    process.send_signal(signal.SIGSTOP)
                objects.end_lending(lending)
                await asyncio.sleep(0.6)
                assert objects.arena.free_bytes == free - (1 << 20)
                others = await other_values(objects)
                if freeze:
                    process.send_signal(signal.SIGCONT)
                write(process, place, 1 << 20)
                await check(objects, others)
                for value, _ in others:
                    remove(objects, value)
                process.kill()
                process.wait()
                await until(objects, free)

    run_async(work)


@contextlib.contextmanager
def borrowing(path: str, lock_at: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds a lock."""
    command = [sys.executable, "-m", "tests.objects.borrower", path, str(lock_at)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def write(process: subprocess.Popen[str], place: int, size: int) -> None:
    """Have such a process write."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{place} 255 {size}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "written\n"


@pytest.mark.parametrize("limit", [1 << 28, 16 << 20])
def test_the_next_server_writes_nothing_where_a_client_of_the_last_one_may(tmp_path: Path, limit: int) -> None:
    async def work() -> None:
        async with objects_in(tmp_path, arena_bytes=limit) as objects:
            kept = await other_values(objects, 5)
            lending = await objects.begin_lending()
            assert lending is not None
            with borrowing(lending.file.path, lending.lock_at) as process:
                places = await objects.lend(lending, [1 << 20] * 3)
                assert all(places)
                await objects.close()  # as by kill -9: nobody has said that it ends
                process.send_signal(signal.SIGSTOP)
                size = (tmp_path / ARENA_NAME).stat().st_size
                async with objects_in(tmp_path, [value for value, _ in kept], limit) as objects:
                    assert objects.arena.free_bytes == 0 and objects.arena.withheld_bytes > 3 << 20
                    assert (tmp_path / ARENA_NAME).stat().st_size == size, "it is not cut, either"
                    others = await other_values(objects, 100)
                    is_in_arena = any(value.ref is not None and not value.ref.is_shared for value, _ in others)
                    assert is_in_arena is (limit > size)
                    async with borrower(objects) as one:  # which is not taken for one of the last server's
                        found = await objects.lend(one.lending, [1 << 20])
                        assert (found != [0]) is (limit > size)
                        process.send_signal(signal.SIGCONT)
                        for place in places:
                            write(process, place, 1 << 20)
                        await check(objects, [*kept, *others])
                        process.kill()
                        process.wait()
                        async with asyncio.timeout(WAIT_S):
                            while objects.arena.withheld_bytes:
                                await asyncio.sleep(0.01)
                        assert objects.arena.free_bytes >= 3 << 20
                        await check(objects, [*kept, *others, *await other_values(objects, 10)])

    run_async(work)


def test_only_what_was_lent_can_be_told_of_and_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects, borrower(objects) as one, borrower(objects) as another:
            (value,) = await objects.put([[MEDIUM]])
            place, second = await objects.lend(one.lending, [100_000, 100_000])
            (foreign,) = await objects.lend(another.lending, [100_000])
            assert value.ref is not None
            wrong = [
                (0, 100_000, 0), (place + 4096, 100_000, 0), (place, 99_999, 0), (place, 100_001, 0), (place, 0, 0),
                (foreign, 100_000, 0), (value.ref.place, value.size, value.ref.crc), (1 << 63, 100_000, 0),
            ]
            for told in wrong:
                with pytest.raises(InvalidArgument, match="not lent to this stream"):
                    await objects.adopt(one.lending, [(second, 100_000, 0), told])
            with pytest.raises(InvalidArgument, match="payload 1 of those"):
                await objects.adopt(one.lending, [(place, 100_000, 0)] * 2)
            assert len(objects.arena.names) == 1
            told = one.write(place, b"y" * 100_000)
            (value,) = await objects.adopt(one.lending, [told])
            with pytest.raises(InvalidArgument, match="told of before"):
                await objects.adopt(one.lending, [told])
            await check(objects, [(value, b"y" * 100_000)])

    run_async(work)


def test_what_is_no_medium_value_and_what_is_too_much_is_not_lent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending_module, "_MOST_BYTES", 4 << 20)

    async def work() -> None:
        async with objects_in(tmp_path, arena_bytes=24 << 20) as objects:
            async with borrower(objects) as one, borrower(objects) as another:
                found = await objects.lend(one.lending, [0, INLINE_BYTES, MEDIUM_BYTES + 1, 1 << 63, 100_000])
                assert [bool(place) for place in found] == [False, False, False, False, True]
                left = (4 << 20) - paged(100_000)
                sizes = [1 << 20] * 10
                found = await objects.lend(one.lending, sizes)
                assert sum(map(bool, found)) == left >> 20 and one.lending.nbytes <= 4 << 20
                found = await objects.lend(another.lending, sizes)
                # A quarter of the file for all of them.
                assert objects.lender.nbytes <= 6 << 20 and sum(map(bool, found)) == 2
                objects.end_lending(one.lending)
                assert await objects.lend(another.lending, [1 << 20]) == [0], "what is withheld counts"
            async with asyncio.timeout(WAIT_S):
                while objects.lender.nbytes:
                    await asyncio.sleep(0.01)

    run_async(work)


def test_nothing_is_lent_without_an_arena(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path / "none", arena_bytes=0) as objects:
            assert await objects.begin_lending() is None
        objects = FileObjects(tmp_path / "early")
        assert await objects.begin_lending() is None, "before it is known what rows refer to"
        await objects.close()
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / ARENA_NAME).mkdir()
        async with objects_in(tmp_path / "other") as objects:
            assert await objects.begin_lending() is None

    run_async(work)


@pytest.mark.parametrize(("number", "error"), [("EIO", Unavailable), ("ENOSPC", ResourceExhausted)])
def test_a_sync_that_fails_leaves_no_value(tmp_path: Path, number: str, error: type[Exception]) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            await objects.put([[MEDIUM]])
            free = objects.arena.free_bytes
            async with borrower(objects) as one:
                places = await objects.lend(one.lending, [100_000] * 2)
                told = [one.write(place, b"x" * 100_000) for place in places]
                failpoints.set_failpoint("objects.arena.sync", f"raise:{number}")
                with pytest.raises(error):
                    await objects.adopt(one.lending, told[:1])
                # The other one was written before the sync that failed: nobody knows what became of it.
                with pytest.raises(error):
                    await objects.adopt(one.lending, told[1:])
                assert len(objects.arena.names) == 1
                objects.end_lending(one.lending)
                assert objects.arena.free_bytes == free - 2 * paged(100_000)
                one.go()
                await until(objects, free)
                assert objects.lender.nbytes == 0
            async with borrower(objects) as one:
                (place,) = await objects.lend(one.lending, [100_000])
                (value,) = await objects.adopt(one.lending, [one.write(place, b"z" * 100_000)])
                await check(objects, [(value, b"z" * 100_000)])

    run_async(work)


def test_a_sync_of_others_that_fails_takes_what_was_lent_before_along(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects, borrower(objects) as one:
            (place,) = await objects.lend(one.lending, [100_000])
            told = one.write(place, b"x" * 100_000)
            failpoints.set_failpoint("objects.arena.sync", "raise:EIO")
            with pytest.raises(Unavailable):
                await objects.put([[MEDIUM]])
            with pytest.raises(Unavailable, match="failed while this was written"):
                await objects.adopt(one.lending, [told])

    run_async(work)


def test_who_goes_away_while_values_are_synced_leaves_none(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects:
            await objects.put([[MEDIUM]])
            free = objects.arena.free_bytes
            async with borrower(objects) as one:
                (place,) = await objects.lend(one.lending, [100_000])
                failpoints.set_failpoint("objects.arena.sync", "delay:0.1")
                adopting = asyncio.ensure_future(
                    objects.adopt(one.lending, [one.write(place, b"x" * 100_000)])
                )
                await asyncio.sleep(0.02)
                adopting.cancel()
                objects.end_lending(one.lending)
                one.go()
                with pytest.raises(asyncio.CancelledError):
                    await adopting
            await until(objects, free)
            assert len(objects.arena.names) == 1 and objects.lender.nbytes == 0

    run_async(work)


def test_a_file_that_cannot_grow_lends_nothing_and_nobody_waits(tmp_path: Path) -> None:
    async def work() -> None:
        async with objects_in(tmp_path) as objects, borrower(objects) as one:
            failpoints.set_failpoint("objects.arena.grow", "fail:ENOSPC")
            found = await objects.lend(one.lending, [1 << 20] * 40)
            assert found == [0] * 40 and objects.lender.nbytes == 0
            failpoints.clear()
            assert all(await objects.lend(one.lending, [1 << 20]))

    run_async(work)
