"""Calls to the other tasks of a cluster over gRPC, from any thread, on the server's loop.

A task that stops answering without closing its connections (frozen, cut off) would let its callers wait for ever. So
while calls to a task are open, it is asked for its status from time to time; when it does not answer, they end, and the
next call tries a new connection: what waits on the old one for a packet to be acknowledged may do so for minutes after
the network is well again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.errors import (
    Cancelled,
    DeadlineExceeded,
    Error,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unknown,
)
from runtime._ext.running_step import MemoryBound
from runtime._ext.worker_codec import scan_recv_tensor_response
from runtime.cluster_spec import ClusterSpec
from runtime.edge.outgoing import Outgoing
from runtime.errors import from_code
from runtime.graph.device_spec import DeviceSpec, parse
from runtime.machine import memory_bytes
from runtime.observe.status import Call
from runtime.transport import handover, roads
from runtime.transport.roads import Road
from runtime.worker.derived import DETAILS, Trailers
from runtime.worker.owed import Owed

if TYPE_CHECKING:
    from runtime._ext.message_parts import MessageParts
    from runtime.edge.limits import Account
    from runtime.edge.peer_access import PeerAccess
    from runtime.worker.rpc_log import RpcLog

__all__ = ["ClusterPeers", "Connections"]

logger = logging.getLogger(__name__)

_SERVICE = "/tensorflow.WorkerService/"
# What the loop decodes of an answer itself, apart from views: the rest takes a thread.
_LOOP_DECODE_BYTES = 1 << 20
# How long shared memory that was out of reach is not tried again: its task may only have been frozen, or died.
_APART_S = 30.0
# For how long, without progress, a broken stream of a parcel is begun again.
_RESUME_S = 30.0

Received = Callable[[Any, int, bool, "BaseException | None"], None]
Answered = Callable[["bytes | None", "BaseException | None"], None]


class Connections:
    """Calls to tasks, over one connection per address, and the watch over those that are being called.

    Parameters
    ----------
    loop : asyncio event loop
        Connections belong to it, and this object is made in its thread; every method but `begin` is called there.
    unresponsive_s : float
        A task that is being called and does not answer a question for its status within this time counts as lost.
    log : RpcLog
        Notes what was received.
    access : PeerAccess
        How to get in there.
    account : Account
        Counts the bytes of answers under way.

    Attributes
    ----------
    owed : Owed
        For what tasks must be told, however late.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, unresponsive_s: float, log: RpcLog, access: PeerAccess,
                 account: Account) -> None:
        self.loop = loop
        self.log = log
        self.access = access
        self.unresponsive_s = unresponsive_s
        self.outgoing = Outgoing(loop, access, account)
        self.owed = Owed(self)
        self.thread = threading.get_ident()
        self.closed = False
        self._open: dict[str, dict[_Call, None]] = {}
        self._watches: dict[str, asyncio.TimerHandle] = {}
        self._asked: dict[str, float] = {}  # when the open question for its status was put to a task

    def begin(self, address: str, task: str, method: str, request: bytes | MessageParts, what: str, done: Answered,
              note: Callable[[Trailers], object] | None = None) -> Callable[[], None]:
        """Make a call, from any thread.

        Parameters
        ----------
        address, task : str
            Of whom is called.
        method : str
            Of the WorkerService.
        request : bytes or MessageParts
        what : str
            What is awaited, for the error of a task that does not answer.
        done : callable
            ``done(answer, error)``, called exactly once on the loop, unless that is closed. The error of a task that
            cannot be reached or has stopped answering has its name as ``lost_task``.
        note : callable, optional
            ``note(trailers)``, called before `done` when an answer has any; an error has them as ``trailers``.

        Returns
        -------
        callable
            Gives the call up, from any thread; `done` then gets CANCELLED, if nothing else before.
        """
        call = _Call(self, address, task, method, request, what, done, note)
        self.on_loop(call.start)
        return call.give_up

    def on_loop(self, work: Callable[[], object]) -> None:
        """Have something done on the loop, at once when this is its thread; nothing happens when it is closed."""
        if threading.get_ident() == self.thread:
            work()
        else:
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(work)

    async def call(self, address: str, task: str, method: str, request: bytes, what: str) -> bytes:
        """Make a call and return the answer's bytes; parameters as of `begin`.

        Raises
        ------
        Error
            What the task answers; `Unavailable` when it cannot be reached or has stopped answering, with the task's
            name as ``lost_task``.
        """
        waiting: asyncio.Future[bytes] = self.loop.create_future()

        def done(answer: bytes | None, error: BaseException | None) -> None:
            if waiting.done():
                return
            if error is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result(answer or b"")

        give_up = self.begin(address, task, method, request, what, done)
        try:
            return await waiting
        finally:
            give_up()

    async def ask(self, address: str, path: str, request: bytes, timeout_s: float) -> bytes:
        """Make a short call of any service, bounded in time, which nobody watches.

        Raises
        ------
        Error
            What the server answers; `Unavailable` when it cannot be reached, `DeadlineExceeded` when it is late.
        """
        waiting: asyncio.Future[bytes] = self.loop.create_future()

        def answered(answer: bytes | None, code: int, message: str, trailers: Any) -> None:
            if not waiting.done():
                if code:
                    waiting.set_exception(from_code(code, message))
                else:
                    waiting.set_result(answer or b"")

        give_up = self.outgoing.start(address, path, request, answered)
        try:
            return await asyncio.wait_for(waiting, timeout_s)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer from {address} within {timeout_s:g} s") from None
        finally:
            give_up()

    # Calls under way

    def opened(self, call: _Call) -> None:
        """Note a call, and begin to watch whom it waits for."""
        self._open.setdefault(call.address, {})[call] = None
        if call.address not in self._watches:
            self._watch_later(call.address, call.task)

    def ended(self, call: _Call) -> None:
        """Forget a call."""
        calls = self._open.get(call.address)
        if calls is not None:
            calls.pop(call, None)
            if not calls:
                del self._open[call.address]

    def _watch_later(self, address: str, task: str) -> None:
        """Look after a third of the time, counted from the beginning of the call that has been open longest."""
        pause = self.unresponsive_s / 3
        oldest = next(iter(self._open[address]))
        age = time.monotonic() - oldest.began
        self._watches[address] = self.loop.call_later(pause - age if age < pause else pause, self._look, address, task)

    def _look(self, address: str, task: str) -> None:
        """Ask a task for its status when calls to it are open for long; end them when it does not answer."""
        del self._watches[address]
        if self.closed or address not in self._open:
            return
        if time.monotonic() - next(iter(self._open[address])).began < self.unresponsive_s / 4:
            self._watch_later(address, task)
            return
        answered = False

        def done(answer: bytes | None, code: int, message: str, trailers: Any) -> None:
            # Refused or answered with an error: the calls see that themselves.
            nonlocal answered
            answered = True
            late.cancel()
            self._asked.pop(address, None)

        def lose() -> None:
            if answered:
                return
            cancel()
            calls = list(self._open.get(address, ()))
            logger.warning("a task does not answer", extra={"task": task, "address": address, "calls": len(calls)})
            for call in calls:
                call.lose()
            self.outgoing.leave(address)

        self._asked[address] = time.monotonic()
        late = self.loop.call_later(self.unresponsive_s * 2 / 3, lose)
        cancel = self.outgoing.start(address, _SERVICE + "GetStatus", b"", done)
        self._watch_later(address, task)

    def status(self) -> tuple[Call, ...]:
        """Return what is awaited from other tasks right now, the longest first."""
        now = time.monotonic()
        found = [Call(call.task, address, call.what, now - call.began, now - self._asked.get(address, now))
                 for address, calls in self._open.items() for call in calls]
        return tuple(sorted(found, key=lambda call: -call.seconds))

    async def close(self) -> None:
        """End every call and close the connections."""
        self.closed = True
        self.owed.close()
        for watch in self._watches.values():
            watch.cancel()
        self._watches.clear()
        for call in [call for calls in self._open.values() for call in calls]:
            call.give_up()
        await self.outgoing.close()


