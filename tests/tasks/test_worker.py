"""Workers in Python: what functions see, what becomes of what they return, and an agent that nobody here wrote."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from runtime import config, wire
from runtime.client.access import Access
from runtime.errors import InvalidArgument
from runtime.tasks.arrays import decode_arrays, encode_arrays
from runtime.tasks.worker.function import Worker, load, traceback_text, worker
from runtime.tasks.worker.process import WorkerProcess
from tests.conformance.armonik.outside_worker import workers_call
from tests.conformance.armonik.submitter import A, Submitter, of_session, of_tasks, options, serve, task
from tests.leaks import run_async
from tests.tasks import worker_functions

TIMEOUT_S = 30.0


@contextlib.asynccontextmanager
async def served(folder: Path, function: Worker, number: int = 1, **changes: Any) -> AsyncIterator[Submitter]:
    """Serve tasks of one session by a function."""
    async with serve(folder, task_check_s=0.05, **changes) as submitter:
        await submitter.session()
        processes = []
        try:
            for index in range(number):
                settings = config.load({"listen": f"unix:{folder}/{index}.sock"}, {}, user_file=False).settings
                process = WorkerProcess(function, settings, [(f"grpc://{submitter.address}", Access())], f"w{index}")
                await process.start()
                processes.append(process)
                await process.registered()
            yield submitter
        finally:
            await asyncio.gather(*(process.stop(5.0) for process in processes))


async def until(condition: Any) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.005)


def test_function_sees_its_task(tmp_path: Path) -> None:
    async def work() -> None:
        async with served(tmp_path, worker_functions.by_payload) as submitter:
            await submitter.create(task("a", payload=b"facts"), options={"k": "v"})
            await submitter.create(task("b", "x", needs=["a"], payload=b"facts"))
            assert await submitter.available("x") is None
            assert await submitter.data("a") == b"s a 0 a  k=v"
            assert await submitter.data("x") == b"s b 0 x a=s a 0 a  k=v "

    run_async(work)


def test_exception_is_tried_again_and_its_traceback_told(tmp_path: Path) -> None:
    async def work() -> None:
        async with served(tmp_path, worker_functions.by_payload) as submitter:
            await submitter.create(task("t", payload=b"fail 1"), task("u", payload=b"fail 9"))
            await submitter.create(task("never", payload=b"refuse"), max_retries=3)
            assert await submitter.available("t") is None
            assert await submitter.data("t") == b"at last"
            error = (await submitter.available("u")).errors[0].detail
            assert error.startswith("Traceback (most recent call last):\n") and error.endswith("ValueError: failure 1")
            assert "in fail" in error and "concurrent/futures" not in error
            assert (await submitter.output("t")).error.details.endswith("ValueError: failure 0")
            await submitter.wait(of_session("s"))
            assert (await submitter.output("never")).error.details == "never"
            assert await submitter.statuses("never###1") == {}

    run_async(work)


def test_what_is_returned_finds_its_key(tmp_path: Path) -> None:
    async def work() -> None:
        async with served(tmp_path, worker_functions.by_payload) as submitter:
            await submitter.create(
                task("t", "a", "b", payload=b"both"), task("u", "c", "d", payload=b"one_for_two"),
                task("v", payload=b"text"),
            )
            await submitter.wait(of_session("s"))
            assert [await submitter.data(key) for key in "ab"] == [b"a", b"b"]
            assert "return a mapping of keys (c, d)" in (await submitter.available("c")).errors[0].detail
            assert "bytes are needed, not str" in (await submitter.available("v")).errors[0].detail
            assert await submitter.statuses("u###1", "v###1") == {}

    run_async(work)


def test_subtasks_and_data(tmp_path: Path) -> None:
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources" / "k").write_bytes(b"resource")

    async def work() -> None:
        async with served(tmp_path, worker_functions.by_payload, 2) as submitter:
            await submitter.create(task("t", "sent", "sum", payload=b"split"))
            assert await submitter.available("sum") is None
            assert await submitter.data("sum") == b"s t/2 0 sum  "
            assert await submitter.available("t/1") is None
            assert await submitter.data("t/1") == b"s t/1 0 t/1 sent=early "
            await submitter.create(task("claim", payload=b"claim"), task("ask", payload=b"ask"))
            assert await submitter.available("claim") is None and await submitter.available("ask") is None
            assert (await submitter.data("claim")).endswith(b"ids that stand against it: 'claim'")
            assert (await submitter.data("ask")).split(b"|") == [
                b"resource",
                b"common_data 'nobody': Key not found",
                b"direct_data 'k': Direct data are not supported yet",
                b"resource 'nobody': Key not found",
            ]
            await submitter.create(task("misuse", payload=b"misuse"))
            assert await submitter.available("misuse") is None
            assert (await submitter.data("misuse")).split(b"|") == [
                b"progress: fraction is 'half'; it must be from 0 to 1",
                b"progress: fraction is nan; it must be from 0 to 1",
                b"subtasks: bytes is no Subtask; write Subtask(payload)",
                b"subtask '': keys and dependencies are lists, not a text alone",
            ]

    run_async(work)


def test_coroutine(tmp_path: Path) -> None:
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources" / "k").write_bytes(b"resource")

    async def work() -> None:
        async with served(tmp_path, worker_functions.coroutine) as submitter:
            await submitter.create(task("t", "root", "rest", payload=b"root"))
            assert await submitter.available("rest") is None and await submitter.available("child") is None
            assert [await submitter.data(key) for key in ("root", "rest", "child")] == [b"resource", b"", b"t/1"]

    run_async(work)


def test_arrays(tmp_path: Path) -> None:
    x = np.arange(30_000, dtype=np.float32).reshape(100, 300)

    async def work() -> None:
        async with served(tmp_path, worker_functions.scale) as submitter:
            payload = encode_arrays({"x": x[:10], "factor": np.int64(3)})
            await submitter.create(task("a", payload=payload), task("b", needs=["a"], payload=payload))
            await submitter.create(task("c", payload=encode_arrays({"x": 1})), task("d", payload=b"no arrays"))
            assert await submitter.available("b") is None
            found = decode_arrays(await submitter.data("b"))
            assert list(found) == ["y", "of a"]
            assert all(np.array_equal(array, x[:10] * 3) for array in found.values())
            assert "do not fit" in (await submitter.available("c")).errors[0].detail
            assert "no named arrays" in (await submitter.available("d")).errors[0].detail

    run_async(work)


def test_array_codec() -> None:
    arrays = {"": np.zeros((0, 3)), "naïve": np.array(["a", "bc"]), "b": np.array([b"\xff", b""], object)}
    data = encode_arrays(arrays)
    found = decode_arrays(data)
    assert found["naïve"].tolist() == [b"a", b"bc"] and found["b"].tolist() == [b"\xff", b""]
    assert found[""].shape == (0, 3) and found[""].dtype == np.float64
    assert [entry.name for entry in wire.runtime_v1.NamedArrays.FromString(data).array] == list(arrays)
    message = wire.runtime_v1.NamedArrays()
    message.array.add(name="x").tensor.CopyFrom(wire.TensorProto(dtype=1, float_val=[1.5]))
    assert decode_arrays(message.SerializeToString())["x"].tolist() == 1.5
    assert decode_arrays(encode_arrays(7))["value"] == 7
    for end in range(1, len(data)):
        with contextlib.suppress(InvalidArgument):
            decode_arrays(data[:end])
    with pytest.raises(InvalidArgument, match="'x'"):
        encode_arrays({"x": {1, 2}})


def test_progress_and_list(tmp_path: Path) -> None:
    go = tmp_path / "go"

    async def work() -> None:
        async with served(tmp_path, worker_functions.by_payload) as submitter:
            await submitter.create(task("t", payload=b"progress"), options={"go": str(go)})
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    told = await workers_call(submitter, "GetProgress", wire.runtime_v1.GetProgressRequest())
                    if told.progress and told.progress[0].fraction == 1:
                        break
                    await asyncio.sleep(0.01)
            assert [(entry.task_id, entry.text) for entry in told.progress] == [("t", "step 4")]
            (listed,) = (await workers_call(submitter, "List", wire.runtime_v1.ListWorkersRequest())).worker
            assert (listed.state, list(listed.task_id), listed.is_registered) == ("busy", ["t"], True)
            assert (listed.endpoint, listed.name) == (f"unix:{tmp_path}/0.sock", "w0")
            go.touch()
            assert await submitter.available("t") is None
            told = await workers_call(submitter, "GetProgress", wire.runtime_v1.GetProgressRequest(task_id=["t"]))
            assert not told.progress

    run_async(work)


def test_cancelled_function_is_interrupted(tmp_path: Path) -> None:
    async def work() -> None:
        async with served(tmp_path, worker_functions.by_payload) as submitter:
            began = tmp_path / "began"
            await submitter.create(task("t", payload=f"spin {began}".encode()))
            await until(began.exists)
            await submitter.create(task("after", payload=b"facts"))
            await submitter.call("CancelTasks", of_tasks("t"))
            assert await submitter.available("after") is None
            assert await submitter.statuses("t") == {"t": "CANCELED"}

    run_async(work)


def test_function_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    async def work() -> None:
        async with served(tmp_path, worker_functions.by_payload) as submitter:
            await submitter.create(task("t", payload=f"spin {tmp_path}/began".encode()), duration_s=0.3)
            assert (await submitter.available("t")).errors[0].task_status == A.TASK_STATUS_TIMEOUT
            assert await submitter.statuses("t", "t###1") == {"t": "TIMEOUT", "t###1": "TIMEOUT"}
            await submitter.create(task("after", payload=b"facts"))
            assert await submitter.available("after") is None

    run_async(work)


def test_leaving_worker_ends_its_task(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            settings = config.load({"listen": "127.0.0.1:0"}, {}, user_file=False).settings
            process = WorkerProcess(
                worker_functions.by_payload, settings, [(f"grpc://{submitter.address}", Access())], concurrency=2
            )
            await process.start()
            await process.registered()
            await submitter.create(task("t", payload=f"wait {tmp_path}/go".encode()))
            await until((tmp_path / "go.began").exists)
            stop = asyncio.ensure_future(process.stop(TIMEOUT_S))
            await asyncio.sleep(0.1)
            await submitter.create(task("later", payload=b"facts"))
            assert not stop.done()
            (tmp_path / "go").touch()
            await stop
            assert await submitter.statuses("t", "later") == {"t": "COMPLETED", "later": "SUBMITTED"}
            assert not (await workers_call(submitter, "List", wire.runtime_v1.ListWorkersRequest())).worker

    run_async(work)


# An agent that nobody here wrote: the gRPC library and the documented messages.


def _compute(kind: str, message: Any) -> Any:
    return A.ProcessRequest(compute=A.ProcessRequest.ComputeRequest(**{kind: message}))


def _input(payload: list[Any], dependencies: dict[str, list[bytes]], *keys: str) -> list[Any]:
    compute = A.ProcessRequest.ComputeRequest
    first = compute.InitRequest(
        configuration=A.Configuration(data_chunk_max_size=1000), session_id="s", task_id="t", expected_output_keys=keys,
        payload=payload[0],
    )
    found = [_compute("init_request", first), *(_compute("payload", part) for part in payload[1:])]
    for key, pieces in dependencies.items():
        found.append(_compute("init_data", compute.InitData(key=key)))
        found += [_compute("data", A.DataChunk(data=piece)) for piece in pieces]
        found.append(_compute("data", A.DataChunk(data_complete=True)))
    return [*found, _compute("init_data", compute.InitData(last_data=True))]


async def _each(messages: list[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


DATA_COMPLETE = A.DataChunk(data_complete=True)


class OutsideAgent:
    """Drives Process of a worker over a channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        service = "/ArmoniK.api.grpc.v1.Worker/"
        self.process = channel.stream_stream(
            f"{service}Process", A.ProcessRequest.SerializeToString, A.ProcessReply.FromString
        )
        self.check = channel.unary_unary(
            f"{service}HealthCheck", A.Empty.SerializeToString, A.HealthCheckReply.FromString
        )

    async def run(self, messages: list[Any], timeout: float = TIMEOUT_S) -> tuple[dict[str, bytes], Any, int]:
        """Return results by key, the output, and the largest chunk; the call must end well after our half-close."""
        call = self.process(timeout=timeout)
        for message in messages:
            await call.write(message)
        results: dict[str, bytes] = {}
        keys: dict[str, str] = {}
        largest = 0
        while True:
            reply = await call.read()
            assert reply is not grpc.aio.EOF, await call.details()
            kind = reply.WhichOneof("type")
            if kind == "output":
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF
                assert await call.code() is grpc.StatusCode.OK
                return results, reply.output, largest
            if kind == "resource":
                init = A.ProcessRequest.DataReply.Init(key=reply.resource.key, data=A.DataChunk(data=b"re"))
                for part in ({"init": init}, {"data": A.DataChunk(data=b"source")}, {"data": DATA_COMPLETE}):
                    answer = A.ProcessRequest.DataReply(reply_id=reply.request_id, **part)
                    await call.write(A.ProcessRequest(resource=answer))
                continue
            if kind in ("common_data", "direct_data"):
                init = A.ProcessRequest.DataReply.Init(key="k", error=f"no {kind}")
                answer = A.ProcessRequest.DataReply(reply_id=reply.request_id, init=init)
                await call.write(A.ProcessRequest(**{kind: answer}))
                continue
            assert kind == "result" and reply.request_id
            part = reply.result
            if part.WhichOneof("type") == "init":
                if part.init.key:
                    keys[reply.request_id] = part.init.key
                    results[part.init.key] = b""
            else:
                results[keys[reply.request_id]] += part.data.data
                largest = max(largest, len(part.data.data))


