/* Special functions that C's library lacks, in double precision.
 *
 * Each is written from its series, continued fraction or asymptotic expansion, with a bound on the terms taken, so that
 * no argument costs more than some microseconds. Relative errors are about 1e-14 in the middle of the domains; what is
 * worse is said beside the function.
 */
#ifndef TRT_SPECIAL_FUNCTIONS_H
#define TRT_SPECIAL_FUNCTIONS_H

#include <math.h>

#define TRT_PI 3.14159265358979323846
#define TRT_LOG_SQRT_TWO_PI 0.91893853320467274178
#define TRT_EPSILON 1.1102230246251565e-16

enum { TRT_MAX_TERMS = 5000 };

/* All have this type. The last argument of those that take fewer than three is the relative size from which a term does
 * not count: TRT_EPSILON, or more where the result is rounded to float. */
typedef double (*trt_function)(double, double, double);

/* --- gamma and its relatives ------------------------------------------------------------------------------------- */

static inline double trt_lgamma(double x)
{
    int sign;
    return lgamma_r(x, &sign); /* the plain one writes the sign to a global variable */
}

/* Psi: the derivative of log gamma. Infinite at 0, NaN at the other poles. */
static inline double trt_digamma(double x)
{
    double reflected = 0.0, over = 0.0, under = 1.0;
    if (x == 0.0)
        return INFINITY;
    if (x < 0.0) {
        double offset = x - rint(x);
        if (offset == 0.0)
            return NAN;
        reflected = -TRT_PI / tan(TRT_PI * offset);
        x = 1.0 - x;
    }
    /* the terms of the recurrence, 1 / x and so on, as one fraction */
    for (; x < 10.0; x += 1.0) {
        over = over * x + under;
        under *= x;
    }
    double y = 1.0 / (x * x);
    /* B(2k) / (2k), k = 7 .. 1 */
    double series = y * (1.0 / 12 - y * (1.0 / 120 - y * (1.0 / 252 - y * (1.0 / 240 - y * (1.0 / 132
                    - y * (691.0 / 32760 - y * (1.0 / 12)))))));
    return log(x) - 0.5 / x - over / under - series + reflected;
}

/* log of gamma(x) over its leading approximation sqrt(2 pi / x) (x / e)^x, for x >= 10 */
static inline double trt_stirling_rest(double x)
{
    double y = 1.0 / (x * x);
    return (1.0 / 12 - y * (1.0 / 360 - y * (1.0 / 1260 - y * (1.0 / 1680 - y * (1.0 / 1188
            - y * (691.0 / 360360 - y * (1.0 / 156))))))) / x;
}

/* x - log(1 + x), exact near zero */
static inline double trt_log1p_rest(double x)
{
    if (fabs(x) > 0.1)
        return x - log1p(x);
    double term = x * x, total = 0.0;
    for (int n = 2; n < 24; n++) {
        double next = total + term / n;
        if (next == total)
            break;
        total = next;
        term *= -x;
    }
    return total;
}

/* x^a e^-x / gamma(a + 1) */
static inline double trt_gamma_density(double a, double x)
{
    if (a >= 10.0) {
        double exponent = a * trt_log1p_rest((x - a) / a) + trt_stirling_rest(a);
        return exp(-exponent) / sqrt(2.0 * TRT_PI * a);
    }
    return exp(a * log(x) - x - trt_lgamma(a + 1.0));
}

/* The lower incomplete gamma function over gamma(a) by its series, for x below about a + 1, and with `slope` its
 * derivative by a. */
static inline double trt_igamma_series(double a, double x, double tolerance, double *slope)
{
    double term = 1.0, term_slope = 0.0, sum = 1.0, sum_slope = 0.0;
    for (int n = 1; n < TRT_MAX_TERMS; n++) {
        double ratio = x / (a + n);
        term_slope = (term_slope - term / (a + n)) * ratio;
        term *= ratio;
        sum += term;
        sum_slope += term_slope;
        if (term <= tolerance * sum && (!slope || fabs(term_slope) <= tolerance * fabs(sum_slope)))
            break;
    }
    double density = trt_gamma_density(a, x);
    if (slope)
        *slope = density * ((log(x) - trt_digamma(a + 1.0)) * sum + sum_slope);
    return density * sum;
}

