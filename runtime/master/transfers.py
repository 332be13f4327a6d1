"""What the tasks of a traced step received from each other, as TensorFlow's masters ask for it.

Each task keeps a log of the tensors that it gets, for as long as somebody has switched it on; behind the step its part
of the log is taken out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from runtime import wire
from runtime.worker.rpc_log import add_transfers

if TYPE_CHECKING:
    from runtime.worker.channels import Connections
    from runtime.worker.rpc_log import RpcLog

__all__ = ["OtherTransfers", "OwnTransfers", "Transfers"]

logger = logging.getLogger(__name__)

Fetched = Callable[[Any], None]
"""``fetched(stats)``: a wire.StepStats, or None where there is none to be had."""


class Transfers(Protocol):
    """The log of one task. Safe from several threads."""

    def begin(self, ready: Callable[[], None]) -> Callable[[], None]:
        """Switch the log on for a step and call ``ready()`` once it is, or cannot be; returns what gives that up."""

    def end(self, step_id: int, fetched: Fetched) -> Callable[[], None]:
        """Take out what a step received, and switch the log off behind the last step; returns what gives that up."""


class OwnTransfers:
    """The log of the master's own task; see `Transfers`."""

    def __init__(self, log: RpcLog) -> None:
        self._log = log

    def begin(self, ready: Callable[[], None]) -> Callable[[], None]:
        """Switch the log on."""
        self._log.hold()
        ready()
        return _nothing

    def end(self, step_id: int, fetched: Fetched) -> Callable[[], None]:
        """Take out what a step received."""
        self._log.let_go()
        ((_, transfers),) = self._log.fetch([step_id])
        stats = None
        if transfers:
            stats = wire.StepStats()
            add_transfers(stats, transfers)
        fetched(stats)
        return _nothing


class OtherTransfers:
    """The log of another task, by the calls that TensorFlow has for it; see `Transfers`.

    Parameters
    ----------
    connections : Connections
    task, address : str
    """

    def __init__(self, connections: Connections, task: str, address: str) -> None:
        self._connections = connections
        self._task = task
        self._address = address
        self._num_steps = 0
        self._lock = threading.Lock()

    def begin(self, ready: Callable[[], None]) -> Callable[[], None]:
        """Switch the log on; a task that refuses runs the step all the same."""
        with self._lock:
            self._num_steps += 1

        def answered(answer: bytes | None, error: BaseException | None) -> None:
            if error is not None:
                logger.info("a task does not log what it receives", extra={"task": self._task, "reason": str(error)})
            ready()

        request = wire.LoggingRequest(enable_rpc_logging=True)
        return self._connections.begin(self._address, self._task, "Logging", request.SerializeToString(),
                                       "the beginning of its log of transfers", answered)

    def end(self, step_id: int, fetched: Fetched) -> Callable[[], None]:
        """Take out what a step received."""
        with self._lock:
            self._num_steps -= 1
            is_last = not self._num_steps

        def answered(answer: bytes | None, error: BaseException | None) -> None:
            stats = None
            if answer:
                try:
                    for step in wire.LoggingResponse.FromString(answer).step:
                        if step.step_id == step_id:
                            stats = wire.StepStats() if stats is None else stats
                            stats.MergeFrom(step.step_stats)
                except Exception as problem:  # whatever a message of others can be: the step itself has gone well
                    logger.warning("a log of transfers cannot be read", extra={
                        "task": self._task, "reason": str(problem)})
            fetched(stats)

        request = wire.LoggingRequest(disable_rpc_logging=is_last, fetch_step_id=[step_id])
        return self._connections.begin(self._address, self._task, "Logging", request.SerializeToString(),
                                       f"its log of transfers of step {step_id}", answered)


def _nothing() -> None:
    pass
