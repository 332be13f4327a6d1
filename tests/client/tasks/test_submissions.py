"""Single tasks on the stream of submissions: nothing is lost or made twice, whatever becomes of stream or server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import runtime
from runtime import wire
from runtime.client.tasks import submissions
from runtime.client.tasks.calls import Calls
from runtime.client.tasks.failures import TaskFailed
from runtime.errors import (
    AlreadyExists,
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    Unknown,
)
from runtime.tasks.submissions_service import SubmissionsService
from tests.client.tasks.conftest import running_worker
from tests.client.tasks.relays import Relay
from tests.leaks import leak_check, run_async
from tests.processes import start_server

TIMEOUT_S = 60.0
RUN = "/runtime.v1.Submissions/Run"
COLLECT = "/runtime.v1.Results/Collect"
FETCH = "/ArmoniK.api.grpc.v1.Submitter/TryGetResultStream"
CREATE = "/ArmoniK.api.grpc.v1.Submitter/CreateSmallTasks"
R = wire.runtime_v1


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the calls that clients make."""
    found: list[str] = []
    call = Calls._call

    def noted(self: Calls, path: str, timeout_s: float | None) -> Any:
        found.append(path)
        return call(self, path, timeout_s)

    monkeypatch.setattr(Calls, "_call", noted)
    return found


@pytest.fixture
def session(worked: str) -> Iterator[runtime.TaskSession]:
    """A session whose stream is open."""
    with runtime.TaskClient(worked) as client, client.session(max_retries=1) as session:
        assert session.submit(b"echo first").result(timeout_s=TIMEOUT_S) == b"first"
        yield session


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.005)


# -- a server that does it well ----------------------------------------------------------------------------------------


def test_results_come_without_a_further_call(session: runtime.TaskSession, calls: list[str]) -> None:
    for index in range(20):
        assert session.submit(b"echo %d" % index).result(timeout_s=TIMEOUT_S) == b"%d" % index
    assert session.submit(b"echo").result(timeout_s=TIMEOUT_S) == b""
    with pytest.raises(TaskFailed, match="no such thing") as caught:
        session.submit(b"fail no such thing").result(timeout_s=TIMEOUT_S)
    assert caught.value.status == "ERROR"
    task = session.submit(b"echo kept", id="named", keys=["key"])
    assert task.result("key", timeout_s=TIMEOUT_S) == b"kept"
    assert calls == []
    # It was given away, so it is asked for again.
    assert task.result(timeout_s=TIMEOUT_S) == b"kept"
    assert calls == [FETCH]


def test_results_come_to_those_who_wait_on_a_loop(worked: str, calls: list[str]) -> None:
    async def work() -> None:
        async with runtime.AsyncTaskClient(worked) as client, client.session(max_retries=1) as session:
            await session.submit(b"echo")
            calls.clear()
            tasks = await asyncio.gather(*(session.submit(b"echo %d" % index) for index in range(60)))
            values = await asyncio.gather(*(task.result(timeout_s=TIMEOUT_S) for task in tasks))
            assert values == [b"%d" % index for index in range(60)]
            bad = await session.submit(b"fail x")
            await bad.wait(TIMEOUT_S)
            assert bad.failure is not None and bad.failure.status == "ERROR"
            assert calls == []

    run_async(work)


def test_hundreds_are_submitted_at_once(worked: str, calls: list[str]) -> None:
    async def work() -> None:
        async with runtime.AsyncTaskClient(worked) as client, client.session() as session:
            tasks = await asyncio.gather(*(session.submit(b"echo %d" % index) for index in range(400)))
            assert len({task.id for task in tasks}) == 400
            values = await asyncio.gather(*(task.result(timeout_s=TIMEOUT_S) for task in tasks))
            assert values == [b"%d" % index for index in range(400)]
            assert await session.counts() == {"COMPLETED": 400}

    run_async(work)
    # What is beyond those that may be open goes by requests of its own.
    assert calls.count(RUN) == 1 and 0 < calls.count(CREATE) <= 400 - 64


def test_threads_submit_and_wait_at_once(session: runtime.TaskSession, calls: list[str]) -> None:
    def work(number: int) -> list[bytes]:
        found = []
        for index in range(30):
            task = session.submit(b"echo %d-%d" % (number, index), priority=1 + index % 3)
            found.append(task.result(timeout_s=TIMEOUT_S))
        return found

    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(work, range(8))):
            assert found == [b"%d-%d" % (number, index) for index in range(30)]
    assert set(calls) <= {CREATE, COLLECT}


