"""Gradient rules of slices, gathers and scatters."""

from __future__ import annotations

from runtime._ext.errors import Unimplemented
from runtime.dtypes import DataType
from runtime.graph.gradient_rules import Grads, dense, gradient, no_gradient
from runtime.graph.gradient_rules.broadcasting import shape_of
from runtime.graph.indexed_slices import IndexedSlices
from runtime.graph.tensor import Operation, Tensor
from runtime.graph.value_shapes import constant_value

no_gradient("ArgMax", "ArgMin")

_MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")


@gradient("Slice")
def _slice(op: Operation, grads: Grads) -> Grads:
    graph, (x, begin, _) = op.graph, op.inputs
    shape = graph.convert(shape_of(x, begin.dtype), begin.dtype)
    taken = graph.convert(shape_of(op.outputs[0], begin.dtype), begin.dtype)
    after = graph.subtract(graph.subtract(shape, taken), begin)
    result = graph.pad(dense(grads[0]), graph.stack([begin, after], axis=1))
    result.set_shape(x.shape)
    return [result, None, None]


@gradient("StridedSlice")
def _strided_slice(op: Operation, grads: Grads) -> Grads:
    graph, (x, begin, end, strides) = op.graph, op.inputs
    kind = begin.dtype
    if kind is DataType.INT16:  # StridedSliceGrad has no 16-bit indices
        kind = DataType.INT32
        begin, end, strides = (graph.cast(part, kind) for part in (begin, end, strides))
    result: Tensor = graph.op("StridedSliceGrad", graph.convert(shape_of(x, kind), kind), begin, end, strides,
                              dense(grads[0]), **{name: op.attr(name) for name in _MASKS})
    result.set_shape(x.shape)
    return [result, None, None, None]


@gradient("StridedSliceGrad")
def _strided_slice_grad(op: Operation, grads: Grads) -> Grads:
    _, begin, end, strides, _ = op.inputs
    cut = op.graph.op("StridedSlice", dense(grads[0]), begin, end, strides, **{name: op.attr(name) for name in _MASKS})
    return [None, None, None, None, cut]


@gradient("Gather")
def _gather(op: Operation, grads: Grads) -> Grads:
    return [_rows(dense(grads[0]), op.inputs[0], op.inputs[1]), None]


@gradient("GatherV2")
def _gather_v2(op: Operation, grads: Grads) -> Grads:
    params, indices, axis_input = op.inputs
    axis = constant_value(axis_input)
    batch_dims = int(op.attr("batch_dims"))
    if axis is not None and int(axis) == 0 and batch_dims == 0:
        return [_rows(dense(grads[0]), params, indices), None, None]
    if axis is None or params.rank is None or indices.rank is None:
        raise Unimplemented(f"the gradient of GatherV2 (node '{op.name}') needs a constant axis and known ranks when "
                            "it does not gather along the first dimension")
    batch = batch_dims % (indices.rank + 1) if batch_dims < 0 else batch_dims
    return [_along_axis(dense(grads[0]), params, indices, int(axis) % params.rank, batch), None, None]


def _rows(grad: Tensor, params: Tensor, indices: Tensor) -> IndexedSlices:
    graph = params.graph
    shape = graph.convert(shape_of(params))
    rest = graph.strided_slice(shape, slice(1, None))
    values = graph.reshape(grad, graph.concat([graph.constant([-1]), rest], 0))
    if params.shape is not None:
        values.set_shape((None, *params.shape[1:]))
    return IndexedSlices(values, graph.reshape(indices, [-1]), shape)


def _along_axis(grad: Tensor, params: Tensor, indices: Tensor, axis: int, batch: int) -> Tensor:
    """Return the gradient by `params`, gathered along `axis` per entry of the first `batch` dimensions.

    With the batch and the gathered dimension first, rows of one table per batch entry are added up at once: entry b
    of the batch owns the rows from b times the size of the gathered dimension.
    """
    graph = params.graph
    rank, extra = params.rank or 0, (indices.rank or 0) - batch
    shape = graph.shape(params)
    # grad is batch + before + gathered + after; the gathered dimensions move behind the batch.
    before = list(range(batch, axis))
    gathered = list(range(axis, axis + extra))
    after = list(range(axis + extra, rank - 1 + extra))
    moved = graph.transpose(grad, [*range(batch), *gathered, *before, *after])
    batch_shape = graph.strided_slice(shape, slice(0, batch))
    rest = graph.concat([graph.strided_slice(shape, slice(batch, axis)),
                         graph.strided_slice(shape, slice(axis + 1, None))], 0)
    size = graph.strided_slice(shape, axis)
    count = graph.reduce_prod(batch_shape)
    table = graph.reshape(graph.cast(indices, DataType.INT32), graph.stack([count, -1]))
    offsets = graph.expand_dims(graph.multiply(graph.range(0, count), size), 1)
    flat = graph.reshape(graph.add(table, offsets), [-1])
    rows = graph.reshape(moved, graph.concat([graph.constant([-1]), rest], 0))
    summed = graph.op("UnsortedSegmentSum", rows, flat, graph.multiply(count, size))
    full = graph.reshape(summed, graph.concat([batch_shape, graph.stack([size]), rest], 0))
    back = [*range(batch), *range(batch + 1, axis + 1), batch, *range(axis + 1, rank)]
    result = graph.transpose(full, back)
    result.set_shape(params.shape)
    return result


@gradient("GatherNd")
def _gather_nd(op: Operation, grads: Grads) -> Grads:
    graph, (params, indices) = op.graph, op.inputs
    shape = graph.convert(shape_of(params, indices.dtype), indices.dtype)
    return [graph.scatter_nd(indices, dense(grads[0]), shape), None]


@gradient("ScatterNd")
def _scatter_nd(op: Operation, grads: Grads) -> Grads:
    return [None, op.graph.gather_nd(dense(grads[0]), op.inputs[0]), None]


@gradient("TopKV2")
def _top_k(op: Operation, grads: Grads) -> Grads:
    graph, x, indices = op.graph, op.inputs[0], op.outputs[1]
    if grads[0] is None:
        return [None, None]
    shape = graph.shape(x)
    last = graph.strided_slice(shape, -1)
    count = graph.strided_slice(graph.shape(indices), -1)
    rows = graph.reshape(graph.cast(indices, DataType.INT32), graph.stack([-1, count]))
    starts = graph.expand_dims(graph.multiply(graph.range(0, graph.strided_slice(graph.shape(rows), 0)), last), 1)
    flat = graph.reshape(graph.add(rows, starts), [-1, 1])
    spread = graph.scatter_nd(flat, graph.reshape(dense(grads[0]), [-1]), graph.stack([graph.reduce_prod(shape)]))
    result = graph.reshape(spread, shape)
    result.set_shape(x.shape)
    return [result, None]
