"""Gradients of gathered rows: the rows that count, without the zeros between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.dtypes import DataType
from runtime.graph.tensor import Tensor

if TYPE_CHECKING:
    from runtime.graph.builder import Graph

__all__ = ["IndexedSlices", "as_dense", "deduplicated"]


class IndexedSlices:
    """A tensor of zeros but for some rows; rows named twice add up.

    Attributes
    ----------
    values : Tensor
        Shape ``(n, ...)``.
    indices : Tensor
        Shape ``(n,)``, int32 or int64.
    dense_shape : Tensor
        Shape of the whole, a vector.
    """

    __slots__ = ("dense_shape", "indices", "values")

    def __init__(self, values: Tensor, indices: Tensor, dense_shape: Tensor) -> None:
        self.values = values
        self.indices = indices
        self.dense_shape = dense_shape

    @property
    def graph(self) -> Graph:
        """The graph that the parts belong to."""
        return self.values.graph

    @property
    def dtype(self) -> DataType:
        """Element type."""
        return self.values.dtype

    @property
    def name(self) -> str:
        """Name of the tensor of values."""
        return self.values.name

    def __repr__(self) -> str:
        return f"<IndexedSlices values={self.values.name!r} indices={self.indices.name!r}>"


def as_dense(grad: Tensor | IndexedSlices) -> Tensor:
    """Return a gradient as one tensor."""
    if isinstance(grad, Tensor):
        return grad
    graph = grad.graph
    count = graph.strided_slice(grad.dense_shape, 0)
    dense: Tensor = graph.op("UnsortedSegmentSum", grad.values, grad.indices, count)
    return dense


def deduplicated(grad: IndexedSlices) -> tuple[Tensor, Tensor]:
    """Return values and indices with every row named once, as the sparse optimizers need them."""
    graph = grad.graph
    unique, positions = graph.op("Unique", grad.indices)
    count = graph.strided_slice(graph.shape(unique), 0)
    summed: Tensor = graph.op("UnsortedSegmentSum", grad.values, positions, count)
    return summed, unique
