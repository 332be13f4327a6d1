"""Gathering, one-hot and selecting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, base, to_numpy
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import broadcast, format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["check_indices", "gather_nd", "zeros"]


def zeros(xp: Any, shape: Sequence[int], datatype: int) -> Any:
    """Return an array of zeros, or of empty strings."""
    if base(datatype) is DataType.STRING:
        return xp.full(shape, b"", object)
    return xp.zeros(shape, to_numpy(datatype))


def check_indices(xp: Any, indices: Any, limit: int) -> None:
    """Check that every index lies in [0, limit).

    Raises
    ------
    InvalidArgument
        Naming the first index that does not.
    """
    if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= limit):
        bad = (indices < 0) | (indices >= limit)
        first = xp.argwhere(bad)[0]
        where = ",".join(str(int(item)) for item in first)
        value = int(indices[tuple(int(item) for item in first)])
        raise InvalidArgument(f"indices{f'[{where}]' if indices.ndim else ''} = {value} is not in [0, {limit})")


# --- gathering -------------------------------------------------------------------------------------------------------


def _gather_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    params, indices = shapes
    return [None if params is None or indices is None else (*indices, *params[1:])]


@kernel("Gather", shape=_gather_shape)
def _gather(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp

    def run(params: Any, indices: Any) -> Any:
        if params.ndim < 1:
            raise InvalidArgument("params must be at least 1 dimensional")
        check_indices(xp, indices, params.shape[0])
        return params[indices, ...] if indices.ndim == 0 else params[indices]

    return run


def _gather_v2_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    params, indices = shapes[0], shapes[1]
    if params is None or indices is None:
        return [None]
    batch_dims = int(node.attr("batch_dims"))
    batch_dims += len(indices) if batch_dims < 0 else 0
    return [(None,) * (len(params) - 1 + len(indices) - batch_dims)]


@kernel("GatherV2", shape=_gather_v2_shape, host=(2,))
def _gather_v2(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    batch_attr = int(node.attr("batch_dims"))

    def run(params: Any, indices: Any, axis_value: Any) -> Any:
        if axis_value.ndim:
            raise InvalidArgument("axis must be scalar")
        rank = params.ndim
        axis = int(axis_value)
        batch_dims = batch_attr
        if rank < 1:
            raise InvalidArgument("params must be at least 1 dimensional")
        if not -rank <= axis < rank:
            raise InvalidArgument(f"Shape must be at least rank {axis + 1 if axis >= 0 else -axis} but is rank {rank}")
        if axis < 0:
            axis += rank
        if batch_dims:
            if not -indices.ndim <= batch_dims <= indices.ndim:
                raise InvalidArgument(f"Expected batch_dims in the range [{-indices.ndim}, {indices.ndim}], but got "
                                      f"{batch_dims}")
            if batch_dims < 0:
                batch_dims += indices.ndim
            if batch_dims >= rank:
                raise InvalidArgument(f"batch_dims ({batch_dims}) must be less than rank(params) ({rank}).")
            if axis < batch_dims:
                raise InvalidArgument(f"batch_dims ({batch_dims}) must be less than or equal to axis ({axis}).")
            for dim in range(batch_dims):
                if params.shape[dim] != indices.shape[dim]:
                    raise InvalidArgument(f"params.shape[{dim}]: {params.shape[dim]} should be equal to "
                                          f"indices.shape[{dim}]: {indices.shape[dim]}")
        check_indices(xp, indices, params.shape[axis])
        if not batch_dims:
            if axis == 0:
                return params[indices, ...]
            return params[(slice(None),) * axis + (indices, ...)]
        return _batched_take(xp, params, indices, axis, batch_dims)

    return run


def _batched_take(xp: Any, params: Any, indices: Any, axis: int, batch_dims: int) -> Any:
    """Gather along `axis`, the first `batch_dims` axes of both going together."""
    batch = params.shape[:batch_dims]
    between = params.shape[batch_dims:axis]
    own = indices.shape[batch_dims:]
    rank = batch_dims + len(between) + len(own)
    positions: list[Any] = []
    for dim, size in enumerate((*batch, *between)):
        positions.append(xp.arange(size).reshape([size if other == dim else 1 for other in range(rank)]))
    positions.append(indices.reshape(batch + (1,) * len(between) + own))
    return params[(*positions, ...)]


def gather_nd(xp: Any, params: Any, indices: Any, node_name: str) -> Any:
    """Return the slices of `params` that the last dimension of `indices` names.

    Raises
    ------
    InvalidArgument
        In TensorFlow's words, if shapes do not fit or an index is out of bounds.
    """
    if params.ndim < 1:
        raise InvalidArgument("params must be at least a vector")
    if indices.ndim < 1:
        raise InvalidArgument("indices must be at least a vector")
    depth = indices.shape[-1]
    if depth > params.ndim:
        raise InvalidArgument("index innermost dimension length must be <= params rank; saw: "
                              f"{depth} vs. {params.ndim}")
    batch = indices.shape[:-1]
    if params.size == 0 and 0 not in batch and 0 in params.shape[:depth]:
        raise InvalidArgument("Requested more than 0 entries, but params is empty.  Params shape: "
                              f"{format_shape(params.shape)}")
    bad = None
    for axis in range(depth):
        column = indices[..., axis]
        wrong = (column < 0) | (column >= params.shape[axis])
        bad = wrong if bad is None else bad | wrong
    if bad is not None and bad.any():
        first = tuple(int(item) for item in xp.argwhere(bad)[0])
        where = ",".join(map(str, first))
        found = ", ".join(str(int(item)) for item in indices[first])
        raise InvalidArgument(f"indices[{where}] = [{found}] does not index into param shape "
                              f"{format_shape(params.shape)}, node name: {node_name}")
    if depth == 0:
        return xp.broadcast_to(params, batch + params.shape)
    return params[(*(indices[..., axis] for axis in range(depth)), ...)]


def _gather_nd_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    params, indices = shapes
    if params is None or not indices or indices[-1] is None:
        return [None]
    return [(*indices[:-1], *params[indices[-1]:])]


@kernel("GatherNd", shape=_gather_nd_shape)
def _gather_nd(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp

    def run(params: Any, indices: Any) -> Any:
        return gather_nd(xp, params, indices, node.name)

    return run


def _one_hot_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    indices = shapes[0]
    if indices is None:
        return [None]
    axis = int(node.attr("axis"))
    axis = len(indices) if axis == -1 else axis
    return [(*indices[:axis], None, *indices[axis:])]


@kernel("OneHot", shape=_one_hot_shape, host=(1,))
def _one_hot(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    attr = int(node.attr("axis"))

    def run(indices: Any, depth_value: Any, on_value: Any, off_value: Any) -> Any:
        if not -1 <= attr <= indices.ndim:
            raise InvalidArgument(f"Expected axis to be -1 or between [0, {indices.ndim + 1}).  But received: {attr}")
        for value, name in ((depth_value, "depth"), (on_value, "on_value"), (off_value, "off_value")):
            if value.ndim:
                raise InvalidArgument(f"{name} must be a scalar, but got: {format_shape(value.shape)}")
        depth = int(depth_value)
        if depth < 0:
            raise InvalidArgument(f"depth must be non-negative, got: {depth}")
        axis = indices.ndim if attr == -1 else attr
        steps = xp.arange(depth).reshape((depth, *(1,) * (indices.ndim - axis)))
        hot = xp.expand_dims(indices, axis) == steps
        result = xp.empty(hot.shape, on_value.dtype)
        result[...] = off_value
        result[hot] = on_value[()]
        return result

    return run


# --- selecting -------------------------------------------------------------------------------------------------------


@kernel("Where", shape=lambda node, shapes: [(None, None if shapes[0] is None else len(shapes[0]))])
def _where(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp

    def run(condition: Any) -> Any:
        if condition.ndim == 0:
            raise InvalidArgument("WhereOp : Unhandled input dimensions: 0")
        return xp.argwhere(condition).astype(xp.int64, copy=False)

    return run


def _unequal(node: Node, *inputs: Any) -> InvalidArgument:
    """Return the error for inputs that do not all have the first one's shape."""
    shape = inputs[0].shape
    for index, value in enumerate(inputs):
        if value.shape != shape:
            return InvalidArgument(f"Inputs to operation {node.name} of type {node.op} must have the same size and "
                                   f"shape.  Input 0: {format_shape(shape)} != input {index}: "
                                   f"{format_shape(value.shape)}")
    raise AssertionError("the inputs have one shape")


