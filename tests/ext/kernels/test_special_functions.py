"""Compiled special functions beside C's library and the functions in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from runtime._ext import special_functions as scalar
from runtime._ext.kernels import special_functions
from tests.ext.kernels.harness import Op, bf16, check, misaligned, scattered, values

UNITS = {np.float32: 6, np.float64: 24}
"""Units in the last place that a result may be off: the square, or half the argument, goes into an exponential."""

Exact = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


def by_element(function: Callable[[float], float]) -> Exact:
    return lambda points: np.array([function(x) for x in points.tolist()])


EXACT: dict[str, Exact] = {
    "Erf": by_element(math.erf), "Erfc": by_element(math.erfc), "Erfinv": scalar.erfinv, "Ndtri": scalar.ndtri,
    "BesselI0": scalar.bessel_i0, "BesselI1": scalar.bessel_i1, "BesselI0e": scalar.bessel_i0e,
    "BesselI1e": scalar.bessel_i1e,
}
FLOAT_ONLY = ("Erfinv", "Ndtri")
TYPES = [(op, np.float32) for op in EXACT if op != "Erf"] + [(op, np.float64) for op in EXACT if op not in FLOAT_ONLY]
INFINITE: dict[str, tuple[float, float]] = {
    "Erf": (1, -1), "Erfc": (0, 2), "Erfinv": (math.nan, math.nan), "Ndtri": (math.nan, math.nan),
    "BesselI0": (math.inf, math.inf), "BesselI1": (math.inf, -math.inf), "BesselI0e": (0, 0), "BesselI1e": (0, 0),
}
"""What comes of infinity and of minus infinity."""


def points_of(op: str, dtype: Any) -> np.ndarray[Any, Any]:
    """Return arguments over the whole range of a function, dense where its formulas meet."""
    rng = np.random.default_rng(7)
    tiny = np.exp(-rng.uniform(0, 85, 3000))
    if op in FLOAT_ONLY:
        near_one = 1 - np.exp(-rng.uniform(0, 16, 4000))
        found = np.concatenate([rng.random(8000), tiny, near_one])
        if op == "Erfinv":
            found = np.concatenate([found, -found])
        found = found.astype(dtype)
        return found[(np.abs(found) < 1) & (found != 0)]
    reach = 95.0 if op.startswith("Bessel") else 11.0 if dtype is np.float32 else 27.5
    meeting = [end + step for end in (1.0, 8.0) for step in np.linspace(-0.01, 0.01, 801)]
    return np.concatenate([rng.uniform(-reach, reach, 12_000), rng.standard_normal(6000), tiny, -tiny, meeting,
                           np.negative(meeting)]).astype(dtype)


def test_every_op_of_the_module_is_in_these_tables() -> None:
    assert set(EXACT) == special_functions.OPS == set(INFINITE)


@pytest.mark.parametrize("op, dtype", TYPES)
def test_accuracy_over_the_whole_range(op: str, dtype: Any) -> None:
    points = points_of(op, dtype)
    found = Op(op, points).run().outputs[0].astype(np.float64)
    exact = EXACT[op](points.astype(np.float64))
    with np.errstate(over="ignore"):
        nearest = exact.astype(dtype)
    limits = np.finfo(dtype)
    usual = np.isfinite(nearest) & (np.abs(nearest) >= limits.tiny)
    error = np.abs(found[usual] - exact[usual]) / np.spacing(np.abs(nearest[usual]))
    assert error.max() < UNITS[dtype], points[usual][error.argmax()]
    assert np.array_equal(found[np.isinf(nearest)], nearest[np.isinf(nearest)])
    subnormal = np.isfinite(nearest) & ~usual
    assert np.all(np.abs(found[subnormal] - nearest[subnormal]) <= 2 * limits.smallest_subnormal)


@pytest.mark.parametrize("op, dtype", TYPES)
def test_special_values(op: str, dtype: Any) -> None:
    limits = np.finfo(dtype)
    points = np.array([0.0, -0.0, limits.smallest_subnormal, np.nan, np.inf, -np.inf, limits.max, limits.min], dtype)
    zero, minus_zero, tiny, nan, infinite, minus_infinite, largest, lowest = Op(op, points).run().outputs[0].tolist()
    assert math.isnan(nan)
    at_zero = float(EXACT[op](np.zeros(1))[0])
    assert zero == minus_zero == at_zero
    odd = op in ("Erf", "Erfinv", "BesselI1", "BesselI1e")
    assert (math.copysign(1, minus_zero) < 0) == (odd or at_zero == -math.inf)
    if not odd and op != "Ndtri":
        assert tiny == at_zero
    expected = INFINITE[op]
    assert np.array_equal([infinite, minus_infinite], expected, equal_nan=True)
    assert np.allclose([largest, lowest], expected, rtol=0, atol=1e-19, equal_nan=True)


def test_inverses_at_the_ends_of_their_range_and_outside() -> None:
    def of(op: str, *points: float) -> list[float]:
        found: list[float] = Op(op, np.array(points, np.float32)).run().outputs[0].tolist()
        return found

    assert of("Erfinv", 1, -1) == [math.inf, -math.inf]
    assert of("Ndtri", 0, 1) == [-math.inf, math.inf]
    assert np.isnan(of("Erfinv", 1.5, -1.0000001, 3e38)).all()
    assert np.isnan(of("Ndtri", -0.1, 1.0000001, 3e38, -1e-45)).all()
    assert of("Ndtri", 0.5) == [0.0]


@pytest.mark.parametrize("op", [op for op in EXACT if op != "Erf"])
def test_layouts_types_and_reuse(op: str) -> None:
    for dtype in (np.float32, np.float16, bf16):
        slack = {np.float32: 2e-6, np.float16: 2e-3, bf16: 1.6e-2}[dtype]
        for shape in ((), (1,), (17,), (3, 5), (0,), (1000,)):
            x = np.asarray(np.random.default_rng(5).uniform(0.01, 0.99, shape)).astype(dtype)
            check(op, x, relative=slack)
            check(op, misaligned(x), relative=slack)
            assert check(op, x, dying=(0,), relative=slack).reused == ((0,) if x.size else ())
    assert Op(op, scattered(values((3, 4), np.float32))).run().declined
