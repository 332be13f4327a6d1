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
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.errors import Cancelled, Error, InvalidArgument, Unavailable
from runtime._ext.worker_codec import scan_recv_tensor_response
from runtime.cluster_spec import ClusterSpec
from runtime.errors import from_rpc_error
from runtime.graph.device_spec import DeviceSpec
from runtime.observe.status import Call
from runtime.worker.derived import DETAILS

if TYPE_CHECKING:
    import grpc.aio

    from runtime.worker.rpc_log import RpcLog

__all__ = ["ClusterPeers", "Connections"]

logger = logging.getLogger(__name__)

_SERVICE = "/tensorflow.WorkerService/"
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 64 * 1024),
    # A restarted task is found again within a second.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # The time that one attempt to connect gets: where packets vanish, the next one may find the way.
    ("grpc.min_reconnect_backoff_ms", 3000),
    # A new channel must not go on with the connection of the old one.
    ("grpc.use_local_subchannel_pool", 1),
    # A step must not run twice because a connection broke.
    ("grpc.enable_retries", 0),
)

Received = Callable[[Any, int, bool, "BaseException | None"], None]
Answered = Callable[["bytes | None", "BaseException | None"], None]


class Connections:
    """Channels to tasks, one per address, and the watch over those that are being called.

    Parameters
    ----------
    loop : asyncio event loop
        Channels belong to it; every method but `begin` is called there.
    unresponsive_s : float
        A task that is being called and does not answer a question for its status within this time counts as lost.
    log : RpcLog
        Notes what was received.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, unresponsive_s: float, log: RpcLog) -> None:
        self.loop = loop
        self.log = log
        self._unresponsive_s = unresponsive_s
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._open: dict[str, dict[asyncio.Task[None], tuple[str, str, float]]] = {}
        self._asked: dict[str, float] = {}  # when the open question for its status was put to a task
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    def begin(self, address: str, task: str, method: str, request: bytes, what: str, done: Answered
              ) -> Callable[[], None]:
        """Make a call, from any thread.

        Parameters
        ----------
        address, task, method, request, what
            As for `call`.
        done : callable
            ``done(answer, error)``, called exactly once on the loop, unless that is closed.

        Returns
        -------
        callable
            Gives the call up, from any thread; `done` then gets CANCELLED, if nothing else before.
        """
        running: list[asyncio.Task[None]] = []
        given_up = False

        async def run() -> None:
            try:
                answer = await self.call(address, task, method, request, what)
            except Error as error:
                done(None, error)
            except asyncio.CancelledError:
                done(None, Cancelled(f"{what} was given up"))
            except Exception as error:
                logger.exception("a call to another task failed")
                done(None, Unavailable(f"{type(error).__name__} while {what} was awaited from {task}: {error}"))
            else:
                done(answer, None)

        def start() -> None:
            if given_up:
                done(None, Cancelled(f"{what} was given up"))
            else:
                running.append(self.loop.create_task(run()))

        def give_up() -> None:
            nonlocal given_up
            given_up = True
            self._on_loop(lambda: running and running[0].cancel())

        self._on_loop(start)
        return give_up

    def _on_loop(self, work: Callable[[], object]) -> None:
        """Have something done on the loop; nothing happens when that is closed."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(work)

    def channel(self, address: str) -> grpc.aio.Channel:
        """Return the channel to an address, opened on first use."""
        found = self._channels.get(address)
        if found is None:
            import grpc.aio  # only servers that call others need it

            found = self._channels[address] = grpc.aio.insecure_channel(address, options=_OPTIONS)
        return found

    async def call(self, address: str, task: str, method: str, request: bytes, what: str) -> bytes:
        """Make a call and return the answer's bytes.

        Parameters
        ----------
        address, task : str
            Of whom is called.
        method : str
            Of the WorkerService.
        what : str
            What is awaited, for the error of a task that does not answer.

        Raises
        ------
        Error
            What the task answers; `Unavailable` when it cannot be reached or has stopped answering, with the task's
            name as ``lost_task``.
        """
        import grpc

        if self._closed:
            raise Cancelled("the server is stopping")
        own = asyncio.current_task()
        assert own is not None
        calls = self._open.setdefault(address, {})
        began = time.monotonic()
        calls[own] = task, what, began
        if address not in self._watches:
            self._watches[address] = self.loop.create_task(self._watch(address, task))
        try:
            answer: bytes = await _stub(self.channel(address), method)(request)
            return answer
        except grpc.RpcError as error:
            found = from_rpc_error(error)
            trailers: tuple[Any, ...] = tuple(getattr(error, "trailing_metadata", tuple)() or ())
            if isinstance(found, Unavailable) and not any(key == DETAILS for key, _ in trailers):
                found = _lost(task, f"{found.message}\nAdditional GRPC error information from remote target {task} "
                                    f"while calling {_SERVICE}{method}:\n:{what} was awaited from {address} for "
                                    f"{time.monotonic() - began:.1f} s")
            if trailers:
                found.trailers = trailers  # type: ignore[attr-defined]
            raise found from None
        except asyncio.CancelledError:
            if self._given_up(own):
                raise _lost(task, f"{task} at {address} has not answered for {self._unresponsive_s:g} s; {what} was "
                                  f"awaited from it for {time.monotonic() - began:.1f} s") from None
            raise
        finally:
            calls.pop(own, None)
            if not calls:
                self._open.pop(address, None)
                watch = self._watches.pop(address, None)
                if watch is not None:
                    watch.cancel()

    async def ask(self, address: str, path: str, request: bytes, timeout_s: float) -> bytes:
        """Make a short call of any service, bounded in time, which nobody watches.

        Raises
        ------
        Error
            What the server answers; `Unavailable` when it cannot be reached, `DeadlineExceeded` when it is late.
        """
        import grpc

        stub: Any = self.channel(address).unary_unary
        try:
            answer: bytes = await stub(path)(request, timeout=timeout_s)
            return answer
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    def _given_up(self, task: asyncio.Task[None]) -> bool:
        """Tell whether a call was ended by the watch, and take that cancellation back."""
        return getattr(task, "lost_peer", False) and task.uncancel() == 0

    async def _watch(self, address: str, task: str) -> None:
        """Ask a task for its status while calls to it are open; end them when it does not answer."""
        import grpc

        pause = self._unresponsive_s / 3
        while True:
            await asyncio.sleep(pause)
            self._asked[address] = time.monotonic()
            try:
                await _stub(self.channel(address), "GetStatus")(b"", timeout=self._unresponsive_s - pause)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                    continue  # refused or answered with an error: the calls see that themselves
            else:
                continue
            finally:
                self._asked.pop(address, None)
            logger.warning("a task does not answer", extra={"task": task, "address": address,
                                                            "calls": len(self._open.get(address, ()))})
            lost = self._channels.pop(address, None)
            for call in list(self._open.get(address, ())):
                call.lost_peer = True  # type: ignore[attr-defined]
                call.cancel()
            if lost is not None:
                self._leave(lost)

    def _leave(self, channel: grpc.aio.Channel) -> None:
        """Close a channel that nothing uses any more."""
        closing = self.loop.create_task(channel.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def status(self) -> tuple[Call, ...]:
        """Return what is awaited from other tasks right now, the longest first."""
        now = time.monotonic()
        found = [Call(task, address, what, now - began, now - self._asked.get(address, now))
                 for address, calls in self._open.items() for task, what, began in calls.values()]
        return tuple(sorted(found, key=lambda call: -call.seconds))

    async def close(self) -> None:
        """End every call and close the channels."""
        self._closed = True
        tasks = [task for calls in self._open.values() for task in calls]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        if self._closing:
            await asyncio.wait(self._closing, timeout=5.0)


def _lost(task: str, text: str) -> Unavailable:
    error = Unavailable(text)
    error.lost_task = task  # type: ignore[attr-defined]
    return error


def _stub(channel: grpc.aio.Channel, method: str) -> Any:
    """Return a callable of a method that takes and returns bytes."""
    stub: Any = channel.unary_unary
    return stub(_SERVICE + method)


class ClusterPeers:
    """The other tasks of one cluster, as a step calls them; see `runtime.worker.exchange.Peers`.

    Parameters
    ----------
    connections : Connections
    cluster : ClusterSpec
    """

    def __init__(self, connections: Connections, cluster: ClusterSpec) -> None:
        self._connections = connections
        self.addresses = {
            DeviceSpec(job, 0, index).task_name: address
            for job, tasks in cluster.jobs.items()
            for index, address in tasks.items()
        }

    def receive(self, task: str, step_id: int, key: str, done: Received) -> Callable[[], None]:
        """Ask a task for a tensor; see `Peers.receive`."""
        address = self.addresses.get(task)
        if address is None:
            done(None, 0, False, InvalidArgument(f"the tensor {key} comes from {task}, which is no task of this "
                                                 f"cluster: {', '.join(sorted(self.addresses))}"))
            return _nothing
        request = wire.RecvTensorRequest(step_id=step_id, rendezvous_key=key,
                                         request_id=secrets.randbits(63) or 1).SerializeToString()
        log = self._connections.log
        started_us = time.time_ns() // 1000

        def answered(answer: bytes | None, error: BaseException | None) -> None:
            if answer is None:
                done(None, 0, False, error)
                return
            try:
                datatype, array, is_dead, *_ = scan_recv_tensor_response(answer)
            except Error as problem:
                done(None, 0, False, problem)
            else:
                log.received(step_id, key, array.nbytes, started_us, time.time_ns() // 1000)
                done(array, datatype, is_dead, None)

        return self._connections.begin(address, task, "RecvTensor", request, f"the tensor {key}", answered)


def _nothing() -> None:
    pass
