"""What other tasks must be told, however late: that a step or a session has ended.

A task that is frozen or cut off hears nothing, and when it goes on it still has what was meant to end meanwhile. So a
message that did not arrive is kept, and sent again until the task answers, whichever process that is by then: who does
not know the step or the session has nothing to forget.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from runtime._ext.errors import Unavailable

if TYPE_CHECKING:
    from runtime.worker.channels import Connections

__all__ = ["Owed"]

logger = logging.getLogger(__name__)

# A task that is silent is asked again after so long, and then less and less often.
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
# Who is away for longer will not come back as it was.
_KEPT_S = 3600.0
_MOST = 10_000


class _Message:
    """One message to one task."""

    __slots__ = ("address", "method", "request", "since", "task", "what")

    def __init__(self, address: str, task: str, method: str, request: bytes, what: str) -> None:
        self.address = address
        self.task = task
        self.method = method
        self.request = request
        self.what = what
        self.since = time.monotonic()


class _Creditor:
    """A task that has not answered, and what it has not heard, oldest first."""

    __slots__ = ("messages", "pause_s", "timer")

    def __init__(self) -> None:
        self.messages: dict[_Message, None] = {}
        self.pause_s = _FIRST_PAUSE_S
        self.timer: asyncio.TimerHandle | None = None


class Owed:
    """Messages to tasks that are sent until they arrive; all but `tell` belongs to the loop of `connections`.

    Parameters
    ----------
    connections : Connections
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._creditors: dict[str, _Creditor] = {}
        self._is_closed = False

    def tell(self, address: str, task: str, method: str, request: bytes, what: str) -> None:
        """Send a message whose answer says nothing; from any thread."""
        self._send(_Message(address, task, method, request, what), None)

    def deliver(self, address: str, task: str, method: str, request: bytes, what: str) -> asyncio.Future[None]:
        """Send a message; the future is done when it has arrived, or has not arrived and is kept."""
        tried: asyncio.Future[None] = self._connections.loop.create_future()
        self._send(_Message(address, task, method, request, what), tried)
        return tried

    def _send(self, message: _Message, tried: asyncio.Future[None] | None) -> None:
        def done(answer: bytes | None, error: BaseException | None) -> None:
            if isinstance(error, Unavailable):
                self._keep(message)
            elif error is not None and not self._is_closed:
                logger.debug("a task did not do as told", extra={"task": message.task, "method": message.method,
                                                                 "reason": str(error)})
            if tried is not None and not tried.done():
                tried.set_result(None)

        self._connections.begin(message.address, message.task, message.method, message.request, message.what, done)

    def _keep(self, message: _Message) -> None:
        if self._is_closed:
            return
        creditor = self._creditors.setdefault(message.address, _Creditor())
        creditor.messages[message] = None
        while len(creditor.messages) > _MOST:
            del creditor.messages[next(iter(creditor.messages))]
        if creditor.timer is None:
            self._later(message.address, creditor)

    def _later(self, address: str, creditor: _Creditor) -> None:
        creditor.timer = self._connections.loop.call_later(creditor.pause_s, self._again, address)
        creditor.pause_s = min(2 * creditor.pause_s, _LONGEST_PAUSE_S)

    def _again(self, address: str) -> None:
        """Try one message; when it arrives, the others follow."""
        creditor = self._creditors[address]
        oldest = time.monotonic() - _KEPT_S
        for message in [message for message in creditor.messages if message.since < oldest]:
            del creditor.messages[message]
        first = next(iter(creditor.messages), None)
        if first is None:
            del self._creditors[address]
            return

        def done(answer: bytes | None, error: BaseException | None) -> None:
            if self._is_closed:
                return
            if isinstance(error, Unavailable):
                self._later(address, creditor)
                return
            del self._creditors[address]
            del creditor.messages[first]
            logger.info("a task that was away hears what has ended", extra={"task": first.task,
                                                                            "messages": len(creditor.messages) + 1})
            for message in creditor.messages:
                self._send(message, None)

        self._connections.begin(first.address, first.task, first.method, first.request, first.what, done)

    def close(self) -> None:
        """Forget everything."""
        self._is_closed = True
        for creditor in self._creditors.values():
            if creditor.timer is not None:
                creditor.timer.cancel()
        self._creditors.clear()
