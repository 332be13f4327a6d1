"""Partial runs: a step whose feeds come, and whose fetches leave, over several calls."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Error, InvalidArgument
from runtime.dtypes import from_numpy, to_numpy
from runtime.graph.graph import Graph
from runtime.graph.node import Node
from runtime.graph.prune import Selection, fetch_endpoint, select
from runtime.master.steps import PreparedStep, Signature, StepOptions, StepTable

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.master.session import MasterSession
    from runtime.step.compile import CompiledStep

__all__ = ["PartialRuns"]

PartialDone = Callable[[list[Any] | None, BaseException | None, bool], None]
"""Called with outputs, error, and whether the run has ended."""


class PartialRuns:
    """The partial runs of a session, numbered from 0.

    Their compiled steps are kept apart from those of ordinary steps.

    Safe from several threads.
    """

    def __init__(self, session: MasterSession, step_limit: int) -> None:
        owner = self._owner = weakref.ref(session)  # as in CallableTable

        def compile_partial(signature: Signature) -> tuple[Selection, CompiledStep]:
            live = owner()
            assert live is not None
            return live.compile(select(live.graph, *signature), partial=True)

        self._steps = StepTable(step_limit, compile_partial)
        self._runs: dict[str, _Run] = {}
        self._next = 0
        self._lock = threading.Lock()

    def setup(self, feeds: tuple[str, ...], fetches: tuple[str, ...], targets: tuple[str, ...]) -> str:
        """Check and compile a signature, begin a run of it, and return the run's handle. Nothing runs yet.

        Raises
        ------
        Error
            What is wrong with the signature.
        """
        with self._lock:
            handle = str(self._next)
            self._next += 1
        key: Hashable = (feeds, fetches, targets)
        prepared = self._steps.exact.get(key)
        if prepared is None:
            prepared = self._steps.prepare(key, feeds, fetches, targets, StepOptions())
        session = self._owner()
        assert session is not None
        run = _Run(session, prepared, session.begin())
        self._runs[handle] = run
        return handle

    def prepare(self, handle: str, done: Callable[[BaseException | None], None]) -> None:
        """Have ``done(error)`` called once a run can begin on all of its tasks; with an error, it has ended.

        Raises
        ------
        InvalidArgument
            If there is no such run.
        """
        run = self._find(handle)

        def ready(error: BaseException | None) -> None:
            if error is not None:
                self._runs.pop(handle, None)
                error = run.give_up(error)
            done(error)

        run.prepare(ready)

    def context(self, handle: str) -> StepContext:
        """Return the step of a run, for cancelling it.

        Raises
        ------
        InvalidArgument
            If there is no such run.
        """
        return self._find(handle).step

    def kinds(self, handle: str, feeds: Sequence[str], values: Sequence[Any]) -> list[int]:
        """Return the types of feed arrays, object arrays and quantized integers taken for what is expected."""
        expected = self._find(handle).feed_types
        return [
            int(expected[name])
            if name in expected and array.dtype == to_numpy(expected[name])
            else int(from_numpy(array.dtype))
            for name, array in zip(feeds, values, strict=True)
        ]

    def run(
        self,
        handle: str,
        feeds: Sequence[str],
        values: Sequence[Any],
        kinds: Sequence[int],
        fetches: Sequence[str],
        done: PartialDone,
    ) -> None:
        """Give a run some feeds and take some fetches.

        Parameters
        ----------
        handle : str
            From `setup`.
        feeds, values, kinds : sequences
            Names, arrays and DataType numbers of this call's feeds.
        fetches : sequence of str
            Distinct names.
        done : callable
            ``done(outputs, error, ended)``, once, perhaps from another thread.

        Raises
        ------
        InvalidArgument
            If there is no such run, a feed or fetch is not part of it or was used before, or a fetch needs a feed
            that has not come. The run goes on.
        """
        run = self._find(handle)
        last = run.claim(feeds, fetches)

        def finished(outputs: list[Any] | None, error: BaseException | None, ended: bool) -> None:
            if ended:
                self._runs.pop(handle, None)
            done(outputs, error, ended)

        run.go(feeds, values, kinds, fetches, last, finished)

    def cancel(self, error: Error) -> None:
        """End every run."""
        for handle in list(self._runs):
            run = self._runs.pop(handle, None)
            if run is not None:
                run.cancel(error)

    def drop(self, handle: str, error: Error) -> None:
        """End one run, if it is there."""
        run = self._runs.pop(handle, None)
        if run is not None:
            run.cancel(error)

    def clear(self) -> None:
        """Forget the compiled steps."""
        self._steps.clear()

    def _find(self, handle: str) -> _Run:
        run = self._runs.get(handle)
        if run is None:
            raise InvalidArgument("Must run PartialRunSetup before performing partial runs")
        return run


class _Run:
    """One partial run. Its step begins to run with the first call."""

    def __init__(self, session: MasterSession, prepared: PreparedStep, step: StepContext) -> None:
        self.step = step
        self._session = session
        self._prepared = prepared
        self.feed_types = dict(zip(prepared.feed_names, prepared.feed_types, strict=True))
        self._fed = dict.fromkeys(prepared.feed_names, False)
        self._fetched = dict.fromkeys(prepared.plan.names, False)
        self._lock = threading.Lock()
        self._running: Any = None
        self._calls = 0
        self._ended = False
        selection = prepared.selection
        self._feed_index = {name: index for index, (name, *_) in enumerate(selection.feeds)}
        self._fetch_index = {name: index for index, (name, *_) in enumerate(selection.fetches)}
        self._endpoints = {name: (node, slot) for name, node, slot, _ in selection.feeds}

    def claim(self, feeds: Sequence[str], fetches: Sequence[str]) -> bool:
        """Check a call's names and mark them as used, all or none; tell whether now all are."""
        with self._lock:
            for name in feeds:
                if name not in self._fed:
                    raise InvalidArgument(f"The feed {name} was not specified in partial_run_setup.")
                if self._fed[name]:
                    raise InvalidArgument(f"The feed {name} has already been fed.")
            for name in fetches:
                if name not in self._fetched:
                    raise InvalidArgument(f"The fetch {name} was not specified in partial_run_setup.")
                if self._fetched[name]:
                    raise InvalidArgument(f"The fetch {name} has already been fetched.")
            pending = {self._endpoints[name] for name, fed in self._fed.items() if not fed and name not in feeds}
            if pending:
                _check_computable(self._session.graph, fetches, pending)
            self._fed.update(dict.fromkeys(feeds, True))
            self._fetched.update(dict.fromkeys(fetches, True))
            self._calls += 1
            return all(self._fed.values()) and all(self._fetched.values())

    def prepare(self, ready: Callable[[BaseException | None], None]) -> None:
        """Have ``ready(error)`` called when the run can begin."""
        prepare = getattr(self._begun(), "prepare", None)  # where it runs on several tasks
        if prepare is None:
            ready(None)
        else:
            prepare(ready)

    def _begun(self) -> Any:
        with self._lock:
            if self._running is None:
                self._running = self._prepared.step.begin_partial(self.step)
            return self._running

    def go(
        self,
        feeds: Sequence[str],
        values: Sequence[Any],
        kinds: Sequence[int],
        fetches: Sequence[str],
        last: bool,
        done: PartialDone,
    ) -> None:
        """Run one claimed call."""

        def answered(outputs: list[Any] | None, error: BaseException | None) -> None:
            if error is not None:
                self._fail(error, done)
            elif last:
                self._end()
                done(outputs or [], None, True)
            else:
                with self._lock:
                    self._calls -= 1
                done(outputs or [], None, False)

        try:
            self._check_types(feeds, kinds)
            given = [(self._feed_index[name], value) for name, value in zip(feeds, values, strict=True)]
            # Without fetches too: this is what makes the nodes run that the feeds have made ready.
            self._begun().call(given, [self._fetch_index[name] for name in fetches], last, answered)
        except Error as error:
            self._fail(error, done, told=True)

    def _check_types(self, feeds: Sequence[str], kinds: Sequence[int]) -> None:
        expected = self.feed_types
        if any(expected[name] != kind for name, kind in zip(feeds, kinds, strict=True)):
            given = {**expected, **dict(zip(feeds, kinds, strict=True))}
            raise self._session.wrong_feed(self._prepared, [given[name] for name in self._prepared.feed_names])

    def _fail(self, error: BaseException, done: PartialDone, *, told: bool = False) -> None:
        names = list(self._fetch_index)
        shown = error if told else self._session.blame(self.step, error, names)
        self.step.cancel(error)
        self._end()
        done(None, shown, True)

    def give_up(self, error: BaseException) -> Error:
        """End a run that could not begin, and return its error as clients see it."""
        shown = self._session.blame(self.step, error)
        self.step.cancel(error)
        self._end()
        return shown

    def _end(self) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._session.end(self.step)

    def cancel(self, error: Error) -> None:
        """End the run: calls that wait get the error; without any, the step just goes."""
        self._session.cancel(self.step, error)
        with self._lock:
            idle = self._calls == 0
        if idle:
            self._end()


def _check_computable(graph: Graph, fetches: Sequence[str], pending: set[tuple[Node, int]]) -> None:
    """Raise if a fetch depends on a feed that has not come, along any path of the whole graph."""
    stack = [fetch_endpoint(graph, name)[1] for name in fetches]
    seen = set(stack)
    while stack:
        node = stack.pop()
        for source, slot in node.inputs:
            if (source, slot) in pending:
                raise InvalidArgument(
                    f"Fetch {source.name}:{slot} can't be computed from the feeds that have been fed so far."
                )
            if source not in seen:
                seen.add(source)
                stack.append(source)
        for source in node.control_inputs:
            if source not in seen:
                seen.add(source)
                stack.append(source)
