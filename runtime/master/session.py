"""One session: its graph, its compiled steps, and what is running in it."""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import (
    Aborted,
    Cancelled,
    Error,
    FailedPrecondition,
    Internal,
    InvalidArgument,
)
from runtime._ext.executor import DeadFetch, StepContext, StepTrace
from runtime._ext.running_step import MemoryBound
from runtime.devices.resources import ResourceManager
from runtime.dtypes import DataType, from_numpy, to_numpy
from runtime.graph.collection import collection_paused
from runtime.graph.graph import Graph
from runtime.graph.node import Node
from runtime.graph.place import Placer
from runtime.graph.prune import Selection, feed_endpoint, select
from runtime.graph.validate import check_node, type_label
from runtime.master.callables import CallableTable
from runtime.master.collective_steps import StepNumbers
from runtime.master.config import SessionConfig
from runtime.master.ending import CLOSE_WAIT_S, CLOSED_BY_CLIENT, timed_out
from runtime.master.metadata import step_metadata
from runtime.master.partial_run import PartialRuns
from runtime.master.parts_run import StepFailure
from runtime.master.step_counts import StepCounts
from runtime.master.steps import PreparedStep, Signature, StepOptions, StepTable
from runtime.observe.recorder import StepRecorder
from runtime.observe.status import SessionStatus, oldest_steps
from runtime.step.compile import compile_step
from runtime.step.environment import SessionState
from runtime.step.fold import Hurry

if TYPE_CHECKING:
    from runtime.master.task import Task
    from runtime.step.compile import CompiledStep
    from runtime.step.runner import StepRunner

__all__ = ["MasterSession"]

logger = logging.getLogger(__name__)

_STEP_ID_BITS = 57

Done = Callable[[list[Any] | None, BaseException | None], None]


