"""Operations that wait for a condition, without a thread.

An operation that cannot be finished at once is kept as an attempt. Whoever changes what it waits for lets the attempts
try again, with the lock held, and then, without the lock, calls those back that are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Cancelled

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext

__all__ = ["Attempt", "Completion", "Done", "Waiting", "call_all"]

Done = Callable[[Any, "BaseException | None"], None]
Completion = Callable[[], None]
Attempt = Callable[[], "tuple[Any, BaseException | None] | None"]
"""Tries, with the lock held: a result or an error, or None when it has to wait on."""


class _Operation:
    """An operation that waits; its fields are guarded by the lock."""

    __slots__ = ("attempt", "cancelled", "done", "finished", "step", "token")

    def __init__(self, step: StepContext, attempt: Attempt, done: Done, cancelled: str) -> None:
        self.step = step
        self.attempt = attempt
        self.done = done
        self.cancelled = cancelled
        self.finished = False
        self.token = 0


class Waiting:
    """Operations that wait on the same thing.

    Parameters
    ----------
    lock : threading.Lock or threading.RLock
        Guards what they wait for.
    in_order : bool
        Whether nobody may be served before those that came earlier; else everybody tries.
    after : callable
        Called with the lock when operations are done: lets others try that this may have helped, and returns what to
        call without it.
    """

    def __init__(self, lock: AbstractContextManager[Any], in_order: bool = True,
                 after: Callable[[], list[Completion]] = list) -> None:
        self._lock = lock
        self._in_order = in_order
        self._after = after
        self._operations: list[_Operation] = []

    def __len__(self) -> int:
        return len(self._operations)

    def submit(self, step: StepContext, attempt: Attempt, done: Done, cancelled: str,
               waits_for: Callable[[], str]) -> None:
        """Do an operation, now or when it can be done.

        Parameters
        ----------
        attempt : callable
            Called with the lock held, until it gives a result or an error.
        done : callable
            ``done(result, error)``, called once, without the lock.
        cancelled : str
            Text of the error when the step ends first.
        waits_for : callable
            Returns in words what it waits for, for those who look at the step; called without the lock.
        """
        operation = _Operation(step, attempt, done, cancelled)
        with self._lock:
            self._operations.append(operation)
            completions = self.drive()
            waits = not operation.finished
            if not waits:
                completions += self._after()
        if waits:
            # Without the lock: a step that is cancelled already calls back at once.
            operation.token = step.on_cancel(lambda: self._cancel(operation), waits_for)
            if operation.finished:
                step.forget(operation.token)
        call_all(completions)

    def drive(self) -> list[Completion]:
        """Let the operations try, with the lock held; return what to call without it."""
        completions: list[Completion] = []
        waiting: list[_Operation] = []
        blocked = False
        for operation in self._operations:
            outcome = None if blocked else operation.attempt()
            if outcome is None:
                blocked = self._in_order
                waiting.append(operation)
            else:
                completions.append(self._finish(operation, *outcome))
        self._operations = waiting
        return completions

    def fail(self, error: Callable[[], BaseException]) -> list[Completion]:
        """End all operations with an error, with the lock held; return what to call without it."""
        operations, self._operations = self._operations, []
        return [self._finish(operation, None, error()) for operation in operations]

    def _cancel(self, operation: _Operation) -> None:
        with self._lock:
            if operation.finished:
                return
            self._operations.remove(operation)
            completions = [self._finish(operation, None, Cancelled(operation.cancelled)), *self.drive(), *self._after()]
        call_all(completions)

    def _finish(self, operation: _Operation, result: Any, error: BaseException | None) -> Completion:
        operation.finished = True

        def complete() -> None:
            if operation.token:
                operation.step.forget(operation.token)
            operation.done(result, error)

        return complete


def call_all(completions: Iterable[Completion]) -> None:
    """Call back those that are done; the lock must not be held."""
    for complete in completions:
        complete()
