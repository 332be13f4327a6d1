"""Datasets that read the datasets made of another's elements: flat map, interleave, unbatch, choose."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType
from runtime.ops.datasets.batching import positive
from runtime.ops.datasets.buffering import AUTO_BUFFER, ReadAhead
from runtime.ops.datasets.dataset import (
    UNKNOWN,
    Dataset,
    DatasetIterator,
    Element,
    Signature,
    UnaryDataset,
    UnaryIterator,
    boolean,
    dataset_of,
    integer,
    variant,
)
from runtime.ops.datasets.functions import Captured, UserFunction
from runtime.ops.datasets.mapping import FunctionDataset
from runtime.ops.datasets.task import PAUSE, PAUSE_EVERY
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]

_AUTOTUNE = -1


async def _opened(caller: DatasetIterator, function: Captured, element: Element, number: int) -> DatasetIterator:
    """Return an iterator over the dataset that a function makes of an element, the caller's `number`-th."""
    outputs = await function(caller, element)
    if len(outputs) != 1 or outputs[0].ndim:
        raise InvalidArgument("Function must return a single scalar of dtype DT_VARIANT.")
    return dataset_of(outputs[0]).iterator(caller.iteration, f"{caller.prefix}[{number}]")


class FlatMapDataset(FunctionDataset):
    """The datasets that a function makes of the elements, one after the other."""

    name = "FlatMap"

    def cardinality(self) -> int:
        return UNKNOWN

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _FlatMapIterator(self, iteration, prefix)


