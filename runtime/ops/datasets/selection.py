"""Datasets that choose among the elements of others and change none: take, skip, repeat, concatenate, zip, shard.

Also what checks them. What only says how elements are made is in `settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Error, FailedPrecondition, InvalidArgument
from runtime.dtypes import DataType
from runtime.ops.datasets.dataset import (
    INFINITE,
    UNKNOWN,
    Dataset,
    DatasetIterator,
    Element,
    Signature,
    UnaryDataset,
    UnaryIterator,
    dataset_of,
    integer,
    variant,
)
from runtime.ops.datasets.task import PAUSE, PAUSE_EVERY
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]


class CountedDataset(UnaryDataset):
    """A dataset with a number: how many to take, skip or repeat."""

    def __init__(self, signature: Signature, source: Dataset, count: int) -> None:
        super().__init__(signature, source)
        self.count = count


def _register_counted(op: str, made: type[CountedDataset]) -> None:
    @kernel(op, shape=scalar, host=(1,))
    def bind(node: Node, env: KernelEnv) -> Run:
        signature = Signature.of(node)
        return lambda source, count: variant(made(signature, dataset_of(source), integer(count, "count")))


class TakeDataset(CountedDataset):
    """The first elements; all for a negative count."""

    name = "Take"

    def cardinality(self) -> int:
        total = self.source.cardinality()
        if self.count < 0 or total == UNKNOWN:
            return total
        return self.count if total == INFINITE else min(total, self.count)

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _TakeIterator(self, iteration, prefix)


class _TakeIterator(UnaryIterator):
    __slots__ = ("_left",)

    def __init__(self, dataset: TakeDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._left = dataset.count

    async def next(self) -> Element | None:
        if not self._left:
            return None
        element = await self._source.next()
        self._left = 0 if element is None else self._left - 1
        return element


_register_counted("TakeDataset", TakeDataset)


class SkipDataset(CountedDataset):
    """All but the first elements; none for a negative count."""

    name = "Skip"

    def cardinality(self) -> int:
        total = self.source.cardinality()
        if total in (INFINITE, UNKNOWN):
            return 0 if self.count < 0 else total
        return 0 if self.count < 0 else max(0, total - self.count)

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _SkipIterator(self, iteration, prefix)


class _SkipIterator(UnaryIterator):
    __slots__ = ("_ended", "_left")

    def __init__(self, dataset: SkipDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._ended = dataset.count < 0
        self._left = dataset.count

    async def next(self) -> Element | None:
        if self._ended:
            return None
        if self._left:
            left, self._left = self._left, 0
            if await self._source.skip(left) < left:
                self._ended = True
                return None
        return await self._source.next()


_register_counted("SkipDataset", SkipDataset)


class RepeatDataset(CountedDataset):
    """The elements over and over; without end for a negative count."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return "ForeverRepeat" if self.count < 0 else "FiniteRepeat"

    def cardinality(self) -> int:
        total = self.source.cardinality()
        if self.count < 0:
            return 0 if total == 0 else INFINITE
        if not self.count:
            return 0
        return total if total < 0 else total * self.count

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _RepeatIterator(self, iteration, prefix)


