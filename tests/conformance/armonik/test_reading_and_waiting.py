"""Items 22 to 36 of the task protocol's checklist: reading and waiting."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime.objects.value import Value
from runtime.tasks.leases import Lease
from runtime.tasks.model import FailureKind
from tests.conformance.armonik.submitter import (
    DONE,
    LAST,
    A,
    Submitter,
    begin,
    chunk,
    fails,
    header,
    of_session,
    of_tasks,
    report_error,
    serve,
    succeed,
    task,
)
from tests.leaks import run_async

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def test_22_task_status_of_unknown_repeated_and_no_ids(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("a"), task("b"))
            request = A.GetTaskStatusRequest(task_ids=["b", "nobody", "a", "b"])
            reply = await submitter.call("GetTaskStatus", request)
            assert [entry.task_id for entry in reply.id_statuses] == ["b", "a"]
            assert (await submitter.call("GetTaskStatus", A.GetTaskStatusRequest())).SerializeToString() == b""

    run_async(work)


def test_23_result_status_is_scoped_to_its_session(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session("s")
            await submitter.session("other")
            await submitter.create(task("a", "x", "y"))
            await submitter.create(task("b", "x"), session="other")
            async with submitter.agents(succeed):
                assert await submitter.available("x") is None
            await submitter.create(task("c", "z"), session="other")
            assert await submitter.results("y", "z", "x", "x") == {"y": "COMPLETED", "x": "COMPLETED"}
            assert await submitter.results("z", "y", session="other") == {"z": "CREATED"}
            assert await submitter.results("x", session="unknown") == {}
            assert await submitter.results() == {}

    run_async(work)


def test_24_counts_agree_with_lists(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session("s")
            await submitter.session("other")
            await submitter.create(task("a"), task("b"), task("c"), task("waits", needs=["later"]))
            await submitter.create(task("d"), session="other")
            async with submitter.agents(lambda lease: report_error(lease) if lease.task.id == "b" else succeed(lease)):
                await submitter.wait(of_tasks("a", "b", "c", "d"))
            assert await submitter.counts(of_session("s")) == {"SUBMITTED": 1, "COMPLETED": 2, "ERROR": 1}
            completed, error, unknown = A.TASK_STATUS_COMPLETED, A.TASK_STATUS_ERROR, 77
            for selection, ids in [
                (of_session("s"), ["a", "b", "c", "waits"]),
                (of_session("s", "other", "s", "nobody"), ["a", "b", "c", "waits", "d"]),
                (of_session("s", included=[completed, completed, error]), ["a", "b", "c"]),
                (of_session("s", excluded=[completed]), ["b", "waits"]),
                (of_session("s", included=[unknown]), []),
                (of_session("s", excluded=[unknown]), ["a", "b", "c", "waits"]),
                (of_tasks("d", "a", "nobody", "a"), ["a", "d"]),
                (of_tasks("a", "b", "waits", excluded=[error]), ["a", "waits"]),
                (of_session("nobody"), []),
            ]:
                assert (await submitter.call("ListTasks", selection)).task_ids == ids
                assert sum((await submitter.counts(selection)).values()) == len(ids)
            reply = await submitter.call("CountTasks", of_session("s"))
            assert [entry.status for entry in reply.values] == sorted(entry.status for entry in reply.values)

    run_async(work)


@pytest.mark.parametrize("name", ["ListTasks", "CountTasks", "CancelTasks", "WaitForCompletion"])
def test_25_incomplete_filters_are_refused(tmp_path: Path, name: str) -> None:
    empty = A.TaskFilter.StatusesRequest()
    filters = [
        A.TaskFilter(),
        A.TaskFilter(session=A.TaskFilter.IdsRequest()),
        A.TaskFilter(task=A.TaskFilter.IdsRequest()),
        A.TaskFilter(task=A.TaskFilter.IdsRequest(ids=["t"]), included=empty),
        A.TaskFilter(task=A.TaskFilter.IdsRequest(ids=["t"]), excluded=empty),
    ]

    async def work() -> None:
        async with serve(tmp_path) as submitter:
            for selection in filters:
                async with fails(INVALID):
                    await submitter.call(
                        name, A.WaitRequest(filter=selection) if name == "WaitForCompletion" else selection
                    )
            if name == "WaitForCompletion":
                async with fails(INVALID, "filter"):
                    await submitter.call(name, A.WaitRequest())

    run_async(work)


@pytest.mark.parametrize("size", [1, 84000, 84001, 1_000_000])
def test_26_result_comes_in_chunks_then_its_end(tmp_path: Path, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]

    async def produce(lease: Lease) -> None:
        writer = lease.result_writer()
        for start in range(0, size, 50_000):
            await writer.write(data[start : start + 50_000])
        await lease.succeed({"r": await writer.finish()})

    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t", "r"))
            async with submitter.agents(produce):
                assert await submitter.available("r") is None
            first = await submitter.download("r")
            kinds = [reply.result.WhichOneof("type") for reply in first]
            assert kinds == ["data"] * (len(first) - 1) + ["data_complete"]
            assert b"".join(reply.result.data for reply in first) == data
            assert max(len(reply.result.data) for reply in first) <= 84000
            assert await submitter.download("r") == first
            await submitter.call("CancelSession", A.Session(id="s"))
            assert await submitter.download("r") == first

    run_async(work)


def test_27_pending_result_names_its_owner(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t", "r"))
            (reply,) = await submitter.download("r")
            assert reply.SerializeToString() == b"\x1a\x01t"
            async with fails(NOT_FOUND):
                await submitter.download("unknown")
            async with fails(NOT_FOUND):
                await submitter.download("r", "unknown")
            for session, key in (("s", ""), ("", "r")):
                async with fails(INVALID):
                    await submitter.download(key, session)

    run_async(work)


def test_28_failed_result_has_the_error_of_its_owner(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t", "r"))
            async with submitter.agents(report_error):
                await submitter.available("r")
            (reply,) = await submitter.download("r")
            assert reply.error.task_id == "t"
            (error,) = reply.error.errors
            assert (error.task_status, error.detail) == (A.TASK_STATUS_ERROR, "it went wrong")

    run_async(work)


def test_29_task_output(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("good"))
            async with submitter.agents(succeed):
                await submitter.wait(of_session("s"))
            await submitter.create(task("bad"))
            async with submitter.agents(report_error):
                await submitter.wait(of_session("s"))
            await submitter.create(task("waits"), task("stopped"))
            await submitter.call("CancelTasks", of_tasks("stopped"))
            good, bad = await submitter.output("good"), await submitter.output("bad", "s")
            assert (good.WhichOneof("type"), good.status) == ("ok", A.TASK_STATUS_COMPLETED)
            assert (bad.error.details, bad.status) == ("it went wrong", A.TASK_STATUS_ERROR)
            waits, stopped = await submitter.output("waits"), await submitter.output("stopped")
            assert waits.WhichOneof("type") == "error"
            assert (waits.error.details, waits.status) == ("", A.TASK_STATUS_SUBMITTED)
            assert (stopped.error.details, stopped.status) == ("task canceled", A.TASK_STATUS_CANCELED)
            for task_id, session in (("unknown", ""), ("good", "elsewhere")):
                async with fails(NOT_FOUND):
                    await submitter.output(task_id, session)
            async with fails(INVALID):
                await submitter.output("")

    run_async(work)


def test_30_result_without_bytes(tmp_path: Path) -> None:
    seen: dict[str, Value] = {}

    async def handler(lease: Lease) -> None:
        seen.update({key: lease.dependency(key) for key in lease.task.dependencies})
        await lease.succeed({key: Value() for key in lease.task.expected_keys})

    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("a"), task("b", needs=["a"]))
            async with submitter.agents(handler):
                await submitter.available("b")
            replies = await submitter.download("a")
            assert [reply.SerializeToString() for reply in replies] == [b"\x0a\x02\x0a\x00", b"\x0a\x02\x10\x01"]
            assert seen == {"a": Value(b"")}

    run_async(work)


def test_31_availability(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("good"), task("bad"))
            (good,) = await submitter.tasks.acquire("agent")
            (bad,) = await submitter.tasks.acquire("agent")
            waits = [asyncio.ensure_future(submitter.available(key)) for key in ("good", "bad")]
            while submitter.tasks.waiting.num_waiting != 2:
                await asyncio.sleep(0)
            await good.start()
            await good.succeed({"good": Value(b"x")})
            ended = time.perf_counter()
            assert await waits[0] is None
            assert time.perf_counter() - ended < 0.1
            await bad.report_error("text")
            error = await waits[1]
            assert (error.task_id, error.errors[0].detail) == ("bad", "text")
            for key, session in (("unknown", "s"), ("good", "unknown")):
                async with fails(NOT_FOUND):
                    await submitter.available(key, session)
            async with fails(INVALID):
                await submitter.available("")

    run_async(work)


def test_32_completion_counts_every_task(tmp_path: Path) -> None:
    async def odd_ones_fail(lease: Lease) -> None:
        await (report_error(lease) if int(lease.task.id) % 2 else succeed(lease))

    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            ids = [str(number) for number in range(30)]
            await submitter.create(*map(task, ids))
            waits = [
                asyncio.ensure_future(submitter.wait(selection))
                for selection in (of_session("s"), of_tasks(*ids), of_tasks(*ids, excluded=[A.TASK_STATUS_COMPLETED]))
            ]
            async with submitter.agents(odd_ones_fail, 3):
                counts = await asyncio.gather(*waits)
            assert counts == [{"COMPLETED": 15, "ERROR": 15}] * 2 + [{"ERROR": 15}]

    run_async(work)


def test_32_waiting_follows_tasks_that_are_added_and_retried(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("a"))
            by_session = asyncio.ensure_future(submitter.wait(of_session("s")))
            by_task = asyncio.ensure_future(submitter.wait(of_tasks("a"), stop_on_first_task_error=True))
            (lease,) = await submitter.tasks.acquire("agent")
            await lease.start()
            await lease.fail(FailureKind.CALL, "worker lost")
            await submitter.create(task("b"))
            await asyncio.sleep(0.05)
            assert not by_session.done() and not by_task.done()
            async with submitter.agents(succeed):
                # An attempt that is retried neither ends the wait nor counts as an error; its own status is told.
                assert await by_task == {"ERROR": 1}
                assert await by_session == {"ERROR": 1, "COMPLETED": 2}

    run_async(work)


async def _wait_with(submitter: Submitter, **flags: bool) -> asyncio.Future[Any]:
    before = submitter.tasks.waiting.num_waiting
    wait = asyncio.ensure_future(submitter.wait(of_session("s"), **flags))
    while submitter.tasks.waiting.num_waiting == before:
        await asyncio.sleep(0)
    return wait


def test_33_first_error_ends_the_wait_that_asks_for_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("a"), task("b"), task("c"))
            stopping = await _wait_with(submitter, stop_on_first_task_error=True)
            others = [await _wait_with(submitter), await _wait_with(submitter, stop_on_first_task_cancellation=True)]
            (lease,) = await submitter.tasks.acquire("agent")
            await lease.start()
            await lease.report_error("text")
            assert await stopping == {"ERROR": 1, "SUBMITTED": 2}
            await asyncio.sleep(0.05)
            assert not any(wait.done() for wait in others)
            async with submitter.agents(succeed):
                assert await asyncio.gather(*others) == [{"ERROR": 1, "COMPLETED": 2}] * 2

    run_async(work)


def test_34_first_cancellation_ends_the_wait_that_asks_for_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("a"), task("b"), task("c"))
            stopping = await _wait_with(submitter, stop_on_first_task_cancellation=True)
            others = [await _wait_with(submitter), await _wait_with(submitter, stop_on_first_task_error=True)]
            await submitter.call("CancelTasks", of_tasks("b"))
            assert await stopping == {"CANCELED": 1, "SUBMITTED": 2}
            await asyncio.sleep(0.05)
            assert not any(wait.done() for wait in others)
            async with submitter.agents(succeed):
                assert await asyncio.gather(*others) == [{"CANCELED": 1, "COMPLETED": 2}] * 2

    run_async(work)


def test_35_waiting_for_nothing_ends_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            for selection in (of_session("s"), of_session("unknown"), of_tasks("unknown")):
                assert await submitter.wait(selection) == {}
            await submitter.create(task("t"))
            # Only tasks that match now count.
            assert await submitter.wait(of_session("s", included=[A.TASK_STATUS_ERROR])) == {}

    run_async(work)


def test_36_thousand_waits_are_cheap_and_can_be_cancelled(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t"))
            waits = [
                asyncio.ensure_future(submitter.available("t") if number % 2 else submitter.wait(of_session("s")))
                for number in range(1000)
            ]
            while submitter.tasks.waiting.num_waiting < 1000:
                await asyncio.sleep(0.01)
            for number in range(20):
                assert await submitter.create(*(task(f"{number}-{index}") for index in range(100))) == []
            for wait in waits[:500]:
                wait.cancel()
            await asyncio.gather(*waits[:500], return_exceptions=True)
            while submitter.tasks.waiting.num_waiting > 500:
                await asyncio.sleep(0.01)
            await submitter.call("CancelSession", A.Session(id="s"))
            await asyncio.gather(*waits[500:])
            assert submitter.tasks.waiting.num_waiting == 0

    run_async(work, 100)


def test_waits_end_when_the_server_stops(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t"))
            calls = submitter.available("t"), submitter.wait(of_session("s"))
            waits = [asyncio.ensure_future(call) for call in calls]
            while submitter.tasks.waiting.num_waiting < 2:
                await asyncio.sleep(0)
            submitter.plane.drain()
            for wait in waits:
                async with fails(grpc.StatusCode.UNAVAILABLE):
                    await wait

    run_async(work)


def test_filters_of_a_oneof_take_what_was_set_last(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t"))
            await submitter.create(task("u"))
            # session{["s"]}, then task{["t"]}.
            selection = bytes.fromhex("0a030a0173" "1a030a0174")
            call = submitter.channel.unary_unary("/ArmoniK.api.grpc.v1.Submitter/ListTasks")
            assert await call(selection, timeout=10) == b"\x0a\x01t"
            # session{["s"]} with included [COMPLETED, ERROR].
            call = submitter.channel.unary_unary("/ArmoniK.api.grpc.v1.Submitter/CountTasks")
            assert await call(bytes.fromhex("0a030a017322040a020405"), timeout=10) == b""

    run_async(work)


def test_large_task_payload_is_gone_when_nobody_needs_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            pieces = [chunk(b"x" * 80_000)] * 60
            await submitter.stream([begin(), header("t"), *pieces, DONE, header("u"), *pieces, DONE, LAST])
            files = [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
            assert len(files) == 1, "the same content is kept once"

            async def small(lease: Lease) -> None:
                await lease.succeed({lease.task.id: Value(b"")})

            async with submitter.agents(small):
                await submitter.wait(of_session("s"))
            async with asyncio.timeout(10):
                while files[0].exists():
                    await asyncio.sleep(0.01)

    run_async(work)
