"""The graph plane of a server: its master and its worker, on one task."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from runtime.cluster_spec import ClusterSpec
from runtime.edge.auth import is_local
from runtime.master.master import Master
from runtime.master.service import MasterService
from runtime.master.task import Task
from runtime.step.files import FileAccess
from runtime.worker.rpc_log import RpcLog
from runtime.worker.service import WorkerService

if TYPE_CHECKING:
    from runtime.config import Settings
    from runtime.edge.plane import Handler
    from runtime.master.session_tasks import SessionTasks
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
    peer_timeout_s : float
        See `runtime.worker.channels.Connections`.
    """

    def __init__(self, master: Master, cluster: ClusterSpec | None, peer_timeout_s: float) -> None:
        self.master = MasterService(master, self.session_tasks)
        self._cluster = cluster
        self._peer_timeout_s = peer_timeout_s
        self._log = RpcLog()
        self._connections: Connections | None = None
        self._session_tasks: SessionTasks | None = None
        self.worker = WorkerService(master.task, self._make_worker, self._log)

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {**self.master.services(), **self.worker.services()}

    async def start(self) -> None:
        """Get ready; the worker is made when a master first calls it."""
        await self.master.start()

    def drain(self) -> None:
        """Let those go who wait here for steps, or tensors, that do not come any more."""
        self.master.drain()
        self.worker.drain()

    async def stop(self, grace: float) -> None:
        """Cancel every step, close every session and every channel."""
        await self.worker.stop()
        if self._connections is not None:
            await self._connections.close()
        await self.master.stop(grace)

    def session_tasks(self) -> SessionTasks:
        """Return what opens sessions on other tasks, made now if nobody asked for it before."""
        if self._session_tasks is None:
            from runtime.master.session_tasks import SessionTasks

            worker = self.worker.worker
            assert self._connections is not None
            self._session_tasks = SessionTasks(self.master.master, worker, self._connections)
        return self._session_tasks

    def _make_worker(self) -> Worker:
        from runtime.worker.channels import ClusterPeers, Connections
        from runtime.worker.worker import Worker

        master = self.master.master
        connections = self._connections = Connections(asyncio.get_running_loop(), self._peer_timeout_s, self._log)
        return Worker(
            master.task,
            master.runner,
            self._cluster,
            lambda cluster: ClusterPeers(connections, cluster),
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
    return GraphPlane(master, cluster, settings.peer_timeout_s)
