"""Small tasks on one stream to a worker: what goes wrong on the way changes nothing of the rules."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime import config, wire
from runtime.client.access import Access
from runtime.edge.loops import new_loop
from runtime.objects.recent import Recent
from runtime.objects.value import Value
from runtime.tasks.agents.batched_call import MAX_UNREAD, BatchedCall
from runtime.tasks.leases import Lease
from runtime.tasks.worker.batches import BatchRunner
from runtime.tasks.worker.function import Worker
from runtime.tasks.worker.process import WorkerProcess
from runtime.tasks.worker.threads import TaskThreads
from tests import leaks
from tests.conformance.armonik.outside_worker import remove, workers_call
from tests.conformance.armonik.submitter import (
    DONE,
    LAST,
    A,
    Submitter,
    begin,
    chunk,
    header,
    of_session,
    of_tasks,
    serve,
    task,
)
from tests.tasks import worker_functions
from tests.tasks.test_worker import served, until
from tests.tasks.test_worker_command import ready, worker_command

TIMEOUT_S = 30.0
QUICK = 60
R = wire.runtime_v1

# The loop that workers run on: on asyncio's own no thread reads in its place.
run_async = functools.partial(leaks.run_async, loop_factory=lambda: new_loop("uvloop"))


async def warmed(submitter: Submitter) -> None:
    """Run quick tasks, so that the worker is given some ahead."""
    await submitter.create(*(task(f"quick{number}", payload=b"pid") for number in range(QUICK)))
    await submitter.wait(of_tasks(*(f"quick{number}" for number in range(QUICK))))


@contextlib.asynccontextmanager
async def registered(submitter: Submitter, folder: Path, function: Worker) -> AsyncIterator[None]:
    """Have one more worker."""
    settings = config.load({"listen": f"unix:{folder}/more.sock"}, {}, user_file=False).settings
    process = WorkerProcess(function, settings, [(f"grpc://{submitter.address}", Access())])
    await process.start()
    try:
        yield
    finally:
        await process.stop(5.0)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What threads have read in the loop's place: whether each message was for them."""
    found: list[bool] = []
    take_here = BatchRunner._take_here

    def noted(self: BatchRunner, data: bytes) -> bool:
        found.append(take_here(self, data))
        return found[-1]

    monkeypatch.setattr(BatchRunner, "_take_here", noted)
    return found


async def one_after_the_other(submitter: Submitter, number: int, prefix: str = "one") -> list[str]:
    """Run tasks, each when the one before has ended."""
    names = [f"{prefix}{index}" for index in range(number)]
    for name in names:
        await submitter.create(task(name, payload=b"pid"))
        assert await submitter.available(name) is None
    return names


@pytest.mark.parametrize("function", [worker_functions.double, worker_functions.by_payload])
def test_tasks_one_after_the_other_pass_the_loop_by(tmp_path: Path, taken: list[bool], function: Worker) -> None:
    async def work() -> None:
        async with served(tmp_path, function) as submitter:
            names = await one_after_the_other(submitter, 50)
            assert set((await submitter.statuses(*names)).values()) == {"COMPLETED"}
            if function is worker_functions.double:
                assert {await submitter.data(name) for name in names} == {b"pidpid"}

    run_async(work)
    assert taken.count(True) > 25


def test_a_task_that_passed_the_loop_by_is_canceled_while_it_runs(tmp_path: Path, taken: list[bool]) -> None:
    async def work() -> None:
        async with served(tmp_path, worker_functions.by_payload) as submitter:
            for number in range(3):
                await one_after_the_other(submitter, 10, f"before{number}-")
                path = tmp_path / f"spin{number}"
                await submitter.create(task(f"long{number}", payload=f"spin {path}".encode()))
                await until(path.exists)
                await submitter.call("CancelTasks", of_tasks(f"long{number}"))
                await submitter.wait(of_tasks(f"long{number}"))
                assert await submitter.statuses(f"long{number}") == {f"long{number}": "CANCELED"}

    run_async(work)