class _FlatMapIterator(UnaryIterator):
    __slots__ = ("_current", "_function", "_opened")

    def __init__(self, dataset: FlatMapDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._function = dataset.function
        self._current: DatasetIterator | None = None
        self._opened = 0

    async def next(self) -> Element | None:
        turns = 0
        while True:
            if self._current is None:
                element = await self._source.next()
                if element is None:
                    return None
                self._opened += 1
                self._current = await _opened(self, self._function, element, self._opened - 1)
            found = await self._current.next()
            if found is not None:
                return found
            self._current.close()
            self._current = None
            turns += 1
            if not turns % PAUSE_EVERY:
                await PAUSE

    def close(self) -> None:
        super().close()
        if self._current is not None:
            self._current.close()


@kernel("FlatMapDataset", shape=scalar)
def _flat_map(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    function = UserFunction(node, env, "f", [DataType.VARIANT])
    return lambda source, *arguments: variant(FlatMapDataset(signature, dataset_of(source), function, arguments))


class InterleaveDataset(FunctionDataset):
    """The datasets that a function makes of the elements, `cycle_length` at a time, in turn `block_length` of each.

    A dataset that has ended gives its place to the next one when its turn comes again.
    """

    name = "Interleave"

    def __init__(self, signature: Signature, source: Dataset, function: UserFunction, arguments: Element,
                 cycle_length: int, block_length: int) -> None:
        super().__init__(signature, source, function, arguments)
        self.cycle_length = cycle_length
        self.block_length = block_length

    def cardinality(self) -> int:
        return UNKNOWN

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _InterleaveIterator(self, iteration, prefix)


class _InterleaveIterator(UnaryIterator):
    __slots__ = ("_cycle", "_dataset", "_ended", "_given", "_open", "_opened", "_place")

    def __init__(self, dataset: InterleaveDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._dataset = dataset
        self._cycle: list[DatasetIterator | ReadAhead | None] = []
        self._place = 0
        self._given = 0  # elements of this turn
        self._open = 0
        self._opened = 0
        self._ended = False

    async def next(self) -> Element | None:
        turns = 0
        while self._open or not self._ended:
            current = self._cycle[self._place] if self._place < len(self._cycle) else None
            if current is not None:
                element = await current.next()
                if element is not None:
                    self._given += 1
                    if self._given == self._dataset.block_length:
                        self._move_on()
                    return element
                current.close()
                self._cycle[self._place] = None
                self._open -= 1
                await self._leave()
            elif self._ended:
                self._move_on()
            else:
                await self._fill()
            turns += 1
            if not turns % PAUSE_EVERY:
                await PAUSE
        return None

    async def _leave(self) -> None:
        """Leave the place of a dataset that has ended."""
        self._move_on()

    def _move_on(self) -> None:
        self._given = 0
        self._place += 1
        # Once nothing new comes, places that were never filled need no turn.
        limit = len(self._cycle) if self._ended else self._dataset.cycle_length
        if self._place >= limit:
            self._place = 0

    async def _fill(self) -> None:
        """Open the next dataset in the place whose turn it is."""
        element = await self._source.next()
        if element is None:
            self._ended = True
            return
        self._opened += 1
        opened = await self._open_one(element)
        if self._place < len(self._cycle):
            self._cycle[self._place] = opened
        else:
            self._cycle.append(opened)
        self._open += 1

    async def _open_one(self, element: Element) -> DatasetIterator | ReadAhead:
        return await _opened(self, self._dataset.function, element, self._opened - 1)

    def close(self) -> None:
        super().close()
        for current in self._cycle:
            if current is not None:
                current.close()


@kernel("InterleaveDataset", shape=scalar)
def _interleave(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    function = UserFunction(node, env, "f", [DataType.VARIANT])

    def run(source: Any, *rest: Any) -> Any:
        *arguments, cycle_length, block_length = rest
        length = integer(cycle_length, "cycle_length")
        cycle = _processors() if length == _AUTOTUNE else positive(cycle_length, "cycle_length", "cycle_length")
        block = positive(block_length, "block_length", "block_length")
        return variant(InterleaveDataset(signature, dataset_of(source), function, tuple(arguments), cycle, block))

    return run


def _processors() -> int:
    return os.cpu_count() or 1


class ParallelInterleaveDataset(InterleaveDataset):
    """As `InterleaveDataset`, with the datasets of a cycle read ahead.

    Parameters
    ----------
    buffer : int
        How many elements of each lie ready.
    ordered : bool
        Whether the order is the same in every reading; else what is ready goes first.
    carries : bool
        Whether the dataset behind one that has ended, and has no successor, only gets the rest of its turn.
    """

    def __init__(self, signature: Signature, source: Dataset, function: UserFunction, arguments: Element,
                 cycle_length: int, block_length: int, *, buffer: int, ordered: bool, carries: bool, name: str) -> None:
        super().__init__(signature, source, function, arguments, cycle_length, block_length)
        self.name = name  # type: ignore[misc]
        self.buffer = buffer
        self.ordered = ordered
        self.carries = carries

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _ParallelInterleaveIterator(self, iteration, prefix)


class _ParallelInterleaveIterator(_InterleaveIterator):
    __slots__ = ("_filled",)

    _dataset: ParallelInterleaveDataset

    def __init__(self, dataset: ParallelInterleaveDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._filled = False

    async def next(self) -> Element | None:
        if not self._filled:
            await self._fill_cycle()
        if not self._dataset.ordered:
            self._choose_ready()
        return await super().next()

    async def _leave(self) -> None:
        if not self._dataset.carries:
            await super()._leave()
            return
        if not self._ended:
            await self._fill()
        given = self._given if self._ended else 0
        self._move_on()
        self._given = given

    async def _fill_cycle(self) -> None:
        """Open the datasets of the first cycle, so that all are read ahead from the start."""
        start = self._place
        while not self._ended and len(self._cycle) < self._dataset.cycle_length:
            self._place = len(self._cycle)
            try:
                await self._fill()
            finally:
                self._place = start
            if not len(self._cycle) % PAUSE_EVERY:
                await PAUSE
        self._filled = True

    def _choose_ready(self) -> None:
        """Move to the first place from here that has an element ready, if any has."""
        for offset in range(len(self._cycle)):
            place = (self._place + offset) % len(self._cycle)
            current = self._cycle[place]
            if isinstance(current, ReadAhead) and current.is_ready:
                if offset:
                    self._place, self._given = place, 0
                return

    async def _open_one(self, element: Element) -> ReadAhead:
        source = await _opened(self, self._dataset.function, element, self._opened - 1)
        ahead = ReadAhead(self.iteration, source, self._dataset.buffer)
        ahead.start()
        return ahead


def _parallel_interleave(
    node: Node, env: KernelEnv, read: Callable[[int, Sequence[Any]], tuple[int, bool]], extra: int, is_legacy: bool
) -> Run:
    """Return the kernel of one version of the op.

    Parameters
    ----------
    read : callable
        ``read(cycle_length, extra_inputs)`` returns the buffer's size and whether the order is fixed.
    extra : int
        Inputs behind the block length.
    """
    signature = Signature.of(node)
    function = UserFunction(node, env, "f", [DataType.VARIANT])
    name = node.op.replace("Dataset", "")

    def run(source: Any, *rest: Any) -> Any:
        split = len(rest) - extra
        *arguments, cycle_length, block_length = rest[:split]
        length = integer(cycle_length, "cycle_length")
        if length != _AUTOTUNE and length < 1:
            raise InvalidArgument("`cycle_length` must be > 0" if is_legacy else
                                  f"`cycle_length` must be `tf.data.AUTOTUNE` or greater than 0 but is {length}")
        block = integer(block_length, "block_length")
        if block < 1:
            raise InvalidArgument("`block_length` must be > 0")
        buffer, ordered = read(length, rest[split:])
        cycle = _processors() if length == _AUTOTUNE else length
        return variant(ParallelInterleaveDataset(
            signature, dataset_of(source), function, tuple(arguments), cycle, block,
            buffer=buffer or max(AUTO_BUFFER, min(block, _MOST_AHEAD)), ordered=ordered, carries=is_legacy, name=name))

    return run


# A block length that nobody reaches is no reason to read as much ahead.
_MOST_AHEAD = 64


def _is_ordered(node: Node) -> bool:
    choice = node.attr("deterministic", None)
    return not node.attr("sloppy", False) if choice is None else choice != b"false"


def _check_calls(tensor: Any, cycle: int) -> None:
    if integer(tensor, "num_parallel_calls") == _AUTOTUNE:
        return
    calls = positive(tensor, "num_parallel_calls", "num_parallel_calls")
    if cycle != _AUTOTUNE and calls > cycle:
        raise InvalidArgument("If `cycle_length` is set to a fixed value, `num_parallel_calls` must be either "
                              "`tf.data.AUTOTUNE` or a value less than or equal to `cycle_length`. However, "
                              f"`num_parallel_calls` is {calls} and `cycle_length` is {cycle}")


def _buffer(tensor: Any, name: str = "buffer_output_elements") -> int:
    """Return the size of a buffer, 0 for one to be chosen."""
    size = integer(tensor, name)
    if size != _AUTOTUNE and size < 1:
        raise InvalidArgument(f"`{name}` must be `tf.data.AUTOTUNE` or greater than 0 but is {size}")
    return 0 if size == _AUTOTUNE else size


@kernel("ParallelInterleaveDatasetV4", shape=scalar)
def _parallel_interleave_v4(node: Node, env: KernelEnv) -> Run:
    def read(cycle: int, inputs: Sequence[Any]) -> tuple[int, bool]:
        buffer_output_elements, prefetch_input_elements, num_parallel_calls = inputs
        _check_calls(num_parallel_calls, cycle)
        ahead = integer(prefetch_input_elements, "prefetch_input_elements")
        if ahead < -1:
            raise InvalidArgument("`prefetch_input_elements` must be `tf.data.AUTOTUNE` or at least 0 but is "
                                  f"{ahead}")
        return _buffer(buffer_output_elements), _is_ordered(node)

    return _parallel_interleave(node, env, read, 3, is_legacy=False)


@kernel("ParallelInterleaveDatasetV2", "ParallelInterleaveDatasetV3", shape=scalar)
def _parallel_interleave_v3(node: Node, env: KernelEnv) -> Run:
    def read(cycle: int, inputs: Sequence[Any]) -> tuple[int, bool]:
        _check_calls(inputs[0], cycle)
        return 0, _is_ordered(node)

    return _parallel_interleave(node, env, read, 1, is_legacy=False)


def _legacy_buffer(output: Any, ahead: Any) -> int:
    size, inputs = integer(output, "buffer_output_elements"), integer(ahead, "prefetch_input_elements")
    if size != _AUTOTUNE and size < 1:
        raise InvalidArgument("`buffer_output_elements` must be > 0")
    if inputs != _AUTOTUNE and inputs < 0:
        raise InvalidArgument("`prefetch_input_elements` must be >= 0")
    return 0 if size == _AUTOTUNE else size


@kernel("LegacyParallelInterleaveDatasetV2", shape=scalar)
def _legacy_parallel_interleave(node: Node, env: KernelEnv) -> Run:
    def read(cycle: int, inputs: Sequence[Any]) -> tuple[int, bool]:
        return _legacy_buffer(*inputs), _is_ordered(node)

    return _parallel_interleave(node, env, read, 2, is_legacy=True)


@kernel("ParallelInterleaveDataset", shape=scalar)
def _first_parallel_interleave(node: Node, env: KernelEnv) -> Run:
    def read(cycle: int, inputs: Sequence[Any]) -> tuple[int, bool]:
        sloppy, *sizes = inputs
        return _legacy_buffer(*sizes), not boolean(sloppy, "sloppy")

    return _parallel_interleave(node, env, read, 3, is_legacy=True)


class UnbatchDataset(UnaryDataset):
    """The slices of every element along its components' first dimension."""

    name = "Unbatch"

    def cardinality(self) -> int:
        total = self.source.cardinality()
        rows = next((shape[0] for shape in self.source.signature.shapes if shape), None)
        return 0 if total == 0 else total if total < 0 else UNKNOWN if rows is None else total * rows

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _UnbatchIterator(self, iteration, prefix)


class _UnbatchIterator(UnaryIterator):
    __slots__ = ("_element", "_place", "_rows")

    def __init__(self, dataset: UnbatchDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._element: Element = ()
        self._place = self._rows = 0

    async def next(self) -> Element | None:
        turns = 0
        while self._place >= self._rows:
            element = await self._source.next()
            if element is None:
                return None
            self._rows = 0  # should this one be refused
            for number, component in enumerate(element):
                if not component.ndim:
                    raise InvalidArgument("Input element must have a non-scalar value in each component.")
                if component.shape[0] != element[0].shape[0]:
                    raise InvalidArgument(
                        "Input element must have the same batch size in each component. Component 0 had size "
                        f"{element[0].shape[0]} but component {number} had size, {component.shape[0]}.")
            self._element, self._place, self._rows = element, 0, element[0].shape[0]
            turns += 1
            if not turns % PAUSE_EVERY:
                await PAUSE
        place = self._place
        self._place = place + 1
        return tuple([component[place, ...] for component in self._element])


@kernel("UnbatchDataset", shape=scalar)
def _unbatch(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    return lambda source: variant(UnbatchDataset(signature, dataset_of(source)))


class DirectedInterleaveDataset(Dataset):
    """Elements of several datasets, in the order in which another one names these.

    Parameters
    ----------
    selector : Dataset
        Of int64 scalars.
    stops : bool
        Whether the end of any dataset ends the whole; else it is passed over.
    """

    name = "DirectedInterleave"

    def __init__(self, signature: Signature, selector: Dataset, sources: Sequence[Dataset], stops: bool) -> None:
        super().__init__(signature)
        self.selector = selector
        self.sources = tuple(sources)
        self.stops = stops

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _DirectedInterleaveIterator(self, iteration, prefix)


class _DirectedInterleaveIterator(DatasetIterator):
    __slots__ = ("_left", "_selector", "_sources", "_stops")

    def __init__(self, dataset: DirectedInterleaveDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._selector: DatasetIterator | None = dataset.selector.iterator(iteration, self.prefix)
        self._sources: list[DatasetIterator | None] = [
            source.iterator(iteration, f"{self.prefix}[{number}]") for number, source in enumerate(dataset.sources)]
        self._left = len(self._sources)
        self._stops = dataset.stops

    async def next(self) -> Element | None:
        turns = 0
        while self._selector is not None:
            selected = await self._selector.next()
            if selected is None:
                self._finish()
                return None
            number = int(selected[0])
            if not 0 <= number < len(self._sources):
                raise InvalidArgument(f"Selector index out of range: {number} >= {len(self._sources)}")
            source = self._sources[number]
            if source is not None:
                element = await source.next()
                if element is not None:
                    return element
                source.close()
                self._sources[number] = None
                self._left -= 1
                if self._stops or not self._left:
                    self._finish()
                    return None
            turns += 1
            if not turns % PAUSE_EVERY:
                await PAUSE
        return None

    def _finish(self) -> None:
        self.close()
        self._selector = None
        self._sources = []

    def close(self) -> None:
        for source in (self._selector, *self._sources):
            if source is not None:
                source.close()


@kernel("DirectedInterleaveDataset", shape=scalar)
def _directed_interleave(node: Node, env: KernelEnv) -> Run:
    signature, stops = Signature.of(node), node.attr("stop_on_empty_dataset")

    def run(selector: Any, *sources: Any) -> Any:
        return variant(DirectedInterleaveDataset(
            signature, dataset_of(selector), [dataset_of(source) for source in sources], stops))

    return run
