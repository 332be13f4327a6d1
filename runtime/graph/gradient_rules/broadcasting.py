"""Gradients back through broadcasting: sums over the dimensions along which an operand was repeated."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.dtypes import DataType
from runtime.graph.tensor import Tensor
from runtime.ops.registry import Shape

__all__ = ["conj", "reshape_like", "shape_of", "summed_like", "unbroadcast"]


def conj(x: Tensor) -> Tensor:
    """Return the conjugate of a complex tensor, a real one as it is."""
    if x.dtype in (DataType.COMPLEX64, DataType.COMPLEX128):
        result: Tensor = x.graph.op("Conj", x)
        return result
    return x


def shape_of(x: Tensor, dtype: DataType = DataType.INT32) -> Any:
    """Return the shape of a tensor: a constant when it is known, else a Shape operation."""
    if x.shape is not None and None not in x.shape:
        return np.array(x.shape, dtype=np.int32 if dtype is DataType.INT32 else np.int64)
    return x.graph.shape(x, dtype)


def reshape_like(grad: Tensor, x: Tensor) -> Tensor:
    """Return a gradient in the shape of a tensor with as many elements."""
    result = x.graph.reshape(grad, shape_of(x))
    result.set_shape(x.shape)
    return result


def _repeated_axes(shape: Shape, other: Shape) -> list[int] | None:
    """Return the axes of the result along which a tensor was repeated, or None when shapes do not tell.

    An axis where the tensor has size 1 counts as repeated: a sum over it is right in any case.
    """
    if shape is None or other is None:
        return None
    rank = max(len(shape), len(other))
    axes = list(range(rank - len(shape)))
    for axis in range(rank - len(shape), rank):
        size = shape[axis - rank + len(shape)]
        position = axis - rank + len(other)
        against = other[position] if position >= 0 else 1
        if size == 1:
            if against != 1:
                axes.append(axis)
        elif size is None and against != 1:
            return None
    return axes


def summed_like(grad: Tensor, x: Tensor, other: Tensor) -> Tensor:
    """Return a gradient in the shape of an operand that was broadcast against another.

    Parameters
    ----------
    grad : Tensor
        In the shape that both broadcast to.
    x : Tensor
        The operand.
    other : Tensor
        What it was broadcast against; the result itself will do.
    """
    graph = x.graph
    axes = _repeated_axes(x.shape, other.shape)
    if axes is None:
        shape = graph.shape(x)
        repeated, _ = graph.op("BroadcastGradientArgs", shape, graph.shape(other))
        result = graph.reshape(graph.reduce_sum(grad, repeated), shape)
    elif not axes:
        return grad
    else:
        result = graph.reduce_sum(grad, axes)
        if axes != list(range(len(axes))) or x.shape is None or result.rank != len(x.shape):
            result = graph.reshape(result, shape_of(x))
    result.set_shape(x.shape)
    return result


def unbroadcast(grad_x: Tensor | None, x: Tensor, grad_y: Tensor | None, y: Tensor) -> list[Tensor | None]:
    """Return the gradients by both operands of an operation that broadcasts them."""
    return [None if grad_x is None else summed_like(grad_x, x, y),
            None if grad_y is None else summed_like(grad_y, y, x)]
