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
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Cancelled, DeadlineExceeded, Unavailable, Unknown
from runtime.edge.outgoing import Outgoing
from runtime.errors import from_code
from runtime.observe.status import Call
from runtime.worker.derived import DETAILS, Trailers, with_trailers
from runtime.worker.owed import Owed

if TYPE_CHECKING:
    from runtime._ext.message_parts import MessageParts
    from runtime.edge.limits import Account
    from runtime.edge.peer_access import PeerAccess
    from runtime.worker.rpc_log import RpcLog

__all__ = ["Answered", "Connections"]

logger = logging.getLogger(__name__)

_SERVICE = "/tensorflow.WorkerService/"

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
        self._open: dict[str, dict[_Call | _Wait, None]] = {}
        # When each is due, and its handle.
        self._watches: dict[str, tuple[float, asyncio.TimerHandle]] = {}
        self._asked: dict[str, float] = {}  # when the open question for its status was put to a task

    def begin(self, address: str, task: str, method: str, request: bytes | MessageParts, what: str, done: Answered,
              note: Callable[[Trailers], object] | None = None, since: float | None = None) -> Callable[[], None]:
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
        since : float, optional
            When the task was last heard of, on the clock of `time.monotonic`, where the call goes on with an earlier
            one: its time counts from then.

        Returns
        -------
        callable
            Gives the call up, from any thread; `done` then gets CANCELLED, if nothing else before.
        """
        call = _Call(self, address, task, method, request, what, done, note, since)
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

    def watch(self, address: str, task: str, what: str, lost: Callable[[BaseException], object]) -> Callable[[], None]:
        """Watch a task for something that it has to do outside of a call, as open calls are watched.

        Parameters
        ----------
        address, task, what : str
            As of `begin`.
        lost : callable
            ``lost(error)``, called once when the task has stopped answering, or CANCELLED when this object is closed.

        Returns
        -------
        callable
            Ends it.
        """
        wait = _Wait(self, address, task, what, lost)
        self.opened(wait)
        return wait.end

    # Calls under way

    def opened(self, call: _Call | _Wait, goes_on: bool = False) -> None:
        """Note a call, and begin to watch whom it waits for; one that goes on with an earlier one is not young."""
        address = call.address
        self._open.setdefault(address, {})[call] = None
        watch = self._watches.get(address)
        if watch is not None and not goes_on:
            return
        in_s = max(0.0, call.began + self.unresponsive_s / 3 - time.monotonic())
        if watch is not None:
            if watch[0] <= self.loop.time() + in_s:
                return
            watch[1].cancel()
        self._watch(address, call.task, in_s)

    def _watch(self, address: str, task: str, in_s: float) -> None:
        due = self.loop.time() + in_s
        # Kept beside the handle: where uvloop rounds the time down to nothing, its handle does not know when it is due.
        self._watches[address] = due, self.loop.call_later(in_s, self._look, address, task)

    def ended(self, call: _Call | _Wait) -> None:
        """Forget a call."""
        calls = self._open.get(call.address)
        if calls is not None:
            calls.pop(call, None)
            if not calls:
                del self._open[call.address]

    def _look(self, address: str, task: str) -> None:
        """Ask a task for its status when calls to it are open for long; end them when it does not answer.

        Looks again after a third of the time, counted from the beginning of the call that has been open longest.
        """
        del self._watches[address]
        if self.closed or address not in self._open:
            return
        pause = self.unresponsive_s / 3
        age = time.monotonic() - min(call.began for call in self._open[address])
        self._watch(address, task, pause - age if age < pause else pause)
        if age < self.unresponsive_s / 4:
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
        for _, watch in self._watches.values():
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
                 what: str, done: Answered, note: Callable[[Trailers], object] | None, since: float | None) -> None:
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
        self.began = since or 0.0

    def start(self) -> None:
        """Make the call."""
        owner, request = self._owner, self._request
        assert request is not None
        self._request = None
        if self._given_up or owner.closed:
            self._end(None, Cancelled("the server is stopping" if owner.closed else f"{self.what} was given up"))
            return
        goes_on = self.began > 0.0
        if not goes_on:
            self.began = time.monotonic()
        owner.opened(self, goes_on)
        self._cancel = owner.outgoing.start(self.address, self._path, request, self._answered)

    def give_up(self) -> None:
        """End the call; from any thread."""
        if self._done is not None:
            self._given_up = True
            self._owner.on_loop(self._stop)

    def lose(self) -> None:
        """End the call: the task does not answer."""
        self._end(None, _silent(self, self._owner.unresponsive_s))
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
            error = with_trailers(error, trailers)
        self._end(None, error)

    def _end(self, answer: bytes | None, error: BaseException | None) -> None:
        self._owner.ended(self)
        done, self._done = self._done, None
        if done is not None:
            done(answer, error)


class _Wait:
    """Something that a task has to do outside of a call; see `Connections.watch`."""

    __slots__ = ("_lost", "_owner", "address", "began", "task", "what")

    def __init__(self, owner: Connections, address: str, task: str, what: str, lost: Callable[[BaseException], object]
                 ) -> None:
        self.address = address
        self.task = task
        self.what = what
        self.began = time.monotonic()
        self._owner = owner
        self._lost: Callable[[BaseException], object] | None = lost

    def end(self) -> None:
        """Watch no longer."""
        self._lost = None
        self._owner.ended(self)

    def give_up(self) -> None:
        """End the wait: the server is stopping."""
        self._tell(Cancelled("the server is stopping"))

    def lose(self) -> None:
        """End the wait: the task does not answer."""
        self._tell(_silent(self, self._owner.unresponsive_s))

    def _tell(self, error: BaseException) -> None:
        lost = self._lost
        self.end()
        if lost is not None:
            lost(error)


def _silent(call: _Call | _Wait, unresponsive_s: float) -> Unavailable:
    return _lost(call.task, f"{call.task} at {call.address} has not answered for {unresponsive_s:g} s; {call.what} was "
                            f"awaited from it for {time.monotonic() - call.began:.1f} s")


def _lost(task: str, text: str) -> Unavailable:
    error = Unavailable(text)
    error.lost_task = task  # type: ignore[attr-defined]
    return error
