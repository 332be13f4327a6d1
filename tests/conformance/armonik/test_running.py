"""Items 44 to 57 of the task protocol's checklist, as far as they are decided without a worker's call.

Agents here are driven by the domain interface; what travels between an agent and its worker has tests of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.objects.value import Value
from runtime.tasks.leases import Lease, LeaseLost
from runtime.tasks.model import FailureKind, TaskOptions, TaskRequest, TaskStatus
from runtime.tasks.transitions import LEGAL, Completions, TaskChange, TaskChanges
from tests.conformance.armonik.submitter import (
    A,
    Submitter,
    of_session,
    of_tasks,
    report_error,
    serve,
    succeed,
    task,
)
from tests.leaks import run_async

ABORTED_INPUT = "One of the input data is aborted."


async def _lease(submitter: Submitter) -> Lease:
    (lease,) = await submitter.tasks.acquire("agent")
    await lease.start()
    return lease


def _values(*keys: str) -> dict[str, Value]:
    return {key: Value(key.encode()) for key in keys}


async def _ready(submitter: Submitter) -> list[str]:
    """Return the ids of all tasks that could be acquired now."""
    found: list[str] = []
    while True:
        acquire = asyncio.ensure_future(submitter.tasks.acquire("probe", 100))
        done, _ = await asyncio.wait([acquire], timeout=0.05)
        if not done:
            acquire.cancel()
            await asyncio.wait([acquire])
            return found
        found += [lease.task.id for lease in acquire.result()]


def test_44_task_runs_after_all_its_dependencies(tmp_path: Path) -> None:
    seen: dict[str, Mapping[str, bytes]] = {}
    order: list[str] = []

    async def handler(lease: Lease) -> None:
        order.append(lease.task.id)
        seen[lease.task.id] = {key: lease.dependency(key).data for key in lease.task.dependencies}
        await succeed(lease)

    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("last", needs=["b", "a"]), task("alone"))
            await submitter.create(task("a"), task("b", needs=["a"]))
            async with submitter.agents(handler, 2):
                assert await submitter.available("last") is None
            assert order.index("last") > order.index("b") > order.index("a")
            assert seen["last"] == {"b": b"b:payload", "a": b"a:payload"}
            # A dependency that is there already is no reason to wait.
            await submitter.create(task("late", needs=["a", "last"]))
            assert await _ready(submitter) == ["late"]

    run_async(work)


def test_45_subtasks_wait_for_the_end_of_their_parent(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("good"), task("bad"))
            good, bad = await _lease(submitter), await _lease(submitter)
            assert await good.stage_subtasks([TaskRequest("g1", ("k1",)), TaskRequest("g2", ("k2",), ("k1",))]) == ()
            assert await bad.stage_subtasks([TaskRequest("b1", ("k3",))]) == ()
            assert await submitter.statuses("g1", "g2", "b1") == dict.fromkeys(("g1", "g2", "b1"), "CREATING")
            assert await submitter.results("k1", "k2", "k3") == {}
            assert await _ready(submitter) == []
            await bad.report_error("text")
            await good.succeed(_values("good"))
            assert await submitter.statuses("g1", "g2", "b1") == {
                "g1": "SUBMITTED",
                "g2": "SUBMITTED",
                "b1": "CANCELED",
            }
            assert await submitter.results("k1", "k2", "k3") == {"k1": "CREATED", "k2": "CREATED"}
            assert await _ready(submitter) == ["g1"]

    run_async(work)


def test_45_subtasks_have_the_options_of_the_session(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session(priority=2)
            await submitter.create(task("parent"), priority=9)
            parent = await _lease(submitter)
            await parent.stage_subtasks([TaskRequest("plain", ("a",))])
            await parent.stage_subtasks([TaskRequest("own", ("b",))], TaskOptions(10**9, 1, 5))
            await parent.succeed(_values("parent"))
            first, second = await _lease(submitter), await _lease(submitter)
            assert (first.task.id, first.task.options.priority) == ("own", 5)
            assert (second.task.id, second.task.options.priority) == ("plain", 2)

    run_async(work)


def test_45_refused_subtasks_leave_the_parent_as_it_is(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("parent", "p1", "p2"), task("other", "o"))
            parent = await _lease(submitter)
            refused = await parent.stage_subtasks(
                [TaskRequest("new", ("n",)), TaskRequest("other", ("x",)), TaskRequest("foreign", ("o",))]
            )
            assert refused == ("other", "foreign")
            assert await submitter.statuses("new") == {}
            assert await parent.stage_subtasks([TaskRequest("first", ("p1",))]) == ()
            assert await parent.stage_subtasks([TaskRequest("second", ("p1",))]) == ("second",)
            assert await parent.succeed(_values("p2")) is TaskStatus.COMPLETED

    run_async(work)


def test_46_handed_over_key_is_waited_for_at_its_new_owner(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("parent", "r"), task("after", needs=["r"]))
            wait = asyncio.ensure_future(submitter.available("r"))
            parent = await _lease(submitter)
            await parent.stage_subtasks([TaskRequest("child", ("r",))])
            assert await parent.succeed({}) is TaskStatus.COMPLETED
            assert (await submitter.download("r"))[0].not_completed_task == "child"
            child = await _lease(submitter)
            await child.stage_subtasks([TaskRequest("grandchild", ("r",))])
            await child.succeed({})
            assert not wait.done() and await _ready(submitter) == ["grandchild"]
            lease = submitter.tasks.leases.all()[-1]
            await lease.start()
            await lease.succeed(_values("r"))
            assert await wait is None
            assert await submitter.data("r") == b"r"
            assert await _ready(submitter) == ["after"]

    run_async(work)


def test_46_error_of_the_new_owner_is_reported(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("parent", "r"))
            parent = await _lease(submitter)
            await parent.stage_subtasks([TaskRequest("child", ("r",))])
            await parent.succeed({})
            await (await _lease(submitter)).report_error("child failed")
            error = await submitter.available("r")
            assert (error.task_id, error.errors[0].detail) == ("child", "child failed")
            assert (await submitter.output("parent")).WhichOneof("type") == "ok"

    run_async(work)


def test_47_error_aborts_everything_that_depends_on_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(
                task("a", "a1", "a2"),
                task("b", needs=["a1", "never"]),
                task("c", needs=["b"]),
                task("d", needs=["a2", "c"]),
                task("free"),
            )
            lease = await _lease(submitter)
            await lease.report_error("text")
            expected = dict.fromkeys("abcd", "ERROR")
            assert await submitter.statuses("a", "b", "c", "d", "free") == {**expected, "free": "SUBMITTED"}
            assert set((await submitter.results("a1", "a2", "b", "c", "d")).values()) == {"ABORTED"}
            error = await submitter.available("d")
            assert (error.task_id, error.errors[0].detail) == ("d", ABORTED_INPUT)
            # So does what comes later.
            await submitter.create(task("e", needs=["free", "c"]), task("f", needs=["e"]))
            assert await submitter.statuses("e", "f") == {"e": "ERROR", "f": "ERROR"}
            assert await _ready(submitter) == ["free"]

    run_async(work)


def test_48_key_that_is_not_produced_is_aborted(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t", "made", "forgotten"), task("after", needs=["forgotten"]))
            lease = await _lease(submitter)
            assert await lease.succeed(_values("made")) is TaskStatus.COMPLETED
            assert await submitter.results("made", "forgotten") == {"made": "COMPLETED", "forgotten": "ABORTED"}
            error = await submitter.available("forgotten")
            assert (error.task_id, error.errors[0].task_status) == ("t", A.TASK_STATUS_COMPLETED)
            assert "'forgotten'" in error.errors[0].detail
            assert await submitter.statuses("after") == {"after": "ERROR"}

    run_async(work)


def test_41_key_of_another_task_makes_the_attempt_an_error(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t", "r"), task("other", "o"))
            for values in (_values("r", "o"),):
                lease = await _lease(submitter)
                await lease.stage_subtasks([TaskRequest("child", ("k",))])
                assert await lease.succeed(values) is TaskStatus.ERROR
            assert await submitter.results("r", "o", "k") == {"r": "ABORTED", "o": "CREATED"}
            details = (await submitter.output("t")).error.details
            assert "'o'" in details and "'t'" in details
            assert await submitter.statuses("t", "t###1", "child") == {"t": "ERROR", "child": "CANCELED"}

    run_async(work)


@pytest.mark.parametrize("failures", [0, 1, 3])
def test_49_call_that_fails_is_made_again(tmp_path: Path, failures: int) -> None:
    runs: list[str] = []

    async def handler(lease: Lease) -> None:
        runs.append(lease.task.id)
        if len(runs) <= failures:
            await lease.fail(FailureKind.CALL, f"failure {len(runs)}")
        else:
            await succeed(lease)

    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t", "r"), max_retries=3)
            wait = asyncio.ensure_future(submitter.available("r"))
            async with submitter.agents(handler):
                assert await wait is None
            attempts = ["t", *(f"t###{number}" for number in range(1, failures + 1))]
            assert runs == attempts
            expected = {**dict.fromkeys(attempts, "ERROR"), attempts[-1]: "COMPLETED"}
            assert await submitter.statuses(*attempts, f"t###{failures + 1}") == expected
            assert (await submitter.call("ListTasks", of_session("s"))).task_ids == attempts
            assert await submitter.data("r") == b"r:payload"
            if failures:
                assert (await submitter.output("t")).error.details == "failure 1"

    run_async(work)


def test_50_attempts_end(tmp_path: Path) -> None:
    async def handler(lease: Lease) -> None:
        await (report_error(lease) if lease.task.id == "answer" else lease.fail(FailureKind.CALL, lease.task.id))

    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t", "r"), task("answer"), max_retries=2)
            async with submitter.agents(handler):
                error = await submitter.available("r")
                await submitter.available("answer")
            assert (error.task_id, error.errors[0].detail) == ("t###2", "t###2")
            listed = (await submitter.call("ListTasks", of_session("s"))).task_ids
            assert sorted(listed) == ["answer", "t", "t###1", "t###2"]
            assert await submitter.results("r", "answer") == {"r": "ABORTED", "answer": "ABORTED"}

    run_async(work)


def test_51_attempt_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t", "r"))
            lease = await _lease(submitter)
            writer = lease.result_writer()
            await writer.write(b"x" * 5_000_000)
            value = await writer.finish()
            assert value.ref is not None
            await lease.stage_subtasks([TaskRequest("child", ("k",))])
            await lease.fail(FailureKind.CALL, "worker lost")
            submitter.tasks.discard([value])
            assert await submitter.results("r", "k") == {"r": "CREATED"}
            assert await submitter.statuses("t", "t###1", "child") == {
                "t": "ERROR",
                "t###1": "SUBMITTED",
                "child": "CANCELED",
            }
            async with asyncio.timeout(10):
                while any(path.is_file() for path in (tmp_path / "objects").rglob("*")):
                    await asyncio.sleep(0.01)

    run_async(work)


def test_52_attempt_that_takes_too_long_is_a_timeout_and_retried(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t", "r"))
            await (await _lease(submitter)).fail(FailureKind.TIMEOUT, "Deadline Exceeded")
            output = await submitter.output("t")
            assert (output.status, output.error.details) == (A.TASK_STATUS_TIMEOUT, "Deadline Exceeded")
            await (await _lease(submitter)).fail(FailureKind.TIMEOUT, "Deadline Exceeded")
            assert await submitter.statuses("t", "t###1") == {"t": "TIMEOUT", "t###1": "TIMEOUT"}
            assert (await submitter.available("r")).errors[0].task_status == A.TASK_STATUS_TIMEOUT

    run_async(work)


def test_53_silent_agent_loses_its_task_and_what_it_says_later(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path, task_lease_s=0.3) as submitter:
            await submitter.session()
            await submitter.create(task("t", "r"))
            first = await _lease(submitter)
            await first.stage_subtasks([TaskRequest("child", ("k",))])
            for _ in range(6):
                await asyncio.sleep(0.1)
                first.renew()
            assert not first.is_lost
            second = await _lease(submitter)
            assert (second.task.id, first.is_lost, first.interrupted.is_set()) == ("t###1", True, True)
            for late in (
                first.succeed(_values("r")),
                first.report_error("late"),
                first.stage_subtasks([TaskRequest("late", ("l",))]),
            ):
                with pytest.raises(LeaseLost):
                    await late
            with pytest.raises(LeaseLost):
                first.renew()
            await second.succeed(_values("r"))
            assert await submitter.statuses("t", "t###1", "child", "late") == {
                "t": "ERROR",
                "t###1": "COMPLETED",
                "child": "CANCELED",
            }

    run_async(work)


def test_53_released_task_is_run_again_as_the_same_attempt(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("a"), task("b"))
            first = await _lease(submitter)
            assert await first.release() is TaskStatus.SUBMITTED
            again = await _lease(submitter)
            assert again.task.id == "a", "it has kept its place"
            with pytest.raises(LeaseLost):
                await first.succeed(_values("a"))
            assert await again.succeed(_values("a")) is TaskStatus.COMPLETED

    run_async(work)


def test_54_canceled_tasks(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("ended"))
            await (await _lease(submitter)).succeed(_values("ended"))
            await submitter.create(task("running"), task("queued"), task("waiting", needs=["x"]), task("after", "q"))
            await submitter.create(task("dependent", needs=["queued"]))
            running = await _lease(submitter)
            await running.stage_subtasks([TaskRequest("child", ("k",))])
            selection = of_tasks("ended", "running", "queued", "waiting", "unknown")
            for _ in range(2):
                await submitter.call("CancelTasks", selection)
                found = await submitter.statuses("ended", "running", "queued", "waiting", "dependent")
                assert found == {
                    "ended": "COMPLETED",
                    "running": "CANCELING",
                    "queued": "CANCELED",
                    "waiting": "CANCELED",
                    "dependent": "ERROR",
                }
            assert await submitter.results("queued", "waiting", "running") == {
                "queued": "ABORTED",
                "waiting": "ABORTED",
                "running": "CREATED",
            }
            await asyncio.wait_for(running.interrupted.wait(), 5)
            assert running.is_cancelled
            assert await running.stage_subtasks([TaskRequest("late", ("l",))]) == ("late",)
            assert await running.succeed(_values("running")) is TaskStatus.CANCELED
            assert await submitter.statuses("running", "child") == {"running": "CANCELED", "child": "CANCELED"}
            error = await submitter.available("running")
            assert (error.task_id, error.errors[0].task_status) == ("running", A.TASK_STATUS_CANCELED)
            assert await _ready(submitter) == ["after"]

    run_async(work)


def test_54_canceled_call_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path, task_cancel_grace_s=0.1) as submitter:
            await submitter.session()
            await submitter.create(task("t"))
            lease = await _lease(submitter)
            await submitter.call("CancelTasks", of_tasks("t"))
            assert await submitter.wait(of_session("s")) == {"CANCELED": 1}
            with pytest.raises(LeaseLost):
                await lease.succeed(_values("t"))

    run_async(work)


def test_54_cancel_of_the_first_attempt_stops_the_newest(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t", "r"))
            await (await _lease(submitter)).fail(FailureKind.CALL, "lost")
            await submitter.call("CancelTasks", of_tasks("t"))
            assert await submitter.statuses("t", "t###1") == {"t": "ERROR", "t###1": "CANCELED"}
            assert (await submitter.available("r")).task_id == "t###1"

    run_async(work)


def test_54_canceled_attempt_is_not_retried_when_its_call_fails(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("t"))
            lease = await _lease(submitter)
            await submitter.call("CancelTasks", of_session("s"))
            assert await lease.fail(FailureKind.CALL, "CANCELLED") is TaskStatus.CANCELED
            assert (await submitter.call("ListTasks", of_session("s"))).task_ids == ["t"]

    run_async(work)


def test_55_canceled_session_stops_and_others_go_on(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session("s")
            await submitter.session("other")
            await submitter.create(task("done"))
            await (await _lease(submitter)).succeed(_values("done"))
            await submitter.create(task("running"), task("queued"))
            running = await _lease(submitter)
            await submitter.create(task("theirs"), session="other")
            await submitter.call("CancelSession", A.Session(id="s"))
            assert await running.stage_subtasks([TaskRequest("a", ("a",)), TaskRequest("b", ("b",))]) == ("a", "b")
            await running.confirm_cancelled()
            assert await submitter.counts(of_session("s")) == {"COMPLETED": 1, "CANCELED": 2}
            assert await submitter.data("done") == b"done"
            assert await _ready(submitter) == ["theirs"]

    run_async(work)


def test_56_order_is_by_priority_then_by_submission(tmp_path: Path) -> None:
    order: list[str] = []

    async def handler(lease: Lease) -> None:
        order.append(lease.task.id)
        await succeed(lease)

    async def work() -> None:
        async with serve(tmp_path) as submitter:
            await submitter.session()
            await submitter.create(task("busy"), priority=9)
            busy = await _lease(submitter)
            for priority in (1, 5, 9, 3, 7, 2, 8, 4, 6):
                await submitter.create(task(f"{priority}a"), task(f"{priority}b"), priority=priority)
                await submitter.create(task(f"{priority}c"), priority=priority)
            await busy.succeed(_values("busy"))
            async with submitter.agents(handler):
                await submitter.wait(of_session("s"))
            assert order == [f"{priority}{letter}" for priority in range(9, 0, -1) for letter in "abc"]

    run_async(work)


def test_56_sessions_of_one_priority_take_turns(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path) as submitter:
            for name in "abc":
                await submitter.session(name)
            await submitter.create(*(task(f"a{number}") for number in range(6)), session="a")
            await submitter.create(*(task(f"b{number}") for number in range(3)), session="b")
            await submitter.create(task("c0"), session="c")
            single = [(await _lease(submitter)).task.id for _ in range(4)]
            assert single == ["a0", "b0", "c0", "a1"]
            several = [lease.task.id for lease in await submitter.tasks.acquire("agent", 10)]
            assert several == ["b1", "a2", "b2", "a3", "a4", "a5"]

    run_async(work)


def test_57_observed_statuses_are_paths_of_the_state_machine(tmp_path: Path) -> None:
    changes: list[TaskChange] = []

    async def handler(lease: Lease) -> None:
        kind = sum(lease.task.id.encode()) % 5
        if kind == 0:
            await lease.fail(FailureKind.CALL, "text")
        elif kind == 1:
            await report_error(lease)
        elif kind == 2:
            await lease.stage_subtasks([TaskRequest(f"{lease.task.id}/child", lease.task.expected_keys)])
            await lease.succeed({})
        else:
            await succeed(lease)

    async def work() -> None:
        async with serve(tmp_path) as submitter:
            notify = submitter.tasks.waiting.notify

            def note(seen: list[Any]) -> None:
                for change in seen:
                    some = change.each() if isinstance(change, TaskChanges | Completions) else [change]
                    changes.extend(one for one in some if isinstance(one, TaskChange))
                notify(seen)

            submitter.tasks.waiting.notify = note  # type: ignore[method-assign]
            await submitter.session()
            async with submitter.agents(handler, 3):
                for number in range(40):
                    needs = [f"t{number - 7}"] if number % 3 == 0 and number > 7 else []
                    await submitter.create(task(f"t{number}", needs=needs))
                await submitter.call("CancelTasks", of_tasks("t39", "t38", "t37"))
                await submitter.wait(of_session("s"))
            paths: dict[str, list[TaskStatus]] = {}
            for change in changes:
                path = paths.setdefault(change.id, [change.before])
                assert path[-1] is change.before
                if change.after is not change.before:
                    path.append(change.after)
            assert len(paths) >= 40
            for path in paths.values():
                for before, after in zip(path, path[1:]):
                    assert _reaches(before, after), path

    run_async(work)


def _reaches(before: TaskStatus, after: TaskStatus) -> bool:
    """Return whether one status leads to another, perhaps by way of one or two that nobody saw."""
    reached = {before}
    for _ in range(3):
        reached |= {further for status in reached for further in LEGAL.get(status, ())}
    return after in reached
