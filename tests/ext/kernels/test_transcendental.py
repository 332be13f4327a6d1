"""Compiled exponentials, logarithms and what is made of them beside numpy in more digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime._ext.errors import InvalidArgument
from runtime._ext.kernels import transcendental
from tests.ext.kernels.harness import Op, assert_same, bf16, check, misaligned, scattered, swapped, values

FLOATS = (np.float32, np.float64)
ALL = (*FLOATS, np.float16, bf16)
SHAPES = [(), (1,), (4,), (17,), (3, 5), (0,), (2, 0, 3), (1000,)]
SMOOTH: dict[str, Callable[..., Any]] = {"Exp": np.exp, "Expm1": np.expm1, "Log": np.log, "Log1p": np.log1p,
                                         "Tanh": np.tanh}
BUILT = ("Sigmoid", "Elu", "Selu", "Softplus")
EXACT = ("Floor", "Ceil", "Rint", "Round", "IsNan", "IsInf", "IsFinite")
GRADIENTS = ("EluGrad", "SeluGrad", "SoftplusGrad")
UNITS_IN_LAST_PLACE = 4


def close(dtype: Any) -> float:
    """Return a relative difference; of 16 bits only a rounding may go the other way."""
    epsilon = float(ml_dtypes.finfo(dtype).eps)
    return epsilon / 2 if epsilon > 1e-4 else UNITS_IN_LAST_PLACE * epsilon


def test_every_op_of_the_module_is_in_these_tables() -> None:
    assert {*SMOOTH, *BUILT, *EXACT, *GRADIENTS, "Erf"} == transcendental.OPS


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("op", [*SMOOTH, *BUILT, *EXACT])
def test_one_array(op: str, dtype: Any) -> None:
    relative = 0.0 if op in EXACT else 2 * close(dtype)  # both sides have an error of their own
    for shape in SHAPES:
        x = values(shape, dtype)
        check(op, x, relative=relative)
        check(op, misaligned(x), relative=relative)
        reused = check(op, x, dying=(0,), relative=relative).reused
        assert reused == ((0,) if x.size and not op.startswith("Is") else ())
    assert Op(op, scattered(values((3, 4), dtype))).run().declined
    if dtype is not bf16:  # of which other byte orders are unknown to its own functions
        assert Op(op, swapped(values((3, 4), dtype))).run().declined


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", SMOOTH)
def test_accuracy_over_the_whole_range(op: str, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    limits = np.finfo(dtype)
    reach = float(np.log(limits.max))
    sizes = np.exp(rng.uniform(np.log(float(limits.tiny)), reach, 4000))
    points = np.concatenate([rng.uniform(-reach, reach, 4000), rng.standard_normal(4000) * 2, sizes, -sizes,
                             1 + rng.standard_normal(2000) * 1e-3]).astype(dtype)
    found = Op(op, points).run().outputs[0]
    with np.errstate(all="ignore"):
        exact = SMOOTH[op](points.astype(np.longdouble))
        nearest = exact.astype(dtype)
    usual = np.isfinite(nearest) & (np.abs(nearest) >= limits.tiny)
    error = np.abs(found[usual].astype(np.longdouble) - exact[usual]) / np.spacing(np.abs(nearest[usual]))
    assert error.max() < UNITS_IN_LAST_PLACE
    assert_same(found[~np.isfinite(nearest)], nearest[~np.isfinite(nearest)])
    tiny = np.isfinite(nearest) & ~usual
    assert np.all(np.abs(found[tiny] - nearest[tiny]) <= limits.smallest_subnormal)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", SMOOTH)
def test_special_values(op: str, dtype: Any) -> None:
    points = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, 1.0, 1e-320, -1e-320], dtype)
    with np.errstate(all="ignore"):
        expected = SMOOTH[op](points)
    assert_same(Op(op, points).run().outputs[0], expected, op, close(dtype))
    assert np.array_equal(np.signbit(Op(op, points[:2]).run().outputs[0]), np.signbit(expected[:2]))


def test_the_error_function_of_floats() -> None:
    rng = np.random.default_rng(3)
    points = np.concatenate([rng.uniform(-5, 5, 40_000), rng.standard_normal(4000) * 1e-3,
                             np.linspace(0.99, 1.01, 2001), np.linspace(3.9, 4.1, 2001),
                             [0.0, -0.0, 1e-42, 3e38, -3e38, np.inf, -np.inf]])
    points = points.astype(np.float32)
    found = Op("Erf", points).run().outputs[0]
    exact = np.array([math.erf(x) for x in points.tolist()])
    spacing = np.spacing(np.abs(exact.astype(np.float32)))
    assert (np.abs(found - exact) / spacing).max() < UNITS_IN_LAST_PLACE
    assert np.array_equal(np.signbit(found), np.signbit(points))
    assert np.isnan(Op("Erf", np.full(5, np.nan, np.float32)).run().outputs[0]).all()
    for shape in SHAPES:
        x = values(shape, np.float32)
        check("Erf", x, relative=5e-7)
        check("Erf", misaligned(x), relative=5e-7)
        assert check("Erf", x, dying=(0,), relative=5e-7).reused == ((0,) if x.size else ())
    assert Op("Erf", scattered(values((3, 4), np.float32))).run().declined


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("op", GRADIENTS)
def test_gradients(op: str, dtype: Any) -> None:
    for shape in SHAPES:
        x, y = values(shape, dtype), values(shape, dtype, 1)
        check(op, x, y, relative=2 * close(dtype))
        check(op, misaligned(x), misaligned(y), relative=2 * close(dtype))
        for dying in ((0,), (1,), (0, 1)):
            assert check(op, x, y, dying=dying, relative=2 * close(dtype)).reused == (dying[:1] if x.size else ())
    with pytest.raises(InvalidArgument):
        Op(op, values((3, 4), dtype), values((4,), dtype)).run()


def test_large_arrays() -> None:
    x = np.random.default_rng(1).standard_normal((600, 500)).astype(np.float32)
    for op in (*SMOOTH, *BUILT):
        check(op, np.abs(x), dying=(0,), relative=2 * close(np.float32))
