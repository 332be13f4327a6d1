"""What has ended long ago is forgotten: commands, what happened to them, and their output."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from runtime.errors import Error
from runtime.store.commands import CommandRows

if TYPE_CHECKING:
    from runtime.commands.commands import Commands

__all__ = ["Retention"]

logger = logging.getLogger(__name__)

# How often it is looked for what is too old, at most and at least; and how many are forgotten in one write, so that
# those who wait for the writer meanwhile wait for milliseconds.
_LONGEST_PERIOD_S = 300.0
_SHORTEST_PERIOD_S = 0.05
_AT_ONCE = 200


class Retention:
    """Forgets commands that ended longer ago than the rules say. Belongs to the loop of its `Commands`."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, unless everything is kept."""
        if self._commands.rules.retention_s:
            self._task = asyncio.ensure_future(self._forget_often())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _forget_often(self) -> None:
        period = max(_SHORTEST_PERIOD_S, min(_LONGEST_PERIOD_S, self._commands.rules.retention_s / 10))
        while True:
            try:
                while await self.once():
                    pass
            except Error as error:
                logger.warning("old commands could not be forgotten", extra={"reason": error.message})
            await asyncio.sleep(period)

    async def once(self) -> bool:
        """Forget some; return whether there may be more."""
        commands = self._commands
        before_s = commands.now_s() - commands.rules.retention_s
        old = commands.store.read(lambda rows: rows.ended_before(before_s, _AT_ONCE))
        # Output first: of what a crash leaves, the command is still known and is forgotten by the next server.
        gone = [number for number in old if await commands.logs.remove(number)]
        if gone:
            await commands.store.write(lambda rows: _remove(rows, gone, before_s))
        return len(gone) == _AT_ONCE


def _remove(rows: CommandRows, numbers: list[int], before_s: float) -> None:
    for number in numbers:
        rows.remove_ended(number, before_s)
