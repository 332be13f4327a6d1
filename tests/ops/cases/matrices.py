"""Cases of bands, diagonals, decompositions and solutions of linear systems."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import COMPLEX, INDEX, Case, op_case
from tests.ops.cases.arrays import EVERY, ints
from tests.ops.values import values

LAPACK = (np.float32, np.float64, *COMPLEX)
TOLERANCE = {np.float32: 2e-4, np.complex64: 2e-4, np.float64: 1e-10, np.complex128: 1e-10}


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _bands()
    yield from _packed()
    yield from _decompositions()
    yield from _solutions()


def _bands() -> Iterator[Case]:
    for kind in (kind for kind in EVERY if kind is not object):
        for index in INDEX:
            yield op_case("MatrixBandPart", values(kind, (2, 4, 5)), np.array(1, index), np.array(2, index))
    x = values(np.float32, (4, 5))
    for lower, upper in ((0, 0), (-1, 0), (0, -1), (-1, -1), (4, 5), (5, 0), (0, 6), (2, 1)):
        yield op_case("MatrixBandPart", x, np.array(lower), np.array(upper), name=f"{lower} {upper}")
    yield op_case("MatrixBandPart", x[0], np.array(0), np.array(0))
    yield op_case("MatrixBandPart", x, ints(0, kind=np.int64), np.array(0))
    yield op_case("MatrixBandPart", x[:0], np.array(0), np.array(0))
    for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, *COMPLEX):
        for shape in ((3,), (2, 3), (0,)):
            yield op_case("Diag", values(kind, shape))
            yield op_case("DiagPart", values(kind, shape + shape))
    yield op_case("Diag", np.array(1, np.float32))
    for shape in ((), (3,), (2, 3), (2, 3, 2, 4)):
        yield op_case("DiagPart", values(np.float32, shape))


def _packed() -> Iterator[Case]:
    for kind in EVERY:
        if kind is object:
            continue
        padding = values(kind, (), 9)
        yield op_case("MatrixDiagV3", values(kind, (2, 3)), np.array(0, np.int32), np.array(-1, np.int32),
                      np.array(-1, np.int32), padding)
        yield op_case("MatrixDiagPartV3", values(kind, (2, 3, 4)), ints(-1, 1), padding)
        yield op_case("MatrixSetDiagV3", values(kind, (2, 3, 4)), values(kind, (2, 3)), np.array(0, np.int32))
    for align in ("LEFT_RIGHT", "RIGHT_LEFT", "LEFT_LEFT", "RIGHT_RIGHT"):
        for k in ((0,), (1,), (-2,), (-1, 1), (0, 2), (-2, 0), (1, 2), (-2, -1), (-3, 4), (5,), (2, 1)):
            yield from _one_band(np.array(k, np.int32), align)
    three = values(np.float32, (3,))
    for rows, columns in ((-1, -1), (3, 3), (3, 5), (5, 3), (4, 5), (2, 3), (3, 2), (-1, 5), (5, -1)):
        size = np.array(rows, np.int32), np.array(columns, np.int32), np.array(7, np.float32)
        for k in (0, 1, -1):
            yield op_case("MatrixDiagV3", three, np.array(k, np.int32), *size, name=f"{rows} {columns} {k}")
    yield op_case("MatrixDiagV3", values(np.float32, (2, 3)), ints(0, 2), *size)
    yield op_case("MatrixDiagV3", np.array(1, np.float32), np.array(0, np.int32), *size)
    yield op_case("MatrixDiagPartV3", three, np.array(0, np.int32), np.array(0, np.float32))
    yield op_case("MatrixDiag", values(np.float32, (2, 3)))
    yield op_case("MatrixDiagPart", values(np.float32, (2, 3, 4)))
    yield op_case("MatrixSetDiag", values(np.float32, (2, 3, 4)), values(np.float32, (2, 3)))
    yield op_case("MatrixSetDiag", values(np.float32, (3, 4)), values(np.float32, (4,)))
    yield op_case("MatrixDiagPartV2", values(np.float32, (3, 4)), ints(-1, 1), np.array(0, np.float32))
    yield op_case("MatrixSetDiagV2", values(np.float32, (3, 4)), values(np.float32, (3, 3)), ints(-1, 1))
    yield op_case("MatrixDiagV2", values(np.float32, (3, 3)), ints(-1, 1), ints(-1)[0:1].reshape(()),
                  ints(-1).reshape(()), np.array(0, np.float32))


def _one_band(k: np.ndarray, align: str) -> Iterator[Case]:
    matrix, padding = values(np.float32, (2, 3, 5)), np.array(9, np.float32)
    low, high = int(k[0]), int(k[-1])
    name = str(k.tolist())
    yield op_case("MatrixDiagPartV3", matrix, k, padding, name=name, align=align)
    length = min(3 + min(high, 0), 5 - max(low, 0))
    if length <= 0 or low > high:
        return
    count = high - low + 1
    diagonal = values(np.float32, (2, count, length) if count > 1 else (2, length))
    yield op_case("MatrixSetDiagV3", matrix, diagonal, k, name=name, align=align)
    yield op_case("MatrixSetDiagV3", matrix, diagonal[:1], k, name=name, align=align)
    yield op_case("MatrixDiagV3", diagonal, k, np.array(3, np.int32), np.array(5, np.int32), padding, name=name,
                  align=align)


def _square(kind: Any, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return matrices that are far from singular."""
    return values(kind, shape, seed) + 6 * np.eye(shape[-1], dtype=kind)


