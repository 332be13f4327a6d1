"""The worker of a task: sessions that masters opened here, steps under way, tensors that wait to be fetched."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from runtime._ext.errors import Aborted, Cancelled, InvalidArgument
from runtime._ext.rendezvous import RendezvousTable, parse_key
from runtime.cluster_spec import ClusterSpec
from runtime.dtypes import DataType
from runtime.graph.device_spec import DeviceSpec, parse
from runtime.master.request_ids import RequestIds
from runtime.worker.collectives.hub import Collectives
from runtime.worker.collectives.session import SessionCollectives
from runtime.worker.derived import restarted
from runtime.worker.exchange import Sent
from runtime.worker.fetching import collect, take
from runtime.worker.session import LEGACY, GraphRun, MasterLife, WorkerSession
from runtime.worker.step_traces import StepTraces

if TYPE_CHECKING:
    from runtime._ext.rendezvous import Rendezvous, Waiter
    from runtime._ext.worker_codec import RunGraphCall
    from runtime.master.task import Task
    from runtime.observe.status import WorkerSessionStatus
    from runtime.step.environment import SessionState
    from runtime.step.runner import StepRunner
    from runtime.worker.collectives.hub import Offered
    from runtime.worker.exchange import Peers
    from runtime.worker.session import Answered

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

_REMEMBERED_REQUESTS = 100_000
_SWEEP_IDLE_S = 30.0

class Worker:
    """What one task does for masters.

    Parameters
    ----------
    task : Task
    runner : StepRunner
    cluster : ClusterSpec or None
        The server's own; None when it is alone.
    connect : callable
        ``connect(cluster) -> Peers``: the tasks of a cluster as a step reaches them.
    step_memory_limit : int
        What the arrays of one step may hold at once, in bytes; 0 for no limit.

    Attributes
    ----------
    request_ids : RequestIds
    sessions : dict of str to WorkerSession
    traces : StepTraces
        Of the steps that ran while somebody had them recorded.

    Notes
    -----
    Every method may be called from any thread. Callbacks run in whichever thread has the answer.
    """

    def __init__(self, task: Task, runner: StepRunner, cluster: ClusterSpec | None,
                 connect: Callable[[ClusterSpec], Peers], step_memory_limit: int = 0) -> None:
        self.task = task
        self.request_ids = RequestIds(_REMEMBERED_REQUESTS)
        self.sessions: dict[str, WorkerSession] = {}
        self._runner = runner
        self._cluster = cluster
        self._connect = connect
        self._own_peers: Peers | None = None
        self._step_memory_limit = step_memory_limit
        self.collectives = Collectives(task)
        self.traces = StepTraces()
        self._rendezvous = RendezvousTable()
        self._lock = threading.Lock()
        self._beginning = threading.Lock()

    # Sessions

    def create_session(self, handle: str, cluster: ClusterSpec | None = None, job_name: str = "", task_index: int = 0,
                       isolated: bool = False, master: str = "", incarnation: int = 0) -> None:
        """Open a session; one that is open already stays as it is.

        Sessions that an earlier process of the same master left behind are deleted: nobody else will.

        Parameters
        ----------
        handle : str
        cluster : ClusterSpec, optional
            In place of the server's own; this task is then ``job_name`` and ``task_index`` of it.
        isolated : bool
        master : str
            The master's task, where it is known.
        incarnation : int
            Which process of that task it is; 0 where it is not known.

        Raises
        ------
        InvalidArgument
            If the handle is empty, or the cluster has no such task.
        """
        if not handle:
            raise InvalidArgument("Session must be non-empty.")
        task = self.task
        if cluster is not None:
            cluster.address(job_name, task_index)  # it must be there
            task = task.renamed(job_name, task_index)
        life = None
        if master and incarnation:
            life = MasterLife(master, "" if cluster is None else address_of(cluster, master), incarnation)
        with self._lock:
            if handle in self.sessions:
                return
            peers = self._peers() if cluster is None else self._connect(cluster)
            made = self.sessions[handle] = WorkerSession(handle, task, isolated, peers, self._runner,
                                                         self._step_memory_limit, master=master, life=life)
            self._equip(made.state, task, peers)
            left = [] if life is None else [found.handle for found in self.sessions.values()
                                            if found.life is not None and found.life.is_followed_by(life)]
        logger.info("worker session created", extra={"session": handle, "isolated": isolated})
        for one in left:
            logger.info("a master has begun anew: its former session goes", extra={"session": one, "master": master})
            self.delete_session(one)

    def adopt_session(self, handle: str, task: Task, state: SessionState, cluster: ClusterSpec | None,
                      leader: str = "") -> WorkerSession:
        """Open a session of the master in this process, with that one's state.

        Parameters
        ----------
        task : Task
            By the name that it has in the session.
        cluster : ClusterSpec or None
            The session's own; None for the server's.
        leader : str
            Of its collectives, where the session names one.
        """
        with self._lock:
            peers = self._peers() if cluster is None else self._connect(cluster)
            made = self.sessions[handle] = WorkerSession(handle, task, False, peers, self._runner,
                                                         self._step_memory_limit, state, task.name)
            self._equip(state, task, peers, leader)
        return made

    def join_collectives(self, state: SessionState, task: Task, cluster: ClusterSpec | None, leader: str) -> None:
        """Let a session of the master in this process take part in collectives; parameters as of `adopt_session`."""
        with self._lock:
            self._equip(state, task, self._peers() if cluster is None else self._connect(cluster), leader)

    def _equip(self, state: SessionState, task: Task, peers: Peers | None, leader: str = "") -> None:
        if not leader and peers is not None:
            leader = peers.first_task
        state.collectives = SessionCollectives(self.collectives, task, peers, leader)

    def session(self, handle: str, was_created: bool) -> WorkerSession:
        """Return a session by its handle, or the one that masters share who create none.

        Raises
        ------
        Aborted
            If it is not there.
        """
        if not was_created:
            with self._lock:
                found = self.sessions.get(LEGACY)
                if found is None:
                    found = self.sessions[LEGACY] = WorkerSession(LEGACY, self.task, False, self._peers(),
                                                                  self._runner, self._step_memory_limit)
                    self._equip(found.state, self.task, self._peers())
                found.used = time.monotonic()
                return found
        found = self.sessions.get(handle)
        if found is not None:
            found.used = time.monotonic()
        else:
            raise restarted(Aborted(f'Session handle is not found: {handle}. Possibly this worker ("{self.task.name}") '
                                    "just restarted."))
        return found

    def delete_session(self, handle: str) -> None:
        """Close a session: its steps are cancelled. One that is not known is fine."""
        with self._lock:
            found = self.sessions.pop(handle, None)
        if found is not None:
            # Where its master has died, nobody cleans up behind its last steps. Masters of a collective share numbers.
            for step_id in found.close():
                if not any(other.has_step(step_id) for other in list(self.sessions.values())):
                    self._rendezvous.clean(step_id)
                    self.collectives.clean(step_id)
            logger.info("worker session deleted", extra={"session": handle})

    def delete_idle(self, limit_s: float) -> None:
        """Delete the sessions of other processes' masters of which nothing was asked for `limit_s` seconds."""
        for session in list(self.sessions.values()):
            idle_s = session.idle_s()
            if idle_s >= limit_s and not session.is_of_this_process:
                logger.warning("a worker session was idle for too long", extra={
                    "session": session.handle, "master": session.master, "seconds": round(idle_s, 1)})
                self.delete_session(session.handle)

    def sweep(self) -> None:
        """Forget what receivers that gave up have left of steps that never ran here, and traces that nobody fetched."""
        self._rendezvous.sweep(_SWEEP_IDLE_S)
        self.traces.drop_old()

    def _peers(self) -> Peers | None:
        if self._own_peers is None and self._cluster is not None:
            self._own_peers = self._connect(self._cluster)
        return self._own_peers

    # Steps

    def run_graph(self, call: RunGraphCall, trace: bool, answered: Answered) -> GraphRun:
        """Run a registered graph, or go on with a partial run of it.

        Parameters
        ----------
        call : RunGraphCall
        trace : bool
        answered : callable
            Called exactly once, unless this method raises.

        Returns
        -------
        GraphRun
            For cancelling it.

        Raises
        ------
        Aborted
            If session or graph are not known, or the request was seen before.
        InvalidArgument
            If a key is none.
        """
        what = "PartialRunGraph (Worker)" if call.is_partial else "RunGraph (Worker)"
        self.request_ids.check(call.request_id, what, call.session_handle)
        session = self.session(call.session_handle, call.create_worker_session_called)
        session.graph(call.graph_handle)
        for key in (*call.send_names, *call.recv_keys):
            parse_key(key)
        rendezvous = self._rendezvous.of(call.step_id, True)
        send = {key: Sent(value, DataType(datatype)) for key, value, datatype
                in zip(call.send_names, call.send_values, call.send_datatypes, strict=True)}
        run = self._start(session, call.graph_handle, call.step_id, rendezvous, send, trace, call.is_partial)
        if call.is_partial:
            collect(rendezvous, call.recv_keys, run.answering(answered), run if call.is_last_partial_run else None)
        else:
            run.when_ended(lambda error: take(rendezvous, call.step_id, call.recv_keys, error, answered))
        return run

    def start(self, session: WorkerSession, graph_handle: str, step_id: int, send: Mapping[str, Sent], trace: bool,
              partial: bool = False) -> GraphRun:
        """Start a step for the master in this process, or go on with a partial run.

        Raises
        ------
        Aborted
            If the graph is not known or the step is over.
        """
        rendezvous = self._rendezvous.of(step_id, True)
        return self._start(session, graph_handle, step_id, rendezvous, send, trace, partial)

    def _start(self, session: WorkerSession, graph_handle: str, step_id: int, rendezvous: Rendezvous,
               send: Mapping[str, Sent], trace: bool, partial: bool) -> GraphRun:
        if not partial:
            for key, sent in send.items():
                rendezvous.send(key, sent)
            return self._begin(session, graph_handle, step_id, rendezvous, trace, False)
        with self._beginning:  # calls of one run may come at the same time, and one of them begins it
            run = session.run_of(step_id, graph_handle)
            if run is None:
                run = self._begin(session, graph_handle, step_id, rendezvous, trace, True)
        # Behind the look for the run: what is sent may be all that it was waiting for.
        for key, sent in send.items():
            rendezvous.send(key, sent)
        return run

    def _begin(self, session: WorkerSession, graph_handle: str, step_id: int, rendezvous: Rendezvous, trace: bool,
               keep: bool) -> GraphRun:
        is_recorded = self.traces.is_recording
        run = session.start(graph_handle, step_id, rendezvous, trace=trace or is_recorded, keep=keep)
        recorded = run.step.trace if is_recorded else None
        if recorded is not None:
            device = session.task.devices[0].name
            run.when_ended(lambda error: self.traces.add(step_id, recorded, device))
        return run

    def when_ended(self, run: GraphRun, step_id: int, receive: Sequence[str], answered: Answered) -> None:
        """Call `answered` with the tensors of some keys, or the step's error, when the step has ended."""
        rendezvous = self._rendezvous.of(step_id)
        run.when_ended(lambda error: take(rendezvous, step_id, receive, error, answered))

    def when_received(self, run: GraphRun, step_id: int, receive: Sequence[str], answered: Answered, last: bool
                      ) -> None:
        """Call `answered` with the tensors of some keys of a partial run as soon as they are there.

        With `last`, the run must have ended, too.
        """
        collect(self._rendezvous.of(step_id), receive, run.answering(answered), run if last else None)

    def clean(self, step_id: int) -> None:
        """Forget what is left of a step. One that is not known is fine."""
        self._rendezvous.clean(step_id)
        self.collectives.clean(step_id)
        for session in list(self.sessions.values()):
            session.release(step_id)

    def clear(self, containers: Iterable[str]) -> None:
        """Empty containers on every device of the task; the default one when none is named."""
        self.task.clear(containers)

    # Tensors

    def receive(self, step_id: int, key: str, request_id: int,
                done: Callable[[Sent | None, bool, BaseException | None], None]) -> Callable[[], None]:
        """Hand over a tensor that a step of this task sends, as soon as it is there.

        Parameters
        ----------
        done : callable
            ``done(sent, is_dead, error)``, called exactly once unless this method raises.

        Returns
        -------
        callable
            Drops the request, and nothing else; `done` is then not called if it has not been.

        Raises
        ------
        Aborted
            If the request was seen before, the step is over, or the key is meant for a device of another life.
        InvalidArgument
            If the key is none, or no device of this task sends it.
        """
        self.request_ids.check(request_id, "RecvTensor (GrpcWorker)", "")
        sender, incarnation, *_ = parse_key(key)
        self._check_sender(sender, incarnation, key)
        rendezvous = self._rendezvous.of(step_id)
        waiter = rendezvous.receive(key, done)
        return _nothing if waiter is None else lambda: _forget(rendezvous, waiter)

    def _check_sender(self, sender: str, incarnation: int, key: str) -> None:
        spec = parse(sender)
        if spec is None:
            raise InvalidArgument(f"Invalid  rendezvous key: {key}")
        for device in self.task.devices:
            own = parse(device.name) or DeviceSpec()
            if (own.device_type, own.device_id) == (spec.device_type, spec.device_id):
                if device.incarnation != incarnation:
                    raise Aborted(f"RecvTensor expects a different device incarnation: {incarnation} vs. "
                                  f'{device.incarnation}. Your worker job ("{self.task.name}") was probably restarted. '
                                  "Check your worker job for the reason why it was restarted.")
                break
        else:
            raise InvalidArgument(f"{sender} unknown device.")
        if spec.task_name not in {self.task.name, *(session.task.name for session in list(self.sessions.values()))}:
            raise InvalidArgument(f"Invalid rendezvous key (src): {key} @ {self.task.name}")

    def give_buffer(self, step_id: int, key: str, device: str, incarnation: int, request_id: int,
                    done: Callable[[Offered | None, BaseException | None], None]) -> Callable[[], None]:
        """Hand over a piece of a collective as soon as it is there; see `Collectives.give_out`.

        Raises
        ------
        Aborted
            If the request was seen before, too.
        """
        self.request_ids.check(request_id, "RecvBuf (GrpcWorker)", "")
        return self.collectives.give_out(step_id, key, device, incarnation, done)

    # Looking, ending

    def drain(self) -> None:
        """Wake those who wait for tensors of steps that do not run here."""
        running = {run.step.step_id for session in list(self.sessions.values()) for run in session.running()}
        for step_id in {step_id for step_id, _, _ in self._rendezvous.waiting()} - running:
            found = self._rendezvous.known(step_id)
            if found is not None:
                found.abort(Cancelled("the server is stopping"))

    def status(self) -> tuple[WorkerSessionStatus, ...]:
        """Return what masters have here right now."""
        return tuple(session.status() for session in list(self.sessions.values()))

    def wanted(self) -> Sequence[tuple[int, str, float]]:
        """Return (step id, key, seconds) of every tensor that other tasks wait for here, the longest first."""
        now = time.monotonic()
        own = {self.task.name, *(session.task.name for session in list(self.sessions.values()))}
        found = [(step_id, key, now - since) for step_id, key, since in self._rendezvous.waiting()
                 if (parse(parse_key(key)[2]) or DeviceSpec()).task_name not in own]
        return sorted(found, key=lambda entry: -entry[2])

    @property
    def num_rendezvous(self) -> int:
        """Return how many steps have a place here at which tensors meet those who want them."""
        return len(self._rendezvous)

    def close(self) -> None:
        """Close every session and wake everybody who waits."""
        with self._lock:
            sessions = list(self.sessions.values())
            self.sessions.clear()
        for session in sessions:
            session.close()
        self._rendezvous.clean_all(Cancelled("the server is stopping"))
        self.collectives.close()


def address_of(cluster: ClusterSpec, task: str) -> str:
    """Return the address of a task; empty when it is none of the cluster."""
    spec = parse(task)
    if spec is None or spec.job is None or spec.task is None:
        return ""
    return cluster.jobs.get(spec.job, {}).get(spec.task, "")


def _nothing() -> None:
    pass


def _forget(rendezvous: Rendezvous, waiter: Waiter) -> None:
    rendezvous.forget(waiter)
