"""A queue of tensor tuples with a capacity: producers wait for room, consumers for elements, each in order of arrival.

Nobody waits in a thread. An operation that cannot be finished at once stays in its lane as an *attempt*; whoever
changes the queue drives the attempts at the head of both lanes as far as they go and then, without the lock, calls
those back that are done.

An attempt keeps what it has got so far: a dequeue of many may ask for more than the queue holds at a time. What it has
got goes back to where it was taken from when the attempt is cancelled or the queue is closed too early.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runtime._ext.errors import Cancelled, Error, OutOfRange

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.dtypes import DataType
    from runtime.ops.registry import Shape
    from runtime.ops.state.stores import Element, Store

__all__ = ["Queue"]

Done = Callable[[list["Element"] | None, BaseException | None], None]
Completion = Callable[[], None]


class _Attempt:
    """An operation under way; its fields are guarded by the queue's lock.

    Attributes
    ----------
    step : StepContext or None
        Whose cancellation ends it.
    finished : bool
        It has left its lane, and `done` is being called or has been.
    """

    __slots__ = ("allow_fewer", "done", "elements", "finished", "is_close", "is_enqueue", "step", "token", "wanted")

    def __init__(self, step: StepContext | None, done: Done, *, elements: Sequence[Element] = (), wanted: int = 0,
                 allow_fewer: bool = False, is_enqueue: bool = False, is_close: bool = False) -> None:
        self.step = step
        self.done = done
        self.elements = deque(elements)
        self.wanted = wanted
        self.allow_fewer = allow_fewer
        self.is_enqueue = is_enqueue
        self.is_close = is_close
        self.finished = False
        self.token = 0


class Queue:
    """A queue.

    Parameters
    ----------
    kind, name : str
        For messages, for example ``FIFOQueue`` and ``_1_q``.
    component_types : sequence of DataType
    shapes : sequence of shape, or None
        Of the components; None when any are allowed.
    capacity : int
        Most elements at a time; negative for no limit.
    store : Store
        Decides the order.
    min_after_dequeue : int
        While the queue is open, as many elements must stay behind.
    """

    def __init__(self, kind: str, name: str, component_types: Sequence[DataType], shapes: Sequence[Shape] | None,
                 capacity: int, store: Store, min_after_dequeue: int = 0) -> None:
        self.kind = kind
        self.name = name
        self.component_types = tuple(component_types)
        self.shapes = None if shapes is None else tuple(shapes)
        self.capacity = capacity
        self.min_after_dequeue = min_after_dequeue
        self._store = store
        self._lock = threading.Lock()
        self._closed = False
        self._enqueues: deque[_Attempt] = deque()
        self._dequeues: deque[_Attempt] = deque()

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} size {len(self._store)} capacity {self.capacity}>"

    @property
    def closed(self) -> bool:
        """Tell whether the queue takes no more elements."""
        return self._closed

    def size(self) -> int:
        """Return how many elements are in the queue; those that a waiting dequeue has got already do not count."""
        with self._lock:
            return len(self._store)

    def enqueue(self, step: StepContext, elements: Sequence[Element], done: Done) -> None:
        """Add elements, in order, waiting for room before each.

        ``done([], None)`` follows when all are in; Cancelled when the queue or the step ends first.
        """
        self._begin(_Attempt(step, done, elements=elements, is_enqueue=True))

    def dequeue(self, step: StepContext, count: int, done: Done, *, allow_fewer: bool = False) -> None:
        """Take `count` elements, waiting for each; ``done(elements, None)``.

        When the queue is closed with fewer left: those if `allow_fewer` and there are any, else OutOfRange.
        """
        self._begin(_Attempt(step, done, wanted=count, allow_fewer=allow_fewer))

    def shut(self, step: StepContext, done: Done, *, cancel_pending_enqueues: bool) -> None:
        """Close the queue: after the enqueues that wait, or at once, which cancels them."""
        if cancel_pending_enqueues:
            self.close()
            done([], None)
        else:
            self._begin(_Attempt(step, done, is_enqueue=True, is_close=True))

    def close(self) -> None:
        """Close the queue at once and cancel the enqueues that wait."""
        with self._lock:
            self._closed = True
            completions = [self._finish(attempt, error=Cancelled("Enqueue operation was cancelled"))
                           for attempt in self._enqueues]
            self._enqueues.clear()
            completions += self._drive()
        for complete in completions:
            complete()

    def _begin(self, attempt: _Attempt) -> None:
        lane = self._enqueues if attempt.is_enqueue else self._dequeues
        with self._lock:
            lane.append(attempt)
            completions = self._drive()
            waits = not attempt.finished
        if waits and attempt.step is not None:
            # Without the lock: a step that is cancelled already calls back at once.
            attempt.token = attempt.step.on_cancel(lambda: self._cancel(attempt), lambda: self._awaited(attempt))
            if attempt.finished:
                attempt.step.forget(attempt.token)
        for complete in completions:
            complete()

    def _awaited(self, attempt: _Attempt) -> str:
        """Return what an attempt waits for, for those who look."""
        capacity = self.capacity if self.capacity >= 0 else "unbounded"
        state = f"{self.kind} '{self.name}' (size {len(self._store)}, capacity {capacity})"
        if attempt.is_close:
            return f"close of {state} after the enqueues that wait"
        if attempt.is_enqueue:
            return f"enqueue to {state}, elements left: {len(attempt.elements)}"
        return f"dequeue from {state}, elements missing: {attempt.wanted - len(attempt.elements)}"

    def _cancel(self, attempt: _Attempt) -> None:
        """Take an attempt out of its lane, with the elements it has got back in their place."""
        with self._lock:
            if attempt.finished:
                return
            lane = self._enqueues if attempt.is_enqueue else self._dequeues
            lane.remove(attempt)
            if not attempt.is_enqueue:
                self._store.give_back(attempt.elements)
            what = "Enqueue" if attempt.is_enqueue else "Dequeue"
            completions = [self._finish(attempt, error=Cancelled(f"{what} operation was cancelled"))]
            completions += self._drive()
        for complete in completions:
            complete()

    def _finish(self, attempt: _Attempt, error: Error | None = None) -> Completion:
        """Mark an attempt as finished and return what to call when the lock is released."""
        attempt.finished = True

        def complete() -> None:
            if attempt.token and attempt.step is not None:
                attempt.step.forget(attempt.token)
            if error is not None:
                attempt.done(None, error)
            else:
                attempt.done([] if attempt.is_enqueue else list(attempt.elements), None)

        return complete

    def _drive(self) -> list[Completion]:
        """Drive the attempts at the head of both lanes until neither gets further."""
        completions: list[Completion] = []
        moved = True
        while moved:
            moved = False
            while self._enqueues:
                finished, progress = self._drive_enqueue(self._enqueues[0], completions)
                moved = moved or progress
                if not finished:
                    break
                self._enqueues.popleft()
            while self._dequeues:
                finished, progress = self._drive_dequeue(self._dequeues[0], completions)
                moved = moved or progress
                if not finished:
                    break
                self._dequeues.popleft()
        return completions

    def _drive_enqueue(self, attempt: _Attempt, completions: list[Completion]) -> tuple[bool, bool]:
        """Go on with an enqueue or a close; return whether it is finished and whether anything changed."""
        if attempt.is_close:
            error = Cancelled(f"Queue '{self.name}' is already closed.") if self._closed else None
            self._closed = True
            completions.append(self._finish(attempt, error))
            return True, True
        if self._closed:
            completions.append(self._finish(attempt, Cancelled(f"{self.kind} '{self.name}' is closed.")))
            return True, True
        progress = False
        while attempt.elements and (self.capacity < 0 or len(self._store) < self.capacity):
            self._store.put(attempt.elements.popleft())
            progress = True
        if attempt.elements:
            return False, progress
        completions.append(self._finish(attempt))
        return True, True

    def _drive_dequeue(self, attempt: _Attempt, completions: list[Completion]) -> tuple[bool, bool]:
        """Go on with a dequeue; return whether it is finished and whether anything changed."""
        missing = attempt.wanted - len(attempt.elements)
        available = len(self._store)
        if self._closed and available < missing:
            self._store.give_back(attempt.elements)
            attempt.elements.clear()
            if not attempt.allow_fewer or not len(self._store):
                completions.append(self._finish(attempt, OutOfRange(
                    f"{self.kind} '{self.name}' is closed and has insufficient elements (requested {missing}, current "
                    f"size {available})")))
                return True, True
            missing = attempt.wanted = available = len(self._store)
        if not self._closed:
            available -= self.min_after_dequeue
        progress = False
        for _ in range(min(missing, available)):
            attempt.elements.append(self._store.take())
            progress = True
        if len(attempt.elements) < attempt.wanted:
            return False, progress
        completions.append(self._finish(attempt))
        return True, True
