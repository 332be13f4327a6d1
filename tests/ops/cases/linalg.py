"""Cases of matrix products and Einsum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import COMPLEX, FLOATS, Case, bf16, op_case
from tests.ops.values import values

MATRICES = (*FLOATS, np.int32, np.int64, *COMPLEX)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _products()
    yield from _batches()


def _tolerance(kind: Any) -> dict[str, float]:
    absolute = {np.float16: 2e-3, bf16: 1.6e-2, np.float32: 1e-6, np.complex64: 1e-6}.get(kind, 1e-12)
    return {"absolute": absolute}


def _products() -> Iterator[Case]:
    for kind in MATRICES:
        for transpose_a in (False, True):
            for transpose_b in (False, True):
                for rows, inner, columns in ((2, 3, 4), (1, 1, 1), (0, 3, 2), (2, 0, 3), (17, 33, 9)):
                    a = values(kind, (inner, rows) if transpose_a else (rows, inner), 1)
                    b = values(kind, (columns, inner) if transpose_b else (inner, columns), 2)
                    yield op_case("MatMul", a, b, transpose_a=transpose_a, transpose_b=transpose_b, **_tolerance(kind))
    one = np.ones((2, 3), np.float32)
    yield op_case("MatMul", one, one)
    yield op_case("MatMul", one, np.ones(3, np.float32))
    yield op_case("MatMul", np.ones((1, 2, 3), np.float32), one)
    yield op_case("MatMul", np.array([[np.inf, 1]], np.float32), np.array([[0], [1]], np.float32))


def _batches() -> Iterator[Case]:
    shapes = (
        ((2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((2, 1, 2, 3), (4, 3, 5)), ((0, 2, 3), (0, 3, 4)),
        ((2, 2, 0), (2, 0, 3)), ((1, 2, 3), (6, 3, 2)),
    )
    for kind in MATRICES:
        for left, right in shapes:
            yield op_case("BatchMatMulV2", values(kind, left, 1), values(kind, right, 2), **_tolerance(kind))
            if left[:-2] == right[:-2]:
                yield op_case("BatchMatMul", values(kind, left, 1), values(kind, right, 2), **_tolerance(kind))
        for adj_x in (False, True):
            for adj_y in (False, True):
                x = values(kind, (2, 4, 3) if adj_x else (2, 3, 4), 1)
                y = values(kind, (2, 5, 4) if adj_y else (2, 4, 5), 2)
                yield op_case("BatchMatMulV2", x, y, adj_x=adj_x, adj_y=adj_y, **_tolerance(kind))
        if kind in (bf16, np.float32, np.float64):
            yield op_case("BatchMatMulV3", values(kind, (2, 3, 4), 1), values(kind, (2, 4, 5), 2), Tout=kind,
                          **_tolerance(kind))
    for op in ("BatchMatMul", "BatchMatMulV2"):
        one = np.ones((2, 2, 3), np.float32)
        yield op_case(op, one, one)
        yield op_case(op, one, np.ones((3, 3, 2), np.float32))
        yield op_case(op, one, np.ones(3, np.float32))
        yield op_case(op, np.ones((), np.float32), one)
