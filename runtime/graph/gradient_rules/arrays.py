"""Gradient rules of ops that pass, join and arrange elements."""

from __future__ import annotations

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType
from runtime.graph.gradient_rules import Grads, dense, filled, gradient, no_gradient
from runtime.graph.gradient_rules.broadcasting import conj, reshape_like, shape_of, summed_like
from runtime.graph.tensor import Operation, Tensor
from runtime.graph.value_shapes import constant_value

no_gradient("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike", "OneHot", "Range", "LinSpace", "Where",
            "InvertPermutation", "ConcatOffset", "BroadcastArgs", "BroadcastGradientArgs", "StopGradient",
            "GuaranteeConst", "RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal",
            "Unique", "UniqueV2", "UniqueWithCounts", "UniqueWithCountsV2", "ListDiff")

_CONTINUOUS = frozenset({DataType.FLOAT, DataType.DOUBLE, DataType.HALF, DataType.BFLOAT16, DataType.COMPLEX64,
                         DataType.COMPLEX128})


@gradient("Identity", "Snapshot", "PlaceholderWithDefault", "EnsureShape", "RefIdentity")
def _pass_on(op: Operation, grads: Grads) -> Grads:
    return [grads[0]]


@gradient("IdentityN")
def _pass_all(op: Operation, grads: Grads) -> Grads:
    return list(grads)


@gradient("Print")
def _print(op: Operation, grads: Grads) -> Grads:
    return [grads[0], *[None] * (len(op.inputs) - 1)]


@gradient("PreventGradient")
def _prevent(op: Operation, grads: Grads) -> Grads:
    message = op.attr("message").decode(errors="replace")
    raise InvalidArgument(f"Gradient explicitly disabled at node '{op.name}' (op PreventGradient). Reason: {message}")


@gradient("CheckNumerics")
def _check_numerics(op: Operation, grads: Grads) -> Grads:
    message = "Not a number (NaN) or infinity (Inf) values detected in gradient."
    return [op.graph.op("CheckNumerics", dense(grads[0]), message=message)]


@gradient("Reshape", "ExpandDims")
def _reshape(op: Operation, grads: Grads) -> Grads:
    return [reshape_like(dense(grads[0]), op.inputs[0]), None]


@gradient("Squeeze")
def _squeeze(op: Operation, grads: Grads) -> Grads:
    return [reshape_like(dense(grads[0]), op.inputs[0])]


@gradient("Fill")
def _fill(op: Operation, grads: Grads) -> Grads:
    return [None, op.graph.reduce_sum(dense(grads[0]))]


@gradient("Pack")
def _pack(op: Operation, grads: Grads) -> Grads:
    return op.graph.unstack(dense(grads[0]), num=len(op.inputs), axis=op.attr("axis"))


@gradient("Unpack")
def _unpack(op: Operation, grads: Grads) -> Grads:
    return [op.graph.stack(filled(op, grads), axis=op.attr("axis"))]


@gradient("ConcatV2")
def _concat(op: Operation, grads: Grads) -> Grads:
    graph, grad, parts, axis = op.graph, dense(grads[0]), op.inputs[:-1], op.inputs[-1]
    known = constant_value(axis)
    if known is not None and parts[0].rank is not None:
        lengths = [None if part.shape is None else part.shape[int(known)] for part in parts]
        if None not in lengths:
            return [*graph.split(grad, [length for length in lengths if length is not None], axis), None]
    position = graph.floor_mod(graph.cast(axis, DataType.INT32), graph.rank(parts[0]))
    shapes = graph.op("ShapeN", list(parts))
    offsets = graph.op("ConcatOffset", position, shapes)
    slices = [graph.slice(grad, offset, shape) for offset, shape in zip(offsets, shapes, strict=True)]
    for part, cut in zip(parts, slices, strict=True):
        cut.set_shape(part.shape)
    return [*slices, None]


@gradient("Split")
def _split(op: Operation, grads: Grads) -> Grads:
    return [None, op.graph.concat(filled(op, grads), op.inputs[0])]


@gradient("SplitV")
def _split_v(op: Operation, grads: Grads) -> Grads:
    return [op.graph.concat(filled(op, grads), op.inputs[2]), None, None]


