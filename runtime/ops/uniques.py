"""Distinct values, in the order in which they first occur."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import to_numpy
from runtime.ops.registry import kernel

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["distinct"]

Run = Callable[..., Any]


def distinct(xp: Any, values: Any) -> tuple[Any, Any, Any]:
    """Return where each distinct value of a vector first occurs, which of them every value is, and how often each is.

    Values are told apart by ``==``, so that every NaN is a value of its own.
    """
    if values.dtype.kind == "O":
        return _distinct_objects(values)
    if not values.size:
        nothing = xp.zeros(0, xp.int64)
        return nothing, nothing, nothing
    _, first, which, counts = xp.unique(values, return_index=True, return_inverse=True, return_counts=True,
                                        equal_nan=False)
    return _by_first(xp, first, which.reshape(-1), counts)


def _distinct_objects(values: Any) -> tuple[Any, Any, Any]:
    places: dict[Any, int] = {}
    first: list[int] = []
    which = np.empty(values.shape, np.int64)
    for position, value in enumerate(values.tolist()):
        place = places.setdefault(value, len(places))
        if place == len(first):
            first.append(position)
        which[position] = place
    return np.array(first, np.int64), which, np.bincount(which, minlength=len(first)).astype(np.int64)


def _by_first(xp: Any, first: Any, which: Any, counts: Any) -> tuple[Any, Any, Any]:
    """Renumber what is sorted by value in the order of first occurrence."""
    order = xp.argsort(first, kind="stable")
    rank = xp.empty_like(order)
    rank[order] = xp.arange(order.size)
    return first[order], rank[which], counts[order]


def _distinct_slices(xp: Any, rows: Any) -> tuple[Any, Any, Any]:
    """Return the same for the rows of a matrix."""
    if not rows.shape[1] and rows.shape[0]:
        return np.zeros(1, np.int64), np.zeros(rows.shape[0], np.int64), np.array([rows.shape[0]], np.int64)
    if rows.dtype.kind == "O":
        keys = np.empty(rows.shape[0], object)
        keys[:] = [tuple(row) for row in rows.tolist()]
        return _distinct_objects(keys)
    if not rows.size:
        nothing = xp.zeros(0, xp.int64)
        return nothing, nothing, nothing
    # Column by column: the number of a row among the prefixes seen so far, then among the prefixes with one more cell.
    first, which, counts = distinct(xp, rows[:, 0])
    for column in range(1, rows.shape[1]):
        _, cell, _ = distinct(xp, rows[:, column])
        first, which, counts = distinct(xp, which * (int(cell.max()) + 1) + cell)
    return first, which, counts


def _unique_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    if node.op in ("Unique", "UniqueWithCounts"):
        return [(None,), shapes[0], (None,)][:len(node.output_types)]
    return [None, (None,), (None,)][:len(node.output_types)]


@kernel("Unique", "UniqueWithCounts", "UniqueV2", "UniqueWithCountsV2", shape=_unique_shape, host=(1,))
def unique(node: Node, env: KernelEnv) -> Run:
    xp, index = env.xp, to_numpy(node.attr("out_idx"))
    with_counts = "WithCounts" in node.op

    def run(x: Any, axes: Any = None) -> tuple[Any, ...]:
        axis = None if axes is None else _axis(x, axes)
        if axis is None:
            if x.ndim != 1:
                raise InvalidArgument("unique expects a 1D vector.")
            first, which, counts = distinct(xp, x)
            found = x[first]
        else:
            moved = xp.moveaxis(x, axis, 0)
            rows = moved.reshape(moved.shape[0], int(np.prod(moved.shape[1:])))
            first, which, counts = _distinct_slices(xp, rows)
            found = xp.take(x, first, axis=axis)
        outputs = (found, which.astype(index, copy=False), counts.astype(index, copy=False))
        return outputs if with_counts else outputs[:2]

    return run


def _axis(x: Any, axes: Any) -> int | None:
    """Return the axis that the input of the second versions names; None for none."""
    if axes.ndim != 1:
        raise InvalidArgument("axis expects a 1D vector.")
    if axes.size > 1:
        raise InvalidArgument("axis does not support input tensors larger than 1 elements")
    if not axes.size:
        return None
    axis = int(axes[0])
    if not -x.ndim <= axis < x.ndim:
        raise InvalidArgument(f"axis has to be between [0, {x.ndim})")
    axis %= x.ndim
    return None if x.ndim == 1 else axis


@kernel("ListDiff", shape=lambda node, shapes: [(None,), (None,)])
def list_diff(node: Node, env: KernelEnv) -> Run:
    xp, index = env.xp, to_numpy(node.attr("out_idx"))

    def run(x: Any, y: Any) -> tuple[Any, Any]:
        for name, array in (("x", x), ("y", y)):
            if array.ndim != 1:
                raise InvalidArgument(f"{name} should be a 1D vector.")
        if x.dtype.kind == "O":
            known = set(y.tolist())
            keep = np.array([item not in known for item in x.tolist()], bool)
        elif not x.size or not y.size:
            keep = xp.ones(x.shape, bool)
        else:
            ordered = xp.sort(y)
            place = xp.minimum(xp.searchsorted(ordered, x), y.size - 1)
            keep = ordered[place] != x
        kept = xp.flatnonzero(keep)
        return x[kept], kept.astype(index)

    return run