/* The upper one by Legendre's continued fraction, for x above a. */
static inline double trt_igammac_fraction(double a, double x, double tolerance, double *slope)
{
    /* Numerators p and denominators q of two successive fractions, and their derivatives by a. */
    double b = x + 1.0 - a;
    double p0 = 0.0, p1 = 1.0, q0 = 1.0, q1 = b;
    double dp0 = 0.0, dp1 = 0.0, dq0 = 0.0, dq1 = -1.0;
    double value = p1 / q1, value_slope = -dq1 * p1 / (q1 * q1);
    for (int n = 1; n < TRT_MAX_TERMS; n++) {
        double up = n * (a - n);
        b += 2.0;
        double p = b * p1 + up * p0, q = b * q1 + up * q0;
        double dp = b * dp1 - p1 + up * dp0 + n * p0, dq = b * dq1 - q1 + up * dq0 + n * q0;
        p0 = p1, q0 = q1, p1 = p, q1 = q;
        dp0 = dp1, dq0 = dq1, dp1 = dp, dq1 = dq;
        if (q == 0.0)
            continue;
        double next = p / q, next_slope = (dp - next * dq) / q;
        int done = fabs(next - value) <= tolerance * fabs(next)
                   && (!slope || fabs(next_slope - value_slope) <= 4 * tolerance * fabs(next_slope));
        value = next, value_slope = next_slope;
        if (done)
            break;
        if (fabs(q) > 1e100) {
            p0 *= 1e-100, q0 *= 1e-100, p1 *= 1e-100, q1 *= 1e-100;
            dp0 *= 1e-100, dq0 *= 1e-100, dp1 *= 1e-100, dq1 *= 1e-100;
        }
    }
    double density = trt_gamma_density(a, x) * a; /* over gamma(a) */
    if (slope)
        *slope = density * ((log(x) - trt_digamma(a)) * value + value_slope);
    return density * value;
}

/* Both halves for large a by Temme's uniform expansion: the lower one is returned, `upper` and the derivative of the
 * lower one by a are stored. */
static inline double trt_igamma_uniform(double a, double x, double *upper, double *slope)
{
    double mu = (x - a) / a, logarithm = log1p(mu);
    double y = copysign(sqrt(a * trt_log1p_rest(mu)), mu);
    double eta = y * sqrt(2.0 / a), bell = exp(-y * y) / sqrt(2.0 * TRT_PI * a);
    double c0 = -1.0 / 3 + eta * (1.0 / 12 + eta * (-2.0 / 135 + eta * (1.0 / 864 + eta * (1.0 / 2835
                + eta * (-139.0 / 777600)))));
    double c1 = -1.0 / 540 - eta / 288;
    double rest = bell * (c0 + c1 / a);
    *upper = 0.5 * erfc(y) + rest;
    if (slope) {
        double c0_slope = 1.0 / 12 + eta * (-4.0 / 135 + eta * (1.0 / 288 + eta * (4.0 / 2835)));
        double y_slope = fabs(mu) < 1e-9 ? -1.0 / sqrt(2.0 * a) : -logarithm / (2.0 * y);
        double eta_slope = y_slope * sqrt(2.0 / a) - eta / (2.0 * a);
        *slope = exp(-y * y) / sqrt(TRT_PI) * y_slope - rest * (logarithm - 0.5 / a)
                 - bell * (c0_slope * eta_slope - c1 / (a * a));
    }
    return 0.5 * erfc(-y) - rest;
}

#define TRT_UNIFORM_FROM 1e5

