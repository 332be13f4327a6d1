"""Cases of reductions, arg reductions, cumulative ops, top-k and sequences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import COMPLEX, FLOATS, INDEX, INTEGERS, Case, bf16, op_case
from tests.ops.cases.arrays import ints
from tests.ops.values import values

NUMBERS = (*FLOATS, *INTEGERS, *COMPLEX)
REAL = (*FLOATS, *INTEGERS)

REDUCTIONS: dict[str, tuple[Any, ...]] = {
    "Sum": NUMBERS,
    "Mean": NUMBERS,
    "Prod": NUMBERS,
    "Max": REAL,
    "Min": REAL,
    "EuclideanNorm": (*FLOATS, *COMPLEX),
    "All": (np.bool_,),
    "Any": (np.bool_,),
}
AXES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (-1,), (0, 2), (0, 1, 2), (2, 0))


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _reductions()
    yield from _arg_reductions()
    yield from _cumulative()
    yield from _top_k()
    yield from _sequences()


def _tolerance(kind: Any) -> dict[str, float]:
    """Sums in another order: the error grows with the largest term, not with what is left of them."""
    absolute = {np.float16: 4e-3, bf16: 3e-2, np.float32: 1e-6, np.complex64: 1e-6}.get(kind, 1e-12)
    relative = {np.float16: 8e-3, bf16: 6e-2, np.float32: 1e-5, np.complex64: 1e-5}.get(kind, 1e-11)
    return {"relative": relative, "absolute": absolute}


def _reductions() -> Iterator[Case]:
    for op, kinds in REDUCTIONS.items():
        for kind in kinds:
            small = values(kind, (2, 3, 4), 1, -2, 2)
            for axes in AXES:
                for keep in (False, True):
                    yield op_case(op, small, np.array(axes, np.int32), keep_dims=keep, name=str(axes),
                                  **_tolerance(kind))
            yield op_case(op, small, np.array(1, np.int64), **_tolerance(kind))
            yield op_case(op, values(kind, ()), np.zeros(0, np.int32), **_tolerance(kind))
            if op != "Mean" or kind in FLOATS or kind in COMPLEX:
                yield op_case(op, values(kind, (0,)), ints(0), **_tolerance(kind))
                yield op_case(op, values(kind, (2, 0, 3)), ints(1), **_tolerance(kind))
            yield op_case(op, values(kind, (2, 0, 3)), ints(0), **_tolerance(kind))
            if op != "Prod":
                yield op_case(op, values(kind, (50, 40), 2), ints(0), **_tolerance(kind))
                yield op_case(op, values(kind, (50, 40), 2), ints(1), **_tolerance(kind))
            if kind in FLOATS:
                edges = np.array([[1, np.nan, 3], [np.inf, 2, -np.inf], [np.nan] * 3, [-np.inf] * 3], kind)
                yield op_case(op, edges, ints(1), name="edges", **_tolerance(kind))
                yield op_case(op, edges, ints(0), name="edges", **_tolerance(kind))
        x = values(kinds[0], (2, 3))
        for axes in ((2,), (-3,), (0, 0), (0, -2)):
            yield op_case(op, x, np.array(axes, np.int32), name=str(axes))
        yield op_case(op, x, np.array([[0]], np.int32))
    for kind in FLOATS:
        for shape in ((), (0,), (7,), (3, 4, 5)):
            yield op_case("L2Loss", values(kind, shape), **_tolerance(kind))


def _arg_reductions() -> Iterator[Case]:
    for op in ("ArgMax", "ArgMin"):
        for kind in (*REAL, np.bool_):
            x = values(kind, (3, 4, 5))
            for axis in (0, 1, 2, -1):
                for out in INDEX:
                    yield op_case(op, x, np.array(axis, np.int32), output_type=out, name=str(axis))
            yield op_case(op, values(kind, (7,)), np.array(0, np.int64))
            if kind in FLOATS:
                edges = np.array([[1, np.nan, 3], [np.inf, 2, np.inf], [np.nan] * 3, [-np.inf] * 3,
                                  [np.nan, -np.inf, np.nan]], kind)
                yield op_case(op, edges, np.array(1, np.int32), name="edges")
        x = np.ones((2, 3), np.float32)
        for axis in (2, -3):
            yield op_case(op, x, np.array(axis, np.int32), name=str(axis))
        yield op_case(op, x, ints(0))
        yield op_case(op, np.array(1, np.float32), np.array(0, np.int32))
        yield op_case(op, x[:0], np.array(0, np.int32))
        yield op_case(op, x[:0], np.array(1, np.int32))
    yield op_case("ArgMax", values(np.float32, (3, 4)), np.array(1, np.int32), output_type=np.uint16)
    yield op_case("ArgMax", values(np.float32, (3, 4)), np.array(1, np.int32), output_type=np.int16)


def _cumulative() -> Iterator[Case]:
    for op in ("Cumsum", "Cumprod"):
        for kind in NUMBERS:
            x = values(kind, (3, 4, 2), 1, -2, 2)
            for exclusive in (False, True):
                for reverse in (False, True):
                    for axis in (0, 1, -1):
                        yield op_case(op, x, np.array(axis, np.int32), name=str(axis), exclusive=exclusive,
                                      reverse=reverse, **_tolerance(kind))
            yield op_case(op, values(kind, (0, 3)), np.array(0, np.int64))
            yield op_case(op, values(kind, (1, 3)), np.array(0, np.int64), exclusive=True)
        x = np.ones((2, 3), np.float32)
        for axis in (2, -3):
            yield op_case(op, x, np.array(axis, np.int32), name=str(axis))
        yield op_case(op, x, ints(0))
        yield op_case(op, np.array(1, np.float32), np.array(0, np.int32))


def _top_k() -> Iterator[Case]:
    for kind in REAL:
        x = values(kind, (3, 20))
        for k in (0, 1, 3, 20):
            yield op_case("TopKV2", x, np.array(k, np.int32), name=str(k))
        yield op_case("TopKV2", values(kind, (2, 3, 5)), np.array(2, np.int32))
        yield op_case("TopKV2", values(kind, (9,)), np.array(4, np.int64), index_type=np.int64)
    x = values(np.float32, (2, 3))
    yield op_case("TopKV2", x, np.array(4, np.int32))
    yield op_case("TopKV2", x, np.array(-1, np.int32))
    yield op_case("TopKV2", x, ints(1))
    yield op_case("TopKV2", np.array(1, np.float32), np.array(1, np.int32))
    yield op_case("TopKV2", x[:0], np.array(2, np.int32))
    yield op_case("TopKV2", x[:, :0], np.array(0, np.int32))
    predictions = np.array([[0.1, 0.3, 0.2, 0.4], [0.1, 0.1, 0.3, 0.1], [np.nan, 0, 0, 1], [0, np.inf, 0, 1]],
                           np.float32)
    for targets in ((3, 0, 3, 3), (0, 1, 1, 1), (1, 2, 3, 0), (4, -1, 0, 2)):
        for kind in INDEX:
            for k in (0, 1, 2, 4):
                yield op_case("InTopKV2", predictions, np.array(targets, kind), np.array(k, kind),
                              name=f"{targets} {k}")
            yield op_case("InTopK", predictions, np.array(targets, kind), k=2, name=f"{targets}", producer=6)
    yield op_case("InTopKV2", predictions, ints(0, 1), np.array(1, np.int32))
    yield op_case("InTopKV2", predictions[0], ints(0, 1, 2, 3), np.array(1, np.int32))
    yield op_case("InTopKV2", predictions, np.zeros((4, 1), np.int32), np.array(1, np.int32))
    yield op_case("InTopKV2", predictions, ints(0, 1, 2, 3), ints(1))
    yield op_case("InTopKV2", predictions[:0], np.zeros(0, np.int32), np.array(1, np.int32))


def _sequences() -> Iterator[Case]:
    for kind in (np.int32, np.int64, np.float32, np.float64, np.float16, bf16):
        for start, limit, delta in ((0, 5, 1), (2, 11, 3), (0, 0, 1), (3, 3, 2)):
            yield op_case("Range", *[np.array(x, kind) for x in (start, limit, delta)], name=f"{start},{limit},{delta}")
    for kind in (np.int32, np.int64, np.float32, np.float64, np.float16, bf16):
        for start, limit, delta in ((5, 0, -1), (0, 5, 0), (5, 0, 1), (0, 5, -1), (-3, 4, 2)):
            yield op_case("Range", *[np.array(x, kind) for x in (start, limit, delta)], name=f"{start},{limit},{delta}")
    for kind in FLOATS:
        yield op_case("Range", *[np.array(x, kind) for x in (0.25, 2.0, 0.125)], relative=2e-2)
        for num in (1, 2, 5, 0, -1) if kind in (np.float32, np.float64) else ():
            for index in INDEX:
                yield op_case("LinSpace", np.array(1, kind), np.array(3.5, kind), np.array(num, index), name=str(num))
    yield op_case("Range", *[np.array(x, np.float32) for x in (0, 1, 0.1)])
    yield op_case("Range", *[np.array(x, np.float32) for x in (0, 1000, 0.1)])
    yield op_case("Range", ints(0), ints(3), ints(1))
    yield op_case("Range", ints(0, 1), ints(3), ints(1))
    yield op_case("LinSpace", np.array([1], np.float32), np.array(3, np.float32), np.array(3, np.int32))
    yield op_case("LinSpace", np.array(1, np.float32), np.array(1, np.float32), np.array(3, np.int32))
    for kind in INDEX:
        for perm in ((), (0,), (2, 0, 1), (0, 0), (0, 2), (-1, 0)):
            yield op_case("InvertPermutation", np.array(perm, kind), name=str(perm))
    yield op_case("InvertPermutation", np.zeros((1, 1), np.int32))
    yield from _casts()


def _casts() -> Iterator[Case]:
    every = (*FLOATS, *INTEGERS, *COMPLEX, np.bool_)
    for source in every:
        for target in every:
            x = values(source, (2, 7), 3)
            if np.dtype(target).kind == "u":
                x = np.abs(x) if source not in COMPLEX else x * 0 + 3  # negative numbers are undefined in C
            yield op_case("Cast", x.astype(source), DstT=target)
        yield op_case("Cast", values(source, (0,)), DstT=np.float32)
    yield op_case("Cast", np.array([1.9, -1.9, 0.5, -0.5, 0, np.nan, np.inf], np.float32), DstT=np.bool_)
    yield op_case("Cast", np.array([1.9, -1.9, 0.5, -0.5, 2.5], np.float32), DstT=np.int32)
    yield op_case("Cast", np.array([-1, 300, 70000], np.int32), DstT=np.uint8)
    yield op_case("Cast", np.array([-1, 300, 70000], np.int32), DstT=np.int8)
    yield op_case("Cast", np.array([1e10, -1e10, np.nan, np.inf, -np.inf], np.float32), DstT=np.int32)
    yield op_case("Cast", np.array([1e20, -1e20, np.nan, np.inf], np.float32), DstT=np.int64)
    yield op_case("Cast", np.array([1e20, 1e300, 3.3], np.float64), DstT=np.float32)
    yield op_case("Cast", np.array([70000, 65519, 65520, 1e-8], np.float32), DstT=np.float16)
    yield op_case("Cast", np.array([1 + 2**-8, 1 + 3 * 2**-8, np.nan, 3e38], np.float32), DstT=bf16)
    edges = np.array([1, 1 + 2**-8 + 2**-12, -1.9999999, np.pi, 65519, 65520, 65536, 1e-7, 5.9e-8, -3e-8, 3.4e38,
                      3.4028235677973366e38, 1e39, np.inf, -np.inf, np.nan, -0.0, 0.3])
    with np.errstate(over="ignore"):
        sources = [edges.astype(kind) for kind in (np.float64, np.float32, np.complex128, np.complex64)]
    for x in sources:
        # What TensorFlow makes of doubles as complex64 is half of them.
        for target in (np.float16, bf16, np.float32, np.int32, np.complex64)[:4 if x.dtype == np.float64 else 5]:
            if x.dtype != target:
                yield op_case("Cast", x, DstT=target, Truncate=True, name="edges")
    yield op_case("Cast", np.array([[1 + 2j, 1.1 - 0.3j]], np.complex128).T, DstT=np.complex64, Truncate=True)
    yield op_case("Cast", np.zeros((0, 2), np.float64), DstT=np.float32, Truncate=True)
    yield op_case("Cast", np.array(0.3, np.float64), DstT=np.float32, Truncate=True)
    yield op_case("Cast", np.array([1 + 2j, 0j, 1j], np.complex64), DstT=np.bool_)
    yield op_case("Cast", np.array([1 + 2j, -1.5 + 0j], np.complex64), DstT=np.int32)
