"""Collectives as the kernels of a session see them: who leads, how members are reached, and one run of a collective."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from runtime import wire
from runtime._ext.errors import DeadlineExceeded, Error, FailedPrecondition, Internal, InvalidArgument
from runtime.devices.attributes import device_attributes
from runtime.dtypes import to_numpy
from runtime.worker.collectives.algorithms import (
    Piece,
    Wanted,
    broadcast,
    final_of,
    merge_of,
    ring_gather,
    ring_reduce,
    subdivisions,
)
from runtime.worker.collectives.groups import BROADCAST, GATHER, REDUCE, Group
from runtime.worker.collectives.messages import content_of

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.dtypes import DataType
    from runtime.master.task import Task
    from runtime.worker.collectives.hub import Collectives

__all__ = ["CollectiveCall", "SessionCollectives"]

Done = Callable[[Any, "BaseException | None"], None]
# From here on a step's thread does the arithmetic on what has come, and not the one that brought it.
_LARGE_BYTES = 1 << 16


class Calls(Protocol):
    """The other tasks of a cluster. Safe from several threads."""

    def call(self, task: str, method: str, request: bytes, what: str,
             done: Callable[[bytes | None, BaseException | None], None]) -> Callable[[], None]:
        """Call a method of the WorkerService of a task; returns what gives the call up."""


@dataclass(frozen=True, slots=True)
class CollectiveCall:
    """One run of a collective.

    Attributes
    ----------
    kind : int
        REDUCE, BROADCAST or GATHER.
    name, device : str
        Of the node.
    group_key, group_size, instance_key : int
    datatype : DataType
    shape : tuple of int
        Of the input; of the tensor that is received, where there is none.
    is_source : bool
        Of a broadcast.
    merge, final : str
        Of a reduction.
    offsets : tuple of int
        Of a reduction's subdivisions; none to have them chosen.
    most_subdivisions : int
        When they are chosen: per device; see `subdivisions`.
    timeout_s : float
        0 for none.
    is_of_step : bool
        Whether the members agree anew in each step, as they do where keys are inputs.
    where : str
        Frame and iteration.
    """

    kind: int
    name: str
    device: str
    group_key: int
    group_size: int
    instance_key: int
    datatype: DataType
    shape: tuple[int, ...]
    where: str
    is_source: bool = False
    merge: str = "Add"
    final: str = "Id"
    offsets: tuple[int, ...] = ()
    most_subdivisions: int = -1
    timeout_s: float = 0.0
    is_of_step: bool = False

    @property
    def agreed_shape(self) -> tuple[int, ...]:
        """Return the shape that members compare: of the result."""
        if self.kind == GATHER:
            return (self.group_size * self.shape[0], *self.shape[1:])
        return self.shape


class SessionCollectives:
    """The collectives of one session on one task.

    Parameters
    ----------
    hub : Collectives
        The server's.
    task : Task
        By the name that it has in the session.
    calls : Calls or None
        The other tasks of its cluster.
    leader : str
        Name of the task that brings groups together.
    """

    def __init__(self, hub: Collectives, task: Task, calls: Calls | None, leader: str) -> None:
        self.hub = hub
        self.task = task
        self.calls = calls
        self.leader = leader or task.name

    @property
    def _leads(self) -> bool:
        return self.leader == self.task.name

    def start(self, step: StepContext, call: CollectiveCall, value: Any, done: Done) -> None:
        """Run a collective; ``done(result, error)`` is called exactly once, from any thread."""
        _Run(self, step, call, value, done).start()

    def ask(self, task: str, method: str, request: bytes, what: str,
            done: Callable[[bytes | None, BaseException | None], None]) -> Callable[[], None]:
        """Call another task."""
        if self.calls is None:
            done(None, FailedPrecondition(f"{what} is to come from {task}, and this server knows no other task"))
            return _nothing
        return self.calls.call(task, method, request, what, done)

    # Step numbers

    def step_id(self, key: int) -> int | None:
        """Return the number of the next step of a graph key, or None before `ask_step_id`."""
        return self.hub.sequences.get(key)

    def ask_step_id(self, key: int, done: Callable[[BaseException | None], None]) -> None:
        """Have the leader say the number of the next step; ``done(error)`` is called once."""
        if self._leads:
            self.hub.sequences.make([key])
            done(None)
            return

        def answered(answer: bytes | None, error: BaseException | None) -> None:
            if answer is not None:
                for entry in wire.GetStepSequenceResponse.FromString(answer).step_sequence:
                    self.hub.sequences.set(entry.graph_key, entry.next_step_id)
                if self.hub.sequences.get(key) is None:
                    error = Internal(f"{self.leader} did not say the number of the next step of graph {key}")
            done(error)

        request = wire.GetStepSequenceRequest(graph_key=[key]).SerializeToString()
        self.ask(self.leader, "GetStepSequence", request, "the number of a step with collectives", answered)

    def retire(self, key: int, step_id: int, failed: bool) -> None:
        """Go on to the next number; what is left of the step is forgotten."""
        if self._leads:
            self.hub.sequences.advance(key, step_id)
        else:
            self.hub.sequences.retire(key, step_id, failed)

    def forget_step(self, step_id: int) -> None:
        """Let go of what is left of a step that has ended, when it had collectives."""
        if self.hub.holds(step_id):
            self.hub.clean(step_id)

    # Groups and instances

    def join_group(self, call: CollectiveCall, done: Callable[[Group | None, BaseException | None], None]
                   ) -> Callable[[], None]:
        """Join a group and wait until it is complete."""
        found = self.hub.known_groups.get(call.group_key)
        if found is not None and len(found.members) == call.group_size and any(
                member.name == call.device for member in found.members):
            done(found, None)
            return _nothing
        device = self._attributes(call.device)

        def complete(group: Group | None, error: BaseException | None) -> None:
            if group is not None:
                self.hub.known_groups[call.group_key] = group
            done(group, error)

        if self._leads:
            return self.hub.groups.join(call.group_key, call.group_size, device.device_type, device, complete)

        def answered(answer: bytes | None, error: BaseException | None) -> None:
            if answer is None:
                complete(None, error)
                return
            message = wire.CompleteGroupResponse.FromString(answer)
            group = Group(message.group_key, message.device_type, tuple(message.device_attributes))
            if message.group_key != call.group_key or len(group.members) != call.group_size:
                complete(None, Internal(f"{self.leader} answered with group {message.group_key} of "
                                        f"{len(group.members)} members; asked was for group {call.group_key} of "
                                        f"{call.group_size}"))
            else:
                complete(group, None)

        request = wire.CompleteGroupRequest(group_key=call.group_key, group_size=call.group_size,
                                            device_type=device.device_type, collective_type=call.kind,
                                            device_attributes=device).SerializeToString()
        return self.ask(self.leader, "CompleteGroup", request, f"the members of group {call.group_key}", answered)

    def _attributes(self, name: str) -> Any:
        for device in self.task.devices:
            if device.name == name:
                return device_attributes(device)
        raise InvalidArgument(f"{name} is no device of {self.task.name}")

    def join_instance(self, call: CollectiveCall, group: Group, step_id: int,
                      done: Callable[[int, BaseException | None], None]) -> Callable[[], None]:
        """Agree with the others on what is done; ``done(source_rank, error)``."""
        place = (call.group_key, call.instance_key, call.device)
        about = (group, call.kind, call.datatype, call.shape, call.is_source)
        is_open = call.kind == BROADCAST and call.is_of_step  # another step may have another source
        known = self.hub.known_instances.get(place)
        if known is not None and known[0] == about and not is_open:
            done(known[1], None)
            return _nothing

        def found(source: int, error: BaseException | None) -> None:
            if error is None:
                self.hub.known_instances[place] = (about, source)
            done(source, error)

        if self._leads:
            return self.hub.instances.join(group, call.instance_key, call.kind, int(call.datatype), call.agreed_shape,
                                           call.device, call.is_source, step_id if call.is_of_step else 0, found)

        def answered(answer: bytes | None, error: BaseException | None) -> None:
            if answer is None:
                found(-1, error)
            else:
                found(wire.CompleteInstanceResponse.FromString(answer).source_rank, None)

        request = wire.CompleteInstanceRequest(
            name=call.name, type=call.kind, data_type=int(call.datatype), group_key=call.group_key,  # type: ignore[arg-type]
            group_size=call.group_size, instance_key=call.instance_key, device_type=group.device_type,
            subdiv_offset=call.offsets, device=call.device, is_source=call.is_source,
            step_id=step_id if call.is_of_step else 0)
        for size in call.agreed_shape:
            request.shape.dim.add(size=size)
        return self.ask(self.leader, "CompleteInstance", request.SerializeToString(),
                        f"the other members of collective {call.instance_key}", answered)


class _Run:
    """One run of a collective on one member."""

    def __init__(self, owner: SessionCollectives, step: StepContext, call: CollectiveCall, value: Any, done: Done
                 ) -> None:
        self._owner = owner
        self._step = step
        self._call = call
        self._value = value
        self._done = done
        self._ended = False
        self._give_ups: list[Callable[[], None]] = []  # of what was begun; without effect on what has ended
        self._lock = threading.Lock()
        self._token: Any = None
        self._timer: threading.Timer | None = None
        self._pieces: list[Piece] = []
        self._results: list[Any] = []
        self._open = 0
        self._group: Group | None = None
        self._what = "its group"

    def start(self) -> None:
        call = self._call
        self._token = self._step.on_cancel(self._cancelled, lambda: f"collective {call.instance_key}: {self._what}")
        if call.timeout_s > 0:
            self._timer = threading.Timer(call.timeout_s, self._late)
            self._timer.daemon = True
            self._timer.start()
        self._wait(lambda: self._owner.join_group(call, self._joined))

    def _wait(self, begin: Callable[[], Callable[[], None]]) -> None:
        """Begin something that may be given up."""
        if self._ended:
            return
        try:
            give_up = begin()
        except Exception as error:
            self._fail(error)
        else:
            self._keep(give_up)

    def _keep(self, give_up: Callable[[], None]) -> None:
        """Note what gives something up that was begun; do so when the run has ended meanwhile."""
        with self._lock:
            if not self._ended:
                self._give_ups.append(give_up)
                return
        give_up()

    def _joined(self, group: Group | None, error: BaseException | None) -> None:
        if group is None:
            self._fail(error or Internal("a group came without members"))
            return
        self._group = group
        self._what = "the agreement of its members"
        self._wait(lambda: self._owner.join_instance(self._call, group, self._step.step_id, self._agreed))

    def _agreed(self, source: int, error: BaseException | None) -> None:
        if error is not None:
            self._fail(error)
            return
        self._what = "other members"
        try:
            self._pieces = self._make(source)
        except Exception as problem:
            self._fail(problem)
            return
        self._results = [None] * len(self._pieces)
        self._open = len(self._pieces) + 1
        for number, piece in enumerate(self._pieces):
            self._advance(number, piece, None)
        self._count()

    def _make(self, source: int) -> list[Piece]:
        call, group = self._call, self._group
        assert group is not None
        rank = group.rank_of(call.device)
        tasks = [group.task(member) for member in range(len(group.members))]
        name = f"{call.group_key}:{call.instance_key}:{call.where}"
        flat = None if self._value is None else np.ascontiguousarray(self._value).reshape(-1)
        if call.kind == REDUCE:
            assert flat is not None
            offsets = call.offsets or subdivisions(flat.nbytes, len(tasks), group.num_tasks, call.most_subdivisions)
            return ring_reduce(flat, tasks, rank, name, offsets, merge_of(call.merge),
                               final_of(call.final, len(tasks)), self._give)
        if call.kind == GATHER:
            return ring_gather(flat, tasks, rank, name, self._give)
        size = int(np.prod(call.shape, dtype=np.int64))
        return broadcast(flat if call.is_source else None, size, tasks, rank, source, name, self._give)

    # Pieces

    def _give(self, key: str, part: Any) -> None:
        """Leave a piece for another member; the run does not end before that has it."""
        with self._lock:
            self._open += 1
        self._owner.hub.offer(self._step.step_id, key, part, self._count)

    def _advance(self, number: int, piece: Piece, received: Any) -> None:
        try:
            wanted = piece.send(received)
        except StopIteration as ended:
            self._results[number] = ended.value
            self._count()
        except Exception as error:
            self._fail(error)
        else:
            self._wait(partial(self._receive, number, piece, wanted))

    def _receive(self, number: int, piece: Piece, wanted: Wanted) -> Callable[[], None]:
        group, call = self._group, self._call
        assert group is not None
        kind = to_numpy(call.datatype)
        nbytes = wanted.size * kind.itemsize
        sender = group.members[wanted.rank]
        task = group.task(wanted.rank)

        def arrived(part: Any, error: BaseException | None) -> None:
            if error is not None:
                self._fail(error)
            elif nbytes >= _LARGE_BYTES and self._step.hand_over is not None:
                self._step.hand_over(lambda: self._advance(number, piece, part))
            else:
                self._advance(number, piece, part)

        if task == self._owner.task.name:
            return self._owner.hub.take(self._step.step_id, wanted.key, arrived)

        def answered(answer: bytes | None, error: BaseException | None) -> None:
            if answer is None:
                arrived(None, error)
                return
            try:
                content = content_of(answer, nbytes)
            except Error as problem:
                arrived(None, problem)
            else:
                arrived(np.frombuffer(content, dtype=kind), None)

        request = wire.RecvBufRequest(
            step_id=self._step.step_id, buf_rendezvous_key=wanted.key, num_bytes=nbytes, src_device=sender.name,
            dst_device=call.device, request_id=secrets.randbits(63) or 1, src_incarnation=sender.incarnation)
        return self._owner.ask(task, "RecvBuf", request.SerializeToString(),
                               f"a piece of collective {call.instance_key} of group {call.group_key}", answered)

    # Endings

    def _count(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open or self._ended:
                return
        try:
            result = self._result()
        except Exception as error:
            self._fail(error)
        else:
            self._end(result, None)

    def _result(self) -> Any:
        call = self._call
        parts = self._results
        flat = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if call.kind == BROADCAST and call.is_source:
            flat = self._value
        return np.asarray(flat).reshape(call.agreed_shape)

    def _late(self) -> None:
        self._fail(DeadlineExceeded("Collective has timed out waiting for other workers."
                                    if self._group is None else "Collective has timed out during execution."))

    def _cancelled(self) -> None:
        self._fail(self._step.error or Internal("the step was cancelled"))

    def _fail(self, error: BaseException) -> None:
        if not self._ended and not self._step.cancelled:
            # Whatever has become of a member, the group is looked at anew by the next step.
            self._owner.hub.forget(self._call.group_key)
        self._end(None, error)

    def _end(self, result: Any, error: BaseException | None) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
            give_ups, self._give_ups = self._give_ups, []
        if self._timer is not None:
            self._timer.cancel()
        self._step.forget(self._token)
        for give_up in give_ups:
            give_up()
        self._done(result, error)


def _nothing() -> None:
    pass


