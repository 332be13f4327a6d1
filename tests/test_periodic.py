"""What goes on beside the calls goes on whatever one turn meets."""

from __future__ import annotations

import asyncio
import logging

import pytest

from runtime.errors import Unavailable
from runtime.periodic import repeat


def test_a_turn_that_fails_is_told_and_the_next_one_comes(caplog: pytest.LogCaptureFixture) -> None:
    turns: list[float] = []

    async def work() -> None:
        turns.append(asyncio.get_running_loop().time())
        if len(turns) < 3:
            raise (Unavailable("the store says no"), ZeroDivisionError("a mistake"))[len(turns) - 1]
        going.cancel()

    async def run() -> None:
        nonlocal going
        going = asyncio.ensure_future(repeat(work, 0.01, "it failed"))
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(going), 60)

    going: asyncio.Future[None]
    asyncio.run(run())
    assert len(turns) == 3
    first, second = [record for record in caplog.records if record.message == "it failed"]
    assert (first.levelno, first.reason) == (logging.WARNING, "the store says no")  # type: ignore[attr-defined]
    assert second.levelno == logging.ERROR and second.exc_info is not None
    assert second.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize(("pauses_first", "turns"), [(True, 0), (False, 1)])
def test_the_first_turn_comes_at_once_where_that_is_wanted(pauses_first: bool, turns: int) -> None:
    seen: list[None] = []

    async def work() -> None:
        seen.append(None)

    async def run() -> None:
        going = asyncio.ensure_future(repeat(work, 60.0, "it failed", pauses_first=pauses_first))
        for _ in range(5):
            await asyncio.sleep(0)
        going.cancel()
        await asyncio.wait([going])

    asyncio.run(run())
    assert len(seen) == turns
