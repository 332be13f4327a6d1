"""Gradient rules of segment sums, stitching and partitioning."""

from __future__ import annotations

from runtime.dtypes import DataType
from runtime.graph.gradient_rules import Grads, dense, filled, gradient
from runtime.graph.gradient_rules.broadcasting import reshape_like
from runtime.graph.tensor import Operation, Tensor


@gradient("SegmentSum")
def _segment_sum(op: Operation, grads: Grads) -> Grads:
    return [op.graph.gather(dense(grads[0]), op.inputs[1]), None]


@gradient("UnsortedSegmentSum")
def _unsorted_segment_sum(op: Operation, grads: Grads) -> Grads:
    graph, ids = op.graph, op.inputs[1]
    zeros = graph.zeros_like(ids)
    rows = graph.gather(dense(grads[0]), graph.maximum(ids, zeros))
    kept = graph.greater_equal(ids, zeros)  # negative ids belong to no segment
    rank = graph.rank(rows)
    ones = graph.fill(graph.stack([graph.subtract(rank, graph.rank(ids))]), 1)
    mask = graph.reshape(kept, graph.concat([graph.shape(ids), ones], 0))
    result = graph.where(mask, rows, graph.zeros_like(rows))
    result.set_shape(op.inputs[0].shape)
    return [result, None, None]


@gradient("DynamicStitch", "ParallelDynamicStitch")
def _dynamic_stitch(op: Operation, grads: Grads) -> Grads:
    graph, grad, count = op.graph, dense(grads[0]), len(op.inputs) // 2
    parts: list[Tensor] = [graph.gather(grad, indices) for indices in op.inputs[:count]]
    return [*[None] * count, *parts]


@gradient("DynamicPartition")
def _dynamic_partition(op: Operation, grads: Grads) -> Grads:
    graph, (data, partitions) = op.graph, op.inputs
    prefix = graph.shape(partitions)
    positions = graph.reshape(graph.range(0, graph.reduce_prod(prefix)), prefix)
    parts = graph.op("DynamicPartition", positions, partitions, num_partitions=len(op.outputs))
    joined = graph.op("DynamicStitch", [graph.cast(part, DataType.INT32) for part in parts], filled(op, grads))
    return [reshape_like(joined, data), None]