static inline double trt_igamma(double a, double x, double tolerance)
{
    double upper;
    if (isnan(a) || isnan(x) || x < 0.0 || a <= 0.0 || isinf(a))
        return x == 0.0 ? 0.0 : NAN;
    if (x == 0.0 || isinf(x))
        return x == 0.0 ? 0.0 : 1.0;
    if (a > TRT_UNIFORM_FROM)
        return trt_igamma_uniform(a, x, &upper, 0);
    return x > 1.0 && x > a ? 1.0 - trt_igammac_fraction(a, x, tolerance, 0) : trt_igamma_series(a, x, tolerance, 0);
}

static inline double trt_igammac(double a, double x, double tolerance)
{
    double upper;
    if (isnan(a) || isnan(x) || x < 0.0 || a <= 0.0 || isinf(a))
        return NAN;
    if (x == 0.0 || isinf(x))
        return x == 0.0 ? 1.0 : 0.0;
    if (a > TRT_UNIFORM_FROM) {
        trt_igamma_uniform(a, x, &upper, 0);
        return upper;
    }
    return x > 1.0 && x > a ? trt_igammac_fraction(a, x, tolerance, 0) : 1.0 - trt_igamma_series(a, x, tolerance, 0);
}

static inline double trt_igamma_grad_a(double a, double x, double tolerance)
{
    double upper, slope;
    if (x == 0.0)
        return 0.0;
    if (isnan(a) || isnan(x) || x < 0.0 || a <= 0.0 || isinf(a))
        return NAN;
    if (isinf(x))
        return 0.0;
    if (a > TRT_UNIFORM_FROM) {
        trt_igamma_uniform(a, x, &upper, &slope);
        return slope;
    }
    if (x > 1.0 && x > a) {
        trt_igammac_fraction(a, x, tolerance, &slope);
        return -slope;
    }
    trt_igamma_series(a, x, tolerance, &slope);
    return slope;
}

/* --- Hurwitz' zeta function and polygamma ------------------------------------------------------------------------ */

/* sum of (q + k)^-x over k >= 0 for q > 0 and x > 1: the first terms, then Euler and Maclaurin's formula */
static inline double trt_zeta_positive(double x, double q, double tolerance)
{
    /* B(2k) / (2k)! */
    static const double coefficients[] = {
        1.0 / 12, -1.0 / 720, 1.0 / 30240, -1.0 / 1209600, 1.0 / 47900160, -691.0 / 1307674368000.0,
        1.0 / 74724249600.0, -3617.0 / 10670622842880000.0, 43867.0 / 5109094217170944000.0,
        -174611.0 / 802857662698291200000.0, 77683.0 / 14101100039391805440000.0,
    };
    double sum = 0.0;
    for (int k = 0; k < 12; k++, q += 1.0) {
        double term = pow(q, -x);
        sum += term;
        if (term <= tolerance * sum)
            return sum;
    }
    double power = pow(q, -x);
    sum += power * q / (x - 1.0) + 0.5 * power;
    double factor = x, scale = power / q;
    for (int k = 0; k < 11; k++) {
        double term = coefficients[k] * factor * scale;
        sum += term;
        if (fabs(term) <= tolerance * fabs(sum))
            break;
        factor *= (x + 2 * k + 1) * (x + 2 * k + 2);
        scale /= q * q;
    }
    return sum;
}

static inline double trt_zeta(double x, double q, double tolerance)
{
    if (x == 1.0)
        return INFINITY;
    if (!(x > 1.0) || isnan(q))
        return NAN;
    if (q > 0.0)
        return trt_zeta_positive(x, q, tolerance);
    double whole = floor(q);
    if (q == whole) /* one term is infinite */
        return x == floor(x) && fmod(x, 2.0) == 0.0 ? INFINITY : NAN;
    if (x != floor(x))
        return NAN;
    /* The terms below zero, and those above it; the former are a difference of two functions of positive arguments. */
    double fraction = q - whole, sign = fmod(x, 2.0) == 0.0 ? 1.0 : -1.0;
    double below = trt_zeta_positive(x, 1.0 - fraction, tolerance) - trt_zeta_positive(x, 1.0 - q, tolerance);
    return trt_zeta_positive(x, fraction, tolerance) + sign * below;
}