class _RepeatIterator(DatasetIterator):
    __slots__ = ("_dataset", "_first", "_left", "_source", "_turn")

    def __init__(self, dataset: RepeatDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._dataset = dataset.source
        self._left = dataset.count
        self._source: DatasetIterator | None = None
        self._turn = 0
        self._first = True  # nothing has come of this turn yet

    async def next(self) -> Element | None:
        turns = 0
        while self._left:
            if self._source is None:
                self._source = self._dataset.iterator(self.iteration, f"{self.prefix}[{self._turn}]")
                self._turn += 1
                self._first = True
            element = await self._source.next()
            if element is not None:
                self._first = False
                return element
            self._source.close()
            self._source = None
            if self._left > 0:
                self._left -= 1
            elif self._first:  # without end, and empty
                self._left = 0
            turns += 1
            if not turns % PAUSE_EVERY:
                await PAUSE
        return None

    def close(self) -> None:
        if self._source is not None:
            self._source.close()


_register_counted("RepeatDataset", RepeatDataset)


class ConcatenateDataset(Dataset):
    """The elements of one dataset, then those of another."""

    name = "Concatenate"

    def __init__(self, signature: Signature, first: Dataset, second: Dataset) -> None:
        super().__init__(signature)
        self.parts = first, second

    def cardinality(self) -> int:
        totals = [part.cardinality() for part in self.parts]
        if INFINITE in totals:
            return INFINITE
        return UNKNOWN if UNKNOWN in totals else sum(totals)

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _ConcatenateIterator(self, iteration, prefix)


class _ConcatenateIterator(DatasetIterator):
    __slots__ = ("_parts", "_place", "_source")

    def __init__(self, dataset: ConcatenateDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._parts = dataset.parts
        self._place = 0
        self._source: DatasetIterator | None = None

    async def next(self) -> Element | None:
        while self._place < len(self._parts):
            if self._source is None:
                self._source = self._parts[self._place].iterator(self.iteration, f"{self.prefix}[{self._place}]")
            element = await self._source.next()
            if element is not None:
                return element
            self._source.close()
            self._source = None
            self._place += 1
        return None

    def close(self) -> None:
        if self._source is not None:
            self._source.close()


@kernel("ConcatenateDataset", shape=scalar)
def _concatenate(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)

    def run(first: Any, second: Any) -> Any:
        left, right = dataset_of(first), dataset_of(second)
        if left.signature.types != right.signature.types:
            raise InvalidArgument("input dataset and dataset to concatenate have different output_types "
                                  f"{_labels(left)} and {_labels(right)}")
        return variant(ConcatenateDataset(signature, left, right))

    return run


def _labels(dataset: Dataset) -> str:
    return "(" + ", ".join(kind.label for kind in dataset.signature.types) + ")"


class ZipDataset(Dataset):
    """Elements of several datasets side by side, until one of them ends."""

    name = "Zip"

    def __init__(self, signature: Signature, sources: Sequence[Dataset]) -> None:
        super().__init__(signature)
        self.sources = tuple(sources)

    def cardinality(self) -> int:
        totals = [source.cardinality() for source in self.sources]
        if UNKNOWN in totals:
            return UNKNOWN
        return min((total for total in totals if total != INFINITE), default=INFINITE)

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _ZipIterator(self, iteration, prefix)


class _ZipIterator(DatasetIterator):
    __slots__ = ("_ended", "_sources")

    def __init__(self, dataset: ZipDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._sources = [source.iterator(iteration, f"{self.prefix}[{number}]")
                         for number, source in enumerate(dataset.sources)]
        self._ended = not self._sources

    async def next(self) -> Element | None:
        if self._ended:
            return None
        components: list[Any] = []
        failure: Error | None = None
        for source in self._sources:  # all of them: after an error they still belong together
            try:
                element = await source.next()
            except Error as error:
                self.iteration.check()
                failure = failure or error
                continue
            if element is None:
                self._ended = True
                return None
            components += element
        if failure is not None:
            raise failure
        return tuple(components)

    def close(self) -> None:
        for source in self._sources:
            source.close()


@kernel("ZipDataset", shape=scalar)
def _zip(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    return lambda *sources: variant(ZipDataset(signature, [dataset_of(source) for source in sources]))


class ShardDataset(CountedDataset):
    """Every `count`-th element, from `index` on."""

    name = "Shard"

    def __init__(self, signature: Signature, source: Dataset, count: int, index: int, non_empty: bool) -> None:
        super().__init__(signature, source, count)
        self.index = index
        self.non_empty = non_empty

    def cardinality(self) -> int:
        total = self.source.cardinality()
        return total if total < 0 else max(0, -((self.index - total) // self.count))

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _ShardIterator(self, iteration, prefix)


class _ShardIterator(UnaryIterator):
    __slots__ = ("_before", "_count", "_ended", "_index", "_owed")

    def __init__(self, dataset: ShardDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._count = dataset.count
        self._index = self._before = dataset.index  # elements to pass over
        # Behind the first element, where every shard must have one: those of the shards that follow.
        self._owed = dataset.count - 1 - dataset.index if dataset.non_empty else 0
        self._ended = False

    async def next(self) -> Element | None:
        if self._ended:
            return None
        element = None
        if not self._before or await self._source.skip(self._before) == self._before:
            element = await self._source.next()
        if element is None:
            self._ended = True
            return None
        self._before = self._count - 1
        if self._owed:
            owed, self._owed = self._owed, 0
            if await self._source.skip(owed) < owed:
                raise InvalidArgument(
                    f"Could not apply FILE based sharding: the dataset only has {self._index + 1} file(s), "
                    f"which is not enough for the required {self._count} shards/workers. If you are using datasets "
                    "with distribution strategy, consider setting the auto sharding policy to either DATA or OFF "
                    "using the `experimental_distribute.auto_shard_policy` option of `tf.data.Options()`. Or, split "
                    "your input files into a larger number of small files such that number of files is greater than "
                    "number of shards/workers.")
            self._before = self._index
        return element


@kernel("ShardDataset", shape=scalar, host=(1, 2))
def _shard(node: Node, env: KernelEnv) -> Run:
    signature, non_empty = Signature.of(node), node.attr("require_non_empty")

    def run(source: Any, num_shards: Any, index: Any) -> Any:
        count, place = integer(num_shards, "num_shards"), integer(index, "index")
        if count < 1:
            raise InvalidArgument(f"Number of shards must be greater than zero (currently num_shards = {count}).")
        if not 0 <= place < count:
            raise InvalidArgument(f"Index must be between 0 and {count - 1} (currently index = {place}).")
        return variant(ShardDataset(signature, dataset_of(source), count, place, non_empty))

    return run


class AssertCardinalityDataset(CountedDataset):
    """The elements of a dataset, which must be so many."""

    name = "AssertCardinality"

    def cardinality(self) -> int:
        return self.count

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _AssertCardinalityIterator(self, iteration, prefix)


class _AssertCardinalityIterator(UnaryIterator):
    __slots__ = ("_expected", "_seen")

    def __init__(self, dataset: AssertCardinalityDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._expected = dataset.count
        self._seen = 0

    async def next(self) -> Element | None:
        element = await self._source.next()
        if element is not None:
            self._seen += 1
        if element is None and self._expected != self._seen:
            expected = "an infinite number of" if self._expected == INFINITE else str(self._expected)
            raise FailedPrecondition(f"Input dataset was expected to contain {expected} {_elements(self._expected)} "
                                     f"but contained only {self._seen} {_elements(self._seen)}.")
        if element is not None and self._expected != INFINITE and self._expected < self._seen:
            raise FailedPrecondition(f"Input dataset was expected to contain {self._expected} "
                                     f"{_elements(self._expected)} but contained at least {self._seen} "
                                     f"{_elements(self._seen)}.")
        return element


def _elements(count: int) -> str:
    return "element" if count == 1 else "elements"


@kernel("AssertCardinalityDataset", shape=scalar, host=(1,))
def _assert_cardinality(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    return lambda source, count: variant(
        AssertCardinalityDataset(signature, dataset_of(source), integer(count, "cardinality")))


class IgnoreErrorsDataset(UnaryDataset):
    """The elements that could be made; the others are left out."""

    name = "IgnoreErrors"

    def cardinality(self) -> int:
        total = self.source.cardinality()
        return total if total == INFINITE else UNKNOWN

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _IgnoreErrorsIterator(self, iteration, prefix)


class _IgnoreErrorsIterator(UnaryIterator):
    __slots__ = ()

    async def next(self) -> Element | None:
        turns = 0
        while True:
            try:
                return await self._source.next()
            except Error:
                self.iteration.check()
            turns += 1
            if not turns % PAUSE_EVERY:
                await PAUSE


@kernel("IgnoreErrorsDataset", "ExperimentalIgnoreErrorsDataset", shape=scalar)
def _ignore_errors(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    return lambda source: variant(IgnoreErrorsDataset(signature, dataset_of(source)))


class UniqueDataset(UnaryDataset):
    """The elements that have not come before; numbers or strings, one component."""

    name = "Unique"

    def cardinality(self) -> int:
        return UNKNOWN

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _UniqueIterator(self, iteration, prefix)


class _UniqueIterator(UnaryIterator):
    __slots__ = ("_seen",)

    def __init__(self, dataset: UniqueDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._seen: set[Any] = set()

    async def next(self) -> Element | None:
        turns = 0
        while True:
            element = await self._source.next()
            if element is None:
                return None
            component = element[0]
            key = (component.shape, tuple(component.reshape(-1).tolist()))
            if key not in self._seen:
                self._seen.add(key)
                return element
            turns += 1
            if not turns % PAUSE_EVERY:
                await PAUSE


@kernel("UniqueDataset", shape=scalar)
def _unique(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)

    def run(source: Any) -> Any:
        dataset = dataset_of(source)
        if len(dataset.signature.types) != 1 or dataset.signature.types[0] not in _COMPARABLE:
            raise InvalidArgument("UniqueDataset only supports inputs with a single `tf.int32`, `tf.int64`, or "
                                  "`tf.string` component.")
        return variant(UniqueDataset(signature, dataset))

    return run


_COMPARABLE = frozenset({DataType.INT32, DataType.INT64, DataType.STRING})
