"""What programs do with tasks: submit, wait, gather, stream, cancel; and what they are told when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import io
import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime._ext.http2_client_stream import StreamCall
from runtime.client.tasks.calls import Calls
from runtime.client.tasks.failures import TaskCanceled, TaskFailed
from runtime.client.tasks.progress import Bar
from runtime.client.tasks.session import AsyncTaskSession
from runtime.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)
from tests.client.tasks.conftest import running_worker

TIMEOUT_S = 60.0


def test_submit_and_gather(worked: str) -> None:
    with runtime.TaskClient(worked) as client, client.session() as session:
        one = session.submit(b"echo hello")
        assert one.result(timeout_s=TIMEOUT_S) == b"hello"
        many = session.map([b"echo %d" % index for index in range(100)])
        assert session.gather(many, timeout_s=TIMEOUT_S) == [b"%d" % index for index in range(100)]
        assert one.status() == "COMPLETED"
        assert session.counts() == session.wait(TIMEOUT_S) == {"COMPLETED": 101}


def test_tasks_wait_for_each_other(worked: str) -> None:
    with runtime.TaskClient(worked) as client, client.session() as session:
        parts = session.map([b"echo a", b"echo b"])
        joined = session.submit(b"join", dependencies=parts)
        again = session.submit(b"join", dependencies=[joined.keys[0], parts[0]])
        assert again.result(timeout_s=TIMEOUT_S) == b"a+b+a"


def test_several_results(worked: str) -> None:
    with runtime.TaskClient(worked) as client, client.session() as session:
        task = session.submit(b"both", keys=["left", "right"])
        assert task.results(timeout_s=TIMEOUT_S) == {"left": b"left", "right": b"right"}
        with pytest.raises(InvalidArgument, match="name one: left, right"):
            task.result()
        with pytest.raises(InvalidArgument, match="has no result 'middle'"):
            task.result("middle")


def test_empty_large_and_file_payloads(worked: str, tmp_path: Path) -> None:
    file = tmp_path / "payload"
    file.write_bytes(b"echo " + bytes(1_000_000))
    with runtime.TaskClient(worked) as client, client.session() as session:
        tasks = session.map([b"", b"size " + bytes(3_000_000), file, memoryview(b"echo view"), b"echo small"])
        empty, size, content, view, small = session.gather(tasks, timeout_s=TIMEOUT_S)
        assert (empty, size, view, small) == (b"", b"3000005", b"view", b"small")
        assert content == bytes(1_000_000)
        pieces = list(tasks[2].stream())
        assert b"".join(pieces) == content
        assert max(map(len, pieces)) <= 84_000
        with pytest.raises(NotFound, match="cannot be read"):
            session.submit(tmp_path / "nothing")
        with pytest.raises(InvalidArgument, match="not str"):
            session.submit("text")


def test_arrays(worked: str) -> None:
    with (
        runtime.Server(services=("task",), task_check_s=0.2, grace_s=0.0) as server,
        running_worker(server.target, "scale"),
        runtime.TaskClient(server.target, arrays=True) as client,
        client.session() as session,
    ):
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        found = session.submit({"x": x, "factor": np.float32(2)}).result(timeout_s=TIMEOUT_S)
        np.testing.assert_array_equal(found["y"], x * 2)
        assert found["sum"] == 30


def test_bytes_are_no_arrays(worked: str) -> None:
    with runtime.TaskClient(worked, arrays=True) as client, client.session() as session:
        task = session.submit(b"echo bytes", id="no-arrays")
        for read in (task.result, lambda: session.gather([task]), lambda: session.gather(session.map([b"size"]))):
            with pytest.raises(InvalidArgument, match="result '[^']+': .*; a TaskClient without arrays=True returns"):
                read()


def test_failures_carry_the_text_of_the_worker(worked: str) -> None:
    with runtime.TaskClient(worked) as client, client.session(max_retries=1) as session:
        told, raised, fine = session.map([b"fail no such thing", b"raise oops", b"echo x"])
        with pytest.raises(TaskFailed, match="no such thing") as caught:
            told.result(timeout_s=TIMEOUT_S)
        assert caught.value.status == "ERROR"
        assert caught.value.task_id == told.id
        with pytest.raises(TaskFailed) as caught:
            raised.result(timeout_s=TIMEOUT_S)
        assert "RuntimeError: oops" in caught.value.details
        assert "worker_functions.py" in caught.value.details
        assert caught.value.task_id == f"{raised.id}###1"
        with pytest.raises(TaskFailed):
            session.gather([fine, told], timeout_s=TIMEOUT_S)
        values = session.gather([fine, told, raised], timeout_s=TIMEOUT_S, return_exceptions=True)
        assert values[0] == b"x"
        assert [type(value) for value in values[1:]] == [TaskFailed, TaskFailed]
        dependent = session.submit(b"join", dependencies=[told])
        with pytest.raises(TaskFailed, match="One of the input data is aborted"):
            dependent.result(timeout_s=TIMEOUT_S)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (again.task_id, again.details) == (caught.value.task_id, caught.value.details)


def test_a_worker_that_dies_is_replaced_and_the_task_tried_again(unworked: runtime.Server) -> None:
    with (
        running_worker(unworked.target),
        runtime.TaskClient(unworked.target) as client,
        client.session(max_retries=1) as session,
    ):
        dead = session.submit(b"die")
        with pytest.raises(TaskFailed) as caught:
            dead.result(timeout_s=TIMEOUT_S)
        assert caught.value.task_id == f"{dead.id}###1"
        assert session.submit(b"echo alive").result(timeout_s=TIMEOUT_S) == b"alive"


def test_as_completed_yields_what_ends_first(worked: str, tmp_path: Path) -> None:
    with runtime.TaskClient(worked) as client, client.session() as session:
        slow = session.submit(b"wait %s" % bytes(tmp_path / "go"))
        quick = session.submit(b"echo quick")
        order = []
        for handle in session.as_completed([slow, quick], timeout_s=TIMEOUT_S):
            order.append(handle)
            (tmp_path / "go").touch()
        assert order == [quick, slow]


def test_more_tasks_than_calls_that_wait(
    unworked: runtime.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.client.tasks.completion.WAITS", 2)
    monkeypatch.setattr("runtime.client.tasks.completion.LOOK_S", 0.02)

    async def refuse(*_: object) -> None:
        raise Unimplemented("no such method, as of ArmoniK's own server")

    monkeypatch.setattr("runtime.client.tasks.completion._collect", refuse)
    with (
        running_worker(unworked.target, processes=3),
        runtime.TaskClient(unworked.target) as client,
        client.session(max_retries=1) as session,
    ):
        slow = session.map([b"wait %s" % bytes(tmp_path / "go")] * 2)
        others = session.map([b"echo %d" % index for index in range(20)] + [b"fail x"])
        seen = []
        for handle in session.as_completed([*slow, *others], timeout_s=TIMEOUT_S):
            seen.append(handle)
            if len(seen) == 21:  # all but those that the waiting calls are for
                (tmp_path / "go").touch()
        assert set(seen[:21]) == set(others)
        assert set(seen[21:]) == set(slow)
        assert [handle for handle in seen if handle.failure] == [others[-1]]


def test_thousands_are_collected_by_a_call(worked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.client.tasks.completion.COLLECTED", 400)

    def refuse(*_: object) -> None:
        raise AssertionError("a result was asked for on its own")

    monkeypatch.setattr("runtime.client.tasks.aio.AsyncTaskHandle.available", refuse)
    with runtime.TaskClient(worked) as client, client.session(max_retries=1) as session:
        tasks = session.map([b"echo %d" % index for index in range(1000)] + [b"fail x"])
        values = session.gather(tasks, timeout_s=TIMEOUT_S, return_exceptions=True)
        assert values[:1000] == [b"%d" % index for index in range(1000)]
        assert isinstance(values[1000], TaskFailed)
        both = session.submit(b"both", keys=["left", "right"])
        assert list(session.as_completed([both, both], timeout_s=TIMEOUT_S)) == [both]


def test_collecting_what_does_not_exist_is_refused(worked: str) -> None:
    with runtime.TaskClient(worked) as client, client.session() as session:
        task = session.submit(b"echo")
        with pytest.raises(NotFound, match="'nothing'"):
            session.gather([task, session.handle("nothing")], timeout_s=TIMEOUT_S)
        with pytest.raises(NotFound, match="'nowhere'"):
            nowhere = client.attach("nowhere")
            nowhere.gather([nowhere.handle(task.id)], timeout_s=TIMEOUT_S)


def test_waits_end_in_time_and_the_task_goes_on(worked: str, tmp_path: Path) -> None:
    with runtime.TaskClient(worked) as client, client.session() as session:
        task = session.submit(b"wait %s" % bytes(tmp_path / "go"))
        with pytest.raises(DeadlineExceeded, match="was not there within 0.05 s"):
            task.result(timeout_s=0.05)
        with pytest.raises(DeadlineExceeded, match="has not ended within 0.05 s"):
            task.wait(0.05)
        with pytest.raises(DeadlineExceeded, match="1 of 1 tasks have not ended within 0.05 s"):
            session.gather([task], timeout_s=0.05)
        with pytest.raises(DeadlineExceeded, match="has not ended within 0.05 s: "):
            session.wait(0.05)
        (tmp_path / "go").touch()
        assert task.result(timeout_s=TIMEOUT_S) == b"waited"


def test_cancelling(worked: str, tmp_path: Path) -> None:
    with runtime.TaskClient(worked) as client:
        session = client.session()
        task = session.submit(b"wait %s" % bytes(tmp_path / "never"))
        other = session.submit(b"wait %s" % bytes(tmp_path / "never"))
        task.cancel()
        with pytest.raises(TaskCanceled):
            task.result(timeout_s=TIMEOUT_S)
        session.cancel()
        with pytest.raises(TaskCanceled):
            other.result(timeout_s=TIMEOUT_S)
        with pytest.raises(FailedPrecondition, match="is canceled"):
            session.submit(b"echo")
        with pytest.raises(NotFound):
            session.cancel()


def test_a_block_that_fails_cancels_its_session(worked: str, tmp_path: Path) -> None:
    with runtime.TaskClient(worked) as client:
        with pytest.raises(ZeroDivisionError), client.session() as session:
            task = session.submit(b"wait %s" % bytes(tmp_path / "never"))
            raise ZeroDivisionError
        with pytest.raises(TaskCanceled):
            client.attach(session.id).handle(task.id).result(timeout_s=TIMEOUT_S)


def test_ids_and_keys_in_use_are_named(worked: str) -> None:
    with runtime.TaskClient(worked) as client, client.session("named") as session:
        session.submit(b"echo 1", id="first", keys=["key"])
        with pytest.raises(AlreadyExists, match="'first'"):
            session.submit(b"echo 2", id="first", keys=["other"])
        with pytest.raises(AlreadyExists, match="a key, of these tasks is in use already: 'second'"):
            session.submit(b"echo 2", id="second", keys=["key"])
        with pytest.raises(AlreadyExists, match="session 'named' exists already"):
            client.session("named").submit(b"")
        assert client.attach("named").handle("first", ["key"]).result(timeout_s=TIMEOUT_S) == b"1"
        with pytest.raises(NotFound, match="'nowhere'"):
            client.attach("nowhere").submit(b"echo")


def test_options_are_checked_and_reach_the_server(worked: str) -> None:
    with runtime.TaskClient(worked) as client:
        for wrong, said in (
            ({"max_duration_s": 0}, "max_duration_s is 0"), ({"options": {"a": 1}}, "'a': 1 is not a text"),
        ):
            with pytest.raises(InvalidArgument, match=said):
                client.session(**wrong)
        with pytest.raises(InvalidArgument, match="priority"):
            client.session(priority=100).submit(b"")
        with client.session() as session, pytest.raises(InvalidArgument, match="a list of keys or tasks"):
            session.submit(b"", dependencies="key")


def test_a_server_that_is_away_is_waited_for(tmp_path: Path) -> None:
    options: dict[str, Any] = {"services": ("task",), "data_dir": tmp_path / "data", "grace_s": 0.0}
    with runtime.Server(**options) as server:
        target, listen = server.target, server.address
        client = runtime.TaskClient(target)
        session = client.session()
        task = session.submit(b"echo kept")
    with pytest.raises(Unavailable, match=target.replace("grpc://", "")), \
            runtime.TaskClient(target, retry_s=0.1) as hasty:
        hasty.attach(session.id).counts()
    import threading

    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(task.result(timeout_s=TIMEOUT_S)))
    waiting.start()
    with runtime.Server(listen=listen, task_check_s=0.2, **options) as server, running_worker(server.target):
        waiting.join(TIMEOUT_S)
        assert found == [b"kept"]
        client.close()


def test_a_closed_client_says_so(worked: str) -> None:
    client = runtime.TaskClient(worked)
    session = client.session()
    session.submit(b"echo")
    client.close()
    client.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        session.counts()


def test_nothing_is_left_behind(worked: str, no_leaks: None) -> None:
    with runtime.TaskClient(worked) as client, client.session() as session:
        tasks = session.map([b"echo"] * 10)
        next(iter(session.as_completed(tasks, timeout_s=TIMEOUT_S)))  # the rest is given up
        session.gather(tasks, timeout_s=TIMEOUT_S)


def test_on_asyncio(worked: str) -> None:
    async def work() -> list[Any]:
        async with runtime.AsyncTaskClient(worked) as client, client.session() as session:
            tasks = await session.map([b"echo 1", b"echo 2"])
            told: list[tuple[int, int, int]] = []
            values = await session.gather(
                tasks, timeout_s=TIMEOUT_S, progress=lambda done, total, failed: told.append((done, total, failed))
            )
            assert told == [(0, 2, 0), (1, 2, 0), (2, 2, 0)]
            return [*values, await (await session.submit(b"join", dependencies=tasks)).result(timeout_s=TIMEOUT_S)]

    assert asyncio.run(work()) == [b"1", b"2", b"1+2"]


def test_progress_is_shown_in_a_line_or_by_tenths() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    times = iter([0.0, *range(1, 100)])
    terminal, pipe = Terminal(), io.StringIO()
    bar, lines = Bar(terminal, lambda: next(times)), Bar(pipe, lambda: 0.0)
    for done in range(41):
        lines(done, 40, 0)
    for done in (0, 1, 2):
        bar(done, 2, done // 2)
    bar.close()
    assert terminal.getvalue().count("\r") == 4
    assert terminal.getvalue().endswith("2/2  1 failed  0.7/s  3.0 s\n")
    assert len(pipe.getvalue().splitlines()) == 11


def test_medium_payloads_go_together_and_in_order(worked: str) -> None:
    payloads = [b"size " + b"%d" % number * size for number, size in enumerate((20_000, 1, 100_000, 4_000_000, 30_000))]
    with runtime.TaskClient(worked) as client, client.session() as session:
        found = session.gather(session.map(payloads * 5), timeout_s=TIMEOUT_S)
        assert found == [b"%d" % len(payload) for payload in payloads] * 5
        given: list[Any] = [memoryview(payloads[2]), bytearray(payloads[3]), payloads[0]]
        assert session.gather(session.map(given), timeout_s=TIMEOUT_S) == [b"%d" % len(payload) for payload in given]


def test_those_before_a_refused_group_of_medium_payloads_are_stored(unworked: runtime.Server) -> None:
    with runtime.TaskClient(unworked.target) as client, client.session() as session:
        session.submit(b"x", id="taken")
        ids = [f"t{number}" for number in range(20)]
        with pytest.raises(AlreadyExists, match=r"'taken'; none was stored; the first 6 of 21 tasks are stored"):
            session.submit_all([b"x" * 1_000_000] * 21, ids=[*ids[:10], "taken", *ids[10:]])
        assert session.counts() == {"SUBMITTED": 7}
        session.cancel()
        with pytest.raises(FailedPrecondition, match="is canceled"):
            session.map([b"x" * 1_000_000] * 9)


def test_many_small_tasks_go_by_one_call_that_does_not_wait_for_answers(
    unworked: runtime.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Calls.stream
    opened: list[str] = []

    def seen(self: Calls, path: str) -> Any:
        opened.append(path)
        return stream(self, path)

    def refuse(*_: object) -> None:
        raise AssertionError("a request of its own")

    with runtime.TaskClient(unworked.target) as client, client.session() as session:
        session.submit_all([b"x"], ids=["taken"])
        monkeypatch.setattr(Calls, "stream", seen)
        monkeypatch.setattr(AsyncTaskSession, "_create", refuse)
        assert len(session.map([b"x"] * 2200)) == 2200
        names = [f"t{number}" for number in range(2200)]
        names[1234] = "taken"
        with pytest.raises(AlreadyExists, match="'taken'; none was stored; the first 1000 of 2200 tasks are stored"):
            session.submit_all([b"y"] * 2200, ids=names)
        assert session.counts() == {"SUBMITTED": 3201}
        assert opened == ["/runtime.v1.TaskUploads/Create"] * 2


def test_a_server_without_uploads_takes_medium_payloads_otherwise(
    worked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unknown(self: Calls, path: str) -> Any:
        asked.append(path)
        raise Unimplemented("no such method here")

    monkeypatch.setattr(Calls, "stream", unknown)
    payloads = [b"size " + b"x" * size for size in (20_000, 100_000, 1, 200_000)]
    with runtime.TaskClient(worked) as client, client.session() as session:
        for _ in range(2):
            found = session.gather(session.map(payloads), timeout_s=TIMEOUT_S)
            assert found == [b"%d" % len(payload) for payload in payloads]
    assert asked == ["/runtime.v1.TaskUploads/Create"], "asked once"


def test_medium_payloads_are_sent_again_when_an_answer_is_lost(
    unworked: runtime.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were stored already are not refused for that."""
    stream = Calls.stream
    num_answers = num_calls = 0

    class Breaking:
        def __init__(self, call: StreamCall) -> None:
            self._call = call
            self.send, self.done_sending = call.send, call.done_sending

        async def receive(self) -> bytes | None:
            nonlocal num_answers
            answer = await self._call.receive()
            num_answers += 1
            if num_answers in (2, 4):
                raise Unavailable("the connection was lost")
            return answer

    @contextlib.asynccontextmanager
    async def breaking(self: Calls, path: str) -> AsyncIterator[Any]:
        nonlocal num_calls
        num_calls += 1
        async with stream(self, path) as call:
            yield Breaking(call)

    monkeypatch.setattr(Calls, "stream", breaking)
    with runtime.TaskClient(unworked.target) as client, client.session() as session:
        handles = session.map([b"x" * 1_000_000] * 30)
        assert len({handle.id for handle in handles}) == 30
        assert session.counts() == {"SUBMITTED": 30}
        assert num_calls >= 3


def test_a_key_that_is_named_twice_is_one_result(worked: str) -> None:
    with runtime.TaskClient(worked) as client, client.session() as session:
        task = session.submit(b"echo once", keys=["named", "named"])
        assert task.keys == ("named",)
        assert session.gather([task], timeout_s=TIMEOUT_S) == [b"once"]