static inline double trt_polygamma(double n, double x, double tolerance)
{
    if (!(n >= 0.0) || n != floor(n))
        return NAN;
    if (n == 0.0)
        return x == 0.0 ? NAN : trt_digamma(x);
    double sign = fmod(n, 2.0) == 0.0 ? -1.0 : 1.0;
    return sign * exp(trt_lgamma(n + 1.0)) * trt_zeta(n + 1.0, x, tolerance);
}

/* --- the incomplete beta integral -------------------------------------------------------------------------------- */

/* x^a (1 - x)^b / B(a, b) */
static inline double trt_beta_density(double a, double b, double x)
{
    double sum = a + b;
    if (a >= 10.0 && b >= 10.0) {
        double gap = x * b - (1.0 - x) * a;
        double exponent = a * trt_log1p_rest(gap / a) + b * trt_log1p_rest(-gap / b);
        double rest = trt_stirling_rest(sum) - trt_stirling_rest(a) - trt_stirling_rest(b);
        return sqrt(a / (2.0 * TRT_PI) * (b / sum)) * exp(rest - exponent);
    }
    return exp(a * log(x) + b * log1p(-x) + trt_lgamma(sum) - trt_lgamma(a) - trt_lgamma(b));
}

/* The continued fraction that converges fast for x below (a + 1) / (a + b + 2), by Lentz' method. */
static inline double trt_beta_fraction(double a, double b, double x)
{
    const double tiny = 1e-300;
    double c = 1.0, d = 1.0 - (a + b) * x / (a + 1.0);
    d = 1.0 / (fabs(d) < tiny ? tiny : d);
    double value = d;
    for (int m = 1; m < TRT_MAX_TERMS; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m));
        d = 1.0 + even * d;
        c = 1.0 + even / c;
        d = 1.0 / (fabs(d) < tiny ? tiny : d);
        c = fabs(c) < tiny ? tiny : c;
        value *= d * c;
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0));
        d = 1.0 + odd * d;
        c = 1.0 + odd / c;
        d = 1.0 / (fabs(d) < tiny ? tiny : d);
        c = fabs(c) < tiny ? tiny : c;
        value *= d * c;
        if (fabs(d * c - 1.0) <= 2 * TRT_EPSILON)
            break;
    }
    return value;
}

static inline double trt_betainc(double a, double b, double x)
{
    if (!(a > 0.0) || !(b > 0.0) || !(x >= 0.0) || x > 1.0)
        return NAN;
    if (x == 0.0 || x == 1.0)
        return x;
    if (x < (a + 1.0) / (a + b + 2.0))
        return trt_beta_density(a, b, x) * trt_beta_fraction(a, b, x) / a;
    return 1.0 - trt_beta_density(a, b, x) * trt_beta_fraction(b, a, 1.0 - x) / b;
}

/* --- the normal distribution's quantiles --------------------------------------------------------------------------- */

static inline double trt_ndtri(double p, double unused, double tolerance)
{
    const double root = 0.70710678118654752440, bell = 0.39894228040143267794;
    (void)unused;
    if (!(p >= 0.0) || p > 1.0)
        return NAN;
    if (p == 0.0 || p == 1.0)
        return p == 0.0 ? -INFINITY : INFINITY;
    double middle = p - 0.5, tail = p < 0.5 ? p : 1.0 - p;
    if (middle == 0.0)
        return 0.0;
    /* A first value good to three digits (Abramowitz and Stegun 26.2.23); each of Halley's steps cubes the error. */
    double t = sqrt(-2.0 * log(tail));
    double z = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
    for (int i = tolerance > TRT_EPSILON; i < 2; i++) {
        double density = bell * exp(-0.5 * z * z);
        /* Near the middle the difference is taken there, where it keeps its digits. */
        double error = fabs(middle) < 0.25 ? fabs(middle) - 0.5 * erf(z * root) : 0.5 * erfc(z * root) - tail;
        double step = error / density;
        z += step / (1.0 - 0.5 * z * step);
    }
    return copysign(z, middle);
}

