"""What the command plane has counted and holds."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from runtime.commands.model import Status, WorkerStatus
from runtime.observe.metrics import Family, counter, gauge

if TYPE_CHECKING:
    from runtime.commands.commands import Commands
    from runtime.store.commands import CommandRows

__all__ = ["command_families"]


async def command_families(commands: Commands | None) -> list[Family]:
    """Return the families of a plane; None where its store has not been needed yet.

    Raises
    ------
    Error
        If the store cannot be read.
    """
    submitted, held = 0, 0
    changes: Counter[Status] = Counter()
    workers: Counter[WorkerStatus] = Counter()
    if commands is not None:
        submitted, changes = commands.num_submitted, commands.num_changes

        def look(rows: CommandRows) -> tuple[int, Counter[WorkerStatus]]:
            return sum(rows.active_counts().values()), Counter(worker.status for worker in rows.workers())

        held, workers = await commands.store.read_in_thread(look)
    return [
        counter("commands_submitted", "Commands that were submitted, since this server began.", submitted),
        counter("command_changes", "Times that a submitted command came into another status, since this server began.",
                {status.name: changes[status] for status in Status}, "status"),
        gauge("commands_held", "Commands that workers have and have not run to their end.", held),
        gauge("command_workers", "Workers for commands.",
              {status.name: workers[status] for status in WorkerStatus if status is not WorkerStatus.DELETED},
              "status"),
    ]
