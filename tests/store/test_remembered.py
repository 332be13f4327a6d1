"""What the writer remembers of sessions and options is what the file says, whatever happens in between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.errors import FailedPrecondition, NotFound
from runtime.store.tasks import TaskTables
from runtime.tasks.tasks import Tasks
from tests.tasks.plane import OPTIONS, open_plane, request, run_all


def options_of(tasks: Tasks, task_id: str) -> object:
    """Return the options of a task as they are on disk."""

    def find(tables: TaskTables) -> object:
        row = tables.task_by_id(task_id)
        assert row is not None
        return tables.options(tables.spec(row.spec).options_number)

    return tasks.store.read(find)


def test_a_session_that_ends_takes_no_more_tasks(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            for session in ("canceled", "deleted"):
                await tasks.create_session(session, OPTIONS)
                assert await tasks.create_tasks(session, [request(f"first of {session}")]) == ()
            await run_all(tasks, 2)
            await tasks.cancel_session("canceled")
            with pytest.raises(FailedPrecondition, match="'canceled' is canceled"):
                await tasks.create_tasks("canceled", [request("second")])
            await tasks.cancel_session("deleted")
            await tasks.retention.delete("deleted")
            with pytest.raises(NotFound, match="'deleted'"):
                await tasks.create_tasks("deleted", [request("second")])
            assert await tasks.create_session("deleted", OPTIONS)
            assert await tasks.create_tasks("deleted", [request("second")]) == ()
            assert await run_all(tasks, 1) == ["second"]

    asyncio.run(work())


def test_options_of_a_refused_request_are_not_taken_for_stored(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            await tasks.create_session("s", OPTIONS)
            assert await tasks.create_tasks("s", [request("a")]) == ()
            other = replace(OPTIONS, priority=2)
            assert await tasks.create_tasks("s", [request("a")], other) == ("a",)
            # Beside others in a group, too: there the refused one alone is undone.
            answers = await asyncio.gather(*(
                tasks.create_tasks("s", [request(name)], other) for name in ("a", "b", "a", "c")
            ))
            assert answers == [("a",), (), ("a",), ()]
            assert options_of(tasks, "b") == options_of(tasks, "c") == other
            assert options_of(tasks, "a") == OPTIONS

    asyncio.run(work())


def test_options_that_went_with_a_session_are_stored_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_plane(tmp_path) as tasks:
            other = replace(OPTIONS, priority=3)
            for turn in range(3):
                await tasks.create_session("s", OPTIONS)
                assert await tasks.create_tasks("s", [request(f"t{turn}")], other) == ()
                assert options_of(tasks, f"t{turn}") == other
                await run_all(tasks, 1)
                await tasks.cancel_session("s")
                await tasks.retention.delete("s")

    asyncio.run(work())
