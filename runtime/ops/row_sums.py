"""Sums of rows that indices pick: embeddings, their gradients, and products with sparse matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from runtime._ext.row_sums import add_rows
from runtime.ops.segments import reduce_sorted
from runtime.ops.sparse_indices import sorted_order

__all__ = ["sum_rows", "wide_type"]

_CHUNK = 1 << 20
"""Elements that are made at once where a copy of rows is needed."""


def wide_type(xp: Any, dtype: Any) -> Any:
    """Return the type to add up in: float32 for 16-bit floats, whose rounding would add up."""
    return np.dtype(np.float32) if dtype.itemsize == 2 and dtype.kind not in "iu" else dtype


def sum_rows(xp: Any, height: int, targets: Any, rows: Any, sources: Any, factors: Any = None) -> Any:
    """Return for each target the sum of the rows that go there.

    Parameters
    ----------
    height : int
        Rows of the result.
    targets, sources : ndarray of int, (n,)
        Row `sources[i]` is added to row `targets[i]`; both must be in range.
    rows : ndarray, (k, ...)
    factors : ndarray of the rows' type, (n,), optional
        What each row is multiplied by.

    Returns
    -------
    ndarray, (height, ...)
        Of `wide_type`.
    """
    wide = wide_type(xp, rows.dtype)
    rest = rows.shape[1:]
    width = math.prod(rest)
    result = xp.zeros((height, width), wide)
    if not targets.size or not width:
        return result.reshape(height, *rest)
    flat = rows.reshape(rows.shape[0], width)
    if xp is np and rows.dtype in (np.float32, np.float64):
        add_rows(result, _native(targets, np.int64), _native(flat, rows.dtype), _native(sources, np.int64),
                 None if factors is None else _native(factors, rows.dtype))
    else:
        _add_sorted(xp, result, targets, flat, sources, factors)
    return result.reshape(height, *rest)


def _native(array: Any, dtype: Any) -> Any:
    """Return an array in C order and aligned, as compiled loops take it."""
    return np.require(array, dtype, ("C", "A"))


def _add_sorted(xp: Any, result: Any, targets: Any, rows: Any, sources: Any, factors: Any) -> None:
    """Do the same for any type: rows of one target side by side, in pieces of bounded size."""
    order = sorted_order(xp, targets)
    if order is not None:
        targets, sources = targets[order], sources[order]
        factors = None if factors is None else factors[order]
    step = max(1, _CHUNK // rows.shape[1])
    for start in range(0, targets.size, step):
        part = slice(start, start + step)
        terms = rows[sources[part]].astype(result.dtype, copy=False)
        if factors is not None:
            terms = terms * factors[part, None].astype(result.dtype, copy=False)
        ids = targets[part]
        first = int(ids[0])
        before = result[first].copy()  # a target may go on from the piece before
        reduce_sorted(xp, xp.add, terms, ids, result)
        result[first] += before
