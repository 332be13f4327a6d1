"""The watch over tasks that are being called, where it is due at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from runtime.edge.limits import Account
from runtime.edge.loops import new_loop
from runtime.edge.peer_access import PeerAccess
from runtime.worker.channels import Connections


class Open:
    """A call as its watch sees it."""

    def __init__(self, task: str, began: float) -> None:
        self.address, self.task, self.began = "there", task, began

    def give_up(self) -> None:
        """Nobody waits for it."""


@pytest.mark.parametrize("kind", ["auto", "asyncio"])
def test_a_call_that_goes_on_joins_a_watch_that_is_due_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        nothing: Any = None
        connections = Connections(
            asyncio.get_running_loop(), 30.0, nothing, PeerAccess(None, ()), Account(1 << 20)
        )
        looks: list[str] = []
        monkeypatch.setattr(connections, "_look", lambda address, task: looks.append(task))
        began = time.monotonic() - 60.0
        calls: list[Any] = [Open(task, began) for task in ("first", "second", "third")]
        connections.opened(calls[0])
        for call in calls[1:]:
            connections.opened(call, goes_on=True)
        await asyncio.sleep(0.05)
        assert looks == ["first"]
        await connections.close()

    loop = new_loop(kind)
    try:
        loop.run_until_complete(work())
    finally:
        loop.close()