@contextlib.asynccontextmanager
async def outside_agent(function: Worker) -> AsyncIterator[OutsideAgent]:
    """Serve a worker that knows no server, and return an agent for it."""
    settings = config.load({"listen": "127.0.0.1:0"}, {}, user_file=False).settings
    process = WorkerProcess(function, settings, [])
    await process.start()
    try:
        async with grpc.aio.insecure_channel(process.address) as channel:
            yield OutsideAgent(channel)
    finally:
        await process.stop(0.0)


def test_outside_agent_gives_a_task() -> None:
    async def work() -> None:
        async with outside_agent(worker_functions.double) as agent:
            assert (await agent.check(A.Empty())).status == A.HealthCheckReply.SERVING
            pieces = [A.DataChunk(data=b"a" * 1000), A.DataChunk(data=b"b" * 500), DATA_COMPLETE]
            results, output, largest = await agent.run(_input(pieces, {"d": [b"x", b"y"]}, "r"))
            assert results == {"r": (b"a" * 1000 + b"b" * 500) * 2}
            assert (output.WhichOneof("type"), largest) == ("ok", 1000)
            # The three ways to say that there is no payload.
            for empty in ([A.DataChunk(), DATA_COMPLETE], [A.DataChunk(data=b""), DATA_COMPLETE], [DATA_COMPLETE]):
                assert (await agent.run(_input(empty, {"d": []}, "r")))[0] == {"r": b""}

    run_async(work)