class MasterSession:
    """A session on one task.

    Steps of a session run concurrently, and a step uses the graph as it was when the step was first asked for; nodes
    are only ever added.

    Parameters
    ----------
    graph_def : wire.GraphDef
        The initial graph; kept, and not to be changed afterwards.
    config : SessionConfig
    task : Task
        By the name that it has in this session.
    runner : StepRunner
    step_limit : int
        How many compiled steps are kept.
    step_memory_limit : int
        What the arrays of one step may hold at once, in bytes; 0 for no limit.
    recorder : StepRecorder, optional
        Asked whether somebody wants a step traced.
    counts : StepCounts, optional
        Counts its steps, with those of the master's other sessions.

    Attributes
    ----------
    handle : str
        16 hexadecimal digits.
    version : int
        Goes up by one with every extension.
    graph : Graph
    state : SessionState
    target : str
        What its client connected to, as it wrote it; empty until the master knows.

    Raises
    ------
    Error
        What is wrong with the graph or the devices it asks for.

    Notes
    -----
    Concurrency: every method may be called from any thread.
    """

    def __init__(
        self,
        graph_def: Any,
        config: SessionConfig,
        task: Task,
        runner: StepRunner,
        *,
        step_limit: int,
        step_memory_limit: int = 0,
        recorder: StepRecorder | None = None,
        counts: StepCounts | None = None,
    ) -> None:
        self.handle = secrets.token_hex(8)
        self.target = ""
        self._made_at = time.monotonic()
        self.config = config
        self.task = task
        self.runner = runner
        self.recorder = StepRecorder() if recorder is None else recorder
        self._counts = StepCounts() if counts is None else counts
        self.version = 0
        self.closed = False
        self.step_memory_limit = step_memory_limit
        self._placer = Placer(self.placeable_devices(), task.name, soft=config.soft_placement)
        self.graph = Graph.from_proto(graph_def, accept=self._accept)
        resources = ResourceManager(task.job_name) if config.isolate else None
        self.state = SessionState(task.devices[0], task.files, resources, step_memory_limit)
        self.state.keeps_repeated = self.config.keeps_repeated
        owner = weakref.ref(self)  # as in CallableTable

        def compile_signature(signature: Signature) -> tuple[Selection, CompiledStep]:
            live = owner()
            assert live is not None
            return live.compile(select(live.graph, *signature))

        self.steps = StepTable(step_limit, compile_signature)
        self.callables = CallableTable(self)
        self.partial_runs = PartialRuns(self, step_limit)
        self._numbers_of_steps = StepNumbers()
        self._extending = threading.Lock()
        self._lock = threading.Lock()
        self._running: dict[int, StepContext] = {}
        # Why the master ended a step, by step id: such an error is told as it is, not as one of the step's own.
        self._causes: dict[int, Error] = {}
        # The code that clients are told, of steps that have failed and not ended yet.
        self._failed: dict[int, int] = {}
        self._closing: Future[None] | None = None

    # The graph

    def placeable_devices(self) -> list[tuple[str, Callable[[str], bool]]]:
        """Return the devices that nodes may be placed on, with what tells whether they run an op type."""
        return [(device.name, _runs_everything) for device in self.task.devices]

    def _accept(self, nodes: Mapping[str, Node]) -> None:
        self._placer.place(nodes, self.graph.nodes if hasattr(self, "graph") else {})
        if self.config.log_placement:
            for node in nodes.values():
                logger.info("placed", extra={"node": node.name, "op": node.op, "device": node.device})

    def extend(self, graph_def: Any, version: int) -> int:
        """Add nodes and functions, all or none, and return the new version.

        Raises
        ------
        FailedPrecondition
            If the session is closed.
        Aborted
            If the graph has another version than the caller believes.
        Error
            What is wrong with the new nodes; the session is as before.
        """
        with self._extending:
            if self.closed:
                raise FailedPrecondition("Session is closed.")
            if version != self.version:
                raise Aborted(f"Current version is {self.version} but caller expected {version}.")
            self.graph.extend(graph_def, self._accept)
            self.version += 1
            return self.version

    def endpoint_type(self, name: str) -> DataType:
        """Return the type of a tensor of the graph by its name; for making arrays of plain values to feed.

        Raises
        ------
        NotFound, InvalidArgument
            As `prune.select` for a feed of that name.
        """
        return feed_endpoint(self.graph, name)[3]

    # Preparing steps

    def compile(self, selection: Selection, *, partial: bool = False) -> tuple[Selection, CompiledStep]:
        """Compile a selection of this session's graph, or of one with the same functions.

        Constants that are decoded or folded then may take as much memory together as a step.
        """
        bound = contextlib.nullcontext() if Hurry.current() is not None else MemoryBound(self.step_memory_limit)
        with collection_paused(len(selection.nodes)), bound:
            for node in selection.nodes:
                check_node(node)
            keep_unread = self.config.keep_unread
            step = compile_step(selection, self.graph.library, self.state, partial=partial, keep_unread=keep_unread)
            return selection, step

    def prepare(
        self, feeds: Sequence[str], fetches: Sequence[str], targets: Sequence[str], options: StepOptions | None = None
    ) -> PreparedStep:
        """Return the compiled step of a signature given by names; see `StepTable.prepare`."""
        chosen = StepOptions() if options is None else options
        key = (tuple(feeds), tuple(fetches), tuple(targets), chosen)
        found = self.steps.exact.get(key)
        if found is not None:
            found.entry.used = True
            return found
        return self.steps.prepare(key, key[0], key[1], key[2], chosen)

    # Running steps

    def begin(self, prepared: PreparedStep | None = None, *, at_once: bool = False) -> StepContext:
        """Return the context of a new step; `end` must be called for it, whatever happens.

        Parameters
        ----------
        prepared : PreparedStep, optional
            What will run; None for a partial run, which is never traced.
        at_once : bool
            It is to run in the thread that serves everybody.

        Raises
        ------
        FailedPrecondition
            If the session is closed.
        """
        recordings = self.recorder.claim(self.handle) if prepared is not None and self.recorder.is_active else ()
        trace = StepTrace() if recordings or (prepared is not None and prepared.options.trace) else None
        step = StepContext(
            self._step_id(prepared), self.state, trace, self.runner.hand_over, self.step_memory_limit, at_once
        )
        if prepared is not None:
            step.selection = prepared.selection
            step.wants_graphs = prepared.options.partition_graphs
        if prepared is not None and recordings:
            self.recorder.begin(step, recordings, self.handle, prepared.selection)
        self._running[step.step_id] = step
        if self.closed:  # looked at after the step is in the table: `close` sees the one or this sees the other
            self.end(step)
            raise FailedPrecondition("Session is closed.")
        return step

    def number_to_wait_for(self, prepared: PreparedStep) -> Future[None] | None:
        """Return what to wait for before `begin`: the number of a step that other masters run parts of."""
        collectives = self.state.collectives
        if not prepared.collective_key or collectives is None:
            return None
        return self._numbers_of_steps.ask(collectives, prepared.collective_key)

    def _step_id(self, prepared: PreparedStep | None) -> int:
        collectives = self.state.collectives
        if prepared is None or not prepared.collective_key or collectives is None:
            return random.getrandbits(_STEP_ID_BITS)
        found = self._numbers_of_steps.take(collectives, prepared.collective_key)
        if found is None:
            raise FailedPrecondition("another step with the same collectives runs in this session: only one can at a "
                                     "time, or the members of their groups could not tell them apart")
        return found

    def end(self, step: StepContext) -> None:
        """Let a step go: its own resources vanish."""
        step.close()
        self._running.pop(step.step_id, None)
        self._counts.end(self._failed.pop(step.step_id, 0) if self._failed else 0)
        if self.state.collectives is not None:
            self._numbers_of_steps.end(self.state.collectives, step.step_id)
            self.state.collectives.forget_step(step.step_id)
        if step.trace is not None:
            self.recorder.end(step)
        if self._causes:
            self._causes.pop(step.step_id, None)
        if self.closed:
            self._finish_closing()

    def cancel(self, step: StepContext, error: Error) -> None:
        """End a running step with an error that is told to the client as it is."""
        self._causes[step.step_id] = error
        if not step.cancel(error):
            self._causes.pop(step.step_id, None)

    def blame(self, step: StepContext, error: BaseException, fetch_names: Sequence[str] = ()) -> Error:
        """Return a step's error as clients see it: with the task it comes from, unless the master ended the step.

        Call it before `end`.
        """
        told = self._told(step, error, fetch_names)
        self._failed[step.step_id] = told.code
        return told

    def _told(self, step: StepContext, error: BaseException, fetch_names: Sequence[str]) -> Error:
        self._numbers_of_steps.fail(step.step_id)
        cause = self._causes.get(step.step_id)
        if cause is not None:
            return cause
        if isinstance(error, StepFailure):
            return error.error
        if isinstance(error, DeadFetch) and error.index < len(fetch_names):
            device = self.task.devices[0]
            key = f"{device.name};{device.incarnation:016x};{device.name};{fetch_names[error.index]};0:0"
            error = Internal(
                f"Failed to fetch outputs for step {step.step_id}. (Original error message: The tensor "
                f"returned for {key} was not valid.)"
            )
        if not isinstance(error, Error):
            # A kernel may raise only our errors; anything else is a fault here, and its traceback belongs in the log.
            logger.error("step %s failed with an error of the wrong kind", step.step_id, exc_info=error)
            error = Internal(f"{type(error).__name__}: {error}")
        return type(error)(f"From {self.task.name}:\n{error.message}")

    def wrong_feed(self, prepared: PreparedStep, given: Sequence[int]) -> Error:
        """Return the error for feeds whose types are not those of the graph."""
        if len(given) != len(prepared.feed_types):
            return InvalidArgument(f"{len(given)} feeds given where the step has {len(prepared.feed_types)}")
        by_name = {name: (node, slot) for name, node, slot, _ in prepared.selection.feeds}
        for name, kind, expected in zip(prepared.feed_names, given, prepared.feed_types, strict=True):
            if kind != expected:
                node, slot = by_name[name]
                return feed_type_error(self.task.name, node, slot, kind, expected)
        raise AssertionError("the types agree")

    @property
    def num_running(self) -> int:
        """Steps under way, partial runs included."""
        return len(self._running)

    def start(self, prepared: PreparedStep, step: StepContext, feeds: Sequence[Any], done: Done) -> None:
        """Run a prepared step; ``done(outputs, error)`` is called once, perhaps from another thread.

        Parameters
        ----------
        prepared : PreparedStep
        step : StepContext
            From `begin`. It is ended before `done` is called.
        feeds : sequence of ndarray
            In the request's order, of the types of ``prepared.feed_types``.
        """
        fetch_names = [name for name, *_ in prepared.selection.fetches]

        def finished(outputs: list[Any] | None, error: BaseException | None) -> None:
            if error is not None or outputs is None:
                told = self.blame(
                    step, error or Internal("the step ended with neither outputs nor an error"), fetch_names
                )
                self.end(step)
                done(None, told)
            else:
                self.end(step)
                done(prepared.arrange_fetches(outputs), None)

        try:
            self.runner.start(prepared.step, step, prepared.arrange_feeds(feeds), finished)
        except Exception as error:  # of whatever kind: a step that does not end would hold the session's end up
            finished(None, error)

    def timeout_s(self, options: StepOptions) -> float:
        """Return the limit for a step in seconds, 0 for none."""
        return options.timeout_s or self.config.operation_timeout_s

    def run(
        self, feeds: Mapping[str, Any], fetches: Sequence[str], targets: Sequence[str] = (), options: Any = None
    ) -> tuple[list[Any], Any]:
        """Run a step and wait for it. For callers in this process.

        Parameters
        ----------
        feeds : mapping of str to ndarray
            By tensor name. Arrays must have the tensors' types (see `endpoint_type`); strings are object arrays of
            bytes.
        fetches : sequence of str
            Tensor names; one may be named twice.
        targets : sequence of str
            Nodes to run without fetching anything.
        options : wire.RunOptions, optional

        Returns
        -------
        outputs : list of ndarray
            One per fetch, in order. They may share memory with what the graph keeps and must not be written to.
        metadata : wire.RunMetadata or None
            None unless `options` asks for something.

        Raises
        ------
        Error
            What is wrong with the signature, a feed, or the step.

        Notes
        -----
        Blocks the calling thread, not others. On an interrupt (KeyboardInterrupt) the step is cancelled.
        """
        if self.closed:
            raise FailedPrecondition("Session is closed.")
        chosen = StepOptions() if options is None else StepOptions.from_proto(options)
        prepared = self.prepare(tuple(feeds), tuple(fetches), tuple(targets), chosen)
        values = [np.asarray(value) for value in feeds.values()]
        self.check_feeds(prepared, values)
        outputs, metadata = self.run_prepared(prepared, values)
        answered = prepared.plan.names
        if len(answered) != len(fetches):
            by_name = dict(zip(answered, outputs, strict=True))
            outputs = [by_name[name] for name in fetches]
        return outputs, metadata

    def run_prepared(self, prepared: PreparedStep, values: Sequence[Any]) -> tuple[list[Any], Any]:
        """Run a prepared step with checked feeds and wait for it: outputs and RunMetadata (or None)."""
        timeout_s = self.timeout_s(prepared.options)
        number = self.number_to_wait_for(prepared)
        if number is not None:
            number.result(timeout_s or None)
        step = self.begin(prepared)
        if not prepared.step.blocking and not timeout_s:
            try:
                outputs = prepared.step.run(step, prepared.arrange_feeds(values))
            except Exception as error:
                raise self.blame(step, error, [name for name, *_ in prepared.selection.fetches]) from error
            finally:
                self.end(step)
            outputs = prepared.arrange_fetches(outputs)
        else:
            waiting: Future[list[Any]] = Future()

            self.start(prepared, step, values, lambda result, error: _settle(waiting, result, error))
            outputs = self._wait(waiting, step, timeout_s)
        return outputs, step_metadata(self, prepared.selection, prepared.options, step)

    def _wait(self, waiting: Future[list[Any]], step: StepContext, timeout_s: float) -> list[Any]:
        try:
            return waiting.result(timeout_s or None)
        except TimeoutError as error:
            if waiting.done():  # the step's own error is a timeout too
                raise
            late = timed_out(timeout_s, step)
            self.cancel(step, late)
            try:
                return waiting.result(CLOSE_WAIT_S)
            except TimeoutError:
                raise late from error
        except BaseException:
            if not waiting.done():  # interrupted while waiting
                self.cancel(step, Cancelled("Step was interrupted."))
            raise

    def check_feeds(self, prepared: PreparedStep, values: Sequence[Any]) -> None:
        """Check number and types of feed arrays, in the request's order.

        Raises
        ------
        InvalidArgument
            If there are more or fewer than the step has, or an array is of a type that no tensor has.
        Internal
            If an array is of another type than the graph's tensor.
        """
        expected = prepared.feed_types
        if len(values) == len(expected) and all(
            value.dtype == to_numpy(kind) for value, kind in zip(values, expected, strict=True)
        ):
            return
        raise self.wrong_feed(
            prepared,
            [
                kind if array.dtype == to_numpy(kind) else _datatype(array)
                for array, kind in zip(values, expected, strict=False)
            ]
            + [0] * (len(values) - len(expected)),
        )

    def run_callable(self, handle: int, feeds: Sequence[Any]) -> tuple[list[Any], Any]:
        """Run a callable and wait for it: outputs by position, and RunMetadata or None. For callers in this process.

        Raises
        ------
        InvalidArgument
            If there is no such callable, or not the right number of feeds.
        Error
            As `run`.
        """
        if self.closed:
            raise FailedPrecondition("Session is closed.")
        prepared = self.callables.find(handle)
        values = [np.asarray(value) for value in feeds]
        self.check_feeds(prepared, values)
        return self.run_prepared(prepared, values)

    def run_partial(self, handle: str, feeds: Mapping[str, Any], fetches: Sequence[str]) -> list[Any]:
        """Give a partial run some feeds and wait for some fetches. For callers in this process.

        Parameters
        ----------
        handle : str
            From ``partial_runs.setup``.
        feeds : mapping of str to ndarray
        fetches : sequence of str
            One may be named twice in one call.

        Raises
        ------
        Error
            As `PartialRuns.run`, and what goes wrong in the step.
        """
        step = self.partial_runs.context(handle)
        distinct = tuple(dict.fromkeys(fetches))
        values = [np.asarray(value) for value in feeds.values()]
        kinds = self.partial_runs.kinds(handle, tuple(feeds), values)
        waiting: Future[list[Any]] = Future()
        self.partial_runs.run(
            handle,
            tuple(feeds),
            values,
            kinds,
            distinct,
            lambda outputs, error, ended: _settle(waiting, outputs, error),
        )
        outputs = self._wait(waiting, step, self.config.operation_timeout_s)
        by_name = dict(zip(distinct, outputs, strict=True))
        return [by_name[name] for name in fetches]

    # Looking

    @property
    def other_tasks(self) -> tuple[str, ...]:
        """Return the names of the tasks that the session uses besides this one."""
        return ()

    def status(self) -> SessionStatus:
        """Return what the session has and what runs in it right now."""
        running = list(self._running.values())
        return SessionStatus(
            self.handle,
            time.monotonic() - self._made_at,
            self.target,
            self.config.isolate,
            self.version,
            len(self.graph.nodes),
            len(self.steps),
            self.other_tasks,
            len(running),
            oldest_steps((step, "") for step in running),
        )

    # The end

    def close(self, reason: str = CLOSED_BY_CLIENT) -> Future[None]:
        """Cancel what runs and let go of everything once nothing does.

        Parameters
        ----------
        reason : str
            What the steps are told, as CANCELLED.

        Returns
        -------
        Future
            Done when no step runs any more. Wait at most `CLOSE_WAIT_S`, then call `abandon`.
        """
        with self._lock:
            if self._closing is not None:
                return self._closing
            closing = self._closing = Future()
            self.closed = True
        self.partial_runs.cancel(Cancelled(reason))
        for step in list(self._running.values()):
            self.cancel(step, Cancelled(reason))
        self._finish_closing()
        return closing

    def _finish_closing(self) -> None:
        closing = self._closing
        if closing is None or self._running:
            return
        with self._lock:
            if closing.done():
                return
            closing.set_result(None)
        self._release()

    def abandon(self) -> None:
        """Let go of everything although a step still runs."""
        closing = self._closing
        if closing is not None:
            with self._lock:
                if closing.done():
                    return
                closing.set_result(None)
            logger.warning(
                "session %s closed while %d steps still run; they ignore their cancellation",
                self.handle,
                len(self._running),
            )
            self._release()

    def _release(self) -> None:
        self.steps.clear()
        self.callables.clear()
        self.partial_runs.clear()
        self.state.close()


def _runs_everything(op: str) -> bool:
    """Whether an op has a kernel is asked when a step needs it: a graph may hold nodes that no step ever does."""
    return True


def _settle(waiting: Future[list[Any]], outputs: list[Any] | None, error: BaseException | None) -> None:
    if error is not None:
        waiting.set_exception(error)
    else:
        waiting.set_result(outputs or [])


def _datatype(array: Any) -> int:
    try:
        return int(from_numpy(array.dtype))
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def feed_type_error(task: str, node: Node, slot: int, kind: int, expected: int) -> Error:
    """Return the error for a feed of another type than the graph's, as TensorFlow's receiving node reports it."""
    return Internal(
        f"From {task}:\nOutput 0 of type {type_label(kind)} does not match declared output type "
        f"{type_label(expected)} for node {{{{node _recv_{node.name}_{slot}}}}}"
    )
