"""The states of a command: who may change which into which. Nothing else writes a status."""

from __future__ import annotations

import enum

from runtime.commands.model import Caller, CommandChange, CommandRow, Status
from runtime.errors import Aborted, FailedPrecondition, Internal
from runtime.store.commands import CommandRows

__all__ = ["LEGAL", "Actor", "is_legal", "move", "update"]

_S = Status


class Actor(enum.Flag):
    """Who asks for a change."""

    SERVER = enum.auto()
    WORKER = enum.auto()
    OPERATOR = enum.auto()


_SERVER, _WORKER, _OPERATOR = Actor.SERVER, Actor.WORKER, Actor.OPERATOR
_BOTH = _WORKER | _OPERATOR
_END = {_S.SUCCEEDED: _BOTH, _S.FAILED: _BOTH}
_LOST = {_S.PENDING: _SERVER, _S.FAILED: _SERVER | _BOTH, _S.CANCELLED: _OPERATOR}
_AGAIN = {_S.PENDING: _OPERATOR}

LEGAL: dict[Status, dict[Status, Actor]] = {
    _S.PENDING: {
        _S.ASSIGNED: _SERVER,
        # A worker that lost the command and has done it all the same may say so.
        _S.SUCCEEDED: _BOTH,
        _S.FAILED: _OPERATOR,
        _S.CANCELLED: _OPERATOR,
        _S.SUSPENDED: _OPERATOR,
    },
    _S.ASSIGNED: {
        **_END,
        _S.ACCEPTED: _WORKER,
        _S.DOWNLOADING: _WORKER,
        _S.RUNNING: _WORKER,
        _S.PENDING: _SERVER,
        _S.SUSPENDED: _OPERATOR,
        _S.CANCELLED: _OPERATOR,
    },
    _S.ACCEPTED: {
        **_LOST,
        **dict.fromkeys((_S.DOWNLOADING, _S.ON_HOLD, _S.RUNNING, _S.UPLOADING, _S.UPLOADING_FAILED), _WORKER),
        _S.SUCCEEDED: _BOTH,
    },
    _S.DOWNLOADING: {
        **_LOST,
        **dict.fromkeys((_S.ON_HOLD, _S.RUNNING, _S.UPLOADING_FAILED), _WORKER),
        _S.SUCCEEDED: _BOTH,
    },
    _S.ON_HOLD: {**_LOST, _S.RUNNING: _WORKER, _S.SUCCEEDED: _BOTH},
    _S.RUNNING: {**_LOST, _S.UPLOADING: _WORKER, _S.UPLOADING_FAILED: _WORKER, _S.SUCCEEDED: _BOTH},
    _S.UPLOADING: {**_LOST, _S.FAILED: _SERVER | _WORKER, _S.SUCCEEDED: _WORKER},
    _S.UPLOADING_FAILED: {**_LOST, _S.FAILED: _SERVER | _WORKER},
    _S.SUSPENDED: {_S.PENDING: _OPERATOR, _S.CANCELLED: _OPERATOR},
    _S.SUCCEEDED: _AGAIN,
    _S.FAILED: _AGAIN,
    _S.CANCELLED: _AGAIN,
}
"""From each status to those that may follow it, and who may ask for that."""

_REPORTED = frozenset(
    {
        _S.ACCEPTED, _S.DOWNLOADING, _S.ON_HOLD, _S.RUNNING, _S.UPLOADING, _S.UPLOADING_FAILED, _S.SUCCEEDED,
        _S.FAILED,
    }
)
"""What workers report."""


def is_legal(before: Status, after: Status, actor: Actor) -> bool:
    """Return whether one of the actors may make that change."""
    return bool(LEGAL.get(before, {}).get(after, Actor(0)) & actor)


