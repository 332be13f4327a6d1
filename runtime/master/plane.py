"""The graph plane of a server: its master and its worker, on one task."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runtime._ext import running_step
from runtime.cluster_spec import ClusterSpec
from runtime.edge.auth import is_local
from runtime.edge.limits import Account
from runtime.edge.peer_access import peer_access
from runtime.graph.device_spec import DeviceSpec
from runtime.machine import num_descriptors, num_threads, resident_bytes
from runtime.master.master import Master
from runtime.master.service import MasterService
from runtime.master.task import Task
from runtime.observe.status import MAX_CALLS, Call, Held, Opening, RoadStatus, TaskStatus, Wait
from runtime.observe.status_service import StatusService
from runtime.step.files import FileAccess
from runtime.transport.step_tensors import StepTensors
from runtime.worker.rpc_log import RpcLog
from runtime.worker.service import WorkerService

if TYPE_CHECKING:
    from runtime.config import Settings
    from runtime.edge.plane import Handler
    from runtime.master.session_tasks import SessionTasks
    from runtime.observe.metrics import Family
    from runtime.worker.channels import Connections
    from runtime.worker.worker import Worker

__all__ = ["GraphPlane", "create_plane"]


class GraphPlane:
    """Both services of one task; see `runtime.edge.plane.Plane`.

    Parameters
    ----------
    master : Master
        Its task and its step threads are the worker's, too.
    cluster : ClusterSpec or None
        The server's own.
    settings : Settings
        Say where the server listens, and how other tasks are called.
    """

    def __init__(self, master: Master, cluster: ClusterSpec | None, settings: Settings) -> None:
        self._tensors = StepTensors(settings.max_bytes_in_flight)
        self.master = MasterService(master, self.session_tasks, self._tensors)
        self._cluster = cluster
        self._settings = settings
        # Read now: a file that is wrong is to be told at the start.
        self._access = None if cluster is None else peer_access(settings)
        self._account = Account(settings.max_bytes_in_flight)
        self._log = RpcLog()
        self._connections: Connections | None = None
        self._session_tasks: SessionTasks | None = None
        self.worker = WorkerService(master.task, self._make_worker, self._log, self._tensors,
                                    master.step_memory_limit, settings.worker_session_idle_s)
        self._address = settings.listen
        self._began = time.monotonic()
        self._status = StatusService(self.status, self._other_tasks(), self._ask)

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        services = {**self.master.services(), **self.worker.services(), **self._tensors.services()}
        for name, methods in self._status.services().items():
            services[name] = {**services.get(name, {}), **methods}
        return services

    async def start(self) -> None:
        """Get ready; the worker is made when a master first calls it."""
        self._tensors.start()
        await self.master.start()

    def drain(self) -> None:
        """Let those go who wait here for steps, or tensors, that do not come any more."""
        self.master.drain()
        self.worker.drain()
        self._tensors.drain()

    async def stop(self, grace: float) -> None:
        """Cancel every step, close every session and every channel."""
        await self.worker.stop()
        await self._tensors.stop()
        if self._connections is not None:
            await self._connections.close()
            self._account.close()
        await self.master.stop(grace)

    def session_tasks(self) -> SessionTasks:
        """Return what opens sessions on other tasks, made now if nobody asked for it before."""
        if self._session_tasks is None:
            from runtime.master.session_tasks import SessionTasks

            worker = self.worker.worker
            assert self._connections is not None
            self._session_tasks = SessionTasks(self.master.master, worker, self._connections)
        return self._session_tasks

    async def status(self) -> TaskStatus:
        """Return what the task is doing right now."""
        calls = () if self._connections is None else self._connections.status()
        openings = () if self._session_tasks is None else self._session_tasks.link.openings()
        # Thousands of steps may be under way.
        return await self.master.in_thread(lambda: self._snapshot(calls, openings))

    async def metrics(self) -> list[Family]:
        """Return what the task has counted and holds; see `runtime.observe.metrics`."""
        from runtime.master.metrics import graph_families

        return graph_families(self.master.master, self.worker.made)

    def _snapshot(self, calls: Sequence[Call], openings: tuple[Opening, ...]) -> TaskStatus:
        import runtime
        from runtime.transport.borrower import num_borrowed
        from runtime.transport.lender import num_lent
        from runtime.transport.roads import totals
        from runtime.transport.segments import held_bytes

        master = self.master.master
        worker = self.worker.made
        wanted = () if worker is None else worker.wanted()
        return TaskStatus(
            master.task.name,
            self._address,
            os.getpid(),
            runtime.__version__,
            time.monotonic() - self._began,
            tuple((device.name, device.device_type, device.incarnation) for device in master.task.devices),
            resident_bytes(),
            running_step.held_bytes(),
            openings,
            tuple(session.status() for session in list(master.sessions.values())),
            () if worker is None else worker.status(),
            tuple(calls[:MAX_CALLS]),
            len(calls),
            tuple(Wait(f"tensor {key} of step {step_id}", seconds) for step_id, key, seconds in wanted[:MAX_CALLS]),
            len(wanted),
            tuple(RoadStatus(direction, road, found.transfers, found.bytes, found.seconds, found.copies)
                  for direction, by_road in totals().items() for road, found in by_road.items()),
            Held(num_threads(), num_descriptors(), 0 if worker is None else worker.num_rendezvous, num_lent(),
                 num_borrowed(), *held_bytes()),
        )

    def _other_tasks(self) -> dict[str, str]:
        if self._cluster is None:
            return {}
        tasks = {DeviceSpec(job, 0, index).task_name: address
                 for job, addresses in self._cluster.jobs.items() for index, address in addresses.items()}
        tasks.pop(self.master.master.task.name, None)
        return tasks

    async def _ask(self, address: str, path: str, request: bytes, timeout_s: float) -> bytes:
        if self._connections is None:
            self.session_tasks()
        assert self._connections is not None
        return await self._connections.ask(address, path, request, timeout_s)

    def _make_worker(self) -> Worker:
        from runtime.worker.channels import Connections
        from runtime.worker.peers import ClusterPeers
        from runtime.worker.worker import Worker

        master = self.master.master
        self._account.open()
        connections = self._connections = Connections(
            asyncio.get_running_loop(), self._settings.peer_timeout_s, self._log,
            self._access or peer_access(self._settings), self._account)
        return Worker(
            master.task,
            master.runner,
            self._cluster,
            lambda cluster: ClusterPeers(connections, cluster, master.runner.hand_over, master.step_memory_limit),
            master.step_memory_limit,
        )


def file_access(settings: Settings) -> FileAccess:
    """Return which files the graphs of a server's clients may touch."""
    allow = settings.files_allow
    if allow == "auto":
        allow = "all" if is_local(settings.listen) else ()
    return FileAccess(None if isinstance(allow, str) else allow)


def create_plane(settings: Settings) -> GraphPlane:
    """Return the graph plane of a server; see `runtime.edge.plane`."""
    cluster = None if settings.cluster is None else ClusterSpec.parse(settings.cluster)
    task = Task(settings.job_name, settings.task_index, files=file_access(settings))
    master = Master(
        task,
        step_limit=settings.cached_steps,
        cluster=cluster,
        step_memory_limit=settings.step_memory_limit,
    )
    return GraphPlane(master, cluster, settings)