def test_a_thread_that_lingers_gives_way(taken: list[bool]) -> None:
    threads = TaskThreads(1)
    woken, lingers, ran = threading.Event(), threading.Event(), threading.Event()

    def linger() -> None:
        with threads.lingering(woken.set) as may_wait:
            assert may_wait
            lingers.set()
            assert woken.wait(TIMEOUT_S)

    threads.start(linger)
    assert lingers.wait(TIMEOUT_S)
    threads.start(ran.set)
    assert ran.wait(TIMEOUT_S)

    def other() -> None:
        with threads.lingering(woken.set) as may_wait:
            assert not may_wait, "somebody waits for the thread already"
        ran.set()

    ran.clear()
    held = threading.Event()
    threads.start(lambda: held.wait(TIMEOUT_S))
    threads.start(other)
    threads.start(lambda: None)
    held.set()
    assert ran.wait(TIMEOUT_S)
    threads.shutdown()


def test_nothing_waits_behind_a_long_task(tmp_path: Path) -> None:
    async def work() -> None:
        async with served(tmp_path, worker_functions.by_payload) as submitter:
            await warmed(submitter)
            go = tmp_path / "go"
            names = [f"t{number}" for number in range(20)]
            await submitter.create(
                task("long", payload=f"wait {go}".encode()), *(task(name, payload=b"pid") for name in names)
            )
            await until((tmp_path / "go.began").exists)
            async with asyncio.timeout(TIMEOUT_S):
                while set((await submitter.statuses(*names)).values()) != {"SUBMITTED"} or (
                    await submitter.statuses("long") != {"long": "PROCESSING"}
                ):
                    await asyncio.sleep(0.01)
            (listed,) = (await workers_call(submitter, "List", R.ListWorkersRequest())).worker
            assert (listed.state, list(listed.task_id)) == ("busy", ["long"])
            async with registered(submitter, tmp_path, worker_functions.by_payload):
                # Another worker has them meanwhile.
                await submitter.wait(of_tasks(*names))
                assert await submitter.statuses("long") == {"long": "PROCESSING"}
            go.touch()
            assert await submitter.available("long") is None

    run_async(work)


