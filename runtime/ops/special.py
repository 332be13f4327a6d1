"""Special functions that the array namespaces lack, in double precision over `xp`.

The error function follows W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of
Computation 23 (1969): one rational approximation for each of |x| <= 0.46875, up to 4, and beyond.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["digamma", "erf", "erfc", "erfinv", "in_double", "lgamma"]

_SMALL_P = (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
            3.20937758913846947e3)
_SMALL_Q = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_MIDDLE_P = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
             2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
             1.23033935479799725e3)
_MIDDLE_Q = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
             3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3)
_LARGE_P = (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
            1.60837851487422766e-2, 6.58749161529837803e-4)
_LARGE_Q = (1.0, 2.56852019228982242e0, 1.87295284992346047e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
            2.33520497626869185e-3)
_INVERSE_SQRT_PI = 0.56418958354775628695
_SMALL = 0.46875
_LARGE = 4.0


def _polynomial(coefficients: Sequence[float], x: Any) -> Any:
    """Evaluate a polynomial, highest power first."""
    result = coefficients[0]
    for coefficient in coefficients[1:]:
        result = result * x + coefficient
    return result


def _tail(xp: Any, size: Any) -> Any:
    """Return erfc(size) for size > 0.46875; what it gives below is not used."""
    size = xp.maximum(size, _SMALL)
    middle = _polynomial(_MIDDLE_P, size) / _polynomial(_MIDDLE_Q, size)
    inverse = 1.0 / xp.square(size)
    large = inverse * _polynomial(_LARGE_P, inverse) / _polynomial(_LARGE_Q, inverse)
    large = (_INVERSE_SQRT_PI - large) / size
    # exp(-x*x) in two factors: x is split after four binary digits, so that the square of the head is exact.
    head = xp.floor(size * 16.0) / 16.0
    scale = xp.exp(-xp.square(head)) * xp.exp(-(size - head) * (size + head))
    tail = scale * xp.where(size <= _LARGE, middle, large)
    return xp.where(size > 27.3, 0.0, tail)  # beyond, erfc is below the smallest double, and inf - inf would be NaN


def _near(xp: Any, x: Any, size: Any) -> Any:
    """Return erf(x) for |x| <= 0.46875; what it gives beyond is not used."""
    square = xp.square(xp.minimum(size, _SMALL))
    return x * _polynomial(_SMALL_P, square) / _polynomial(_SMALL_Q, square)


def erf(xp: Any, x: Any) -> Any:
    """Return the error function of a float64 array."""
    size = xp.absolute(x)
    far = xp.copysign(1.0 - _tail(xp, size), x)
    return xp.where(size <= _SMALL, _near(xp, x, size), far)


def erfc(xp: Any, x: Any) -> Any:
    """Return one minus the error function of a float64 array, accurate where that is tiny."""
    size = xp.absolute(x)
    tail = _tail(xp, size)
    far = xp.where(x < 0, 2.0 - tail, tail)
    return xp.where(size <= _SMALL, 1.0 - _near(xp, x, size), far)


_LOG_SQRT_TWO_PI = 0.91893853320467274178
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
"""B(2k) / (2k (2k - 1)): the series of log gamma in odd powers of 1/x."""
_DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
"""B(2k) / (2k): the series of digamma in even powers of 1/x."""
_ASYMPTOTIC = 10.0
"""From here on seven terms of either series are exact in double precision."""


def lgamma(xp: Any, x: Any) -> Any:
    """Return the logarithm of the absolute value of the gamma function of a float64 array.

    Stirling's series, reached by the recurrence for small arguments and by reflection for those below 1/2; near the
    zeros at 1 and 2 the absolute error is what counts, about 1e-15.
    """
    positive = xp.where(x < 0.5, 1.0 - x, x)
    product = xp.ones_like(positive)
    shifted = positive
    for _ in range(int(_ASYMPTOTIC)):
        small = shifted < _ASYMPTOTIC
        product = xp.where(small, product * shifted, product)
        shifted = xp.where(small, shifted + 1.0, shifted)
    inverse = 1.0 / shifted
    square = xp.square(inverse)
    series = inverse * _polynomial(_STIRLING[::-1], square)
    value = (shifted - 0.5) * xp.log(shifted) - shifted + _LOG_SQRT_TWO_PI + series - xp.log(product)
    value = xp.where(xp.isinf(positive), math.inf, value)
    value = xp.where((positive == 1.0) | (positive == 2.0), 0.0, value)
    sine = xp.absolute(xp.sin(math.pi * (x - xp.rint(x))))
    reflected = math.log(math.pi) - xp.log(sine) - value
    result = xp.where(x < 0.5, reflected, value)
    pole = (x <= 0) & (xp.floor(x) == x)
    return xp.where(pole | xp.isinf(x), math.inf, result)


def digamma(xp: Any, x: Any) -> Any:
    """Return the derivative of log gamma of a float64 array: NaN at the poles."""
    reflect = x <= 0
    positive = xp.where(reflect, 1.0 - x, x)
    total = xp.zeros_like(positive)
    shifted = positive
    for _ in range(int(_ASYMPTOTIC)):
        small = shifted < _ASYMPTOTIC
        total = xp.where(small, total - 1.0 / shifted, total)
        shifted = xp.where(small, shifted + 1.0, shifted)
    square = xp.square(1.0 / shifted)
    value = total + xp.log(shifted) - 0.5 / shifted - square * _polynomial(_DIGAMMA[::-1], square)
    offset = x - xp.rint(x)
    value = xp.where(reflect, value - math.pi / xp.tan(math.pi * offset), value)
    pole = reflect & (xp.floor(x) == x)
    return xp.where(pole, math.nan, value)


def erfinv(xp: Any, x: Any) -> Any:
    """Return the inverse of the error function of a float64 array: NaN outside [-1, 1].

    Winitzki's closed approximation (relative error 2e-3), then Halley's method on erfc, which keeps the digits near
    one: each step cubes the error.
    """
    size = xp.absolute(x)
    a = 0.147
    logarithm = xp.log1p(-xp.square(size))
    middle = 2.0 / (math.pi * a) + logarithm / 2.0
    y = xp.sqrt(xp.maximum(xp.sqrt(xp.square(middle) - logarithm / a) - middle, 0.0))
    y = xp.minimum(y, 6.0)
    for _ in range(3):
        # Below one half the difference is taken of erf, above of erfc, whichever keeps more digits.
        error = xp.where(size < 0.5, erf(xp, y) - size, (1.0 - size) - erfc(xp, y))
        step = error / (2.0 * _INVERSE_SQRT_PI * xp.exp(-xp.square(y)))
        y = y - step / (1.0 + y * step)
    result = xp.copysign(y, x)
    result = xp.where(size == 1.0, xp.copysign(math.inf, x), result)
    return xp.where(size > 1.0, math.nan, result)


def in_double(function: Callable[[Any, Any], Any], xp: Any, dtype: Any) -> Callable[[Any], Any]:
    """Return a function of arrays of `dtype` that computes in float64 and rounds once."""

    def run(x: Any) -> Any:
        return xp.asarray(function(xp, x.astype(xp.float64))).astype(dtype)

    return run
