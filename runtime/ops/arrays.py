"""Shapes of arrays: reading and changing them, and filling arrays of a given shape.

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

__all__ = ["as_vector", "check_dims", "known_ints", "same_rank"]


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


def same_rank(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    """Static shape of an op that keeps the rank of its first input and changes the dimensions."""
    return [None if shapes[0] is None else (None,) * len(shapes[0])]


@kernel("Transpose", "ConjugateTranspose", shape=same_rank, host=(1,))
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
        check_dims(shape)
        result = xp.empty(shape, dtype)
        result[...] = value.reshape(())
        return result

    return run


_MAX_ELEMENTS = (1 << 63) - 1


def check_dims(dims: Sequence[int]) -> None:
    """Check that no dimension of a requested shape is negative, nor their product more than 63 bits hold.

    Raises
    ------
    InvalidArgument
    """
    total = 1
    for dim in dims:
        if dim < 0:
            raise InvalidArgument(f"Dimension {dim} must be >= 0")
        total *= dim
    if total > _MAX_ELEMENTS:
        raise InvalidArgument(f"Shape {format_shape(tuple(dims))} would have more than 2**63 - 1 elements")


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
        check_dims(dims)
        if kind is DataType.STRING:
            return filled(tuple(dims), [b""] * math.prod(dims))
        return xp.zeros(dims, to_numpy(kind))

    return run
