"""One call of a step over several tasks: asked of all of them at once, ended everywhere when one part fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from runtime._ext.errors import Cancelled, Error, Internal
from runtime.worker.derived import is_derived, without_mark

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.dtypes import DataType

__all__ = ["Member", "PartAnswer", "PartCall", "PartsCall", "PartsRun", "StepFailure"]

logger = logging.getLogger(__name__)

_RULE = "=" * 21
# How long the other parts go on when all that is known is an error that followed from another one.
_CAUSE_WAIT_S = 1.0


@dataclass(eq=False, slots=True)
class PartCall:
    """What a call of a step asks of one task.

    Attributes
    ----------
    send : mapping of str to (ndarray, DataType)
        Fed tensors by rendezvous key.
    receive : sequence of str
        Keys of the tensors to answer with.
    trace : bool
        Record what runs, and what is received from other tasks.
    graphs : bool
        Return the graphs that ran.
    partial : bool
        One call of several of a partial run; ``last`` tells the last one.
    watch : callable, optional
        ``watch(step)`` is told the `StepContext` of the part, where that runs in this process.
    """

    send: Mapping[str, tuple[Any, DataType]] = field(default_factory=dict)
    receive: Sequence[str] = ()
    trace: bool = False
    graphs: bool = False
    partial: bool = False
    last: bool = False
    watch: Callable[[StepContext], None] | None = None


@dataclass(slots=True)
class PartAnswer:
    """What a task answers.

    Attributes
    ----------
    tensors : list of ndarray
        In the order of the keys.
    stats : list of wire.StepStats
    graphs : list of wire.GraphDef
    """

    tensors: list[Any] = field(default_factory=list)
    stats: list[Any] = field(default_factory=list)
    graphs: list[Any] = field(default_factory=list)


Ended = Callable[["PartAnswer | None", "BaseException | None"], None]
Done = Callable[["list[Any] | None", "BaseException | None"], None]


class Member(Protocol):
    """One task of a session, as its steps see it: the master's own or another one. Safe from several threads."""

    name: str

    def register(self, graph_def: Any, collective_key: int, done: Callable[[str | None, BaseException | None], None]
                 ) -> None:
        """Register a graph; ``done(handle, error)`` is called exactly once.

        The key is not 0 for a graph with collectives.
        """

    def deregister(self, graph_handle: str) -> None:
        """Have a graph forgotten; nobody waits for it."""

    def run(self, graph_handle: str, step_id: int, call: PartCall, done: Ended) -> Callable[[], None]:
        """Run a registered graph, or make one call of a partial run of it.

        ``done(answer, error)`` is called exactly once, when everything of the call has ended on the task. Returns what
        ends the step early; `done` is still called.
        """

    def clean(self, step_id: int) -> None:
        """Forget what is left of a step; nobody waits for it."""


class PartsRun:
    """What ran of a distributed step, for its metadata.

    Attributes
    ----------
    stats : list of wire.StepStats
        Of the parts that were traced, and of what they received.
    graphs : list of wire.GraphDef
        Those that ran, where they were asked for.
    """

    def __init__(self) -> None:
        self.stats: list[Any] = []
        self.graphs: list[Any] = []


class StepFailure(Exception):
    """Carries an error of a step together with the task that it comes from.

    Attributes
    ----------
    error : Error
        With its final text.
    """

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error


