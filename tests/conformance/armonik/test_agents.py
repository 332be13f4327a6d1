"""Item 53 of the task protocol's checklist by raw stubs: agents that die or fall silent while their worker goes on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime.local_cluster.ports import HeldPort
from runtime.local_cluster.task_process import TaskProcess
from runtime.tasks.leases import Lease
from tests.conformance.armonik.outside_worker import Conversation, OutsideWorker, add, remove, succeed, working
from tests.conformance.armonik.submitter import A, Submitter, serve, task
from tests.leaks import run_async

TIMEOUT_S = 60.0
AGENT_LOST = "Other pod seems to have crashed, resubmitting task"


class StubbornWorker(OutsideWorker):
    """Makes half of its result, and says the rest when its agent is gone, as a worker does that nobody could tell."""

    def __init__(self) -> None:
        super().__init__(self._work, "127.0.0.1:0")
        self.began = asyncio.Event()
        self.was_cancelled = asyncio.Event()
        self.failures: list[BaseException] = []

    async def _work(self, talk: Conversation) -> None:
        await talk.take_input()
        await talk.write(request_id="R", result=A.ProcessReply.Result(init=A.InitKeyedDataStream(key="t")))
        await talk.write(request_id="R", result=A.ProcessReply.Result(data=A.DataChunk(data=b"half")))
        await talk.create_small(task("child"))
        self.began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.was_cancelled.set()
            try:
                await talk.result("t", b"late")
                await talk.ok()
            except BaseException as error:
                self.failures.append(error)
            raise


async def _one_commit(submitter: Submitter) -> None:
    """Check that the second attempt's outcome is the only one."""
    assert await submitter.available("t") is None
    assert await submitter.data("t") == b"t:payload"
    assert await submitter.statuses("t", "t###1", "t###2", "child") == {
        "t": "ERROR", "t###1": "COMPLETED", "child": "CANCELED"
    }
    output = await submitter.output("t")
    assert (output.status, output.error.details) == (A.TASK_STATUS_ERROR, AGENT_LOST)


def test_53_silent_agent_loses_its_task_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renew = Lease.renew
    silent: list[str] = []

    def renew_unless_silent(lease: Lease) -> None:
        if lease.task.id != "t":
            renew(lease)
        else:
            silent.append(lease.owner)

    monkeypatch.setattr(Lease, "renew", renew_unless_silent)

    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05, task_lease_s=0.5, task_heartbeat_s=0.1) as submitter:
            await submitter.session()
            first = StubbornWorker()
            await first.start()
            await add(submitter, first.endpoint)
            await submitter.create(task("t"))
            await asyncio.wait_for(first.began.wait(), TIMEOUT_S)
            async with working(submitter, succeed) as second:
                await _one_commit(submitter)
                await asyncio.wait_for(first.was_cancelled.wait(), TIMEOUT_S)
                assert await submitter.data("t") == b"t:payload"
                assert silent
                assert [talk.given.task for talk in second.conversations] == ["t###1"]
            await remove(submitter, first.endpoint)
            await first.stop()

    run_async(work)


def test_53_killed_agent_is_followed_by_another(tmp_path: Path) -> None:
    server = TaskProcess("server", 0, HeldPort(), tmp_path)

    async def start() -> None:
        server.start(("--services", "task", "--task-check-s", "0.05", "--log-level", "warning"))
        await asyncio.to_thread(server.wait_ready, time.monotonic() + TIMEOUT_S)

    async def work() -> None:
        await start()
        async with grpc.aio.insecure_channel(server.address, (("grpc.max_reconnect_backoff_ms", 200),)) as channel:
            nothing: Any = None
            submitter = Submitter(channel, nothing, nothing, server.address)
            await submitter.session()
            first = StubbornWorker()
            await first.start()
            await add(submitter, first.endpoint)
            await submitter.create(task("t"))
            await asyncio.wait_for(first.began.wait(), TIMEOUT_S)
            async with asyncio.timeout(TIMEOUT_S):
                # A start that is not on disk yet never was: the same attempt would go back to the queue.
                while await submitter.statuses("t") != {"t": "PROCESSING"}:
                    await asyncio.sleep(0.005)
            # The agent lives in the server.
            server.kill()
            await asyncio.to_thread(server.wait, time.monotonic() + TIMEOUT_S)
            await asyncio.wait_for(first.was_cancelled.wait(), TIMEOUT_S)
            await start()
            second = OutsideWorker(succeed, "127.0.0.1:0")
            await second.start()
            await add(submitter, second.endpoint)
            await _one_commit(submitter)
            assert [talk.given.task for talk in second.conversations] == ["t###1"]
            await first.stop()
            await second.stop()

    try:
        run_async(work, 3 * TIMEOUT_S)
    finally:
        server.kill()
        server.wait(time.monotonic() + TIMEOUT_S)
        server.close()
