"""What is looked after beside the calls: workers that have fallen silent, offers that nobody took."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from runtime.commands import lost
from runtime.commands.model import WorkerStatus
from runtime.periodic import repeat
from runtime.store.commands import CommandRows

if TYPE_CHECKING:
    from runtime.commands.commands import Commands

__all__ = ["Sweep"]

logger = logging.getLogger(__name__)

# How often silent workers and forgotten offers are looked for, at most and at least.
_LONGEST_PERIOD_S = 5.0
_SHORTEST_PERIOD_S = 0.05
# How often it is stored when workers were last heard of.
_SEEN_S = 30.0


class Sweep:
    """Looks after the workers of a `Commands`, on its loop."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._seen_stored = commands.clock()

    async def run(self) -> None:
        """Sweep until this is cancelled."""
        rules = self._commands.rules
        period_s = min(_LONGEST_PERIOD_S, rules.offline_s / 4, rules.redelivery_s / 4, rules.evict_s / 4)
        await repeat(self.once, max(_SHORTEST_PERIOD_S, period_s), "workers could not be looked after")

    async def once(self) -> None:
        """Take from workers what they have fallen silent with, and hand out what is left lying."""
        commands = self._commands
        presence, rules, now_s = commands.presence, commands.rules, commands.now_s()
        silent = presence.silent(rules.offline_s)
        evicted = frozenset(presence.silent(rules.evict_s))
        for number in silent:
            presence.leave(number)
        unconfirmed = commands.deliveries.unconfirmed()
        for _, number in unconfirmed:
            # It was in vain with this one: others come first, until it pings again.
            presence.leave(number)
        seen: dict[int, float] = {}
        if commands.clock() - self._seen_stored > _SEEN_S:
            self._seen_stored = commands.clock()
            seen = {number: now_s - presence.silence(number) for number in presence.present}

        def look_after(rows: CommandRows) -> None:
            for number in silent:
                worker = rows.worker(number)
                if worker is None or worker.status is WorkerStatus.DELETED:
                    continue
                if lost.went_offline(rows, worker, now_s):
                    logger.warning("a worker is silent", extra={"worker": worker.name, "seconds": rules.offline_s})
                if number in evicted:
                    why = f"worker {worker.name} was silent for more than {rules.evict_s:g} s"
                    for command in lost.give_up(rows, worker, rules, now_s, why):
                        logger.warning("a worker lost a task", extra={"worker": worker.name, "task": command.number})
            lost.reclaim(rows, unconfirmed, now_s)
            for number, time_s in seen.items():
                rows.see_worker(number, time_s)
            commands.assign_soon(rows)

        if silent or unconfirmed or seen or commands.store.read(lambda rows: rows.has_pending()):
            await commands.store.write(look_after)
        for number in evicted:
            # It has nothing left to lose, and need not be looked at before it calls again.
            presence.give_up(number)
