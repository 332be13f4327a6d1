"""What a master asks of the other tasks of a cluster apart from steps: their devices, sessions, clean containers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.errors import DeadlineExceeded, Error, Unavailable
from runtime.cluster_spec import ClusterSpec
from runtime.devices.device import signed
from runtime.graph.device_spec import parse
from runtime.master.cluster_session import RemoteDevice
from runtime.observe.status import Opening, Wait

if TYPE_CHECKING:
    from runtime.worker.channels import Connections

__all__ = ["ClusterLink"]

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
# Tasks of one cluster start within a second of each other as a rule: only what takes longer is worth a line.
_FIRST_SAY_S = 1.0
_SAY_S = 10.0
# How much before the end of the client's patience the reason is told.
_EARLY_S = 0.25
_EARLY_SHARE = 0.1
_CLOSE_S = 10.0


@dataclass(eq=False)
class _Missing:
    """A task that is awaited.

    Attributes
    ----------
    address : str
    answer : str
        How the last question for its devices ended.
    """

    address: str
    answer: str = "no answer yet"


class _Search:
    """A call that waits until all of its tasks are there."""

    def __init__(self, what: str, target: str, tasks: Mapping[str, str]) -> None:
        self.what = what
        self.target = target
        self.began = time.monotonic()
        self.missing = {task: _Missing(address) for task, address in tasks.items()}

    def status(self) -> Opening:
        """Return whom the call waits for."""
        now = time.monotonic()
        waits = tuple(Wait(f"the devices of {task} at {one.address} ({one.answer})", now - self.began)
                      for task, one in list(self.missing.items()))
        return Opening(self.what, self.target, now - self.began, waits)


class ClusterLink:
    """Calls of one master to the tasks of a session; everything belongs to the loop of `connections`.

    Parameters
    ----------
    connections : Connections

    Notes
    -----
    A task that is not there yet is asked again every second, for as long as it takes: a cluster's tasks start in any
    order. Who waits for whom is told in the log and by `openings`.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._searches: set[_Search] = set()

    def openings(self) -> tuple[Opening, ...]:
        """Return the calls that wait for tasks right now, the oldest first."""
        return tuple(sorted((search.status() for search in self._searches), key=lambda one: -one.seconds))

    async def find(self, tasks: Mapping[str, str], what: str, target: str = "", timeout_s: float | None = None
                   ) -> list[RemoteDevice]:
        """Return the devices of tasks, given with their addresses, as soon as all of them are there.

        Parameters
        ----------
        tasks : mapping of str to str
        what, target : str
            For which call, and what its client connected to.
        timeout_s : float, optional
            Seconds that the call has.

        Raises
        ------
        DeadlineExceeded
            If tasks are missing when the time is nearly up; names them and how they were last missed. The client's own
            deadline tells nothing of that, so this one comes a little earlier.
        Error
            What a task answers that is there and cannot say.
        """
        search = _Search(what, target, tasks)
        self._searches.add(search)
        asking = {task: asyncio.ensure_future(self._status(search, task, address)) for task, address in tasks.items()}
        try:
            await self._wait(search, list(asking.values()), timeout_s)
        finally:
            self._searches.discard(search)
            for one in asking.values():
                one.cancel()
        found = []
        for task, answered in asking.items():
            for attributes in answered.result().device_attributes:
                kind = parse(attributes.name)
                if kind is not None and kind.device_type is not None:
                    found.append(RemoteDevice(f"{task}/device:{kind.device_type}:{kind.device_id or 0}", attributes))
        return found

    async def _wait(self, search: _Search, asking: list[asyncio.Future[Any]], timeout_s: float | None) -> None:
        """Wait for all answers; say once soon, and then from time to time, which are missing."""
        ends = None if timeout_s is None else search.began + timeout_s - min(_EARLY_S, _EARLY_SHARE * timeout_s)
        says = search.began + _FIRST_SAY_S
        while True:
            now = time.monotonic()
            _, missing = await asyncio.wait(asking, timeout=max(0.0, (says if ends is None else min(says, ends)) - now))
            if not missing:
                return
            now = time.monotonic()
            if ends is not None and now >= ends:
                awaited = "; ".join(wait.what for wait in search.status().waits)
                raise DeadlineExceeded(f"{search.what} waited {now - search.began:.1f} s for {awaited}")
            if now >= says:
                says = now + _SAY_S
                logger.warning("%s still waiting for response from worker", search.what, extra={
                    "tasks": ", ".join(search.missing), "seconds": round(now - search.began, 1),
                    **({"target": search.target} if search.target else {})})

    async def _status(self, search: _Search, task: str, address: str) -> Any:
        """Ask a task for its devices until it answers."""
        while True:
            try:
                answer = await self._connections.call(address, task, "GetStatus", b"", "its devices")
            except Unavailable as error:
                search.missing[task].answer = error.message.partition("\n")[0]
                await asyncio.sleep(_RETRY_S)
            else:
                search.missing.pop(task, None)
                return wire.GetStatusResponse.FromString(answer)

    async def open(self, handle: str, tasks: Mapping[str, str], config: Any, cluster: ClusterSpec | None,
                   own_task: str, incarnation: int, devices: Sequence[Any] = ()) -> None:
        """Create worker sessions on tasks: all, or none and the first error.

        Parameters
        ----------
        cluster : ClusterSpec or None
            The session's own, when it brought one.
        own_task : str
        incarnation : int
            Of the master's first device, unsigned: tasks tell by it which process of the master has made a session.
        devices : sequence of wire.DeviceAttributes
            Those of the session, told to all tasks when its config says so.
        """
        requests = {}
        for task in tasks:
            spec = parse(task)
            assert spec is not None
            request = wire.CreateWorkerSessionRequest(session_handle=handle, master_task=own_task,
                                                      master_incarnation=signed(incarnation))
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
            if config.share_cluster_devices_in_session or config.experimental.share_cluster_devices_in_session:
                request.cluster_device_attributes.extend(devices)
            requests[task] = request.SerializeToString()
        answers = await asyncio.gather(*(
            self._connections.call(tasks[task], task, "CreateWorkerSession", request, "a worker session")
            for task, request in requests.items()), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                await self.close(handle, tasks)
                raise answer

    async def close(self, handle: str, tasks: Mapping[str, str]) -> None:
        """Delete a session's worker sessions; a task that does not answer in a few seconds is told later."""
        request = wire.DeleteWorkerSessionRequest(session_handle=handle).SerializeToString()
        told = [self._connections.owed.deliver(address, task, "DeleteWorkerSession", request, "the end of a session")
                for task, address in tasks.items()]
        if told:
            await asyncio.wait(told, timeout=_CLOSE_S)

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
