"""Who may change which status into which, all of it, and what a change does to the row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing

import pytest

from runtime.commands import transitions
from runtime.commands.model import Caller, CommandRow, Status, WorkerRow, WorkerStatus
from runtime.commands.transitions import Actor
from runtime.errors import Aborted, Error, FailedPrecondition, NotFound
from runtime.store.sqlite.command_tables import CommandTables
from runtime.store.sqlite.database import Database

# From the protocol's description: what a worker that holds the task, and what an operator may do.
BY_WORKER = {
    "A": "CDRSF", "C": "DORUVSF", "D": "ORVSF", "O": "RSF", "R": "UVSF", "U": "SF", "V": "F",
}
BY_OPERATOR = {
    "P": "SFXZ", "A": "SFXZ", "C": "SFX", "D": "SFX", "O": "SFX", "R": "SFX", "U": "X", "V": "X", "Z": "PX", "F": "P",
    "X": "P", "S": "P",
}
BY_SERVER = {"P": "A", "A": "P", **dict.fromkeys("CDORUV", "PF")}
HELD = "ACDORUV"


@pytest.fixture
def rows() -> Iterator[CommandTables]:
    with closing(Database(None, [CommandTables])) as database:
        tables = CommandTables(database.writer, 1)
        for name in ("first", "second"):
            tables.insert_worker(WorkerRow(0, name, WorkerStatus.READY, 1, instance=name))
        yield tables


def command_in(rows: CommandTables, status: str, attempt: int = 1) -> CommandRow:
    """Return a command that the first worker has, or had, and that has a status."""
    command = rows.insert_command("true", "bare", 1.0)
    command.status, command.attempt = Status(status), attempt
    command.worker = 1 if status in HELD or status in "SFX" else 0
    rows.update_command(command)
    return command


@pytest.mark.parametrize(("before", "after"), list(itertools.product("PACDORUVSFXZ", repeat=2)))
def test_every_pair(rows: CommandTables, before: str, after: str) -> None:
    if before == after:
        command = command_in(rows, before)
        transitions.update(rows, command.number, Status(after), Caller(), 0, 2.0)
        assert rows.command(command.number) == command
        return
    allowed = {
        Actor.WORKER: after in BY_WORKER.get(before, "") or (before, after) == ("P", "S"),
        Actor.OPERATOR: after in BY_OPERATOR.get(before, ""),
        Actor.SERVER: after in BY_SERVER.get(before, ""),
    }
    for actor, expected in allowed.items():
        assert transitions.is_legal(Status(before), Status(after), actor) is expected, actor
    command = command_in(rows, before)
    # A caller that says nothing is a worker or an operator.
    if allowed[Actor.WORKER] or allowed[Actor.OPERATOR]:
        transitions.update(rows, command.number, Status(after), Caller(), 0, 2.0)
        changed = rows.command(command.number)
        assert (changed.status, changed.modified_s) == (after, 2.0)
        assert changed.attempt == (2 if after == "P" and before in "SFX" else 1)
        assert (changed.worker == 0) is (after in "PZ" or before in "PZ")
        assert [(event.before, event.after) for event in rows.events(command.number)] == [(before, after)]
    else:
        with pytest.raises(FailedPrecondition, match=rf"task {command.number}: {before} does not become {after}"):
            transitions.update(rows, command.number, Status(after), Caller(), 0, 2.0)
        assert rows.command(command.number) == command and rows.events(command.number) == []


@pytest.mark.parametrize(("caller", "after", "error"), [
    (Caller(1, "first", 2), "S", None),
    (Caller(1, "first"), "S", None),
    (Caller(1, "first", 1), "S", Aborted),
    (Caller(1, "other", 2), "S", Aborted),
    (Caller(2, "second", 2), "S", Aborted),
    (Caller(9, "first", 2), "S", Aborted),
    (Caller(1, "first", 2), "X", FailedPrecondition),
    (Caller(1, "first", 2), "P", FailedPrecondition),
])
def test_workers_that_name_themselves(
    rows: CommandTables, caller: Caller, after: str, error: type[Error] | None
) -> None:
    command = command_in(rows, "R", attempt=2)
    if error is None:
        transitions.update(rows, command.number, Status(after), caller, 0, 2.0)
        assert rows.command(command.number).status == after
    else:
        with pytest.raises(error):
            transitions.update(rows, command.number, Status(after), caller, 0, 2.0)
        assert rows.command(command.number) == command


def test_unknown_command(rows: CommandTables) -> None:
    with pytest.raises(NotFound, match="task 77 is not known"):
        transitions.update(rows, 77, Status.SUCCEEDED, Caller(), 0, 2.0)


def test_a_connection_is_taken_for_a_worker_only_where_it_has_lost_the_command(rows: CommandTables) -> None:
    command = command_in(rows, "P")
    transitions.move(rows, command, Status.ASSIGNED, 1.0, worker=1)
    transitions.move(rows, command, Status.ACCEPTED, 1.0)
    transitions.move(rows, command, Status.PENDING, 1.0)
    transitions.move(rows, command, Status.ASSIGNED, 1.0, worker=2)
    transitions.move(rows, command, Status.ACCEPTED, 1.0)
    # The first worker had it; somebody who calls from a third one's address is an operator.
    with pytest.raises(Aborted, match="worker 1 has lost it"):
        transitions.update(rows, command.number, Status.FAILED, Caller(), 1, 2.0)
    transitions.update(rows, command.number, Status.CANCELLED, Caller(), 1, 2.0)
    assert rows.command(command.number).status is Status.CANCELLED
    other = command_in(rows, "R")
    transitions.update(rows, other.number, Status.FAILED, Caller(), 3, 2.0)
    assert rows.command(other.number).status is Status.FAILED
