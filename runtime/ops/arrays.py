"""Shapes: reading, changing, joining, splitting and repeating arrays.

Results are views of the inputs wherever the array namespace gives one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, base, to_numpy
from runtime.ops.objects import filled
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv


def known_ints(env: KernelEnv, index: int) -> list[int] | None:
    """Return a host input that is known at compile time as a flat list, else None."""
    value = env.constants.get(index)
    return None if value is None else [int(item) for item in value.reshape(-1)]


def as_vector(value: Any, what: str) -> list[int]:
    """Return a host vector as a list.

    Raises
    ------
    InvalidArgument
        If it is not a vector; `what` begins the text.
    """
    if value.ndim != 1:
        raise InvalidArgument(f"{what}{format_shape(value.shape)}")
    return value.tolist()  # type: ignore[no-any-return]


# --- what the shape is -----------------------------------------------------------------------------------------------


@kernel("Shape", shape=lambda node, shapes: [(None if shapes[0] is None else len(shapes[0]),)])
def _shape(node: Node, env: KernelEnv) -> Callable[..., Any]:
    dtype = to_numpy(node.output_types[0])
    return lambda value: np.array(value.shape, dtype)


@kernel("ShapeN", shape=lambda node, shapes: [(None if shape is None else len(shape),) for shape in shapes])
def _shape_n(node: Node, env: KernelEnv) -> Callable[..., Any]:
    dtype = to_numpy(node.output_types[0])
    return lambda *values: [np.array(value.shape, dtype) for value in values]


@kernel("Size", shape=lambda node, shapes: [()])
def _size(node: Node, env: KernelEnv) -> Callable[..., Any]:
    dtype = to_numpy(node.output_types[0])
    return lambda value: np.array(value.size, dtype)


@kernel("Rank", shape=lambda node, shapes: [()])
def _rank(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return lambda value: np.array(value.ndim, np.int32)


# --- changing the shape ----------------------------------------------------------------------------------------------


@kernel("Reshape", host=(1,))
def _reshape(node: Node, env: KernelEnv) -> Callable[..., Any]:
    fixed = known_ints(env, 1)
    if fixed is not None and env.constants[1].ndim == 1 and all(dim >= 0 for dim in fixed):
        shape, size = tuple(fixed), math.prod(fixed)

        def run_fixed(tensor: Any, _shape: Any) -> Any:
            if tensor.size != size:
                raise _reshape_mismatch(tensor, size)
            return tensor.reshape(shape)

        return run_fixed

    def run(tensor: Any, shape: Any) -> Any:
        dims = as_vector(shape, "sizes input must be 1-D, not ")
        return tensor.reshape(resolve_reshape(tensor, dims))

    return run


def _reshape_mismatch(tensor: Any, size: int) -> InvalidArgument:
    return InvalidArgument(f"Input to reshape is a tensor with {tensor.size} values, but the requested shape has "
                           f"{size}")


def resolve_reshape(tensor: Any, dims: list[int]) -> list[int]:
    """Return the dimensions of a Reshape with the -1 replaced."""
    unknown = -1
    size = 1
    for index, dim in enumerate(dims):
        if dim == -1:
            if unknown >= 0:
                raise InvalidArgument(f"Only one input size may be -1, not both {unknown} and {index}")
            unknown = index
        elif dim < 0:
            raise InvalidArgument(f"Size {index} must be non-negative, not {dim}")
        else:
            size *= dim
    if unknown >= 0:
        if size == 0 and tensor.size == 0:
            # Nothing decides; TensorFlow takes what the nonzero dimensions leave of the input's.
            product = math.prod(dim for dim in dims if dim > 0)
            left = math.prod(dim for dim in tensor.shape if dim > 0)
            if left % product:
                raise InvalidArgument("reshape cannot infer the missing input size for an empty tensor unless all "
                                      "specified input sizes are non-zero")
            dims = [*dims[:unknown], left // product, *dims[unknown + 1:]]
            return dims
        if size == 0:
            raise _reshape_mismatch(tensor, 0)
        missing, rest = divmod(tensor.size, size)
        if rest:
            raise InvalidArgument(f"Input to reshape is a tensor with {tensor.size} values, but the requested shape "
                                  f"requires a multiple of {size}")
        dims = [*dims[:unknown], missing, *dims[unknown + 1:]]
    elif size != tensor.size:
        raise _reshape_mismatch(tensor, size)
    return dims


def _expand_dims_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [None if shapes[0] is None else (None,) * (len(shapes[0]) + 1)]


@kernel("ExpandDims", shape=_expand_dims_shape, host=(1,))
def _expand_dims(node: Node, env: KernelEnv) -> Callable[..., Any]:

    def run(tensor: Any, axis: Any) -> Any:
        if axis.size != 1:
            raise InvalidArgument("'dim' must be a tensor with a single value")
        dim = int(axis.reshape(-1)[0])
        rank = tensor.ndim
        if not -1 - rank <= dim <= rank:
            raise InvalidArgument(f"Tried to expand dim index {dim} for tensor with {rank} dimensions.")
        if dim < 0:
            dim += rank + 1
        return tensor.reshape(tensor.shape[:dim] + (1,) + tensor.shape[dim:])

    return run


def _squeeze_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    axes = node.attr("squeeze_dims")
    if shape is None or (not axes and None in shape):
        return [None]
    if not axes:
        return [tuple(dim for dim in shape if dim != 1)]
    drop = {axis % len(shape) if shape else axis for axis in axes}
    return [tuple(dim for index, dim in enumerate(shape) if index not in drop)]


@kernel("Squeeze", shape=_squeeze_shape)
def _squeeze(node: Node, env: KernelEnv) -> Callable[..., Any]:
    axes = [int(axis) for axis in node.attr("squeeze_dims")]
    if not axes:
        return lambda tensor: tensor.reshape([dim for dim in tensor.shape if dim != 1])

    def run(tensor: Any) -> Any:
        rank = tensor.ndim
        drop = set()
        for axis in axes:
            if not -rank <= axis < rank:
                raise InvalidArgument(f"Tried to squeeze dim index {axis} for tensor with {rank} dimensions.")
            index = axis + rank if axis < 0 else axis
            if tensor.shape[index] != 1:
                raise InvalidArgument("Can not squeeze dim["
                                      f"{index}], expected a dimension of 1, got {tensor.shape[index]}")
            drop.add(index)
        return tensor.reshape([dim for index, dim in enumerate(tensor.shape) if index not in drop])

    return run


def _permuted_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [None if shapes[0] is None else (None,) * len(shapes[0])]


@kernel("Transpose", "ConjugateTranspose", shape=_permuted_shape, host=(1,))
def _transpose(node: Node, env: KernelEnv) -> Callable[..., Any]:
    conjugate = node.op == "ConjugateTranspose" and to_numpy(base(node.input_types[0])).kind == "c"
    fixed = known_ints(env, 1)
    checked_rank = -1
    if fixed is not None and env.constants[1].ndim == 1 and sorted(fixed) == list(range(len(fixed))):
        checked_rank = len(fixed)

    def run(tensor: Any, perm: Any) -> Any:
        if tensor.ndim == checked_rank:
            result = tensor.transpose(fixed)
        else:
            result = tensor.transpose(check_permutation(tensor, perm))
        return result.conj() if conjugate else result

    return run


def check_permutation(tensor: Any, perm: Any) -> list[int]:
    """Return a permutation of the axes of a tensor with negative numbers replaced."""
    rank = tensor.ndim
    order = as_vector(perm, "perm must be rank 1, got shape ")
    if len(order) != rank:
        raise InvalidArgument(f"transpose expects a vector of size {rank}. But input(1) is a vector of size "
                              f"{len(order)}")
    result = []
    for axis in order:
        if not -rank <= axis < rank:
            raise InvalidArgument(f"{axis + rank if axis < 0 else axis} is out of range [0 .. {rank})")
        result.append(axis + rank if axis < 0 else axis)
    for axis in range(rank):
        if axis not in result:
            raise InvalidArgument(f"{axis} is missing from {{{','.join(map(str, order))}}}.")
    return result


@kernel("EnsureShape", shape=lambda node, shapes: [_merge(node.attr("shape"), shapes[0])])
def _ensure_shape(node: Node, env: KernelEnv) -> Callable[..., Any]:
    shape = node.attr("shape")
    if shape is None:
        return lambda tensor: tensor

    def run(tensor: Any) -> Any:
        if tensor.ndim != len(shape) or any(want not in (None, dim) for want, dim in zip(shape, tensor.shape)):
            name = f"{node.inputs[0][0].name}:{node.inputs[0][1]}".removesuffix(":0")
            raise InvalidArgument(f"Shape of tensor {name} {format_shape(tensor.shape)} is not compatible with "
                                  f"expected shape {format_shape(shape)}.")
        return tensor

    return run


def _merge(left: Shape, right: Shape) -> Shape:
    if left is None or right is None or len(left) != len(right):
        return left if right is None or left is not None else right
    return tuple(b if a is None else a for a, b in zip(left, right))


# --- filling ---------------------------------------------------------------------------------------------------------


@kernel("Fill", host=(0,))
def _fill(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(node.output_types[0])

    def run(dims: Any, value: Any) -> Any:
        if dims.ndim > 1:
            raise InvalidArgument(f"dims must represent a vector, got shape {format_shape(dims.shape)}")
        shape = dims.reshape(-1).tolist()  # a scalar counts as a vector of one
        if value.ndim and value.size != 1:
            raise InvalidArgument(f"value must represent a scalar, got shape {format_shape(value.shape)}")
        _check_dims(shape)
        result = xp.empty(shape, dtype)
        result[...] = value.reshape(())
        return result

    return run


def _check_dims(dims: Sequence[int]) -> None:
    for dim in dims:
        if dim < 0:
            raise InvalidArgument(f"Dimension {dim} must be >= 0")


@kernel("ZerosLike", shape=like_input())
def _zeros_like(node: Node, env: KernelEnv) -> Callable[..., Any]:
    kind = base(node.input_types[0])
    if kind is DataType.STRING:
        return lambda value: filled(value.shape, [b""] * value.size)
    if kind.is_object:  # variants say what their zeros are
        return lambda value: filled(value.shape, [item.zeros_like() for item in value.reshape(-1)])
    xp = env.xp
    return lambda value: xp.zeros(value.shape, value.dtype)


@kernel("OnesLike", shape=like_input())
def _ones_like(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    return lambda value: xp.ones(value.shape, value.dtype)


@kernel("Empty", host=(0,))
def _empty(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    kind = base(node.output_types[0])

    def run(shape: Any) -> Any:
        dims = as_vector(shape, "shape must be a vector of int32, got shape ")
        _check_dims(dims)
        if kind is DataType.STRING:
            return filled(tuple(dims), [b""] * math.prod(dims))
        return xp.zeros(dims, to_numpy(kind))

    return run


# --- joining and splitting -------------------------------------------------------------------------------------------


def _pack_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    known = next((shape for shape in shapes if shape is not None), None)
    if known is None:
        return [None]
    for shape in shapes:
        if shape is not None and len(shape) == len(known):
            known = tuple(b if a is None else a for a, b in zip(known, shape))
    axis = int(node.attr("axis"))
    axis += len(known) + 1 if axis < 0 else 0
    return [(*known[:axis], len(shapes), *known[axis:])]


@kernel("Pack", shape=_pack_shape)
def _pack(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    attr = int(node.attr("axis"))

    def run(*values: Any) -> Any:
        shape = values[0].shape
        rank = len(shape) + 1
        if not -rank <= attr < rank:
            raise InvalidArgument(f"axis = {attr} not in [{-rank}, {rank})")
        axis = attr + rank if attr < 0 else attr
        for index, value in enumerate(values):
            if value.shape != shape:
                raise InvalidArgument("Shapes of all inputs must match: "
                                      f"values[0].shape = {format_shape(shape)} != values[{index}].shape = "
                                      f"{format_shape(value.shape)}")
        result = xp.empty((*shape[:axis], len(values), *shape[axis:]), values[0].dtype)
        along = result.swapaxes(0, axis) if axis == 0 else xp.moveaxis(result, axis, 0)
        for index, value in enumerate(values):
            along[index, ...] = value
        return result

    return run


def _unpack_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    count = len(node.output_types)
    shape = shapes[0]
    if shape is None:
        return [None] * count
    axis = int(node.attr("axis"))
    axis += len(shape) if axis < 0 else 0
    return [(*shape[:axis], *shape[axis + 1:])] * count


@kernel("Unpack", shape=_unpack_shape)
def _unpack(node: Node, env: KernelEnv) -> Callable[..., Any]:
    count = len(node.output_types)
    attr = int(node.attr("axis"))

    def run(value: Any) -> Any:
        rank = value.ndim
        if not -rank <= attr < rank:
            raise InvalidArgument(f"axis = {attr} not in [{-rank}, {rank})")
        axis = attr + rank if attr < 0 else attr
        if value.shape[axis] != count:
            raise InvalidArgument(f"Input shape axis {axis} must equal {count}, got shape "
                                  f"{format_shape(value.shape)}")
        before = (slice(None),) * axis
        # The ellipsis keeps a scalar an array.
        return [value[(*before, index, ...)] for index in range(count)]

    return run


def _concat_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    values = shapes[1:] if node.op == "Concat" else shapes[:-1]
    rank = next((len(shape) for shape in values if shape is not None), None)
    return [None if rank is None else (None,) * rank]


def _join(node: Node, xp: Any, values: Sequence[Any], axis_value: Any) -> Any:
    if axis_value.ndim and axis_value.size != 1:
        name = "concat_dim" if node.op == "Concat" else "axis"
        raise InvalidArgument(f"{name} tensor should be a scalar integer, but got shape "
                              f"{format_shape(axis_value.shape)}")
    axis = int(axis_value.reshape(-1)[0])
    first = values[0]
    rank = first.ndim
    if any(value.ndim == 0 for value in values):
        raise InvalidArgument("ConcatOp : Can't concatenate scalars (use tf.stack instead)")
    if not -rank <= axis < rank:
        raise InvalidArgument(f"ConcatOp : Expected concatenating dimensions in the range [{-rank}, {rank}), but got "
                              f"{axis}")
    if axis < 0:
        axis += rank
    for index, value in enumerate(values):
        if value.ndim != rank:
            raise InvalidArgument("ConcatOp : Ranks of all input tensors should match: "
                                  f"shape[0] = {format_shape(first.shape)} vs. shape[{index}] = "
                                  f"{format_shape(value.shape)}")
        for dim in range(rank):
            if dim != axis and value.shape[dim] != first.shape[dim]:
                raise InvalidArgument(f"ConcatOp : Dimension {dim} in both shapes must be equal: "
                                      f"shape[0] = {format_shape(first.shape)} vs. shape[{index}] = "
                                      f"{format_shape(value.shape)}")
    return xp.concatenate(values, axis)


@kernel("ConcatV2", shape=_concat_shape, host=(-1,))
def _concat_v2(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    return lambda *args: _join(node, xp, args[:-1], args[-1])


@kernel("Concat", shape=_concat_shape, host=(0,))
def _concat(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    return lambda axis, *values: _join(node, xp, values, axis)


@kernel("ConcatOffset", shape=lambda node, shapes: shapes[1:], host=tuple(range(64)))
def _concat_offset(node: Node, env: KernelEnv) -> Callable[..., Any]:

    def run(concat_dim: Any, *shapes: Any) -> Any:
        if concat_dim.ndim:
            raise InvalidArgument(f"Concat dim tensor should be a scalar integer, but got shape "
                                  f"{format_shape(concat_dim.shape)}")
        first = shapes[0]
        for index, shape in enumerate(shapes):
            if shape.ndim != 1:
                raise InvalidArgument(f"input {index + 1} should be a vector, but got shape "
                                      f"{format_shape(shape.shape)}")
        rank = first.shape[0]
        axis = int(concat_dim)
        if not -rank <= axis < rank:
            raise InvalidArgument(f"Concat dim is out of range: {axis} vs. {rank}")
        axis = axis + rank if axis < 0 else axis
        offset = 0
        result = []
        for index, shape in enumerate(shapes):
            if shape.shape[0] != rank:
                raise InvalidArgument(f"input {index} should contain {rank} elements, but got {shape.shape[0]}")
            for dim in range(rank):
                if dim != axis and shape[dim] != first[dim]:
                    raise InvalidArgument("All dimensions except {} must match. Input {} has shape [{}] and doesn't "
                                          "match input 0 with shape [{}].".format(
                                              axis, index, " ".join(map(str, shape)), " ".join(map(str, first))))
            one = np.zeros(rank, first.dtype)
            one[axis] = offset
            offset += int(shape[axis])
            result.append(one)
        return result

    return run


def _split_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    value = shapes[1 if node.op == "Split" else 0]
    return [None if value is None else (None,) * len(value)] * len(node.output_types)


@kernel("Split", shape=_split_shape, host=(0,))
def _split(node: Node, env: KernelEnv) -> Callable[..., Any]:
    count = len(node.output_types)

    def run(split_dim: Any, value: Any) -> Any:
        if split_dim.ndim:
            raise InvalidArgument("split_dim must be a scalar but has rank " f"{split_dim.ndim}")
        axis = int(split_dim)
        rank = value.ndim
        if not -rank <= axis < rank:
            raise InvalidArgument(f"-input rank(-{rank}) <= split_dim < input rank ({rank}), but got {axis}")
        axis = axis + rank if axis < 0 else axis
        size, rest = divmod(value.shape[axis], count)
        if rest:
            raise InvalidArgument(f"Number of ways to split should evenly divide the split dimension, but got "
                                  f"split_dim {axis} (size = {value.shape[axis]}) and num_split {count}")
        before = (slice(None),) * axis
        return [value[(*before, slice(index * size, (index + 1) * size))] for index in range(count)]

    return run


@kernel("SplitV", shape=_split_shape, host=(1, 2))
def _split_v(node: Node, env: KernelEnv) -> Callable[..., Any]:
    count = len(node.output_types)

    def run(value: Any, size_splits: Any, split_dim: Any) -> Any:
        if split_dim.size != 1:
            raise InvalidArgument("split_dim_tensor must have exactly one element.")
        axis = int(split_dim.reshape(-1)[0])
        rank = value.ndim
        if not -rank <= axis < rank:
            raise InvalidArgument(f"-input rank(-{rank}) <= split_dim < input rank ({rank}), but got {axis}")
        axis = axis + rank if axis < 0 else axis
        if size_splits.ndim != 1 or size_splits.shape[0] != count:
            raise InvalidArgument("size of the split_tensor must be 1-D and have the same elements as outputs got "
                                  f"{size_splits.ndim} -D and {size_splits.size} elements")
        sizes = size_splits.tolist()
        total = value.shape[axis]
        unknown = [index for index, size in enumerate(sizes) if size == -1]
        known = sum(size for size in sizes if size != -1)
        if len(unknown) > 1:
            raise InvalidArgument("There can only be one -1 in the input.")
        if (unknown and known > total) or (not unknown and known != total):
            raise InvalidArgument("Determined shape must either match input shape along split_dim exactly if "
                                  "fully specified, or be less than the size of the input along split_dim if not "
                                  f"fully specified.  Got: {known}")
        if unknown:
            sizes[unknown[0]] = total - known
        for size in sizes:
            if size < 0:
                raise InvalidArgument(f"Split size at index {sizes.index(size)} must be >= 0. Got: {size}")
        before = (slice(None),) * axis
        result = []
        start = 0
        for size in sizes:
            result.append(value[(*before, slice(start, start + size))])
            start += size
        return result

    return run


# --- repeating and broadcasting --------------------------------------------------------------------------------------


@kernel("Tile", shape=_permuted_shape, host=(1,))
def _tile(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp

    def run(tensor: Any, multiples: Any) -> Any:
        counts = as_vector(multiples, "Expected multiples to be 1-D, but got shape ")
        if len(counts) != tensor.ndim:
            raise InvalidArgument(f"Expected multiples argument to be a vector of length {tensor.ndim} but got length "
                                  f"{len(counts)}")
        for index, count in enumerate(counts):
            if count < 0:
                raise InvalidArgument(f"Expected multiples[{index}] >= 0, but got {count}")
        return xp.tile(tensor, counts) if counts else tensor

    return run


@kernel("BroadcastTo", host=(1,))
def _broadcast_to(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp

    def run(tensor: Any, shape: Any) -> Any:
        dims = as_vector(shape, "shape must be a vector of {int32,int64}, got shape ")
        _check_dims(dims)
        if tensor.ndim > len(dims):
            raise InvalidArgument(f"Rank of input ({tensor.ndim}) must be no greater than rank of output shape "
                                  f"({len(dims)}).")
        try:
            return xp.broadcast_to(tensor, dims)
        except ValueError:
            raise InvalidArgument(f"Incompatible shapes: {format_shape(tensor.shape)} vs. "
                                  f"{format_shape(tuple(dims))}") from None

    return run


@kernel("BroadcastArgs", host=(0, 1))
def _broadcast_args(node: Node, env: KernelEnv) -> Callable[..., Any]:

    def run(left: Any, right: Any) -> Any:
        a, b = _two_shapes(left, right)
        return np.array(_broadcast(a, b), left.dtype)

    return run


def _two_shapes(left: Any, right: Any) -> tuple[list[int], list[int]]:
    for index, value in enumerate((left, right)):
        if value.ndim != 1:
            raise InvalidArgument(f"In[{index}] must be a vector.{format_shape(value.shape)}")
    return left.tolist(), right.tolist()


def _broadcast(a: list[int], b: list[int]) -> list[int]:
    rank = max(len(a), len(b))
    result = []
    for x, y in zip([1] * (rank - len(a)) + a, [1] * (rank - len(b)) + b):
        if x != y and x != 1 and y != 1:
            raise InvalidArgument(f"Incompatible shapes: [{','.join(map(str, a))}] vs. [{','.join(map(str, b))}]")
        result.append(y if x == 1 else x)
    return result


@kernel("BroadcastGradientArgs", shape=lambda node, shapes: [(None,), (None,)], host=(0, 1))
def _broadcast_gradient_args(node: Node, env: KernelEnv) -> Callable[..., Any]:

    def run(left: Any, right: Any) -> Any:
        a, b = _two_shapes(left, right)
        _broadcast(a, b)
        rank = max(len(a), len(b))
        padded_a, padded_b = [1] * (rank - len(a)) + a, [1] * (rank - len(b)) + b
        reduce_a, reduce_b = [], []
        for axis, (x, y) in enumerate(zip(padded_a, padded_b)):
            if x == 1 and (y != 1 or a != b):
                reduce_a.append(axis)
            if y == 1 and (x != 1 or a != b):
                reduce_b.append(axis)
        return [np.array(reduce_a, left.dtype), np.array(reduce_b, left.dtype)]

    return run
