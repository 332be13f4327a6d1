"""The server's own lines in commands' output: where an attempt begins, why one has ended."""

from __future__ import annotations

import asyncio
import logging

from runtime.commands.logs import Logs
from runtime.commands.model import TERMINAL, CommandChange, Status
from runtime.errors import Error

__all__ = ["Remarks"]

logger = logging.getLogger(__name__)


class Remarks:
    """Writes what changes have to say, once they are on disk. Belongs to one event loop."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._writing: set[asyncio.Task[None]] = set()

    def changed(self, change: CommandChange) -> None:
        """Take note of a change of status."""
        if change.after in TERMINAL:
            self._logs.wake(change.number)
        begins = change.after is Status.PENDING and change.before not in (
            None, Status.PENDING, Status.ASSIGNED, Status.SUSPENDED
        )
        if change.remark or begins:
            task = asyncio.ensure_future(self._write(change, begins))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def finish(self) -> None:
        """Wait until all that was to be written is."""
        if self._writing:
            await asyncio.wait(self._writing)

    async def _write(self, change: CommandChange, begins: bool) -> None:
        # Until the line is there a follower takes the output as incomplete.
        with self._logs.sending(change.number):
            try:
                if change.remark:
                    attempt = change.attempt - 1 if begins else change.attempt
                    await self._logs.remark(change.number, change.remark, attempt)
                if begins:
                    await self._logs.begin_attempt(change.number, change.attempt)
            except Error as error:
                logger.warning(
                    "a line is missing in a command's output", extra={"command": change.number, "reason": error.message}
                )
