"""What a session, a task and a result are: plain data, and the numbers of their statuses.

What is made once per task is a named tuple: those take a third of a frozen data class's time. The numbers of
statuses are those of the protocol of mid 2022; they are stored as they are.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from runtime.objects.value import EMPTY, Value

__all__ = [
    "ENDED_BADLY",
    "RUNNING",
    "TERMINAL",
    "UNFINISHED",
    "FailureKind",
    "ResultRow",
    "ResultStatus",
    "SessionRow",
    "SessionStatus",
    "SpecRow",
    "TaskOptions",
    "TaskRequest",
    "TaskRow",
    "TaskStatus",
]


class SessionStatus(enum.IntEnum):
    """Status of a session."""

    __hash__ = int.__hash__  # an enumeration's own is a Python function

    RUNNING = 1
    CANCELED = 2


class ResultStatus(enum.IntEnum):
    """Status of a result."""

    __hash__ = int.__hash__  # an enumeration's own is a Python function

    CREATED = 1
    COMPLETED = 2
    ABORTED = 3


class TaskStatus(enum.IntEnum):
    """Status of a task, that is of one attempt. PROCESSED and FAILED are never set here."""

    __hash__ = int.__hash__

    CREATING = 1
    SUBMITTED = 2
    DISPATCHED = 3
    COMPLETED = 4
    ERROR = 5
    FAILED = 6
    TIMEOUT = 7
    CANCELING = 8
    CANCELED = 9
    PROCESSING = 10
    PROCESSED = 11


TERMINAL = frozenset(
    {TaskStatus.COMPLETED, TaskStatus.ERROR, TaskStatus.FAILED, TaskStatus.TIMEOUT, TaskStatus.CANCELED}
)
"""Statuses that never change again."""

UNFINISHED = frozenset(TaskStatus) - TERMINAL
"""All other statuses."""

ENDED_BADLY = frozenset({TaskStatus.ERROR, TaskStatus.FAILED, TaskStatus.TIMEOUT})
"""Terminal statuses of an attempt that did not succeed and was not canceled."""

RUNNING = frozenset({TaskStatus.DISPATCHED, TaskStatus.PROCESSING})
"""Statuses in which an agent owns the task."""


class FailureKind(enum.Enum):
    """How an attempt failed, where the worker gave no answer."""

    CALL = "call"
    """The call of the worker failed: a transport error, a status that is not OK, no output. Retried."""
    TIMEOUT = "timeout"
    """``max_duration`` passed. Retried."""
    PROTOCOL = "protocol"
    """The worker broke the protocol, or data of the task is missing. Not retried."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How a task is to be run.

    Attributes
    ----------
    max_duration_ns : int
        Nanoseconds that an attempt may take, counted from the start of the worker's call.
    max_retries : int
        Attempts after the first one.
    priority : int
        Higher runs first.
    entries : mapping of str to str
        For the worker; the server does not read them.
    """

    max_duration_ns: int
    max_retries: int
    priority: int
    entries: Mapping[str, str] = field(default_factory=dict)

    @property
    def max_duration_s(self) -> float:
        """``max_duration`` in seconds."""
        return self.max_duration_ns / 1e9


class TaskRequest(NamedTuple):
    """A task that is to be made.

    Attributes
    ----------
    id : str
        Unique in the whole server.
    expected_keys : tuple of str
        Keys of the results that the task makes, at least one, each once.
    dependencies : tuple of str
        Keys of the results that it needs, each once.
    payload : Value
        Its input: bytes, or the reference to an object that lies in the object store already.
    """

    id: str
    expected_keys: tuple[str, ...]
    dependencies: tuple[str, ...] = ()
    payload: Value = EMPTY


@dataclass(slots=True)
class SessionRow:
    """A session as stored. ``number`` is the store's name for it; dates are seconds since 1970."""

    number: int
    id: str
    status: SessionStatus
    options_number: int
    created_s: float
    canceled_s: float | None = None


class SpecRow(NamedTuple):
    """What never changes about a task and is the same for all its attempts.

    Attributes
    ----------
    number : int
        That of the first attempt.
    session, options_number : int
        The session; the stored options.
    parent : int
        The task (attempt) that made it; 0 for tasks made by clients.
    expected_keys, dependencies : tuple of str
        As requested.
    payload : Value
        The input.
    """

    number: int
    session: int
    options_number: int
    parent: int
    expected_keys: tuple[str, ...]
    dependencies: tuple[str, ...]
    payload: Value


@dataclass(slots=True)
class TaskRow:
    """One attempt as stored; only `runtime.tasks.transitions` changes one.

    Attributes
    ----------
    number, id : int, str
        The store's name and the client's; numbers grow in the order of creation.
    session, spec : int
        Number of the session and of the specification (the first attempt).
    attempt : int
        0 for the first attempt.
    priority, max_retries : int
        Of its options.
    status : TaskStatus
        See the state machine in `runtime.tasks.transitions`.
    missing : int
        Dependencies that are not completed yet.
    place : int
        Where it stands in the queue, smaller first; 0 before it was ready for the first time.
    fence : int
        Of the lease under which it was acquired last; no two leases have the same number. 0: never acquired.
    owner : str
        The agent that has it; empty when free.
    next : int
        The attempt that follows this one; 0 when there is none.
    created_s, submitted_s, started_s, ended_s : float or None
        Seconds since 1970.
    error : str
        Text of its output; empty unless something is to be said.
    stored : TaskStatus or None
        The status that the store has, where ``status`` is ahead of it.
    """

    number: int
    id: str
    session: int
    spec: int
    attempt: int
    priority: int
    max_retries: int
    status: TaskStatus
    missing: int = 0
    place: int = 0
    fence: int = 0
    owner: str = ""
    next: int = 0
    created_s: float = 0.0
    submitted_s: float | None = None
    started_s: float | None = None
    ended_s: float | None = None
    error: str = ""
    stored: TaskStatus | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it stands in the queue with all its dependencies completed."""
        return self.status is TaskStatus.SUBMITTED and self.missing == 0


@dataclass(slots=True)
class ResultRow:
    """A result as stored: its key within its session, the task that owns it, and its bytes once completed.

    ``number`` is the store's name for one that is inserted, 0 for one that was read; numbers grow in the order of
    creation. The first result that a client's task makes has that of the task.
    """

    session: int
    key: str
    owner: int
    status: ResultStatus
    created_s: float
    value: Value = EMPTY
    number: int = 0


