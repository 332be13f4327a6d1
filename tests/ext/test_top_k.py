"""The largest entries of rows beside a stable sort."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime._ext import top_k

TYPES = (np.float32, np.float64, np.int32, np.int64, np.uint64)
SIZES = [(5, 7, 3), (3, 1000, 10), (2, 64, 64), (1, 5000, 1), (4, 100, 0), (0, 5, 2), (3, 33, 32), (2, 1, 1), (3, 0, 0)]


def expected(rows: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    """Return where the largest are: sorted backwards and turned round, so that the first of equals comes first."""
    backwards = rows.shape[1] - 1 - np.argsort(rows[:, ::-1], -1, kind="stable")
    return backwards[:, ::-1][:, :k]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count, columns, k", SIZES)
def test_largest_first_and_first_of_equals(dtype: Any, count: int, columns: int, k: int) -> None:
    rows = np.random.default_rng(columns).integers(0, 50, (count, columns)).astype(dtype)
    values, indices = top_k.largest(rows, k)
    assert values.dtype == dtype
    assert indices.dtype == np.int64
    assert np.array_equal(indices, expected(rows, k))
    assert np.array_equal(values, np.take_along_axis(rows, indices, 1))


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_nan_and_infinity(dtype: Any) -> None:
    rows = np.random.default_rng(1).standard_normal((4, 200)).astype(dtype)
    rows[0, ::9] = np.nan
    rows[1, 3], rows[1, 150] = -np.inf, np.inf
    rows[2] = np.nan
    rows[3, 180] = np.nan
    for k in (1, 5, 30, 200):
        values, indices = top_k.largest(rows, k)
        assert np.array_equal(indices, expected(rows, k))
        assert np.array_equal(values, np.take_along_axis(rows, indices, 1), equal_nan=True)


def test_rising_and_falling_rows() -> None:
    rising = np.arange(3000, dtype=np.float32)
    for row in (rising, rising[::-1], np.zeros(3000, np.float32)):
        _, indices = top_k.largest(row[None], 40)
        assert np.array_equal(indices, expected(row[None], 40))


def test_other_layouts() -> None:
    rows = np.random.default_rng(2).standard_normal((6, 50)).astype(np.float32)
    for other in (rows.T, rows[::2, ::-3]):
        _, indices = top_k.largest(other, 4)
        assert np.array_equal(indices, expected(np.ascontiguousarray(other), 4))


def test_wrong_calls() -> None:
    with pytest.raises(ValueError, match="k is 6: it must be between 0 and the 5 columns"):
        top_k.largest(np.zeros((2, 5), np.float32), 6)
    with pytest.raises(ValueError, match="k is -1"):
        top_k.largest(np.zeros((2, 5), np.float32), -1)
    with pytest.raises(ValueError, match="two dimensions, not 1"):
        top_k.largest(np.zeros(5, np.float32), 1)
    with pytest.raises(TypeError, match="not int16"):
        top_k.largest(np.zeros((2, 5), np.int16), 1)
