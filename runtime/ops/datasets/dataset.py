"""What datasets and their iterators have in common."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType
from runtime.ops.datasets.task import PAUSE, PAUSE_EVERY
from runtime.ops.objects import object_scalar
from runtime.ops.partial_shapes import matches
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.ops.registry import Shape

__all__ = ["INFINITE", "UNKNOWN", "Dataset", "DatasetIterator", "Element", "Signature", "UnaryDataset", "UnaryIterator",
           "boolean", "dataset_of", "integer", "kept", "text", "variant"]

Element = tuple[Any, ...]
"""One array for each component."""

INFINITE = -1
UNKNOWN = -2

_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Signature:
    """Types and shapes of the components of a dataset's elements."""

    types: tuple[DataType, ...]
    shapes: tuple[Shape, ...]

    @classmethod
    def of(cls, node: Node) -> Signature:
        """Return what a node declares."""
        types = node.attr("output_types", None)
        if types is None:
            types = node.attr("Toutput_types")
        return cls(tuple(types), tuple(node.attr("output_shapes")))

    def check(self, other: Signature) -> None:
        """Check that elements of another signature can be taken for elements of this.

        Raises
        ------
        InvalidArgument
            In TensorFlow's words.
        """
        if len(self.types) != len(other.types):
            raise InvalidArgument(f"Number of components does not match: expected {len(self.types)} types but got "
                                  f"{len(other.types)}.")
        for number, (want, got) in enumerate(zip(self.types, other.types, strict=True)):
            if want != got:
                raise InvalidArgument(f"Data type mismatch at component {number}: expected {DataType(want).label} but "
                                      f"got {DataType(got).label}.")
        for number, (declared, shape) in enumerate(zip(self.shapes, other.shapes, strict=False)):
            if not matches(declared, shape):
                raise InvalidArgument(f"Incompatible shapes at component {number}: expected {format_shape(declared)} "
                                      f"but got {format_shape(shape)}.")


class Dataset:
    """A description of elements; never changed.

    Parameters
    ----------
    signature : Signature

    Attributes
    ----------
    name : str
        What iterators are called in messages.
    number : int
        New in this process, for messages.
    """

    name: ClassVar[str] = ""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.number = next(_NUMBERS)

    def cardinality(self) -> int:
        """Return the number of elements, `INFINITE` or `UNKNOWN`, without reading any."""
        return UNKNOWN

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        """Return a new iterator.

        Parameters
        ----------
        iteration : Iteration
            The reading that it is a part of.
        prefix : str
            Path of the iterator that asks, for messages.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number}>"


class DatasetIterator:
    """Reads a dataset once.

    One task at a time calls `next` and `skip`; `close` is called when none does, and never again.
    """

    __slots__ = ("iteration", "prefix")

    def __init__(self, dataset: Dataset, iteration: Iteration, prefix: str) -> None:
        self.iteration = iteration
        self.prefix = f"{prefix}::{dataset.name}"

    async def next(self) -> Element | None:
        """Return the next element; None at the end, and again whenever it is asked for one later."""
        raise NotImplementedError

    async def skip(self, count: int) -> int:
        """Pass over elements and return how many there were, fewer than `count` only at the end."""
        for done in range(count):
            if await self.next() is None:
                return done
            if not done % PAUSE_EVERY:
                await PAUSE
        return count

    def close(self) -> None:
        """Let go of files and of what reads ahead."""


class UnaryDataset(Dataset):
    """A dataset made of one other.

    Parameters
    ----------
    signature : Signature
    source : Dataset
    """

    def __init__(self, signature: Signature, source: Dataset) -> None:
        super().__init__(signature)
        self.source = source

    def cardinality(self) -> int:
        return self.source.cardinality()


class UnaryIterator(DatasetIterator):
    """An iterator over what one other gives."""

    __slots__ = ("_source",)

    def __init__(self, dataset: UnaryDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._source = dataset.source.iterator(iteration, self.prefix)

    def close(self) -> None:
        self._source.close()


# What kernels give and take.


def variant(dataset: Dataset) -> Any:
    """Return a dataset as a variant tensor."""
    return object_scalar(dataset)


def dataset_of(tensor: Any) -> Dataset:
    """Return the dataset that a variant tensor holds.

    Raises
    ------
    InvalidArgument
        If it holds none.
    """
    found = tensor.item() if tensor.ndim == 0 else None
    if not isinstance(found, Dataset):
        raise InvalidArgument("Tensor must be a Dataset object.")
    return found


def integer(tensor: Any, name: str) -> int:
    """Return the value of a scalar input of integers."""
    return int(_scalar(tensor, name))


def boolean(tensor: Any, name: str) -> bool:
    """Return the value of a scalar input of booleans."""
    return bool(_scalar(tensor, name))


def text(tensor: Any, name: str) -> str:
    """Return the value of a scalar input of strings."""
    found: bytes = _scalar(tensor, name)
    return found.decode(errors="surrogateescape")


def _scalar(tensor: Any, name: str) -> Any:
    if tensor.ndim:
        raise InvalidArgument(f"{name} must be a scalar")
    return tensor.item()


def kept(arrays: Sequence[Any]) -> Element:
    """Return arrays that may be kept beyond the step: what views foreign bytes, such as a request's, is copied."""
    return tuple(array if array.flags.owndata or isinstance(array.base, np.ndarray) and array.base.flags.owndata
                 else array.copy() for array in arrays)
