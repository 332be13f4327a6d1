"""runtime.v1.Observer.GetStatus: what the tasks of a cluster are doing right now, for whoever asks one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext.errors import DeadlineExceeded, Error, InvalidArgument, Unimplemented

if TYPE_CHECKING:
    from runtime.edge.plane import Handler
    from runtime.observe.status import (
        Call,
        Held,
        Opening,
        RoadStatus,
        SessionStatus,
        StepStatus,
        TaskStatus,
        Wait,
        WorkerSessionStatus,
    )

__all__ = ["StatusService", "task_message"]

DEFAULT_TIMEOUT_S = 3.0
MAX_TIMEOUT_S = 60.0
_METHOD = "/runtime.v1.Observer/GetStatus"
_WORKER_METHOD = "/tensorflow.WorkerService/GetStatus"

Ask = Callable[[str, str, bytes, float], Awaitable[bytes]]
"""``await ask(address, path, request, timeout_s)``: the answer of another server."""


class StatusService:
    """The handler of GetStatus.

    Parameters
    ----------
    status : callable
        ``await status()`` is the `TaskStatus` of this task.
    others : mapping of str to str
        The other tasks of this server's cluster, with their addresses.
    ask : Ask
        How they are called.

    Notes
    -----
    Concurrency: everything runs on one event loop.
    """

    def __init__(self, status: Callable[[], Awaitable[TaskStatus]], others: Mapping[str, str], ask: Ask) -> None:
        self._status = status
        self._others = others
        self._ask = ask

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {"runtime.v1.Observer": {"GetStatus": self.get_status}}

    async def get_status(self, request: bytes, context: Any) -> bytes:
        """GetStatus: of this task and, unless it alone is meant, of all others at the same time."""
        try:
            message = wire.runtime_v1.StatusRequest.FromString(request)
        except DecodeError as error:
            raise InvalidArgument(f"the request is no runtime.v1.StatusRequest message: {error}") from None
        timeout_s = message.timeout_s or DEFAULT_TIMEOUT_S
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise InvalidArgument(f"timeout_s must be more than 0 and at most {MAX_TIMEOUT_S:g}, got {timeout_s:g}")
        response = wire.runtime_v1.StatusResponse()
        response.task.append(task_message(await self._status()))
        if not message.only_this_task:
            response.task.extend(await asyncio.gather(*(
                self._other(task, address, timeout_s) for task, address in self._others.items())))
        return response.SerializeToString()

    async def _other(self, task: str, address: str, timeout_s: float) -> Any:
        """Return what another task says of itself, or why it says nothing."""
        told = wire.runtime_v1.TaskStatus()
        request = wire.runtime_v1.StatusRequest(only_this_task=True).SerializeToString()
        try:
            try:
                answer = await self._ask(address, _METHOD, request, timeout_s)
                told = wire.runtime_v1.StatusResponse.FromString(answer).task[0]
            except Unimplemented:
                answer = await self._ask(address, _WORKER_METHOD, b"", timeout_s)
                for device in wire.GetStatusResponse.FromString(answer).device_attributes:
                    told.device.add(name=device.name, device_type=device.device_type, incarnation=device.incarnation)
                told.error = "a server of another kind: it tells its devices alone"
        except DeadlineExceeded:
            told.error = f"no answer within {timeout_s:g} s"
        except (Error, DecodeError, IndexError) as error:
            told.error = f"does not answer: {error}"
        told.task, told.address = task, address
        return told


def task_message(status: TaskStatus) -> Any:
    """Return the message of a task's status."""
    message = wire.runtime_v1.TaskStatus(
        task=status.task,
        address=status.address,
        pid=status.pid,
        version=status.version,
        seconds=status.seconds,
        rss_bytes=status.rss_bytes,
        step_bytes=status.step_bytes,
        opening=map(_opening, status.openings),
        session=map(_session, status.sessions),
        worker_session=map(_worker_session, status.worker_sessions),
        call=map(_call, status.calls),
        num_calls=status.num_calls,
        wanted=map(_wait, status.wanted),
        num_wanted=status.num_wanted,
        road=map(_road, status.roads),
    )
    if status.held is not None:
        message.held.MergeFrom(_held(status.held))
    for name, kind, incarnation in status.devices:
        message.device.add(name=name, device_type=kind, incarnation=incarnation)
    return message


def _wait(wait: Wait) -> Any:
    return wire.runtime_v1.Wait(what=wait.what, seconds=wait.seconds, node=wait.node)


def _opening(opening: Opening) -> Any:
    return wire.runtime_v1.Opening(what=opening.what, target=opening.target, seconds=opening.seconds,
                                   wait=map(_wait, opening.waits))


def _session(session: SessionStatus) -> Any:
    return wire.runtime_v1.SessionStatus(
        handle=session.handle,
        seconds=session.seconds,
        target=session.target,
        is_isolated=session.is_isolated,
        graph_version=session.graph_version,
        num_nodes=session.num_nodes,
        num_compiled=session.num_compiled,
        task=session.tasks,
        num_steps=session.num_steps,
        step=map(_step, session.steps),
    )


def _worker_session(session: WorkerSessionStatus) -> Any:
    message = wire.runtime_v1.WorkerSessionStatus(
        handle=session.handle,
        seconds=session.seconds,
        master=session.master,
        is_isolated=session.is_isolated,
        num_steps=session.num_steps,
        step=map(_step, session.steps),
    )
    for graph in session.graphs:
        message.graph.add(handle=graph.handle, num_nodes=graph.num_nodes)
    return message


def _step(step: StepStatus) -> Any:
    return wire.runtime_v1.RunningStep(
        step_id=step.step_id,
        seconds=step.seconds,
        feed=step.feeds,
        fetch=step.fetches,
        target=step.targets,
        graph_handle=step.graph_handle,
        held_bytes=step.held_bytes,
        peak_bytes=step.peak_bytes,
        is_cancelled=step.is_cancelled,
        wait=map(_wait, step.waits),
    )


def _road(road: RoadStatus) -> Any:
    return wire.runtime_v1.RoadStatus(direction=road.direction, road=road.road, transfers=road.transfers,
                                      bytes=road.bytes, seconds=road.seconds, copies=road.copies)


def _held(held: Held) -> Any:
    return wire.runtime_v1.HeldStatus(
        num_threads=held.num_threads,
        num_descriptors=held.num_descriptors,
        num_rendezvous=held.num_rendezvous,
        num_lent=held.num_lent,
        num_borrowed=held.num_borrowed,
        used_bytes=held.used_bytes,
        idle_bytes=held.idle_bytes,
    )


def _call(call: Call) -> Any:
    return wire.runtime_v1.CallStatus(task=call.task, address=call.address, what=call.what, seconds=call.seconds,
                                      silent_seconds=call.silent_s)
