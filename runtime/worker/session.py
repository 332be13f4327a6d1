"""A worker session: what one master session has on this task."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Aborted, Cancelled, Error, Internal
from runtime._ext.executor import StepContext, StepTrace
from runtime.devices.resources import ResourceManager
from runtime.observe.status import GraphStatus, WorkerSessionStatus, oldest_steps
from runtime.step.environment import SessionState
from runtime.worker.derived import derived
from runtime.worker.exchange import StepExchange
from runtime.worker.graphs import RegisteredGraph

if TYPE_CHECKING:
    from runtime._ext.rendezvous import Rendezvous
    from runtime.master.task import Task
    from runtime.step.runner import StepRunner
    from runtime.worker.exchange import Peers, Sent

__all__ = ["GraphRun", "MasterLife", "WorkerSession"]

logger = logging.getLogger(__name__)

Done = Callable[["BaseException | None"], None]
Answered = Callable[["list[Sent] | None", "BaseException | None"], None]
"""``answered(tensors, error)``: the tensors of a RunGraph's ``recv_key``, in order."""

# Calls that name a session without having created one, as masters of old do, share this one.
LEGACY = ""


@dataclass(frozen=True, slots=True)
class MasterLife:
    """One process of a master.

    Attributes
    ----------
    task : str
    address : str
        In the cluster that the session brought; empty for a master of the worker's own cluster.
    incarnation : int
        Of its device; another one with every start.
    """

    task: str
    address: str
    incarnation: int

    def is_followed_by(self, other: MasterLife) -> bool:
        """Tell whether another one is a later process of the same master."""
        return (self.task, self.address) == (other.task, other.address) and self.incarnation != other.incarnation


class GraphRun:
    """One step of a registered graph.

    Attributes
    ----------
    step : StepContext
    graph : RegisteredGraph
    is_kept : bool
        Whether it is a partial run, which its session keeps until the step is cleaned up.
    """

    def __init__(self, step: StepContext, graph: RegisteredGraph, rendezvous: Rendezvous,
                 is_kept: bool = False) -> None:
        self.step = step
        self.graph = graph
        self.is_kept = is_kept
        self._num_calls = 0
        self._rendezvous = rendezvous
        self._lock = threading.Lock()
        self._ended = False
        self._error: BaseException | None = None
        self._waiting: list[Done] = []

    def ended(self, error: BaseException | None) -> None:
        """Take note of the end of the step, and tell it to those who wait for it."""
        if error is not None:
            self._rendezvous.abort(derived(error) if isinstance(error, Error) else error)
        with self._lock:
            self._ended, self._error = True, error
            waiting, self._waiting = self._waiting, []
        for done in waiting:
            done(error)

    def answering(self, answered: Answered) -> Answered:
        """Count a call of a partial run as open until the callable that this returns has been called."""
        with self._lock:
            self._num_calls += 1

        def ended(tensors: list[Sent] | None, error: BaseException | None) -> None:
            with self._lock:
                self._num_calls -= 1
            answered(tensors, error)

        return ended

    @property
    def is_awaited(self) -> bool:
        """Tell whether a master waits for it: a partial run goes on between its calls without one."""
        return not self._ended and (not self.is_kept or self._num_calls > 0)

    @property
    def has_ended(self) -> bool:
        """Tell whether the step is over."""
        return self._ended

    def when_ended(self, done: Done) -> None:
        """Have ``done(error)`` called when the step has ended; at once if it has."""
        with self._lock:
            if not self._ended:
                self._waiting.append(done)
                return
        done(self._error)


