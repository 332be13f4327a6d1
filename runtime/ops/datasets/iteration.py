"""One reading of a dataset: who asks for elements, what runs for them, and how that ends."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Cancelled, Internal, OutOfRange
from runtime._ext.executor import StepContext
from runtime.ops.datasets.task import Done, HandOver, Promise, Task

if TYPE_CHECKING:
    from runtime.ops.datasets.dataset import Dataset, DatasetIterator, Element
    from runtime.step.environment import CompiledFunction, SessionState

__all__ = ["Iteration", "Reader"]

logger = logging.getLogger(__name__)

# Elements that usually take longer than this are made in the pool and not in the thread that asks, which may be the
# loop that serves everybody.
_SHORT_S = 0.5e-3
_WEIGHT = 0.25

_CALL_IDS = itertools.count(1 << 40)

Reader = Callable[["DatasetIterator"], Coroutine[Any, Any, Any]]
"""What a pull runs: a coroutine over the outermost iterator."""


def _next(iterator: DatasetIterator) -> Coroutine[Any, Any, Element | None]:
    return iterator.next()


class _Pull:
    """Somebody waits for an element; its fields are guarded by the iteration's lock.

    Attributes
    ----------
    finished : bool
        `done` is being called or has been.
    """

    __slots__ = ("done", "finished", "owner", "read", "step", "task", "token")

    def __init__(self, step: StepContext, read: Reader, done: Done, owner: object) -> None:
        self.owner = owner
        self.step = step
        self.read = read
        self.done = done
        self.finished = False
        self.task: Task | None = None
        self.token = 0


class Iteration:
    """A dataset's iterators at work.

    Pulls are served one after the other. What a pull and the tasks that read ahead run, user functions included, ends
    when the step that waits is cancelled; elements under way are then lost, those that were read ahead are not, and
    the next pull goes on from there.

    Parameters
    ----------
    dataset : Dataset
    state : SessionState
        What functions run in.

    Notes
    -----
    Safe from several threads.
    """

    def __init__(self, dataset: Dataset, state: SessionState) -> None:
        self.state = state
        self.hand_over: HandOver | None = None
        self._lock = threading.Lock()
        self._error: BaseException | None = None  # what everything under way ends with
        self._waiting: deque[_Pull] = deque()
        self._current: _Pull | None = None
        self._background: set[Task] = set()
        self._calls: set[StepContext] = set()
        self._branch: SessionState | None = None
        self._instances: dict[CompiledFunction, CompiledFunction] = {}
        self._usual_s: float | None = None
        self._is_bounded = True  # no function that was called may take longer in the next call than in the last
        self._serving = False
        self._retired = False
        self._closed = False
        self._root = dataset.iterator(self, "Iterator::Root")

    # For steps.

    def pull(self, step: StepContext, done: Done, read: Reader = _next, owner: object = None) -> None:
        """Read: ``done(element, None)``, with None for the element at the end, or ``done(None, error)``.

        Parameters
        ----------
        read : callable, optional
            ``read(iterator)`` returns the coroutine to run; it gives the next element by default.
        owner : object, optional
            Kept alive until then.
        """
        pull = _Pull(step, read, done, owner)
        with self._lock:
            refused = self._retired
            if not refused:
                self._waiting.append(pull)
                if step.hand_over is not None:
                    self.hand_over = step.hand_over
        if refused:
            done(None, Cancelled("the iterator was closed"))
            return
        self._serve()
        waits = not pull.finished
        if waits:
            # Without the lock: a step that is cancelled already calls back at once.
            pull.token = step.on_cancel(lambda: self._cancel_pull(pull), lambda: "an element of a dataset's iterator")
            if pull.finished:
                step.forget(pull.token)

    def close(self) -> None:
        """End everything that is under way and refuse what comes."""
        self._end(Cancelled("the iterator was closed"), everybody=True)

    def retire(self) -> None:
        """Refuse new pulls, and close when those that wait have been served."""
        with self._lock:
            self._retired = True
            busy = self._current is not None or bool(self._waiting)
        if not busy:
            self.close()

    # For iterators.

    def check(self) -> None:
        """Raise the error that everything under way ends with, if there is one."""
        if self._error is not None:
            raise self._error

    @property
    def is_ending(self) -> bool:
        """Tell whether what is under way is to end."""
        return self._error is not None

    async def call(self, function: CompiledFunction, args: Sequence[Any]) -> list[Any]:
        """Run a user function and return its outputs.

        Raises
        ------
        Error
            The function's, or the cause why this iteration ends.
        """
        function = self._instances.get(function) or self._instance(function)
        step = StepContext(next(_CALL_IDS), self.state, None, self.hand_over, self.state.step_memory_limit)
        self._calls.add(step)
        try:
            if self._error is not None:  # looked at after `_end` can see the call
                raise self._error
            if not function.is_asynchronous:
                return function.run(step, args)
            outputs = Promise(holds=True)  # `_end` cancels the call, which then says when it has ended
            function.start(step, args, outputs.keep)
            return await outputs  # type: ignore[no-any-return]
        finally:
            self._calls.discard(step)
            step.close()

    def leave(self, function: CompiledFunction, args: Sequence[Any], done: Done) -> None:
        """Run a user function that cleans up behind the reading, which does not wait for it."""
        step = StepContext(next(_CALL_IDS), self.state, None, self.hand_over, self.state.step_memory_limit)

        def ended(outputs: Any, error: BaseException | None) -> None:
            step.close()
            done(outputs, error)

        def begin() -> None:
            try:
                (self._instances.get(function) or self._instance(function)).start(step, args, ended)
            except Exception as error:
                ended(None, error)

        try:
            begin() if self.hand_over is None else self.hand_over(begin)
        except Cancelled as error:  # the server stops
            ended(None, error)

    def _instance(self, function: CompiledFunction) -> CompiledFunction:
        """Return a function with state of this reading's own, so that another begins with the same random numbers."""
        bounded = function.is_bounded()
        with self._lock:
            self._is_bounded = self._is_bounded and bounded
            if self._branch is None:
                self._branch = self.state.branch()
            made = function.instance(self._branch) if function.is_stateful else function
            return self._instances.setdefault(function, made)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the pulls; it sees to its errors itself."""
        task: Task

        def ended(_: Any, error: BaseException | None) -> None:
            if error is not None and self._error is None and not isinstance(error, Cancelled):
                logger.error("a task that reads ahead failed", exc_info=error)
            with self._lock:
                self._background.discard(task)
            self._revive()
            self._serve()

        task = Task(coroutine, self.hand_over, ended)
        with self._lock:
            self._background.add(task)
            error = self._error
        if error is not None:
            task.cancel(error)
        task.start_elsewhere()

    # Serving pulls.

    def _serve(self) -> None:
        """Begin what waits, as far as one after the other allows."""
        while True:
            with self._lock:
                if self._serving or self._current is not None or not self._waiting or self._error is not None:
                    return
                pull = self._current = self._waiting.popleft()
                self._serving = True
            self._begin(pull)
            with self._lock:
                self._serving = False

    def _begin(self, pull: _Pull) -> None:
        started = time.perf_counter()

        def ended(element: Any, error: BaseException | None) -> None:
            seconds = time.perf_counter() - started
            usual = self._usual_s
            self._usual_s = seconds if usual is None else usual + (seconds - usual) * _WEIGHT
            self._finish(pull, element, error)

        task = pull.task = Task(pull.read(self._root), self.hand_over, ended)
        if self._error is not None:  # looked at after `_end` can see the task
            task.cancel(self._error)
        if self._is_bounded and self._usual_s is not None and self._usual_s <= _SHORT_S:
            task.start()
        else:
            task.start_elsewhere()

    def _finish(self, pull: _Pull, element: Any, error: BaseException | None) -> None:
        with self._lock:
            pull.finished = True
            self._current = None
            is_last = self._retired and not self._waiting
        if pull.token:
            pull.step.forget(pull.token)
        if isinstance(error, OutOfRange):  # it would be taken for the end of the sequence
            error = Internal(f"Iterator \"{self._root.prefix}\" returned `OutOfRange`. This indicates an "
                             "implementation error as `OutOfRange` errors are not expected to be returned here. "
                             f"Original message: {error.message}")
        pull.done(element, error)
        if is_last:
            self.close()
        self._revive()
        self._serve()

    # Ending.

    def _cancel_pull(self, pull: _Pull) -> None:
        with self._lock:
            if pull.finished:
                return
            waits = pull in self._waiting
            if waits:
                self._waiting.remove(pull)
                pull.finished = True
        if waits:
            pull.done(None, Cancelled("the step was cancelled"))
        else:
            self._end(Cancelled("the step was cancelled"))

    def _end(self, error: BaseException, everybody: bool = False) -> None:
        dropped: list[_Pull] = []
        with self._lock:
            if everybody:
                self._retired = True
                dropped.extend(self._waiting)
                self._waiting.clear()
                for pull in dropped:
                    pull.finished = True
            if self._error is None:
                self._error = error
            current = self._current
            tasks = [*self._background, *([current.task] if current is not None and current.task is not None else ())]
        for call in list(self._calls):
            call.cancel(error)
        for task in tasks:
            task.cancel(error)
        for pull in dropped:
            if pull.token:
                pull.step.forget(pull.token)
            pull.done(None, error)
        self._revive()
        self._serve()

    def _revive(self) -> None:
        """When everything has ended: close if that was to be, else be ready for the next pull."""
        with self._lock:
            if self._error is None or self._current is not None or self._background or self._closed:
                return
            if not self._retired:
                self._error = None
                return
            self._closed = True
        self._root.close()
