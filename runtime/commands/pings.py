"""Signs of life of workers: what each is told in answer, and what it turns out to have lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from runtime.commands import lost
from runtime.commands.checks import check_id
from runtime.commands.model import BEGUN, SILENT, Caller, Status, WorkerRow
from runtime.store.commands import CommandRows

if TYPE_CHECKING:
    from runtime.commands.commands import Commands

__all__ = ["MISSING_S", "Offer", "PingAnswer", "Pings"]

MISSING_S = 10.0
"""How long a worker that names what it has may leave out what it has begun."""


class Offer(NamedTuple):
    """A command that a worker is told of: to run it, or to end it when its status is CANCELLED."""

    number: int
    text: str
    container: str
    status: Status
    attempt: int


class PingAnswer(NamedTuple):
    """What a worker is told.

    Attributes
    ----------
    concurrency : int
        How many commands it shall run at once.
    offers : list of Offer
    lost : list of int
        Commands that it says it has, and that it does not have any more.
    """

    concurrency: int
    offers: list[Offer]
    lost: list[int]


class Pings:
    """The pings of all workers. Belongs to the loop of its `Commands`.

    A ping that finds nothing reads two rows by their keys and writes none, however many commands and workers there are.
    """

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        # What workers have begun and do not name any more, since when.
        self._missing: dict[int, dict[int, float]] = {}

    async def ping(
        self, number: int, caller: Caller, owned: Mapping[int, int] | None, hold_s: float
    ) -> PingAnswer:
        """Answer a ping; see `Commands.ping`."""
        commands = self._commands
        check_id(number, "worker_id")
        commands.presence.touch(number)
        worker = commands.worker_that_calls(number, caller)
        is_new = commands.presence.hear(number, caller.peer, bool(caller.instance))
        if is_new or worker.status in SILENT:
            await commands.store.write(lambda rows: self._came_back(rows, number))
        if owned is not None:
            await self._take_back_disowned(number, owned)
        deadline = commands.clock() + hold_s
        while True:
            answer = self._answer(worker, owned)
            left = deadline - commands.clock()
            if answer.offers or answer.lost or left <= 0 or commands.is_stopping:
                return answer
            await commands.deliveries.wait(number, left)
            worker = commands.worker_that_calls(number, caller)

    def forget(self, number: int) -> None:
        """Forget a worker that was deleted."""
        self._missing.pop(number, None)

    def _came_back(self, rows: CommandRows, number: int) -> None:
        worker = rows.worker(number)
        if worker is not None and lost.is_back(worker):
            rows.update_worker(worker)
        self._commands.assign_soon(rows)

    async def _take_back_disowned(self, number: int, owned: Mapping[int, int]) -> None:
        """Take back what a worker has not named for a while: an answer of either side was lost on the way."""
        commands = self._commands
        begun = commands.store.read(lambda rows: rows.of_worker(number, BEGUN))
        missing = [command.number for command in begun if owned.get(command.number) != command.attempt]
        if not missing:
            self._missing.pop(number, None)
            return
        now = commands.clock()
        former = self._missing.get(number, {})
        since = self._missing[number] = {command: former.get(command, now) for command in missing}
        # Not at once: this ping may have been under way before the command was taken.
        gone = frozenset(command for command, time_s in since.items() if now - time_s > MISSING_S)
        if not gone:
            return
        now_s = commands.now_s()

        def take_back(rows: CommandRows) -> None:
            worker = rows.worker(number)
            if worker is not None:
                lost.disowned(rows, worker, gone, commands.rules, now_s)
                commands.assign_soon(rows)

        await commands.store.write(take_back)

    def _answer(self, worker: WorkerRow, owned: Mapping[int, int] | None) -> PingAnswer:
        deliveries = self._commands.deliveries
        number = worker.number
        if not (owned or deliveries.due(number) or deliveries.cancelled(number)):
            return PingAnswer(worker.concurrency, [], [])
        return self._commands.store.read(lambda rows: self._read_answer(rows, worker, owned or {}))

    def _read_answer(self, rows: CommandRows, worker: WorkerRow, owned: Mapping[int, int]) -> PingAnswer:
        deliveries = self._commands.deliveries
        number = worker.number
        gone = []
        for claimed, attempt in owned.items():
            state = rows.state_of(claimed)
            if state is None or state[1] != number or state[2] != attempt:
                gone.append(claimed)
            elif state[0] is Status.CANCELLED and claimed not in deliveries.cancelled(number):
                deliveries.notice_cancelled(number, claimed)
        offers = []
        assigned = [rows.command(command) for command in deliveries.due(number)]
        for row in sorted(assigned, key=lambda row: (row.created_s, row.number)):
            # What it was a moment ago it may be no more; that is told next.
            if row.status is Status.ASSIGNED and row.worker == number:
                deliveries.offered(number, row.number)
                offers.append(Offer(row.number, *rows.texts(row.number), Status.ASSIGNED, row.attempt))
        cancelled = [command for command in deliveries.cancelled(number) if rows.has_command(command)]
        for row in map(rows.command, cancelled):
            offers.append(Offer(row.number, *rows.texts(row.number), Status.CANCELLED, row.attempt))
        return PingAnswer(worker.concurrency, offers, gone)
