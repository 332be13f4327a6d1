"""Ragged tensors: values in a row, and for each dimension the splits at which its rows begin."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import to_numpy
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, unknown

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]


def _places_within(lengths: Any) -> Any:
    """Return for every value its place in its row."""
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _check_splits(splits: Any, name: str) -> None:
    if splits.ndim != 1:
        raise InvalidArgument(f"{name} must be a vector, got shape {format_shape(splits.shape)}")
    if not splits.size:
        raise InvalidArgument(f"{name} must not be empty")
    if int(splits[0]) != 0:
        raise InvalidArgument("First value of ragged splits must be 0.")
    if (splits[1:] < splits[:-1]).any():
        raise InvalidArgument("Ragged splits must be sorted in ascending order.")


# To sparse


@kernel("RaggedTensorToSparse", shape=lambda node, shapes: [(None, None), (None,), (None,)])
def _ragged_to_sparse(node: Node, env: KernelEnv) -> Run:
    xp, depth = env.xp, node.attr("RAGGED_RANK")

    def run(*inputs: Any) -> tuple[Any, Any, Any]:
        splits, values = [np.asarray(item).astype(np.int64) for item in inputs[:depth]], inputs[depth]
        for number, item in enumerate(splits):
            _check_splits(item, f"splits {number}")
        if not values.ndim:
            raise InvalidArgument("the values of a ragged tensor must not be a scalar")
        sizes = [*(item.size - 1 for item in splits[1:]), values.shape[0]]
        for item, size in zip(splits, sizes, strict=True):
            if int(item[-1]) != size:
                raise InvalidArgument("Final value of ragged splits must match the length the corresponding ragged "
                                      "array.")
        count = values.shape[0]
        inner = math.prod(values.shape[1:])
        columns = [np.arange(count)]
        for level in range(depth - 1, -1, -1):  # from the innermost rows outwards
            lengths = np.diff(splits[level])
            parents = np.repeat(np.arange(lengths.size), lengths)
            above = columns[0]
            columns[0] = (np.arange(parents.size) - splits[level][parents])[above]
            columns.insert(0, parents[above])
        columns = [np.repeat(column, inner) for column in columns]
        columns += [np.tile(column, count) for column in
                    (np.unravel_index(np.arange(inner), values.shape[1:]) if values.ndim > 1 else ())]
        shape = [splits[0].size - 1, *(int(np.diff(item).max(initial=0)) for item in splits), *values.shape[1:]]
        indices = np.stack(columns, axis=1).astype(np.int64, copy=False)
        return xp.asarray(indices), values.reshape(-1), xp.asarray(shape, dtype=xp.int64)

    return run


# Ranges


@kernel("RaggedRange", shape=lambda node, shapes: [(None,), (None,)], host=(0, 1, 2))
def _ragged_range(node: Node, env: KernelEnv) -> Run:
    xp, split_type = env.xp, to_numpy(node.attr("Tsplits"))

    def run(starts: Any, limits: Any, deltas: Any) -> tuple[Any, Any]:
        parts = (starts, limits, deltas)
        for name, part in zip(("starts", "limits", "deltas"), parts, strict=True):
            if part.ndim > 1:
                raise InvalidArgument(f"{name} must be a scalar or vector")
        lengths = {part.size for part in parts if part.ndim}
        if len(lengths) > 1:
            raise InvalidArgument("starts, limits, and deltas must have the same shape")
        count = lengths.pop() if lengths else 1
        begin, end, step = (np.broadcast_to(part.reshape(-1) if part.ndim else part, (count,)) for part in parts)
        if (step == 0).any():
            raise InvalidArgument("Requires delta != 0")
        sizes = _range_sizes(begin, end, step)
        total = int(sizes.sum(dtype=np.float64))
        if total > np.iinfo(split_type).max:
            raise InvalidArgument("Requires ((limit - start) / delta) <= 2147483647" if split_type == np.int32
                                  else f"the ranges have {total} elements in all")
        sizes = sizes.astype(np.int64)
        splits = np.zeros(count + 1, split_type)
        np.cumsum(sizes, out=splits[1:])
        rows = np.repeat(np.arange(count), sizes)
        values = begin[rows] + (_places_within(sizes).astype(step.dtype) * step[rows]).astype(begin.dtype)
        return xp.asarray(splits), xp.asarray(values.astype(begin.dtype, copy=False))

    return run


def _range_sizes(begin: Any, end: Any, step: Any) -> Any:
    """Return how many numbers lie in each range, as float64 or int64 numbers."""
    if begin.dtype.kind in "iu":
        spans = [(int(last) - int(first), int(width)) for first, last, width in zip(begin, end, step, strict=True)]
        return np.array([max(0, -(-span // width)) if (span > 0) == (width > 0) else 0 for span, width in spans],
                        np.float64 if any(abs(span) > 2**62 for span, _ in spans) else np.int64)
    wide = (end.astype(np.float64) - begin.astype(np.float64)) / step.astype(np.float64)
    return np.maximum(np.ceil(np.abs(wide)) * (wide > 0), 0)


# Gathering


@kernel("RaggedGather", shape=unknown)
def _ragged_gather(node: Node, env: KernelEnv) -> Run:
    xp, depth = env.xp, node.attr("PARAMS_RAGGED_RANK")
    split_type = to_numpy(node.attr("Tsplits"))

    def run(*inputs: Any) -> Any:
        splits, values, indices = inputs[:depth], inputs[depth], np.asarray(inputs[depth + 1])
        if not splits:
            raise InvalidArgument("the params of RaggedGather must have a ragged dimension")
        for number, item in enumerate(splits):
            if item.ndim != 1 or not item.size:
                raise InvalidArgument(f"Split tensor at index {number} must be a vector with at least one element")
        if not values.ndim:
            raise InvalidArgument("params.rank must be nonzero")
        rows = splits[0].shape[0] - 1
        bad = (indices < 0) | (indices >= rows)
        if bad.any():
            place = np.unravel_index(int(bad.argmax()), indices.shape)
            where = f"[{','.join(map(str, place))}]" if place else ""
            raise InvalidArgument(f"indices{where} = {int(indices[place])} is not in [0, {rows})")
        made = []
        for axis in range(indices.ndim - 1):  # dimensions of the indices are uniform rows of the result
            count = math.prod(indices.shape[:axis + 1])
            made.append(xp.asarray(np.arange(count + 1, dtype=np.int64) * indices.shape[axis + 1]).astype(split_type))
        picked = indices.reshape(-1).astype(np.int64)
        for number, item in enumerate(splits):
            host = np.asarray(item).astype(np.int64)
            limit = int(splits[number + 1].shape[0]) - 1 if number + 1 < depth else int(values.shape[0])
            if int(host[0]) < 0 or int(host[-1]) > limit:
                raise InvalidArgument("Ragged splits must not point past values" if int(host[-1]) > limit
                                      else "Ragged splits must be non-negative")
            if (host[1:] < host[:-1]).any():
                raise InvalidArgument("Ragged splits must be sorted in ascending order.")
            lengths = host[picked + 1] - host[picked]
            bounds = np.zeros(picked.size + 1, np.int64)
            np.cumsum(lengths, out=bounds[1:])
            made.append(xp.asarray(bounds.astype(split_type)))
            picked = np.repeat(host[picked], lengths) + _places_within(lengths)
        found = values[xp.asarray(picked)]
        if indices.ndim:
            return [*made, found]
        return [*made[1:], found] if depth > 1 else found  # one row alone has one dimension less

    return run


# To dense


@kernel("RaggedTensorToTensor", shape=unknown, host=tuple(range(3, 64)))
def _ragged_to_dense(node: Node, env: KernelEnv) -> Run:
    xp = env.xp
    kinds = [item.decode() for item in node.attr("row_partition_types")]
    for kind in kinds:
        if kind not in ("FIRST_DIM_SIZE", "VALUE_ROWIDS", "ROW_SPLITS"):
            raise InvalidArgument(f"Unknown string for partition info type: {kind}")
    if not kinds:
        raise InvalidArgument("No row_partition_types given.")

    def run(shape: Any, values: Any, default: Any, *partitions: Any) -> Any:
        if not values.ndim:
            raise InvalidArgument(f"values must not be a scalar, got shape {format_shape(values.shape)}")
        if default.ndim >= values.ndim or any(
                have not in (1, want) for have, want in zip(default.shape[::-1], values.shape[:0:-1])):
            raise InvalidArgument(f"default_value.shape={format_shape(default.shape)} and rt_input.flat_values.shape="
                                  f"{format_shape(values.shape)} are incompatible: the default must broadcast to one "
                                  "of the values")
        rows, levels = _levels(kinds, partitions, values.shape[0])
        dims = _dense_dims(shape, rows, levels, values.shape[1:])
        depth = len(levels)
        # Where each row, and at last each value, goes; what lies beyond the shape goes nowhere.
        places = np.arange(rows)
        inside = places < dims[0]
        for (parents, within), size in zip(levels, dims[1:depth + 1]):
            inside = inside[parents] & (within < size)
            places = places[parents] * size + within
        result = xp.empty(dims, values.dtype)
        result[...] = default
        if places.size and result.size:
            kept = np.flatnonzero(inside)
            rest = result.shape[depth + 1:]
            own = tuple(slice(0, min(have, size)) for have, size in zip(values.shape[1:], rest))
            flat = result.reshape(math.prod(dims[:depth + 1]), *rest)
            flat[(places[kept], *own)] = values[(kept, *own)]
        return result

    return run


def _levels(kinds: Sequence[str], partitions: Sequence[Any], count: int) -> tuple[int, list[tuple[Any, Any]]]:
    """Return the number of rows, and for each ragged dimension the parent and the place of each element."""
    if kinds[0] == "FIRST_DIM_SIZE":
        if partitions[0].ndim:
            raise InvalidArgument("Expected FIRST_DIM_SIZE to be a scalar")
        rows, given = int(partitions[0]), list(zip(kinds[1:], partitions[1:]))
    elif kinds[0] == "ROW_SPLITS":
        if not partitions[0].size:
            raise InvalidArgument("Row splits must not be empty")
        rows, given = partitions[0].size - 1, list(zip(kinds, partitions))
    else:
        raise InvalidArgument("Cannot handle VALUE_ROWIDS in first dimension.")
    levels = []
    parents_count = rows
    for number, (kind, partition) in enumerate(given):
        if kind == "FIRST_DIM_SIZE":
            raise InvalidArgument(f"Cannot handle FIRST_DIM_SIZE in dimension {number + 1}")
        if partition.ndim != 1:
            raise InvalidArgument(f"the row partition of dimension {number + 1} must be a vector")
        host = partition.astype(np.int64)
        if kind == "ROW_SPLITS":
            _check_splits(host, "row splits")
            if host.size - 1 != parents_count:
                raise InvalidArgument(f"Invalid row split size: {host.size}, there are {parents_count} rows")
            lengths = np.diff(host)
        else:
            if host.size and (int(host[0]) < 0 or int(host.max()) >= parents_count):
                raise InvalidArgument(f"value row ids must be in [0, {parents_count})")
            if (host[1:] < host[:-1]).any():
                raise InvalidArgument("value row ids must be sorted")
            lengths = np.bincount(host, minlength=parents_count)
        parents = np.repeat(np.arange(lengths.size), lengths)
        levels.append((parents, _places_within(lengths)))
        parents_count = parents.size
    if parents_count != count:
        raise InvalidArgument(f"the row partitions are of {parents_count} values, there are {count}")
    return rows, levels


def _dense_dims(shape: Any, rows: int, levels: Sequence[tuple[Any, Any]], inner: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the result: what is asked for, and what is there where nothing is."""
    found = [rows, *(int(within.max(initial=-1)) + 1 for _, within in levels), *inner]
    if not shape.ndim:
        if int(shape) != -1:
            raise InvalidArgument("The only valid scalar shape tensor is the fully unknown shape specified as -1.")
        return tuple(found)
    wanted = shape.tolist()
    if len(wanted) != len(found):
        raise InvalidArgument(f"the shape {format_shape(tuple(wanted))} has {len(wanted)} dimensions, the ragged "
                              f"tensor {len(found)}")
    for dim in wanted:
        if dim < -1:
            raise InvalidArgument(f"Dimension {dim} must be >= -1")
    for want, have in zip(wanted[len(found) - len(inner):], inner):
        if want not in (-1, have):
            raise InvalidArgument(f"the shape {format_shape(tuple(wanted))} does not fit values whose elements have "
                                  f"shape {format_shape(inner)}")
    return tuple(have if want == -1 else want for want, have in zip(wanted, found))