class PartsCall:
    """One call of a step, on all of its tasks.

    Parameters
    ----------
    members : mapping of str to Member
        By task name.
    handles : mapping of str to str
        Of their graphs.
    own : str
        The master's task, which feeds arrive on and fetches leave from.
    call : PartCall
        Feeds and fetches are the own task's alone; the rest is for all. It belongs to this object from now on.
    step : StepContext
    done : callable
        ``done(outputs, error)``, called exactly once, when the call has ended on every task.

    Attributes
    ----------
    own_step : StepContext or None
        That of the own task's part, once it runs.
    ran : PartsRun
    """

    def __init__(self, members: Mapping[str, Member], handles: Mapping[str, str], own: str, call: PartCall,
                 step: StepContext, done: Done) -> None:
        self._members = members
        self._handles = handles
        self._own = own
        self._call = call
        self._step = step
        self._done = done
        self._lock = threading.Lock()
        self._missing = set(members)
        self._outputs: list[Any] = []
        self._errors: list[tuple[str, Error]] = []
        self._ends: list[Callable[[], None]] = []
        self._is_ending = False
        self._timers: list[threading.Timer] = []
        self.own_step: StepContext | None = None
        self.ran = PartsRun()

    def start(self) -> None:
        """Ask every task."""
        self._token = self._step.on_cancel(self._end, self._awaited)
        self._step.exchange = self  # for those who look
        call = self._call
        call.watch = self._watch
        others = PartCall({}, (), call.trace, call.graphs, call.partial, call.last)
        for task, member in self._members.items():
            end = member.run(self._handles[task], self._step.step_id, call if task == self._own else others,
                             partial(self._ended, task))
            with self._lock:
                self._ends.append(end)
                is_ending = self._is_ending
            if is_ending:
                end()

    def _watch(self, step: StepContext) -> None:
        self.own_step = step

    def _awaited(self) -> str:
        """Return what is missing, for those who look at the step."""
        with self._lock:
            return f"its parts on {', '.join(sorted(self._missing))}"

    def _end(self) -> None:
        """End all parts, now or as soon as they are started."""
        with self._lock:
            self._is_ending = True
            ends, self._ends = self._ends, []
        for end in ends:
            end()

    def _ended(self, task: str, answer: PartAnswer | None, error: BaseException | None) -> None:
        with self._lock:
            self._missing.discard(task)
            is_last = not self._missing
            if error is not None:
                known = error if isinstance(error, Error) else Internal(f"{type(error).__name__}: {error}")
                self._errors.append((task, known))
            elif answer is not None:
                if task == self._own:
                    self._outputs = answer.tensors
                self.ran.stats += answer.stats
                self.ran.graphs += answer.graphs
            fails = error is not None and not self._is_ending and not is_last
            must_wait = fails and isinstance(error, Error) and is_derived(error)
        if must_wait:
            # The cause is on its way from the task that failed; ending that task's part now would lose it.
            timer = threading.Timer(_CAUSE_WAIT_S, self._end)
            timer.daemon = True
            self._timers.append(timer)
            timer.start()
        elif fails:
            self._end()
        if not is_last:
            return
        for timer in self._timers:
            timer.cancel()
        self._step.forget(self._token)
        done, outputs, error = self._done, self._outputs, self._verdict() if self._errors else None
        # Calls to other tasks know this object for longer; tensors are not to stay for that.
        self._call, self._done, self._outputs, self._errors, self._ends = PartCall(), _ignore, [], [], []
        done(None if error is not None else outputs, error)

    def _verdict(self) -> BaseException:
        """Return the error to tell: the causes, and not what followed from them."""
        if self._step.cancelled and self._step.error is not None:
            return self._step.error
        causes = [(task, error) for task, error in self._errors
                  if not is_derived(error) and not isinstance(error, Cancelled)]
        # What another task failed with arrives here twice, once by way of the tensors that were awaited from it.
        causes.sort(key=lambda cause: cause[0] == self._own)
        distinct = []
        seen = set()
        for task, found in causes or self._errors[:1]:
            error = _unmarked(found)
            lost = getattr(error, "lost_task", None)  # whoever misses it, the error is that one's
            if lost not in seen and error.message not in seen:
                seen.add(lost or error.message)
                distinct.append((lost or task, error))
        if len(distinct) == 1:
            task, error = distinct[0]
            return StepFailure(type(error)(f"From {task}:\n{error.message}"))
        first = distinct[0][1]
        entries = "".join(f"{_code_name(error)}: From {task}:\n{error.message}\n" for task, error in distinct)
        return StepFailure(type(first)(f"\n{_RULE}\n{entries}{_RULE}"))


def _ignore(outputs: list[Any] | None, error: BaseException | None) -> None:
    pass


def _unmarked(error: Error) -> Error:
    message = without_mark(error.message)
    return error if message == error.message else type(error)(message)


def _code_name(error: Error) -> str:
    """Return a code as TensorFlow writes it: INVALID_ARGUMENT."""
    name = type(error).__name__
    return "".join(f"_{letter}" if letter.isupper() and index else letter for index, letter in enumerate(name)).upper()