def test_threads_send_and_read_by_themselves(session: runtime.TaskSession, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[str] = []
    take, post = submissions._Stream.take_plain, submissions._Stream.post
    posted: list[object] = []

    def noted(self: Any, data: bytes) -> bool:
        readers.append(threading.current_thread().name)
        return take(self, data)

    monkeypatch.setattr(submissions._Stream, "take_plain", noted)
    monkeypatch.setattr(submissions._Stream, "post", lambda self, one: (posted.append(one), post(self, one))[1])
    for number in range(100):
        assert session.submit(b"echo %d" % number).result(timeout_s=TIMEOUT_S) == b"%d" % number
    assert len(posted) < 20, "the loop has sent them"
    # One message for each: the answer and the result, as a rule.
    assert readers.count(threading.current_thread().name) > 80, readers


def test_those_who_wait_on_the_loop_are_told_by_a_thread_that_reads(session: runtime.TaskSession) -> None:
    def submit(first: int) -> None:
        for number in range(first, first + 100):
            assert session.submit(b"echo %d" % number).result(timeout_s=TIMEOUT_S) == b"%d" % number

    def submit_and_wait(first: int) -> None:
        for number in range(first, first + 100):
            handle = session.submit(b"echo %d" % number).asynchronous
            session._run(waited(handle))
            assert handle.is_over

    async def waited(handle: Any) -> None:
        await asyncio.gather(handle.wait(TIMEOUT_S), handle.wait(TIMEOUT_S))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, 1000 * index) for index, work in enumerate([submit, submit_and_wait] * 2)]:
            done.result(TIMEOUT_S)


def test_a_result_that_two_ask_for_at_once(session: runtime.TaskSession, tmp_path: Path) -> None:
    task = session.submit(b"wait %s" % bytes(tmp_path / "go"))
    for timeout_s in (0, -1, 0.05, np.float64(0.01)):
        with pytest.raises(DeadlineExceeded, match="the task goes on"):
            task.result(timeout_s=timeout_s)
    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(task.result, timeout_s=TIMEOUT_S) for _ in range(3)]
        (tmp_path / "go").touch()
        assert [one.result(TIMEOUT_S) for one in asking] == [b"waited"] * 3
    assert task.result() == task.results()[task.id] == b"".join(task.stream()) == b"waited"