def test_outside_agent_answers_requests() -> None:
    async def work() -> None:
        async with outside_agent(worker_functions.by_payload) as agent:
            results, _, _ = await agent.run(_input([A.DataChunk(data=b"ask"), DATA_COMPLETE], {}, "r"))
            assert results["r"].split(b"|")[:2] == [b"resource", b"common_data 'k': no common_data"]
            refused = (await agent.run(_input([A.DataChunk(data=b"refuse"), DATA_COMPLETE], {}, "r")))[1]
            assert refused.error.details == "never"

    run_async(work)


def test_outside_agent_is_told_strange_things() -> None:
    async def work() -> None:
        async with outside_agent(worker_functions.by_payload) as agent:
            given = _input([A.DataChunk(data=b"garble answer"), DATA_COMPLETE], {}, "r")
            assert (await agent.run(given))[1].error.details == r"no file na\udcefve"
            for payload, text in ((b"garble raised", r"no file na\udcefve"), (b"exit", "SystemExit: enough")):
                given = _input([A.DataChunk(data=payload), DATA_COMPLETE], {}, "r")
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await agent.process(_each(given), timeout=TIMEOUT_S).read()
                assert raised.value.code() is grpc.StatusCode.UNKNOWN
                assert raised.value.details().endswith(text)

    run_async(work)


