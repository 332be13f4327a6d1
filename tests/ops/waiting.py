"""What tests of operations that wait have in common."""

from __future__ import annotations

import threading
from typing import Any

from runtime._ext.executor import StepContext
from runtime.devices.device import cpu_device
from runtime.step.environment import SessionState
from runtime.step.files import FileAccess

__all__ = ["WAIT_S", "Answer", "Steps"]

WAIT_S = 10.0


class Answer:
    """What `done` was called with; fails on a second call."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self.calls = 0
        self.value: Any = None
        self.error: BaseException | None = None

    def __call__(self, value: Any, error: BaseException | None) -> None:
        self.calls += 1
        assert self.calls == 1, "done was called twice"
        self.value, self.error = value, error
        self._set.set()

    @property
    def waits(self) -> bool:
        return not self._set.is_set()

    def result(self) -> Any:
        """Return the value; raise the error."""
        assert self._set.wait(WAIT_S), "no answer"
        if self.error is not None:
            raise self.error
        return self.value


class Steps:
    """Makes steps of one session."""

    def __init__(self) -> None:
        self.session = SessionState(cpu_device("worker", 0), FileAccess(None))
        self._made = 0

    def new(self) -> StepContext:
        self._made += 1
        return StepContext(self._made, self.session)
