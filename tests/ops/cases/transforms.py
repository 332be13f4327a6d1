"""Cases of Fourier transforms, LU factors, least squares, tridiagonal systems and the matrix exponential."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import COMPLEX, INDEX, Case, op_case
from tests.ops.values import values

MATRIX_TYPES = (np.float32, np.float64, *COMPLEX)
BEFORE_REMOVAL = 26
"""The last version of a GraphDef that may hold MatrixExponential."""


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _complex_transforms()
    yield from _real_transforms()
    yield from _lu()
    yield from _cholesky_grad()
    yield from _least_squares()
    yield from _tridiagonal()
    yield from _exponential()


def tolerance(kind: Any, factor: float = 1.0) -> dict[str, float]:
    """Return a tolerance for sums in another order."""
    wide = np.dtype(kind) in (np.float64, np.complex128)
    return {"relative": (1e-11 if wide else 2e-5) * factor, "absolute": (1e-13 if wide else 2e-6) * factor}


def _complex_transforms() -> Iterator[Case]:
    shapes = {"": ((8,), (5,), (2, 3, 12), (1,), (0,), (0, 3), (257,)), "2D": ((4, 6), (3, 5, 7), (2, 0, 3)),
              "3D": ((2, 3, 4), (2, 3, 1, 5))}
    for suffix, found in shapes.items():
        for op in ("FFT", "IFFT"):
            for kind in COMPLEX:
                for shape in found:
                    yield op_case(f"{op}{suffix}", values(kind, shape), **tolerance(kind))
            yield op_case(f"{op}{suffix}", values(np.complex64, ()), text=False)
    yield op_case("FFT2D", values(np.complex64, (3,)), text=False)


def _real_transforms() -> Iterator[Case]:
    lengths = {"": (((8,), (8,)), ((2, 7), (7,)), ((2, 7), (4,)), ((1,), (1,)), ((0, 3), (3,))),
               "2D": (((4, 6), (4, 6)), ((3, 5, 7), (5, 7)), ((3, 5, 7), (2, 4))),
               "3D": (((2, 3, 4), (2, 3, 4)), ((2, 4, 3, 5), (4, 3, 4)))}
    for suffix, pairs in lengths.items():
        for kind, other in ((np.float32, np.complex64), (np.float64, np.complex128)):
            for shape, length in pairs:
                size = np.array(length, np.int32)
                yield op_case(f"RFFT{suffix}", values(kind, shape), size, Tcomplex=other, **tolerance(kind))
                yield op_case(f"IRFFT{suffix}", values(other, shape), size, Treal=kind, **tolerance(kind))
                double = np.array([*length[:-1], 2 * length[-1] - 1], np.int32)
                yield op_case(f"IRFFT{suffix}", values(other, shape), double, Treal=kind, **tolerance(kind))
    x, z = values(np.float32, (2, 3, 5)), values(np.complex64, (2, 3, 5))
    for length in ((6,), (-1,), (3, 3)):
        size = np.array(length, np.int32)
        yield op_case("RFFT", x, size, name=str(length), text=len(length) == 1)
        yield op_case("IRFFT", z, 2 * size, name=str(length), text=len(length) == 1)
    yield op_case("RFFT2D", x, np.array([4, 5], np.int32))
    yield op_case("RFFT2D", x[0, 0], np.array([4, 5], np.int32), text=False)


def _regular(kind: Any, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return square matrices far from singular, whose largest entries are not on the diagonal."""
    size = shape[-1]
    return (values(kind, shape, seed) + 6 * np.roll(np.eye(size), 1, axis=0)).astype(kind)


def _lu() -> Iterator[Case]:
    for kind in MATRIX_TYPES:
        for shape in ((1, 1), (3, 3), (2, 5, 5), (0, 0), (0, 2, 2), (70, 70)):
            for out in INDEX if shape == (3, 3) else (np.int32,):
                yield op_case("Lu", _regular(kind, shape), output_idx_type=out, **tolerance(kind, 50))
    one = np.ones((2, 2), np.float32)
    for matrix in (one, one * np.nan, np.ones((2, 3), np.float32)):
        yield op_case("Lu", matrix, text=matrix.shape == (2, 2))
    yield op_case("Lu", one[0], text=False)