class WorkerSession:
    """Graphs and state of one master session on this task.

    Parameters
    ----------
    handle : str
    task : Task
        By the name that it has in the session.
    isolated : bool
        Whether it has resources of its own.
    peers : Peers or None
        The other tasks of its cluster.
    runner : StepRunner
    step_memory_limit : int
        What the arrays of one step may hold at once, in bytes; 0 for no limit.
    state : SessionState, optional
        That of the master's session in this process, which goes on being the master's.
    master : str
        The master's task, where it is known.
    life : MasterLife, optional
        Which process the master is, where it says so.

    Attributes
    ----------
    used : float
        When a master last asked something of it, on the clock of `time.monotonic`.

    Notes
    -----
    Safe from several threads.
    """

    def __init__(self, handle: str, task: Task, isolated: bool, peers: Peers | None, runner: StepRunner,
                 step_memory_limit: int = 0, state: SessionState | None = None, master: str = "",
                 life: MasterLife | None = None) -> None:
        self.handle = handle
        self.master = master
        self.life = life
        self.task = task
        self.peers = peers
        self.closed = False
        self._runner = runner
        self._step_memory_limit = step_memory_limit
        self._owns_state = state is None
        if state is None:
            resources = ResourceManager(task.job_name) if isolated else None
            state = SessionState(task.devices[0], task.files, resources, step_memory_limit)
        self.state = state
        self._graphs: dict[str, RegisteredGraph] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._runs: dict[tuple[int, str], GraphRun] = {}
        self._unclean: set[int] = set()  # numbers of steps that ran here and have not been released
        self._made_at = self.used = time.monotonic()

    @property
    def is_of_this_process(self) -> bool:
        """Tell whether its master is in this process, and ends it."""
        return not self._owns_state

    # Graphs

    def register(self, graph_def: Any) -> str:
        """Compile a graph and return its handle, 16 hexadecimal digits.

        Raises
        ------
        Error
            What is wrong with the graph; see `RegisteredGraph`.
        """
        graph = RegisteredGraph(graph_def, self.state)
        with self._lock:
            self._check_open()
            handle = f"{next(self._numbers):016x}"
            self._graphs[handle] = graph
        return handle

    def deregister(self, handle: str) -> None:
        """Forget a graph; its running steps go on.

        Raises
        ------
        Aborted
            If it is not known.
        """
        with self._lock:
            if self._graphs.pop(handle, None) is None:
                raise Aborted(f"Graph handle is not found: {handle}. Possibly, this worker just restarted.")

    def graph(self, handle: str) -> RegisteredGraph:
        """Return a registered graph.

        Raises
        ------
        Aborted
            If it is not known.
        """
        found = self._graphs.get(handle)
        if found is None:
            raise Aborted(f"Graph handle is not found: {handle}. Possibly, this worker just restarted.")
        return found

    # Steps

    def start(self, graph_handle: str, step_id: int, rendezvous: Rendezvous, *, trace: bool, keep: bool) -> GraphRun:
        """Start a step of a registered graph. Its error, when it comes to one, aborts the step's rendezvous.

        With `keep`, `run_of` finds the step until it is released, also when it has ended.

        Raises
        ------
        Aborted
            If the graph is not known, or the session has been deleted.
        """
        graph = self.graph(graph_handle)
        step = StepContext(step_id, self.state, StepTrace() if trace else None, self._runner.hand_over,
                           self._step_memory_limit)
        exchange = StepExchange(step_id, rendezvous, self.task.name, self.state, self.peers)
        step.exchange = exchange
        run = GraphRun(step, graph, rendezvous, keep)
        with self._lock:
            self._check_open()
            self._runs[step_id, graph_handle] = run
            self._unclean.add(step_id)

        def cancelled() -> None:
            error = step.error or Cancelled("the step was cancelled")
            exchange.close(error)
            rendezvous.abort(derived(error) if isinstance(error, Error) else error)

        def finished(outputs: list[Any] | None, error: BaseException | None) -> None:
            self.used = time.monotonic()
            if error is not None and not isinstance(error, Error):
                logger.error("step %s failed with an error of the wrong kind", step_id, exc_info=error)
                error = Internal(f"{type(error).__name__}: {error}")
            exchange.close(error or Aborted(f"step {step_id} is over"))
            step.close()
            if not keep:
                self._forget(step_id, graph_handle)
            run.ended(error)

        step.on_cancel(cancelled)
        try:
            self._runner.start(graph.step, step, (), finished)
        except Exception as error:  # of whatever kind: a step that does not end would hold everybody up
            finished(None, error)
        return run

    def run_of(self, step_id: int, graph_handle: str) -> GraphRun | None:
        """Return a step that runs, or is kept, or None."""
        return self._runs.get((step_id, graph_handle))

    def release(self, step_id: int) -> None:
        """Keep the steps of this number no longer; partial runs that still go on end."""
        if step_id not in self._unclean:
            return
        with self._lock:
            self._unclean.discard(step_id)
            kept = {key: run for key, run in self._runs.items() if key[0] == step_id and (run.has_ended or run.is_kept)}
            for key in kept:
                del self._runs[key]
        for run in kept.values():
            run.step.cancel(Aborted(f"Cleanup {step_id}"))

    def _forget(self, step_id: int, graph_handle: str) -> None:
        with self._lock:
            self._runs.pop((step_id, graph_handle), None)

    def idle_s(self) -> float:
        """Return for how long no master has asked anything of the session; 0 while one waits for a step."""
        return 0.0 if any(run.is_awaited for run in self.running()) else time.monotonic() - self.used

    def running(self) -> Sequence[GraphRun]:
        """Return the steps that run now."""
        with self._lock:
            return [run for run in self._runs.values() if not run.has_ended]

    def status(self) -> WorkerSessionStatus:
        """Return what the session has here and what runs in it right now."""
        with self._lock:
            graphs = tuple(GraphStatus(handle, len(graph.graph.nodes)) for handle, graph in self._graphs.items())
            running = [(run.step, handle) for (_, handle), run in self._runs.items() if not run.has_ended]
        return WorkerSessionStatus(
            self.handle,
            time.monotonic() - self._made_at,
            self.master,
            self.state.resources is not self.state.device.resources,
            graphs,
            len(running),
            oldest_steps(running),
        )

    def has_step(self, step_id: int) -> bool:
        """Tell whether a step of this number ran here and has not been released."""
        return step_id in self._unclean

    def close(self) -> Sequence[int]:
        """Cancel the steps and free graphs, kernels and, if the session is isolated, all of its state.

        Returns
        -------
        sequence of int
            The numbers of the steps that nobody has released.
        """
        with self._lock:
            if self.closed:
                return ()
            self.closed = True
            left = tuple(self._unclean)
            self._unclean.clear()
            runs = list(self._runs.values())
            self._graphs.clear()
        for run in runs:
            run.step.cancel(Cancelled(f"worker session {self.handle} was deleted"))
        if self._owns_state:
            self.state.close()
        return left

    def _check_open(self) -> None:
        if self.closed:
            raise Aborted(f"Session handle is not found: {self.handle}. It was deleted.")
