# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Distributions that draw until a value is accepted: gamma, Poisson, and the normal between bounds.

The values are TensorFlow's for the same stream. Gamma and Poisson give each value a stretch of the stream of its own; a
stretch is read in blocks of four words, and the numbers of a block are used last one first. Callers are the kernels of
random ops, which reserve the streams. Each loop releases the GIL, and ends early once the calling thread's step is
cancelled.
"""

import numpy as np

from libc.math cimport exp, expf, fabs, floor, isfinite, isinf, log, log1p, logf, pow, sqrt, sqrtf
from libc.stdint cimport uint32_t, uint64_t

from runtime._ext.philox cimport (Philox, State, box_muller_double, box_muller_float, next_block, skip_blocks,
                                  unit_double, unit_float)
from runtime._ext.running_step cimport stop_flag

cdef extern from "<math.h>" nogil:
    # The plain lgamma writes the sign to a global variable.
    double lgamma_r(double, int *)

cdef enum:
    BLOCKS_PER_VALUE = 256  # stretch of the stream that a value of gamma or Poisson may use
    MAX_REDRAWS = 10000     # of a Poisson value: at large rates all of them may be above the highest
    MAX_TRIES = 1000        # of the normal between bounds, before a value is taken as it is

ctypedef fused real:
    float
    double


cdef struct Uniforms:  # numbers of a block that are left
    double values[2]
    int left


cdef inline double _uniform(State *state, Uniforms *uniforms) noexcept nogil:
    cdef uint32_t block[4]
    if uniforms.left == 0:
        next_block(state, block)
        uniforms.values[0] = unit_double(block[0], block[1])
        uniforms.values[1] = unit_double(block[2], block[3])
        uniforms.left = 2
    uniforms.left -= 1
    return uniforms.values[uniforms.left]


cdef double _gamma(State state, double alpha) noexcept nogil:
    """Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26 (2000)."""
    cdef Uniforms uniforms
    cdef double normals[2]
    cdef uint32_t block[4]
    cdef int normals_left = 0
    cdef double shift, scale, x, v, u, square, result
    uniforms.left = 0
    if alpha == 1.0:
        return -log1p(-_uniform(&state, &uniforms))
    # Below 1 the shape is raised by one, and the result drawn down at the end.
    shift = alpha + (2.0 / 3 if alpha < 1 else -1.0 / 3)
    scale = 1.0 / 3 / sqrt(shift)
    while True:
        if normals_left == 0:
            next_block(&state, block)
            box_muller_double(block[0], block[1], block[2], block[3], normals)
            normals_left = 2
        normals_left -= 1
        x = normals[normals_left]
        v = 1 + scale * x
        if v <= 0:
            continue
        v = v * v * v
        u = _uniform(&state, &uniforms)
        square = x * x
        if u < 1 - 0.0331 * square * square or log(u) < 0.5 * square + shift * (1 - v + log(v)):
            result = shift * v
            if alpha < 1:
                result *= pow(_uniform(&state, &uniforms), 1 / alpha)
            return result


def gamma(Philox generator, const double[::1] alpha, Py_ssize_t samples):
    """Return gamma values of rate 1.

    Parameters
    ----------
    generator : Philox
        Where the stream stands; `samples` times ``alpha.size`` stretches of 256 blocks are reserved by the caller.
    alpha : float64 (n,)
        Shapes; what is not positive has no distribution, and gives what the formula gives.
    samples : int
        Values for each shape.

    Returns
    -------
    float64 (samples, n)
    """
    cdef Py_ssize_t count = alpha.shape[0]
    result = np.empty((samples, count), np.float64)
    cdef double[:, ::1] out = result
    cdef State state
    cdef const int *stop = stop_flag()
    cdef Py_ssize_t which, sample
    with nogil:
        for which in range(count):
            for sample in range(samples):
                if stop != NULL and stop[0]:
                    break
                state = generator.state
                skip_blocks(&state, <uint64_t>BLOCKS_PER_VALUE * <uint64_t>(which * samples + sample))
                out[sample, which] = _gamma(state, alpha[which])
    return result


cdef double _knuth(State state, double limit, double highest) noexcept nogil:
    """Count how many uniform numbers can be multiplied before the product falls to `limit`."""
    cdef Uniforms uniforms
    cdef double product = 1, count = 0
    uniforms.left = 0
    while True:
        product = product * _uniform(&state, &uniforms)
        if product <= limit and count <= highest:
            return count
        count += 1


cdef double _hormann(State state, double rate, double highest) noexcept nogil:
    """W. Hormann, "The transformed rejection method for generating Poisson random variables" (1993)."""
    cdef Uniforms uniforms
    cdef double log_rate = log(rate)
    cdef double b = 0.931 + 2.53 * sqrt(rate)
    cdef double a = -0.059 + 0.02483 * b
    cdef double inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    cdef double u, v, shifted, k, s, t
    cdef int sign, tries
    uniforms.left = 0
    for tries in range(MAX_REDRAWS):
        u = _uniform(&state, &uniforms) - 0.5
        v = _uniform(&state, &uniforms)
        shifted = 0.5 - fabs(u)
        k = floor((2 * a / shifted + b) * u + rate + 0.43)
        if k > highest:
            continue
        if shifted >= 0.07 and v <= 0.9277 - 3.6224 / (b - 2):
            return k
        if k < 0 or (shifted < 0.013 and v > shifted):
            continue
        s = log(v * inverse_alpha / (a / (shifted * shifted) + b))
        t = -rate + k * log_rate - lgamma_r(k + 1, &sign)
        if s <= t:
            return k
    return highest


def poisson(Philox generator, const double[::1] rate, Py_ssize_t samples, double highest):
    """Return Poisson values.

    Parameters
    ----------
    generator : Philox
        Where the stream stands; `samples` times ``rate.size`` stretches of 256 blocks are reserved by the caller.
    rate : float64 (n,)
        A negative rate gives 0; NaN and infinity give themselves.
    samples : int
        Values for each rate.
    highest : float
        Values above are drawn again.

    Returns
    -------
    float64 (samples, n)
    """
    cdef Py_ssize_t count = rate.shape[0]
    result = np.empty((samples, count), np.float64)
    cdef double[:, ::1] out = result
    cdef State state
    cdef double one, limit
    cdef const int *stop = stop_flag()
    cdef Py_ssize_t which, sample
    with nogil:
        for which in range(count):
            one = rate[which]
            limit = exp(-one)
            for sample in range(samples):
                if stop != NULL and stop[0]:
                    break
                state = generator.state
                skip_blocks(&state, <uint64_t>BLOCKS_PER_VALUE * <uint64_t>(which * samples + sample))
                if one != one or (isinf(one) and one > 0):
                    out[sample, which] = one
                elif one < 10:
                    out[sample, which] = _knuth(state, limit, highest)
                else:
                    out[sample, which] = _hormann(state, one, highest)
    return result


cdef inline int _uniforms_of(State *state, real *out) noexcept nogil:
    """Draw the uniform numbers of one block; return how many there are."""
    cdef uint32_t block[4]
    cdef int i
    next_block(state, block)
    if real is float:
        for i in range(4):
            out[i] = unit_float(block[i])
        return 4
    else:
        out[0] = unit_double(block[0], block[1])
        out[1] = unit_double(block[2], block[3])
        return 2


cdef inline int _normals_of(State *state, real *out) noexcept nogil:
    """Draw the normal numbers of one block; return how many there are."""
    cdef uint32_t block[4]
    next_block(state, block)
    if real is float:
        box_muller_float(block[0], block[1], out)
        box_muller_float(block[2], block[3], out + 2)
        return 4
    else:
        box_muller_double(block[0], block[1], block[2], block[3], out)
        return 2


cdef inline real _exp(real x) noexcept nogil:
    if real is float:
        return expf(x)
    else:
        return exp(x)


cdef inline real _log(real x) noexcept nogil:
    if real is float:
        return logf(x)
    else:
        return log(x)


cdef inline real _sqrt(real x) noexcept nogil:
    if real is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef int _between(State *state, real mean, real deviation, real low, real high, real *out,
                  Py_ssize_t size) noexcept nogil:
    """Draw `size` normal values in [low, high]; return -1 if the parameters allow none, -2 if none is accepted.

    Of three proposals the one that accepts most is taken (C. P. Robert, "Simulation of truncated normal variables",
    1995): normal values where the bounds lie around the mean, uniform ones between close bounds, else exponential ones.
    """
    cdef real numbers[4]
    cdef real chances[4]
    cdef real swapped, root, cutoff, width, peak, alpha, z, x, first, last
    cdef Py_ssize_t place = 0
    cdef int tries = 0, count, i
    if (isinf(low) and low < 0) or high < mean:  # mirrored, so that the lower bound is the near one
        swapped = low
        low = high
        high = swapped
        deviation = -deviation
    first = (low - mean) / deviation
    last = (high - mean) / deviation
    root = _sqrt[real](first * first + 4)
    cutoff = 2 * _exp[real](<real>0.5 + (first * (first - root)) / 4) / (first + root)
    width = last - first
    if not (first < last and (isfinite(first) or isfinite(last))):
        return -1
    if (first < <real>-1.3 and last >= 0) or (last > <real>1.3 and first <= 0):
        while place < size:
            count = _normals_of[real](state, numbers)
            for i in range(count):
                if first <= numbers[i] <= last:
                    out[place] = numbers[i] * deviation + mean
                    place += 1
                    if place == size:
                        break
                    tries = 0
                else:
                    tries += 1
                    if tries > MAX_TRIES:
                        return -2
    elif width < cutoff:
        peak = 0 if first < 0 else first * first
        while place < size:
            count = _uniforms_of[real](state, numbers)
            _uniforms_of[real](state, chances)
            for i in range(count):
                z = numbers[i] * width + first
                if chances[i] <= _exp[real]((peak - z * z) / 2) or tries + 1 >= MAX_TRIES:
                    out[place] = z * deviation + mean
                    place += 1
                    if place == size:
                        break
                    tries = 0
                else:
                    tries += 1
    else:
        alpha = (first + root) / 2
        while place < size:
            count = _uniforms_of[real](state, numbers)
            i = 0
            while i < count:
                z = -_log[real](numbers[i]) / alpha + first
                x = alpha - z if first < alpha else first - alpha
                i += 2
                if (numbers[i - 1] <= _exp[real](-x * x / 2) and z < last) or tries + 1 >= MAX_TRIES:
                    out[place] = z * deviation + mean
                    place += 1
                    if place == size:
                        break
                    tries = 0
                else:
                    tries += 1
    return 0


def normal_between(Philox generator, real[::1] out, Py_ssize_t batch, const real[::1] means, const real[::1] deviations,
                   const real[::1] lows, const real[::1] highs):
    """Fill an array with normal values between bounds.

    Parameters
    ----------
    generator : Philox
        Where the stream stands. It is read from there on, batch after batch.
    out : float32 or float64 (n,), written
    batch : int
        Values that share parameters; the last batch may be shorter.
    means, deviations, lows, highs : ndarray of the same type, (1,) or (batches,)

    Returns
    -------
    int
        0, or -1 if some parameters allow no value, or -2 if none was accepted.
    """
    cdef State state = generator.state
    cdef Py_ssize_t start = 0, number = 0, size = out.shape[0]
    cdef const int *stop = stop_flag()
    cdef int status = 0
    with nogil:
        while start < size and (stop == NULL or stop[0] == 0):
            status = _between[real](&state, means[number if means.shape[0] > 1 else 0],
                                    deviations[number if deviations.shape[0] > 1 else 0],
                                    lows[number if lows.shape[0] > 1 else 0],
                                    highs[number if highs.shape[0] > 1 else 0], &out[start], min(batch, size - start))
            if status:
                break
            number += 1
            start += batch
    return status


cdef double _digamma(double x) noexcept nogil:
    """The logarithmic derivative of the gamma function for x > 0: upwards by recurrence, then its series."""
    cdef double result = 0, square
    while x < 10:
        result -= 1 / x
        x += 1
    square = 1 / (x * x)
    return result + log(x) - 0.5 / x - square * (1.0 / 12 - square * (1.0 / 120 - square * (
        1.0 / 252 - square * (1.0 / 240 - square * (1.0 / 132 - square * (691.0 / 32760 - square / 12))))))


cdef double _slope_by_series(double a, double x) noexcept nogil:
    """From the power series of the lower incomplete gamma function, and its derivative by `a` term by term."""
    cdef double r = a, c = 1, total = 1, dc = 0, dtotal = 0, term
    cdef int i
    for i in range(500):
        r += 1
        term = x / r
        dc = term * dc - x / (r * r) * c
        dtotal += dc
        c *= term
        total += c
        if fabs(dc) <= 1.1e-16 * fabs(dtotal):
            break
    return -(dtotal + total * (log(x) - _digamma(a + 1))) * x / a


cdef double _slope_by_fraction(double a, double x) noexcept nogil:
    """From the continued fraction of the upper incomplete gamma function, and its derivative by `a`."""
    cdef double y = 1 - a, z = x + y + 1, c = 0
    cdef double p2 = 1, q2 = x, p1 = x + 1, q1 = z * x, p, q
    cdef double dp2 = 0, dq2 = 0, dp1 = 0, dq1 = -x, dp, dq
    cdef double value = p1 / q1, slope, before, yc
    cdef int i
    slope = (dp1 - value * dq1) / q1
    for i in range(500):
        c += 1
        y += 1
        z += 2
        yc = y * c
        p = p1 * z - p2 * yc
        q = q1 * z - q2 * yc
        dp = dp1 * z - p1 - dp2 * yc + p2 * c
        dq = dq1 * z - q1 - dq2 * yc + q2 * c
        if q != 0:
            value = p / q
            before = slope
            slope = (dp - value * dq) / q
            if fabs(slope - before) <= 1.1e-16:
                break
        p2, p1, q2, q1 = p1, p, q1, q
        dp2, dp1, dq2, dq1 = dp1, dp, dq1, dq
        if fabs(p) > 4.5e15:
            p2 *= 2.2e-16
            p1 *= 2.2e-16
            q2 *= 2.2e-16
            q1 *= 2.2e-16
            dp2 *= 2.2e-16
            dp1 *= 2.2e-16
            dq2 *= 2.2e-16
            dq1 *= 2.2e-16
    return (slope + value * (log(x) - _digamma(a))) * x


def gamma_slope(const double[::1] alpha, const double[::1] sample):
    """Return how a gamma value changes with its shape when its place in the distribution stays.

    Parameters
    ----------
    alpha, sample : float64 (n,)

    Returns
    -------
    float64 (n,)
        NaN where the shape is not positive or the sample is negative.
    """
    cdef Py_ssize_t i, size = alpha.shape[0]
    result = np.empty(size, np.float64)
    cdef double[::1] out = result
    cdef double a, x
    with nogil:
        for i in range(size):
            a = alpha[i]
            x = sample[i]
            if x == 0:
                out[i] = 0
            elif not (a > 0 and x > 0):
                out[i] = 0.0 / 0.0
            elif x > 1 and x > a:
                out[i] = _slope_by_fraction(a, x)
            else:
                out[i] = _slope_by_series(a, x)
    return result
