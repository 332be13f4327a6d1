"""An event loop without sockets whose time passes when nothing else is to be done."""

from __future__ import annotations

import asyncio
from typing import Any

# No story takes longer than this, in seconds of the fake clock.
_END = 3600.0


class FakeSelector:
    """Waits for nothing: moves the loop's clock instead."""

    def __init__(self, loop: FakeLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        """Let ``timeout`` seconds pass at once."""
        if timeout is None:
            raise RuntimeError("everything waits, and nothing is to come: a wait was lost")
        if timeout > 0:
            self._loop.now += timeout
            if self._loop.now > _END:
                raise RuntimeError(f"after {_END:g} s there is still no end: something was lost")
        return []


class FakeLoop(asyncio.BaseEventLoop):
    """A loop whose ``time()`` begins at 0 and jumps to whatever is due next.

    Attributes
    ----------
    now : float
        Seconds; a test may move it forward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._selector = FakeSelector(self)

    def time(self) -> float:
        """Return the fake time."""
        return self.now

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
