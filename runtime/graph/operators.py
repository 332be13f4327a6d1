"""Python's operators, for whatever stands for a tensor in a graph under construction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.graph.builder import Graph
    from runtime.graph.tensor import Tensor

__all__ = ["Operators"]


class Operators:
    """Arithmetic, comparisons by order, logic and ``@``: each adds an operation to the graph.

    ``==`` and ``!=`` keep comparing identity, so that tensors and variables can be keys of a feed dictionary;
    `Graph.equal` compares elements.
    """

    __slots__ = ()
    __array_ufunc__ = None  # ndarray + Tensor is a Tensor, not an object array
    __array_priority__ = 100

    if TYPE_CHECKING:

        @property
        def graph(self) -> Graph: ...

    def __add__(self, other: Any) -> Tensor:
        return self.graph.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return self.graph.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return self.graph.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return self.graph.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return self.graph.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return self.graph.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return self.graph.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return self.graph.divide(other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        return self.graph.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return self.graph.floor_divide(other, self)

    def __mod__(self, other: Any) -> Tensor:
        return self.graph.floor_mod(self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return self.graph.floor_mod(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return self.graph.pow(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return self.graph.pow(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return self.graph.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return self.graph.matmul(other, self)

    def __neg__(self) -> Tensor:
        return self.graph.negative(self)

    def __pos__(self) -> Tensor:
        return self.graph.convert(self)

    def __abs__(self) -> Tensor:
        return self.graph.abs(self)

    def __invert__(self) -> Tensor:
        return self.graph.logical_not(self)

    def __and__(self, other: Any) -> Tensor:
        return self.graph.logical_and(self, other)

    def __rand__(self, other: Any) -> Tensor:
        return self.graph.logical_and(other, self)

    def __or__(self, other: Any) -> Tensor:
        return self.graph.logical_or(self, other)

    def __ror__(self, other: Any) -> Tensor:
        return self.graph.logical_or(other, self)

    def __xor__(self, other: Any) -> Tensor:
        return self.graph.not_equal(self, other)

    def __lt__(self, other: Any) -> Tensor:
        return self.graph.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return self.graph.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return self.graph.greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return self.graph.greater_equal(self, other)

    def __getitem__(self, key: Any) -> Tensor:
        return self.graph.strided_slice(self, key)
