"""Gradient rules of variables: all reads of one variable count for its handle."""

from __future__ import annotations

from runtime.graph.gradient_rules import Grads, dense, gradient, no_gradient
from runtime.graph.indexed_slices import IndexedSlices
from runtime.graph.tensor import Operation

no_gradient("VarIsInitializedOp", "VariableShape", "IsVariableInitialized")


@gradient("ReadVariableOp")
def _read(op: Operation, grads: Grads) -> Grads:
    return [grads[0]]


@gradient("ResourceGather")
def _resource_gather(op: Operation, grads: Grads) -> Grads:
    graph, (handle, indices) = op.graph, op.inputs
    shape = graph.op("VariableShape", handle)
    row = graph.strided_slice(shape, slice(1, None))
    values = graph.reshape(dense(grads[0]), graph.concat([graph.constant([-1]), row], 0))
    known = handle.op.attr("shape") if handle.op.type == "VarHandleOp" else None
    if known is not None:
        values.set_shape((None, *known[1:]))
    return [IndexedSlices(values, graph.reshape(indices, [-1]), shape), None]


@gradient("ResourceGatherNd")
def _resource_gather_nd(op: Operation, grads: Grads) -> Grads:
    graph, (handle, indices) = op.graph, op.inputs
    shape = graph.op("VariableShape", handle, out_type=indices.dtype)
    return [graph.scatter_nd(indices, dense(grads[0]), shape), None]