@kernel("Select", shape=like_input(1))
def _select(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp

    def run(condition: Any, then: Any, otherwise: Any) -> Any:
        if then.shape != otherwise.shape:
            raise _unequal(node, condition if condition.shape == then.shape or condition.ndim > 1 else then, then,
                           otherwise)
        if condition.ndim == 0:
            return then if condition else otherwise
        if condition.shape != then.shape:
            if condition.ndim != 1:
                raise _unequal(node, condition, then, otherwise)
            if then.ndim < 1:
                raise InvalidArgument("'then' must be at least a vector, but saw shape: "
                                      f"{format_shape(then.shape)}")
            if condition.shape[0] != then.shape[0]:
                raise InvalidArgument("Number of batches of 'then' must match size of 'cond', but saw: "
                                      f"{then.shape[0]} vs. {condition.shape[0]}")
            condition = condition.reshape((-1, *(1,) * (then.ndim - 1)))
        return xp.where(condition, then, otherwise)

    return run


@kernel("SelectV2", shape=broadcast)
def _select_v2(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp

    def run(condition: Any, then: Any, otherwise: Any) -> Any:
        try:
            return xp.where(condition, then, otherwise)
        except ValueError:
            raise InvalidArgument(
                f"condition {format_shape(condition.shape)}, then {format_shape(then.shape)}, and else "
                f"{format_shape(otherwise.shape)} must be broadcastable") from None

    return run
