"""The indices of sparse tensors: their checks, their order, and one number for each position.

A sparse tensor is three arrays: indices, int64 (n, rank); values, (n,); and the dense shape, int64 (rank,). Where a
product of dimensions does not fit into 64 bits, positions are ranked instead of numbered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from runtime._ext.errors import InvalidArgument
from runtime.ops.shapes import format_shape

__all__ = ["INT64_MAX", "check_indices_valid", "is_sorted", "keys", "row_text", "sorted_order", "strides", "unravel"]

INT64_MAX = 2**63 - 1


def strides(shape: Sequence[int]) -> list[int] | None:
    """Return how many positions a step along each axis passes; None if the number of all does not fit into 64 bits."""
    if math.prod(max(1, dim) for dim in shape) > INT64_MAX:
        return None
    steps = [1] * len(shape)
    for axis in range(len(shape) - 1, 0, -1):
        steps[axis - 1] = steps[axis] * max(1, shape[axis])
    return steps


def keys(xp: Any, shape: Sequence[int], *indices: Any) -> list[Any]:
    """Return numbers that order positions in row-major order, equal for equal positions.

    Parameters
    ----------
    shape : sequence of int
        Positions lie within; those outside get numbers that may collide.
    *indices : int64 (n, rank)
        Several tensors' positions, comparable with each other.

    Returns
    -------
    list of int64 (n,)
    """
    steps = strides(shape)
    if steps is not None:
        found = []
        for positions in indices:
            total = xp.zeros(positions.shape[0], xp.int64)
            for axis, step in enumerate(steps):
                total += positions[:, axis] * step
            found.append(total)
        return found
    joined = xp.concatenate(indices)
    order = xp.lexsort([joined[:, axis] for axis in range(joined.shape[1] - 1, -1, -1)])
    ordered = joined[order]
    ranks = xp.empty(joined.shape[0], xp.int64)
    changes = (ordered[1:] != ordered[:-1]).any(axis=1)
    ranks[order] = xp.concatenate([xp.zeros(min(1, joined.shape[0]), xp.int64), xp.cumsum(changes)])
    cuts: list[int] = []
    for positions in indices[:-1]:
        cuts.append(positions.shape[0] + (cuts[-1] if cuts else 0))
    return list(xp.split(ranks, cuts))


def is_sorted(numbers: Any) -> bool:
    """Tell whether a vector never decreases."""
    return not bool((numbers[1:] < numbers[:-1]).any())


def sorted_order(xp: Any, numbers: Any) -> Any:
    """Return the order that sorts a vector and keeps equal ones as they are; None if it is sorted already."""
    return None if is_sorted(numbers) else xp.argsort(numbers, kind="stable")


def unravel(xp: Any, numbers: Any, shape: Sequence[int]) -> Any:
    """Return the positions, int64 (n, rank), that row-major numbers stand for in a shape without an empty axis."""
    result = xp.empty((numbers.shape[0], len(shape)), xp.int64)
    for axis in range(len(shape) - 1, 0, -1):
        numbers, result[:, axis] = xp.divmod(numbers, shape[axis])
    if shape:
        result[:, 0] = numbers
    return result


def row_text(indices: Any, row: int) -> str:
    """Return a position as TensorFlow names it: ``indices[2] = [0,1]``."""
    position = ",".join(str(int(item)) for item in indices[row])
    return f"indices[{row}] = [{position}]" if position else f"indices[{row}] = ["


def check_indices_valid(xp: Any, indices: Any, shape: Sequence[int], ordered: bool = True) -> None:
    """Check that positions lie in the shape and, if they are to be `ordered`, rise without repeats.

    Raises
    ------
    InvalidArgument
        In TensorFlow's words, about the first position that is wrong.
    """
    if not indices.shape[0]:
        return
    outside = ((indices < 0) | (indices >= xp.asarray(shape, dtype=xp.int64))).any(axis=1)
    first = int(xp.argmax(outside)) if bool(outside.any()) else indices.shape[0]
    if ordered:
        numbers, = keys(xp, shape, indices[:first])
        wrong = numbers[1:] <= numbers[:-1]
        if bool(wrong.any()):
            row = int(xp.argmax(wrong)) + 1
            if int(numbers[row]) == int(numbers[row - 1]):
                raise InvalidArgument(f"{row_text(indices, row)} is repeated")
            raise InvalidArgument(f"{row_text(indices, row)} is out of order. Many sparse ops require sorted indices.\n"
                                  "    Use `tf.sparse.reorder` to create a correctly ordered copy.\n\n")
    if first < indices.shape[0]:
        raise InvalidArgument(f"{row_text(indices, first)} is out of bounds: need 0 <= index < "
                              f"{format_shape(tuple(shape))}")
