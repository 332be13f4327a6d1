"""A task's way from its creation to its result, by the domain interface alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runtime.errors import FailedPrecondition, NotFound
from runtime.objects.files import FileObjects
from runtime.objects.value import Value
from runtime.tasks import cancellation
from runtime.tasks.filters import TaskFilter
from runtime.tasks.model import FailureKind, ResultStatus, TaskStatus
from tests.leaks import run_async
from tests.tasks.plane import OPTIONS, acquire, open_plane, request, run_all


@pytest.mark.parametrize("is_file", [False, True], ids=["memory", "file"])
def test_task_runs_and_its_result_is_there(tmp_path: Path, is_file: bool) -> None:
    async def work() -> None:
        async with open_plane(tmp_path if is_file else None) as tasks:
            assert await tasks.create_session("s", OPTIONS)
            assert not await tasks.create_session("s", OPTIONS)
            assert await tasks.create_tasks("s", [request("t", "r", payload=b"in")]) == ()
            assert tasks.result("s", "r").status is ResultStatus.CREATED
            lease = await acquire(tasks)
            assert [piece async for piece in lease.read_payload(10)] == [b"in"]
            assert await lease.succeed({"r": Value(b"out")}) is TaskStatus.COMPLETED
            result = await tasks.wait_for_result("s", "r")
            assert (result.status, result.value.data, result.owner) == (ResultStatus.COMPLETED, b"out", "t")
            assert await tasks.wait_for_tasks(TaskFilter(sessions=("s",))) == {TaskStatus.COMPLETED: 1}
            assert tasks.store.read(lambda tables: tables.recount() == tables.all_counts())

    run_async(work)


def test_dependent_runs_after_its_input(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("last", needs=("a", "b")), request("a"), request("b")])
            assert await run_all(tasks, 3) == ["a", "b", "last"]

    run_async(work)


def test_failed_call_is_retried_and_then_aborts(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("t"), request("after", needs=("t",))])
            seen = []
            for _ in range(1 + OPTIONS.max_retries):
                lease = await acquire(tasks)
                seen.append(lease.task.id)
                assert await lease.fail(FailureKind.CALL, "gone") is TaskStatus.ERROR
            assert seen == ["t", "t###1", "t###2"]
            result = await tasks.wait_for_result("s", "after")
            assert (result.status, result.owner_error) == (
                ResultStatus.ABORTED,
                "One of the input data is aborted.",
            )
            assert tasks.result("s", "t").owner == "t###2"

    run_async(work)


def test_creation_is_all_or_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            with pytest.raises(NotFound):
                await tasks.create_tasks("s", [request("t")])
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request("t", "r")])
            refused = await tasks.create_tasks("s", [request("a"), request("b", "r"), request("t"), request("a", "x")])
            assert refused == ("a", "b", "t")
            assert await tasks.list_tasks(TaskFilter(sessions=("s",))) == ["t"]
            await tasks.cancel_session("s")
            assert await tasks.task_statuses(["t"]) == {"t": TaskStatus.CANCELED}
            with pytest.raises(FailedPrecondition):
                await tasks.create_tasks("s", [request("c")])

    run_async(work)


def test_many_canceled_tasks_leave_others_their_turn(tmp_path: Path) -> None:
    number = 3000

    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_session("other", OPTIONS)
            await tasks.create_tasks("s", [request(f"t{index}") for index in range(number)])
            cancel = asyncio.ensure_future(tasks.cancel_session("s"))
            num_between = 0
            while not cancel.done():
                await tasks.create_tasks("other", [request(f"o{num_between}")])
                # None of the canceled session begins meanwhile.
                assert (await run_all(tasks, 1))[0].startswith("o")
                num_between += 1
            await cancel
            assert num_between >= 1
            assert await tasks.count_tasks(TaskFilter(sessions=("s",))) == {TaskStatus.CANCELED: number}
            await tasks.create_tasks("other", [request(f"x{index}") for index in range(number)])
            await tasks.cancel_tasks(TaskFilter(sessions=("other",)))
            assert (await tasks.count_tasks(TaskFilter(sessions=("other",))))[TaskStatus.CANCELED] == number
            assert tasks.store.read(lambda tables: tables.recount() == tables.all_counts())

    run_async(work)


def test_cancel_that_was_cut_short_goes_on_at_the_next_start(tmp_path: Path) -> None:
    number = 3000

    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            await tasks.create_tasks("s", [request(f"t{index}") for index in range(number)])
            # As if the server had died behind the first write.
            await tasks.store.write(lambda tables: cancellation.begin_session(tables, "s", 0.0))
        async with open_plane(tmp_path) as tasks:
            assert await tasks.wait_for_tasks(TaskFilter(sessions=("s",))) == {TaskStatus.CANCELED: number}

    run_async(work)


def test_payloads_of_many_that_succeed_together_go_with_the_last_row_that_has_them(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            objects = tasks.objects
            assert isinstance(objects, FileObjects)
            contents = [[b"%d" % number * size] for number, size in ((1, 20_000), (2, 100_000), (3, 5_000_000))]
            medium, other, large = await objects.put([[data] for (data,) in contents])
            for name, payload in (("a", medium), ("b", other), ("c", large), ("d", Value(b"few"))):
                await tasks.create_tasks("s", [request(name)._replace(payload=payload)])
            (twin,) = await objects.put(contents[2:])  # the same file
            await tasks.create_tasks("s", [request("twin")._replace(payload=twin)])
            assert large.ref is not None and large == twin and objects.path(large.ref.digest).exists()
            leases = await tasks.acquire("agent", 4)
            await tasks.succeed_all([(lease, {name: Value(b"out")}) for lease in leases for name in [lease.task.id]])
            await tasks.swept()
            async with asyncio.timeout(20):
                while objects.arena.names:
                    await asyncio.sleep(0.01)
            for name in "abcd":
                assert tasks.result("s", name).value.data == b"out"
            assert [size for _, size in tasks.store.read(lambda tables: tables.all_objects())] == [5_000_000]
            assert objects.path(large.ref.digest).exists()
            lease = await acquire(tasks)
            assert b"".join([piece async for piece in lease.read_payload(1 << 20)]) == contents[2][0]
            await tasks.succeed_all([(lease, {"twin": Value(b"x")})])
            async with asyncio.timeout(20):
                while objects.path(large.ref.digest).exists():
                    await asyncio.sleep(0.01)
            assert tasks.store.read(lambda tables: tables.all_objects()) == []
            assert tasks.store.read(lambda tables: tables.recount() == tables.all_counts())

    run_async(work)
