"""Scatters of slices that coordinates name: into new tensors, copies of tensors, and variables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime._ext.variable import Variable
from runtime.dtypes import DataType, base
from runtime.ops.indexing import zeros
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input
from runtime.ops.variables import existing

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["check_scatter_nd", "scatter_nd"]

Run = Callable[..., Any]

_UFUNCS = {"Add": "add", "Sub": "subtract", "Min": "minimum", "Max": "maximum"}


def scatter_nd(xp: Any, target: Any, indices: Any, updates: Any, ufunc: Any, skip_bad: bool = False) -> None:
    """Combine slices of `target` with `updates` in place, in the order of the indices.

    Parameters
    ----------
    target : ndarray, C order
    indices : ndarray of int, (..., depth) or (n,)
        The last axis is a position in the first `depth` axes of the target; a vector names rows.
    updates : ndarray, (..., *target.shape[depth:])
    ufunc : ufunc or None
        How a slice and its update combine; None replaces it, the last update wins.
    skip_bad : bool
        Whether an update with a position outside the target is left out.

    Raises
    ------
    InvalidArgument
        If the shapes do not fit, or naming the last position outside the target.
    """
    check_scatter_nd(target.shape, indices, updates)
    if not updates.size:
        return
    depth = indices.shape[-1] if indices.ndim > 1 else 1
    rows, bad = _rows(xp, indices.reshape(-1, depth), target.shape)
    if bad is not None and not skip_bad:
        raise _outside(xp, indices, bad, target.shape)
    width = math.prod(target.shape[depth:])
    changes = updates.reshape(-1, width) if width > 1 else updates.reshape(-1)
    if bad is not None:
        kept = xp.flatnonzero(~bad)
        rows, changes = rows[kept], changes[kept]
    into = target.reshape(-1, width) if width > 1 else target.reshape(-1)
    if ufunc is None:
        into[rows] = changes
    else:
        ufunc.at(into, rows, changes)


def check_scatter_nd(shape: tuple[int, ...], indices: Any, updates: Any) -> None:
    """Check that updates fit a tensor and the indices; a vector of indices is a column of rows.

    Raises
    ------
    InvalidArgument
        In TensorFlow's words.
    """
    if not shape:
        raise InvalidArgument("Output must be at least 1-D, got shape: []")
    if not _all_or_nothing(math.prod(shape), indices, updates):
        raise InvalidArgument("Indices and updates specified for empty output.  indices shape: "
                              f"{format_shape(indices.shape)}")
    _check_ranks(indices, updates)
    told = f"indices[shape={format_shape(indices.shape)}]"
    given = f"updates[shape={format_shape(updates.shape)}]"
    if indices.shape[0] != updates.shape[0]:
        raise InvalidArgument(f"Dimensions [0,1) of {told} = {indices.shape[0]} must match dimensions [0,1) of {given} "
                              f"= {updates.shape[0]}")
    depth = indices.shape[-1] if indices.ndim > 1 else 1
    batch = indices.shape[:-1] if indices.ndim > 1 else indices.shape
    if updates.shape[:len(batch)] != batch:
        raise InvalidArgument(f"Dimensions [0,{len(batch)}) of {told} must match dimensions [0,{len(batch)}) of "
                              f"{given}")
    if depth > len(shape) or updates.shape[len(batch):] != shape[depth:]:
        raise InvalidArgument(f"Dimensions [{depth},{len(shape)}) of input[shape={format_shape(shape)}] must match "
                              f"dimensions [{depth},{updates.ndim}) of {given}")


def _all_or_nothing(places: int, indices: Any, updates: Any) -> bool:
    """Tell whether there is nothing to do, or something to do everywhere."""
    return not (indices.size or updates.size) or bool(places and indices.size and updates.size)


def _check_ranks(indices: Any, updates: Any) -> None:
    if not indices.ndim:
        raise InvalidArgument(f"Indices shape must have rank at least one. Found:{format_shape(indices.shape)}")
    if not updates.ndim:
        raise InvalidArgument(f"Updates shape must have rank at least one. Found:{format_shape(updates.shape)}")


def _rows(xp: Any, positions: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return the number of the slice that each position names, and which positions are outside (None if none is)."""
    depth = positions.shape[1]
    rows = xp.zeros(positions.shape[0], xp.int64)
    bad = None
    for axis in range(depth):
        column = positions[:, axis].astype(xp.int64, copy=False)
        if int(column.min()) < 0 or int(column.max()) >= shape[axis]:
            wrong = (column < 0) | (column >= shape[axis])
            bad = wrong if bad is None else bad | wrong
        rows *= shape[axis]
        rows += column
    return rows, bad


def _outside(xp: Any, indices: Any, bad: Any, shape: tuple[int, ...]) -> InvalidArgument:
    """Return the error for the last position outside the target."""
    last = xp.argwhere(bad.reshape(indices.shape[:-1] if indices.ndim > 1 else indices.shape))[-1]
    place = tuple(int(item) for item in last)
    found = ", ".join(str(int(item)) for item in indices[place].reshape(-1))
    return InvalidArgument(f"indices[{','.join(map(str, place))}] = [{found}] does not index into shape "
                           f"{format_shape(shape)}")


def _ufunc(xp: Any, name: str, datatype: int) -> Any:
    """Return how updates of one type combine: strings replace, booleans add up to `or` and differ by `xor`."""
    if name == "Update" or base(datatype) is DataType.STRING:
        return None
    if base(datatype) is DataType.BOOL and name in ("Add", "Max"):
        return xp.logical_or
    if base(datatype) is DataType.BOOL and name == "Sub":
        return xp.logical_xor
    return getattr(xp, _UFUNCS[name])


