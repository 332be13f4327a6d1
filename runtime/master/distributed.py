"""A step over several tasks: registered once, run any number of times, also call by call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Error, Internal, InvalidArgument
from runtime.master.collective_steps import graph_key
from runtime.master.parts_run import Member, PartCall, PartsCall, StepFailure

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.dtypes import DataType
    from runtime.graph.prune import Selection
    from runtime.master.partition import Parts

__all__ = ["DistributedPartialRun", "DistributedStep", "check_supported"]

Done = Callable[["list[Any] | None", "BaseException | None"], None]
Ready = Callable[["BaseException | None"], None]


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
    Tasks keep them until `release`, or the end of the session.
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
        self._registering: list[Ready] | None = None
        self._unregistered: set[str] = set()
        self._num_users = 0
        self._is_released = False
        self._lock = threading.Lock()

    def run(self, step: StepContext, feeds: Sequence[Any]) -> list[Any]:
        """Refuse: a step over several tasks waits for them; use `start`."""
        raise Internal("a step over several tasks was run as one that does not wait")

    def start(self, step: StepContext, feeds: Sequence[Any], done: Done) -> None:
        """Run; ``done(outputs, error)`` is called exactly once, when every part has ended."""
        call = PartCall(self._keyed(range(len(feeds)), feeds), self.parts.fetch_keys, step.trace is not None,
                        step.wants_graphs)
        self.hold()

        def ended(outputs: list[Any] | None, error: BaseException | None) -> None:
            self.let_go()
            done(outputs, error)

        def ready(error: BaseException | None) -> None:
            if error is not None:
                ended(None, error)
                return
            running = self.ask(step, call, lambda outputs, problem: over(running, outputs, problem))
            running.start()

        def over(running: PartsCall, outputs: list[Any] | None, error: BaseException | None) -> None:
            self.clean(step.step_id)
            step.exchange = running.ran
            ended(outputs, error)

        self.when_registered(step, ready)

    def begin_partial(self, step: StepContext) -> DistributedPartialRun:
        """Open a partial run; see `runtime.step.partial.PartialRun`."""
        return DistributedPartialRun(self, step)

    # For runs

    def ask(self, step: StepContext, call: PartCall, done: Done) -> PartsCall:
        """Return a call to all tasks, to be started; the graphs must be registered."""
        handles = self._handles
        assert handles is not None
        return PartsCall(self._members, handles, self._own, call, step, done)

    def _keyed(self, indices: Sequence[int], values: Sequence[Any]) -> dict[str, tuple[Any, DataType]]:
        return {self.parts.feed_keys[index]: (value, self.feed_types[index])
                for index, value in zip(indices, values, strict=True)}

    def partial_call(self, feeds: Sequence[tuple[int, Any]], fetches: Sequence[int], last: bool) -> PartCall:
        """Return what one call of a partial run asks; feeds and fetches by their numbers."""
        return PartCall(self._keyed([index for index, _ in feeds], [value for _, value in feeds]),
                        [self.parts.fetch_keys[index] for index in fetches], partial=True, last=last)

    def clean(self, step_id: int) -> None:
        """Have all tasks forget what is left of a step."""
        for member in self._members.values():
            member.clean(step_id)

    # Graphs on the tasks

    def hold(self) -> None:
        """Keep the graphs registered until `let_go`."""
        with self._lock:
            self._num_users += 1

    def let_go(self) -> None:
        """Take one `hold` back."""
        with self._lock:
            self._num_users -= 1
        self._forget_graphs()

    def release(self) -> None:
        """Have the tasks forget the graphs once nothing runs: nobody will ask for the step again.

        Whoever has found it before still may; its graphs are then registered once more, for that run.
        """
        self._is_released = True
        self._forget_graphs()

    def _forget_graphs(self) -> None:
        with self._lock:
            handles = self._handles
            if handles is None or not self._is_released or self._num_users:
                return
            self._handles = None
        for task, handle in handles.items():
            self._members[task].deregister(handle)

    def when_registered(self, step: StepContext, ready: Ready) -> None:
        """Have ``ready(error)`` called once all parts are registered; a step that is cancelled before gets its error.

        Where that takes until after the step's end, they are there for the next one.
        """
        if self._handles is not None:
            ready(None)
            return
        token = step.on_cancel(lambda: ready(step.error), self._awaited)

        def registered(error: BaseException | None) -> None:
            if step.forget(token):  # not cancelled
                ready(error)

        if token:
            self._register(registered)

    def _awaited(self) -> str:
        """Return what is missing before a step can begin, for those who look at it."""
        with self._lock:
            return f"the registration of its graphs on {', '.join(sorted(self._unregistered)) or 'no task any more'}"

    def _register(self, ready: Ready) -> None:
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
            if failure is not None:
                for one, registered in handles.items():  # the next try makes others
                    self._members[one].deregister(registered)
            if isinstance(failure, Error):
                failure = StepFailure(failure)
            for call in waiting:
                call(failure)
            self._forget_graphs()  # whoever asked for them may be gone

        for task, member in self._members.items():
            member.register(self.parts.graphs[task], self._collective_key, partial(arrived, task))


class DistributedPartialRun:
    """A partial run over several tasks; has the interface of `runtime.step.partial.PartialRun` that masters use.

    Every call goes to all tasks, with the same step number: the first one starts their parts, the last one answers when
    they have ended.

    Notes
    -----
    Safe from several threads.
    """

    def __init__(self, distributed: DistributedStep, step: StepContext) -> None:
        self._distributed = distributed
        self._step = step
        self._lock = threading.Lock()
        self._num_open = 0
        self._has_begun = False
        self._is_ending = False
        self._is_over = False
        distributed.hold()
        self._token = 0
        self._token = step.on_cancel(self._cancelled)  # which a step that is cancelled already calls at once

    def prepare(self, ready: Ready) -> None:
        """Have ``ready(error)`` called once the graphs are registered."""
        self._distributed.when_registered(self._step, ready)

    def call(self, feeds: Sequence[tuple[int, Any]], fetches: Sequence[int], last: bool, done: Done) -> None:
        """Give feeds and take fetches, by their numbers; see `PartialRun.call`."""
        asked = self._distributed.partial_call(feeds, fetches, last)
        with self._lock:
            self._num_open += 1

        def ended(outputs: list[Any] | None, error: BaseException | None) -> None:
            with self._lock:
                self._num_open -= 1
                self._is_ending |= last or error is not None
            done(outputs, error)  # an error ends the step, and so what other calls wait for
            if self._is_ending:
                self._end()

        def ready(error: BaseException | None) -> None:
            if error is not None:
                ended(None, error)
                return
            with self._lock:
                self._has_begun = True
            self._distributed.ask(self._step, asked, ended).start()

        self.prepare(ready)

    def _cancelled(self) -> None:
        with self._lock:
            self._is_ending = True
        self._end()  # when calls are open, with the last of them

    def _end(self) -> None:
        with self._lock:
            if self._is_over or self._num_open:
                return
            self._is_over = True
            has_begun = self._has_begun
        self._step.forget(self._token)
        if has_begun:
            self._distributed.clean(self._step.step_id)
        self._distributed.let_go()


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
