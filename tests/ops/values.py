"""Generated inputs, the same at every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.dtypes import DataType

TYPES = (DataType.FLOAT, DataType.DOUBLE, DataType.INT32, DataType.UINT8, DataType.INT16, DataType.INT8,
         DataType.STRING, DataType.COMPLEX64, DataType.INT64, DataType.BOOL, DataType.BFLOAT16, DataType.UINT16,
         DataType.COMPLEX128, DataType.HALF, DataType.UINT32, DataType.UINT64)
"""Types of tensors that a case can feed and fetch."""

SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (5,), (0,), (2, 3), (2, 0, 3), (17, 33))
"""A scalar, vectors, an empty tensor, matrices, and one larger than a vector register takes at once."""

PAIRS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((), ()), ((5,), (5,)), ((3, 1, 4), (2, 1)), ((), (2, 3)), ((2, 3), ()), ((0, 3), (3,)), ((1,), (0,)),
    ((17, 33), (17, 33)),
)
"""Shapes of two inputs that broadcast."""


def values(kind: Any, shape: Sequence[int], seed: int = 0, low: float = -4.0, high: float = 4.0) -> np.ndarray:
    """Return an array of small numbers of both signs (where the type has them), booleans or short strings."""
    random = np.random.default_rng([seed, *shape])
    dtype = np.dtype(kind)
    if dtype.kind == "O":
        words = np.empty(4, object)
        words[:] = [b"", b"a", b"ab", b"\xff\x00"]
        result = np.empty(tuple(shape), object)
        result[...] = words[random.integers(0, 4, tuple(shape))]
        return result
    if dtype.kind == "b":
        return np.asarray(random.integers(0, 2, tuple(shape))).astype(bool)
    if dtype.kind == "u":
        return np.asarray(random.integers(0, 8, tuple(shape))).astype(dtype)
    if dtype.kind == "i":
        return np.asarray(random.integers(int(low), int(high) + 1, tuple(shape))).astype(dtype)
    if dtype.kind == "c":
        real, imaginary = random.uniform(low, high, (2, *shape))
        return np.asarray(real + 1j * imaginary).astype(dtype)
    return np.asarray(random.uniform(low, high, tuple(shape))).astype(dtype)


def edge_values(kind: Any) -> np.ndarray:
    """Return the values of a floating-point type where functions go wrong."""
    return np.array([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, np.inf, -np.inf, np.nan], kind)
