"""A step over several tasks: registered once, run everywhere at the same time, ended everywhere when one part fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from runtime._ext.errors import Cancelled, Error, Internal, InvalidArgument
from runtime.master.collective_steps import graph_key
from runtime.worker.derived import is_derived

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.dtypes import DataType
    from runtime.graph.prune import Selection
    from runtime.master.partition import Parts

__all__ = ["DistributedStep", "Member", "PartsRun", "StepFailure", "check_supported"]

logger = logging.getLogger(__name__)

Done = Callable[["list[Any] | None", "BaseException | None"], None]
_RULE = "=" * 21
# How long the other parts go on when all that is known is an error that followed from another one.
_CAUSE_WAIT_S = 1.0


class Member(Protocol):
    """One task of a session, as its steps see it: the master's own or another one. Safe from several threads."""

    name: str

    def register(self, graph_def: Any, collective_key: int, done: Callable[[str | None, BaseException | None], None]
                 ) -> None:
        """Register a graph; ``done(handle, error)`` is called exactly once.

        The key is not 0 for a graph with collectives.
        """

    def run(self, graph_handle: str, step_id: int, send: dict[str, tuple[Any, DataType]], receive: Sequence[str],
            trace: bool, done: Callable[[list[Any] | None, Any, BaseException | None], None]) -> Callable[[], None]:
        """Run a registered graph.

        ``done(tensors, step_stats, error)`` is called exactly once, when everything of the step has ended on the task.
        Returns what ends the step early; `done` is still called.
        """

    def clean(self, step_id: int) -> None:
        """Forget what is left of a step; nobody waits for it."""


class PartsRun:
    """What ran of a distributed step, for its metadata.

    Attributes
    ----------
    stats : list of wire.StepStats
        Of the parts that were traced.
    graphs : list of wire.GraphDef
    """

    def __init__(self, stats: list[Any], graphs: list[Any]) -> None:
        self.stats = stats
        self.graphs = graphs


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


class DistributedStep:
    """A compiled step in parts; has the interface of `runtime.step.compile.CompiledStep`.

    Parameters
    ----------
    selection : Selection
    parts : Parts
    members : mapping of str to Member
        By task name; one for each part.
    own_task : str
        The master's, which feeds arrive on and fetches leave from.

    Notes
    -----
    Safe from several threads. The parts are registered with the first run; if that fails, the next run tries again.
    """

    blocking = True
    bounded = True  # its start is: the parts have threads of their own

    def __init__(self, selection: Selection, parts: Parts, members: dict[str, Member], own_task: str) -> None:
        self.feed_types: tuple[DataType, ...] = tuple(entry[3] for entry in selection.feeds)
        self.fetch_types: tuple[DataType, ...] = tuple(entry[3] for entry in selection.fetches)
        self.timing: dict[int, float] = {}
        self.parts = parts
        self._collective_key = graph_key(selection.nodes)
        self._members = {task: members[task] for task in parts.graphs}
        self._own = own_task
        self._handles: dict[str, str] | None = None
        self._registering: list[Callable[[BaseException | None], None]] | None = None
        self._unregistered: set[str] = set()
        self._lock = threading.Lock()

    def run(self, step: StepContext, feeds: Sequence[Any]) -> list[Any]:
        """Refuse: a step over several tasks waits for them; use `start`."""
        raise Internal("a step over several tasks was run as one that does not wait")

    def start(self, step: StepContext, feeds: Sequence[Any], done: Done) -> None:
        """Run; ``done(outputs, error)`` is called exactly once, when every part has ended."""
        if self._handles is not None:
            self._run(self._handles, step, feeds, done)
            return
        # The step may end before its graphs are registered; they are then there for the next one.
        token = step.on_cancel(lambda: done(None, step.error), self._awaited)

        def registered(error: BaseException | None) -> None:
            if not step.forget(token):
                return  # cancelled
            if error is not None:
                done(None, error)
            else:
                assert self._handles is not None
                self._run(self._handles, step, feeds, done)

        if token:
            self._when_registered(registered)

    def _run(self, handles: dict[str, str], step: StepContext, feeds: Sequence[Any], done: Done) -> None:
        _Run(self._members, handles, self._own, self.parts, step, feeds, self.feed_types, done).start()

    def _awaited(self) -> str:
        """Return what is missing before a step can begin, for those who look at it."""
        with self._lock:
            return f"the registration of its graphs on {', '.join(sorted(self._unregistered)) or 'no task any more'}"

    def _when_registered(self, ready: Callable[[BaseException | None], None]) -> None:
        with self._lock:
            if self._handles is None:
                if self._registering is not None:
                    self._registering.append(ready)
                    return
                self._registering = [ready]
                begin = True
            else:
                begin = False
        if not begin:
            ready(None)
            return
        handles: dict[str, str] = {}
        errors: list[BaseException] = []
        missing = self._unregistered = set(self._members)

        def arrived(task: str, handle: str | None, error: BaseException | None) -> None:
            with self._lock:
                missing.discard(task)
                if error is not None or handle is None:
                    errors.append(error or Internal(f"{task} registered a graph without a handle"))
                else:
                    handles[task] = handle
                if missing:
                    return
                if not errors:
                    self._handles = handles
                waiting, self._registering = self._registering or [], None
            # Not from any part of the step: there is none yet.
            failure = errors[0] if errors else None
            if isinstance(failure, Error):
                failure = StepFailure(failure)
            for one in waiting:
                one(failure)

        for task, member in self._members.items():
            member.register(self.parts.graphs[task], self._collective_key, partial(arrived, task))