def _positive(kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    x = values(kind, shape)
    return (x @ x.swapaxes(-1, -2).conj() + np.eye(shape[-1], dtype=kind)).astype(kind)


def _decompositions() -> Iterator[Case]:
    for kind in LAPACK:
        near: dict[str, Any] = {"relative": TOLERANCE[kind], "absolute": TOLERANCE[kind]}
        for shape in ((1, 1), (4, 4), (2, 3, 3), (0, 3, 3), (0, 0), (20, 20)):
            yield op_case("Cholesky", _positive(kind, shape), **near)
            yield op_case("MatrixInverse", _square(kind, shape), **near)
            yield op_case("MatrixInverse", _square(kind, shape), adjoint=True, **near)
            yield op_case("MatrixDeterminant", _square(kind, shape), **near)
            yield op_case("LogMatrixDeterminant", _square(kind, shape), **near)
            hermitian = _positive(kind, shape)
            yield op_case("SelfAdjointEigV2", hermitian, compute_v=False, compare=Rebuilt(kind, "", hermitian))
            if shape != (0, 0):
                yield op_case("SelfAdjointEigV2", hermitian, compare=Rebuilt(kind, "eigen", hermitian))
        for shape in ((3, 3), (5, 3), (3, 5), (2, 4, 3), (1, 4)):
            x = values(kind, shape)
            yield op_case("Svd", x, compute_uv=False, compare=Rebuilt(kind, "", x))
            for full in (False, True):
                yield op_case("Svd", x, full_matrices=full, compare=Rebuilt(kind, "svd", x))
                yield op_case("Qr", x, full_matrices=full, compare=Rebuilt(kind, "qr", x))
        for op in ("Cholesky", "MatrixInverse", "MatrixDeterminant", "LogMatrixDeterminant", "SelfAdjointEigV2"):
            yield op_case(op, values(kind, (2, 3)))
            yield op_case(op, values(kind, (3,)))
        for op in ("Svd", "Qr"):
            yield op_case(op, values(kind, (3,)))
    singular = np.ones((3, 3), np.float32)
    yield op_case("MatrixInverse", singular)
    yield op_case("MatrixInverse", np.zeros((2, 2), np.float32))
    yield op_case("MatrixDeterminant", np.zeros((2, 2), np.float32))
    yield op_case("LogMatrixDeterminant", np.zeros((2, 2), np.float32))
    yield op_case("Cholesky", -np.eye(3, dtype=np.float32), compare=_same_lower_half)
    yield op_case("Cholesky", np.stack([np.eye(3, dtype=np.float32), -np.eye(3, dtype=np.float32)]),
                  compare=_same_lower_half)


def _solutions() -> Iterator[Case]:
    for kind in LAPACK:
        near: dict[str, Any] = {"relative": TOLERANCE[kind], "absolute": TOLERANCE[kind]}
        for shape, columns in (((4, 4), 2), ((2, 3, 3), 1), ((3, 3), 0), ((0, 3, 3), 2), ((70, 70), 3)):
            matrix = _square(kind, shape)
            rhs = values(kind, (*shape[:-1], columns), 5)
            for adjoint in (False, True):
                yield op_case("MatrixSolve", matrix, rhs, adjoint=adjoint, **near)
                for lower in (False, True):
                    wide = matrix + shape[-1] * np.eye(shape[-1], dtype=kind)
                    yield op_case("MatrixTriangularSolve", wide, rhs, adjoint=adjoint, lower=lower, **near)
    x = _square(np.float32, (3, 3))
    for op in ("MatrixSolve", "MatrixTriangularSolve"):
        yield op_case(op, x, np.ones((4, 1), np.float32))
        yield op_case(op, x, np.ones(3, np.float32))
        yield op_case(op, x[:2], np.ones((2, 1), np.float32))
        yield op_case(op, x[0], np.ones((3, 1), np.float32))
        yield op_case(op, np.stack([x, x]), np.ones((3, 3, 1), np.float32))
    yield op_case("MatrixSolve", np.zeros((2, 2), np.float32), np.ones((2, 1), np.float32))
    yield op_case("MatrixTriangularSolve", np.zeros((2, 2), np.float32), np.ones((2, 1), np.float32))
    yield op_case("MatrixTriangularSolve", np.stack([x, x]), np.ones((1, 3, 2), np.float32), relative=2e-4)


def _same_lower_half(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    """Compare what is below the diagonal; above it TensorFlow leaves what was there when it gives up on a matrix."""
    same = np.array_equal(np.tril(ours[0]), np.tril(theirs[0]), equal_nan=True)
    return "" if same else f"the lower halves are {ours[0]}, TensorFlow's {theirs[0]}"


class Rebuilt:
    """Compare decompositions whose vectors are open: the values with TensorFlow's, the product with the input."""

    def __init__(self, kind: Any, how: str, original: np.ndarray) -> None:
        self.tolerance = TOLERANCE[kind]
        self.how = how
        self.original = original

    def __call__(self, ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
        if [value.shape for value in ours] != [value.shape for value in theirs]:
            return f"the shapes are {[v.shape for v in ours]}, TensorFlow's {[v.shape for v in theirs]}"
        if self.how != "qr" and not np.allclose(ours[0], theirs[0], self.tolerance, self.tolerance):
            return f"the values are {ours[0]}, TensorFlow's {theirs[0]}"
        if not self.how:  # the other outputs hold nothing
            return ""
        if not np.allclose(self._product(ours), self.original, self.tolerance, 10 * self.tolerance):
            return "the product is not the input"
        for vectors in ours[1:] if self.how != "qr" else ours[:1]:
            unit = vectors.swapaxes(-1, -2).conj() @ vectors
            if not np.allclose(unit, np.eye(unit.shape[-1]), 0, 10 * self.tolerance):
                return "the vectors are not orthonormal"
        return ""

    def _product(self, parts: list[np.ndarray]) -> np.ndarray:
        if self.how == "qr":
            return np.asarray(parts[0] @ parts[1])
        if self.how == "eigen":
            return np.asarray((parts[1] * parts[0][..., None, :]) @ parts[1].swapaxes(-1, -2).conj())
        s, u, v = parts
        count = s.shape[-1]
        return np.asarray((u[..., :count] * s[..., None, :]) @ v[..., :count].swapaxes(-1, -2).conj())
