"""The master of one task: its sessions, and what concerns all of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext import running_step
from runtime._ext.errors import Aborted, FailedPrecondition, InvalidArgument, Unimplemented
from runtime.cluster_spec import ClusterSpec
from runtime.devices.device import Device
from runtime.graph.device_spec import DeviceSpec
from runtime.machine import memory_bytes
from runtime.master.config import SessionConfig, propagated_task
from runtime.master.ending import CLOSE_WAIT_S, CLOSED_BY_CLIENT, SERVER_STOPPED
from runtime.master.request_ids import RequestIds
from runtime.master.step_counts import StepCounts
from runtime.master.task import Task
from runtime.observe.recorder import StepRecorder
from runtime.step.runner import StepRunner

if TYPE_CHECKING:
    from runtime.master.cluster_session import RemoteDevice
    from runtime.master.session import MasterSession

__all__ = ["Master"]

logger = logging.getLogger(__name__)

DEFAULT_STEP_LIMIT = 512


class Master:
    """Sessions by handle, on one task.

    Parameters
    ----------
    task : Task, optional
        A task ``local`` with one CPU when left out.
    runner : StepRunner, optional
        Closed with the master only when the master made it.
    step_limit : int
        How many compiled steps a session keeps.
    cluster : ClusterSpec, optional
        This server's; sessions use its tasks unless their device filters leave them out.
    step_memory_limit : int, optional
        What the arrays of one step may hold at once, in bytes; 0 for no limit, three quarters of the memory when left
        out. With a limit, the arrays of all steps of the process together may hold nine tenths of the memory.

    Attributes
    ----------
    request_ids : RequestIds
    recorder : StepRecorder
    step_counts : StepCounts
        Of all its sessions, those that are closed included.
    step_memory_limit : int

    Notes
    -----
    Concurrency: every method may be called from any thread. None but `close` waits for steps.
    """

    def __init__(
        self,
        task: Task | None = None,
        *,
        runner: StepRunner | None = None,
        step_limit: int = DEFAULT_STEP_LIMIT,
        cluster: ClusterSpec | None = None,
        step_memory_limit: int | None = None,
    ) -> None:
        self.task = Task() if task is None else task
        self.runner = StepRunner() if runner is None else runner
        self.request_ids = RequestIds()
        self.recorder = StepRecorder()
        self.step_counts = StepCounts()
        self.sessions: dict[str, MasterSession] = {}
        self._owns_runner = runner is None
        self._step_limit = step_limit
        self.step_memory_limit = memory_bytes() // 4 * 3 if step_memory_limit is None else step_memory_limit
        if self.step_memory_limit:
            running_step.set_limit(memory_bytes() // 10 * 9)
        self._cluster = cluster
        self._closed = False
        self._lock = threading.Lock()

    @property
    def has_cluster(self) -> bool:
        """Tell whether the server is a task of a cluster."""
        return self._cluster is not None

    def other_tasks(self, config: Any, target: str = "") -> tuple[dict[str, str], ClusterSpec | None]:
        """Return the tasks that a session would use besides its own, with their addresses, and its own cluster if any.

        Raises
        ------
        InvalidArgument
            For options that cannot be had.
        """
        options = SessionConfig.from_proto(config)
        own = self.task
        renamed = propagated_task(config.cluster_def, target, own.job_name, own.index)
        if renamed is None:
            cluster, others, mine = None, self._cluster, (own.job_name, own.index)
        else:
            cluster = others = ClusterSpec.from_proto(config.cluster_def)
            mine = renamed
        found = {}
        for job, tasks in (others.jobs if others is not None else {}).items():
            for index, address in tasks.items():
                spec = DeviceSpec(job, 0, index)
                if (job, index) != mine and options.admits(spec):
                    found[spec.task_name] = address
        return found, cluster

    def create_session(self, graph_def: Any, config: Any = None, target: str = "",
                       devices: Sequence[RemoteDevice] | None = None) -> tuple[str, int]:
        """Make a session.

        Parameters
        ----------
        graph_def : wire.GraphDef
            Kept, and not to be changed afterwards; may be empty.
        config : wire.ConfigProto, optional
        target : str
            What the client connected to, as it wrote it.
        devices : sequence of RemoteDevice, optional
            Of the other tasks that it is to use.

        Returns
        -------
        handle : str
        version : int
            0, the version of the graph.

        Raises
        ------
        InvalidArgument, NotFound
            For options that cannot be had, a graph that is not valid, or a device that is not there.
        Unimplemented
            If the session would use other tasks, and no devices of them are given.
        FailedPrecondition
            If the master is closed.
        """
        # Graphs, the compiler and their kind load with the first session: a quarter of a server's time to its start.
        from runtime.master.session import MasterSession

        config = wire.ConfigProto() if config is None else config
        options = SessionConfig.from_proto(config)
        own = self.task
        renamed = propagated_task(config.cluster_def, target, own.job_name, own.index)
        if devices is None:
            others, _ = self.other_tasks(config, target)
            if others:
                raise Unimplemented(
                    f"this session would run on {', '.join(others)} too: a session in the master's own process has "
                    f'that task alone. Connect to the server, or set ConfigProto.device_filters to ["{own.name}"]'
                )
        task = own if renamed is None else own.renamed(*renamed)
        kind: Callable[..., MasterSession] = MasterSession
        if devices:
            from runtime.master.cluster_session import ClusterSession

            # A filter may name devices of a task, too.
            kind = partial(ClusterSession, devices=[one for one in devices if options.admits_device(one.name)])
        session = kind(
            graph_def,
            options,
            task,
            self.runner,
            step_limit=self._step_limit,
            step_memory_limit=self.step_memory_limit,
            recorder=self.recorder,
            counts=self.step_counts,
        )
        session.target = target
        with self._lock:
            if self._closed:
                raise FailedPrecondition("the server is stopping; no session can be made")
            self.sessions[session.handle] = session
        logger.info("session created", extra={"session": session.handle, "nodes": len(session.graph.nodes)})
        return session.handle, session.version

    def session(self, handle: str) -> MasterSession:
        """Return a session.

        Raises
        ------
        Aborted
            If there is none of that handle.
        """
        found = self.sessions.get(handle)
        if found is None:
            raise Aborted(f"Session {handle} is not found.")
        return found

    def extend_session(self, handle: str, graph_def: Any, version: int) -> int:
        """Add to a session's graph and return its new version; see `MasterSession.extend`."""
        return self.session(handle).extend(graph_def, version)

    def close_session(self, handle: str) -> Future[None]:
        """Close a session: its steps are cancelled, and the handle is gone at once.

        Returns
        -------
        Future
            Done when no step of it runs any more; see `MasterSession.close`.

        Raises
        ------
        Aborted
            If there is none of that handle.
        """
        session = self.sessions.pop(handle, None)
        if session is None:
            raise Aborted(f"Session {handle} is not found. Possibly, this master has restarted.")
        logger.info("session closed", extra={"session": handle})
        return session.close()

    def reset(self, containers: tuple[str, ...] = ()) -> list[tuple[MasterSession, Future[None]]]:
        """Empty containers (the default ones when none is named) and close every session.

        Returns
        -------
        list of (MasterSession, Future)
            As `close_session`, for each session that was there.
        """
        with self._lock:
            sessions = list(self.sessions.values())
            self.sessions.clear()
        # Steps are cancelled before what they wait for is taken away: they end with CANCELLED, and not with what a
        # closed queue says.
        closing = [(session, session.close(CLOSED_BY_CLIENT)) for session in sessions]
        self.task.clear(containers)
        logger.info("reset", extra={"containers": ",".join(containers) or "default", "sessions": len(sessions)})
        return closing

    def list_devices(self, handle: str = "") -> tuple[Device, ...]:
        """Return the devices of a session, or of this task when no session is named.

        Raises
        ------
        InvalidArgument
            If there is no such session.
        """
        if not handle:
            return self.task.devices
        session = self.sessions.get(handle)
        if session is None:
            raise InvalidArgument(f"Session {handle} is not found. Possibly, this master has restarted.")
        return session.task.devices

    def close_all(self) -> list[tuple[MasterSession, Future[None]]]:
        """Refuse new sessions and close those there are, without waiting; see `reset` for what is returned."""
        with self._lock:
            self._closed = True
            sessions = list(self.sessions.values())
            self.sessions.clear()
        return [(session, session.close(SERVER_STOPPED)) for session in sessions]

    def close(self, wait_s: float = CLOSE_WAIT_S) -> None:
        """End every session, waiting `wait_s` seconds at most for their steps. Does nothing the second time."""
        for session, closing in self.close_all():
            wait_closed(session, closing, wait_s)
        if self._owns_runner:
            self.runner.close()

    def __enter__(self) -> Master:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def wait_closed(session: MasterSession, closing: Future[None], wait_s: float = CLOSE_WAIT_S) -> None:
    """Wait until a closing session runs nothing any more, or give it up after `wait_s` seconds."""
    try:
        closing.result(wait_s)
    except TimeoutError:
        session.abandon()
