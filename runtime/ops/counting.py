"""Counting values, flat and full indices, rolling, and seeing bits as another type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import base, to_numpy
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv


@kernel("Roll", shape=like_input())
def _roll(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp

    def run(tensor: Any, shift: Any, axis: Any) -> Any:
        if tensor.ndim < 1:
            raise InvalidArgument("input must be 1-D or higher")
        if shift.ndim > 1:
            raise InvalidArgument(f"shift must be a scalar or a 1-D vector. Found: {format_shape(shift.shape)}")
        if axis.ndim > 1:
            raise InvalidArgument(f"axis must be a scalar or a 1-D vector. Found: {format_shape(axis.shape)}")
        if shift.shape != axis.shape:
            raise InvalidArgument("shift and axis must have the same size")
        axes = axis.reshape(-1).tolist()
        for number in axes:
            if not -tensor.ndim <= number < tensor.ndim:
                raise InvalidArgument(f"axis {number + tensor.ndim if number < 0 else number} is out of range")
        return xp.roll(tensor, tuple(shift.reshape(-1).tolist()), tuple(axes)) if axes else tensor

    return run


def _unravel_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    indices, dims = shapes
    count = None if dims is None else dims[0] if dims else 1
    return [None if indices is None else (count, *indices)]


@kernel("UnravelIndex", shape=_unravel_shape, host=(1,))
def _unravel_index(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(node.output_types[0])

    def run(indices: Any, dims: Any) -> Any:
        if indices.ndim > 1:
            raise InvalidArgument("The indices can only be scalar or vector, got \\"
                                  f"{format_shape(indices.shape)}\\")
        if dims.ndim != 1:
            raise InvalidArgument(f"The indices can only be 1-D, got \\{format_shape(dims.shape)}\\")
        shape = dims.tolist()
        if any(dim == 0 for dim in shape):
            raise InvalidArgument("Input dims cannot contain a dim of zero, but dims contains zero at index "
                                  f"{shape.index(0)}")
        total = 1
        for dim in shape:
            total *= dim
        if indices.size and (int(indices.max()) >= total or int(indices.min()) < 0):
            raise InvalidArgument("index is out of bound as with dims")
        return xp.stack(xp.unravel_index(indices, tuple(shape))).astype(dtype)

    return run


def _bincount_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    if shapes[0] is None:
        return [None]
    return [(None,) if len(shapes[0]) < 2 else (shapes[0][0], None)]


@kernel("DenseBincount", "Bincount", shape=_bincount_shape, host=(1,))
def _dense_bincount(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(node.output_types[0])
    binary = node.op == "DenseBincount" and bool(node.attr("binary_output"))

    def run(values: Any, size_value: Any, weights: Any) -> Any:
        if size_value.size != 1:
            raise InvalidArgument(f"Shape must be rank 0 but is rank {size_value.ndim}")
        size = int(size_value.reshape(-1)[0])
        if size < 0:
            raise InvalidArgument(f"size ({size}) must be non-negative")
        if weights.size and weights.shape != values.shape:
            raise InvalidArgument("`weights` must be the same shape as `arr` or a length-0 `Tensor`, in which case it "
                                  "acts as all weights equal to 1. Received "
                                  f"{format_shape(weights.shape)}")
        if node.op == "DenseBincount" and values.ndim > 2:
            raise InvalidArgument(f"Shape must be at most rank 2 but is rank {values.ndim}")
        if values.size and int(values.min()) < 0:
            raise InvalidArgument("Input arr must be non-negative!")
        rows = values.shape[0] if values.ndim == 2 and node.op == "DenseBincount" else 1
        flat = values.reshape(rows, -1) if values.size else values.reshape(rows, 0)
        inside = flat < size
        row_numbers = xp.broadcast_to(xp.arange(rows)[:, None], flat.shape)[inside]
        columns = flat[inside]
        result = xp.zeros((rows, size), dtype)
        if binary:
            result[row_numbers, columns] = 1
        elif weights.size:
            xp.add.at(result, (row_numbers, columns), weights.reshape(flat.shape)[inside])
        else:
            xp.add.at(result, (row_numbers, columns), dtype.type(1))
        return result if values.ndim == 2 and node.op == "DenseBincount" else result[0]

    return run


def _bitcast_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    if shape is None:
        return [None]
    old, new = to_numpy(node.input_types[0]).itemsize, to_numpy(node.output_types[0]).itemsize
    if old == new:
        return [shape]
    return [(*shape, old // new)] if old > new else [shape[:-1]]


@kernel("Bitcast", shape=_bitcast_shape)
def _bitcast(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    source, target = base(node.input_types[0]), base(node.output_types[0])
    old, new = to_numpy(source), to_numpy(target)

    def run(tensor: Any) -> Any:
        if old.itemsize == new.itemsize:
            return xp.ascontiguousarray(tensor).reshape(tensor.shape).view(new)
        if old.itemsize > new.itemsize:
            ratio = old.itemsize // new.itemsize
            return xp.ascontiguousarray(tensor).reshape(-1).view(new).reshape((*tensor.shape, ratio))
        ratio = new.itemsize // old.itemsize
        if tensor.ndim == 0 or tensor.shape[-1] != ratio:
            raise InvalidArgument(f"Cannot bitcast from {source.label} to {target.label}: the last dimension must be "
                                  f"{ratio}, the shape is {format_shape(tensor.shape)}")
        return xp.ascontiguousarray(tensor).reshape(-1).view(new).reshape(tensor.shape[:-1])

    return run