def _skips_bad(node: Node) -> bool:
    policy = node.attr("bad_indices_policy").decode("utf-8", "replace")
    if policy not in ("", "DEFAULT", "ERROR", "IGNORE"):
        raise InvalidArgument(f"Bad indices policy attribute must be DEFAULT, ERROR or IGNORE, not {policy!r}")
    return bool(policy == "IGNORE")


# New tensors


@kernel("ScatterNd", host=(2,))
def _scatter_nd(node: Node, env: KernelEnv) -> Run:
    xp, skip_bad = env.xp, _skips_bad(node)
    datatype = node.output_types[0]
    ufunc = _ufunc(xp, "Add", datatype)

    def run(indices: Any, updates: Any, shape: Any) -> Any:
        dims = tuple(shape.reshape(-1).tolist())
        _check_new(dims, indices, updates)
        result = zeros(xp, dims, datatype)
        if dims:
            scatter_nd(xp, result, indices, updates, ufunc, skip_bad)
        return result

    return run


def _check_new(dims: tuple[int, ...], indices: Any, updates: Any) -> None:
    _check_ranks(indices, updates)
    if not _all_or_nothing(len(dims), indices, updates):
        raise InvalidArgument("Indices and updates specified for empty output shape")
    outer, depth = indices.ndim - 1, indices.shape[-1]
    if updates.shape[:outer] != indices.shape[:-1]:
        raise InvalidArgument(f"Dimensions [0,{outer}) of indices[shape={format_shape(indices.shape)}] must match "
                              f"dimensions [0,{outer}) of updates[shape={format_shape(updates.shape)}]")
    if depth > len(dims) or updates.shape[outer:] != dims[depth:]:
        raise InvalidArgument(f"Dimensions [{depth},{len(dims)}) of input[shape={format_shape(dims)}] must match "
                              f"dimensions [{outer},{updates.ndim}) of updates[shape={format_shape(updates.shape)}]")


def _register_tensor(op: str, name: str) -> None:
    @kernel(op, shape=like_input())
    def tensor_scatter(node: Node, env: KernelEnv) -> Run:
        xp, skip_bad = env.xp, _skips_bad(node)
        ufunc = _ufunc(xp, name, node.output_types[0])

        def run(tensor: Any, indices: Any, updates: Any) -> Any:
            _check_tensor(tensor, indices, updates)
            result = xp.array(tensor, order="C", copy=True)
            scatter_nd(xp, result, indices, updates, ufunc, skip_bad)
            return result

        return run


def _check_tensor(tensor: Any, indices: Any, updates: Any) -> None:
    _check_ranks(indices, updates)
    if not _all_or_nothing(tensor.size if tensor.ndim else 0, indices, updates):
        raise InvalidArgument("Indices and updates specified for empty output shape")
    outer, depth = indices.ndim - 1, indices.shape[-1]
    if updates.shape[:outer] != indices.shape[:-1]:
        raise InvalidArgument("Outer dimensions of indices and update must match. Indices shape: "
                              f"{format_shape(indices.shape)}, updates shape:{format_shape(updates.shape)}")
    inner = updates.ndim - outer
    if inner != tensor.ndim - depth:
        raise InvalidArgument("Inner dimensions of output shape must match inner dimensions of updates shape. Output: "
                              f"{format_shape(tensor.shape)} updates: {format_shape(updates.shape)}")
    if updates.shape[outer:] != tensor.shape[depth:]:
        raise InvalidArgument(f"The inner {inner} dimensions of output.shape={format_shape(tensor.shape)} must match "
                              f"the inner {inner} dimensions of updates.shape={format_shape(updates.shape)}")


@kernel("ScatterNdNonAliasingAdd", shape=like_input())
def _scatter_nd_non_aliasing_add(node: Node, env: KernelEnv) -> Run:
    xp, skip_bad = env.xp, _skips_bad(node)
    ufunc = _ufunc(xp, "Add", node.output_types[0])

    def run(tensor: Any, indices: Any, updates: Any) -> Any:
        result = xp.array(tensor, order="C", copy=True)
        scatter_nd(xp, result, indices, updates, ufunc, skip_bad)
        return result

    return run


for _name in ("Update", *_UFUNCS):
    _register_tensor(f"TensorScatter{_name}", _name)


# Variables


def _register_variable(name: str) -> None:
    @kernel(f"ScatterNd{name}", shape=like_input())
    def scatter(node: Node, env: KernelEnv) -> Run:
        xp, skip_bad = env.xp, _skips_bad(node)
        ufunc = _ufunc(xp, name, node.input_types[0])

        def run(variable: Variable, indices: Any, updates: Any) -> Variable:
            _scatter_into(xp, variable, indices, updates, ufunc, skip_bad)
            return variable

        return run

    @kernel(f"ResourceScatterNd{name}")
    def resource_scatter(node: Node, env: KernelEnv) -> Run:
        xp, skip_bad = env.xp, _skips_bad(node)
        ufunc = _ufunc(xp, name, node.attr("T"))

        def run(resource: Any, indices: Any, updates: Any) -> None:
            _scatter_into(xp, existing(resource), indices, updates, ufunc, skip_bad)

        return run


def _scatter_into(xp: Any, variable: Variable, indices: Any, updates: Any, ufunc: Any, skip_bad: bool) -> None:
    with variable.lock:
        check_scatter_nd(variable.read().shape, indices, updates)
        scatter_nd(xp, variable.writable(), indices, updates, ufunc, skip_bad)


for _name in ("Update", *_UFUNCS):
    _register_variable(_name)
