"""Datasets that call a function for several elements at a time.

The calls are made by workers, tasks that take an element, call the function and put the result into the place that the
element has in the order. While calls are short there are none: whoever asks for an element makes the call, because a
worker's result would come later than its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import OutOfRange
from runtime.ops.datasets.batching import BatchDataset, positive
from runtime.ops.datasets.dataset import (
    Dataset,
    DatasetIterator,
    Element,
    Signature,
    boolean,
    dataset_of,
    integer,
    variant,
)
from runtime.ops.datasets.functions import UserFunction
from runtime.ops.datasets.mapping import MapDataset, ends_sequence
from runtime.ops.datasets.task import AsyncLock, Promise
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]

_AUTOTUNE = -1
# A graph may ask for any number; more calls than this are not under way at a time.
_MOST_CALLS = 4096
# Handing an element to another thread costs some 50 microseconds.
_LONG_CALL_S = 0.2e-3
_WEIGHT = 0.25


class ParallelMapDataset(MapDataset):
    """What a function makes of each element, computed ahead.

    Parameters
    ----------
    calls : int
        Most calls at a time, and most results that lie ready.
    ordered : bool
        Whether results come in the order of the elements; else as they are finished.
    """

    def __init__(self, signature: Signature, source: Dataset, function: UserFunction, arguments: Element,
                 preserves_cardinality: bool, calls: int, ordered: bool, name: str) -> None:
        super().__init__(signature, source, function, arguments, preserves_cardinality)
        self.calls = calls
        self.ordered = ordered
        self.name = name  # type: ignore[misc]

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _ParallelMapIterator(self, iteration, prefix)


class _ParallelMapIterator(DatasetIterator):
    """See the module. `_places` and the counts are guarded by `_lock`; `_taking` is held by who takes an element."""

    __slots__ = ("_arrival", "_call_s", "_closed", "_dataset", "_ended", "_is_first", "_lock", "_places", "_source",
                 "_taking", "_workers")

    def __init__(self, dataset: ParallelMapDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._dataset = dataset
        self._source = dataset.source.iterator(iteration, self.prefix)
        self._lock = threading.Lock()
        self._taking = AsyncLock()
        self._places: deque[Promise] = deque()  # results in order, those to come included
        self._arrival: Promise | None = None  # somebody waits for a place, or, where there is no order, for a result
        self._workers = 0
        self._ended = False
        self._closed = False
        self._is_first = True  # that call compiles the function, and tells nothing
        self._call_s = _LONG_CALL_S if dataset.function.is_asynchronous else 0.0

    async def next(self) -> Element | None:
        while True:
            with self._lock:
                is_idle = not self._workers and not self._places
                if is_idle and self._ended:
                    return None
                alone = is_idle and self._call_s < _LONG_CALL_S
                place = self._pick()
                arrival = self._arrival = Promise() if place is None and not alone else None
            if alone:
                return await self._call_here()
            self._staff()
            if place is None:
                assert arrival is not None
                await arrival
                continue
            try:
                return await place  # type: ignore[no-any-return]
            except OutOfRange as error:
                ends_sequence(error, self._dataset.preserves_cardinality)
                self._stop()
                return None

    async def _call_here(self) -> Element | None:
        """Do what a worker would, and return the result."""
        element = await self._source.next()
        if element is None:
            self._ended = True
            return None
        started = time.perf_counter()
        try:
            return tuple(await self._dataset.function(self, element))
        except OutOfRange as error:
            ends_sequence(error, self._dataset.preserves_cardinality)
            self._stop()
            return None
        finally:
            self._note(time.perf_counter() - started)

    def _note(self, seconds: float) -> None:
        """Let the time of a call count."""
        if self._is_first:
            self._is_first = False
        else:
            self._call_s += (seconds - self._call_s) * _WEIGHT

    def _pick(self) -> Promise | None:
        """Take the next place out of the line, if there is one."""
        if self._dataset.ordered:
            return self._places.popleft() if self._places else None
        for place in self._places:
            if place.is_set:
                self._places.remove(place)
                return place
        return None

    def _stop(self) -> None:
        """Take no further element; what was made of later ones is dropped."""
        with self._lock:
            self._ended = True
            self._places.clear()

    def _staff(self) -> None:
        """Add workers as far as there are places for results and calls are long enough for more than one."""
        calls = self._dataset.calls
        with self._lock:
            room = calls - len(self._places)
            wanted = min(calls, room) if self._call_s >= _LONG_CALL_S else 0
            if self._ended or (self._workers == 0 and 0 < room < calls // 2):
                wanted = 0  # let some results be taken first
            new = max(0, wanted - self._workers)
            self._workers += new
        for _ in range(new):
            self.iteration.spawn(self._work())

    async def _work(self) -> None:
        place: Promise | None = None
        try:
            while True:
                async with self._taking:
                    with self._lock:
                        if self._ended or self._closed or len(self._places) >= self._dataset.calls:
                            return
                    place = await self._take()
                    if place is None:
                        return
                    element = place.value
                started = time.perf_counter()
                if element is not None:
                    await self._fill(place, element)
                    self._note(time.perf_counter() - started)
                    self._staff()
                place = None
        finally:
            with self._lock:
                self._workers -= 1
                if place is not None and not place.is_set and place in self._places:
                    self._places.remove(place)  # its element was under way when everything was ended
                arrival, self._arrival = self._arrival, None
                closes = self._closed and not self._workers
            if closes:
                self._source.close()
            elif arrival is not None and not self.iteration.is_ending:
                arrival.set()

    async def _take(self) -> Promise | None:
        """Return a new place, whose value is the element that it is for; None at the end."""
        element, failure = None, None
        try:
            element = await self._source.next()
        except Exception as error:
            self.iteration.check()
            failure = error
        with self._lock:
            if element is None and failure is None:
                self._ended = True
                return None
            place = Promise()
            place.value = element
            self._places.append(place)
            arrival = None
            if self._dataset.ordered or failure is not None:
                arrival, self._arrival = self._arrival, None
        if failure is not None:
            place.set(None, failure)
        if arrival is not None:
            arrival.set()
        return place

    async def _fill(self, place: Promise, element: Element) -> None:
        """Make the result for a place; an error is a result, too."""
        try:
            outputs, failure = tuple(await self._dataset.function(self, element)), None
        except Exception as error:
            self.iteration.check()
            outputs, failure = None, error
        place.set(outputs, failure)
        if not self._dataset.ordered:
            with self._lock:
                arrival, self._arrival = self._arrival, None
            if arrival is not None:
                arrival.set()

    def close(self) -> None:
        with self._lock:
            already, self._closed = self._closed, True
            closes = not already and not self._workers
        if closes:
            self._source.close()


def _calls(tensor: Any) -> int:
    """Return how many calls may be under way.

    Raises
    ------
    InvalidArgument
        If that is less than one, and not left to the server either.
    """
    if integer(tensor, "num_parallel_calls") == _AUTOTUNE:
        return max(2, os.cpu_count() or 1)
    return min(_MOST_CALLS, positive(tensor, "num_parallel_calls", "num_parallel_calls"))


@kernel("ParallelMapDataset", "ParallelMapDatasetV2", shape=scalar)
def _parallel_map(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    function = UserFunction(node, env, "f", signature.types)
    preserves = node.attr("preserve_cardinality")
    is_first = node.op == "ParallelMapDataset"
    ordered = not node.attr("sloppy") if is_first else node.attr("deterministic") != b"false"
    name = "ParallelMap" if is_first else "ParallelMapV2"

    def run(source: Any, *rest: Any) -> Any:
        *arguments, num_parallel_calls = rest
        return variant(ParallelMapDataset(signature, dataset_of(source), function, tuple(arguments), preserves,
                                          _calls(num_parallel_calls), ordered, name))

    return run


@kernel("MapAndBatchDataset", shape=scalar)
def _map_and_batch(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    function = UserFunction(node, env, "f", signature.types)
    preserves = node.attr("preserve_cardinality")

    def run(source: Any, *rest: Any) -> Any:
        *arguments, batch_size, num_parallel_calls, drop_remainder = rest
        size = positive(batch_size, "batch_size", "batch_size")
        inner = Signature(signature.types, tuple(None if shape is None else shape[1:] for shape in signature.shapes))
        mapped = ParallelMapDataset(inner, dataset_of(source), function, tuple(arguments), preserves,
                                    _calls(num_parallel_calls), True, "ParallelMapV2")
        return variant(BatchDataset(signature, mapped, size, boolean(drop_remainder, "drop_remainder")))

    return run
