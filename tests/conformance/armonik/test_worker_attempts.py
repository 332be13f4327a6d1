"""Items of the task protocol's checklist that need a worker: which tasks it gets, and what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.conformance.armonik.outside_worker import (
    HEALTH,
    TIMEOUT_S,
    Conversation,
    OutsideWorker,
    add,
    end,
    fail_call,
    remove,
    succeed,
    until,
    working,
)
from tests.conformance.armonik.submitter import (
    A,
    of_session,
    of_tasks,
    plane,
    task,
)
from tests.leaks import run_async


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


def test_47_error_reaches_all_that_depend_on_it_and_runs_none(tmp_path: Path) -> None:
    runs: list[str] = []

    async def script(talk: Conversation) -> None:
        given = await talk.take_input()
        runs.append(given.task)
        await talk.result(given.keys[0], b"value")
        await (talk.error("it went wrong") if given.task == "a" else talk.ok())
        await talk.until_half_close()

    async def work() -> None:
        async with plane(tmp_path) as submitter:
            await submitter.create(
                task("a", "a1", "a2"), task("b", needs=["a1", "never"]), task("c", needs=["b"]),
                task("d", needs=["free", "c"]), task("free"), task("other", needs=["free"]),
            )
            async with working(submitter, script):
                assert await submitter.available("other") is None
                # Without waiting for the others that they need.
                assert await submitter.statuses("a", "b", "c", "d") == dict.fromkeys("abcd", "ERROR")
                keys = ("a1", "a2", "b", "c", "d")
                assert await submitter.results(*keys) == dict.fromkeys(keys, "ABORTED")
                error = await submitter.available("a2")
                assert (error.task_id, error.errors[0].detail) == ("a", "it went wrong")
                for key in ("b", "c", "d"):
                    error = await submitter.available(key)
                    assert (error.task_id, error.errors[0].task_status) == (key, A.TASK_STATUS_ERROR)
                    assert error.errors[0].detail == "One of the input data is aborted."
                assert await submitter.statuses("a###1", "b###1") == {}, "neither is retried"
                assert sorted(runs) == ["a", "free", "other"]

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


def test_57_statuses_that_clients_see_are_paths_of_the_table(tmp_path: Path) -> None:
    # Section 3.3, from which a client that looks now and then sees some.
    leads = {
        "CREATING": {"SUBMITTED", "CANCELED", "CANCELING"},
        "SUBMITTED": {"DISPATCHED", "ERROR", "CANCELING", "CANCELED"},
        "DISPATCHED": {"PROCESSING", "ERROR", "SUBMITTED", "CANCELING"},
        "PROCESSING": {"COMPLETED", "ERROR", "TIMEOUT", "SUBMITTED", "CANCELING"},
        "CANCELING": {"CANCELED"},
    }

    def reaches(before: str, after: str) -> bool:
        found, fresh = set[str](), {before}
        while fresh:
            found |= fresh
            fresh = {further for status in fresh for further in leads.get(status, ())} - found
        return after in found

    async def script(talk: Conversation) -> None:
        given = await talk.take_input()
        kind = given.task.partition("###")[0][-1]
        if kind in "12":
            await talk.create_small(task(f"{given.task}-child"))
        await asyncio.sleep(3600 if kind in "23" else 0.02)
        if kind == "4" and "###" not in given.task:
            await fail_call(talk, "once")
        await talk.result(given.keys[0], b"value")
        await (talk.error("no") if kind == "5" else talk.ok())
        await talk.until_half_close()

    async def work() -> None:
        async with plane(tmp_path) as submitter, working(submitter, script, number=2):
            ids = [f"t{number}" for number in range(20)]
            every = [*ids, *(f"{id}-child" for id in ids), *(f"{id}###1" for id in ids)]
            for number, id in enumerate(ids):
                needs = [f"t{number - 5}"] if number >= 15 else []
                if number % 10 == 3:
                    await submitter.create(task(id, needs=needs), duration_s=0.2)
                else:
                    await submitter.create(task(id, needs=needs))
            seen: dict[str, list[str]] = {}
            cancelled: set[str] = set()
            waiting = asyncio.ensure_future(submitter.wait(of_session("s")))
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    is_over = waiting.done()
                    for id, status in (await submitter.statuses(*every)).items():
                        path = seen.setdefault(id, [])
                        if not path or path[-1] != status:
                            path.append(status)
                    # Those that sleep, and one that waits in the queue.
                    chosen = {id for id in ids if id[-1] == "2" and seen[id][-1] == "PROCESSING"} | {"t19"}
                    if chosen - cancelled:
                        await submitter.call("CancelTasks", of_tasks(*(chosen - cancelled)))
                        cancelled |= chosen
                    if is_over:
                        break
            await waiting
            for id, path in seen.items():
                assert all(reaches(before, after) for before, after in zip(path, path[1:])), (id, path)
            ends = {path[-1] for path in seen.values()}
            assert ends == {"COMPLETED", "ERROR", "TIMEOUT", "CANCELED"}, seen
            assert {"SUBMITTED", "PROCESSING"} <= {status for path in seen.values() for status in path}

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
