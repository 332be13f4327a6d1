"""Files of output: what is kept over crashes, full disks and limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from runtime.commands.log_records import NO_SEQUENCE, Kind, encode, parse, split, summarize
from runtime.commands.logs import Logs
from runtime.errors import ResourceExhausted
from runtime.store import failpoints
from tests.leaks import run_async


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    failpoints.clear()


@contextlib.asynccontextmanager
async def opened(folder: Path, limit: int = 0) -> AsyncIterator[Logs]:
    logs = Logs(folder, limit, lambda: 1.0)
    try:
        yield logs
    finally:
        await logs.close()


async def texts(logs: Logs, number: int = 1) -> list[str]:
    found, position = [], 0
    while True:
        records, position = await logs.read(number, position)
        if not records:
            return found
        found += [record.text for record in records]


@pytest.mark.parametrize(("text", "lines"), [
    ("", [""]), ("a", ["a"]), ("a\n", ["a"]), ("\n", [""]), ("a\n\n", ["a", ""]), ("a\r\nb", ["a\r", "b"]),
])
def test_lines_of_an_entry(text: str, lines: list[str]) -> None:
    assert split(text) == lines


def test_records_that_are_cut_or_changed_end_what_is_read() -> None:
    data = encode("O", ["one", "zwei é", ""], 2.0, 1, 0) + encode("stderr", ["three"], 3.0, 2, NO_SEQUENCE, Kind.GAP)
    records, nbytes = parse(data)
    assert nbytes == len(data) and [record.text for record in records] == ["one", "zwei é", "", "three"]
    assert records[3] == ("stderr", "three", 3.0, 2)
    whole = summarize(data)
    assert (whole.size, whole.attempt, whole.following, whole.is_full) == (len(data), 2, {1: 3}, True)
    ends = [0]
    while ends[-1] < len(data):
        ends.append(ends[-1] + len(encode("O", [records[len(ends) - 1].text], 0.0, 1, 0)))
    for cut in range(len(data)):
        assert summarize(data[:cut]).size == max(end for end in ends if end <= cut)
        flipped = bytearray(data)
        flipped[cut] ^= 0x40
        kept = parse(bytes(flipped))[0]
        assert kept == records[: len(kept)] and len(kept) < 4


def test_what_a_crash_has_cut_is_sent_again_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path) as logs:
            file = await logs.append(1, "O", "a\nb\nc\n", 1, 0)
            await logs.sync({file: 1})
            path = logs.path(1)
        data = path.read_bytes()
        for cut in (len(data) - 1, len(data) - 40, 5, 0):
            path.write_bytes(data[:cut])
            async with opened(tmp_path) as logs:
                file = await logs.append(1, "O", "a\nb\nc\nd\n", 1, 0)
                await logs.sync({file: 1})
                assert await texts(logs) == ["a", "b", "c", "d"]

    run_async(work)


@pytest.mark.parametrize("place", ["logs.write", "logs.sync"])
def test_a_full_disk_is_told_and_passes(tmp_path: Path, place: str) -> None:
    async def work() -> None:
        async with opened(tmp_path) as logs:
            first = await logs.append(1, "O", "kept", 1, 0)
            await logs.sync({first: 1})
            failpoints.set_failpoint(place, "raise:ENOSPC")
            with pytest.raises(ResourceExhausted, match="no space left"):
                file = await logs.append(1, "O", "again", 1, 1)
                await logs.sync({file: 1})
            file = await logs.append(1, "O", "again\nmore", 1, 1)
            await logs.sync({file: 1})
            assert await texts(logs) == ["kept", "again", "more"]

    run_async(work)


def test_beyond_the_limit_one_line_says_so_also_after_a_restart(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path, 1000) as logs:
            for number in range(100):
                await logs.append(1, "O", f"line {number}", 1)
        async with opened(tmp_path, 1000) as logs:
            await logs.append(1, "O", "more", 1)
            await logs.remark(1, "the server's own", 1)
            await logs.begin_attempt(1, 2)
            await logs.begin_attempt(1, 2)
            file = await logs.append(1, "O", "of the next attempt", 2)
            await logs.sync({file: 1})
            found = await texts(logs)
            assert found[-3:] == ["output beyond 1000 bytes is left out", "the server's own", "attempt 2"]
            assert found[:-3] == [f"line {number}" for number in range(len(found) - 3)] and len(found) > 10

    run_async(work)


def test_many_files_are_not_held_open(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path) as logs:
            before = len(list(Path("/proc/self/fd").iterdir()))
            for number in range(1, 300):
                await logs.append(number, "O", "x", 1)
            for number in range(1, 300):
                while not logs.is_written(number):
                    await asyncio.sleep(0.001)
            assert len(list(Path("/proc/self/fd").iterdir())) < before + 20
            assert sorted(path.name for path in tmp_path.iterdir()) == ["0"]

    run_async(work)


def test_followers_wake_for_what_comes(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path) as logs:
            with logs.following(1) as event:
                with logs.sending(1):
                    assert not logs.is_complete(1)
                    await logs.append(1, "O", "x", 1)
                    await asyncio.wait_for(event.wait(), 30)
                event.clear()
                logs.wake(1)
                assert event.is_set() and logs.is_complete(1)

    run_async(work)