def _cholesky_grad() -> Iterator[Case]:
    for kind in (np.float32, np.float64):
        for shape in ((1, 1), (3, 3), (2, 5, 5), (0, 0), (40, 40)):
            lower = np.tril(values(kind, shape, 1, 0.1, 1) / max(shape[-1], 1)) + np.eye(shape[-1], dtype=kind)
            yield op_case("CholeskyGrad", lower.astype(kind), values(kind, shape, 2), **tolerance(kind, 20))
        yield op_case("CholeskyGrad", values(kind, (3, 3), 1) + 6 * np.eye(3, dtype=kind), values(kind, (3, 3), 2),
                      name="upper halves", **tolerance(kind, 20))
    two = np.ones((2, 2), np.float32)
    yield op_case("CholeskyGrad", two, np.ones((3, 3), np.float32), text=False)
    yield op_case("CholeskyGrad", two[:1], two[:1], text=False)


def _least_squares() -> Iterator[Case]:
    none = np.array(0.0)
    for kind in MATRIX_TYPES:
        for shape in ((5, 3), (3, 5), (4, 4), (2, 6, 3)):
            matrix = values(kind, shape, 1)
            rhs = values(kind, (*shape[:-1], 2), 2)
            for fast in (False, True):
                for penalty in (0.0, 0.5):
                    yield op_case("MatrixSolveLs", matrix, rhs, np.array(penalty), name=f"l2={penalty}", fast=fast,
                                  **tolerance(kind, 500))
        low_rank = values(kind, (5, 1), 1) * values(kind, (1, 3), 2)
        yield op_case("MatrixSolveLs", low_rank, values(kind, (5, 2), 3), none, fast=False, **tolerance(kind, 500))
    three, two = values(np.float32, (3, 3)), values(np.float32, (3, 2))
    yield op_case("MatrixSolveLs", np.ones((3, 2), np.float32), two, none)
    yield op_case("MatrixSolveLs", three, two, none - 1)
    yield op_case("MatrixSolveLs", three, two, np.zeros(1))
    yield op_case("MatrixSolveLs", three, two[:2], none, text=False)
    yield op_case("MatrixSolveLs", three, np.ones((2, 3, 2), np.float32), none, text=False)
    yield op_case("MatrixSolveLs", three[:, :0], two, none)


def _tridiagonal() -> Iterator[Case]:
    for kind in MATRIX_TYPES:
        for shape in ((1,), (2,), (3,), (9,), (2, 6), (40,)):
            bands = values(kind, (*shape[:-1], 3, shape[-1]), 1)
            rhs = values(kind, (*shape, 2), 2)
            yield op_case("TridiagonalSolve", bands, rhs, **tolerance(kind, 2000))
            bands = bands + np.array([[0], [9], [0]], kind)
            yield op_case("TridiagonalSolve", bands, rhs, partial_pivoting=False, **tolerance(kind, 20))
            yield op_case("TridiagonalSolve", bands, rhs, perturb_singular=True, **tolerance(kind, 20))
    singular = np.array([[1, 2, 0], [0, 1, 2], [0, 0, 2]], np.float64)
    three = values(np.float64, (3, 1))
    zeros = np.zeros((3, 3))
    for bands in (singular, zeros):
        yield op_case("TridiagonalSolve", bands, three)
        yield op_case("TridiagonalSolve", bands, three, partial_pivoting=False)
    yield op_case("TridiagonalSolve", np.ones((2, 3)), three)
    yield op_case("TridiagonalSolve", np.ones((3, 2)), three)
    yield op_case("TridiagonalSolve", np.ones((1, 3, 3)), three, text=False)
    yield op_case("TridiagonalSolve", zeros, three, partial_pivoting=False, perturb_singular=True)
    yield op_case("TridiagonalSolve", zeros[:, :0], three[:0])


def _exponential() -> Iterator[Case]:
    for kind in MATRIX_TYPES:
        for shape in ((1, 1), (3, 3), (2, 5, 5), (0, 0)):
            for scale in (0.1, 1, 3):
                yield op_case("MatrixExponential", (values(kind, shape) * scale).astype(kind), name=f"{scale}",
                              producer=BEFORE_REMOVAL, **tolerance(kind, 200))
    yield op_case("MatrixExponential", np.ones((2, 3), np.float32), producer=BEFORE_REMOVAL, text=False)