@pytest.mark.parametrize("broken", ["payload first", "no end", "task in between", "garbage"])
def test_outside_agent_that_breaks_the_protocol(broken: str) -> None:
    async def work() -> None:
        async with outside_agent(worker_functions.double) as agent:
            good = _input([A.DataChunk(data=b"x"), DATA_COMPLETE], {"d": [b"y"]}, "r")
            messages = {
                "payload first": good[1:],
                "no end": good[:-1],
                "task in between": [*good[:2], A.ProcessRequest(create_task=A.ProcessRequest.CreateTask()), *good[2:]],
                "garbage": [good[0], A.ProcessRequest()],
            }[broken]
            call = agent.process(_each(messages), timeout=TIMEOUT_S)
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for reply in call:
                    raise AssertionError(reply)
            # The library says INTERNAL when it was still writing.
            code = grpc.StatusCode
            assert await call.code() in (code.INVALID_ARGUMENT, code.CANCELLED, code.INTERNAL)
            assert (await agent.run(good))[0] == {"r": b"xx"}, "the next one is served"

    run_async(work)


def test_functions_that_cannot_be_workers() -> None:
    with pytest.raises(InvalidArgument, match="at most a parameter for the payload"):
        worker(lambda payload, more: None)
    with pytest.raises(InvalidArgument, match="write module:function"):
        load("module")
    with pytest.raises(InvalidArgument, match="there is no module 'nosuchmodule'"):
        load("nosuchmodule:f")
    with pytest.raises(InvalidArgument, match="has no 'nobody'"):
        load("tests.tasks.worker_functions:nobody")
    assert load("tests.tasks.worker_functions:plain").function(b"ab") == b"ba"
    assert load("tests.tasks.worker_functions:double") is worker_functions.double


def test_long_traceback_keeps_its_end() -> None:
    try:
        raise ValueError("ü" * 5000 + " the end")
    except ValueError as error:
        text = traceback_text(error)
    assert text.startswith("... [cut]\n") and text.endswith("the end") and len(text.encode()) <= 3072


def test_options_of_subtasks(tmp_path: Path) -> None:
    from runtime.tasks.messages import options_message, options_of

    sent = options(duration_s=1.5, priority=3, options={"k": "v"})
    assert options_message(options_of(sent)) == sent
