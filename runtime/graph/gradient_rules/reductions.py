"""Gradient rules of reductions and running sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from runtime.dtypes import DataType
from runtime.graph.gradient_rules import Grads, dense, gradient, no_gradient
from runtime.graph.gradient_rules.broadcasting import reshape_like, shape_of
from runtime.graph.tensor import Operation, Tensor
from runtime.graph.value_shapes import constant_value

no_gradient("All", "Any")


def _reduced_axes(op: Operation) -> list[int] | None:
    """Return the axes of a reduction when they and the rank are known."""
    rank, axes = op.inputs[0].rank, constant_value(op.inputs[1])
    return None if rank is None or axes is None else [int(axis) % rank for axis in axes.reshape(-1)]


def _kept_shape(op: Operation) -> Any:
    """Return the input's shape with 1 for every reduced dimension."""
    graph, (x, axes_input) = op.graph, op.inputs
    axes = _reduced_axes(op)
    if axes is not None and x.shape is not None:
        sizes = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        if sizes.count(None) <= 1 and 0 not in sizes:
            return np.array([-1 if size is None else size for size in sizes], dtype=np.int32)
    shape = graph.shape(x)
    rank = graph.size(shape)
    axes_vector = graph.floor_mod(graph.cast(graph.reshape(axes_input, [-1]), DataType.INT32) + rank, rank)
    return graph.op("DynamicStitch", [graph.range(0, rank), axes_vector], [shape, graph.ones_like(axes_vector)])


def _spread(op: Operation, value: Tensor) -> Tensor:
    """Return a value of the reduced shape with the reduced dimensions put back as 1."""
    if op.attr("keep_dims"):
        return value
    return op.graph.reshape(value, _kept_shape(op))


@gradient("Sum")
def _sum(op: Operation, grads: Grads) -> Grads:
    x = op.inputs[0]
    result = op.graph.broadcast_to(_spread(op, dense(grads[0])), shape_of(x))
    result.set_shape(x.shape)
    return [result, None]


@gradient("Mean")
def _mean(op: Operation, grads: Grads) -> Grads:
    graph, x = op.graph, op.inputs[0]
    spread = _sum(op, grads)[0]
    axes = _reduced_axes(op)
    sizes = [x.shape[axis] for axis in sorted(set(axes))] if axes is not None and x.shape is not None else [None]
    if None not in sizes:
        count: Any = max(1, math.prod(size for size in sizes if size is not None))
        factor = graph.constant(count, x.dtype)
    else:
        out = graph.maximum(graph.size(op.outputs[0]), 1)
        factor = graph.cast(graph.floor_divide(graph.size(x), out), x.dtype)
    return [graph.op("RealDiv", dense(spread), factor), None]


@gradient("Max", "Min")
def _extremum(op: Operation, grads: Grads) -> Grads:
    graph, (x, axes), grad = op.graph, op.inputs, dense(grads[0])
    found = _spread(op, op.outputs[0])
    chosen = graph.cast(graph.equal(x, found), grad.dtype)
    count = graph.op("Sum", chosen, axes, keep_dims=True)
    # Several equal extrema share the gradient.
    return [graph.op("RealDiv", chosen, count) * _spread(op, grad), None]


@gradient("Prod")
def _prod(op: Operation, grads: Grads) -> Grads:
    graph, (x, axes_input) = op.graph, op.inputs
    grad = graph.broadcast_to(_spread(op, dense(grads[0])), shape_of(x))
    # With the reduced dimensions first and flat, the product of the others is a running product from either side:
    # right also where elements are 0.
    shape = graph.shape(x)
    rank = graph.rank(x)
    axes = graph.floor_mod(graph.cast(graph.reshape(axes_input, [-1]), DataType.INT32) + rank, rank)
    others, _ = graph.op("ListDiff", graph.range(0, rank), axes)
    order = graph.concat([axes, others], 0)
    moved_shape = graph.gather(shape, order)
    reduced = graph.reduce_prod(graph.gather(shape, axes))
    kept = graph.reduce_prod(graph.gather(shape, others))
    flat = graph.reshape(graph.op("Transpose", x, order), graph.stack([reduced, kept]))
    before = graph.cumprod(flat, 0, exclusive=True)
    after = graph.cumprod(flat, 0, exclusive=True, reverse=True)
    rest = graph.reshape(before * after, moved_shape)
    result = grad * graph.op("Transpose", rest, graph.op("InvertPermutation", order))
    result.set_shape(x.shape)
    return [result, None]


@gradient("EuclideanNorm")
def _norm(op: Operation, grads: Grads) -> Grads:
    graph, x = op.graph, op.inputs[0]
    return [x * graph.divide_no_nan(_spread(op, dense(grads[0])), _spread(op, op.outputs[0])), None]


@gradient("L2Loss")
def _l2_loss(op: Operation, grads: Grads) -> Grads:
    return [op.inputs[0] * dense(grads[0])]


@gradient("Cumsum")
def _cumsum(op: Operation, grads: Grads) -> Grads:
    back = op.graph.cumsum(dense(grads[0]), op.inputs[1], exclusive=op.attr("exclusive"),
                           reverse=not op.attr("reverse"))
    return [reshape_like(back, op.inputs[0]) if back.shape is None else back, None]


@gradient("Cumprod")
def _cumprod(op: Operation, grads: Grads) -> Grads:
    graph, (x, axis) = op.graph, op.inputs
    back = graph.cumsum(op.outputs[0] * dense(grads[0]), axis, exclusive=op.attr("exclusive"),
                        reverse=not op.attr("reverse"))
    return [graph.op("RealDiv", back, x), None]