def test_a_look_that_is_due_at_once_may_have_a_handle_without_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As uvloop returns one when less than half a millisecond is left: beside busy processes, that is."""
    looks: list[None] = []

    async def work() -> None:
        runner = BatchRunner(
            worker_functions.double, None, 1, print, print, print, print,  # type: ignore[arg-type]
        )
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(runner, "_tick", lambda: looks.append(None))
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_at", lambda due, function: loop.call_soon(function))
            runner._look_in(10.0)
            runner._look_in(20.0)
            runner._look_in(1.0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    run_async(work)
    assert len(looks) == 1, "the first one was put off in favour of the last"


def test_only_the_task_that_kills_its_worker_has_failed(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            await submitter.session(max_retries=1)
            words = ("tests.tasks.worker_functions:by_payload", "--server", f"grpc://{submitter.address}")
            async with worker_command(tmp_path, *words) as process:
                await ready(process)
                await warmed(submitter)
                names = [f"t{number}" for number in range(40)]
                tasks = [task(name, payload=b"pid") for name in names]
                tasks.insert(20, task("deadly", payload=b"die"))
                await submitter.create(*tasks)
                await submitter.wait(of_session("s"))
                assert set((await submitter.statuses(*names)).values()) == {"COMPLETED"}
                assert await submitter.statuses("deadly", "deadly###1") == {
                    "deadly": "ERROR", "deadly###1": "COMPLETED"
                }

    run_async(work)


def test_canceled_while_others_are_ahead(tmp_path: Path) -> None:
    async def work() -> None:
        async with served(tmp_path, worker_functions.by_payload) as submitter:
            await warmed(submitter)
            names = [f"t{number}" for number in range(100)]
            await submitter.create(*(task(name, payload=b"sleep 0.002") for name in names))
            await submitter.call("CancelTasks", of_tasks(*names[50:]))
            await submitter.wait(of_tasks(*names))
            statuses = await submitter.statuses(*names)
            assert all(statuses[name] == "COMPLETED" for name in names[:50])
            assert {statuses[name] for name in names[50:]} <= {"COMPLETED", "CANCELED"}
            assert statuses[names[-1]] == "CANCELED"
            await submitter.create(task("after", payload=b"pid"))
            assert await submitter.available("after") is None

    run_async(work)


def test_task_that_says_strange_things_costs_others_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with served(tmp_path, worker_functions.by_payload) as submitter:
            await warmed(submitter)
            strange = {"answer": b"garble answer", "raised": b"garble raised", "left": b"exit"}
            names = [f"t{number}" for number in range(40)]
            tasks = [task(name, payload=b"pid") for name in names]
            for name, payload in strange.items():
                tasks.insert(10, task(name, payload=payload))
            await submitter.create(*tasks, max_retries=1)
            await submitter.wait(of_session("s"))
            assert set((await submitter.statuses(*names)).values()) == {"COMPLETED"}
            told = {name: (await submitter.output(name)).error.details for name in strange}
            assert told["answer"] == r"no file na\udcefve"
            assert told["raised"].endswith(r"ValueError: no file na\udcefve")
            assert told["left"].endswith("SystemExit: enough")
            again = await submitter.statuses(*(f"{name}###1" for name in strange))
            assert again == {"raised###1": "ERROR", "left###1": "ERROR"}

    run_async(work)


@pytest.mark.parametrize("size", [0, 16 << 10, (16 << 10) + 1, 300_000, 20_000_000])
def test_results_of_all_sizes(tmp_path: Path, size: int) -> None:
    async def work() -> None:
        async with served(tmp_path, worker_functions.zeros) as submitter:
            await submitter.create(*(task(f"t{number}", payload=b"%d" % size) for number in range(5)))
            await submitter.wait(of_session("s"))
            for number in range(5):
                assert await submitter.data(f"t{number}") == bytes(size)

    run_async(work)


def test_inputs_of_all_sizes(tmp_path: Path) -> None:
    """Rows of the store, objects that go along with their tasks, and what goes by a call of Process."""
    sizes = [1, 70_000, 300_000, 1, 2 << 20, (2 << 20) + 1, 1, 300_000]

    async def work() -> None:
        async with served(tmp_path, worker_functions.double, 2) as submitter:
            parts = [begin()]
            for number, size in enumerate(sizes):
                data = b"%d" % (number % 10) * size
                parts += [header(f"t{number}"), *(chunk(data[at : at + 80_000]) for at in range(0, size, 80_000)), DONE]
            await submitter.stream([*parts, LAST])
            await submitter.create(task("both", needs=["t2", "t3"], payload=b"x"))
            await submitter.wait(of_session("s"))
            for number, size in enumerate(sizes):
                assert await submitter.data(f"t{number}") == b"%d" % (number % 10) * (2 * size)
            assert await submitter.data("both") == b"xx"

    run_async(work)


def test_damaged_object_ends_its_task(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            await submitter.session()
            await submitter.stream([begin(), header("t"), *[chunk(b"x" * 80_000)] * 2, DONE, LAST])
            (path,) = tmp_path.rglob("objects/arena")
            path.write_bytes(path.read_bytes().replace(b"x", b"y"))
            submitter.tasks.objects.recent.clear()  # type: ignore[attr-defined]
            async with registered(submitter, tmp_path, worker_functions.double):
                error = (await submitter.available("t")).errors[0]
                assert error.task_status == A.TASK_STATUS_ERROR and "is damaged" in error.detail
                assert await submitter.statuses("t###1") == {}
                await submitter.create(task("after"))
                assert await submitter.available("after") is None

    run_async(work)


def test_leaving_worker_is_given_nothing_whose_input_was_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go = asyncio.Event(), asyncio.Event()
    read = Lease.read

    async def slow(lease: Lease, value: Value, chunk_bytes: int) -> AsyncIterator[bytes]:
        reading.set()
        await go.wait()
        async for piece in read(lease, value, chunk_bytes):
            yield piece

    async def run(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        async for orders in requests:
            ends = [R.TaskEnd(number=given.number, value=b"v") for given in orders.task]
            yield R.TaskNews(end=ends).SerializeToString()

    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            await submitter.session()
            await submitter.stream([begin(), header("t"), *[chunk(b"x" * 80_000)] * 2, DONE, LAST])
            async with strange_worker(submitter, run):
                await asyncio.wait_for(reading.wait(), TIMEOUT_S)
                (listed,) = (await workers_call(submitter, "List", R.ListWorkersRequest())).worker
                removal = asyncio.ensure_future(remove(submitter, listed.endpoint))
                async with asyncio.timeout(TIMEOUT_S):
                    while (await workers_call(submitter, "List", R.ListWorkersRequest())).worker[0].state != "leaving":
                        await asyncio.sleep(0.005)
                go.set()
                await asyncio.wait_for(removal, TIMEOUT_S)
                async with asyncio.timeout(TIMEOUT_S):
                    while (found := await submitter.statuses("t")) == {"t": "DISPATCHED"}:
                        await asyncio.sleep(0.005)
                assert found == {"t": "SUBMITTED"}

    monkeypatch.setattr(Lease, "read", slow)
    monkeypatch.setattr(Recent, "get", lambda self, key: None)
    run_async(work)


def test_what_a_task_says_is_held_back_until_it_is_read() -> None:
    async def work() -> None:
        call = BatchedCall(None, 1)  # type: ignore[arg-type]  # it sends nothing
        for number in range(MAX_UNREAD + 1):
            call.put(b"%d" % number)
        room = asyncio.ensure_future(call.room())
        await asyncio.sleep(0)
        assert not room.done()
        for number in range(MAX_UNREAD // 2 + 1):
            assert await call.receive() == b"%d" % number
        await asyncio.wait_for(room, TIMEOUT_S)
        for _ in range(MAX_UNREAD):
            call.put(b"")
        room = asyncio.ensure_future(call.room())
        await asyncio.sleep(0)
        assert not room.done()
        call.end(None)
        await asyncio.wait_for(room, TIMEOUT_S)

    run_async(work)


# A worker that nobody here wrote, and that speaks TaskBatches.


@contextlib.asynccontextmanager
async def strange_worker(
    submitter: Submitter, run: Callable[[Any, Any], AsyncIterator[bytes]] | None
) -> AsyncIterator[None]:
    """Register a worker whose Run is given, or that has none."""
    server = grpc.aio.server()
    healthy = A.HealthCheckReply.SerializeToString
    handlers = {
        "Process": grpc.stream_stream_rpc_method_handler(_process, A.ProcessRequest.FromString),
        "HealthCheck": grpc.unary_unary_rpc_method_handler(_well, response_serializer=healthy),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ArmoniK.api.grpc.v1.Worker", handlers),))
    if run is not None:
        batches = {"Run": grpc.stream_stream_rpc_method_handler(run, R.TaskOrders.FromString)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("runtime.v1.TaskBatches", batches),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(submitter.address) as channel:
            serving = channel.stream_stream("/runtime.v1.Workers/Serve", R.WorkerNews.SerializeToString)()
            hello = R.WorkerNews.Hello(endpoint=f"127.0.0.1:{port}", takes_batches=True)
            await serving.write(R.WorkerNews(hello=hello))
            await serving.read()
            yield
            serving.cancel()
    finally:
        await server.stop(0)


async def _well(request: bytes, context: Any) -> Any:
    return A.HealthCheckReply(status=A.HealthCheckReply.SERVING)


async def _process(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        compute = request.compute
        if compute.WhichOneof("type") == "init_request":
            key = compute.init_request.expected_output_keys[0]
        elif compute.WhichOneof("type") == "init_data" and compute.init_data.last_data:
            break
    kind = A.ProcessReply.Result
    for part in (kind(init=A.InitKeyedDataStream(key=key)), kind(data=A.DataChunk(data=b"by Process")),
                 kind(data=A.DataChunk(data_complete=True)), kind(init=A.InitKeyedDataStream(last_result=True))):
        yield A.ProcessReply(request_id="R", result=part).SerializeToString()
    yield A.ProcessReply(output=A.Output(ok=A.Empty())).SerializeToString()
    async for _ in requests:
        pass


def test_worker_without_the_service_is_driven_by_process(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            await submitter.session()
            async with strange_worker(submitter, None):
                await submitter.create(task("a"), task("b"))
                assert await submitter.available("a") is None and await submitter.available("b") is None
                assert await submitter.data("a") == b"by Process"

    run_async(work)


@pytest.mark.parametrize("news", [
    R.TaskNews(end=[R.TaskEnd(number=99, value=b"x")]),
    R.TaskNews(begun=[99]),
    R.TaskNews(returned=[99]),
    R.TaskNews(talk=[R.TaskTalk(number=99, message=b"")]),
    b"\xff",
], ids=["end", "begun", "returned", "talk", "no message"])
def test_worker_that_tells_of_what_it_was_not_given(tmp_path: Path, news: Any) -> None:
    seen = []

    async def run(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        async for orders in requests:
            seen.extend(orders.task)
            if len(seen) == 1:
                yield news if isinstance(news, bytes) else news.SerializeToString()
            else:
                ends = [R.TaskEnd(number=given.number, value=b"v") for given in orders.task]
                yield R.TaskNews(end=ends).SerializeToString()

    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            await submitter.session()
            async with strange_worker(submitter, run):
                await submitter.create(task("t"))
                assert await submitter.available("t") is None
                assert await submitter.data("t") == b"v"
                assert await submitter.statuses("t###1") == {}, "nobody knows that it had begun"
                assert [given.is_announced for given in seen] == [False, True]

    run_async(work)


@pytest.mark.parametrize("outcome", [
    {"values": R.NamedValues(value=[R.NamedBytes(key="other", data=b"x")])},
    {"value": bytes((16 << 10) + 1)},
    {},
], ids=["another's key", "too large", "nothing"])
def test_outcome_that_breaks_the_protocol(tmp_path: Path, outcome: dict[str, Any]) -> None:
    async def run(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        async for orders in requests:
            ends = [R.TaskEnd(number=given.number, **outcome) for given in orders.task]
            yield R.TaskNews(end=ends).SerializeToString()

    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            await submitter.session()
            async with strange_worker(submitter, run):
                await submitter.create(task("t"))
                assert (await submitter.available("t")).errors[0].task_status == A.TASK_STATUS_ERROR
                assert await submitter.statuses("t", "t###1") == {"t": "ERROR"}

    run_async(work)


def test_worker_that_hangs_as_a_whole(tmp_path: Path) -> None:
    async def run(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        async for orders in requests:
            for given in orders.task:
                if given.task_id != "t":
                    yield R.TaskNews(end=[R.TaskEnd(number=given.number, value=b"v")]).SerializeToString()

    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.05) as submitter:
            await submitter.session(max_retries=1)
            async with strange_worker(submitter, run):
                await submitter.create(task("t"), duration_s=0.2)
                assert await submitter.available("t") is None
                assert await submitter.statuses("t", "t###1") == {"t": "TIMEOUT", "t###1": "COMPLETED"}

    run_async(work)
