"""Items of the task protocol's checklist that need a worker: one of the gRPC library and the messages alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest

from tests.conformance.armonik.outside_worker import (
    HEALTH,
    Conversation,
    OutsideWorker,
    add,
    remove,
    result_parts,
    succeed,
    working,
)
from tests.conformance.armonik.submitter import (
    CHUNK_BYTES,
    DONE,
    LAST,
    A,
    Submitter,
    begin,
    chunk,
    header,
    of_session,
    of_tasks,
    options,
    serve,
    task,
)
from tests.leaks import run_async

TIMEOUT_S = 20.0


@contextlib.asynccontextmanager
async def plane(folder: Path, **changes: Any) -> AsyncIterator[Submitter]:
    """Serve the task plane with one session."""
    async with serve(folder, task_check_s=0.05, **changes) as submitter:
        await submitter.session()
        yield submitter


async def until(condition: Any, what: str) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


async def end(conversation: Conversation) -> None:
    """Succeed and leave as the protocol has it."""
    await conversation.ok()
    await conversation.until_half_close()


async def fail_call(conversation: Conversation, text: str) -> None:
    """End the call with a status."""
    await conversation.context.abort(grpc.StatusCode.INTERNAL, text)


def test_11_options_of_the_session_reach_the_worker(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            await submitter.session(options={"a": "1", "b": ""}, priority=3)
            await submitter.stream([begin(), header("t"), chunk(b"x"), DONE, LAST])
            await submitter.create(task("own"), options={"c": "2"})
            async with working(submitter, succeed) as worker:
                assert await submitter.available("t") is None
                assert await submitter.available("own") is None
                seen = {talk.given.task: dict(talk.given.init.task_options) for talk in worker.conversations}
            assert seen == {"t": {"a": "1", "b": ""}, "own": {"c": "2"}}

    run_async(work)


def test_12_large_payload_reaches_the_worker_byte_for_byte(tmp_path: Path) -> None:
    payload = bytes(range(256)) * 40960

    async def work() -> None:
        async with plane(tmp_path) as submitter:
            parts = [chunk(payload[start : start + CHUNK_BYTES]) for start in range(0, len(payload), CHUNK_BYTES)]
            await submitter.stream([begin(), header("t"), *parts, DONE, LAST])

            async def script(talk: Conversation) -> None:
                given = await talk.take_input()
                assert given.payload == payload
                pieces = [payload[start : start + 50_000] for start in range(0, len(payload), 50_000)]
                await talk.result("t", *pieces)
                await end(talk)

            async with working(submitter, script, tmp_path) as worker:
                assert await submitter.available("t") is None
                assert await submitter.data("t") == payload
                assert max(worker.conversations[0].given.chunk_sizes) <= CHUNK_BYTES

    run_async(work)


def test_13_chunk_of_a_result_has_a_largest_size(tmp_path: Path) -> None:
    async def script(talk: Conversation) -> None:
        given = await talk.take_input()
        await talk.result(given.task, b"x" * (CHUNK_BYTES + (given.task == "large")))
        await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            await submitter.create(task("fits"), task("large"))
            assert await submitter.available("fits") is None
            error = await submitter.available("large")
            assert str(CHUNK_BYTES) in error.errors[0].detail
            assert await submitter.statuses("large", "large###1") == {"large": "ERROR"}

    run_async(work)


def test_14_empty_payload_and_30_empty_results(tmp_path: Path) -> None:
    async def script(talk: Conversation) -> None:
        given = await talk.take_input()
        if given.task == "bare":
            await talk.result("bare")  # not one chunk
        else:
            await talk.result(given.task, b"")
        await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter:
            await submitter.stream(
                [begin(), header("chunk"), chunk(b""), DONE, header("bare"), DONE, header("next", needs=["bare"]), DONE]
            )
            async with working(submitter, script) as worker:
                for key in ("chunk", "bare", "next"):
                    assert await submitter.available(key) is None
                    assert await submitter.data(key) == b""
                assert all(talk.given.payload == b"" for talk in worker.conversations)
                assert worker.conversations[-1].given.data == {"bare": b""}

    run_async(work)


def test_28_result_of_a_failed_task_is_its_error(tmp_path: Path) -> None:
    async def script(talk: Conversation) -> None:
        await talk.take_input()
        await talk.result("t", b"a part")
        await talk.error("it went wrong")
        await talk.until_half_close()

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            await submitter.create(task("t"))
            error = await submitter.available("t")
            (reply,) = await submitter.download("t")
            assert reply.error == error
            assert (error.task_id, error.errors[0].task_status) == ("t", A.TASK_STATUS_ERROR)
            assert error.errors[0].detail == "it went wrong"
            output = await submitter.output("t")
            assert (output.error.details, output.status) == ("it went wrong", A.TASK_STATUS_ERROR)

    run_async(work)


@pytest.mark.parametrize("is_unix", [False, True], ids=["tcp", "unix"])
def test_37_order_of_the_compute_part(tmp_path: Path, is_unix: bool) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter:
            await submitter.create(task("b"), task("a"), task("c", payload=b"y" * 30_000))
            await submitter.create(task("t", "r1", "r2", needs=["b", "a", "c"], payload=b"p" * 83_999))
            async with working(submitter, succeed, tmp_path if is_unix else None) as worker:
                assert await submitter.available("r2") is None
                given = worker.conversations[-1].given
            assert given.order == [
                "init_request",
                "payload_complete",
                *("key b", "complete b", "key a", "complete a", "key c", "complete c"),
                "last_data",
            ]
            assert given.payload == b"p" * 83_999 and given.payload_is_complete
            assert given.data == {"b": b"b:payload", "a": b"a:payload", "c": b"c:" + b"y" * 30_000}
            assert (given.init.session_id, given.task, given.keys) == ("s", "t", ["r1", "r2"])
            assert given.init.configuration.data_chunk_max_size == CHUNK_BYTES

    run_async(work)


def test_37_bytes_are_those_of_the_specification(tmp_path: Path) -> None:
    seen: list[bytes] = []
    expected = [
        "0a1f0a1d0a0408a090051201731a01742206 0a016b120176 2a01723204 0a026162",
        "0a0412021001",
        "0a051a030a0164",
        "0a0622040a026566",
        "0a0422021001",
        "0a041a021001",
    ]

    async def raw(messages: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        is_first = True
        async for message in messages:
            seen.append(message)
            if message == bytes.fromhex(expected[-1]):
                key = b"d" if is_first and b"\x1a\x01d" in seen[0] else b"r"
                yield bytes.fromhex("0a035223301a050a030a01") + key
                yield bytes.fromhex("0a035223301a0612040a02") + (b"ef" if key == b"d" else b"ab")
                yield bytes.fromhex("0a035223301a0412021001")
                yield bytes.fromhex("0a035223301a040a021001")
                yield bytes.fromhex("12021200")

    async def work() -> None:
        server = grpc.aio.server()
        handlers = {"Process": grpc.stream_stream_rpc_method_handler(raw)}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("ArmoniK.api.grpc.v1.Worker", handlers),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with plane(tmp_path) as submitter:
            await submitter.create(task("d"))
            await add(submitter, f"127.0.0.1:{port}")
            assert await submitter.available("d") is None
            seen.clear()
            await submitter.create(task("t", "r", needs=["d"], payload=b"ab"), options={"k": "v"})
            assert await submitter.available("r") is None
            assert await submitter.data("r") == b"ab"
            await remove(submitter, f"127.0.0.1:{port}")
        await server.stop(None)
        assert [message.hex() for message in seen] == [text.replace(" ", "") for text in expected]

    run_async(work)


def test_38_agent_half_closes_after_the_output_only(tmp_path: Path) -> None:
    states: list[bool] = []

    async def script(talk: Conversation) -> None:
        await talk.take_input()
        reading = asyncio.ensure_future(talk.read())
        await asyncio.sleep(0.1)
        states.append(reading.done())
        await talk.result("t", b"value")
        await talk.ok()
        assert await reading is None
        states.append(talk.half_closed)

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            await submitter.create(task("t"))
            assert await submitter.available("t") is None
            await until(lambda: states == [False, True], str(states))

    run_async(work)


def test_39_interleaved_results(tmp_path: Path) -> None:
    async def script(talk: Conversation) -> None:
        await talk.take_input()
        one = result_parts("a", b"a1", b"a2", b"a3")
        two = result_parts("b", b"b1", b"b2", b"b3")
        for first, second in zip(one, two):
            await talk.write(request_id="R#0", result=first)
            await talk.write(request_id="R#1", result=second)
        # Two keys under one request id, and one key twice: the last value counts.
        parts = [*result_parts("c", b"early")[:-1], *result_parts("c", b"late")[:-1], *result_parts("d", b"d")]
        for part in parts:
            await talk.write(request_id="R#2", result=part)
        await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            await submitter.create(task("t", "a", "b", "c", "d"))
            assert await submitter.available("a") is None
            data = [await submitter.data(key) for key in "abcd"]
            assert data == [b"a1a2a3", b"b1b2b3", b"late", b"d"]

    run_async(work)


def test_40_creations_get_one_answer_each(tmp_path: Path) -> None:
    replies: list[Any] = []

    async def script(talk: Conversation) -> None:
        given = await talk.take_input()
        if given.task != "t":
            await talk.result(given.keys[0], given.payload[:5])
            await end(talk)
            return
        replies.append(await talk.create_large(task("l1", payload=b"x" * 2500), task("l2", payload=b"")))
        replies.append(await talk.create_small(task("s1", "r")))
        replies.append(await talk.create_small(task("l1"), task("new")))  # is there already
        replies.append(await talk.create_small(task("empty", payload=b"")))
        replies.append(await talk.create_small(task("p"), options=options(priority=10)))
        replies.append(await talk.create_large(task("q"), options=options(max_retries=0)))
        replies.append(await talk.create_small(task("twice", "r")))  # claimed by s1
        assert await submitter_of[0].statuses("l1", "l2", "s1", "new") == dict.fromkeys(("l1", "l2", "s1"), "CREATING")
        await talk.result("t", b"done")
        await end(talk)
        assert talk.late == []

    submitter_of: list[Submitter] = []

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            submitter_of.append(submitter)
            await submitter.create(task("t", "t", "r"))
            assert await submitter.available("r") is None
            found = [list(reply.non_successfull_ids.ids) for reply in replies]
            assert found == [[], [], ["l1"], ["empty"], ["p"], ["q"], ["twice"]]
            assert [reply.WhichOneof("Data") for reply in replies][:2] == ["successfull", "successfull"]
            assert (await submitter.wait(of_session("s"))) == {"COMPLETED": 4}
            assert await submitter.data("l1") == b"xxxxx"
            assert await submitter.data("r") == b"paylo"

    run_async(work)


def test_41_result_that_belongs_to_another_task(tmp_path: Path) -> None:
    async def script(talk: Conversation) -> None:
        await talk.take_input()
        with contextlib.suppress(Exception):  # the agent need not wait for the end
            await talk.result("t", b"own")
            await talk.result("other", b"foreign")
            await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter:
            await submitter.create(task("other", needs=["never"]))
            async with working(submitter, script):
                await submitter.create(task("t"))
                error = await submitter.available("t")
                assert "'other'" in error.errors[0].detail and "'t'" in error.errors[0].detail
                assert await submitter.statuses("t", "t###1") == {"t": "ERROR"}
                assert await submitter.results("t", "other") == {"t": "ABORTED", "other": "CREATED"}

    run_async(work)


def test_42_requests_for_data(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    folder = tmp_path / "resources"
    folder.mkdir()
    (folder / "k").write_bytes(b"ab")
    (folder / quote("a/b c", safe="")).write_bytes(b"z" * 200_000)
    (folder / "empty").write_bytes(b"")
    (tmp_path / "secret").write_bytes(b"secret")

    async def script(talk: Conversation) -> None:
        given = await talk.take_input()
        if given.task == "made":
            await talk.result("made", b"m" * 50_000, b"m" * 50_000)
            await end(talk)
            return
        for kind, key in [
            ("resource", "k"), ("resource", "a/b c"), ("resource", "empty"), ("resource", "../secret"),
            ("resource", ".."), ("resource", "nobody"), ("common_data", "made"), ("common_data", "t"),
            ("common_data", "nobody"), ("direct_data", "k"),
        ]:
            found[f"{kind} {key}"] = await talk.ask(kind, key)
        # Several at a time.
        ids = [talk.request_id() for _ in range(5)]
        for request_id in ids:
            await talk.write(request_id=request_id, common_data=A.ProcessReply.DataRequest(key="nobody"))
        answers = [(await talk.read()).common_data for _ in ids]
        assert {answer.reply_id for answer in answers} == set(ids)
        await talk.result("t", b"")
        await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            await submitter.create(task("made"), task("t", needs=["made"]))
            assert await submitter.available("t") is None
            assert {name: answer[:2] for name, answer in found.items()} == {
                "resource k": (b"ab", ""),
                "resource a/b c": (b"z" * 200_000, ""),
                "resource empty": (b"", ""),
                "resource ../secret": (None, "Key not found"),
                "resource ..": (None, "Key not found"),
                "resource nobody": (None, "Key not found"),
                "common_data made": (b"m" * 100_000, ""),
                "common_data t": (None, "Key not found"),
                "common_data nobody": (None, "Key not found"),
                "direct_data k": (None, "Direct data are not supported yet"),
            }
            for name, (data, _, messages) in found.items():
                assert messages[0].init.key == name.partition(" ")[2]
                assert (len(messages) == 1) is (data is None)

    run_async(work)


def test_43_health_of_the_worker_decides(tmp_path: Path) -> None:
    async def work() -> None:
        async with plane(tmp_path) as submitter:
            worker = OutsideWorker(succeed, "127.0.0.1:0")
            worker.health = HEALTH.NOT_SERVING
            await worker.start()
            await add(submitter, worker.endpoint)
            await submitter.create(task("t"))
            for health in (HEALTH.NOT_SERVING, HEALTH.UNKNOWN):
                worker.health = health
                seen = worker.num_checks
                await until(lambda seen=seen: worker.num_checks > seen + 3, "checks go on")  # type: ignore[misc]
                assert await submitter.statuses("t") == {"t": "SUBMITTED"}
            worker.health = None
            assert await submitter.available("t") is None
            # An idle worker is asked again.
            worker.health = HEALTH.NOT_SERVING
            seen = worker.num_checks
            await until(lambda: worker.num_checks > seen + 1, "an idle worker is asked")
            await submitter.create(task("u"))
            assert await submitter.statuses("u") == {"u": "SUBMITTED"}
            worker.health = HEALTH.SERVING
            assert await submitter.available("u") is None
            await remove(submitter, worker.endpoint)
            await worker.stop()

    run_async(work)


def test_44_dependencies_with_workers(tmp_path: Path) -> None:
    order: list[str] = []

    async def script(talk: Conversation) -> None:
        order.append((await talk.take_input()).task)
        await asyncio.sleep(0.01)
        await talk.result(talk.given.task, b"".join(talk.given.data.values()) + talk.given.task.encode())
        await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script, number=3):
            await submitter.create(task("d", needs=["b", "c"]), task("c", needs=["a"]), task("b", needs=["a"]))
            await submitter.create(task("a"))
            assert await submitter.available("d") is None
            assert (order[0], order[-1]) == ("a", "d") and len(order) == 4
            assert await submitter.data("d") == b"abacd"

    run_async(work)


def test_45_subtasks_and_46_handover(tmp_path: Path) -> None:
    runs: list[str] = []

    async def script(talk: Conversation) -> None:
        given = await talk.take_input()
        runs.append(given.task)
        if given.task in ("good", "bad"):
            reply = await talk.create_large(
                task(f"{given.task}-child", f"{given.task}-r", needs=[given.task]), task(f"{given.task}-new")
            )
            assert reply.WhichOneof("Data") == "successfull"
            await talk.result(given.task, b"parent ")
        else:
            await talk.result(given.keys[0], b"".join(given.data.values()) + b"child")
        await (talk.error("no") if given.task == "bad" else talk.ok())
        await talk.until_half_close()

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            await submitter.create(task("good", "good", "good-r"), task("bad", "bad", "bad-r"))
            assert await submitter.available("good-r") is None
            assert await submitter.data("good-r") == b"parent child"
            assert (await submitter.available("bad-r")).errors[0].detail == "no"
            await submitter.wait(of_session("s"))
            assert sorted(runs) == ["bad", "good", "good-child", "good-new"]
            dropped = ("bad-child", "bad-new")
            assert await submitter.statuses(*dropped) == dict.fromkeys(dropped, "CANCELED")

    run_async(work)


def test_48_ok_without_a_result(tmp_path: Path) -> None:
    async def script(talk: Conversation) -> None:
        await talk.take_input()
        await talk.result("made", b"1")
        await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            await submitter.create(task("t", "made", "missing"))
            assert await submitter.available("made") is None
            error = await submitter.available("missing")
            assert error.errors[0].task_status == A.TASK_STATUS_COMPLETED
            assert "'missing'" in error.errors[0].detail

    run_async(work)


@pytest.mark.parametrize("failures", [1, 3])
def test_49_worker_that_raises_is_called_again(tmp_path: Path, failures: int) -> None:
    runs: list[str] = []

    async def script(talk: Conversation) -> None:
        given = await talk.take_input()
        runs.append(given.task)
        if len(runs) <= failures:
            await talk.result("r", b"partial")
            await fail_call(talk, f"failure {len(runs)}")
        await talk.result("r", b"value")
        await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter:
            await submitter.create(task("t", "r"), max_retries=3)
            wait = asyncio.ensure_future(submitter.available("r"))
            async with working(submitter, script):
                assert await wait is None
            assert runs == ["t", *(f"t###{number}" for number in range(1, failures + 1))]
            statuses = await submitter.statuses(*runs)
            assert list(statuses.values()) == ["ERROR"] * failures + ["COMPLETED"]
            assert (await submitter.output("t")).error.details == "failure 1"
            assert await submitter.data("r") == b"value"

    run_async(work)


def test_50_worker_that_raises_for_ever(tmp_path: Path) -> None:
    async def script(talk: Conversation) -> None:
        given = await talk.take_input()
        if given.task == "answer":
            await talk.error("final")
            await talk.until_half_close()
        elif given.task.startswith("silent"):
            return  # OK, without an output
        else:
            await fail_call(talk, given.task)

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script) as worker:
            await submitter.create(task("t"), task("answer"), task("silent"), max_retries=2)
            error = await submitter.available("t")
            assert (error.task_id, error.errors[0].detail) == ("t###2", "t###2")
            assert (await submitter.available("answer")).errors[0].detail == "final"
            assert "without an output" in (await submitter.available("silent")).errors[0].detail
            counts: dict[str, int] = {}
            for talk in worker.conversations:
                first = talk.given.task.partition("###")[0]
                counts[first] = counts.get(first, 0) + 1
            assert counts == {"t": 3, "answer": 1, "silent": 3}

    run_async(work)


def test_51_lost_worker_is_a_retry_elsewhere(tmp_path: Path) -> None:
    async def hang(talk: Conversation) -> None:
        await talk.take_input()
        await talk.result("t", b"partial")
        await talk.create_small(task("child"))
        await asyncio.sleep(3600)

    async def work() -> None:
        async with plane(tmp_path) as submitter:
            first = OutsideWorker(hang, "127.0.0.1:0")
            await first.start()
            await add(submitter, first.endpoint)
            await submitter.create(task("t"))
            await until(lambda: first.conversations and first.conversations[0].given.order, "it runs")
            await until(lambda: "child" in str(submitter.tasks.store.read(lambda t: t.task_by_id("child"))), "child")
            await first.stop()
            async with working(submitter, succeed):
                assert await submitter.available("t") is None
            assert await submitter.data("t") == b"t:payload"
            assert await submitter.statuses("t", "t###1", "child") == {
                "t": "ERROR", "t###1": "COMPLETED", "child": "CANCELED"
            }
            await remove(submitter, first.endpoint)

    run_async(work)


def test_52_worker_sees_its_deadline_and_a_retry_follows(tmp_path: Path) -> None:
    seen: list[tuple[float, bool]] = []

    async def script(talk: Conversation) -> None:
        left_s = talk.context.time_remaining()
        given = await talk.take_input()
        if given.task == "t":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                seen.append((left_s, talk.context.cancelled()))
                raise
        await talk.result("t", b"in time")
        await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            await submitter.create(task("t"), duration_s=0.5)
            assert await submitter.available("t") is None
            output = await submitter.output("t")
            assert (output.status, output.error.details) == (A.TASK_STATUS_TIMEOUT, "Deadline Exceeded")
            assert await submitter.statuses("t", "t###1") == {"t": "TIMEOUT", "t###1": "COMPLETED"}
            await until(lambda: bool(seen), "the worker is told")
            assert 0 < seen[0][0] <= 0.51

    run_async(work)


def test_54_cancelled_running_task(tmp_path: Path) -> None:
    seen: list[str] = []

    async def script(talk: Conversation) -> None:
        given = await talk.take_input()
        if given.task == "running":
            seen.append("began")
            await talk.result("running", b"part")
            await talk.create_small(task("child"))
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise
        await talk.result(given.keys[0], b"value")
        await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script) as worker:
            await submitter.create(task("ended"))
            assert await submitter.available("ended") is None
            await submitter.create(task("running"))
            await until(lambda: seen == ["began"], "it runs")
            await submitter.create(task("queued"), task("next"))
            await submitter.call("CancelTasks", of_tasks("ended", "running", "queued"))
            assert await submitter.available("next") is None
            await submitter.wait(of_session("s"))
            await until(lambda: seen == ["began", "cancelled"], "the worker is told")
            assert await submitter.statuses("ended", "running", "queued", "child") == {
                "ended": "COMPLETED", "running": "CANCELED", "queued": "CANCELED", "child": "CANCELED"
            }
            assert await submitter.results("ended", "running", "queued") == {
                "ended": "COMPLETED", "running": "ABORTED", "queued": "ABORTED"
            }
            assert [talk.given.task for talk in worker.conversations] == ["ended", "running", "next"]

    run_async(work)


def test_55_cancelled_session(tmp_path: Path) -> None:
    began = asyncio.Event()

    async def script(talk: Conversation) -> None:
        given = await talk.take_input()
        if given.task == "running":
            began.set()
            await asyncio.sleep(3600)
        await talk.result(given.keys[0], b"value")
        await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            await submitter.session("other")
            await submitter.create(task("done"))
            assert await submitter.available("done") is None
            await submitter.create(task("running"), task("queued"))
            await asyncio.wait_for(began.wait(), TIMEOUT_S)
            await submitter.create(task("theirs"), session="other")
            await submitter.call("CancelSession", A.Session(id="s"))
            assert await submitter.available("theirs", "other") is None
            assert await submitter.wait(of_session("s")) == {"COMPLETED": 1, "CANCELED": 2}
            assert await submitter.data("done") == b"value"

    run_async(work)


def test_56_order_of_priorities_with_a_busy_worker(tmp_path: Path) -> None:
    order: list[str] = []
    go = asyncio.Event()

    async def script(talk: Conversation) -> None:
        given = await talk.take_input()
        order.append(given.task)
        if given.task == "busy":
            await go.wait()
        await talk.result(given.keys[0], b"")
        await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            await submitter.create(task("busy"))
            await until(lambda: order == ["busy"], "it runs")
            for priority in (1, 5, 9, 3, 7, 2, 8, 4, 6):
                await submitter.create(task(f"{priority}a"), task(f"{priority}b"), priority=priority)
            go.set()
            await submitter.wait(of_session("s"))
            assert order[1:] == [f"{priority}{letter}" for priority in range(9, 0, -1) for letter in "ab"]

    run_async(work)


# What the specification decides beside the checklist.


@pytest.mark.parametrize("kind", ["resource", "small", "result"])
def test_request_without_an_id_ends_the_attempt(tmp_path: Path, kind: str) -> None:
    answers: list[Any] = []

    async def script(talk: Conversation) -> None:
        await talk.take_input()
        if kind == "resource":
            await talk.write(resource=A.ProcessReply.DataRequest(key="k"))
            answers.append((await talk.read()).resource)
        elif kind == "small":
            await talk.write(create_small_task=A.ProcessReply.CreateSmallTaskRequest(task_requests=[task("x")]))
            answers.append((await talk.read()).create_task)
        else:
            await talk.write(result=result_parts("t")[0])
            await talk.until_half_close()

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            await submitter.create(task("t"))
            assert (await submitter.available("t")).errors[0].detail == "missing request id"
            assert await submitter.statuses("t", "t###1", "x") == {"t": "ERROR"}
            await until(lambda: kind == "result" or answers, "the worker is told")
            assert [answer.reply_id for answer in answers] == ([] if kind == "result" else ["Missing request Id"])
            if kind == "resource":
                assert answers[0].init.error == "No request Id"

    run_async(work)


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ("open result", "was not complete"),
        ("open tasks", "was not complete"),
        ("no output", "worker returned no output"),
        ("data without key", "without its init.key"),
        ("header without init", "begins with init_request"),
        ("payload without header", "there is no task for it"),
        ("empty reply", "without content"),
        ("no last chunk", "not complete yet"),
    ],
)
def test_broken_protocol_is_an_error_and_not_retried(tmp_path: Path, broken: str, text: str) -> None:
    large = A.ProcessReply.CreateLargeTaskRequest
    parts = result_parts("t", b"x")
    sent: dict[str, list[dict[str, Any]]] = {
        "open result": [{"request_id": "R", "result": part} for part in parts[:-1]],
        "open tasks": [{"request_id": "R", "create_large_task": large(init_request=large.InitRequest())}],
        "no output": [{"output": A.Output()}],
        "data without key": [{"request_id": "R", "result": parts[1]}],
        "header without init": [{"request_id": "R", "create_large_task": large(init_task=A.InitTaskRequest())}],
        "payload without header": [
            {"request_id": "R", "create_large_task": large(init_request=large.InitRequest())},
            {"request_id": "R", "create_large_task": large(task_payload=A.DataChunk(data=b"x"))},
        ],
        "empty reply": [{"request_id": "R"}],
        "no last chunk": [{"request_id": "R", "result": part} for part in (*parts[:2], parts[-1])],
    }

    async def script(talk: Conversation) -> None:
        given = await talk.take_input()
        if given.task == "after":
            await talk.result("after", b"")
            await end(talk)
            return
        with contextlib.suppress(Exception):
            for fields in sent[broken]:
                await talk.write(**fields)
            await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            await submitter.create(task("t"))
            assert text in (await submitter.available("t")).errors[0].detail
            assert await submitter.statuses("t", "t###1") == {"t": "ERROR"}
            await submitter.create(task("after"))
            assert await submitter.available("after") is None

    run_async(work)


def test_worker_that_writes_before_it_reads(tmp_path: Path) -> None:
    number = 200

    async def script(talk: Conversation) -> None:
        await talk.take_input()
        ids = [talk.request_id() for _ in range(30)]
        for request_id in ids:
            await talk.write(request_id=request_id, resource=A.ProcessReply.DataRequest(key="large"))
        await talk.result("t", *([b"x" * CHUNK_BYTES] * number))
        got: dict[str, int] = {}
        while sum(got.values()) < 30 * 300_000:
            reply = (await talk.read()).resource
            got[reply.reply_id] = got.get(reply.reply_id, 0) + len(reply.init.data.data) + len(reply.data.data)
        assert got == dict.fromkeys(ids, 300_000)
        await end(talk)

    (tmp_path / "resources").mkdir()
    (tmp_path / "resources" / "large").write_bytes(b"r" * 300_000)

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script):
            await submitter.create(task("t"))
            assert await submitter.available("t") is None
            size = sum(len(reply.result.data) for reply in await submitter.download("t"))
            assert size == number * CHUNK_BYTES

    run_async(work)


def test_removed_worker_finishes_or_gives_back(tmp_path: Path) -> None:
    go = asyncio.Event()
    runs: list[str] = []

    async def slow(talk: Conversation) -> None:
        runs.append((await talk.take_input()).task)
        await go.wait()
        await talk.result(talk.given.keys[0], b"value")
        await end(talk)

    async def work() -> None:
        async with plane(tmp_path) as submitter:
            worker = OutsideWorker(slow, "127.0.0.1:0")
            await worker.start()
            await submitter.create(task("a"), task("b"))
            await add(submitter, worker.endpoint)
            await until(lambda: runs == ["a"], "it runs")
            await remove(submitter, worker.endpoint, 0.05)
            assert await submitter.statuses("a", "a###1", "b") == {"a": "SUBMITTED", "b": "SUBMITTED"}
            await add(submitter, worker.endpoint)
            await until(lambda: runs == ["a", "a"], "it runs again, as the same attempt")
            removal = asyncio.ensure_future(remove(submitter, worker.endpoint, 60))
            await asyncio.sleep(0.05)
            go.set()
            await removal
            assert await submitter.statuses("a", "b") == {"a": "COMPLETED", "b": "SUBMITTED"}
            await worker.stop()

    run_async(work)
