"""What a step sends to other tasks and gets from them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from runtime._ext.errors import Error, Internal, InvalidArgument, Unavailable, Unimplemented
from runtime._ext.rendezvous import parse_key
from runtime._ext.variable import ResourceHandle
from runtime.dtypes import DataType
from runtime.graph.device_spec import parse
from runtime.step.compile import resolve_handles
from runtime.worker.derived import derived

if TYPE_CHECKING:
    from runtime._ext.rendezvous import Rendezvous
    from runtime.step.environment import SessionState

__all__ = ["Arrived", "Peers", "Sent", "StepExchange"]

Arrived = Callable[[Any, bool, "BaseException | None"], None]
"""``arrived(value, is_dead, error)``"""


class Sent:
    """A tensor as it lies in a rendezvous: the array and the DataType that the edge has."""

    __slots__ = ("array", "kind")

    def __init__(self, array: Any, kind: DataType) -> None:
        self.array = array
        self.kind = kind


class _Call:
    """A tensor that another task was asked for."""

    __slots__ = ("give_up", "key", "node", "since", "task")

    def __init__(self, task: str, key: str, node: str) -> None:
        self.task = task
        self.key = key
        self.node = node
        self.since = time.monotonic()
        self.give_up: Callable[[], None] | None = None


class Peers(Protocol):
    """The other tasks of a cluster, as a step calls them. Safe from several threads.

    """

    @property
    def first_task(self) -> str:
        """Return the cluster's first task in the order of names; it leads collectives where nobody says who does."""

    def call(self, task: str, method: str, request: bytes, what: str,
             done: Callable[[bytes | None, BaseException | None], None]) -> Callable[[], None]:
        """Call a method of the WorkerService of a task; ``done(answer, error)``. Returns what gives the call up."""

    def receive(self, task: str, step_id: int, key: str, done: Callable[[Any, int, bool, BaseException | None], None]
                ) -> Callable[[], None]:
        """Ask a task for a tensor.

        Parameters
        ----------
        task : str
            ``/job:J/replica:0/task:T``.
        step_id : int
        key : str
            Rendezvous key.
        done : callable
            ``done(array, datatype, is_dead, error)``, called exactly once, from any thread.

        Returns
        -------
        callable
            Gives the call up; `done` then gets an error.
        """


class StepExchange:
    """The ways in and out of one step.

    What is sent waits in this task's rendezvous until somebody asks for it, here or from elsewhere. What is wanted is
    taken from there, or asked of the task that the key names as the sender.

    Parameters
    ----------
    step_id : int
    rendezvous : Rendezvous
        This task's, of the step. Whoever aborts it wakes those that wait there.
    task : str
        This task's name in the session.
    state : SessionState
    peers : Peers or None
        None where there is no other task.

    Notes
    -----
    Safe from several threads.
    """

    def __init__(self, step_id: int, rendezvous: Rendezvous, task: str, state: SessionState,
                 peers: Peers | None) -> None:
        self._step_id = step_id
        self._rendezvous = rendezvous
        self._task = task
        self._state = state
        self._peers = peers
        self._lock = threading.Lock()
        self._calls: set[_Call] = set()
        self._receivers: dict[str, str] = {}  # key of this task's own tensors -> node that waits for it
        self._error: BaseException | None = None

    def send(self, key: str, value: Any, kind: DataType, is_dead: bool) -> None:
        """Leave a tensor for whoever asks for it.

        Raises
        ------
        Error
            With which the step was aborted.
        """
        self._rendezvous.send(key, None if is_dead else Sent(value, kind), is_dead)

    def receive(self, key: str, kind: DataType, done: Arrived, node: str = "") -> None:
        """Get a tensor; ``done(value, is_dead, error)`` is called exactly once, from any thread.

        `node` is who waits for it, for those who look.
        """
        task = _task_of(key.partition(";")[0])
        if task == self._task:
            self._receivers[key] = node
            self._rendezvous.receive(
                key, lambda sent, is_dead, error: self._took(key, kind, sent, is_dead, error, done))
        elif self._peers is None:
            done(None, False, InvalidArgument(f"the tensor {key} comes from {task}, and this task knows no other"))
        else:
            self._ask(self._peers, task, key, kind, done, node)

    def _took(self, key: str, kind: DataType, sent: Sent | None, is_dead: bool, error: BaseException | None,
              done: Arrived) -> None:
        self._receivers.pop(key, None)
        self._arrived(key, kind, None if sent is None else sent.array, sent and sent.kind, is_dead, error, done)

    def _ask(self, peers: Peers, task: str, key: str, kind: DataType, done: Arrived, node: str) -> None:
        call = _Call(task, key, node)

        def answered(array: Any, datatype: int, is_dead: bool, error: BaseException | None) -> None:
            with self._lock:
                self._calls.discard(call)
            if isinstance(error, Error) and not isinstance(error, Unavailable):
                error = derived(error)  # what went wrong did so in the step's part there
            self._arrived(key, kind, array, datatype, is_dead, error, done)

        with self._lock:
            failed = self._error
            if failed is None:
                self._calls.add(call)  # before the call: it may be answered at once
        if failed is not None:
            done(None, False, failed)
            return
        give_up = peers.receive(task, self._step_id, key, answered)
        with self._lock:
            is_open = call in self._calls
            if is_open and self._error is None:
                call.give_up = give_up
                return
        if is_open:
            give_up()

    def _arrived(self, key: str, wanted: DataType, value: Any, sent: Any, is_dead: bool, error: BaseException | None,
                 done: Arrived) -> None:
        if error is None and not is_dead:
            try:
                value = self._checked(key, value, DataType(sent), wanted)
            except Error as problem:
                value, error = None, problem
        done(value, is_dead, error)

    def _checked(self, key: str, value: Any, sent: DataType, wanted: DataType) -> Any:
        """Return a value in the form that kernels take.

        Raises
        ------
        Internal
            If it is of another type than the edge.
        Unimplemented
            If it is a variant of another task.
        """
        if sent != wanted:
            raise Internal(f"the tensor {key} arrived as {sent.label}; the edge is of type {wanted.label}")
        if wanted is DataType.RESOURCE and not all(isinstance(item, ResourceHandle) for item in value.flat):
            return resolve_handles(value, parse_key(key)[3], self._state)
        if wanted is DataType.VARIANT and any(isinstance(item, bytes) for item in value.flat):
            raise Unimplemented(f"the tensor {key} is a variant from another task, which is not decoded here: keep the "
                                "ops that make and use it on one task")
        return value

    def waits(self) -> list[tuple[float, str, str]]:
        """Return the tensors that the step waits for: since when, what, and which node; as `StepContext.waits`."""
        with self._lock:
            found = [(call.since, f"tensor {call.key} from {call.task}", call.node) for call in self._calls]
        for key, since in self._rendezvous.waiting():
            node = self._receivers.get(key)
            if node is not None:  # others wait here, too, for what this step sends
                found.append((since, f"tensor {key} of this task", node))
        return found

    def close(self, error: BaseException) -> None:
        """Give up the calls to other tasks; what is asked for later fails with the error."""
        with self._lock:
            if self._error is not None:
                return
            self._error = error
            calls = [call.give_up for call in self._calls if call.give_up is not None]
        for give_up in calls:
            give_up()


def _task_of(device: str) -> str:
    spec = parse(device)
    if spec is None or spec.job is None:
        raise InvalidArgument(f"{device!r} is no device of a task")
    return spec.task_name
