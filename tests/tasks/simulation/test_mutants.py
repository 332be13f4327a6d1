"""The stories find broken rules: each of these is one rule left out, and few stories are told before one ends badly."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from runtime.store.sqlite import writer
from runtime.store.sqlite.store import SqliteStore, _Look
from runtime.store.sqlite.task_tables import SqliteTaskTables
from runtime.store.sqlite.writer import Tables
from runtime.tasks import cancellation, endings, propagation, retries, transitions
from runtime.tasks.early import EarlyGroup, EarlyTasks
from runtime.tasks.leases import Lease, LeaseTable
from runtime.tasks.model import TaskRow, TaskStatus
from runtime.tasks.tasks import Tasks
from runtime.tasks.waiting import Waiting
from tests.tasks.simulation.server import Log
from tests.tasks.simulation.world import run_seeds

# Most are found by one of the first dozen, the rarest by one in three hundred.
SEEDS = 2000

Patch = Callable[[pytest.MonkeyPatch], None]


def _nothing(*args: Any, **named: Any) -> None:
    return None


def accept_outcomes_without_a_look_at_the_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(endings, "leased", lambda tables, lease: tables.task(lease.number))


def forget_to_end_who_depends_on_aborted_results(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(propagation, "_end", lambda tables, task, now_s: False)


def forget_to_count_errors(patch: pytest.MonkeyPatch) -> None:
    count = SqliteTaskTables.count

    def skip(self: SqliteTaskTables, session: int, status: TaskStatus, change: int) -> None:
        if status is not TaskStatus.ERROR:
            count(self, session, status, change)

    patch.setattr(SqliteTaskTables, "count", skip)


def lose_the_release_of_a_reference(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SqliteTaskTables, "release", _nothing)


def let_go_of_objects_before_their_rows_are_there(patch: pytest.MonkeyPatch) -> None:
    create = Tasks._create

    async def early(self: Tasks, held: Any, work: Any) -> Any:
        self.let_go(held)
        return await create(self, (), work)

    patch.setattr(Tasks, "_create", early)


def try_again_without_end(patch: pytest.MonkeyPatch) -> None:
    successor = retries._successor

    def endless(tables: Any, task: Any, *args: Any, **named: Any) -> Any:
        task.max_retries += 1
        return successor(tables, task, *args, **named)

    patch.setattr(retries, "_successor", endless)


def never_try_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(retries, "_successor", _nothing)


def leave_subtasks_of_failed_tasks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cancellation, "cancel_children", _nothing)


def never_take_a_lease_away(patch: pytest.MonkeyPatch) -> None:
    def look(self: LeaseTable) -> None:
        self._timer = None
        if len(self):
            self._arm()

    patch.setattr(LeaseTable, "_look", look)


def hand_tasks_out_twice(patch: pytest.MonkeyPatch) -> None:
    dispatch_all = transitions.dispatch_all

    def twice(tables: SqliteTaskTables, rows: Sequence[TaskRow], owner: str, *fences: Any) -> None:
        dispatch_all(tables, rows, owner, *fences)
        for row in rows:
            again = copy.copy(row)
            again.status, again.owner = TaskStatus.SUBMITTED, ""
            tables.update_task(again)
            tables.count(row.session, TaskStatus.DISPATCHED, -1)
            tables.count(row.session, TaskStatus.SUBMITTED, 1)

    patch.setattr(transitions, "dispatch_all", twice)


def forget_running_attempts_at_the_start(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SqliteTaskTables, "owned_tasks", lambda self: [])


def hand_out_when_others_have_been_told(patch: pytest.MonkeyPatch) -> None:
    def late(self: Tables, effect: Callable[[], None]) -> None:
        self.after_commit(lambda: asyncio.get_running_loop().call_soon(effect) and None)

    patch.setattr(Tables, "before_commit", late)


def tell_nobody_who_waits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Waiting, "notify", _nothing)


def keep_options_that_nobody_refers_to(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SqliteTaskTables, "_leave_options", lambda self, session, limit: 0)


def take_options_that_others_refer_to(patch: pytest.MonkeyPatch) -> None:
    leave = SqliteTaskTables._leave_options

    def rob(self: SqliteTaskTables, session: int, limit: int) -> int:
        uses = "SELECT options FROM option_uses WHERE session = ?"
        self.connection.execute(f"DELETE FROM options WHERE number IN ({uses})", (session,))
        return leave(self, session, limit)

    patch.setattr(SqliteTaskTables, "_leave_options", rob)


def read_without_the_tail(patch: pytest.MonkeyPatch) -> None:
    def look(self: SqliteStore, written: Tables, function: Callable[[Any], Any]) -> Any:
        found = _Look(written, function)
        found.is_settled = True
        return found

    patch.setattr(SqliteStore, "_look", look)


def take_up_nothing_of_the_log(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Log, "records", lambda self: iter(()))


def take_up_twice_what_the_tables_know(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Log, "restart", _nothing)
    patch.setattr(Log, "begin", _nothing)
    patch.setattr(writer, "SET_TAIL", "UPDATE tail SET number = 0 * ?")


def answer_before_early_tasks_are_made(patch: pytest.MonkeyPatch) -> None:
    begin = EarlyTasks._begin

    def hasty(self: EarlyTasks, group: EarlyGroup, leases: Sequence[Lease]) -> None:
        begin(self, group, leases)
        group.done.set_result(())

    patch.setattr(EarlyTasks, "_begin", hasty)


def make_early_tasks_whose_payloads_are_not_durable(patch: pytest.MonkeyPatch) -> None:
    init = EarlyGroup.__init__

    async def nothing() -> None:
        pass

    def careless(self: EarlyGroup, session: str, options: Any, requests: Any, sync: Any, now_s: float) -> None:
        init(self, session, options, requests, nothing, now_s)

    patch.setattr(EarlyGroup, "__init__", careless)


def give_early_tasks_other_fences_than_their_leases(patch: pytest.MonkeyPatch) -> None:
    dispatch_all = transitions.dispatch_all

    def other(tables: SqliteTaskTables, rows: Sequence[TaskRow], owner: str, *fences: Any) -> None:
        dispatch_all(tables, rows, owner)

    patch.setattr(transitions, "dispatch_all", other)


@pytest.mark.parametrize(
    "mutant",
    [
        accept_outcomes_without_a_look_at_the_fence,
        forget_to_end_who_depends_on_aborted_results,
        forget_to_count_errors,
        lose_the_release_of_a_reference,
        let_go_of_objects_before_their_rows_are_there,
        try_again_without_end,
        never_try_again,
        leave_subtasks_of_failed_tasks,
        never_take_a_lease_away,
        hand_tasks_out_twice,
        forget_running_attempts_at_the_start,
        hand_out_when_others_have_been_told,
        tell_nobody_who_waits,
        keep_options_that_nobody_refers_to,
        take_options_that_others_refer_to,
        read_without_the_tail,
        take_up_nothing_of_the_log,
        take_up_twice_what_the_tables_know,
        answer_before_early_tasks_are_made,
        make_early_tasks_whose_payloads_are_not_durable,
        give_early_tasks_other_fences_than_their_leases,
    ],
    ids=lambda mutant: mutant.__name__,
)
def test_broken_rule_is_found(mutant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises(Exception) as found:  # noqa: PT011 - whatever comes first of what the rule is for
        run_seeds(range(SEEDS))
    assert any("TENSOR_RUNTIME_SEED=" in note for note in getattr(found.value, "__notes__", ())), found.value
