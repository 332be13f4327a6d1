"""Sessions of one master on the other tasks of a cluster: opened, and closed again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.cluster_spec import ClusterSpec
from runtime.devices.attributes import device_attributes
from runtime.master.cluster_link import ClusterLink
from runtime.master.members import OtherTask, OwnTask
from runtime.master.transfers import OtherTransfers, OwnTransfers

if TYPE_CHECKING:
    from runtime.master.cluster_session import RemoteDevice
    from runtime.master.master import Master
    from runtime.worker.channels import Connections
    from runtime.worker.worker import Worker

__all__ = ["SessionTasks"]


class SessionTasks:
    """What a master has on other tasks; everything belongs to the loop of `connections`.

    Parameters
    ----------
    master : Master
    worker : Worker
        Of the same task.
    connections : Connections

    Attributes
    ----------
    link : ClusterLink
    """

    def __init__(self, master: Master, worker: Worker, connections: Connections) -> None:
        self.link = ClusterLink(connections)
        self._master = master
        self._worker = worker
        self._connections = connections
        self._open: dict[str, Mapping[str, str]] = {}
        self._own_transfers = OwnTransfers(connections.log)
        self._transfers: dict[str, OtherTransfers] = {}  # by address: all sessions share a task's log

    async def find(self, tasks: Mapping[str, str], what: str, target: str = "", timeout_s: float | None = None
                   ) -> list[RemoteDevice]:
        """Return the devices of tasks; see `ClusterLink.find`."""
        return await self.link.find(tasks, what, target, timeout_s)

    async def open(self, handle: str, tasks: Mapping[str, str], config: Any, cluster: ClusterSpec | None) -> None:
        """Open a session that the master has made on its tasks.

        Raises
        ------
        Error
            Of the first task that refuses it.
        """
        session: Any = self._master.session(handle)
        kept = wire.ConfigProto()
        kept.CopyFrom(config)
        devices = [*map(device_attributes, session.task.devices),
                   *(device.attributes for device in session.remote_devices)]
        await self.link.open(handle, tasks, kept, cluster, session.task.name, session.task.devices[0].incarnation,
                             devices)
        self._open[handle] = tasks
        leader = config.experimental.collective_group_leader
        own = self._worker.adopt_session(handle, session.task, session.state, cluster, leader)
        session.members[own.task.name] = OwnTask(self._worker, own, session.runner.hand_over, self._own_transfers)
        for task, address in tasks.items():
            transfers = self._transfers.get(address)
            if transfers is None:
                transfers = self._transfers[address] = OtherTransfers(self._connections, task, address)
            session.members[task] = OtherTask(self._connections, task, address, handle, kept, transfers)

    def join_collectives(self, handle: str, config: Any, cluster: ClusterSpec | None) -> None:
        """Let the steps of a session that has this task alone take part in collectives with others."""
        session: Any = self._master.session(handle)
        self._worker.join_collectives(session.state, session.task, cluster, config.experimental.collective_group_leader)

    async def close(self, handle: str) -> None:
        """Close a session on its tasks; one that was never open there is fine."""
        tasks = self._open.pop(handle, None)
        if tasks is not None:
            self._worker.delete_session(handle)
            await self.link.close(handle, tasks)

    async def clean_all(self, containers: Iterable[str], tasks: Mapping[str, str]) -> None:
        """Have tasks empty containers."""
        await self.link.clean_all(containers, tasks)
