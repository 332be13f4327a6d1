"""A disk that is full or fails, seen by clients and workers: refusals with a reason, reads that go on, and recovery."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from runtime.store import failpoints
from tests.conformance.armonik.outside_worker import Conversation, working
from tests.conformance.armonik.submitter import DONE, LAST, begin, chunk, fails, header, of_session, serve, task
from tests.leaks import run_async

LARGE = b"x" * 80_000


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    failpoints.clear()


@pytest.mark.parametrize(
    ("number", "code"), [("ENOSPC", grpc.StatusCode.RESOURCE_EXHAUSTED), ("EIO", grpc.StatusCode.UNAVAILABLE)]
)
def test_clients_are_refused_and_can_read(tmp_path: Path, number: str, code: grpc.StatusCode) -> None:
    async def script(talk: Conversation) -> None:
        await talk.take_input()
        await talk.result(talk.given.keys[0], LARGE)
        await talk.ok()
        await talk.until_half_close()

    async def work() -> None:
        async with serve(tmp_path) as submitter, working(submitter, script):
            await submitter.session()
            await submitter.create(task("before"))
            assert await submitter.available("before") is None
            for point, num_chunks in (
                *((place, 1) for place in ("objects.arena.write", "objects.arena.sync", "store.commit.before",
                                           "store.begin")),
                # In a file of its own.
                *((f"objects.{place}", 60) for place in ("write", "sync", "rename", "sync_folder")),
            ):
                failpoints.set_failpoint(point, f"fail:{number}")
                async with fails(code):
                    await submitter.stream([begin(), header("large"), *[chunk(LARGE)] * num_chunks, DONE, LAST])
                if point.startswith("store"):
                    async with fails(code):
                        await submitter.create(task("small"))
                    async with fails(code):
                        await submitter.session("another")
                assert await submitter.data("before") == LARGE
                assert await submitter.statuses("before", "large", "small") == {"before": "COMPLETED"}
                assert await submitter.counts(of_session("s")) == {"COMPLETED": 1}
                failpoints.clear()
            assert await submitter.stream([begin(), header("large"), chunk(LARGE), DONE, LAST]) == []
            assert await submitter.create(task("small")) == []
            assert await submitter.wait(of_session("s")) == {"COMPLETED": 3}

    run_async(work)


@pytest.mark.parametrize("point", ["objects.arena.sync", "store.commit.before"])
def test_work_under_way_survives(tmp_path: Path, point: str) -> None:
    runs: list[str] = []
    failed = asyncio.Event()

    async def script(talk: Conversation) -> None:
        runs.append((await talk.take_input()).task)
        if not failed.is_set():
            failpoints.set_failpoint(point, "fail:ENOSPC")
            failed.set()
        await talk.result("t", LARGE)
        await talk.ok()
        await talk.until_half_close()

    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t"))
            async with working(submitter, script):
                await asyncio.wait_for(failed.wait(), 20)
                await asyncio.sleep(0.3)
                assert await submitter.results("t") == {"t": "CREATED"}
                failpoints.clear()
                assert await submitter.available("t") is None
            # A disk that is full for a while costs no attempt.
            assert set(runs) == {"t"}
            assert await submitter.statuses("t", "t###1") == {"t": "COMPLETED"}
            assert await submitter.data("t") == LARGE

    run_async(work)
