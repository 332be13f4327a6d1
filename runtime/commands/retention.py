"""What has ended long ago is forgotten: commands, what happened to them, and their output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.periodic import repeat
from runtime.store.commands import CommandRows

if TYPE_CHECKING:
    from runtime.commands.commands import Commands

__all__ = ["Retention"]

# How often it is looked for what is too old, at most and at least; and how many are forgotten in one write, so that
# those who wait for the writer meanwhile wait for milliseconds.
_LONGEST_PERIOD_S = 300.0
_SHORTEST_PERIOD_S = 0.05
_AT_ONCE = 200


class Retention:
    """Forgets commands that ended longer ago than the rules say. Belongs to the loop of its `Commands`."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    async def run(self) -> None:
        """Forget until this is cancelled, unless everything is kept."""
        retention_s = self._commands.rules.retention_s
        if retention_s:
            period_s = max(_SHORTEST_PERIOD_S, min(_LONGEST_PERIOD_S, retention_s / 10))
            await repeat(self._forget_all, period_s, "old commands could not be forgotten", pauses_first=False)

    async def _forget_all(self) -> None:
        while await self._forget_some():
            pass

    async def _forget_some(self) -> bool:
        """Return whether there may be more."""
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
