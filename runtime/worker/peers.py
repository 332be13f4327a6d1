"""The other tasks of a cluster as a step calls them, and the ways on which a tensor of theirs arrives."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.errors import Cancelled, Error, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from runtime._ext.running_step import MemoryBound
from runtime._ext.worker_codec import scan_recv_tensor_response
from runtime.graph.device_spec import DeviceSpec, parse
from runtime.machine import memory_bytes
from runtime.transport import handover, roads
from runtime.transport.borrower import ANSWER_S
from runtime.transport.roads import Road

if TYPE_CHECKING:
    from runtime.cluster_spec import ClusterSpec
    from runtime.worker.channels import Answered, Connections

__all__ = ["ClusterPeers"]

logger = logging.getLogger(__name__)

# What the loop decodes of an answer itself, apart from views: the rest takes a thread.
_LOOP_DECODE_BYTES = 1 << 20
# How long shared memory that was out of reach is not tried again: its task may only have been frozen, or died.
_APART_S = 30.0
# For how long, without progress, a broken stream of a parcel is begun again.
_RESUME_S = 30.0

Received = Callable[[Any, int, bool, "BaseException | None"], None]


class ClusterPeers:
    """The other tasks of one cluster, as a step calls them; see `runtime.worker.exchange.Peers`.

    Parameters
    ----------
    connections : Connections
    cluster : ClusterSpec
    hand_over : callable
        Runs a callable in another thread.
    memory_limit : int
        What a tensor that is no view of its message may take, in bytes; 0 for no limit.
    """

    def __init__(self, connections: Connections, cluster: ClusterSpec,
                 hand_over: Callable[[Callable[[], object]], object], memory_limit: int = 0) -> None:
        self.connections = connections
        self.hand_over = hand_over
        self.memory_limit = memory_limit
        self.apart: dict[str, float] = {}  # addresses of tasks whose shared memory is out of reach, and until when
        self.addresses = {
            DeviceSpec(job, 0, index).task_name: address
            for job, tasks in cluster.jobs.items()
            for index, address in tasks.items()
        }

    @property
    def first_task(self) -> str:
        """Return the cluster's first task, by job and index."""
        return min(self.addresses, key=_order, default="")

    def call(self, task: str, method: str, request: bytes, what: str, done: Answered) -> Callable[[], None]:
        """Call a method of a task; see `Peers.call`."""
        address = self.addresses.get(task)
        if address is None:
            done(None, InvalidArgument(f"{what} is to come from {task}, which is no task of this cluster: "
                                       f"{', '.join(sorted(self.addresses))}"))
            return _nothing
        return self.connections.begin(address, task, method, request, what, done)

    def receive(self, task: str, step_id: int, key: str, done: Received) -> Callable[[], None]:
        """Ask a task for a tensor; see `Peers.receive`."""
        address = self.addresses.get(task)
        if address is None:
            done(None, 0, False, InvalidArgument(f"the tensor {key} comes from {task}, which is no task of this "
                                                 f"cluster: {', '.join(sorted(self.addresses))}"))
            return _nothing
        return _Reception(self, address, task, step_id, key, done).start()


