"""LU factors beside the matrices that they are of."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from runtime._ext import lu_factors
from runtime._ext.kernels import simd
from tests.peers import ROOT


def check(matrices: np.ndarray[Any, Any]) -> None:
    """Check that the factors make up the rows, and that every pivot is the largest of what is left of its column."""
    before = matrices.copy()
    factors, order = lu_factors.factor(matrices)
    assert np.array_equal(matrices, before)
    size = matrices.shape[-1]
    lower = np.tril(factors, -1).astype(np.float64) + np.eye(size)
    rows = np.take_along_axis(matrices, order[:, :, None], 1).astype(np.float64)
    assert np.array_equal(np.sort(order, 1), np.broadcast_to(np.arange(size), order.shape))
    assert not lower.size or np.abs(lower).max() <= 1
    bound = 4 * size * np.finfo(matrices.dtype).eps * np.abs(matrices).max(initial=0)
    assert np.allclose(lower @ np.triu(factors).astype(np.float64), rows, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("size", (1, 2, 5, 16, 17, 33, 64, 100, 257))
def test_factors_make_up_the_matrix(dtype: Any, size: int) -> None:
    rng = np.random.default_rng(size)
    for count in (1, 3):
        check(rng.standard_normal((count, size, size)).astype(dtype))
    check(np.array([np.eye(size)[::-1]], dtype))


def test_without_vector_products() -> None:
    """The plain loops, where the processor lacks what the products need."""
    code = "from tests.ext.test_lu_factors import *; test_factors_make_up_the_matrix(np.float32, 100)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, simd.VARIABLE: "baseline"},
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_nothing_to_factor() -> None:
    for shape in ((0, 3, 3), (2, 0, 0)):
        factors, order = lu_factors.factor(np.zeros(shape, np.float32))
        assert factors.shape == shape
        assert order.shape == shape[:2]


def test_a_zero_pivot_shows() -> None:
    factors, _ = lu_factors.factor(np.zeros((1, 3, 3)))
    assert not (np.abs(np.diagonal(factors[0])) > 0).all()


def test_other_layouts() -> None:
    check(np.random.default_rng(0).standard_normal((40, 40, 2)).astype(np.float32).T)


def test_wrong_calls() -> None:
    with pytest.raises(ValueError, match="square matrices are needed, not the shape"):
        lu_factors.factor(np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="square"):
        lu_factors.factor(np.zeros((2, 2)))
    with pytest.raises(TypeError, match="not complex64"):
        lu_factors.factor(np.zeros((1, 2, 2), np.complex64))