/* --- modified Bessel functions of the first kind ------------------------------------------------------------------- */

/* e^-|x| I(order, |x|) for order 0 and 1 */
static inline double trt_bessel_scaled(int order, double x, double tolerance)
{
    double size = fabs(x), sum = 1.0, term = 1.0;
    if (isinf(x))
        return 0.0;
    if (size < 25.0) { /* all terms are positive */
        double y = 0.25 * size * size;
        for (int k = 1; k < 100; k++) {
            term *= y / (k * (double)(k + order));
            sum += term;
            if (term <= tolerance * sum)
                break;
        }
        return exp(-size) * (order ? 0.5 * size * sum : sum);
    }
    double mu = order ? 4.0 : 0.0; /* 4 order^2 */
    for (int k = 1; k < 40; k++) {
        double odd = 2 * k - 1;
        term *= -(mu - odd * odd) / (k * 8.0 * size);
        sum += term;
        if (fabs(term) <= tolerance * fabs(sum))
            break;
    }
    return sum / sqrt(2.0 * TRT_PI * size);
}

static inline double trt_bessel_i0e(double x, double unused, double tolerance)
{
    (void)unused;
    return trt_bessel_scaled(0, x, tolerance);
}

static inline double trt_bessel_i1e(double x, double unused, double tolerance)
{
    (void)unused;
    return copysign(trt_bessel_scaled(1, x, tolerance), x);
}

/* exp(|x|) in two factors: the product is finite for a while after exp(|x|) is not. */
static inline double trt_bessel_i0(double x, double unused, double tolerance)
{
    double half = exp(0.5 * fabs(x));
    (void)unused;
    return isinf(x) ? INFINITY : half * trt_bessel_scaled(0, x, tolerance) * half;
}

static inline double trt_bessel_i1(double x, double unused, double tolerance)
{
    double half = exp(0.5 * fabs(x));
    (void)unused;
    return isinf(x) ? x : copysign(half * trt_bessel_scaled(1, x, tolerance) * half, x);
}

/* --- digamma and the inverse of the error function ------------------------------------------------------------------ */

static double trt_digamma_of(double x, double unused, double tolerance)
{
    (void)unused;
    (void)tolerance;
    return x == 0.0 ? NAN : trt_digamma(x); /* as TensorFlow has it: no side is the right one */
}

/* Winitzki's closed approximation, to a five-hundredth, then Halley's method, which cubes the error at each step; of erf
 * below one half, and of erfc above, whichever keeps more digits. Steps end where they change nothing. */
static double trt_erfinv(double x, double unused, double tolerance)
{
    const double size = fabs(x), a = 0.147;
    double logarithm, middle, y;
    (void)unused;
    if (!(size < 1.0))
        return size == 1.0 ? copysign(INFINITY, x) : NAN;
    logarithm = log1p(-size * size);
    middle = 2.0 / (TRT_PI * a) + logarithm / 2.0;
    /* near 0 the root loses all its digits */
    y = size < 1e-4 ? size * (sqrt(TRT_PI) / 2) : sqrt(sqrt(middle * middle - logarithm / a) - middle);
    for (int turn = 0; turn < 3; turn++) {
        const double error = size < 0.5 ? erf(y) - size : (1.0 - size) - erfc(y);
        const double step = error / (2.0 / sqrt(TRT_PI) * exp(-y * y));
        const double change = step / (1.0 + y * step);
        y -= change;
        if (fabs(change) < 1e-5 * y && fabs(change) * fabs(change) * fabs(change) < tolerance * y * y * y)
            break;
    }
    return copysign(y, x);
}

#endif
