"""Sparse tensors to dense ones, and what moves, joins and cuts them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, unknown
from runtime.ops.sparse_indices import (
    INT64_MAX,
    check_indices_valid,
    keys,
    sorted_order,
    unravel,
)

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["check_sparse"]

Run = Callable[..., Any]


def check_sparse(indices: Any, values: Any, shape: Any) -> None:
    """Check that three arrays can be a sparse tensor: their ranks and sizes.

    Raises
    ------
    InvalidArgument
        In TensorFlow's words.
    """
    for name, array, rank in (("indices", indices, 2), ("values", values, 1), ("shape", shape, 1)):
        if array.ndim != rank:
            raise InvalidArgument(f"Sparse {name} must be rank {rank} but is rank {array.ndim}")
    if indices.shape[0] != values.shape[0]:
        raise InvalidArgument(f"Number of elements in indices ({indices.shape[0]}) and values ({values.shape[0]}) do "
                              "not match")
    if indices.shape[1] != shape.shape[0]:
        raise InvalidArgument(f"Index rank ({indices.shape[1]}) and shape rank ({shape.shape[0]}) do not match")


def _triple(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    """Shapes of one sparse tensor of which nothing is known but what its parts are."""
    return [(None, None), (None,), (None,)]


# To dense


@kernel("SparseToDense", shape=unknown, host=(1,))
def _sparse_to_dense(node: Node, env: KernelEnv) -> Run:
    xp, validate = env.xp, node.attr("validate_indices")

    def run(indices: Any, output_shape: Any, values: Any, default: Any) -> Any:
        positions = _dense_positions(indices, output_shape, values, default)
        dims = output_shape.tolist()
        for dim in dims:
            if dim < 0:
                raise InvalidArgument(f"Dimension {dim} must be >= 0")
        if validate:
            check_indices_valid(xp, positions, dims)
        result = xp.empty(dims, values.dtype)
        result[...] = default
        if not dims:
            return values.reshape(-1)[-1:].reshape(()) if positions.shape[0] else result
        if positions.shape[0]:
            if bool(((positions < 0) | (positions >= xp.asarray(dims))).any()):
                raise InvalidArgument("Indices are not valid (out of bounds).  Shape: "
                                      f"{format_shape(tuple(dims))}")
            result[tuple(positions[:, axis] for axis in range(positions.shape[1]))] = values
        return result

    return run


def _dense_positions(indices: Any, output_shape: Any, values: Any, default: Any) -> Any:
    """Check the inputs of SparseToDense and return its indices as a matrix."""
    if indices.ndim > 2:
        raise InvalidArgument("sparse_indices should be a scalar, vector, or matrix, got shape "
                              f"{format_shape(indices.shape)}")
    count = indices.shape[0] if indices.ndim else 1
    rank = indices.shape[1] if indices.ndim > 1 else 1
    if output_shape.ndim != 1:
        raise InvalidArgument(f"output_shape must be rank 1, got shape {format_shape(output_shape.shape)}")
    if output_shape.size != rank:
        raise InvalidArgument(f"output_shape has incorrect number of elements: {output_shape.size} should be: {rank}")
    if values.ndim and values.shape != (count,):
        raise InvalidArgument(f"sparse_values has incorrect shape {format_shape(values.shape)}, should be [] or "
                              f"[{count}]")
    if default.ndim:
        raise InvalidArgument("default_value should be a scalar.")
    return indices.reshape(count, rank)


# Order and shape


@kernel("SparseReorder", shape=lambda node, shapes: [shapes[0], shapes[1]])
def _sparse_reorder(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(indices: Any, values: Any, shape: Any) -> tuple[Any, Any]:
        check_sparse(indices, values, shape)
        numbers, = keys(xp, shape.tolist(), indices)
        order = sorted_order(xp, numbers)
        return (indices, values) if order is None else (indices[order], values[order])

    return run


@kernel("SparseReshape", shape=lambda node, shapes: [(None, None), shapes[2]])
def _sparse_reshape(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(indices: Any, shape: Any, new_shape: Any) -> tuple[Any, Any]:
        if indices.ndim != 2:
            raise InvalidArgument("Input must be a matrix.")
        if shape.ndim != 1:
            raise InvalidArgument("Input shape must be a vector.")
        if new_shape.ndim != 1:
            raise InvalidArgument(f"Target shape should be a vector but received shape {format_shape(new_shape.shape)}")
        if indices.shape[1] != shape.shape[0]:
            raise InvalidArgument("Input tensor rank must match input shape length.")
        dims, wanted = shape.tolist(), new_shape.tolist()
        target = _reshaped(dims, wanted)
        result = xp.asarray(target, dtype=xp.int64)
        if dims == target:
            return indices, result
        if not indices.shape[0]:
            return xp.zeros((0, len(target)), xp.int64), result
        numbers, = keys(xp, dims, indices)
        return unravel(xp, numbers, target), result

    return run


def _reshaped(dims: list[int], wanted: list[int]) -> list[int]:
    """Return the shape that is wanted with its -1 replaced."""
    for dim in dims:
        if dim < 0:
            raise InvalidArgument(f"Dimension {dim} must be >= 0")
    total = math.prod(dims)
    if total > INT64_MAX:
        raise InvalidArgument(f"Shape {format_shape(tuple(dims))} would have more than 2**63 - 1 elements")
    product, unknown_axis = 1, -1
    for axis, size in enumerate(wanted):
        if size == -1:
            if unknown_axis >= 0:
                raise InvalidArgument(f"only one output dimension may be -1, not both {unknown_axis} and {axis}")
            unknown_axis = axis
        elif size < 0:
            raise InvalidArgument(f"size {axis} must be non-negative, not {size}")
        else:
            product *= size
    target = list(wanted)
    if unknown_axis >= 0:
        if not product:
            raise InvalidArgument("reshape cannot infer the missing input size for an empty tensor unless all "
                                  "specified input sizes are non-zero")
        target[unknown_axis] = 1
        if total % product:
            raise InvalidArgument(f"Input to reshape is a SparseTensor with {total} dense values, but the requested "
                                  f"shape requires a multiple of {product}. input_shape={format_shape(tuple(dims))} "
                                  f"output_shape={format_shape(tuple(target))}")
        target[unknown_axis] = total // product
    elif product != total:
        raise InvalidArgument(f"Input to reshape is a tensor with {total} dense values, but the requested shape has "
                              f"{product}. input_shape={format_shape(tuple(dims))} "
                              f"output_shape={format_shape(tuple(target))}")
    return target


# Empty rows


@kernel("SparseFillEmptyRows", shape=lambda node, shapes: [
    (None, None if not shapes[0] else shapes[0][1]), (None,), (None,), shapes[1]])
def _fill_empty_rows(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(indices: Any, values: Any, shape: Any, default: Any) -> tuple[Any, Any, Any, Any]:
        for name, array, rank, kind in (("dense_shape", shape, 1, "vector"), ("indices", indices, 2, "matrix"),
                                        ("values", values, 1, "vector"), ("default_value", default, 0, "scalar")):
            if array.ndim != rank:
                raise InvalidArgument(f"{name} must be a {kind}, saw: {format_shape(array.shape)}")
        count = indices.shape[0]
        if values.shape[0] != count:
            raise InvalidArgument("The length of `values` ("
                                  f"{values.shape[0]}) must match the first dimension of `indices` ({count}).")
        if indices.shape[1] != shape.shape[0]:
            raise InvalidArgument(f"The length of `dense_shape` ({shape.shape[0]}) must match the second dimension of "
                                  f"`indices` ({indices.shape[1]}).")
        if not shape.shape[0]:
            raise InvalidArgument("Dense shape cannot be empty.")
        height = int(shape[0])
        if height == 0:
            if count:
                raise InvalidArgument(f"Received SparseTensor with dense_shape[0] = 0 but indices.shape[0] = {count}")
            return indices, values, xp.zeros(0, bool), xp.zeros(0, xp.int64)
        rows = indices[:, 0]
        bad = (rows < 0) | (rows >= height)
        if bool(bad.any()):
            place = int(xp.argmax(bad))
            raise InvalidArgument(f"indices({place}, 0) is invalid: {int(rows[place])} >= {height}")
        empty = xp.bincount(rows, minlength=height) == 0
        added = xp.flatnonzero(empty)
        if not added.size and sorted_order(xp, rows) is None:
            return indices, values, empty, xp.arange(count)
        # Grouped by row; the ranks of the sorted entries say where each input entry went.
        order = xp.argsort(xp.concatenate([rows, added]), kind="stable")
        places = xp.empty(order.size, xp.int64)
        places[order] = xp.arange(order.size)
        fresh = xp.zeros((added.size, indices.shape[1]), xp.int64)
        fresh[:, 0] = added
        filler = xp.empty(added.size, values.dtype)
        filler[...] = default
        return (xp.concatenate([indices, fresh])[order], xp.concatenate([values, filler])[order], empty,
                places[:count])

    return run


@kernel("SparseFillEmptyRowsGrad", shape=lambda node, shapes: [shapes[0], ()])
def _fill_empty_rows_grad(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(places: Any, grad: Any) -> tuple[Any, Any]:
        if places.ndim != 1:
            raise InvalidArgument(f"reverse_index_map must be a vector, saw: {format_shape(places.shape)}")
        if grad.ndim != 1:
            raise InvalidArgument(f"grad_values must be a vector, saw: {format_shape(grad.shape)}")
        bad = (places < 0) | (places >= grad.shape[0])
        if bool(bad.any()):
            raise InvalidArgument(f"Elements in reverse index must be in [0, {grad.shape[0]}) but got "
                                  f"{int(places[int(xp.argmax(bad))])}")
        left = xp.ones(grad.shape[0], bool)
        left[places] = False
        return grad[places], xp.asarray(xp.sum(grad[left], dtype=grad.dtype))

    return run


# Joining and cutting


@kernel("SparseConcat", shape=_triple)
def _sparse_concat(node: Node, env: KernelEnv) -> Run:
    xp, attr, count = env.xp, node.attr("concat_dim"), node.attr("N")

    def run(*inputs: Any) -> tuple[Any, Any, Any]:
        indices, values, shapes = inputs[:count], inputs[count:2 * count], inputs[2 * count:]
        dims = [_concat_part(number, *part) for number, part in enumerate(zip(indices, values, shapes, strict=True))]
        rank = len(dims[0])
        if not -rank <= attr < rank:
            raise InvalidArgument(f"Concat dimension must be in range [{-rank}, {rank}), got {attr}")
        axis = attr % rank
        for number, other in enumerate(dims):
            if len(other) != rank:
                raise InvalidArgument(f"Ranks of all input tensors must match: expected {rank} but got {len(other)} at "
                                      f"position {number}")
            for place in range(rank):
                if place != axis and other[place] != dims[0][place]:
                    raise InvalidArgument(f"Input shapes must match: expected {dims[0][place]} for dimension {place} "
                                          f"but got {other[place]} at position {number}")
        offset = sum(other[axis] for other in dims)
        if offset > INT64_MAX:
            raise InvalidArgument(f"the concatenated dimension {axis} would have {offset} places, more than 2**63 - 1")
        shape = [*dims[0][:axis], offset, *dims[0][axis + 1:]]
        moved, offset = [], 0
        for part, other in zip(indices, dims, strict=True):
            shifted = part.copy()
            shifted[:, axis] += offset
            moved.append(shifted)
            offset += other[axis]
        positions, joined = xp.concatenate(moved), xp.concatenate(values)
        numbers, = keys(xp, shape, positions)
        order = sorted_order(xp, numbers)
        if order is not None:
            positions, joined = positions[order], joined[order]
        return positions, joined, xp.asarray(shape, dtype=xp.int64)

    return run


def _concat_part(number: int, indices: Any, values: Any, shape: Any) -> list[int]:
    """Check one of the inputs of SparseConcat and return its shape."""
    if indices.ndim != 2:
        raise InvalidArgument(f"Input indices should be a matrix but received shape {format_shape(indices.shape)} at "
                              f"position {number}")
    if values.ndim != 1:
        raise InvalidArgument(f"Input values should be a vector but received shape {format_shape(values.shape)} at "
                              f"position {number}")
    if shape.ndim != 1:
        raise InvalidArgument(f"Input shapes should be a vector but received shape {format_shape(shape.shape)} at "
                              f"position {number}")
    if indices.shape[0] != values.shape[0]:
        raise InvalidArgument(f"Expected {indices.shape[0]} values, got {values.shape[0]} at position {number}")
    if indices.shape[1] != shape.shape[0]:
        raise InvalidArgument(f"Expected {indices.shape[1]} dimensions in the shape, got {shape.shape[0]} at position "
                              f"{number}")
    dims: list[int] = shape.tolist()
    return dims


@kernel("SparseSlice", shape=_triple)
def _sparse_slice(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(indices: Any, values: Any, shape: Any, start: Any, size: Any) -> tuple[Any, Any, Any]:
        check_sparse(indices, values, shape)
        rank = shape.shape[0]
        for name, array in (("start", start), ("size", size)):
            if array.ndim != 1:
                raise InvalidArgument(f"Input {name} should be a vector but received shape "
                                      f"{format_shape(array.shape)}")
        if start.shape[0] != rank:
            raise InvalidArgument(f"Expected start to be a vector of length {rank} but got length {start.shape[0]}")
        if size.shape[0] != rank:
            raise InvalidArgument(f"Expected size to be a vector of length {rank} but got length {size.shape[0]}")
        left = xp.maximum(xp.minimum(size, shape - start), 0)
        kept = ((indices >= start) & (indices - start < size)).all(axis=1)
        if bool(kept.all()):
            return indices - start, values, left
        return indices[kept] - start, values[kept], left

    return run


@kernel("SparseSplit", shape=lambda node, shapes: [
    *[(None, None)] * node.attr("num_split"), *[(None,)] * (2 * node.attr("num_split"))], host=(0,))
def _sparse_split(node: Node, env: KernelEnv) -> Run:
    xp, pieces = env.xp, node.attr("num_split")

    def run(split_dim: Any, indices: Any, values: Any, shape: Any) -> list[Any]:
        if split_dim.ndim:
            raise InvalidArgument(f"Input axis should be a scalar but received shape {format_shape(split_dim.shape)}")
        check_sparse(indices, values, shape)
        dims = shape.tolist()
        axis = int(split_dim)
        if not -len(dims) <= axis < len(dims):
            raise InvalidArgument(f"Input axis should be in range [{-len(dims)}, {len(dims)}), got {axis}")
        axis %= len(dims)
        length = dims[axis]
        if not 1 <= pieces <= length:
            raise InvalidArgument(f"Input num_split should be between 1 and the splitting dimension size ({length}), "
                                  f"got {pieces}")
        width, wide = divmod(length, pieces)
        where = indices[:, axis]
        first = (width + 1) * wide  # the pieces before are longer by one
        which = xp.where(where < first, where // (width + 1), wide + (where - first) // max(1, width))
        outputs: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        begin = 0
        for piece in range(pieces):
            mine = xp.flatnonzero(which == piece)
            part = indices[mine]
            part[:, axis] -= begin
            span = width + (piece < wide)
            begin += span
            outputs[0].append(part)
            outputs[1].append(values[mine])
            outputs[2].append(xp.asarray([*dims[:axis], span, *dims[axis + 1:]], dtype=xp.int64))
        return [*outputs[0], *outputs[1], *outputs[2]]

    return run
