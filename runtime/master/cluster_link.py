"""What a master asks of the other tasks of a cluster apart from steps: their devices, sessions, clean containers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.errors import DeadlineExceeded, Error, Unavailable
from runtime.cluster_spec import ClusterSpec
from runtime.graph.device_spec import parse
from runtime.master.cluster_session import RemoteDevice

if TYPE_CHECKING:
    from runtime.worker.channels import Connections

__all__ = ["ClusterLink"]

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_SAY_S = 10.0
_CLOSE_S = 10.0


class ClusterLink:
    """Calls of one master to the tasks of a session; everything belongs to the loop of `connections`.

    Parameters
    ----------
    connections : Connections

    Attributes
    ----------
    missing : dict of str to float
        Tasks that somebody waits for, with the time since when, on the clock of `time.monotonic`.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self.missing: dict[str, float] = {}

    async def find(self, tasks: Mapping[str, str]) -> list[RemoteDevice]:
        """Return the devices of tasks, given with their addresses, as soon as all of them are there.

        Raises
        ------
        Error
            What a task answers that is there and cannot say.
        """
        answers = await asyncio.gather(*(self._status(task, address) for task, address in tasks.items()),
                                       return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        found = []
        for task, answer in zip(tasks, answers, strict=True):
            for attributes in answer.device_attributes:  # type: ignore[union-attr]
                kind = parse(attributes.name)
                if kind is not None and kind.device_type is not None:
                    found.append(RemoteDevice(f"{task}/device:{kind.device_type}:{kind.device_id or 0}", attributes))
        return found

    async def _status(self, task: str, address: str) -> Any:
        """Ask a task for its devices until it answers; say from time to time that it is missing."""
        began = said = time.monotonic()
        try:
            while True:
                try:
                    answer = await self._connections.call(address, task, "GetStatus", b"", "its devices")
                except Unavailable:
                    self.missing.setdefault(task, began)
                    if time.monotonic() - said >= _SAY_S:
                        said = time.monotonic()
                        logger.warning("CreateSession still waiting for response from worker", extra={
                            "task": task, "address": address, "seconds": round(said - began, 1)})
                    await asyncio.sleep(_RETRY_S)
                else:
                    return wire.GetStatusResponse.FromString(answer)
        finally:
            self.missing.pop(task, None)

    async def open(self, handle: str, tasks: Mapping[str, str], config: Any, cluster: ClusterSpec | None, own_task: str
                   ) -> None:
        """Create worker sessions on tasks: all, or none and the first error.

        Parameters
        ----------
        cluster : ClusterSpec or None
            The session's own, when it brought one.
        """
        requests = {}
        for task in tasks:
            spec = parse(task)
            assert spec is not None
            request = wire.CreateWorkerSessionRequest(session_handle=handle, master_task=own_task)
            request.server_def.protocol = "grpc"
            request.server_def.job_name = spec.job or ""
            request.server_def.task_index = spec.task or 0
            request.isolate_session_state = config.isolate_session_state
            if cluster is not None:
                request.isolate_session_state = not config.experimental.share_session_state_in_clusterspec_propagation
                for job, addresses in cluster.jobs.items():
                    entry = request.server_def.cluster.job.add(name=job)
                    for index, address in addresses.items():
                        entry.tasks[index] = address
            requests[task] = request.SerializeToString()
        answers = await asyncio.gather(*(
            self._connections.call(tasks[task], task, "CreateWorkerSession", request, "a worker session")
            for task, request in requests.items()), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                await self.close(handle, tasks)
                raise answer

    async def close(self, handle: str, tasks: Mapping[str, str]) -> None:
        """Delete a session's worker sessions; what fails is logged."""
        request = wire.DeleteWorkerSessionRequest(session_handle=handle).SerializeToString()
        await self._tell(tasks, "DeleteWorkerSession", request, "the end of a session")

    async def clean_all(self, containers: Iterable[str], tasks: Mapping[str, str]) -> None:
        """Have tasks empty containers."""
        request = wire.CleanupAllRequest(container=containers).SerializeToString()
        await self._tell(tasks, "CleanupAll", request, "empty containers")

    async def _tell(self, tasks: Mapping[str, str], method: str, request: bytes, what: str) -> None:
        async def tell(task: str, address: str) -> None:
            try:
                await asyncio.wait_for(self._connections.call(address, task, method, request, what), _CLOSE_S)
            except (Error, TimeoutError) as error:
                reason = error if isinstance(error, Error) else DeadlineExceeded(f"no answer in {_CLOSE_S:g} s")
                logger.info("a task did not answer", extra={"task": task, "method": method, "reason": str(reason)})

        await asyncio.gather(*(tell(task, address) for task, address in tasks.items()))
