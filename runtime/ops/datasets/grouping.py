"""Datasets that make datasets of their input's elements: windows, and groups by a key."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType
from runtime.ops.datasets.batching import positive
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
    variant,
)
from runtime.ops.datasets.functions import UserFunction
from runtime.ops.datasets.task import PAUSE, PAUSE_EVERY
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.step.environment import KernelEnv

__all__ = ["ListDataset"]

Run = Callable[..., Any]


class ListDataset(Dataset):
    """Elements that are there already."""

    name = "Window"

    def __init__(self, signature: Signature, elements: Sequence[Element]) -> None:
        super().__init__(signature)
        self.elements = tuple(elements)

    def cardinality(self) -> int:
        return len(self.elements)

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _ListIterator(self, iteration, prefix)


class _ListIterator(DatasetIterator):
    __slots__ = ("_elements",)

    def __init__(self, dataset: ListDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._elements = iter(dataset.elements)

    async def next(self) -> Element | None:
        return next(self._elements, None)


class WindowDataset(UnaryDataset):
    """For each component a dataset of `size` of its values, `stride` apart; the next window starts `shift` later."""

    name = "Window"

    def __init__(self, signature: Signature, source: Dataset, size: int, shift: int, stride: int,
                 drop_remainder: bool) -> None:
        super().__init__(signature, source)
        self.size = size
        self.shift = shift
        self.stride = stride
        self.drop_remainder = drop_remainder
        inner = source.signature
        self.parts = [Signature((kind,), (shape,)) for kind, shape in zip(inner.types, inner.shapes, strict=True)]

    def cardinality(self) -> int:
        total = self.source.cardinality()
        if total < 0:
            return total
        if not self.drop_remainder:
            return -(-total // self.shift)
        span = (self.size - 1) * self.stride + 1
        return max(0, (total - span) // self.shift + 1)

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _WindowIterator(self, iteration, prefix)


class _WindowIterator(UnaryIterator):
    __slots__ = ("_buffer", "_dataset", "_ended")

    def __init__(self, dataset: WindowDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._dataset = dataset
        self._buffer: deque[Element] = deque()
        self._ended = False

    async def next(self) -> Element | None:
        dataset, buffer = self._dataset, self._buffer
        span = (dataset.size - 1) * dataset.stride + 1
        while not self._ended and len(buffer) < span:
            element = await self._source.next()
            if element is None:
                self._ended = True
                break
            buffer.append(element)
            if not len(buffer) % PAUSE_EVERY:
                await PAUSE
        if not buffer or (dataset.drop_remainder and len(buffer) < span):
            return None
        kept = list(buffer)[:span:dataset.stride]
        passed = min(dataset.shift, len(buffer))
        for _ in range(passed):
            buffer.popleft()
        if passed < dataset.shift and not self._ended:
            self._ended = await self._source.skip(dataset.shift - passed) < dataset.shift - passed
        return tuple(variant(ListDataset(part, [(element[number],) for element in kept]))
                     for number, part in enumerate(dataset.parts))


@kernel("WindowDataset", shape=scalar, host=(1, 2, 3, 4))
def _window(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)

    def run(source: Any, size: Any, shift: Any, stride: Any, drop_remainder: Any) -> Any:
        return variant(WindowDataset(
            signature, dataset_of(source), positive(size, "size", "Window size"),
            positive(shift, "shift", "Window shift"), positive(stride, "stride", "Window stride"),
            boolean(drop_remainder, "drop_remainder")))

    return run


class GroupByWindowDataset(UnaryDataset):
    """What a function makes of the datasets of elements that have the same key, so many at a time."""

    name = "GroupByWindow"

    def __init__(self, signature: Signature, source: Dataset, functions: Sequence[UserFunction],
                 arguments: Sequence[Element]) -> None:
        super().__init__(signature, source)
        key, reduce, size = (function.capture(captured, self.number)
                             for function, captured in zip(functions, arguments, strict=True))
        self.key, self.reduce, self.size = key, reduce, size

    def cardinality(self) -> int:
        return UNKNOWN

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _GroupByWindowIterator(self, iteration, prefix)


class _GroupByWindowIterator(UnaryIterator):
    __slots__ = ("_current", "_dataset", "_ended", "_groups", "_sizes")

    def __init__(self, dataset: GroupByWindowDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._dataset = dataset
        self._groups: dict[int, list[Element]] = {}
        self._sizes: dict[int, int] = {}
        self._current: DatasetIterator | None = None
        self._ended = False

    async def next(self) -> Element | None:
        turns = 0
        while True:
            if self._current is not None:
                found = await self._current.next()
                if found is not None:
                    return found
                self._current.close()
                self._current = None
            if not self._ended:
                element = await self._source.next()
                if element is None:
                    self._ended = True
                else:
                    await self._add(element)
            elif self._groups:
                await self._start(min(self._groups))
            else:
                return None
            turns += 1
            if not turns % PAUSE_EVERY:
                await PAUSE

    async def _add(self, element: Element) -> None:
        key = _one_integer(await self._dataset.key(self, element), "`key_func`")
        if key not in self._groups:
            size = _one_integer(await self._dataset.size(self, (_int64(key),)), "`window_size_func`")
            if size < 1:
                raise InvalidArgument(f"Window size must be greater than zero, but got {size}.")
            self._sizes[key] = size
        group = self._groups.setdefault(key, [])
        group.append(element)
        if len(group) >= self._sizes[key]:
            await self._start(key)

    async def _start(self, key: int) -> None:
        group = self._groups.pop(key)
        window = variant(ListDataset(self._dataset.source.signature, group))
        outputs = await self._dataset.reduce(self, (_int64(key), window))
        if len(outputs) != 1 or outputs[0].ndim:
            raise InvalidArgument("`reduce_func` must return a single scalar of dtype DT_VARIANT.")
        made = dataset_of(outputs[0])
        self._dataset.signature.check(made.signature)
        self._current = made.iterator(self.iteration, self.prefix)

    def close(self) -> None:
        super().close()
        if self._current is not None:
            self._current.close()


def _int64(value: int) -> Any:
    return np.array(value, np.int64)


def _one_integer(outputs: Sequence[Any], what: str) -> int:
    if len(outputs) != 1 or outputs[0].ndim:
        raise InvalidArgument(f"{what} must return a scalar int64.")
    return int(outputs[0])


@kernel("GroupByWindowDataset", shape=scalar)
def _group_by_window(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    functions = [UserFunction(node, env, "key_func", [DataType.INT64]),
                 UserFunction(node, env, "reduce_func", [DataType.VARIANT]),
                 UserFunction(node, env, "window_size_func", [DataType.INT64])]
    first = len(node.attr("Tkey_func_other_arguments"))
    second = first + len(node.attr("Treduce_func_other_arguments"))

    def run(source: Any, *captured: Any) -> Any:
        return variant(GroupByWindowDataset(
            signature, dataset_of(source), functions, [captured[:first], captured[first:second], captured[second:]]))

    return run
