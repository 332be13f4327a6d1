"""Differentiable expressions with inputs, for checks of their gradients by other means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from runtime.graph.builder import Graph
from runtime.graph.tensor import Tensor

Expression = Callable[..., Tensor]


def _rng() -> np.random.Generator:
    return np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    """Values around 0, none so close that a kink at 0 falls within a finite difference."""
    values = _rng().normal(size=shape)
    return np.where(np.abs(values) < 0.05, 0.3, values)


def positive(*shape: int) -> np.ndarray[Any, Any]:
    return _rng().uniform(0.5, 2.0, size=shape)


def inside(*shape: int) -> np.ndarray[Any, Any]:
    """Values within (-1, 1), away from the ends."""
    return _rng().uniform(-0.8, 0.8, size=shape)


def distinct(*shape: int) -> np.ndarray[Any, Any]:
    """No two values close to each other."""
    count = int(np.prod(shape))
    return (_rng().permutation(count) * 0.37 - count * 0.1).reshape(shape)


def unary(op: str, **attrs: Any) -> Expression:
    return lambda g, x: g.op(op, x, **attrs)


def binary(op: str) -> Expression:
    return lambda g, x, y: g.op(op, x, y)


def reduced(op: str, axis: Any, keep: bool) -> Expression:
    return lambda g, x: g.op(op, x, np.array(axis, np.int32), keep_dims=keep)


def _conv(**attrs: Any) -> Expression:
    return lambda g, x, f: g.conv2d(x, f, **attrs)


def _batch_matmul(adj_x: bool, adj_y: bool) -> Expression:
    return lambda g, x, y: g.op("BatchMatMulV2", x, y, adj_x=adj_x, adj_y=adj_y)


def _batch_norm(g: Graph, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    mean, variance = g.moments(x, [0, 1, 2])
    return (x - mean) * g.rsqrt(variance + 0.1) * scale + offset


LABELS = np.array([2, 0, 1])
SOFT_LABELS = np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8]])
INDICES = np.array([[0, 2], [2, 1]])

CASES: dict[str, tuple[Expression, list[np.ndarray[Any, Any]]]] = {
    **{f"{op}": (unary(op), [normal(2, 3)]) for op in (
        "Identity", "Neg", "Abs", "Square", "Exp", "Expm1", "Sin", "Cos", "Tanh", "Sigmoid", "Sinh", "Cosh", "Erf",
        "Erfc", "Atan", "Asinh", "Relu", "Elu", "Selu", "LeakyRelu", "Softplus", "Softsign", "Softmax", "LogSoftmax",
        "L2Loss", "Snapshot")},
    **{f"{op}": (unary(op), [positive(2, 3)]) for op in ("Sqrt", "Rsqrt", "Reciprocal", "Log", "Log1p")},
    **{f"{op}": (unary(op), [inside(2, 3)]) for op in ("Tan", "Asin", "Acos", "Atanh")},
    "Acosh": (unary("Acosh"), [positive(2, 3) + 1.0]),
    "Relu6": (unary("Relu6"), [distinct(2, 5)]),
    **{f"{op} {left} {right}": (binary(op), [normal(*left), positive(*right)])
       for op in ("AddV2", "Sub", "Mul", "RealDiv", "SquaredDifference", "Maximum", "Minimum", "DivNoNan")
       for left, right in (((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (4, 1, 3)), ((), (2, 2)))},
    "Pow": (binary("Pow"), [positive(2, 3), normal(3)]),
    "MulNoNan": (binary("MulNoNan"), [normal(2, 3), positive(3)]),
    "FloorMod": (binary("FloorMod"), [positive(2, 3) * 0.4 + 2.0, positive(3) * 0.1 + 0.9]),
    "ClipByValue": (lambda g, x: g.op("ClipByValue", x, g.constant(-1.0, "float64"), g.constant(1.3, "float64")),
                    [distinct(3, 4)]),
    "clip_by_value": (lambda g, x: g.clip_by_value(x, -1.0, 1.3), [distinct(3, 4)]),
    "AddN": (lambda g, x, y: g.add_n([x, y, x]), [normal(2, 3), normal(2, 3)]),
    "gelu": (lambda g, x: g.gelu(x), [normal(2, 3)]),
    **{f"{op} {axis} {keep}": (reduced(op, axis, keep), [distinct(2, 3, 4) + 0.05])
       for op in ("Sum", "Mean", "Max", "Min", "Prod", "EuclideanNorm")
       for axis, keep in ((1, False), ([0, -1], False), ([2, 0], True), ([], False), ([0, 1, 2], False))},
    "Prod with a zero": (reduced("Prod", 1, False), [np.array([[0.0, 2.0, 3.0], [1.5, 0.0, 0.0]])]),
    **{f"Cumsum {exclusive} {reverse}": (
        lambda g, x, exclusive=exclusive, reverse=reverse: g.cumsum(x, 1, exclusive, reverse), [normal(2, 4)])
       for exclusive in (False, True) for reverse in (False, True)},
    "Cumprod": (lambda g, x: g.cumprod(x, 1), [positive(2, 4)]),
    "Reshape": (lambda g, x: g.reshape(x, [3, -1]), [normal(2, 6)]),
    "ExpandDims": (lambda g, x: g.expand_dims(x, 1), [normal(2, 3)]),
    "Squeeze": (lambda g, x: g.squeeze(x, [1]), [normal(2, 1, 3)]),
    "Fill": (lambda g, x: g.fill([2, 3], x), [normal()]),
    "Pack": (lambda g, x, y: g.stack([x, y, x], axis=1), [normal(2, 3), normal(2, 3)]),
    "Unpack": (lambda g, x: g.unstack(x, num=3, axis=1)[1] * 2.0, [normal(2, 3)]),
    "ConcatV2": (lambda g, x, y: g.concat([x, y], -1), [normal(2, 3), normal(2, 2)]),
    "ConcatV2 computed axis": (
        lambda g, x, y: g.concat([x, y], g.subtract(g.rank(x), 1)), [normal(2, 3), normal(2, 2)]),
    "Split": (lambda g, x: g.split(x, 2, axis=1)[1], [normal(2, 4)]),
    "SplitV": (lambda g, x: g.split(x, [1, 3], axis=1)[1], [normal(2, 4)]),
    "Slice": (lambda g, x: g.slice(x, [0, 1], [2, -1]), [normal(3, 4)]),
    "StridedSlice": (lambda g, x: x[1:, ::-2, None, 0], [normal(3, 4, 2)]),
    "StridedSlice index": (lambda g, x: x[-1], [normal(3, 4)]),
    "Tile": (lambda g, x: g.tile(x, [2, 3]), [normal(2, 3)]),
    "Transpose": (lambda g, x: g.transpose(x, [2, 0, 1]), [normal(2, 3, 4)]),
    "transpose reversed": (lambda g, x: g.transpose(x), [normal(2, 3)]),
    "Select": (lambda g, x, y: g.op("Select", np.array([[True, False], [False, True]]), x, y),
               [normal(2, 2), normal(2, 2)]),
    "SelectV2": (lambda g, x, y: g.where(np.array([[True], [False]]), x, y), [normal(2, 3), normal(3)]),
    "BroadcastTo": (lambda g, x: g.broadcast_to(x, [4, 2, 3]), [normal(2, 1)]),
    "Pad": (lambda g, x: g.pad(x, [[1, 0], [2, 1]]), [normal(2, 3)]),
    "PadV2": (lambda g, x: g.pad(x, [[1, 0], [2, 1]], constant_values=5.0), [normal(2, 3)]),
    "MirrorPad reflect": (lambda g, x: g.pad(x, [[1, 0], [2, 1]], "REFLECT"), [normal(3, 4)]),
    "MirrorPad symmetric": (lambda g, x: g.pad(x, [[1, 0], [2, 1]], "SYMMETRIC"), [normal(3, 4)]),
    "Cast": (lambda g, x: g.cast(g.cast(x, "complex128"), "float64"), [normal(2, 3)]),
    "ReverseV2": (lambda g, x: g.reverse(x, [1]), [normal(2, 3)]),
    "ReverseSequence": (lambda g, x: g.op("ReverseSequence", x, np.array([2, 3]), seq_dim=1), [normal(2, 4)]),
    "EnsureShape": (lambda g, x: g.op("EnsureShape", x, shape=[2, 3]), [normal(2, 3)]),
    "GatherV2 rows": (lambda g, x: g.gather(x, INDICES), [normal(3, 2)]),
    "Gather": (lambda g, x: g.op("Gather", x, INDICES), [normal(3, 2)]),
    "GatherNd": (lambda g, x: g.gather_nd(x, [[0, 1], [2, 0], [0, 1]]), [normal(3, 2)]),
    "ScatterNd": (lambda g, x: g.scatter_nd([[3], [1]], x, [5, 3]), [normal(2, 3)]),
    "TopKV2": (lambda g, x: g.top_k(x, 2)[0], [distinct(3, 4)]),
    **{f"MatMul {a} {b}": (
        lambda g, x, y, a=a, b=b: g.op("MatMul", x, y, transpose_a=a, transpose_b=b),
        [normal(4, 2) if a else normal(2, 4), normal(3, 4) if b else normal(4, 3)])
       for a in (False, True) for b in (False, True)},
    **{f"BatchMatMulV2 {a} {b}": (
        _batch_matmul(a, b),
        [normal(2, 1, 4, 2) if a else normal(2, 1, 2, 4), normal(3, 3, 4) if b else normal(3, 4, 3)])
       for a in (False, True) for b in (False, True)},
    "Einsum": (lambda g, x, y: g.einsum("bij,jk->kb", x, y), [normal(2, 3, 4), normal(4, 2)]),
    "Einsum of one": (lambda g, x: g.einsum("ij->j", x), [normal(2, 3)]),
    "BiasAdd": (lambda g, x, b: g.bias_add(x, b), [normal(2, 2, 3), normal(3)]),
    "BiasAdd channels first": (lambda g, x, b: g.bias_add(x, b, "NCHW"), [normal(2, 3, 2, 2), normal(3)]),
    "SparseSoftmaxCrossEntropy": (lambda g, x: g.sparse_softmax_cross_entropy(LABELS, x), [normal(3, 3)]),
    "SparseSoftmaxCrossEntropy rank 3": (
        lambda g, x: g.sparse_softmax_cross_entropy(INDICES, x), [normal(2, 2, 3)]),
    "SoftmaxCrossEntropy": (lambda g, x: g.softmax_cross_entropy(SOFT_LABELS, x), [normal(3, 3)]),
    "SoftmaxCrossEntropy labels": (
        lambda g, y: g.softmax_cross_entropy(y, g.constant(normal(3, 3))), [SOFT_LABELS + 0.1]),
    "sigmoid_cross_entropy": (
        lambda g, x: g.sigmoid_cross_entropy(SOFT_LABELS, x), [normal(3, 3)]),
    "Conv2D same": (_conv(strides=1), [normal(2, 5, 4, 2), normal(3, 2, 2, 3)]),
    "Conv2D valid strided": (_conv(strides=2, padding="VALID"), [normal(1, 6, 5, 1), normal(2, 3, 1, 2)]),
    "Conv2D explicit": (_conv(padding=[[1, 2], [0, 1]]), [normal(1, 4, 4, 1), normal(2, 2, 1, 2)]),
    "MaxPool": (lambda g, x: g.max_pool(x, 2, 2), [distinct(1, 4, 5, 2)]),
    "MaxPool overlapping": (lambda g, x: g.max_pool(x, 3, 2, "SAME"), [distinct(1, 5, 5, 1)]),
    "AvgPool": (lambda g, x: g.avg_pool(x, 2, 2, "SAME"), [normal(1, 5, 4, 2)]),
    "batch norm of parts": (_batch_norm, [normal(2, 3, 2, 2), positive(2), normal(2)]),
    "l2_normalize": (lambda g, x: g.l2_normalize(x), [normal(2, 3)]),
    "SegmentSum": (lambda g, x: g.op("SegmentSum", x, np.array([0, 0, 2])), [normal(3, 2)]),
    "UnsortedSegmentSum": (
        lambda g, x: g.op("UnsortedSegmentSum", x, np.array([2, -1, 0, 2]), 4), [normal(4, 2)]),
    "DynamicStitch": (
        lambda g, x, y: g.op("DynamicStitch", [np.array([0, 3], np.int32), np.array([2, 1], np.int32)], [x, y]),
        [normal(2, 2), normal(2, 2)]),
    "DynamicPartition": (
        lambda g, x: g.op("DynamicPartition", x, np.array([1, 0, 1], np.int32), num_partitions=2)[1],
        [normal(3, 2)]),
}

# These need ranks that are known before anything runs.
STATIC_ONLY: dict[str, tuple[Expression, list[np.ndarray[Any, Any]]]] = {
    "softmax axis 0": (lambda g, x: g.softmax(x, axis=0), [normal(3, 2)]),
    "GatherV2 axis 1": (lambda g, x: g.gather(x, INDICES, axis=1), [normal(2, 3, 2)]),
    "GatherV2 batch": (
        lambda g, x: g.gather(x, np.array([[0, 2, 2], [1, 0, 1]]), axis=2, batch_dims=1), [normal(2, 2, 3, 2)]),
}

# Rules of ops that other servers run.
PEER_ONLY: dict[str, tuple[Expression, list[np.ndarray[Any, Any]]]] = {
    "Lgamma": (unary("Lgamma"), [positive(2, 3)]),
    "Atan2": (binary("Atan2"), [normal(2, 3), positive(3)]),
    "depthwise": (
        lambda g, x, f: g.op("DepthwiseConv2dNative", x, f, strides=[1, 2, 2, 1], padding="SAME"),
        [normal(1, 5, 5, 2), normal(3, 3, 2, 2)]),
    "Xlogy": (binary("Xlogy"), [normal(2, 3), positive(3)]),
    "Xdivy": (binary("Xdivy"), [normal(2, 3), positive(3)]),
    "complex magnitude": (
        lambda g, x, y: g.abs(g.op("Complex", x, y, Tout="complex128")), [normal(2, 3), normal(3)]),
    "complex product": (
        lambda g, x, y: g.op("Real", g.multiply(g.op("Complex", x, y, Tout="complex128"),
                                                g.op("Conj", g.op("Complex", y, x, Tout="complex128"))),
                             Tout="float64"), [normal(2, 3), normal(2, 3)]),
}

SECOND_ORDER: dict[str, tuple[Expression, list[np.ndarray[Any, Any]]]] = {
    **{op: (unary(op), [normal(2, 3)]) for op in ("Tanh", "Sigmoid", "Exp", "Square", "Sin", "Softmax", "LogSoftmax",
                                                  "Softplus")},
    **{op: (unary(op), [positive(2, 3)]) for op in ("Sqrt", "Rsqrt", "Reciprocal", "Log")},
    "Mul": (binary("Mul"), [normal(2, 3), normal(3)]),
    "RealDiv": (binary("RealDiv"), [normal(2, 3), positive(3)]),
    "MatMul": (lambda g, x, y: g.square(g.matmul(x, y)), [normal(2, 4), normal(4, 3)]),
    "SparseSoftmaxCrossEntropy": (lambda g, x: g.sparse_softmax_cross_entropy(LABELS, x), [normal(3, 3)]),
    "Conv2D": (lambda g, x, f: g.square(g.conv2d(x, f)), [normal(1, 4, 4, 1), normal(2, 2, 1, 2)]),
    "BiasAdd": (lambda g, x, b: g.square(g.bias_add(x, b)), [normal(2, 3), normal(3)]),
    "StridedSlice": (lambda g, x: g.square(x[1:, ::2]), [normal(3, 4)]),
    "AvgPool": (lambda g, x: g.square(g.avg_pool(x, 2, 2)), [normal(1, 4, 4, 1)]),
}
