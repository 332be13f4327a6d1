"""Datasets whose elements are several of another's, stacked: batches, padded batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import DataLoss, InvalidArgument, ResourceExhausted
from runtime.dtypes import DataType, to_numpy
from runtime.ops.datasets.dataset import (
    Dataset,
    DatasetIterator,
    Element,
    Signature,
    UnaryDataset,
    UnaryIterator,
    boolean,
    dataset_of,
    integer,
    kept,
    variant,
)
from runtime.ops.datasets.task import PAUSE, PAUSE_EVERY
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.step.environment import KernelEnv

__all__ = ["BatchDataset", "batched_cardinality", "gather", "positive", "stack"]

Run = Callable[..., Any]

# Longest batch in bytes: a larger one fits neither into a message nor into what an op may index.
_MAX_BATCH_BYTES = 1 << 36


def positive(tensor: Any, name: str, what: str) -> int:
    """Return the value of a scalar input that must be positive; `what` is its name in the message."""
    value = integer(tensor, name)
    if value < 1:
        raise InvalidArgument(f"{what} must be greater than zero.")
    return value


def stack(arrays: Sequence[Any], number: int) -> Any:
    """Return arrays of one shape as one, along a new first dimension.

    Parameters
    ----------
    number : int
        Which component they are, for messages.

    Raises
    ------
    InvalidArgument
        If a shape differs from the first.
    ResourceExhausted
        If the result is too large.
    """
    first = arrays[0]
    shape = first.shape
    if len(arrays) * first.nbytes > _MAX_BATCH_BYTES:
        raise ResourceExhausted(f"a batch of {len(arrays)} elements of {first.nbytes} bytes is larger than the "
                                f"{_MAX_BATCH_BYTES} bytes that a tensor may have")
    result = np.empty((len(arrays), *shape), first.dtype)
    for row, array in enumerate(arrays):
        if array.shape != shape:
            raise InvalidArgument(f"Cannot batch tensors with different shapes in component {number}. First element "
                                  f"had shape {format_shape(shape)} and element {row} had shape "
                                  f"{format_shape(array.shape)}.")
        result[row, ...] = array
    return result


async def gather(source: DatasetIterator, size: int) -> list[Element]:
    """Return the next elements of an iterator, fewer than `size` only at its end."""
    elements: list[Element] = []
    while len(elements) < size:
        element = await source.next()
        if element is None:
            break
        elements.append(element)
        if not len(elements) % PAUSE_EVERY:
            await PAUSE
    return elements


def batched_cardinality(total: int, size: int, drop_remainder: bool) -> int:
    """Return how many batches a number of elements makes."""
    return total if total < 0 else total // size if drop_remainder else -(-total // size)


class BatchDataset(UnaryDataset):
    """Elements stacked, `size` at a time."""

    name = "Batch"

    def __init__(self, signature: Signature, source: Dataset, size: int, drop_remainder: bool) -> None:
        super().__init__(signature, source)
        self.size = size
        self.drop_remainder = drop_remainder

    def cardinality(self) -> int:
        return batched_cardinality(self.source.cardinality(), self.size, self.drop_remainder)

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _BatchIterator(self, iteration, prefix)

    def join(self, elements: Sequence[Element]) -> Element:
        """Return elements as a batch."""
        return tuple([stack(arrays, number) for number, arrays in enumerate(zip(*elements, strict=True))])


class _BatchIterator(UnaryIterator):
    __slots__ = ("_dataset", "_ended")

    def __init__(self, dataset: BatchDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._dataset = dataset
        self._ended = False

    async def next(self) -> Element | None:
        if self._ended:
            return None
        dataset = self._dataset
        elements = await gather(self._source, dataset.size)
        if len(elements) < dataset.size:
            self._ended = True
            if not elements or dataset.drop_remainder:
                return None
        return dataset.join(elements)


@kernel("BatchDataset", "BatchDatasetV2", shape=scalar, host=(1, 2))
def _batch(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)

    def run(source: Any, batch_size: Any, drop_remainder: Any = None) -> Any:
        size = positive(batch_size, "batch_size", "Batch size")
        drops = drop_remainder is not None and boolean(drop_remainder, "drop_remainder")
        return variant(BatchDataset(signature, dataset_of(source), size, drops))

    return run


@kernel("ParallelBatchDataset", shape=scalar, host=(1, 2, 3))
def _parallel_batch(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)

    def run(source: Any, batch_size: Any, num_parallel_calls: Any, drop_remainder: Any) -> Any:
        size = positive(batch_size, "batch_size", "Batch size")
        if integer(num_parallel_calls, "num_parallel_calls") != -1:  # stacking is not worth more than one thread
            positive(num_parallel_calls, "num_parallel_calls", "num_parallel_calls")
        drops = boolean(drop_remainder, "drop_remainder")
        return variant(BatchDataset(signature, dataset_of(source), size, drops))

    return run


class PaddedBatchDataset(BatchDataset):
    """Elements filled up to one shape and stacked.

    Parameters
    ----------
    shapes : sequence of shape
        Of the components; where a dimension is None, as large as the largest in the batch.
    paddings : tuple
        What the components are filled up with.
    """

    name = "PaddedBatch"

    def __init__(self, signature: Signature, source: Dataset, size: int, drop_remainder: bool,
                 shapes: Sequence[tuple[int | None, ...]], paddings: Element) -> None:
        super().__init__(signature, source, size, drop_remainder)
        self.shapes = tuple(shapes)
        self.paddings = paddings

    def join(self, elements: Sequence[Element]) -> Element:
        result = []
        for number, arrays in enumerate(zip(*elements, strict=True)):
            shape = _common_shape(arrays, self.shapes[number], number)
            if all(array.shape == shape for array in arrays):
                result.append(stack(arrays, number))
                continue
            total = len(arrays) * int(np.prod(shape, dtype=object)) * arrays[0].itemsize
            if total > _MAX_BATCH_BYTES:
                raise ResourceExhausted(f"component {number} of a padded batch of shape {format_shape(shape)} and "
                                        f"{len(arrays)} elements has {total} bytes")
            padded = np.full((len(arrays), *shape), self.paddings[number].item(), arrays[0].dtype)
            for row, array in enumerate(arrays):
                padded[row][tuple(slice(size) for size in array.shape)] = array
            result.append(padded)
        return tuple(result)


def _common_shape(arrays: Sequence[Any], declared: tuple[int | None, ...], number: int) -> tuple[int, ...]:
    """Return the shape that all arrays are filled up to."""
    for array in arrays:
        if array.ndim != len(declared):
            raise InvalidArgument("All elements in a batch must have the same rank as the padded shape for component"
                                  f"{number}: expected rank {len(declared)} but got element with rank {array.ndim}")
        if any(want is not None and got > want for got, want in zip(array.shape, declared, strict=True)):
            raise DataLoss("Attempted to pad to a smaller size than the input element.")
    return tuple(max(array.shape[axis] for array in arrays) if dim is None else dim
                 for axis, dim in enumerate(declared))


def _padded_shape(tensor: Any) -> tuple[int | None, ...]:
    if tensor.ndim != 1:
        raise InvalidArgument("Padded shapes must be vectors")
    sizes = [int(size) for size in tensor]
    for size in sizes:
        if size < -1:
            raise InvalidArgument(f"Dimension {size} must be >= -1")
    return tuple(None if size == -1 else size for size in sizes)


@kernel("PaddedBatchDataset", "PaddedBatchDatasetV2", shape=scalar)
def _padded_batch(node: Node, env: KernelEnv) -> Run:
    signature, count = Signature.of(node), node.attr("N")
    has_drop = node.op == "PaddedBatchDatasetV2"

    def run(source: Any, batch_size: Any, *rest: Any) -> Any:
        size = positive(batch_size, "batch_size", "Batch size")
        drops = has_drop and boolean(rest[-1], "drop_remainder")
        values = rest[count:-1] if has_drop else rest[count:]
        dataset = dataset_of(source)
        types = dataset.signature.types
        if count != len(types):
            raise InvalidArgument(f"Number of padded shapes ({count}) must match the number of components in the input "
                                  f"dataset's elements ({len(types)})")
        shapes = [_padded_shape(tensor) for tensor in rest[:count]]
        if len(values) != len(types):
            raise InvalidArgument(f"Number of padding values ({len(values)}) must match the number of components in "
                                  f"the input dataset's elements ({len(types)})")
        _check_paddings(types, values)
        return variant(PaddedBatchDataset(signature, dataset, size, drops, shapes, kept(values)))

    return run


def _check_paddings(types: Sequence[DataType], values: Sequence[Any]) -> None:
    for kind, value in zip(types, values, strict=True):
        if value.ndim:
            raise InvalidArgument("All padding values must be scalars")
        if value.dtype != to_numpy(kind):
            raise InvalidArgument(f"Mismatched type between padding value {value.dtype} and input dataset's component "
                                  f"{kind.label}")


