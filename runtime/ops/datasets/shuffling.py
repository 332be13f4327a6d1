"""Datasets in random order, the same as TensorFlow's for the same seeds.

Elements wait in a buffer; which of them comes next is drawn. A buffer may hold elements of several repetitions, which
do not mix: those of one are a slice of the ring, and only the first slice is drawn from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.ops.datasets.dataset import (
    INFINITE,
    Dataset,
    DatasetIterator,
    Element,
    Signature,
    UnaryDataset,
    dataset_of,
    integer,
    variant,
)
from runtime.ops.datasets.seeds import Seeds, Words, random_seeds, seeds_of
from runtime.ops.datasets.task import PAUSE, PAUSE_EVERY
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]

# How many repetitions a buffer may hold elements of, when it could hold many small ones.
_MOST_EPOCHS = 3
_WHOLE = -2
"""Buffer size for as large as the dataset."""


class ShuffleDataset(UnaryDataset):
    """The elements in random order, repeated.

    Parameters
    ----------
    buffer_size : int
        How many elements are drawn from, or `_WHOLE`.
    seeds : Seeds
        Gives each reading its own.
    count : int
        Repetitions; negative without end.
    """

    def __init__(self, signature: Signature, source: Dataset, buffer_size: int, seeds: Seeds, count: int = 1) -> None:
        super().__init__(signature, source)
        self.buffer_size = buffer_size
        self.seeds = seeds
        self.count = count

    @property
    def name(self) -> str:  # type: ignore[override]
        return "Shuffle" if self.count == 1 else "ShuffleAndRepeat"

    def cardinality(self) -> int:
        total = self.source.cardinality()
        if self.count < 0:
            return 0 if total == 0 else INFINITE
        return 0 if not self.count else total if total < 0 else total * self.count

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _ShuffleIterator(self, iteration, prefix)


class _ShuffleIterator(DatasetIterator):
    """Reads in random order.

    Attributes
    ----------
    _ring : dict of int to Element
        By number modulo the ring's size; only the places that are taken.
    _slices : deque of [start, end]
        Numbers of the elements of each repetition that are in the ring.
    """

    __slots__ = ("_dataset", "_draws", "_epoch", "_held", "_produced", "_ring", "_size", "_slices", "_source", "_whole")

    def __init__(self, dataset: ShuffleDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._dataset = dataset
        self._whole = dataset.buffer_size == _WHOLE
        self._size = dataset.buffer_size
        self._ring: dict[int, Element] = {}
        self._slices: deque[list[int]] = deque()
        self._held = 0
        self._source: DatasetIterator | None = None
        self._epoch = 0
        self._produced = False
        self._draws = Words(*dataset.seeds.draw())

    async def next(self) -> Element | None:
        await self._fill()
        if not self._held:
            return None
        while self._slices[0][0] == self._slices[0][1]:
            self._slices.popleft()
            self._draws = Words(*self._dataset.seeds.draw())
        first = self._slices[0]
        chosen = self._place(first[0] + self._draws.next() % (first[1] - first[0]))
        oldest = self._ring.pop(self._place(first[0]))
        element = oldest
        if chosen in self._ring:
            element, self._ring[chosen] = self._ring[chosen], oldest
        first[0] += 1
        self._held -= 1
        return element

    def _has_room(self) -> bool:
        if self._source is None and self._dataset.count >= 0 and self._epoch >= self._dataset.count:
            return False
        if self._held and (len(self._slices) > _MOST_EPOCHS or (self._whole and self._source is None)):
            return False
        return self._whole or self._held < self._size

    async def _fill(self) -> None:
        turns = 0
        while self._has_room():
            if self._source is None:
                self._source = self._dataset.source.iterator(self.iteration, self.prefix)
                end = self._slices[-1][1] if self._slices else 0
                self._slices.append([end, end])
                self._epoch += 1
            element = await self._source.next()
            if element is not None:
                self._put(element)
            else:
                self._source.close()
                self._source = None
                if not self._produced and self._dataset.count < 0:
                    return  # without end, and empty
            turns += 1
            if not turns % PAUSE_EVERY:
                await PAUSE

    def _put(self, element: Element) -> None:
        self._produced = True
        last = self._slices[-1]
        self._ring[self._place(last[1])] = element
        last[1] += 1
        self._held += 1

    def _place(self, number: int) -> int:
        return number if self._whole else number % self._size

    def close(self) -> None:
        if self._source is not None:
            self._source.close()


def _buffer_size(tensor: Any) -> int:
    size = integer(tensor, "buffer_size")
    if size < 1 and size != _WHOLE:
        raise InvalidArgument("buffer_size must be greater than zero or UNKNOWN_CARDINALITY")
    return size


@kernel("ShuffleDataset", "ShuffleDatasetV3", shape=scalar)
def _shuffle(node: Node, env: KernelEnv) -> Run:
    signature, renews = Signature.of(node), node.attr("reshuffle_each_iteration")

    def run(source: Any, buffer_size: Any, seed: Any, seed2: Any, generator: Any = None) -> Any:
        size = _buffer_size(buffer_size)
        seeds = _seeds(seed, seed2, generator, renews)
        return variant(ShuffleDataset(signature, dataset_of(source), size, seeds))

    return run


def _seeds(seed: Any, seed2: Any, generator: Any, renews: bool) -> Seeds:
    """Return the generator that is given, or one of the dataset's own."""
    shared = None if generator is None else seeds_of(generator)
    return Seeds(*random_seeds(seed, seed2), renews) if shared is None else shared


@kernel("ShuffleDatasetV2", shape=scalar)
def _shuffle_v2(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)

    def run(source: Any, buffer_size: Any, generator: Any) -> Any:
        seeds = seeds_of(generator)
        if seeds is None:
            raise InvalidArgument(f"the resource handle {generator.item()!r} does not name a seed generator; connect "
                                  "the output of an AnonymousRandomSeedGenerator")
        return variant(ShuffleDataset(signature, dataset_of(source), _buffer_size(buffer_size), seeds))

    return run


@kernel("ShuffleAndRepeatDataset", "ShuffleAndRepeatDatasetV2", shape=scalar)
def _shuffle_and_repeat(node: Node, env: KernelEnv) -> Run:
    signature, renews = Signature.of(node), node.attr("reshuffle_each_iteration")

    def run(source: Any, buffer_size: Any, seed: Any, seed2: Any, count: Any, generator: Any = None) -> Any:
        size, repetitions = _buffer_size(buffer_size), integer(count, "count")
        if repetitions != -1 and repetitions < 1:
            raise InvalidArgument("count must be greater than zero or equal to -1.")
        seeds = _seeds(seed, seed2, generator, renews)
        return variant(ShuffleDataset(signature, dataset_of(source), size, seeds, repetitions))

    return run