class _Reception:
    """One tensor on its way here.

    It comes in the answer, or that says where it is to be fetched: from a segment, or as a parcel. A task that freezes
    between its answer and that has no more time than one that does not answer, for all that is tried in turn together.
    """

    __slots__ = ("_address", "_done", "_give_up", "_heard", "_is_given_up", "_key", "_lock", "_parcel", "_peers",
                 "_started_us", "_step_id", "_task", "_unwatch")

    def __init__(self, peers: ClusterPeers, address: str, task: str, step_id: int, key: str, done: Received) -> None:
        self._peers = peers
        self._address = address
        self._task = task
        self._step_id = step_id
        self._key = key
        self._done: Received | None = done
        self._lock = threading.Lock()
        self._give_up: Callable[[], None] = _nothing
        self._is_given_up = False
        self._heard: float | None = None
        self._parcel: asyncio.Task[None] | None = None
        self._started_us = time.time_ns() // 1000
        self._unwatch: Callable[[], None] | None = None

    def start(self) -> Callable[[], None]:
        """Ask for it; return what gives it up."""
        request = wire.RecvTensorRequest(step_id=self._step_id, rendezvous_key=self._key,
                                         request_id=secrets.randbits(63) or 1).SerializeToString()
        if time.monotonic() >= self._peers.apart.get(self._address, 0.0):
            request += handover.offer()
        give_up = self._ask(request)
        with self._lock:
            if self._give_up is _nothing:  # else it has been answered and asked again meanwhile
                self._give_up = give_up
        return self._stop

    def _ask(self, request: bytes) -> Callable[[], None]:
        return self._peers.connections.begin(self._address, self._task, "RecvTensor", request,
                                             f"the tensor {self._key}", self._answered, since=self._heard)

    def _stop(self) -> None:
        """Give it up, from any thread."""
        self._is_given_up = True
        self._give_up()
        self._peers.connections.on_loop(self._stopped)

    def _stopped(self) -> None:
        if self._parcel is not None:
            self._parcel.cancel()
        else:
            self._end(None, 0, False, Cancelled(f"the tensor {self._key} was given up"))

    def _answered(self, answer: bytes | None, error: BaseException | None) -> None:
        """Take an answer, on the loop."""
        if answer is None:
            self._end(None, 0, False, error)
            return
        began = time.perf_counter()
        try:
            datatype, array, is_dead, _, options, _ = scan_recv_tensor_response(answer, _LOOP_DECODE_BYTES)
            if options is not None:
                self._fetch(options, datatype)
                return
        except ResourceExhausted:
            self._in_thread(lambda: self._decode(answer))
        except Error as problem:
            self._end(None, 0, False, problem)
        else:
            roads.count("received", Road.MESSAGE, array.nbytes, time.perf_counter() - began, 0)
            self._arrived(datatype, array, is_dead, Road.MESSAGE)

    def _arrived(self, datatype: int, array: Any, is_dead: bool, road: Road) -> None:
        self._peers.connections.log.received(self._step_id, self._key, array.nbytes, self._started_us,
                                             time.time_ns() // 1000, road)
        self._end(array, datatype, is_dead, None)

    def _end(self, array: Any, datatype: int, is_dead: bool, error: BaseException | None) -> None:
        """Tell how it ended, the first time; from any thread."""
        with self._lock:
            done, self._done = self._done, None
        if done is None:
            return
        if self._unwatch is not None:
            self._peers.connections.on_loop(self._unwatch)
        done(array, datatype, is_dead, error)

    def _in_thread(self, work: Callable[[], None]) -> None:
        try:
            self._peers.hand_over(work)
        except Error as error:
            self._end(None, 0, False, error)

    def _decode(self, answer: bytes) -> None:
        """Decode in a thread what takes long: strings, and tensors that are no view of their message."""
        began = time.perf_counter()
        limit = self._peers.memory_limit
        try:
            with MemoryBound(limit) as bound:
                try:
                    datatype, array, is_dead, *_ = scan_recv_tensor_response(answer, limit or None)
                except MemoryError:
                    raise bound.refusal("a received tensor") or ResourceExhausted(
                        "out of memory for a received tensor") from None
        except Exception as error:
            self._end(None, 0, False, error)
        else:
            roads.count("received", Road.MESSAGE, array.nbytes, time.perf_counter() - began, 1)
            self._arrived(datatype, array, is_dead, Road.MESSAGE)

    # A tensor that is not in the answer

    def _fetch(self, options: bytes, datatype: int) -> None:
        """Fetch the tensor from where an answer says that it is."""
        connections = self._peers.connections
        parcel = handover.parcel_key(options)
        if parcel:
            self._unwatch = connections.watch(self._address, self._task, f"the tensor {self._key} in a parcel",
                                              self._lost)
            self._parcel = connections.loop.create_task(self._receive(parcel, datatype))
        else:
            self._heard = time.monotonic()
            self._in_thread(lambda: self._map(options, datatype))

    def _lost(self, error: BaseException) -> None:
        self._end(None, 0, False, error)
        if self._parcel is not None:
            self._parcel.cancel()

    async def _receive(self, parcel: str, datatype: int) -> None:
        """Receive in a parcel what no message can hold."""
        from runtime.transport.calls import STEP_TENSORS, Way, exchange
        from runtime.transport.parcel import Receiver

        access = self._peers.connections.access
        receiver = Receiver(parcel, self._peers.memory_limit or memory_bytes(), may_share=False)
        try:
            await exchange(receiver, Way(self._address, access.tls, access.metadata, None, STEP_TENSORS), _RESUME_S)
            array = handover.of_parcel(receiver.result(), datatype)
        except asyncio.CancelledError:
            self._end(None, 0, False, Cancelled(f"the tensor {self._key} was given up: {receiver.describe()}"))
            raise
        except Exception as error:
            self._end(None, 0, False, error)
        else:
            self._arrived(datatype, array, False, Road.STREAM)

    def _map(self, options: bytes, datatype: int) -> None:
        """Map in a thread what the task has put into shared memory; ask for it in a message when out of reach."""
        try:
            # The watch over the call that follows looks after a third of the time: none of it passes unused.
            array = handover.take_tensor(options, datatype, min(ANSWER_S, self._peers.connections.unresponsive_s / 3))
        except (Unavailable, NotFound) as error:
            logger.info("shared memory of another task cannot be reached", extra={"reason": str(error)})
            self._peers.apart[self._address] = time.monotonic() + _APART_S
            self._peers.connections.on_loop(lambda: self._ask_again(handover.refusal(options, datatype)))
        except Exception as error:
            self._end(None, 0, False, error)
        else:
            self._arrived(datatype, array, False, Road.SHARED_MEMORY)

    def _ask_again(self, refusal: bytes) -> None:
        if self._done is None:  # lost or given up meanwhile
            return
        give_up = self._ask(
            wire.RecvTensorRequest(step_id=self._step_id, rendezvous_key=self._key).SerializeToString() + refusal)
        with self._lock:
            self._give_up = give_up
        if self._is_given_up:
            give_up()


def _order(task: str) -> tuple[str, int]:
    spec = parse(task)
    assert spec is not None
    return spec.job or "", spec.task or 0


def _nothing() -> None:
    pass