@gradient("Tile")
def _tile(op: Operation, grads: Grads) -> Grads:
    graph, (x, multiples) = op.graph, op.inputs
    # Each dimension becomes (times, size); the sum goes over the times.
    shape = graph.shape(x, multiples.dtype)
    pairs = graph.reshape(graph.transpose(graph.stack([multiples, shape])), [-1])
    axes = graph.range(0, graph.size(pairs), 2)
    result = graph.reduce_sum(graph.reshape(dense(grads[0]), pairs), axes)
    result.set_shape(x.shape)
    return [result, None]


@gradient("Transpose", "ConjugateTranspose")
def _transpose(op: Operation, grads: Grads) -> Grads:
    perm = constant_value(op.inputs[1])
    back = (op.graph.op("InvertPermutation", op.inputs[1]) if perm is None
            else np.argsort(perm % perm.size).astype(perm.dtype))
    return [op.graph.op(op.type, dense(grads[0]), back), None]


@gradient("Select")
def _select(op: Operation, grads: Grads) -> Grads:
    graph, grad = op.graph, dense(grads[0])
    zeros = graph.zeros_like(grad)
    return [None, graph.op("Select", op.inputs[0], grad, zeros), graph.op("Select", op.inputs[0], zeros, grad)]


@gradient("SelectV2")
def _select_v2(op: Operation, grads: Grads) -> Grads:
    graph, grad, (condition, x, y) = op.graph, dense(grads[0]), op.inputs
    zeros = graph.zeros_like(grad)
    return [None, summed_like(graph.where(condition, grad, zeros), x, op.outputs[0]),
            summed_like(graph.where(condition, zeros, grad), y, op.outputs[0])]


@gradient("BroadcastTo")
def _broadcast_to(op: Operation, grads: Grads) -> Grads:
    return [summed_like(dense(grads[0]), op.inputs[0], op.outputs[0]), None]


@gradient("Pad", "PadV2")
def _pad(op: Operation, grads: Grads) -> Grads:
    graph, x, paddings = op.graph, op.inputs[0], op.inputs[1]
    before = graph.strided_slice(paddings, (slice(None), 0))
    result = graph.slice(dense(grads[0]), before, _sizes(x, paddings))
    result.set_shape(x.shape)
    return [result, *[None] * (len(op.inputs) - 1)]


def _sizes(x: Tensor, like: Tensor) -> Tensor:
    return x.graph.convert(shape_of(x, like.dtype), like.dtype)


@gradient("MirrorPad")
def _mirror_pad(op: Operation, grads: Grads) -> Grads:
    return [op.graph.op("MirrorPadGrad", dense(grads[0]), op.inputs[1], mode=op.attr("mode")), None]


@gradient("MirrorPadGrad")
def _mirror_pad_grad(op: Operation, grads: Grads) -> Grads:
    return [op.graph.op("MirrorPad", dense(grads[0]), op.inputs[1], mode=op.attr("mode")), None]


@gradient("Cast")
def _cast(op: Operation, grads: Grads) -> Grads:
    source, target = op.inputs[0].dtype, op.outputs[0].dtype
    if source not in _CONTINUOUS or target not in _CONTINUOUS:
        return [None]
    return [op.graph.cast(dense(grads[0]), source)]


@gradient("Real")
def _real(op: Operation, grads: Grads) -> Grads:
    grad = dense(grads[0])
    return [op.graph.op("Complex", grad, op.graph.zeros_like(grad), Tout=op.inputs[0].dtype)]


@gradient("Imag")
def _imag(op: Operation, grads: Grads) -> Grads:
    grad = dense(grads[0])
    return [op.graph.op("Complex", op.graph.zeros_like(grad), grad, Tout=op.inputs[0].dtype)]


@gradient("Conj")
def _conj(op: Operation, grads: Grads) -> Grads:
    return [conj(dense(grads[0]))]


@gradient("Complex")
def _complex(op: Operation, grads: Grads) -> Grads:
    graph, grad, (x, y) = op.graph, dense(grads[0]), op.inputs
    return [summed_like(graph.op("Real", grad, Tout=x.dtype), x, y),
            summed_like(graph.op("Imag", grad, Tout=y.dtype), y, x)]


@gradient("ReverseV2")
def _reverse(op: Operation, grads: Grads) -> Grads:
    return [op.graph.op("ReverseV2", dense(grads[0]), op.inputs[1]), None]


@gradient("ReverseSequence")
def _reverse_sequence(op: Operation, grads: Grads) -> Grads:
    back = op.graph.op("ReverseSequence", dense(grads[0]), op.inputs[1], seq_dim=op.attr("seq_dim"),
                       batch_dim=op.attr("batch_dim"))
    return [back, None]
