"""Sums of rows that indices pick."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime._ext.row_sums import add_rows


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("width", [0, 1, 3, 17])
@pytest.mark.parametrize("with_factors", [False, True])
def test_rows_are_added_in_order(kind: Any, width: int, with_factors: bool) -> None:
    random = np.random.default_rng(width)
    rows = random.normal(size=(5, width)).astype(kind)
    targets, sources = random.integers(0, 4, 30), random.integers(0, 5, 30)
    factors = random.normal(size=30).astype(kind)
    out = np.ones((4, width), kind)
    add_rows(out, targets, rows, sources, factors if with_factors else None)
    expected = np.ones((4, width), kind)
    np.add.at(expected, targets, rows[sources] * (factors[:, None] if with_factors else kind(1)))
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_nothing_is_added_for_no_indices() -> None:
    out, none = np.ones((2, 3)), np.zeros(0, np.int64)
    add_rows(out, none, np.zeros((0, 3)), none)
    np.testing.assert_array_equal(out, np.ones((2, 3)))


@pytest.mark.parametrize(("target", "source"), [(2, 0), (-1, 0), (0, 3), (0, -1)])
def test_a_row_that_is_not_there_is_refused_before_anything_changes(target: int, source: int) -> None:
    out = np.zeros((2, 3))
    with pytest.raises(IndexError, match="place 1"):
        add_rows(out, np.array([0, target]), np.ones((3, 3)), np.array([0, source]))
    assert not out.any()


def test_sizes_must_fit() -> None:
    out, one = np.zeros((2, 3)), np.zeros(1, np.int64)
    with pytest.raises(ValueError, match="rows of 4"):
        add_rows(out, one, np.ones((3, 4)), one)
    with pytest.raises(ValueError, match="as many"):
        add_rows(out, one, np.ones((3, 3)), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="as many"):
        add_rows(out, one, np.ones((3, 3)), one, np.ones(2))
