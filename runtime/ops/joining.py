"""Joining, splitting, repeating and broadcasting arrays.

Results are views of the inputs wherever the array namespace gives one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime._ext.running_step import claim
from runtime.ops.arrays import as_vector, check_dims, same_rank
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

# From this size on it is asked whether the memory could be had.
_LARGE_BYTES = 1 << 30


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


@kernel("ParallelConcat", shape=lambda node, shapes: [node.attr("shape")])
def _parallel_concat(node: Node, env: KernelEnv) -> Callable[..., Any]:
    """Join rows; TensorFlow writes each as soon as it is there, which changes nothing in what comes out."""
    xp, shape = env.xp, node.attr("shape")
    if shape is None or None in shape or not shape:
        raise InvalidArgument(f"ParallelConcat needs a fully known shape of at least one dimension, got "
                              f"{format_shape(shape)}")

    def run(*values: Any) -> Any:
        for number, value in enumerate(values):
            if value.shape != (1, *shape[1:]):
                raise InvalidArgument(f"value {number} has shape {format_shape(value.shape)}, not "
                                      f"{format_shape((1, *shape[1:]))}")
        if len(values) != shape[0]:
            raise InvalidArgument(f"{len(values)} values do not make the shape {format_shape(shape)}")
        return xp.concatenate(values)

    return run


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


@kernel("Tile", shape=same_rank, host=(1,))
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
        claim(math.prod(counts) * tensor.nbytes)  # numpy makes it axis by axis
        return xp.tile(tensor, counts) if counts else tensor

    return run


@kernel("BroadcastTo", host=(1,))
def _broadcast_to(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp

    def run(tensor: Any, shape: Any) -> Any:
        dims = as_vector(shape, "shape must be a vector of {int32,int64}, got shape ")
        check_dims(dims)
        if tensor.ndim > len(dims):
            raise InvalidArgument(f"Rank of input ({tensor.ndim}) must be no greater than rank of output shape "
                                  f"({len(dims)}).")
        try:
            spread = xp.broadcast_to(tensor, dims)
        except ValueError:
            raise InvalidArgument(f"Incompatible shapes: {format_shape(tensor.shape)} vs. "
                                  f"{format_shape(tuple(dims))}") from None
        if spread.nbytes >= _LARGE_BYTES:
            # A view takes no memory, but whoever reads it takes the time: refuse what could not be there.
            xp.empty(spread.shape, spread.dtype)
        return spread

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
