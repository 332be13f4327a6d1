"""Items 1 to 21 of the task protocol's checklist: sessions, configuration, creation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.conformance.armonik.submitter import (
    DONE,
    LAST,
    A,
    begin,
    chunk,
    fails,
    header,
    of_session,
    options,
    report_error,
    serve,
    succeed,
    task,
)
from tests.leaks import run_async

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def test_01_configuration_is_constant(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            sizes = {(await submitter.call("GetServiceConfiguration", A.Empty())).data_chunk_max_size for _ in range(3)}
            assert sizes == {84000}

    run_async(work)


def test_01_configuration_is_the_setting(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path, data_chunk_max_size=1000) as submitter:
            assert (await submitter.call("GetServiceConfiguration", A.Empty())).data_chunk_max_size == 1000
            await submitter.session()
            assert await submitter.stream([begin(), header("t"), chunk(b"x" * 1000), DONE, LAST]) == []
            async with fails(INVALID, "1001 bytes"):
                await submitter.stream([begin(), header("u"), chunk(b"x" * 1001), DONE, LAST])

    run_async(work)


def test_02_session_is_listed(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            reply = await submitter.call("CreateSession", A.CreateSessionRequest(id="s", default_task_option=options()))
            assert reply.SerializeToString() == b"\x0a\x00"
            assert (await submitter.call("ListSessions", A.SessionFilter())).session_ids == ["s"]

    run_async(work)


def test_03_session_without_options_or_id_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            async with fails(INVALID, "default_task_option"):
                await submitter.call("CreateSession", A.CreateSessionRequest(id="s"))
            async with fails(INVALID, "id"):
                await submitter.call("CreateSession", A.CreateSessionRequest(default_task_option=options()))
            assert (await submitter.call("ListSessions", A.SessionFilter())).session_ids == []

    run_async(work)


def test_04_session_id_in_use_is_an_answer_and_changes_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session("s", priority=2)
            for change in ({"priority": 3}, {"priority": 4}):
                message = A.CreateSessionRequest(id="s", default_task_option=options(**change))
                reply = await submitter.call("CreateSession", message)
                assert reply.WhichOneof("result") == "error" and "'s'" in reply.error
                await submitter.call("CancelSession", A.Session(id="s")) if change["priority"] == 3 else None

    run_async(work)


def test_04_options_of_a_session_are_those_of_the_first_request(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session("s", priority=2, options={"which": "first"})
            second = options(priority=3, options={"which": "second"})
            await submitter.call("CreateSession", A.CreateSessionRequest(id="s", default_task_option=second))
            await submitter.stream([begin(), header("t"), DONE, LAST])
            (lease,) = await submitter.tasks.acquire("agent")
            assert (lease.task.options.priority, dict(lease.task.options.entries)) == (2, {"which": "first"})

    run_async(work)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_retries": 0},
        {"max_retries": -1},
        {"priority": 0},
        {"priority": 100},
        {"duration_s": None},
        {"duration_s": 0},
        {"duration_s": -1},
    ],
    ids=str,
)
def test_05_invalid_options_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    async def work() -> None:
        async with serve(tmp_path, max_priority=100) as submitter:
            message = A.CreateSessionRequest(id="s", default_task_option=options(**changes))
            async with fails(INVALID, next(iter(changes)).replace("duration_s", "max_duration")):
                await submitter.call("CreateSession", message)
            await submitter.session("s")
            async with fails(INVALID):
                await submitter.create(task("t"), **changes)
            async with fails(INVALID):
                await submitter.stream([begin("s", options(**changes)), header("t"), DONE, LAST])
            assert await submitter.counts(of_session("s")) == {}

    run_async(work)


def test_06_session_without_tasks_can_be_canceled(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session("s")
            await submitter.call("CancelSession", A.Session(id="s"))
            canceled = A.SessionFilter(included=A.SessionFilter.StatusesRequest(statuses=[A.SESSION_STATUS_CANCELED]))
            assert (await submitter.call("ListSessions", canceled)).session_ids == ["s"]

    run_async(work)


def test_07_unknown_and_canceled_sessions_cannot_be_canceled(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session("s")
            await submitter.call("CancelSession", A.Session(id="s"))
            for name in ("s", "unknown", ""):
                async with fails(NOT_FOUND):
                    await submitter.call("CancelSession", A.Session(id=name))

    run_async(work)


def test_08_session_filters_partition_all_sessions(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            for name in ("c", "a", "b"):
                await submitter.session(name)
            await submitter.call("CancelSession", A.Session(id="a"))
            statuses = A.SessionFilter.StatusesRequest(statuses=[A.SESSION_STATUS_CANCELED])

            async def found(selection: Any) -> list[str]:
                return list((await submitter.call("ListSessions", selection)).session_ids)

            assert await found(A.SessionFilter()) == ["c", "a", "b"]
            assert await found(A.SessionFilter(included=statuses)) == ["a"]
            assert await found(A.SessionFilter(excluded=statuses)) == ["c", "b"]
            assert await found(A.SessionFilter(included=A.SessionFilter.StatusesRequest())) == ["c", "a", "b"]
            assert await found(A.SessionFilter(sessions=["b", "a", "nobody", "b"])) == ["a", "b"]
            assert await found(A.SessionFilter(sessions=["b", "a"], excluded=statuses)) == ["b"]

    run_async(work)


def test_09_created_tasks_and_results_are_there_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            assert await submitter.create(task("t", "r1", "r2"), task("u", needs=["later"])) == []
            assert await submitter.statuses("t", "u") == {"t": "SUBMITTED", "u": "SUBMITTED"}
            assert await submitter.results("r1", "r2", "u") == {"r1": "CREATED", "r2": "CREATED", "u": "CREATED"}

    run_async(work)


def test_10_small_tasks_have_small_payloads(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            async with fails(INVALID, "task_requests"):
                await submitter.create()
            for payload in (b"", b"x" * 84000, b"x" * 100000):
                async with fails(INVALID, "payload"):
                    await submitter.create(task("good"), task("t", payload=payload))
            async with fails(INVALID, "expected_output_keys"):
                await submitter.create(A.TaskRequest(id="t", payload=b"x"))
            async with fails(INVALID, "id"):
                await submitter.create(task("", "r"))
            # No call can ask for a result without a key.
            for keys, field in ((("",), "[0]"), (("r", "", "r"), "[1]")):
                async with fails(INVALID, f"task_requests[1].expected_output_keys{field}: must not be empty"):
                    await submitter.create(task("good"), A.TaskRequest(id="t", payload=b"x", expected_output_keys=keys))
            async with fails(INVALID, "task_requests[0].data_dependencies[1]: must not be empty (task 't')"):
                await submitter.create(task("t", needs=["r", ""]))
            no_options = A.CreateSmallTaskRequest(session_id="s", task_requests=[task("t")])
            async with fails(INVALID, "task_options"):
                await submitter.call("CreateSmallTasks", no_options)
            no_session = A.CreateSmallTaskRequest(task_options=options(), task_requests=[task("t")])
            async with fails(INVALID, "session_id"):
                await submitter.call("CreateSmallTasks", no_session)
            assert await submitter.counts(of_session("s")) == {}
            assert await submitter.create(task("t", payload=b"x" * 83999)) == []

    run_async(work)


def test_10_lenient_server_lets_small_tasks_use_the_options_of_the_session(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path, lenient_small_tasks=True) as submitter:
            await submitter.session(priority=7)
            message = A.CreateSmallTaskRequest(session_id="s", task_requests=[task("t")])
            await submitter.call("CreateSmallTasks", message)
            (lease,) = await submitter.tasks.acquire("agent")
            assert lease.task.options.priority == 7

    run_async(work)


def test_11_large_tasks_use_the_options_of_the_session(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session(priority=5, options={"a": "b"}, duration_s=2.5, max_retries=4)
            await submitter.stream([begin(), header("t"), DONE, LAST])
            await submitter.stream([begin("s", options(priority=6)), header("u"), DONE, LAST])
            (first,) = await submitter.tasks.acquire("agent")
            (second,) = await submitter.tasks.acquire("agent")
            assert (first.task.id, first.task.options.priority) == ("u", 6)
            # Options replace the session's as a whole.
            assert dict(first.task.options.entries) == {}
            found = second.task.options
            assert (second.task.id, found.priority, found.max_retries, found.max_duration_s) == ("t", 5, 4, 2.5)
            assert dict(found.entries) == {"a": "b"}

    run_async(work)


def test_12_large_payload_arrives_byte_for_byte(tmp_path: Path) -> None:
    payload = bytes(range(256)) * 4096 * 10

    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            pieces = [chunk(payload[start : start + 84000]) for start in range(0, len(payload), 84000)]
            assert await submitter.stream([begin(), header("t"), *pieces, DONE, LAST]) == []
            (lease,) = await submitter.tasks.acquire("agent")
            found = [piece async for piece in lease.read_payload(84000)]
            assert b"".join(found) == payload
            assert max(map(len, found)) <= 84000

    run_async(work)


def test_13_chunk_of_the_largest_size_is_accepted(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            assert await submitter.stream([begin(), header("t"), chunk(b"x" * 84000), DONE, LAST]) == []
            async with fails(INVALID, "data_chunk_max_size"):
                await submitter.stream([begin(), header("u"), chunk(b"x" * 84001), DONE, LAST])
            assert await submitter.statuses("t", "u") == {"t": "SUBMITTED"}

    run_async(work)


@pytest.mark.parametrize("pieces", [[], [chunk(b"")]], ids=["none", "empty"])
def test_14_empty_payload_runs(tmp_path: Path, pieces: list[Any]) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.stream([begin(), header("t"), *pieces, DONE, LAST])
            async with submitter.agents(succeed):
                assert await submitter.available("t") is None
            assert await submitter.data("t") == b"t:"

    run_async(work)


BROKEN = {
    "no-message": [],
    "header-first": [header("t"), DONE, LAST],
    "data-before-header": [begin(), chunk(b"x"), DONE, LAST],
    "header-in-task": [begin(), header("t"), header("u"), DONE, LAST],
    "second-init": [begin(), begin(), header("t"), DONE, LAST],
    "last-in-task": [begin(), header("t"), LAST],
    "half-close-in-task": [begin(), header("done"), DONE, header("t"), chunk(b"x")],
    "init-only": [begin()],
    "last-without-task": [begin(), LAST],
    "no-member": [begin(), A.CreateLargeTaskRequest()],
    "payload-without-member": [begin(), header("t"), A.CreateLargeTaskRequest(task_payload=A.DataChunk())],
    "init-task-without-member": [begin(), A.CreateLargeTaskRequest(init_task=A.InitTaskRequest())],
    "last-is-false": [
        begin(), header("t"), DONE, A.CreateLargeTaskRequest(init_task=A.InitTaskRequest(last_task=False))
    ],
    "complete-is-false": [
        begin(), header("t"), A.CreateLargeTaskRequest(task_payload=A.DataChunk(data_complete=False)), LAST
    ],
    "no-id": [begin(), header("", "r"), DONE, LAST],
    "no-key": [
        begin(),
        A.CreateLargeTaskRequest(init_task=A.InitTaskRequest(header=A.TaskRequestHeader(id="t"))),
        DONE,
        LAST,
    ],
    "empty-key": [begin(), header("t", "r", ""), DONE, LAST],
    "empty-dependency": [begin(), header("t", needs=[""]), DONE, LAST],
    "no-session": [begin(""), header("t"), DONE, LAST],
}


@pytest.mark.parametrize("messages", BROKEN.values(), ids=BROKEN)
def test_15_broken_stream_makes_nothing(tmp_path: Path, messages: list[Any]) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            async with fails(INVALID):
                await submitter.stream(messages)
            assert await submitter.counts(of_session("s")) == {}
            assert await submitter.results("t", "done") == {}

    run_async(work)


def test_15_stream_that_is_cancelled_makes_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            sent = asyncio.Event()

            async def messages() -> Any:
                yield begin()
                yield header("t")
                for _ in range(20):
                    yield chunk(b"x" * 84000)
                sent.set()
                await asyncio.Event().wait()

            call = submitter.call("CreateLargeTasks", messages())
            await sent.wait()
            call.cancel()
            assert await submitter.counts(of_session("s")) == {}
            folder = tmp_path / "objects"
            async with asyncio.timeout(10):
                while any(path.is_file() for path in folder.rglob("*")):
                    await asyncio.sleep(0.01)

    run_async(work)


def test_16_stream_may_end_without_last_task(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            assert await submitter.stream([begin(), header("t"), DONE]) == []
            # What follows last_task is ignored.
            assert await submitter.stream([begin(), header("u"), DONE, LAST, chunk(b"x"), begin()]) == []
            assert await submitter.statuses("t", "u") == {"t": "SUBMITTED", "u": "SUBMITTED"}

    run_async(work)


def test_17_task_id_in_use_refuses_the_whole_request(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session("s")
            await submitter.session("other")
            assert await submitter.create(task("t", "r")) == []
            assert await submitter.create(task("a"), task("t", "x"), task("b"), session="other") == ["t"]
            assert await submitter.create(task("t", "r")) == ["t"]
            assert await submitter.create(task("a"), task("twice"), task("b"), task("twice", "y")) == ["twice"]
            assert await submitter.stream([begin(), header("c"), DONE, header("t", "z"), DONE, LAST]) == ["t"]
            assert await submitter.counts(of_session("s", "other")) == {"SUBMITTED": 1}
            assert await submitter.results("a", "b", "x", "y", "z") == {}
            assert await submitter.create(task("a"), task("b")) == []

    run_async(work)


def test_18_key_in_use_in_the_session_refuses_the_whole_request(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session("s")
            await submitter.session("other")
            assert await submitter.create(task("t", "r")) == []
            assert await submitter.create(task("a"), task("u", "r"), task("v", "q", "r")) == ["u", "v"]
            assert await submitter.create(task("u", "same"), task("v", "same")) == ["u", "v"]
            assert await submitter.create(task("u", "r"), session="other") == []
            assert await submitter.counts(of_session("s", "other")) == {"SUBMITTED": 2}

    run_async(work)


def test_19_creation_needs_a_running_session(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            async with fails(NOT_FOUND):
                await submitter.create(task("t"))
            async with fails(NOT_FOUND):
                await submitter.stream([begin("s", options()), header("t"), DONE, LAST])
            await submitter.session()
            await submitter.call("CancelSession", A.Session(id="s"))
            async with fails(grpc.StatusCode.FAILED_PRECONDITION):
                await submitter.create(task("t"))
            async with fails(grpc.StatusCode.FAILED_PRECONDITION):
                await submitter.stream([begin(), header("t"), DONE, LAST])
            assert await submitter.statuses("t") == {}

    run_async(work)


def test_20_priority_has_a_bound(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            for priority in (10, 11, 99):
                async with fails(INVALID, "Max priority is 10"):
                    await submitter.create(task("t"), priority=priority)
                async with fails(INVALID, "Max priority is 10"):
                    await submitter.stream([begin("s", options(priority=priority)), header("t"), DONE, LAST])
                async with fails(INVALID, "Max priority is 10"):
                    await submitter.session(f"s{priority}", priority=priority)
            assert await submitter.create(task("t"), priority=9) == []

    run_async(work)


def test_21_many_tasks_in_one_stream(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            ids = [f"t{number}" for number in range(10_000)]
            messages = [begin()]
            for name in ids:
                messages += [header(name), DONE]
            assert await submitter.stream([*messages, LAST]) == []
            assert (await submitter.call("ListTasks", of_session("s"))).task_ids == ids
            assert await submitter.counts(of_session("s")) == {"SUBMITTED": 10_000}

    run_async(work)


def test_repeated_keys_and_dependencies_count_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            assert await submitter.create(task("a"), task("t", "r", "q", "r", needs=["a", "a"])) == []
            async with submitter.agents(succeed):
                assert await submitter.available("q") is None
            task_spec = submitter.tasks.task("t")
            assert task_spec.row.missing == 0

    run_async(work)


def test_identifiers_are_not_parsed(tmp_path: Path) -> None:
    names = ["a/b", "100%", "#", "x###1", "-", "..", "\N{SNOWMAN}", "with\0zero", " "]

    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session("s%/#")
            assert await submitter.create(*(task(name) for name in names), session="s%/#") == []
            async with submitter.agents(succeed):
                for name in names:
                    assert await submitter.available(name, "s%/#") is None
                    assert await submitter.data(name, "s%/#") == name.encode() + b":payload"

    run_async(work)


def test_output_error_text_is_kept(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t"))
            async with submitter.agents(report_error):
                error = await submitter.available("t")
            assert (error.task_id, error.errors[0].task_status) == ("t", A.TASK_STATUS_ERROR)
            assert error.errors[0].detail == "it went wrong"

    run_async(work)
