"""Datasets that call a function for one element after the other: map, filter, take while, scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument, OutOfRange
from runtime.dtypes import DataType
from runtime.ops.datasets.dataset import (
    UNKNOWN,
    Dataset,
    DatasetIterator,
    Element,
    Signature,
    UnaryDataset,
    UnaryIterator,
    dataset_of,
    kept,
    variant,
)
from runtime.ops.datasets.functions import Captured, UserFunction
from runtime.ops.datasets.task import PAUSE, PAUSE_EVERY
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.step.environment import KernelEnv

__all__ = ["FunctionDataset", "MapDataset", "ends_sequence", "holds"]

Run = Callable[..., Any]


class FunctionDataset(UnaryDataset):
    """A dataset that calls a function for the elements of another.

    Parameters
    ----------
    function : UserFunction
    arguments : tuple
        What the function captured.
    """

    def __init__(self, signature: Signature, source: Dataset, function: UserFunction, arguments: Element) -> None:
        super().__init__(signature, source)
        self.function: Captured = function.capture(arguments, self.number)


def ends_sequence(error: OutOfRange, preserves_cardinality: bool) -> None:
    """Take a function's OutOfRange for the end of the sequence, where elements may be missing.

    Raises
    ------
    InvalidArgument
        Where they may not.
    """
    if preserves_cardinality:
        raise InvalidArgument(error.message) from error


class MapDataset(FunctionDataset):
    """What a function makes of each element."""

    name = "Map"

    def __init__(self, signature: Signature, source: Dataset, function: UserFunction, arguments: Element,
                 preserves_cardinality: bool) -> None:
        super().__init__(signature, source, function, arguments)
        self.preserves_cardinality = preserves_cardinality

    def cardinality(self) -> int:
        return self.source.cardinality() if self.preserves_cardinality else UNKNOWN

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _MapIterator(self, iteration, prefix)


class _MapIterator(UnaryIterator):
    __slots__ = ("_function", "_preserves_cardinality")

    def __init__(self, dataset: MapDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._function = dataset.function
        self._preserves_cardinality = dataset.preserves_cardinality

    async def next(self) -> Element | None:
        element = await self._source.next()
        if element is None:
            return None
        try:
            return tuple(await self._function(self, element))
        except OutOfRange as error:
            ends_sequence(error, self._preserves_cardinality)
            return None


@kernel("MapDataset", shape=scalar)
def _map(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    function = UserFunction(node, env, "f", signature.types)
    preserves = node.attr("preserve_cardinality")

    def run(source: Any, *arguments: Any) -> Any:
        return variant(MapDataset(signature, dataset_of(source), function, arguments, preserves))

    return run


def holds(outputs: list[Any], attr: str) -> bool:
    """Return what a predicate has said.

    Raises
    ------
    InvalidArgument
        If that is not one truth value.
    """
    if len(outputs) != 1 or outputs[0].ndim or outputs[0].dtype != np.bool_:
        raise InvalidArgument(f"{attr} must return a scalar bool.")
    return bool(outputs[0])


class FilterDataset(FunctionDataset):
    """The elements for which a predicate holds."""

    name = "Filter"

    def cardinality(self) -> int:
        return UNKNOWN

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _FilterIterator(self, iteration, prefix)


class _FilterIterator(UnaryIterator):
    __slots__ = ("_predicate",)

    def __init__(self, dataset: FilterDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._predicate = dataset.function

    async def next(self) -> Element | None:
        turns = 0
        while True:
            element = await self._source.next()
            if element is None or holds(await self._predicate(self, element), "Filter predicate `f`"):
                return element
            turns += 1
            if not turns % PAUSE_EVERY:
                await PAUSE


@kernel("FilterDataset", "ParallelFilterDataset", shape=scalar)
def _filter(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    function = UserFunction(node, env, "predicate", [DataType.BOOL])
    count = len(node.attr("Targuments"))

    def run(source: Any, *arguments: Any) -> Any:  # whether several are tested at a time changes no answer
        return variant(FilterDataset(signature, dataset_of(source), function, arguments[:count]))

    return run


class TakeWhileDataset(FunctionDataset):
    """The elements before the first for which a predicate does not hold."""

    name = "TakeWhile"

    def cardinality(self) -> int:
        return UNKNOWN

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _TakeWhileIterator(self, iteration, prefix)


class _TakeWhileIterator(UnaryIterator):
    __slots__ = ("_ended", "_predicate")

    def __init__(self, dataset: TakeWhileDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._predicate = dataset.function
        self._ended = False

    async def next(self) -> Element | None:
        element = None if self._ended else await self._source.next()
        if element is not None and not holds(await self._predicate(self, element),
                                             "TakeWhile predicate `predicate`"):
            self._ended = True
            return None
        return element


@kernel("TakeWhileDataset", shape=scalar)
def _take_while(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    function = UserFunction(node, env, "predicate", [DataType.BOOL])
    return lambda source, *arguments: variant(TakeWhileDataset(signature, dataset_of(source), function, arguments))


class ScanDataset(FunctionDataset):
    """What a function makes of each element and a state, which it hands on to the next."""

    name = "Scan"

    def __init__(self, signature: Signature, source: Dataset, function: UserFunction, arguments: Element,
                 state: Element, preserves_cardinality: bool) -> None:
        super().__init__(signature, source, function, arguments)
        self.state = state
        self.preserves_cardinality = preserves_cardinality

    def cardinality(self) -> int:
        return self.source.cardinality() if self.preserves_cardinality else UNKNOWN

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _ScanIterator(self, iteration, prefix)


class _ScanIterator(UnaryIterator):
    __slots__ = ("_function", "_preserves_cardinality", "_state")

    def __init__(self, dataset: ScanDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._function = dataset.function
        self._state = dataset.state
        self._preserves_cardinality = dataset.preserves_cardinality

    async def next(self) -> Element | None:
        element = await self._source.next()
        if element is None:
            return None
        try:
            outputs = await self._function(self, (*self._state, *element))
        except OutOfRange as error:
            ends_sequence(error, self._preserves_cardinality)
            return None
        count = len(self._state)
        self._state = tuple(outputs[:count])
        return tuple(outputs[count:])


@kernel("ScanDataset", shape=scalar)
def _scan(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    states = list(node.attr("Tstate"))
    function = UserFunction(node, env, "f", [*states, *signature.types])
    preserves, count = node.attr("preserve_cardinality"), len(states)

    def run(source: Any, *arguments: Any) -> Any:
        return variant(ScanDataset(signature, dataset_of(source), function, arguments[count:],
                                   kept(arguments[:count]), preserves))

    return run