class _Call:
    """One call to a task; everything but `give_up` belongs to the loop."""

    __slots__ = ("_cancel", "_done", "_given_up", "_note", "_owner", "_path", "_request", "address", "began", "task",
                 "what")

    def __init__(self, owner: Connections, address: str, task: str, method: str, request: bytes | MessageParts,
                 what: str, done: Answered, note: Callable[[Trailers], object] | None) -> None:
        self.address = address
        self.task = task
        self.what = what
        self._owner = owner
        self._path = _SERVICE + method
        self._request: bytes | MessageParts | None = request
        self._done: Answered | None = done
        self._note = note
        self._cancel: Callable[[], None] | None = None
        self._given_up = False
        self.began = 0.0

    def start(self) -> None:
        """Make the call."""
        owner, request = self._owner, self._request
        assert request is not None
        self._request = None
        if self._given_up or owner.closed:
            self._end(None, Cancelled("the server is stopping" if owner.closed else f"{self.what} was given up"))
            return
        self.began = time.monotonic()
        owner.opened(self)
        self._cancel = owner.outgoing.start(self.address, self._path, request, self._answered)

    def give_up(self) -> None:
        """End the call; from any thread."""
        if self._done is not None:
            self._given_up = True
            self._owner.on_loop(self._stop)

    def lose(self) -> None:
        """End the call: the task does not answer."""
        self._end(None, _lost(
            self.task, f"{self.task} at {self.address} has not answered for {self._owner.unresponsive_s:g} s; "
                       f"{self.what} was awaited from it for {time.monotonic() - self.began:.1f} s"))
        self._stop()

    def _stop(self) -> None:
        if self._cancel is not None:
            self._cancel()

    def _answered(self, answer: bytes | None, code: int, message: str, trailers: Trailers) -> None:
        if code == 0:
            if trailers and self._note is not None:
                self._note(trailers)
            self._end(answer, None)
            return
        if self._given_up:
            message = f"{self.what} was given up"
        elif code == Unknown.code and message.startswith("Stream removed"):
            code = Unavailable.code
        error = from_code(code, message)
        if code == Unavailable.code and not any(key == DETAILS for key, _ in trailers):
            error = _lost(self.task, f"{message}\nAdditional GRPC error information from remote target {self.task} "
                                     f"while calling {self._path}:\n:{self.what} was awaited from {self.address} "
                                     f"for {time.monotonic() - self.began:.1f} s")
        if trailers:
            error.trailers = trailers  # type: ignore[attr-defined]
        self._end(None, error)

    def _end(self, answer: bytes | None, error: BaseException | None) -> None:
        self._owner.ended(self)
        done, self._done = self._done, None
        if done is not None:
            done(answer, error)