def test_a_latch_that_an_interrupted_thread_has_taken_along_holds_up_nobody(
    session: runtime.TaskSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.client.tasks.handle._LATCH_S", 0.05)
    task = session.submit(b"wait %s" % bytes(tmp_path / "go"))
    handle = task.asynchronous
    told = type(handle).told

    def told_and_taken(self: Any) -> None:
        told(self)
        self._latch.acquire(blocking=False)  # as by one who was interrupted before it could give it back

    monkeypatch.setattr(type(handle), "told", told_and_taken)
    with ThreadPoolExecutor(2) as threads:
        waits = [threads.submit(task.result, timeout_s=TIMEOUT_S), threads.submit(task.wait, TIMEOUT_S)]
        time.sleep(0.2)
        (tmp_path / "go").touch()
        assert waits[0].result(TIMEOUT_S) is not None
        waits[1].result(TIMEOUT_S)


def test_what_is_not_small_and_at_hand_goes_another_way(
    session: runtime.TaskSession, calls: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "payload"
    file.write_bytes(b"echo file")
    stream = session.client.asynchronous.submissions._stream
    assert stream is not None
    for payload, value, is_small in (
        (b"size " + bytes(300 << 10), b"307205", False), (b"", b"", False), (file, b"file", False),
        (bytearray(b"echo view"), b"view", True), (b"echo " + bytes(70_000), bytes(70_000), True),
    ):
        before = stream._last_number
        assert session.submit(payload).result(timeout_s=TIMEOUT_S) == value
        assert stream._last_number - before == is_small
    several = session.submit(b"both", keys=["left", "right"])
    assert several.results(timeout_s=TIMEOUT_S) == {"left": b"left", "right": b"right"}
    assert RUN not in calls


def test_small_arrays_go_by_the_stream(calls: list[str]) -> None:
    with (
        runtime.Server(services=("task",), task_check_s=0.2, grace_s=0.0) as server,
        running_worker(server.target, "scale"),
        runtime.TaskClient(server.target, arrays=True) as client,
        client.session() as session,
    ):
        for size in (6, 20_000):
            x = np.arange(size, dtype=np.float64)
            found = session.submit({"x": x, "factor": np.float64(2)}).result(timeout_s=TIMEOUT_S)
            np.testing.assert_array_equal(found["y"], x * 2)
        assert calls.count(RUN) == 1 and calls.count(CREATE) == 0 and calls.count(FETCH) == 1


def test_dependencies_are_read_once_whichever_way_a_task_goes(worked: str) -> None:
    async def work() -> None:
        async with runtime.AsyncTaskClient(worked) as client, client.session(max_retries=1) as session:
            bad = await session.submit(b"fail x")
            for payload in (b"join", b"", bytes(300 << 10)):
                task = await session.submit(payload, dependencies=(one for one in [bad]))
                with pytest.raises(TaskFailed, match="One of the input data is aborted"):
                    await task.result(timeout_s=TIMEOUT_S)

    run_async(work)


def test_refusals_are_those_of_a_request(worked: str) -> None:
    with runtime.TaskClient(worked) as client, client.session("refusing") as session:
        session.submit(b"echo", id="mine", keys=["my key"])
        canceled = client.session("canceled already")
        canceled.submit(b"echo").result(timeout_s=TIMEOUT_S)
        canceled.cancel()
        nowhere = client.attach("nowhere")
        for where, kind, options in (
            (session, AlreadyExists, {"id": "mine"}),
            (session, AlreadyExists, {"id": "other", "keys": ["my key"]}),
            (canceled, FailedPrecondition, {"id": "other"}), (nowhere, NotFound, {"id": "other"}),
        ):
            with pytest.raises(kind) as by_stream:
                where.submit(b"echo", **options)
            by_request = {name: [value] for name, value in options.items()}
            with pytest.raises(kind) as other:
                where.submit_all([b"echo"], **{f"{name.rstrip('s')}s": value for name, value in by_request.items()})
            assert by_stream.value.message == other.value.message
        assert session.submit(b"echo fine").result(timeout_s=TIMEOUT_S) == b"fine"


def test_nothing_waits_for_its_own_loop(session: runtime.TaskSession, tmp_path: Path) -> None:
    slow = session.submit(b"wait %s" % bytes(tmp_path / "go"))
    said: list[BaseException] = []

    def progress(done: int, total: int, failed: int) -> None:
        for use in (lambda: slow.result(timeout_s=1.0), lambda: session.submit(b"echo")):
            try:
                use()
            except Error as error:
                said.append(error)

    session.gather([session.submit(b"echo 1")], timeout_s=TIMEOUT_S, progress=progress)
    (tmp_path / "go").touch()
    assert said and all(isinstance(one, FailedPrecondition) for one in said)
    assert all("from its own callbacks" in str(one) for one in said)
    assert slow.result(timeout_s=TIMEOUT_S) == b"waited"


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_values_that_nobody_asks_for_are_fetched_again(
    session: runtime.TaskSession, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submissions, "_KEPT_BYTES", 20_000)
    tasks = [session.submit(b"echo %d" % index + bytes(4000)) for index in range(20)]
    kept = session.client.asynchronous.submissions
    until(lambda: all(task.asynchronous.is_over for task in tasks))
    assert kept._kept_bytes <= 20_000 and len(kept._kept) <= 4
    assert [task.result(timeout_s=TIMEOUT_S) for task in tasks] == [b"%d" % index + bytes(4000) for index in range(20)]
    assert calls == [FETCH] * (20 - 3)
    assert (kept._kept_bytes, len(kept._kept)) == (0, 0)


def test_handles_of_empty_results_are_let_go_of_too(
    session: runtime.TaskSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submissions, "_KEPT_BYTES", 10_000)
    last = [session.submit(b"echo") for _ in range(50)][-1]
    until(lambda: last.asynchronous.is_over)
    assert len(session.client.asynchronous.submissions._kept) < 10


def test_a_stream_that_nobody_uses_ends(worked: str, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "_IDLE_S", 0.05)
    with runtime.TaskClient(worked) as client, client.session() as session:
        for turn in range(1, 4):
            assert session.submit(b"echo").result(timeout_s=TIMEOUT_S) == b""
            assert calls.count(RUN) == turn
            stream = client.asynchronous.submissions._stream
            assert stream is not None
            until(stream._runner.done)
            assert stream._runner.exception() is None


def test_a_stream_waits_for_results_however_long(
    worked: str, calls: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(submissions, "_IDLE_S", 0.01)
    with runtime.TaskClient(worked) as client, client.session() as session:
        task = session.submit(b"wait %s" % bytes(tmp_path / "go"))
        with pytest.raises(DeadlineExceeded):
            task.result(timeout_s=0.1)
        (tmp_path / "go").touch()
        assert task.result(timeout_s=TIMEOUT_S) == b"waited"
        assert calls.count(RUN) == 1 and COLLECT not in calls


# -- servers that go away ----------------------------------------------------------------------------------------------


def test_a_way_that_breaks_again_and_again_loses_nothing(worked: str) -> None:
    seed = int(os.environ.get("TENSOR_RUNTIME_SEED", random.randrange(1 << 30)))
    chance = random.Random(seed)
    with Relay(worked.removeprefix("grpc://")) as relay:
        with runtime.TaskClient(relay.target) as client, client.session() as session:
            session.submit(b"echo")
            over = threading.Event()

            def cut() -> None:
                while not over.wait(chance.uniform(0.0, 0.1)):
                    relay.cut()

            def work(number: int) -> list[bytes]:
                tasks = []
                for index in range(25):
                    tasks.append(session.submit(b"echo %d-%d" % (number, index)))
                    if index % 3:
                        assert tasks[-1].result(timeout_s=TIMEOUT_S) == b"%d-%d" % (number, index)
                return [task.result(timeout_s=TIMEOUT_S) for task in tasks]

            cutting = threading.Thread(target=cut)
            cutting.start()
            try:
                with ThreadPoolExecutor(4) as pool:
                    whole = list(pool.map(work, range(4)))
            finally:
                over.set()
                cutting.join()
            assert whole == [[b"%d-%d" % (number, index) for index in range(25)] for number in range(4)]
            assert session.counts() == {"COMPLETED": 101}, f"TENSOR_RUNTIME_SEED={seed}"
        assert relay.num_connections > 3


def test_a_server_that_is_killed_and_started_again(tmp_path: Path) -> None:
    options = ("--services", "task", "--grace", "0")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(start_server(tmp_path, *options))
        relay = stack.enter_context(Relay(first.address))
        client = stack.enter_context(runtime.TaskClient(relay.target))
        session = client.session()
        pool = stack.enter_context(ThreadPoolExecutor(2))
        tasks = [session.submit(b"echo %d" % index) for index in range(10)]
        waiting = pool.submit(tasks[0].result, timeout_s=TIMEOUT_S)
        first.process.kill()
        first.process.wait()
        submitting = pool.submit(session.submit, b"echo late")
        second = stack.enter_context(start_server(tmp_path, *options))
        relay.address = second.address
        stack.enter_context(running_worker(second.target))
        assert waiting.result(TIMEOUT_S) == b"0"
        assert submitting.result(TIMEOUT_S).result(timeout_s=TIMEOUT_S) == b"late"
        assert [task.result(timeout_s=TIMEOUT_S) for task in tasks] == [b"%d" % index for index in range(10)]
        assert session.counts() == {"COMPLETED": 11}


def test_a_server_without_the_service_is_not_asked_again(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SubmissionsService, "services", lambda self: {})
    with (
        runtime.Server(services=("task",), task_check_s=0.2, grace_s=0.0) as server,
        running_worker(server.target),
        runtime.TaskClient(server.target) as client,
        client.session() as session,
    ):
        with ThreadPoolExecutor(4) as pool:
            tasks = list(pool.map(lambda index: session.submit(b"echo %d" % index), range(20)))
        assert [task.result(timeout_s=TIMEOUT_S) for task in tasks] == [b"%d" % index for index in range(20)]
        assert session.counts() == {"COMPLETED": 20}
        assert 1 <= calls.count(RUN) <= 4 and calls.count(CREATE) == 20

        async def work() -> None:
            async with runtime.AsyncTaskClient(server.target) as client, client.session() as session:
                for index in range(3):
                    task = await session.submit(b"echo %d" % index)
                    assert await task.result(timeout_s=TIMEOUT_S) == b"%d" % index

        calls.clear()
        run_async(work)
        assert calls.count(RUN) == 1


# -- servers that behave oddly -----------------------------------------------------------------------------------------

News = Iterator[Any]
Tell = Callable[[Iterator[Any], int], News]


class _Odd(grpc.GenericRpcHandler):
    """Says yes to all, has one result for everybody, and runs ``tell(submissions, number of the stream)``."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.num_streams = itertools.count(1)
        self.created: list[str] = []
        self.collected: list[str] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        name = details.method.rpartition("/")[2]
        if details.method == RUN:
            return grpc.stream_stream_rpc_method_handler(self._run)
        if details.method == COLLECT:
            return grpc.unary_stream_rpc_method_handler(self._collect)
        if details.method == FETCH:
            return grpc.unary_stream_rpc_method_handler(self._fetch)
        if name == "GetServiceConfiguration":
            answer = wire.armonik.Configuration(data_chunk_max_size=84_000).SerializeToString()
        else:
            answer = b"\n\x00"
        return grpc.unary_unary_rpc_method_handler(lambda *_: answer)

    def _run(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        number = next(self.num_streams)

        def submitted() -> Iterator[Any]:
            for data in messages:
                submission = R.Submission.FromString(data)
                request = wire.armonik.CreateSmallTaskRequest.FromString(submission.request)
                self.created += [task.id for task in request.task_requests]
                yield submission

        for news in self._tell(submitted(), number):
            if isinstance(news, grpc.StatusCode):
                context.abort(news, "odd")
            yield news if isinstance(news, bytes) else news.SerializeToString()

    def _fetch(self, _data: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        for chunk in (wire.armonik.DataChunk(data=b"1"), wire.armonik.DataChunk(data_complete=True)):
            yield wire.armonik.ResultReply(result=chunk).SerializeToString()

    def _collect(self, data: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        for key in R.CollectRequest.FromString(data).key:
            self.collected.append(key)
            reply = R.CollectReply()
            reply.result.add(key=key, status="COMPLETED", value=b"1")
            yield reply.SerializeToString()


@contextlib.contextmanager
def odd_server(tell: Tell) -> Iterator[tuple[str, _Odd]]:
    pool = ThreadPoolExecutor(8)
    server = grpc.server(pool)
    odd = _Odd(tell)
    server.add_generic_rpc_handlers([odd])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}", odd
    finally:
        server.stop(0).wait()
        pool.shutdown()


def answer(submission: Any, **fields: Any) -> Any:
    return R.SubmissionNews(answer=[R.SubmissionAnswer(number=submission.number, **fields)])


def told(submission: Any, **fields: Any) -> Any:
    (task,) = wire.armonik.CreateSmallTaskRequest.FromString(submission.request).task_requests
    result = R.CollectedResult(key=task.expected_output_keys[0], **fields)
    return R.SubmissionNews(result=[R.SubmissionResult(number=submission.number, result=result)])


def test_a_submission_whose_answer_is_lost_is_sent_again_and_found() -> None:
    def tell(submitted: Iterator[Any], stream: int) -> News:
        for submission in submitted:
            if stream == 1:
                yield grpc.StatusCode.UNAVAILABLE
            # It was made by the first request.
            (task,) = wire.armonik.CreateSmallTaskRequest.FromString(submission.request).task_requests
            yield answer(submission, refused_id=[task.id])

    with odd_server(tell) as (target, odd), runtime.TaskClient(target) as client:
        task = client.session().submit(b"x")
        assert odd.created == [task.id] * 2
        assert task.result(timeout_s=TIMEOUT_S) == b"1" and odd.collected == [task.id]


def test_a_result_told_before_the_answer_was_lost_is_kept() -> None:
    def tell(submitted: Iterator[Any], stream: int) -> News:
        for submission in submitted:
            (task,) = wire.armonik.CreateSmallTaskRequest.FromString(submission.request).task_requests
            if stream == 1:
                yield told(submission, status="COMPLETED", value=b"early")
                yield grpc.StatusCode.UNAVAILABLE
            yield answer(submission, refused_id=[task.id])

    with odd_server(tell) as (target, odd), runtime.TaskClient(target) as client:
        assert client.session().submit(b"x").result(timeout_s=TIMEOUT_S) == b"early" and not odd.collected


@pytest.mark.parametrize("end", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, None], ids=str)
def test_a_result_that_is_not_told_is_asked_for(end: grpc.StatusCode | None) -> None:
    go = threading.Event()

    def tell(submitted: Iterator[Any], stream: int) -> News:
        yield answer(next(submitted))
        assert go.wait(TIMEOUT_S)
        if end is not None:
            yield end

    with odd_server(tell) as (target, odd), runtime.TaskClient(target) as client:
        task = client.session().submit(b"x")
        with pytest.raises(DeadlineExceeded):
            task.result(timeout_s=0.05)
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(task.result, timeout_s=TIMEOUT_S) for _ in range(2)]
            go.set()
            assert [one.result(TIMEOUT_S) for one in waiting] == [b"1"] * 2
        assert set(odd.collected) == {task.id} and odd.created == [task.id]


def test_a_result_of_a_deleted_session_is_asked_for() -> None:
    def tell(submitted: Iterator[Any], stream: int) -> News:
        for submission in submitted:
            yield answer(submission)
            yield told(submission)

    with odd_server(tell) as (target, odd), runtime.TaskClient(target) as client:
        task = client.session().submit(b"x")
        assert task.result(timeout_s=TIMEOUT_S) == b"1" and odd.collected == [task.id]


def test_results_and_answers_that_belong_to_nothing_are_let_by() -> None:
    def tell(submitted: Iterator[Any], stream: int) -> News:
        for submission in submitted:
            yield R.SubmissionNews(
                answer=[R.SubmissionAnswer(number=1000)], result=[R.SubmissionResult(number=1000)]
            )
            for _ in range(2):
                yield answer(submission)
                yield told(submission, status="COMPLETED", value=b"v")

    with odd_server(tell) as (target, odd), runtime.TaskClient(target) as client:
        session = client.session()
        assert [session.submit(b"x").result(timeout_s=TIMEOUT_S) for _ in range(3)] == [b"v"] * 3
        assert not odd.collected


@pytest.mark.parametrize(
    ("news", "error", "text"),
    [
        (b"\xff", Unknown, "sent what is no SubmissionNews"),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied, "odd"),
    ],
    ids=["bytes", "refused"],
)
def test_a_stream_that_fails_for_good_says_why(news: Any, error: type[Error], text: str) -> None:
    def tell(submitted: Iterator[Any], stream: int) -> News:
        next(submitted)
        yield news

    with odd_server(tell) as (target, _), runtime.TaskClient(target) as client:
        session = client.session()
        for _ in range(2):
            with pytest.raises(error, match=text) as caught:
                session.submit(b"x")
            assert caught.value.message.startswith(target)


def test_an_answer_that_does_not_come_is_not_waited_for_longer_than_allowed() -> None:
    go = threading.Event()

    def tell(submitted: Iterator[Any], stream: int) -> News:
        for submission in submitted:
            assert go.wait(TIMEOUT_S)
            yield answer(submission)

    async def late(target: str) -> None:
        async with runtime.AsyncTaskClient(target, timeout_s=0.1) as client:
            with pytest.raises(DeadlineExceeded, match=f"{target}: {RUN} was not answered within 0.1 s"):
                await client.session().submit(b"x")

    with odd_server(tell) as (target, _), runtime.TaskClient(target, timeout_s=0.1) as client:
        session = client.session()
        for _ in range(2):  # the first one by a coroutine, the second one without
            with pytest.raises(DeadlineExceeded, match=f"{target}: {RUN} was not answered within 0.1 s"):
                session.submit(b"x")
        run_async(lambda: late(target))
        go.set()
        until(lambda: not client.asynchronous.submissions._stream._open)  # type: ignore[union-attr]
        assert session.submit(b"x").id


def test_a_submission_that_was_given_up_before_it_was_sent_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    stream = Calls.stream

    @contextlib.asynccontextmanager
    async def held(self: Calls, path: str) -> Any:
        async with asyncio.timeout(TIMEOUT_S):
            while not go.is_set():
                await asyncio.sleep(0.005)
        async with stream(self, path) as call:
            yield call

    monkeypatch.setattr(Calls, "stream", held)

    def tell(submitted: Iterator[Any], stream: int) -> News:
        for submission in submitted:
            yield answer(submission)

    with odd_server(tell) as (target, odd), runtime.TaskClient(target, timeout_s=0.5) as client:
        session = client.session()
        for _ in range(2):
            with pytest.raises(DeadlineExceeded, match="was not answered within 0.5 s"):
                session.submit(b"x")
        go.set()
        assert session.submit(b"x").id == odd.created[-1] and len(odd.created) == 1


def test_an_id_of_the_callers_own_whose_answer_was_lost_is_in_use() -> None:
    def tell(submitted: Iterator[Any], stream: int) -> News:
        for submission in submitted:
            if stream == 1:
                yield grpc.StatusCode.UNAVAILABLE
            yield answer(submission, refused_id=["mine"])

    with (
        odd_server(tell) as (target, _), runtime.TaskClient(target) as client,
        pytest.raises(AlreadyExists, match="'mine'"),
    ):
        client.session().submit(b"x", id="mine")


def test_a_result_beyond_those_that_are_told_is_asked_for(
    worked: str, calls: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(submissions, "_MAX_TOLD", 1)
    with runtime.TaskClient(worked) as client, client.session() as session:
        slow = session.submit(b"wait %s" % bytes(tmp_path / "go"))
        assert session.submit(b"echo untold").result(timeout_s=TIMEOUT_S) == b"untold"
        assert calls.count(COLLECT) == 1
        (tmp_path / "go").touch()
        assert slow.result(timeout_s=TIMEOUT_S) == b"waited"
        assert session.submit(b"echo told").result(timeout_s=TIMEOUT_S) == b"told"
        assert calls.count(COLLECT) == 1


# -- callers that go away ----------------------------------------------------------------------------------------------


def test_a_client_is_closed_while_others_use_it() -> None:
    def tell(submitted: Iterator[Any], stream: int) -> News:
        yield answer(next(submitted))
        for _ in submitted:  # neither answered nor told
            pass

    # gRPC starts a thread at its first use.
    with odd_server(tell), leak_check(), odd_server(tell) as (target, odd), ThreadPoolExecutor(2) as pool:
        client = runtime.TaskClient(target)
        session = client.session()
        task = session.submit(b"x")
        waiting = pool.submit(task.result, timeout_s=TIMEOUT_S)
        submitting = pool.submit(session.submit, b"y")
        until(lambda: len(odd.created) == 2)
        began = time.monotonic()
        client.close()
        for one in (waiting, submitting):
            with pytest.raises(FailedPrecondition, match="closed"):
                one.result(5.0)
        assert time.monotonic() - began < 5.0
        assert len(odd.created) == 2
        for use in (lambda: session.submit(b"z"), task.result):
            with pytest.raises(FailedPrecondition, match="the TaskClient is closed"):
                use()


def test_a_loops_client_is_closed_while_others_use_it() -> None:
    def tell(submitted: Iterator[Any], stream: int) -> News:
        for _ in submitted:
            yield from ()

    async def work(target: str, odd: _Odd) -> None:
        async with runtime.AsyncTaskClient(target) as client:
            session = client.session()
            submitting = [asyncio.ensure_future(session.submit(b"x")) for _ in range(3)]
            while len(odd.created) < 3:
                await asyncio.sleep(0.005)
            submitting[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await submitting[0]
        for one in submitting[1:]:
            with pytest.raises(FailedPrecondition, match="closed"):
                await one
        assert len(odd.created) == 3

    with odd_server(tell) as (target, odd):
        run_async(lambda: work(target, odd))


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where a shell in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupted_caller_leaves_a_usable_client() -> None:
    go = threading.Event()

    def tell(submitted: Iterator[Any], stream: int) -> News:
        for submission in submitted:
            if submission.number == 2:
                assert go.wait(TIMEOUT_S)
            yield answer(submission)
            if submission.number != 1:
                yield told(submission, status="COMPLETED", value=b"v")

    def interrupted(use: Callable[[], object]) -> None:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            use()
        timer.join()

    with odd_server(tell) as (target, odd), runtime.TaskClient(target) as client:
        session = client.session()
        task = session.submit(b"1")
        interrupted(task.result)
        interrupted(lambda: session.submit(b"2"))
        go.set()
        assert session.submit(b"3").result(timeout_s=TIMEOUT_S) == b"v"
        assert len(odd.created) == 3
        with pytest.raises(DeadlineExceeded):
            task.result(timeout_s=0.05)