class _Run:
    """One run of a distributed step."""

    def __init__(self, members: dict[str, Member], handles: dict[str, str], own: str, parts: Parts, step: StepContext,
                 feeds: Sequence[Any], feed_types: Sequence[DataType], done: Done) -> None:
        self._members = members
        self._handles = handles
        self._own = own
        self._parts = parts
        self._step = step
        self._feeds = dict(zip(parts.feed_keys, zip(feeds, feed_types, strict=True), strict=True))
        self._done = done
        self._lock = threading.Lock()
        self._missing = set(members)
        self._outputs: list[Any] = []
        self._errors: list[tuple[str, Error]] = []
        self._ends: list[Callable[[], None]] = []
        self._is_ending = False
        self._timers: list[threading.Timer] = []
        self.stats: list[Any] = []

    def start(self) -> None:
        """Start every part."""
        self._token = self._step.on_cancel(self._end, self._awaited)
        for task, member in self._members.items():
            is_own = task == self._own
            end = member.run(self._handles[task], self._step.step_id, self._feeds if is_own else {},
                             self._parts.fetch_keys if is_own else (), self._step.trace is not None,
                             partial(self._ended, task))
            with self._lock:
                self._ends.append(end)
                is_ending = self._is_ending
            if is_ending:
                end()

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

    def _ended(self, task: str, tensors: list[Any] | None, stats: Any, error: BaseException | None) -> None:
        with self._lock:
            self._missing.discard(task)
            is_last = not self._missing
            if error is not None:
                known = error if isinstance(error, Error) else Internal(f"{type(error).__name__}: {error}")
                self._errors.append((task, known))
            elif task == self._own:
                self._outputs = tensors or []
            if stats is not None:
                self.stats.append(stats)
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
        for member in self._members.values():
            member.clean(self._step.step_id)
        self._step.exchange = PartsRun(self.stats, list(self._parts.graphs.values()))
        if self._errors:
            self._done(None, self._verdict())
        else:
            self._done(self._outputs, None)

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
        for task, error in causes or self._errors[:1]:
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


def _code_name(error: Error) -> str:
    """Return a code as TensorFlow writes it: INVALID_ARGUMENT."""
    name = type(error).__name__
    return "".join(f"_{letter}" if letter.isupper() and index else letter for index, letter in enumerate(name)).upper()


def check_supported(selection: Selection) -> None:
    """Check that nothing in a selection ties several tasks together in a way that has no pair of ends.

    Raises
    ------
    InvalidArgument
        If a reference crosses tasks.
    """
    from runtime.dtypes import REF_OFFSET
    from runtime.master.partition import task_of

    for node in selection.nodes:
        for position, (source, slot) in enumerate(node.inputs):
            if (source.output_types[slot] > REF_OFFSET and node.input_types[position] > REF_OFFSET
                    and task_of(source.device) != task_of(node.device)):
                raise InvalidArgument(f"{{{{node {node.name}}}}} on {node.device} changes {source.name} on "
                                      f"{source.device}: a reference cannot cross tasks")
