"""The command plane's rows: what a write or a read of the command plane is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from runtime.commands.model import CommandRow, JobRow, JobState, Status, WorkerRow, WorkerStatus
from runtime.errors import NotFound
from runtime.store.store import PlaneStore, Transaction

__all__ = ["CommandEvent", "CommandRows", "CommandStore"]


class CommandEvent(NamedTuple):
    """One change of a command's status; ``before`` is None for its creation."""

    time_s: float
    before: Status | None
    after: Status
    worker: int
    attempt: int
    cause: str


class CommandRows(Transaction, Protocol):
    """The rows of one state of the store. Objects that are read are the caller's own."""

    def at_end(self, work: Callable[[CommandRows], None]) -> None:
        """Run ``work`` once, before the commit, when all writes of this group have run; the last one counts."""
        ...

    # Commands

    def insert_command(self, text: str, container: str, now_s: float, request: str = "") -> CommandRow:
        """Store a new command, PENDING, with the next number."""
        ...

    def requested(self, request: str) -> int | None:
        """Return the command that was made with this id of a request, or None."""
        ...

    def command(self, number: int) -> CommandRow:
        """Return a command.

        Raises
        ------
        NotFound
            There is none of that number, or not any more.
        """
        ...

    def texts(self, number: int) -> tuple[str, str]:
        """Return what a command runs, and in which container (``bare`` for none); raises as `command`."""
        ...

    def has_command(self, number: int) -> bool:
        """Return whether there is a command of that number."""
        ...

    def unknown(self, number: int) -> NotFound:
        """Return the error for a command that is not there: whether it never was, or is kept no more."""
        ...

    def state_of(self, number: int) -> tuple[Status, int, int, float] | None:
        """Return status, worker, attempt and time of the last change; None if there is no such command."""
        ...

    def update_command(self, command: CommandRow) -> None:
        """Write a command's status, worker, attempt, time of change and cause."""
        ...

    def commands(
        self, statuses: Sequence[str] | None = None, limit: int = -1, offset: int = 0, first: int = 0
    ) -> list[tuple[int, str, str, str]]:
        """Return number, text, container and status of commands by number from ``first`` on.

        ``statuses`` None: of all.
        """
        ...

    def ended_before(self, time_s: float, limit: int) -> list[int]:
        """Return commands that ended before a time, those that ended first at the begin."""
        ...

    def remove_ended(self, number: int, time_s: float) -> None:
        """Remove a command with its events, if it ended before a time and nobody has queued it again."""
        ...

    def pending(self, limit: int) -> list[CommandRow]:
        """Return the oldest PENDING commands, without those already handed out in this state of the store."""
        ...

    def has_pending(self) -> bool:
        """Return whether there is one."""
        ...

    def of_worker(self, worker: int, statuses: frozenset[Status]) -> list[CommandRow]:
        """Return a worker's commands that are in one of the statuses, of those in which it has them; oldest first."""
        ...

    def active_counts(self) -> dict[int, int]:
        """Return how many slots are taken, for workers of whom some are."""
        ...

    def assigned(self) -> list[tuple[int, int]]:
        """Return number and worker of commands that are ASSIGNED."""
        ...

    def cancelled_since(self, time_s: float) -> list[tuple[int, int, float]]:
        """Return number, worker and time of commands that were cancelled after a time while a worker had them."""
        ...

    # Events

    def add_event(self, command: CommandRow, before: Status | None, worker: int) -> None:
        """Record a change that `command` has just made."""
        ...

    def events(self, number: int) -> list[CommandEvent]:
        """Return what happened to a command, oldest first."""
        ...

    def has_held(self, number: int, worker: int) -> bool:
        """Return whether a worker ever had a command."""
        ...

    # Workers

    def insert_worker(self, worker: WorkerRow) -> None:
        """Store a new worker with the next number, which is set."""
        ...

    def worker(self, number: int) -> WorkerRow | None:
        """Return a worker, a deleted one too, or None."""
        ...

    def instance_of(self, number: int) -> str | None:
        """Return what tells a worker's process from others of its name; None if there is no such worker."""
        ...

    def worker_named(self, name: str) -> WorkerRow | None:
        """Return the worker of that name that is not deleted, or None."""
        ...

    def update_worker(self, worker: WorkerRow) -> None:
        """Write all of a worker but its number."""
        ...

    def see_worker(self, number: int, time_s: float) -> None:
        """Store when a worker was last heard of."""
        ...

    def workers(self, statuses: frozenset[WorkerStatus] | None = None) -> list[WorkerRow]:
        """Return workers by number; without ``statuses`` all that are not deleted."""
        ...

    def ready_workers(self) -> list[tuple[int, int, int]]:
        """Return number, concurrency and prefetch of workers that may be given commands."""
        ...

    def num_managed(self) -> int:
        """Return how many workers of providers are not deleted."""
        ...

    # Jobs

    def insert_job(self, job: JobRow) -> None:
        """Store a new job with the next number, which is set."""
        ...

    def update_job(self, job: JobRow) -> None:
        """Write a job's state, tries, times and cause."""
        ...

    def jobs(self, states: frozenset[JobState], worker: int = 0) -> list[JobRow]:
        """Return jobs in one of the states, of one worker or of all, oldest first."""
        ...


CommandStore = PlaneStore[CommandRows]
