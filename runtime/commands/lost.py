"""What becomes of the commands of workers that fall silent, start anew or are deleted. Plain functions on the rows."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from runtime.commands import transitions
from runtime.commands.model import BEGUN, CommandRow, Rules, Status, WorkerRow, WorkerStatus
from runtime.store.commands import CommandRows

__all__ = ["disowned", "give_up", "is_back", "reclaim", "reclaim_assigned", "restarted", "went_offline"]

_W = WorkerStatus
_OFFLINE = {_W.READY: _W.OFFLINE, _W.PAUSED: _W.PAUSED_OFFLINE, _W.FAILING: _W.FAILING_OFFLINE}
_ONLINE = {after: before for before, after in _OFFLINE.items()}


def is_back(worker: WorkerRow) -> bool:
    """Make a worker's status that of one which was heard of; return whether it changed."""
    after = _ONLINE.get(worker.status)
    if after is None:
        return False
    worker.status = after
    return True


def went_offline(rows: CommandRows, worker: WorkerRow, now_s: float) -> bool:
    """Take note that a worker is silent: what it has not begun goes back. Return whether it is news."""
    after = _OFFLINE.get(worker.status)
    if after is None:
        return False
    worker.status = after
    rows.update_worker(worker)
    reclaim_assigned(rows, worker.number, now_s, f"worker {worker.name} is silent")
    return True


def reclaim_assigned(rows: CommandRows, worker: int, now_s: float, cause: str) -> None:
    """Put back what a worker was given and has not begun; no attempt is counted."""
    for command in rows.of_worker(worker, frozenset({Status.ASSIGNED})):
        transitions.move(rows, command, Status.PENDING, now_s, cause=cause)


def reclaim(rows: CommandRows, unconfirmed: Iterable[tuple[int, int]], now_s: float) -> int:
    """Put back what workers did not confirm in time; return how many."""
    count = 0
    for number, worker in unconfirmed:
        command = rows.command(number)
        if command.status is Status.ASSIGNED and command.worker == worker:
            transitions.move(rows, command, Status.PENDING, now_s, cause=f"worker {worker} did not confirm it")
            count += 1
    return count


def give_up(rows: CommandRows, worker: WorkerRow, rules: Rules, now_s: float, why: str) -> list[CommandRow]:
    """Take from a worker what it had begun: back to the queue while there are attempts left, else failed."""
    commands = rows.of_worker(worker.number, BEGUN)
    for command in commands:
        _retry(rows, command, rules.on_lost == "requeue", rules, now_s, why)
    return commands


def restarted(
    rows: CommandRows, worker: WorkerRow, owned: Mapping[int, int] | None, rules: Rules, now_s: float
) -> None:
    """Take note that a worker's process is a new one: what it had begun is lost, except what it says it still has."""
    for command in rows.of_worker(worker.number, BEGUN):
        if owned is None or owned.get(command.number) != command.attempt:
            why = f"worker {worker.name} started anew and does not have this task any more"
            _retry(rows, command, rules.on_restart == "requeue", rules, now_s, why)


def disowned(rows: CommandRows, worker: WorkerRow, numbers: Container[int], rules: Rules, now_s: float) -> None:
    """Take back what a worker has begun and does not name any more among what it has."""
    for command in rows.of_worker(worker.number, BEGUN):
        if command.number in numbers:
            why = f"worker {worker.name} does not have this task any more"
            _retry(rows, command, rules.on_restart == "requeue", rules, now_s, why)


def _retry(rows: CommandRows, command: CommandRow, requeues: bool, rules: Rules, now_s: float, why: str) -> None:
    if requeues and command.attempt < rules.max_attempts:
        transitions.move(rows, command, Status.PENDING, now_s, cause=why, remark=why)
        return
    if requeues:
        why = f"{why}; attempt {command.attempt} was the last of {rules.max_attempts}"
    transitions.move(rows, command, Status.FAILED, now_s, cause=why, remark=why)
