"""How long leases live without a sign of life, when the server itself stands still for a time."""

from __future__ import annotations

import asyncio
from typing import Any

from runtime.tasks.leases import Lease, LeaseTable
from tests.tasks.simulation.clock import FakeLoop

TTL_S = 8.0
NAMES = ("before", "renewed", "after")


def test_a_standstill_gives_time_to_those_leases_alone_that_it_befell() -> None:
    loop = FakeLoop()
    ended: dict[str, float] = {}
    nobody: Any = None
    before, renewed, after = (Lease(nobody, number, 1, number, name, nobody) for number, name in enumerate(NAMES))

    async def work() -> None:
        def expire(lease: Lease) -> None:
            ended[lease.owner] = loop.time()
            table.remove(lease)

        table = LeaseTable(TTL_S, expire)
        table.add([before, renewed])
        await asyncio.sleep(0.5)
        loop.now += 100.0
        # The table has not looked at the clock since.
        table.add([after])
        table.renew(renewed)
        await asyncio.sleep(2 * TTL_S)
        assert set(ended) == set(NAMES)
        # It looks once a second.
        assert all(100.5 + TTL_S - 1.0 <= time_s <= 100.5 + TTL_S + 1.0 for time_s in ended.values()), ended
        table.close()

    try:
        loop.run_until_complete(work())
    finally:
        loop.close()