def _lost(task: str, text: str) -> Unavailable:
    error = Unavailable(text)
    error.lost_task = task  # type: ignore[attr-defined]
    return error


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
        self._connections = connections
        self._hand_over = hand_over
        self._memory_limit = memory_limit
        self._apart: dict[str, float] = {}  # addresses of tasks whose shared memory is out of reach, and until when
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
        return self._connections.begin(address, task, method, request, what, done)

    def receive(self, task: str, step_id: int, key: str, done: Received) -> Callable[[], None]:
        """Ask a task for a tensor; see `Peers.receive`."""
        address = self.addresses.get(task)
        if address is None:
            done(None, 0, False, InvalidArgument(f"the tensor {key} comes from {task}, which is no task of this "
                                                 f"cluster: {', '.join(sorted(self.addresses))}"))
            return _nothing
        request = wire.RecvTensorRequest(step_id=step_id, rendezvous_key=key,
                                         request_id=secrets.randbits(63) or 1).SerializeToString()
        if time.monotonic() >= self._apart.get(address, 0.0):
            request += handover.offer()
        log = self._connections.log
        started_us = time.time_ns() // 1000
        receptions: list[asyncio.Task[None]] = []

        def answered(answer: bytes | None, error: BaseException | None) -> None:
            if answer is None:
                done(None, 0, False, error)
                return
            began = time.perf_counter()
            try:
                datatype, array, is_dead, _, options, _ = scan_recv_tensor_response(answer, _LOOP_DECODE_BYTES)
                if options is not None:
                    parcel = handover.parcel_key(options)
                    if parcel:
                        receptions.append(self._connections.loop.create_task(
                            self._receive_parcel(address, parcel, datatype, key, arrived, done)))
                    else:
                        self._take_elsewhere(options, datatype, arrived, done, ask_again)
                    return
            except ResourceExhausted:
                self._decode_elsewhere(answer, arrived, done)
            except Error as problem:
                done(None, 0, False, problem)
            else:
                roads.count("received", Road.MESSAGE, array.nbytes, time.perf_counter() - began, 0)
                arrived(datatype, array, is_dead)

        def arrived(datatype: int, array: Any, is_dead: bool) -> None:
            log.received(step_id, key, array.nbytes, started_us, time.time_ns() // 1000)
            done(array, datatype, is_dead, None)

        def ask_again(options: bytes, datatype: int) -> None:
            self._apart[address] = time.monotonic() + _APART_S
            again = wire.RecvTensorRequest(step_id=step_id, rendezvous_key=key).SerializeToString()
            self._connections.begin(address, task, "RecvTensor", again + handover.refusal(options, datatype),
                                    f"the tensor {key}", answered)

        give_up = self._connections.begin(address, task, "RecvTensor", request, f"the tensor {key}", answered)

        def stop() -> None:
            give_up()
            self._connections.on_loop(lambda: [reception.cancel() for reception in receptions])

        return stop

    async def _receive_parcel(self, address: str, parcel: str, datatype: int, key: str,
                              arrived: Callable[[int, Any, bool], None], done: Received) -> None:
        """Receive in a parcel what no message can hold."""
        from runtime.transport.calls import STEP_TENSORS, Way, exchange
        from runtime.transport.parcel import Receiver

        access = self._connections.access
        receiver = Receiver(parcel, self._memory_limit or memory_bytes(), may_share=False)
        try:
            await exchange(receiver, Way(address, access.tls, access.metadata, None, STEP_TENSORS), _RESUME_S)
            array = handover.of_parcel(receiver.result(), datatype)
        except asyncio.CancelledError:
            done(None, 0, False, Cancelled(f"the tensor {key} was given up: {receiver.describe()}"))
            raise
        except Exception as error:
            done(None, 0, False, error)
        else:
            arrived(datatype, array, False)

    def _take_elsewhere(self, options: bytes, datatype: int, arrived: Callable[[int, Any, bool], None],
                        done: Received, ask_again: Callable[[bytes, int], None]) -> None:
        """Map in a thread what the sender has put into shared memory; ask for it in a message when out of reach."""

        def work() -> None:
            try:
                array = handover.take_tensor(options, datatype)
            except (Unavailable, NotFound) as error:
                logger.info("shared memory of another task cannot be reached", extra={"reason": str(error)})
                ask_again(options, datatype)
            except Exception as error:
                done(None, 0, False, error)
            else:
                arrived(datatype, array, False)

        try:
            self._hand_over(work)
        except Error as error:
            done(None, 0, False, error)

    def _decode_elsewhere(self, answer: bytes, arrived: Callable[[int, Any, bool], None], done: Received) -> None:
        """Decode in a thread what takes long: strings, and tensors that are no view of their message."""

        def work() -> None:
            began = time.perf_counter()
            try:
                with MemoryBound(self._memory_limit) as bound:
                    try:
                        datatype, array, is_dead, *_ = scan_recv_tensor_response(answer, self._memory_limit or None)
                    except MemoryError:
                        raise bound.refusal("a received tensor") or ResourceExhausted(
                            "out of memory for a received tensor") from None
            except Exception as error:
                done(None, 0, False, error)
            else:
                roads.count("received", Road.MESSAGE, array.nbytes, time.perf_counter() - began, 1)
                arrived(datatype, array, is_dead)

        try:
            self._hand_over(work)
        except Error as error:
            done(None, 0, False, error)


def _order(task: str) -> tuple[str, int]:
    spec = parse(task)
    assert spec is not None
    return spec.job or "", spec.task or 0


def _nothing() -> None:
    pass
