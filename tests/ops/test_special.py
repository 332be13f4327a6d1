"""Special functions written over the array namespace, which a GPU uses, beside C's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runtime._ext import special_functions
from runtime.ops import special

POINTS = np.concatenate([np.linspace(-7, 7, 2001), np.linspace(-1, 1, 501),
                         [0.0, 26.5, 27.2, 30, -30, np.inf, -np.inf]])


@pytest.fixture(autouse=True)
def silent() -> object:
    with np.errstate(all="ignore"):
        yield


def test_erf_is_exact_to_a_few_units() -> None:
    expected = np.array([math.erf(x) for x in POINTS])
    np.testing.assert_allclose(special.erf(np, POINTS), expected, rtol=1e-15)
    assert np.isnan(special.erf(np, np.array([np.nan])))


def test_erfc_keeps_its_digits_where_it_is_tiny() -> None:
    expected = np.array([math.erfc(x) for x in POINTS])
    np.testing.assert_allclose(special.erfc(np, POINTS), expected, rtol=2e-15)


def test_lgamma_agrees_between_the_poles() -> None:
    points = np.concatenate([np.linspace(0.05, 40, 1001), np.linspace(-20.3, -0.05, 1001), [1e-5, 1e5, 1e300]])
    expected = np.array([math.lgamma(x) for x in points])
    np.testing.assert_allclose(special.lgamma(np, points), expected, rtol=2e-14, atol=1e-14)
    assert np.isposinf(special.lgamma(np, np.array([0.0, -1.0, -2.0, np.inf, -np.inf]))).all()
    assert special.lgamma(np, np.array([1.0, 2.0])).tolist() == [0.0, 0.0]


def test_digamma_is_the_slope_of_lgamma() -> None:
    points = np.concatenate([np.linspace(0.3, 30, 301), np.linspace(-4.7, -4.3, 21)])
    step = 1e-5
    slope = (special.lgamma(np, points + step) - special.lgamma(np, points - step)) / (2 * step)
    np.testing.assert_allclose(special.digamma(np, points), slope, rtol=2e-7, atol=1e-8)
    assert special.digamma(np, np.array([1.0]))[0] == pytest.approx(-0.57721566490153286, rel=1e-15)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_compiled_functions_take_any_layout(kind: type) -> None:
    every_other = np.linspace(-3, 3, 40, dtype=kind).reshape(4, 10)[::2, ::-3]
    unaligned = np.frombuffer(b"\0" + every_other.tobytes(), np.uint8)[1:].view(kind)
    for x in (every_other, unaligned, every_other.T, every_other[:0], every_other[0, 0].reshape(())):
        expected = np.array([math.erf(value) for value in x.reshape(-1)], kind).reshape(x.shape)
        found = special_functions.erf(x)
        assert found.dtype == kind
        np.testing.assert_allclose(found, expected, rtol=3e-7)
    with pytest.raises(TypeError, match="float32 or float64 is needed, not int32"):
        special_functions.erf(np.arange(3, dtype=np.int32))


def test_erfinv_undoes_erf_and_knows_its_ends() -> None:
    points = np.linspace(-0.999, 0.999, 1001)
    np.testing.assert_allclose(special.erf(np, special.erfinv(np, points)), points, rtol=1e-14, atol=1e-300)
    ends = special.erfinv(np, np.array([0.0, 1.0, -1.0, 1.5, 1 - 2**-53, 1e-300]))
    assert ends[:3].tolist() == [0.0, np.inf, -np.inf]
    assert np.isnan(ends[3])
    assert ends[4] == pytest.approx(5.8635847487551676, rel=1e-14)
    assert ends[5] == pytest.approx(8.862269254527581e-301, rel=1e-14)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_compiled_digamma_and_erfinv_are_those_over_arrays(kind: type) -> None:
    relative = 1e-12 if kind is np.float64 else 2e-7
    points = np.concatenate([np.linspace(-9.7, 30, 3001), [1e-300, -1e-30, 1e5, 1e300, 0, -0.0, -3, np.inf, np.nan],
                             -np.logspace(-9, 1, 200)]).astype(kind)
    expected = special.digamma(np, points.astype(float)).astype(kind)
    np.testing.assert_allclose(special_functions.digamma(points), expected,
                               rtol=relative, atol=1e-14 if kind is np.float64 else 1e-7)
    points = np.concatenate([np.linspace(-1, 1, 4001), np.logspace(-300 if kind is np.float64 else -37, 0, 400),
                             1 - np.logspace(-15, -1, 100), [1.5, -2, np.nan, np.inf]]).astype(kind)
    expected = special.erfinv(np, points.astype(float)).astype(kind)
    np.testing.assert_allclose(special_functions.erfinv(points), expected, rtol=relative)
    assert np.signbit(special_functions.erfinv(np.array([-0.0], kind)))
