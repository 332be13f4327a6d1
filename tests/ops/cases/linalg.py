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
    yield from _sums_of_products()


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


SIZES = {"a": 2, "b": 3, "c": 4, "d": 5, "i": 3, "j": 4}
EQUATIONS = (
    "ab,bc->ac", "ab,bc->ca", "ab,cb->ac", "ba,bc->ac", "abc,acd->abd", "abc,cd->abd", "abc,abd->acd", "ab,ab->ab",
    "ab,ab->", "ab,ab->a", "a,b->ab", "a,a->", "a,a->a", "a,->a", ",->", "abc,c->ab", "abc,b->ac", "abcd,bd->ca",
    "ab->ba", "ab->a", "ab->", "abc->cb", "ii->i", "ii->", "iij->ji", "i->ii", "ij->iij", "iij,jb->ib", "abc->bca",
    "...ab,...bc->...ac", "...ab->...ba", "a...b,bc->a...c", "...,...->...", "ab...,bc->ac...", "...a->...",
    "abcd,abed->abce", "ab,cd->abcd", "ab,cd->bd",
)


def _shape(labels: str, extra: tuple[int, ...]) -> tuple[int, ...]:
    head, dots, tail = labels.strip().partition("...")
    sizes = {**SIZES, "e": 6}
    return (*(sizes[label] for label in head), *(extra if dots else ()), *(sizes[label] for label in tail))


def _sums_of_products() -> Iterator[Case]:
    for equation in EQUATIONS:
        for extra in ((), (2,), (6, 1)) if "..." in equation else ((),):
            operands = equation.split("->")[0].split(",")
            for kind in (np.float32, np.complex64, np.int32, bf16, np.float64):
                inputs = [values(kind, _shape(labels, extra), seed) for seed, labels in enumerate(operands)]
                yield op_case("Einsum", *inputs, equation=equation, **_tolerance(kind))
    x, y = values(np.float32, (5, 1, 2, 3), 1), values(np.float32, (4, 3, 2), 2)
    yield op_case("Einsum", x, y, equation="...ab,...bc->...ac", absolute=1e-6)
    yield op_case("Einsum", x[:0], y, equation="...ab,...bc->...ac")
    yield op_case("Einsum", x[0, 0], y[0], equation=" ab , bc -> ac ", text=False)
    yield op_case("Einsum", x[0, 0], x[0, 0], equation="ab,bc->ac", text=False)
    yield op_case("Einsum", x[0, 0], y, equation="ab,bc->ac", text=False)
    yield op_case("Einsum", x[0, 0], equation="aa->a", text=False)
