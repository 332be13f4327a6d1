"""Items of the task protocol's checklist that need a worker: what it and the agent say to each other."""

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
    Conversation,
    add,
    end,
    remove,
    result_parts,
    succeed,
    until,
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
    options,
    plane,
    serve,
    task,
)
from tests.leaks import run_async


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
