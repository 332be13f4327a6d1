"""Crosses of features: every combination of one value from each column, as text or as a hash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runtime._ext.errors import InvalidArgument, ResourceExhausted
from runtime._ext.fingerprint import fingerprints
from runtime.dtypes import DataType
from runtime.ops.objects import filled
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]
Words = npt.NDArray[np.uint64]

_MULTIPLIER = np.uint64(0xC6A4A7935BD1E995)
_SHIFT = np.uint64(47)
_SEPARATOR = b"_X_"
_INT64_MAX = 2**63 - 1
_MOST_CROSSES = 1 << 31


class _Column:
    """The values of one feature: `counts` of them in each row, from `starts` on."""

    def __init__(self, counts: npt.NDArray[np.int64], values: Any) -> None:
        self.counts = counts
        self.starts = np.cumsum(counts) - counts
        self.values = values


def _shift_mix(words: Words) -> Words:
    return words ^ words >> _SHIFT


def _joined_hash(left: Words, right: Words) -> Words:
    """Return a hash of two hashes, as it has been since features were first crossed this way."""
    mixed = (left ^ _MULTIPLIER) ^ _shift_mix(right * _MULTIPLIER) * _MULTIPLIER
    return _shift_mix(_shift_mix(mixed * _MULTIPLIER) * _MULTIPLIER)


@kernel("SparseCross", shape=lambda node, shapes: [(None, 2), (None,), (2,)])
def _sparse_cross(node: Node, env: KernelEnv) -> Run:
    xp, count, hashed = env.xp, node.attr("N"), node.attr("hashed_output")
    buckets, key = node.attr("num_buckets"), node.attr("hash_key")
    num_dense = len(node.attr("dense_types"))
    if buckets < 0:
        raise InvalidArgument(f"num_buckets must not be negative, got {buckets}")
    as_text = not hashed or node.attr("internal_type") == DataType.STRING

    def run(*inputs: Any) -> tuple[Any, Any, Any]:
        indices, values = inputs[:count], inputs[count:2 * count]
        shapes, dense = inputs[2 * count:3 * count], inputs[3 * count:3 * count + num_dense]
        height = _height(indices, values, shapes, dense)
        if as_text:
            _check_text(values, dense)
        columns = [_Column(np.bincount(rows[:, 0], minlength=height), _features(cells, hashed))
                   for rows, cells in zip(indices, values, strict=True)]
        columns += [_Column(np.full(height, matrix.shape[1]), _features(matrix.reshape(-1), hashed))
                    for matrix in dense]
        rows, found = _crossed(columns, height, hashed, key)
        if hashed:
            found = (found % np.uint64(buckets or _INT64_MAX)).astype(np.int64)
        counts = np.bincount(rows, minlength=height)
        starts = np.cumsum(counts) - counts
        places = np.stack([rows, np.arange(rows.size) - starts[rows]], axis=1)
        width = int(counts.max(initial=0))
        return xp.asarray(places), xp.asarray(found), xp.asarray([height, width])

    return run


def _crossed(columns: Sequence[_Column], height: int, hashed: bool, key: int) -> tuple[Any, Any]:
    """Return the row of every combination, and the combination; the last column changes fastest."""
    total = float(np.prod([column.counts.astype(float) for column in columns], axis=0).sum())
    if total > _MOST_CROSSES:
        raise ResourceExhausted(f"the columns have {total:.3g} combinations; at most {_MOST_CROSSES} can be made")
    rows = np.arange(height)
    found: Any = np.full(height, key % 2**64, np.uint64) if hashed else filled((height,), [b""] * height)
    for number, column in enumerate(columns):
        repeats = column.counts[rows]
        wide = np.repeat(np.arange(rows.size), repeats)
        inside = np.arange(wide.size) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        cells = column.values[column.starts[rows[wide]] + inside]
        if hashed:
            found = _joined_hash(found[wide], cells)
        elif number:
            found = filled((wide.size,), (left + _SEPARATOR + right for left, right in zip(found[wide], cells)))
        else:
            found = cells
        rows = rows[wide]
    return rows, found


def _features(values: Any, hashed: bool) -> Any:
    """Return what of a column's values is crossed: hashes, or texts."""
    if not hashed:
        return values
    return fingerprints(values) if values.dtype.kind == "O" else values.astype(np.uint64)


def _check_text(values: Sequence[Any], dense: Sequence[Any]) -> None:
    for name, arrays in (("Input values", values), ("Dense inputs", dense)):
        for array in arrays:
            if array.dtype.kind != "O":
                raise InvalidArgument(f"{name} should be of internal type {int(DataType.STRING)} but received "
                                      f"{int(DataType.INT64)}")


def _height(indices: Sequence[Any], values: Sequence[Any], shapes: Sequence[Any], dense: Sequence[Any]) -> int:
    """Check the columns and return how many rows all of them have."""
    for number, (rows, cells, shape) in enumerate(zip(indices, values, shapes, strict=True)):
        if rows.ndim != 2 or rows.shape[1] != 2:
            raise InvalidArgument("Input indices should be a matrix with 2 columns but received shape "
                                  f"{format_shape(rows.shape)} at position {number}")
        if cells.ndim != 1:
            raise InvalidArgument("Input values should be a std::vector but received shape "
                                  f"{format_shape(cells.shape)} at position {number}")
        if cells.shape[0] != rows.shape[0]:
            raise InvalidArgument(f"Expected size of values to be {rows.shape[0]} got {cells.shape[0]} at position "
                                  f"{number}")
        if shape.shape != (2,):
            raise InvalidArgument("shape should imply a 2D tensor, but got shape "
                                  f"{format_shape(shape.shape)} at position {number}")
    heights = [int(shape[0]) for shape in shapes]
    for number, matrix in enumerate(dense):
        if matrix.ndim != 2:
            raise InvalidArgument(f"Dense inputs should be a matrix but received shape {format_shape(matrix.shape)} at "
                                  f"position {number}")
        heights.append(matrix.shape[0])
    height = heights[0] if heights else 0
    for number, other in enumerate(heights):
        if other != height:
            raise InvalidArgument(f"Expected batch size {height} got {other} at position {number}")
    for number, rows in enumerate(indices):
        first = rows[:, 0]
        if first.size and (int(first.min()) < 0 or int(first.max()) >= height or (first[1:] < first[:-1]).any()):
            raise InvalidArgument(f"the rows of the indices at position {number} must rise from 0 to below {height}")
    return height
