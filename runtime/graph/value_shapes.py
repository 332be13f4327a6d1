"""Static shapes that depend on values: what constants and shapes of shapes tell before anything runs.

The registry's shape functions know attrs and input shapes. Here the inputs that hold sizes, axes and paddings are
followed back to constants, as far as these go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.graph.node import Node
from runtime.graph.tensor import Tensor
from runtime.graph.values import proto_array
from runtime.ops.registry import Shape
from runtime.ops.shapes import format_shape

__all__ = ["constant_value", "partial_vector", "value_shapes"]

# Larger constants are data, not sizes or axes, and are not decoded for a look.
_MAX_CONSTANT_BYTES = 1 << 16

Rule = Callable[[Node, Sequence[Tensor]], "Sequence[Shape] | None"]
_RULES: dict[str, Rule] = {}


def constant_value(tensor: Tensor) -> np.ndarray[Any, Any] | None:
    """Return the value of a tensor if it is known before anything runs, else None."""
    node = tensor.op.node
    if node.op == "Const":
        proto = node.attr("value")
        return proto_array(proto) if proto.ByteSize() <= _MAX_CONSTANT_BYTES else None
    if node.op in ("Identity", "Cast") and tensor.op.inputs:
        value = constant_value(tensor.op.inputs[0])
        return None if value is None or value.dtype == object else value
    if tensor.shape == ():
        size = _scalar(tensor)
        return None if size is None else np.array(size)
    if tensor.shape is not None and len(tensor.shape) == 1:
        vector = partial_vector(tensor)
        if vector is not None and None not in vector:
            return np.array(vector, dtype=np.int64)
    return None


def partial_vector(tensor: Tensor) -> tuple[int | None, ...] | None:
    """Return an integer vector as far as it is known: None for an unknown element, or None altogether."""
    op = tensor.op
    if op.type == "Const":
        value = constant_value(tensor)
        if value is None or value.ndim != 1 or value.dtype.kind not in "iu":
            return None
        return tuple(int(item) for item in value)
    if op.type == "Shape":
        return op.inputs[0].shape
    if op.type == "ShapeN":
        return op.inputs[tensor.index].shape
    if op.type in ("Identity", "Cast"):
        return partial_vector(op.inputs[0])
    if op.type == "Pack" and all(part.shape == () for part in op.inputs):
        return tuple(_scalar(part) for part in op.inputs)
    if op.type == "ConcatV2":
        parts = [partial_vector(part) for part in op.inputs[:-1]]
        return None if any(part is None for part in parts) else tuple(item for part in parts for item in part or ())
    if op.type == "StridedSlice":
        source = partial_vector(op.inputs[0])
        found = None if source is None else _sliced_vector(op.node, source, op.inputs)
        return found if isinstance(found, tuple) else None
    return None


def _scalar(tensor: Tensor) -> int | None:
    op = tensor.op
    if op.type == "Const":
        value = constant_value(tensor)
        return int(value) if value is not None and value.ndim == 0 and value.dtype.kind in "iu" else None
    if op.type in ("Identity", "Cast"):
        return _scalar(op.inputs[0])
    if op.type == "StridedSlice":
        source = partial_vector(op.inputs[0])
        found = None if source is None else _sliced_vector(op.node, source, op.inputs)
        return found if isinstance(found, int) else None
    if op.type in ("Rank", "Size"):
        shape = op.inputs[0].shape
        if shape is None:
            return None
        return len(shape) if op.type == "Rank" else _size(shape)
    if op.type in ("Mul", "AddV2", "Sub"):
        left, right = (_scalar(part) for part in op.inputs)
        if left is None or right is None:
            return None
        return {"Mul": left * right, "AddV2": left + right, "Sub": left - right}[op.type]
    return None


def _sliced_vector(node: Node, source: tuple[int | None, ...], inputs: Sequence[Tensor]) -> Any:
    index = _slices(node, inputs)
    if index is None or len(index) != 1:
        return None
    try:
        return source[index[0]]
    except IndexError:
        return None


def _size(shape: Shape) -> int | None:
    if shape is None or None in shape:
        return None
    return math.prod(dim for dim in shape if dim is not None)


def _rule(*ops: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(ops, rule))
        return rule

    return register


def value_shapes(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    """Return the static shapes of a node's outputs as its inputs' values tell, or None if they tell nothing."""
    rule = _RULES.get(node.op)
    return None if rule is None else rule(node, inputs)


def _axes(tensor: Tensor, rank: int, node: Node) -> list[int] | None:
    value = constant_value(tensor)
    if value is None:
        return None
    axes = [int(axis) for axis in value.reshape(-1)]
    for axis in axes:
        if not -rank <= axis < rank:
            raise InvalidArgument(f"axis {axis} is out of range for rank {rank}")
    return [axis % rank for axis in axes]


@_rule("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def _product(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    """Compare the inner dimensions; the registry knows the outer ones."""
    left, right = (tensor.shape for tensor in inputs)
    names = ("transpose_a", "transpose_b") if node.op == "MatMul" else ("adj_x", "adj_y")
    if left is not None and right is not None and len(left) >= 2 and len(right) >= 2:
        inner, other = left[-2 if node.attr(names[0]) else -1], right[-1 if node.attr(names[1]) else -2]
        if inner is not None and other is not None and inner != other:
            raise InvalidArgument(f"inner dimensions must be equal, but are {inner} and {other}")
    return None


@_rule("Reshape")
def _reshape(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    target = partial_vector(inputs[1])
    if target is None:
        length = inputs[1].shape
        return [(None,) * length[0]] if length and length[0] is not None else None
    source = inputs[0].shape
    size = _size(source)
    holes = [index for index, dim in enumerate(target) if dim == -1]
    known = math.prod(dim for dim in target if dim is not None and dim >= 0)
    result = [None if dim is None or dim < 0 else dim for dim in target]
    if None in target:
        return [tuple(result)]
    if len(holes) > 1:
        raise InvalidArgument(f"shape {list(target)} has more than one -1")
    if size is not None:
        if (holes and (known == 0 or size % known)) or (not holes and known != size):
            raise InvalidArgument(f"{size} values of shape {format_shape(source)} cannot be reshaped to {list(target)}")
        if holes:
            result[holes[0]] = size // known
    return [tuple(result)]


@_rule("Fill", "RandomUniform", "RandomStandardNormal", "TruncatedNormal", "RandomUniformInt",
       "StatelessRandomUniformV2", "StatelessRandomNormalV2", "StatelessTruncatedNormalV2")
def _from_vector(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    return [_as_sizes(inputs[0])]


@_rule("BroadcastTo")
def _broadcast_to(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    return [_as_sizes(inputs[1])]


@_rule("Conv2DBackpropInput")
def _backprop_input(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    sizes = _as_sizes(inputs[0])
    return [sizes if sizes is not None and len(sizes) == 4 else None]


@_rule("AvgPoolGrad")
def _pool_grad(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    return [_as_sizes(inputs[0])]


@_rule("Conv2DBackpropFilter")
def _backprop_filter(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    return [_as_sizes(inputs[1])]


def _as_sizes(tensor: Tensor) -> Shape:
    sizes = partial_vector(tensor)
    if sizes is None:
        length = tensor.shape
        return (None,) * length[0] if length is not None and len(length) == 1 and length[0] is not None else None
    if any(size is not None and size < 0 for size in sizes):
        raise InvalidArgument(f"sizes {list(sizes)} cannot be negative")
    return sizes


@_rule("Sum", "Mean", "Prod", "Max", "Min", "All", "Any", "EuclideanNorm")
def _reduction(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    shape = inputs[0].shape
    if shape is None:
        return None
    keep = bool(node.attr("keep_dims"))
    axes = _axes(inputs[1], len(shape), node)
    if axes is None:
        return [(None,) * len(shape)] if keep else None
    return [tuple(1 if i in axes else dim for i, dim in enumerate(shape) if keep or i not in axes)]


@_rule("ArgMax", "ArgMin")
def _arg_reduction(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    shape = inputs[0].shape
    axes = None if shape is None else _axes(inputs[1], len(shape), node)
    if shape is None or axes is None:
        return None
    return [tuple(dim for i, dim in enumerate(shape) if i not in axes)]


@_rule("ExpandDims")
def _expand_dims(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    shape = inputs[0].shape
    axes = None if shape is None else _axes(inputs[1], len(shape) + 1, node)
    if shape is None or axes is None or len(axes) != 1:
        return None
    return [(*shape[: axes[0]], 1, *shape[axes[0]:])]


@_rule("Transpose", "ConjugateTranspose")
def _transpose(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    shape = inputs[0].shape
    order = None if shape is None else _axes(inputs[1], len(shape), node)
    if shape is None or order is None:
        return None
    if sorted(order) != list(range(len(shape))):
        raise InvalidArgument(f"{order} is not a permutation of the dimensions of {format_shape(shape)}")
    return [tuple(shape[axis] for axis in order)]


@_rule("ConcatV2")
def _concat(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    shapes = [part.shape for part in inputs[:-1]]
    known = [shape for shape in shapes if shape is not None]
    axes = _axes(inputs[-1], len(known[0]), node) if known else None
    if not known or axes is None:
        return None
    axis = axes[0]
    result = list(known[0])
    for shape in known[1:]:
        if len(shape) != len(result):
            raise InvalidArgument(f"shapes {format_shape(known[0])} and {format_shape(shape)} differ in rank")
        for i, dim in enumerate(shape):
            if i != axis and dim is not None:
                if result[i] is not None and result[i] != dim:
                    raise InvalidArgument(f"shapes {format_shape(known[0])} and {format_shape(shape)} differ outside "
                                          f"axis {axis}")
                result[i] = dim
    lengths = [None if shape is None else shape[axis] for shape in shapes]
    result[axis] = None if None in lengths else sum(length for length in lengths if length is not None)
    return [tuple(result)]


@_rule("Tile")
def _tile(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    shape, times = inputs[0].shape, partial_vector(inputs[1])
    if shape is None or times is None:
        return None
    return [tuple(None if dim is None or n is None else dim * n for dim, n in zip(shape, times, strict=True))]


@_rule("Pad", "PadV2", "MirrorPad")
def _pad(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    shape, paddings = inputs[0].shape, constant_value(inputs[1])
    if shape is None or paddings is None:
        return None
    if paddings.shape != (len(shape), 2):
        raise InvalidArgument(f"paddings have shape {format_shape(paddings.shape)}, expected [{len(shape)},2]")
    return [tuple(None if dim is None else dim + int(pair.sum())
                  for dim, pair in zip(shape, paddings, strict=True))]


@_rule("Slice")
def _slice(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    shape, begin, size = inputs[0].shape, partial_vector(inputs[1]), partial_vector(inputs[2])
    if size is None:
        return None
    result: list[int | None] = []
    for i, length in enumerate(size):
        if length != -1:
            result.append(length)
        else:
            dim = None if shape is None else shape[i]
            start = None if begin is None else begin[i]
            result.append(None if dim is None or start is None else dim - start)
    return [tuple(result)]


def _slices(node: Node, inputs: Sequence[Tensor]) -> list[Any] | None:
    """Return a StridedSlice as Python's indices, None if begin, end or strides are not known."""
    parts = [constant_value(part) for part in inputs[1:4]]
    if parts[0] is None or parts[1] is None or parts[2] is None:
        return None
    masks = {name: int(node.attr(f"{name}_mask")) for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    result: list[Any] = []
    for i, (begin, end, stride) in enumerate(zip(*(part.tolist() for part in parts if part is not None), strict=True)):
        bit = 1 << i
        if masks["ellipsis"] & bit:
            result.append(Ellipsis)
        elif masks["new_axis"] & bit:
            result.append(np.newaxis)
        elif masks["shrink_axis"] & bit:
            result.append(begin)
        else:
            result.append(slice(None if masks["begin"] & bit else begin, None if masks["end"] & bit else end, stride))
    return result


@_rule("StridedSlice")
def _strided_slice(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    shape, index = inputs[0].shape, _slices(node, inputs)
    if shape is None or index is None:
        return None
    taken = sum(1 for item in index if item is not np.newaxis and item is not Ellipsis)
    if taken > len(shape):
        raise InvalidArgument(f"index of {taken} dimensions into shape {format_shape(shape)}")
    if Ellipsis not in index:
        index = [*index, Ellipsis]
    result: list[int | None] = []
    position = 0
    for item in index:
        if item is Ellipsis:
            rest = len(shape) - taken
            result.extend(shape[position : position + rest])
            position += rest
        elif item is np.newaxis:
            result.append(1)
        elif isinstance(item, slice):
            dim = shape[position]
            result.append(dim if item == slice(None, None, 1) else None if dim is None else len(range(dim)[item]))
            position += 1
        else:
            dim = shape[position]
            if dim is not None and not -dim <= item < dim:
                raise InvalidArgument(f"slice index {item} of dimension {position} out of bounds.")
            position += 1
    return [tuple(result)]


@_rule("Split")
def _split(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    shape, count = inputs[1].shape, len(node.output_types)
    axes = None if shape is None else _axes(inputs[0], len(shape), node)
    if shape is None or axes is None:
        return None
    dim = shape[axes[0]]
    if dim is not None and dim % count:
        raise InvalidArgument(f"dimension {axes[0]} of {format_shape(shape)} cannot be split into {count} equal parts")
    part = tuple((None if dim is None else dim // count) if i == axes[0] else d for i, d in enumerate(shape))
    return [part] * count


@_rule("SplitV")
def _split_v(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    shape, sizes, count = inputs[0].shape, partial_vector(inputs[1]), len(node.output_types)
    axes = None if shape is None else _axes(inputs[2], len(shape), node)
    if shape is None or axes is None:
        return None
    sizes = sizes or (None,) * count
    return [tuple((None if size == -1 else size) if i == axes[0] else dim for i, dim in enumerate(shape))
            for size in sizes]


@_rule("GatherV2")
def _gather(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    params, indices = inputs[0].shape, inputs[1].shape
    axes = None if params is None else _axes(inputs[2], len(params), node)
    if params is None or indices is None or axes is None:
        return None
    batch = int(node.attr("batch_dims"))
    batch += len(indices) if batch < 0 else 0
    return [(*params[: axes[0]], *indices[batch:], *params[axes[0] + 1 :])]


@_rule("OneHot")
def _one_hot(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    shape = inputs[0].shape
    if shape is None:
        return None
    axis = int(node.attr("axis"))
    axis = len(shape) if axis == -1 else axis
    return [(*shape[:axis], _scalar(inputs[1]), *shape[axis:])]


@_rule("Range")
def _range(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    values = [constant_value(part) for part in inputs]
    if any(value is None for value in values):
        return [(None,)]
    start, limit, delta = (float(value) for value in values if value is not None)
    if delta == 0:
        raise InvalidArgument("Requires delta != 0")
    return [(max(0, math.ceil((limit - start) / delta)),)]


@_rule("TopKV2")
def _top_k(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    shape = inputs[0].shape
    return None if not shape else [(*shape[:-1], _scalar(inputs[1]))] * 2


@_rule("UnsortedSegmentSum")
def _unsorted_segment(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    data, ids = inputs[0].shape, inputs[1].shape
    return None if data is None or ids is None else [(_scalar(inputs[2]), *data[len(ids):])]


@_rule("ScatterNd")
def _scatter_nd(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    return [_as_sizes(inputs[2])]


@_rule("ReadVariableOp")
def _read_variable(node: Node, inputs: Sequence[Tensor]) -> Sequence[Shape] | None:
    source = inputs[0].op.node
    return [source.attr("shape")] if source.op == "VarHandleOp" else None
