"""Datasets of what a node is given: one element, slices, a range, random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, to_numpy
from runtime.ops.datasets.dataset import (
    INFINITE,
    Dataset,
    DatasetIterator,
    Element,
    Signature,
    integer,
    kept,
    variant,
)
from runtime.ops.datasets.seeds import Seeds, Words, random_seeds, seeds_of
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]


class TensorDataset(Dataset):
    """One element."""

    name = "Tensor"

    def __init__(self, signature: Signature, components: Element) -> None:
        super().__init__(signature)
        self.components = components

    def cardinality(self) -> int:
        return 1

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _TensorIterator(self, iteration, prefix)


class _TensorIterator(DatasetIterator):
    __slots__ = ("_element",)

    def __init__(self, dataset: TensorDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._element: Element | None = dataset.components

    async def next(self) -> Element | None:
        element, self._element = self._element, None
        return element


@kernel("TensorDataset", shape=scalar)
def _tensors(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    return lambda *components: variant(TensorDataset(signature, kept(components)))


class TensorSliceDataset(Dataset):
    """The slices of some tensors along their first dimension, which all have in common."""

    name = "TensorSlice"

    def __init__(self, signature: Signature, components: Element) -> None:
        super().__init__(signature)
        self.components = components
        self.length = components[0].shape[0]

    def cardinality(self) -> int:
        return self.length  # type: ignore[no-any-return]

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _TensorSliceIterator(self, iteration, prefix)


class _TensorSliceIterator(DatasetIterator):
    __slots__ = ("_components", "_length", "_place")

    def __init__(self, dataset: TensorSliceDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._components = dataset.components
        self._length = dataset.length
        self._place = 0

    async def next(self) -> Element | None:
        place = self._place
        if place >= self._length:
            return None
        self._place = place + 1
        return tuple([component[place, ...] for component in self._components])

    async def skip(self, count: int) -> int:
        start = self._place
        self._place = min(start + count, self._length)
        return self._place - start


@kernel("TensorSliceDataset", shape=scalar)
def _slices(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)

    def run(*components: Any) -> Any:
        if not components or not all(component.ndim for component in components):
            raise InvalidArgument("All components must be at least 1-dimensional")
        if any(component.shape[0] != components[0].shape[0] for component in components):
            raise InvalidArgument("All components must have the same size in the 0th dimension")
        return variant(TensorSliceDataset(signature, kept(components)))

    return run


class RangeDataset(Dataset):
    """Numbers at equal distances; `numbers` is a Python range."""

    name = "Range"

    def __init__(self, signature: Signature, numbers: range) -> None:
        super().__init__(signature)
        self.numbers = numbers

    def cardinality(self) -> int:
        numbers = self.numbers  # `len` is limited to what an index can be
        span = numbers.stop - numbers.start
        return max(0, -(-span // numbers.step) if numbers.step > 0 else -(span // -numbers.step))

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _RangeIterator(self, iteration, prefix)


_NO_NUMBERS = frozenset({DataType.BOOL, DataType.STRING})


class _RangeIterator(DatasetIterator):
    __slots__ = ("_left", "_number", "_step", "_type")

    def __init__(self, dataset: RangeDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._type = dataset.signature.types[0]
        self._number = dataset.numbers.start
        self._step = dataset.numbers.step
        self._left = dataset.cardinality()

    async def next(self) -> Element | None:
        if not self._left:
            return None
        number = self._number
        self._number = number + self._step
        self._left -= 1
        if self._type in _NO_NUMBERS:
            raise InvalidArgument(f"Unsupported data type: {self._type.label}")
        return (np.array(number).astype(to_numpy(self._type)),)

    async def skip(self, count: int) -> int:
        count = min(count, self._left)
        self._number += count * self._step
        self._left -= count
        return count


@kernel("RangeDataset", shape=scalar, host=(0, 1, 2))
def _range(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)

    def run(start: Any, stop: Any, step: Any) -> Any:
        first, end, stride = integer(start, "start"), integer(stop, "stop"), integer(step, "step")
        if not stride:
            raise InvalidArgument("step must be a non-zero integer.")
        return variant(RangeDataset(signature, range(first, end, stride)))

    return run


class RandomDataset(Dataset):
    """Random numbers without end: the words of a stream."""

    name = "Random"

    def __init__(self, signature: Signature, seeds: Seeds) -> None:
        super().__init__(signature)
        self.seeds = seeds

    def cardinality(self) -> int:
        return INFINITE

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _RandomIterator(self, iteration, prefix)


class _RandomIterator(DatasetIterator):
    __slots__ = ("_words",)

    def __init__(self, dataset: RandomDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._words = Words(*dataset.seeds.draw())

    async def next(self) -> Element | None:
        return (np.array(self._words.next(), np.int64),)


@kernel("RandomDataset", shape=scalar, host=(0, 1))
def _random(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)

    def run(seed: Any, seed2: Any) -> Any:
        return variant(RandomDataset(signature, Seeds(*random_seeds(seed, seed2), renews=False)))

    return run


@kernel("RandomDatasetV2", shape=scalar, host=(0, 1))
def _random_v2(node: Node, env: KernelEnv) -> Run:
    signature, renews = Signature.of(node), node.attr("rerandomize_each_iteration")

    def run(seed: Any, seed2: Any, generator: Any) -> Any:
        return variant(RandomDataset(signature, seeds_of(generator) or Seeds(*random_seeds(seed, seed2), renews)))

    return run
