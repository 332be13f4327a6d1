"""What a task is doing right now, as plain values: sessions, graphs, steps, and what each of these waits for.

The objects that know make these when they are asked; `runtime.observe.status_service` translates them.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext

__all__ = ["MAX_CALLS", "Call", "GraphStatus", "Held", "Opening", "RoadStatus", "SessionStatus", "StepStatus",
           "TaskStatus", "Wait", "WorkerSessionStatus", "oldest_steps", "step_status", "step_waits"]

logger = logging.getLogger(__name__)

# Of a session with more steps, and a task with more calls, the oldest are told: those are what somebody asks about.
MAX_STEPS = 200
MAX_CALLS = 200
_MAX_NAMES = 20


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that is awaited.

    Attributes
    ----------
    what : str
        In words; names whom or what.
    seconds : float
        How long it has been awaited.
    node : str
        The node that waits; empty where no single one does.
    """

    what: str
    seconds: float
    node: str = ""

    def __str__(self) -> str:
        return f"{self.what}{f' by node {self.node}' if self.node else ''}, for {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class StepStatus:
    """A step under way.

    Attributes
    ----------
    step_id : int
    seconds : float
        Since it began.
    feeds, fetches, targets : tuple of str
        The first names of each; empty where the step belongs to a registered graph.
    graph_handle : str
        Of a registered graph; empty for a step of a client.
    held_bytes, peak_bytes : int
        What the arrays that it made hold, and the most that they held.
    is_cancelled : bool
        It has been told to end.
    waits : tuple of Wait
        Empty when it runs.
    """

    step_id: int
    seconds: float
    feeds: tuple[str, ...] = ()
    fetches: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    graph_handle: str = ""
    held_bytes: int = 0
    peak_bytes: int = 0
    is_cancelled: bool = False
    waits: tuple[Wait, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """A session of a client.

    Attributes
    ----------
    handle : str
    seconds : float
        Since it was made.
    target : str
        What the client connected to, as it wrote it.
    is_isolated : bool
    graph_version, num_nodes : int
    num_compiled : int
        Steps that are kept compiled.
    tasks : tuple of str
        That it uses besides this one.
    num_steps : int
        Under way; ``steps`` has the oldest of them.
    """

    handle: str
    seconds: float
    target: str
    is_isolated: bool
    graph_version: int
    num_nodes: int
    num_compiled: int
    tasks: tuple[str, ...]
    num_steps: int
    steps: tuple[StepStatus, ...]


@dataclass(frozen=True, slots=True)
class Opening:
    """A call that waits for tasks before it can be answered: a session that is being made, a list of devices.

    Attributes
    ----------
    what : str
        ``CreateSession``, ``ListDevices``.
    target : str
        What the client connected to, where it says so.
    seconds : float
    waits : tuple of Wait
        The tasks, each with what it answered last.
    """

    what: str
    target: str
    seconds: float
    waits: tuple[Wait, ...]


@dataclass(frozen=True, slots=True)
class GraphStatus:
    """A graph that a master has registered."""

    handle: str
    num_nodes: int


@dataclass(frozen=True, slots=True)
class WorkerSessionStatus:
    """What a master's session has on this task.

    Attributes
    ----------
    handle : str
        Empty for the one that masters share which create none.
    seconds : float
        Since it was made.
    master : str
        Task of the master, where it says so.
    is_isolated : bool
    num_steps : int
        Parts of steps under way; ``steps`` has the oldest of them.
    """

    handle: str
    seconds: float
    master: str
    is_isolated: bool
    graphs: tuple[GraphStatus, ...]
    num_steps: int
    steps: tuple[StepStatus, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A call to another task that has not been answered.

    Attributes
    ----------
    task, address : str
    what : str
        Is awaited.
    seconds : float
    silent_s : float
        How long the task has owed an answer to the question for its status; 0 when it owes none.
    """

    task: str
    address: str
    what: str
    seconds: float
    silent_s: float


@dataclass(frozen=True, slots=True)
class RoadStatus:
    """What tensors went to other programs, or came from them, in one way; see `runtime.transport.roads`."""

    direction: str
    road: str
    transfers: int
    bytes: int
    seconds: float
    copies: int


@dataclass(frozen=True, slots=True)
class Held:
    """What a process keeps that steps and other programs come to need, and give back.

    Attributes
    ----------
    num_threads, num_descriptors : int
        Of the process; 0 where the system does not tell.
    num_rendezvous : int
        Steps with a place here at which tensors meet those who want them.
    num_lent, num_borrowed : int
        Tensors in shared memory: lent to other programs or waiting to be fetched by them, and theirs in use here.
    used_bytes, idle_bytes : int
        Shared memory of this process: in use, and kept for the next tensors.
    """

    num_threads: int
    num_descriptors: int
    num_rendezvous: int
    num_lent: int
    num_borrowed: int
    used_bytes: int
    idle_bytes: int


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One task.

    Attributes
    ----------
    task : str
        ``/job:J/replica:0/task:T``.
    address : str
    pid : int
    version : str
        Of this package.
    seconds : float
        Since the server began.
    devices : tuple of (str, str, int)
        Name, type and incarnation.
    rss_bytes : int
        Memory of the process.
    step_bytes : int
        What the arrays of all steps hold together, those that outlive them included.
    openings, sessions, worker_sessions : tuple
    calls : tuple of Call
        The oldest of ``num_calls``.
    wanted : tuple of Wait
        Tensors that others wait for here, until a step sends them; the oldest of ``num_wanted``.
    roads : tuple of RoadStatus
        Since the process began.
    held : Held, optional
    """

    task: str
    address: str
    pid: int
    version: str
    seconds: float
    devices: tuple[tuple[str, str, int], ...]
    rss_bytes: int = 0
    step_bytes: int = 0
    openings: tuple[Opening, ...] = ()
    sessions: tuple[SessionStatus, ...] = ()
    worker_sessions: tuple[WorkerSessionStatus, ...] = ()
    calls: tuple[Call, ...] = ()
    num_calls: int = 0
    wanted: tuple[Wait, ...] = ()
    num_wanted: int = 0
    roads: tuple[RoadStatus, ...] = ()
    held: Held | None = None


def step_status(step: StepContext, graph_handle: str = "") -> StepStatus:
    """Return what a step does right now. From any thread; the step may end meanwhile."""
    now = time.monotonic()
    selection = step.selection
    feeds: tuple[str, ...] = ()
    fetches: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    if selection is not None and not graph_handle:
        feeds = tuple(name for name, *_ in selection.feeds[:_MAX_NAMES])
        fetches = tuple(name for name, *_ in selection.fetches[:_MAX_NAMES])
        targets = tuple(node.name for node in selection.targets[:_MAX_NAMES])
    return StepStatus(step.step_id, max(0.0, now - step.started), feeds, fetches, targets, graph_handle,
                      step.held_bytes, step.peak_bytes, step.cancelled, step_waits(step))


def step_waits(step: StepContext) -> tuple[Wait, ...]:
    """Return what a step waits for, the longest first. From any thread; the step may end meanwhile."""
    now = time.monotonic()
    waits = [Wait(what, max(0.0, now - since), node) for since, what, node in _waits(step)]
    return tuple(sorted(waits, key=lambda wait: -wait.seconds))


def oldest_steps(steps: Iterable[tuple[StepContext, str]]) -> tuple[StepStatus, ...]:
    """Return the status of the oldest steps, given with the handles of their graphs."""
    oldest = heapq.nsmallest(MAX_STEPS, steps, key=lambda entry: entry[0].started)
    return tuple(step_status(step, handle) for step, handle in oldest)


def _waits(step: StepContext) -> Sequence[tuple[float, str, str]]:
    try:
        found = step.waits()
        exchanged = getattr(step.exchange, "waits", None)
        return found if exchanged is None else [*found, *exchanged()]
    except Exception:  # what is looked at changes meanwhile; the others are to be told all the same
        logger.exception("what step %s waits for could not be told", step.step_id)
        return ()
