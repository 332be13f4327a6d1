"""runtime.v1.Observer: the next steps of a server, traced, for whoever asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext.errors import InvalidArgument, NotFound
from runtime.observe.recorder import RecordedStep, Recording

if TYPE_CHECKING:
    from runtime.edge.plane import Handler
    from runtime.master.master import Master

__all__ = ["Observer"]

logger = logging.getLogger(__name__)

# Traces are held until the client has taken them.
MAX_STEPS = 1000

InThread = Callable[[Callable[[], bytes]], Awaitable[bytes]]


class Observer:
    """The handlers of runtime.v1.Observer on one master.

    Parameters
    ----------
    master : Master
    in_thread : callable
        Runs a function in a thread, for what is not done in a millisecond.
    """

    def __init__(self, master: Master, in_thread: InThread) -> None:
        self._master = master
        self._in_thread = in_thread
        self._waiting: set[asyncio.Queue[RecordedStep | None]] = set()

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {"runtime.v1.Observer": {"TraceSteps": self.trace_steps}}

    def drain(self) -> None:
        """End the open streams: no step may come any more."""
        for queue in self._waiting:
            queue.put_nowait(None)

    async def trace_steps(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """TraceSteps."""
        try:
            message = wire.runtime_v1.TraceStepsRequest.FromString(request)
        except DecodeError as error:
            raise InvalidArgument(f"the request is no runtime.v1.TraceStepsRequest message: {error}") from None
        if not 1 <= message.num_steps <= MAX_STEPS:
            raise InvalidArgument(f"num_steps must be 1 to {MAX_STEPS}, got {message.num_steps}")
        if message.session_handle and message.session_handle not in self._master.sessions:
            raise NotFound(f"no session is called '{message.session_handle}' here; there are "
                           f"{len(self._master.sessions)}")
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[RecordedStep | None] = asyncio.Queue()

        def take(recorded: RecordedStep) -> None:
            try:
                loop.call_soon_threadsafe(queue.put_nowait, recorded)
            except RuntimeError:
                logger.debug("a traced step ended after the loop that had asked for it")

        recording = Recording(message.num_steps, message.session_handle, take)
        self._waiting.add(queue)
        self._master.recorder.add(recording)
        try:
            for _ in range(message.num_steps):
                recorded = await queue.get()
                if recorded is None:
                    return
                yield await self._in_thread(lambda recorded=recorded: self._message(recorded))  # type: ignore[misc]
        finally:
            self._master.recorder.remove(recording)
            self._waiting.discard(queue)

    def _message(self, recorded: RecordedStep) -> bytes:
        from runtime.step.stats import step_stats

        selection = recorded.selection
        answer = wire.runtime_v1.TracedStep(
            session_handle=recorded.session_handle,
            feed=[name for name, *_ in selection.feeds],
            fetch=[name for name, *_ in selection.fetches],
            target=[node.name for node in selection.targets],
            step_stats=step_stats(recorded.trace, self._master.task.devices[0].name),
            num_dropped_nodes=recorded.trace.dropped,
            peak_bytes=recorded.peak_bytes,
        )
        return answer.SerializeToString()
