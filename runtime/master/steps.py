"""The compiled steps of a session: found by a request's exact key, shared between spellings of one signature, bounded.

Two tables: ``exact`` from a request's key (names in the request's order, raw options) to a `PreparedStep`, which is all
that a repeated request looks at; and one from the canonical signature (names sorted) to the compiled step behind it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext.errors import InvalidArgument, Unimplemented
from runtime._ext.step_codec import ResponsePlan
from runtime.graph.prune import Selection
from runtime.master.collective_steps import common_key
from runtime.step.fold import TooLong

if TYPE_CHECKING:
    from runtime.step.compile import CompiledStep

__all__ = ["PreparedStep", "StepOptions", "StepTable"]

Signature = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Sorted feeds, fetches and targets."""

# Spellings of one signature (orders, options) that are remembered; clients use one or two.
_MAX_SPELLINGS = 64


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What RunOptions asks of one step.

    Attributes
    ----------
    trace : bool
        Record what runs (``FULL_TRACE``).
    partition_graphs : bool
        Return the graphs that ran.
    timeout_s : float
        Seconds; 0 for the session's own limit.
    collective_key : int
        Not 0 for a step that takes part in collectives.
    """

    trace: bool = False
    partition_graphs: bool = False
    timeout_s: float = 0.0
    collective_key: int = 0

    @classmethod
    def parse(cls, raw: bytes | None) -> StepOptions:
        """Return the options in a serialized RunOptions message.

        Raises
        ------
        InvalidArgument
            If it is malformed.
        Unimplemented
            For debug watches.
        """
        if not raw:
            return _DEFAULT_OPTIONS
        try:
            return cls.from_proto(wire.RunOptions.FromString(raw))
        except DecodeError as error:
            raise InvalidArgument(f"RunStepRequest.options is no RunOptions message: {error}") from None

    @classmethod
    def from_proto(cls, options: Any) -> StepOptions:
        """Return the options of a RunOptions message; see `parse`."""
        if options.debug_options.debug_tensor_watch_opts:
            raise Unimplemented(
                "RunOptions.debug_options watches tensors, which needs debug ops; this server has none. "
                "Fetch the tensors instead"
            )
        trace = options.trace_level == wire.RunOptions.FULL_TRACE
        return cls(
            trace,
            options.output_partition_graphs,
            max(0, options.timeout_in_ms) / 1000.0,
            options.experimental.collective_graph_key,
        )

    @property
    def wants_metadata(self) -> bool:
        """Tell whether the answer carries more than tensors."""
        return self.trace or self.partition_graphs


_DEFAULT_OPTIONS = StepOptions()


@dataclass(eq=False, slots=True)
class Compiled:
    """A compiled signature, or the promise of one.

    Attributes
    ----------
    future : Future of (Selection, CompiledStep)
    exact_keys : list
        Keys of the `PreparedStep` entries that lean on it.
    used : bool
        Again since the table last looked for something to drop.
    """

    future: Future[tuple[Selection, CompiledStep]] = field(default_factory=Future)
    exact_keys: list[Hashable] = field(default_factory=list)
    used: bool = False


@dataclass(eq=False, slots=True)
class PreparedStep:
    """All that a request for a known step needs.

    Attributes
    ----------
    step : CompiledStep
    feed_names : tuple of str
        In the request's order.
    feed_types : list of int
        DataType numbers, likewise.
    feed_order, fetch_order : list of int or None
        Positions: the compiled step's feed ``i`` is the request's ``feed_order[i]``; the request's fetch ``i`` is the
        compiled step's ``fetch_order[i]``. None when they agree.
    plan : ResponsePlan
    options : StepOptions
    selection : Selection
    entry : Compiled
    collective_key : int
        Not 0 for a step whose number the leader of its collectives gives out.
    gives_large : bool
        Whether it had fetches that left beside the message.
    """

    step: CompiledStep
    feed_names: tuple[str, ...]
    feed_types: list[int]
    feed_order: list[int] | None
    fetch_order: list[int] | None
    plan: ResponsePlan
    options: StepOptions
    selection: Selection
    entry: Compiled
    collective_key: int = 0
    gives_large: bool = False

    def arrange_feeds(self, values: Sequence[Any]) -> Sequence[Any]:
        """Return the request's feeds in the compiled step's order."""
        order = self.feed_order
        return values if order is None else [values[index] for index in order]

    def arrange_fetches(self, values: list[Any]) -> list[Any]:
        """Return the compiled step's outputs in the request's order."""
        order = self.fetch_order
        return values if order is None else [values[index] for index in order]


class StepTable:
    """Compiled steps by signature and by exact key.

    Parameters
    ----------
    limit : int
        How many compiled signatures are kept. Which one goes is found in the manner of a clock: the oldest, but those
        that were used since they were last looked at get another round.
    compile : callable
        ``compile(signature)`` returns a selection and a compiled step.

    Notes
    -----
    Safe from several threads. A signature is compiled by one of them while the others wait; a failure is told to all
    that wait and then forgotten, so that the next request tries again.
    """

    def __init__(self, limit: int, compile: Callable[[Signature], tuple[Selection, CompiledStep]]) -> None:
        self.exact: dict[Hashable, PreparedStep] = {}
        self._limit = max(1, limit)
        self._compile = compile
        self._signatures: dict[Signature, Compiled] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._signatures)

    def pending(self, feeds: Sequence[str], fetches: Sequence[str], targets: Sequence[str]) -> Future[Any] | None:
        """Return what another thread is compiling for a signature right now, or None."""
        entry = self._signatures.get(canonical(feeds, fetches, targets))
        return None if entry is None or entry.future.done() else entry.future

    def knows(self, feeds: Sequence[str], fetches: Sequence[str], targets: Sequence[str]) -> bool:
        """Tell whether a signature needs no compiling."""
        entry = self._signatures.get(canonical(feeds, fetches, targets))
        return entry is not None and entry.future.done()

    def prepare(
        self,
        key: Hashable,
        feeds: tuple[str, ...],
        fetches: tuple[str, ...],
        targets: tuple[str, ...],
        options: StepOptions,
    ) -> PreparedStep:
        """Return the step of a request, compiled now if nobody did before.

        Parameters
        ----------
        key : hashable
            Equal for requests with equal names, in order, and options.
        feeds, fetches, targets : tuple of str
            As in the request. A fetch that is named twice is answered once.

        Raises
        ------
        Error
            What pruning and compiling raise.
        TooLong
            If the thread is in a `Hurry` and has no time for it.
        """
        signature = canonical(feeds, fetches, targets)
        while True:
            entry, mine = self._claim(signature)
            if mine:
                self._fill(entry, signature)
            try:
                selection, step = entry.future.result()
            except TooLong:
                if mine:
                    raise
                continue  # who compiled it had no time; this thread may have
            break
        prepared = self._arrange(entry, selection, step, signature, feeds, fetches, options)
        with self._lock:
            if self._signatures.get(signature) is entry and key not in self.exact:
                if len(entry.exact_keys) >= _MAX_SPELLINGS:
                    self.exact.pop(entry.exact_keys.pop(0), None)
                entry.exact_keys.append(key)
                self.exact[key] = prepared
        return prepared

    def _claim(self, signature: Signature) -> tuple[Compiled, bool]:
        """Return a signature's entry, and whether it is new and the caller's to fill."""
        with self._lock:
            entry = self._signatures.get(signature)
            if entry is not None:
                entry.used = True
                return entry, False
            self._make_room()
            entry = self._signatures[signature] = Compiled()
            return entry, True

    def _fill(self, entry: Compiled, signature: Signature) -> None:
        try:
            entry.future.set_result(self._compile(signature))
        except BaseException as error:
            with self._lock:
                if self._signatures.get(signature) is entry:
                    del self._signatures[signature]
            entry.future.set_exception(error)

    def _arrange(
        self,
        entry: Compiled,
        selection: Selection,
        step: CompiledStep,
        signature: Signature,
        feeds: tuple[str, ...],
        fetches: tuple[str, ...],
        options: StepOptions,
    ) -> PreparedStep:
        sorted_feeds, sorted_fetches, _ = signature
        distinct = tuple(dict.fromkeys(fetches))
        types = dict(zip(sorted_feeds, step.feed_types, strict=True))
        fetch_types = dict(zip(sorted_fetches, step.fetch_types, strict=True))
        feed_order = None if feeds == sorted_feeds else _positions(feeds, sorted_feeds)
        fetch_order = None if distinct == sorted_fetches else _positions(sorted_fetches, distinct)
        plan = ResponsePlan(distinct, [int(fetch_types[name]) for name in distinct])
        return PreparedStep(
            step, feeds, [int(types[name]) for name in feeds], feed_order, fetch_order, plan, options, selection, entry,
            key_of(step, selection, options),
        )

    def _make_room(self) -> None:
        while len(self._signatures) >= self._limit:
            victim = self._victim()
            if victim is None:
                return  # everything is being compiled; the table is over its limit for as long as that takes
            entry = self._signatures.pop(victim)
            for key in entry.exact_keys:
                self.exact.pop(key, None)
            release(entry)

    def _victim(self) -> Signature | None:
        """Return the first signature that was not used since it was last looked at; the others go to the end."""
        for _ in range(2 * len(self._signatures)):
            signature = next(iter(self._signatures))
            entry = self._signatures[signature]
            if entry.future.done() and not entry.used:
                return signature
            entry.used = False
            self._signatures[signature] = self._signatures.pop(signature)
        return None

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._signatures.clear()
            self.exact.clear()


def release(entry: Compiled) -> None:
    """Let go of what a compiled step has on other tasks: nobody will ask for it again."""
    if entry.future.exception() is None:
        let_go = getattr(entry.future.result()[1], "release", None)
        if let_go is not None:
            let_go()


def key_of(step: CompiledStep, selection: Selection, options: StepOptions) -> int:
    """Return the key under which a step gets its number, 0 for a number of its own."""
    if not step.blocking:  # collectives wait
        return 0
    return common_key(selection.nodes, options.collective_key, spans_tasks=hasattr(step, "parts"))


def canonical(feeds: Sequence[str], fetches: Sequence[str], targets: Sequence[str]) -> Signature:
    """Return the signature that all spellings of a step share.

    Feeds keep their duplicates, for those are an error that pruning has to see.
    """
    return tuple(sorted(feeds)), tuple(sorted(set(fetches))), tuple(sorted(set(targets)))


def _positions(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return where in `names` each of `wanted` stands."""
    where = {name: index for index, name in enumerate(names)}
    return [where[name] for name in wanted]