def update(rows: CommandRows, number: int, after: Status, caller: Caller, inferred: int, now_s: float) -> CommandRow:
    """Do what a caller reports or asks for; the same status again is no change.

    Parameters
    ----------
    inferred : int
        The worker that the caller seems to be by its connection, where it does not say; 0 if unknown. Used only to
        refuse reports of workers that have lost the command.

    Raises
    ------
    NotFound
        There is no such command.
    Aborted
        The caller is a worker that does not have it, or not any more.
    FailedPrecondition
        The change is none that may be made.
    """
    command = rows.command(number)
    if caller.worker:
        is_late = after is _S.SUCCEEDED and command.status is _S.PENDING and rows.has_held(number, caller.worker)
        if not is_late and _has_lost(rows, command, caller):
            raise Aborted(
                f"task {number}: worker {caller.worker} does not have it"
                + (f" in attempt {caller.attempt}" if caller.attempt else "")
                + f"; it is {command.status} in attempt {command.attempt}"
                + (f" with worker {command.worker}" if command.worker else "")
            )
        actor = Actor.WORKER
    else:
        # Who says nothing may be a worker as well as a person.
        actor = Actor.WORKER | Actor.OPERATOR
    if after is command.status:
        return command
    if not is_legal(command.status, after, actor):
        raise FailedPrecondition(_refusal(command, after, actor))
    if inferred and inferred != command.worker and after in _REPORTED and rows.has_held(number, inferred):
        if not (after is _S.SUCCEEDED and command.status is _S.PENDING):
            raise Aborted(f"task {number}: worker {inferred} has lost it; it is {command.status} now")
    elif inferred:
        inferred = 0  # it never had it: then this is an operator's
    worker = caller.worker or inferred if after is _S.SUCCEEDED and command.status is _S.PENDING else 0
    move(rows, command, after, now_s, worker=worker, cause="requeued" if after is _S.PENDING else "")
    return command


def move(
    rows: CommandRows, command: CommandRow, after: Status, now_s: float, *, worker: int = 0, cause: str = "",
    remark: str = "",
) -> None:
    """Give a command another status.

    Parameters
    ----------
    worker : int
        Whom it is assigned to, or who has done it after all.
    cause : str
        Why, where there is something to say.
    remark : str
        A line for its log.

    Raises
    ------
    Internal
        If nobody may make that change.
    """
    before, former = command.status, command.worker
    if not is_legal(before, after, Actor.SERVER | Actor.WORKER | Actor.OPERATOR):
        raise Internal(f"task {command.number}: {before} does not become {after}")
    if worker:
        command.worker = worker
    elif after is _S.PENDING:
        command.worker = 0
        # What was never begun is no attempt.
        if before not in (_S.ASSIGNED, _S.SUSPENDED):
            command.attempt += 1
    elif after is _S.SUSPENDED:
        command.worker = 0
    command.status = after
    command.modified_s = now_s
    command.cause = cause
    rows.update_command(command)
    # An event tells of the worker that had to do with it, also where the command leaves it.
    rows.add_event(command, before, command.worker or former)
    rows.note(CommandChange(command.number, before, after, command.worker, former, command.attempt, remark))


def _has_lost(rows: CommandRows, command: CommandRow, caller: Caller) -> bool:
    """Return whether a worker that names itself is not, or not any more, the one that has a command."""
    if rows.instance_of(caller.worker) != caller.instance:
        return True
    return command.worker != caller.worker or (caller.attempt != 0 and caller.attempt != command.attempt)


def _refusal(command: CommandRow, after: Status, actor: Actor) -> str:
    text = f"task {command.number}: {command.status} does not become {after}"
    if after in _REPORTED and command.status is _S.PENDING:
        return f"{text}: it has gone back to the queue, drop it"
    allowed = [str(status) for status, who in LEGAL.get(command.status, {}).items() if who & actor]
    if after is _S.ASSIGNED:
        return f"{text} by a call; the server assigns tasks"
    return f"{text}; possible: {', '.join(sorted(allowed)) or 'nothing'}"
