"""What a command, a worker and a job of the workforce are: plain data, and the letters of their states."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "ACTIVE",
    "BEGUN",
    "HELD",
    "SILENT",
    "TERMINAL",
    "Caller",
    "CommandChange",
    "CommandRow",
    "JobAction",
    "JobRow",
    "JobState",
    "Rules",
    "Status",
    "WorkerRow",
    "WorkerStatus",
]


class Status(enum.StrEnum):
    """State of a command, by its letter on the wire."""

    __hash__ = str.__hash__

    WAITING = "W"
    PENDING = "P"
    ASSIGNED = "A"
    ACCEPTED = "C"
    DOWNLOADING = "D"
    ON_HOLD = "O"
    RUNNING = "R"
    UPLOADING = "U"
    UPLOADING_FAILED = "V"
    SUCCEEDED = "S"
    FAILED = "F"
    CANCELLED = "X"
    SUSPENDED = "Z"
    INACTIVE = "I"


ACTIVE = frozenset({Status.ASSIGNED, Status.ACCEPTED, Status.DOWNLOADING, Status.ON_HOLD, Status.RUNNING})
"""States that take one of a worker's slots."""

BEGUN = frozenset(
    {
        Status.ACCEPTED, Status.DOWNLOADING, Status.ON_HOLD, Status.RUNNING, Status.UPLOADING,
        Status.UPLOADING_FAILED,
    }
)
"""States in which a worker has said that the command is its own."""

HELD = BEGUN | {Status.ASSIGNED}
"""States in which a command belongs to a worker."""

TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})
"""States that change by a requeue alone."""


class WorkerStatus(enum.StrEnum):
    """State of a worker; not on the wire."""

    __hash__ = str.__hash__

    INSTALLING = "I"
    READY = "R"
    PAUSED = "P"
    FAILING = "F"
    OFFLINE = "O"
    PAUSED_OFFLINE = "Q"
    FAILING_OFFLINE = "L"
    DELETED = "D"


SILENT = frozenset({WorkerStatus.OFFLINE, WorkerStatus.PAUSED_OFFLINE, WorkerStatus.FAILING_OFFLINE})
"""States of workers that are not heard of any more."""


class JobAction(enum.StrEnum):
    """What is done for a worker at its provider."""

    CREATE = "C"
    DELETE = "D"
    RESTART = "R"


class JobState(enum.StrEnum):
    """How far a job is."""

    PENDING = "P"
    RUNNING = "R"
    SUCCEEDED = "S"
    FAILED = "F"
    STOPPED = "X"


@dataclass(slots=True)
class CommandRow:
    """A command as stored, without its texts; only `runtime.commands.transitions` changes its status.

    Attributes
    ----------
    number : int
        Its id, from 1.
    status : Status
    worker : int
        Who has it, or had it last in this attempt; 0 for nobody.
    attempt : int
        1 for the first.
    created_s, modified_s : float
        Seconds since 1970; the second changes with the status.
    cause : str
        Why the status is what it is, where there is something to say.
    """

    number: int
    status: Status
    worker: int = 0
    attempt: int = 1
    created_s: float = 0.0
    modified_s: float = 0.0
    cause: str = ""


@dataclass(slots=True)
class WorkerRow:
    """A worker as stored.

    Attributes
    ----------
    number, name : int, str
        Its id, from 1; its name, unique among workers that are not deleted.
    status : WorkerStatus
    concurrency, prefetch : int
        Commands that it runs at once, and that it may have beside them.
    instance : str
        What tells one process of that name from another; empty for those that do not say.
    provider, flavor, region : str
        Of a managed worker; empty for one that registered by itself.
    handle : str
        The provider's own note of the resource, as JSON; empty while there is none.
    created_s, seen_s : float
        Seconds since 1970; the second of its last sign of life as far as it was stored.
    restarts : int
        How often it was started again since it last worked well.
    cause : str
        Why it is failing.
    """

    number: int
    name: str
    status: WorkerStatus
    concurrency: int
    prefetch: int = 0
    instance: str = ""
    provider: str = ""
    flavor: str = ""
    region: str = ""
    handle: str = ""
    created_s: float = 0.0
    seen_s: float = 0.0
    restarts: int = 0
    cause: str = ""

    @property
    def is_managed(self) -> bool:
        """Whether a provider made it."""
        return bool(self.provider)


@dataclass(slots=True)
class JobRow:
    """Work at a provider: kept until it has ended, also over a restart of the server. Times in seconds since 1970."""

    number: int
    worker: int
    action: JobAction
    state: JobState = JobState.PENDING
    tries: int = 0
    due_s: float = 0.0
    created_s: float = 0.0
    modified_s: float = 0.0
    cause: str = ""


class CommandChange(NamedTuple):
    """A command has another status: noted for the plane's watcher once it is on disk."""

    number: int
    before: Status | None
    after: Status
    worker: int
    former_worker: int
    attempt: int
    remark: str
    """A line for the command's own log; empty as a rule."""


class Caller(NamedTuple):
    """What a call tells of who makes it; all empty for an operator, or a worker that says nothing.

    Attributes
    ----------
    worker, instance, attempt : int, str, int
        From the metadata ``x-tq-worker-id``, ``x-tq-worker-instance``, ``x-tq-attempt``; 0 and "" when absent.
    peer : str
        Where the connection comes from.
    """

    worker: int = 0
    instance: str = ""
    attempt: int = 0
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a server is told about its command plane; times in seconds.

    Attributes
    ----------
    offline_s, evict_s : float
        Silence after which a worker counts as offline, and after which it loses what it runs.
    redelivery_s : float
        Until an assigned command that its worker has not confirmed is offered again; after four times that, to others.
    max_attempts : int
        Attempts of a command that workers are lost with; afterwards it has failed.
    on_lost, on_restart : str
        ``requeue`` or ``fail``: what becomes of the commands of a worker that is lost, or that starts anew.
    default_container : str
        In place of an empty one.
    request_sets_concurrency : bool
        Whether a worker that registers again with another concurrency gets it.
    log_limit : int
        Bytes of output kept of one command; 0: all.
    retention_s : float
        How long a command is kept that has ended; 0: for ever.
    server_name : str
        Begins the names of workers that are made here.
    max_workers : int
        Managed workers at once.
    register_s : float
        Until a worker that was made must have registered.
    """

    offline_s: float = 60.0
    evict_s: float = 600.0
    redelivery_s: float = 15.0
    max_attempts: int = 3
    on_lost: str = "requeue"
    on_restart: str = "fail"
    default_container: str = "bare"
    request_sets_concurrency: bool = False
    log_limit: int = 256 << 20
    retention_s: float = 0.0
    server_name: str = field(default="tr-")
    max_workers: int = 1000
    register_s: float = 60.0
