"""Reductions over segments of the first dimensions, and scattering of rows into and out of partitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.ops.pooling import lowest
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["reduce_sorted"]

Run = Callable[..., Any]

_UFUNCS = {"Sum": "add", "Mean": "add", "Prod": "multiply", "Max": "maximum", "Min": "minimum"}


def reduce_sorted(xp: Any, ufunc: Any, rows: Any, ids: Any, result: Any) -> None:
    """Reduce the rows of each segment into the row of `result` that the segment's id names.

    Parameters
    ----------
    rows : ndarray, (n, ...)
    ids : ndarray of int, (n,)
        Not decreasing, each an index of `result`.
    result : ndarray, (segments, ...)
        Rows without an id are left as they are.
    """
    if not rows.size:
        return
    starts = xp.flatnonzero(xp.concatenate([xp.ones(1, bool), ids[1:] != ids[:-1]]))
    if starts.size == ids.size:
        result[ids] = rows
    else:
        result[ids[starts]] = ufunc.reduceat(rows, starts, axis=0)


def _highest(dtype: np.dtype[Any]) -> Any:
    return dtype.type(np.iinfo(dtype).max) if dtype.kind in "iu" else -lowest(dtype)


def _accumulator(xp: Any, name: str, array: Any) -> Any:
    """Return 16-bit floats as float32 where rounding would add up."""
    small = array.dtype.itemsize == 2 and array.dtype.kind not in "iu"
    return array.astype(xp.float32) if small and name in ("Sum", "Mean", "Prod") else array


# Sorted segments


def _sorted_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [None if shapes[0] is None else (None, *shapes[0][1:])]


def _register_sorted(name: str) -> None:
    @kernel(f"Segment{name}", shape=_sorted_shape)
    def bind(node: Node, env: KernelEnv) -> Run:
        xp, ufunc = env.xp, getattr(env.xp, _UFUNCS[name])

        def run(data: Any, ids: Any) -> Any:
            segments = _check_sorted(xp, data, ids)
            rows = _accumulator(xp, name, data)
            fill = rows.dtype.type(1 if name == "Prod" else 0)
            result = xp.full((segments, *data.shape[1:]), fill, rows.dtype)
            reduce_sorted(xp, ufunc, rows, ids, result)
            if name == "Mean" and segments:
                counts = xp.maximum(xp.bincount(ids, minlength=segments), 1).reshape((-1,) + (1,) * (data.ndim - 1))
                result = _divide(xp, result, counts)
            return result.astype(data.dtype, copy=False)

        return run


def _divide(xp: Any, sums: Any, counts: Any) -> Any:
    if sums.dtype.kind not in "iu":
        return sums / counts.astype(sums.dtype)
    return xp.trunc(sums / counts)


def _check_sorted(xp: Any, data: Any, ids: Any) -> int:
    """Check the inputs of a reduction over sorted segments; return how many segments there are."""
    if not data.ndim:
        raise InvalidArgument("input must be at least rank 1")
    if ids.ndim != 1:
        raise InvalidArgument("segment_ids should be a vector.")
    if ids.size != data.shape[0]:
        raise InvalidArgument("segment_ids should be the same size as dimension 0 of input.")
    if not ids.size:
        return 0
    segments = int(ids[-1]) + 1
    if segments <= 0:
        raise InvalidArgument("segment ids must be >= 0")
    if int(ids[0]) < 0:
        raise InvalidArgument(f"Segment id {int(ids[0])} out of range [0, {segments}), possibly because 'segment_ids' "
                              "input is not sorted.")
    if (ids[1:] < ids[:-1]).any():
        raise InvalidArgument("segment ids are not increasing")
    return segments


# Segments in any order


def _unsorted_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    data, ids, _ = shapes
    if data is None or ids is None:
        return [None]
    return [(None, *data[len(ids):])]


def _register_unsorted(name: str) -> None:
    @kernel(f"UnsortedSegment{name}", shape=_unsorted_shape, host=(2,))
    def bind(node: Node, env: KernelEnv) -> Run:
        xp, ufunc = env.xp, getattr(env.xp, _UFUNCS[name])

        def run(data: Any, ids: Any, num_segments: Any) -> Any:
            segments = _check_unsorted(xp, data, ids, num_segments)
            rest = data.shape[ids.ndim:]
            rows, flat = _accumulator(xp, name, data).reshape(ids.size, *rest), ids.reshape(-1)
            if flat.size and int(flat.min()) < 0:
                kept = flat >= 0
                rows, flat = rows[kept], flat[kept]
            dtype = rows.dtype
            fill = {"Sum": dtype.type(0), "Prod": dtype.type(1)}.get(name)
            if fill is None:
                fill = lowest(dtype) if name == "Max" else _highest(dtype)
            result = xp.full((segments, *rest), fill, dtype)
            if flat.size and (flat[1:] < flat[:-1]).any():
                order = xp.argsort(flat, kind="stable")
                rows, flat = rows[order], flat[order]
            reduce_sorted(xp, ufunc, rows, flat, result)
            return result.astype(data.dtype, copy=False)

        return run


def _check_unsorted(xp: Any, data: Any, ids: Any, num_segments: Any) -> int:
    if num_segments.ndim:
        raise InvalidArgument(f"num_segments should be a scalar, not shape {format_shape(num_segments.shape)}")
    if data.shape[:ids.ndim] != ids.shape:
        raise InvalidArgument(f"data.shape = {format_shape(data.shape)} does not start with segment_ids.shape = "
                              f"{format_shape(ids.shape)}")
    segments = int(num_segments)
    if segments < 0:
        raise InvalidArgument(f"Input num_segments == {segments} must not be negative.")
    if ids.size and int(ids.max()) >= segments:
        place = np.unravel_index(int(xp.argmax(ids >= segments)), ids.shape)
        where = ",".join(map(str, place))
        raise InvalidArgument(f"segment_ids{f'[{where}]' if place else ''} = {int(ids[place])} is out of range "
                              f"[0, {segments})")
    return segments


for _name in _UFUNCS:
    _register_sorted(_name)
    if _name != "Mean":
        _register_unsorted(_name)


# Partitions


def _stitch_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    count = len(shapes) // 2
    for indices, data in zip(shapes[:count], shapes[count:], strict=True):
        if indices is not None and data is not None:
            return [(None, *data[len(indices):])]
    return [None]


@kernel("DynamicStitch", "ParallelDynamicStitch", shape=_stitch_shape)
def dynamic_stitch(node: Node, env: KernelEnv) -> Run:
    xp, count = env.xp, node.attr("N")

    def run(*inputs: Any) -> Any:
        indices, data = inputs[:count], inputs[count:]
        rest = _check_stitch(indices, data)
        length = 1 + max((int(index.max()) for index in indices if index.size), default=-1)
        dtype = data[0].dtype
        merged = xp.full((length, *rest), b"", object) if dtype.kind == "O" else xp.zeros((length, *rest), dtype)
        for index, values in zip(indices, data, strict=True):
            merged[index.reshape(-1)] = values.reshape(index.size, *rest)
        return merged

    return run


def _check_stitch(indices: Sequence[Any], data: Sequence[Any]) -> tuple[int, ...]:
    """Check the inputs of a stitch and return the shape of its rows."""
    for number, (index, values) in enumerate(zip(indices, data, strict=True)):
        if values.shape[:index.ndim] != index.shape:
            raise InvalidArgument(f"data[{number}].shape = {format_shape(values.shape)} does not start with "
                                  f"indices[{number}].shape = {format_shape(index.shape)}")
        if values.shape[index.ndim:] != data[0].shape[indices[0].ndim:]:
            raise InvalidArgument(f"Need data[0].shape[{indices[0].ndim}:] = data[{number}].shape[{index.ndim}:], got "
                                  f"data[0].shape = {format_shape(data[0].shape)}, data[{number}].shape = "
                                  f"{format_shape(values.shape)}, indices[0].shape = {format_shape(indices[0].shape)}, "
                                  f"indices[{number}].shape = {format_shape(index.shape)}")
        if index.size and int(index.min()) < 0:
            raise InvalidArgument(f"indices[{int((index.reshape(-1) < 0).argmax())}] is out of range")
    return tuple(data[0].shape[indices[0].ndim:])


def _partition_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    data, partitions = shapes
    row = None if data is None or partitions is None else (None, *data[len(partitions):])
    return [row] * len(node.output_types)


@kernel("DynamicPartition", shape=_partition_shape)
def dynamic_partition(node: Node, env: KernelEnv) -> Run:
    xp, count = env.xp, node.attr("num_partitions")

    def run(data: Any, partitions: Any) -> list[Any]:
        if data.shape[:partitions.ndim] != partitions.shape:
            raise InvalidArgument("data.shape must start with partitions.shape, got data.shape = "
                                  f"{format_shape(data.shape)}, partitions.shape = {format_shape(partitions.shape)}")
        flat = partitions.reshape(-1)
        bad = (flat < 0) | (flat >= count)
        if bad.any():
            place = np.unravel_index(int(xp.argmax(bad)), partitions.shape)
            where = f"[{','.join(map(str, place))}]" if place else ""
            raise InvalidArgument(f"partitions{where} = {int(partitions[place])} is not in [0, {count})")
        rest = data.shape[partitions.ndim:]
        rows = data.reshape(flat.size, *rest) if flat.size else xp.empty((0, *rest), data.dtype)
        return [rows[xp.flatnonzero(flat == number)] for number in range(count)]

    return run
