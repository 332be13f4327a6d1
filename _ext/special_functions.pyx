"""Special functions over arrays, without the temporaries that a formula over whole arrays needs.

Callers are the kernels of the element-wise ops on a CPU. Each loop releases the GIL. Functions of C's library are
computed in the array's type; the others in double precision, by the threads of the worker pool where there is much to
do, and rounded once.
"""

cimport numpy as cnp
from libc.math cimport erf as c_erf
from libc.math cimport erfc as c_erfc

from runtime._ext.worker_pool cimport parallel_ranges

cnp.import_array()

cdef extern from "special_functions.h" nogil:
    double TRT_EPSILON
    ctypedef double (*trt_function)(double, double, double) noexcept
    double trt_igamma(double, double, double) noexcept
    double trt_igammac(double, double, double) noexcept
    double trt_igamma_grad_a(double, double, double) noexcept
    double trt_zeta(double, double, double) noexcept
    double trt_polygamma(double, double, double) noexcept
    double trt_betainc(double, double, double) noexcept
    double trt_ndtri(double, double, double) noexcept
    double trt_digamma_of(double, double, double) noexcept
    double trt_erfinv(double, double, double) noexcept
    double trt_bessel_i0e(double, double, double) noexcept
    double trt_bessel_i1e(double, double, double) noexcept
    double trt_bessel_i0(double, double, double) noexcept
    double trt_bessel_i1(double, double, double) noexcept

cdef extern from "<math.h>" nogil:
    float erff(float)
    float erfcf(float)
    # The plain lgamma writes the sign to a global variable.
    double lgamma_r(double, int *)
    float lgammaf_r(float, int *)

ctypedef fused real:
    float
    double

cdef enum Function:
    ERF
    ERFC
    LGAMMA


cdef inline real _apply(Function function, real value) noexcept nogil:
    cdef int sign
    if real is float:
        if function == ERF:
            return erff(value)
        if function == ERFC:
            return erfcf(value)
        return lgammaf_r(value, &sign)
    else:
        if function == ERF:
            return c_erf(value)
        if function == ERFC:
            return c_erfc(value)
        return lgamma_r(value, &sign)


cdef void _loop(Function function, const real *source, real *target, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    # One loop for each function, so that no element pays for the choice.
    if function == ERF:
        for i in range(size):
            target[i] = _apply[real](ERF, source[i])
    elif function == ERFC:
        for i in range(size):
            target[i] = _apply[real](ERFC, source[i])
    else:
        for i in range(size):
            target[i] = _apply[real](LGAMMA, source[i])


cdef object _map(Function function, x):
    """Return the function of a float32 or float64 array, as a new array of the same type and shape."""
    cdef cnp.ndarray source = cnp.PyArray_FROM_OF(x, cnp.NPY_ARRAY_CARRAY_RO | cnp.NPY_ARRAY_NOTSWAPPED)
    cdef cnp.ndarray target = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(source), cnp.PyArray_DIMS(source),
                                                cnp.PyArray_TYPE(source), 0)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(source)
    cdef void *read = cnp.PyArray_DATA(source)
    cdef void *written = cnp.PyArray_DATA(target)
    if cnp.PyArray_TYPE(source) == cnp.NPY_FLOAT32:
        with nogil:
            _loop[float](function, <const float *>read, <float *>written, size)
    elif cnp.PyArray_TYPE(source) == cnp.NPY_FLOAT64:
        with nogil:
            _loop[double](function, <const double *>read, <double *>written, size)
    else:
        raise TypeError(f"float32 or float64 is needed, not {source.dtype}")
    return target


def erf(x):
    """Return the error function of a float32 or float64 array."""
    return _map(ERF, x)


def erfc(x):
    """Return one minus the error function of a float32 or float64 array."""
    return _map(ERFC, x)


def lgamma(x):
    """Return the logarithm of the absolute value of the gamma function of a float32 or float64 array."""
    return _map(LGAMMA, x)


# --- functions of this project, of up to three arguments --------------------------------------------------------------

cdef enum:
    GRAIN = 2048  # elements that a thread takes at a time: 50 microseconds or more

cdef double FLOAT_TOLERANCE = 1e-9


cdef struct Job:
    trt_function function
    int num_inputs
    bint is_double
    double tolerance
    const void *inputs[3]
    void *output


cdef inline double _read(const Job *job, int place, Py_ssize_t i) noexcept nogil:
    if place >= job.num_inputs:
        return job.tolerance
    if job.is_double:
        return (<const double *>job.inputs[place])[i]
    return (<const float *>job.inputs[place])[i]


cdef void _fill(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef const Job *job = <const Job *>context
    cdef Py_ssize_t i
    cdef double value
    for i in range(begin, end):
        value = job.function(_read(job, 0, i), _read(job, 1, i), _read(job, 2, i))
        if job.is_double:
            (<double *>job.output)[i] = value
        else:
            (<float *>job.output)[i] = <float>value


cdef object _combine(trt_function function, tuple arrays):
    """Return a function of float32 or of float64 arrays of one shape, as a new array."""
    cdef list sources = [cnp.PyArray_FROM_OF(array, cnp.NPY_ARRAY_CARRAY_RO | cnp.NPY_ARRAY_NOTSWAPPED)
                         for array in arrays]
    cdef cnp.ndarray first = sources[0]
    cdef cnp.ndarray target, source
    cdef Job job
    cdef Py_ssize_t size = cnp.PyArray_SIZE(first)
    cdef int kind = cnp.PyArray_TYPE(first)
    if kind != cnp.NPY_FLOAT32 and kind != cnp.NPY_FLOAT64:
        raise TypeError(f"float32 or float64 is needed, not {first.dtype}")
    job.function = function
    job.is_double = kind == cnp.NPY_FLOAT64
    job.tolerance = TRT_EPSILON if job.is_double else FLOAT_TOLERANCE
    job.num_inputs = len(sources)
    for place in range(job.num_inputs):
        source = sources[place]
        if cnp.PyArray_TYPE(source) != kind or not cnp.PyArray_SAMESHAPE(source, first):
            raise TypeError("arrays of one shape and type are needed")
        job.inputs[place] = cnp.PyArray_DATA(source)
    target = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(first), cnp.PyArray_DIMS(first), kind, 0)
    job.output = cnp.PyArray_DATA(target)
    with nogil:
        parallel_ranges(_fill, &job, size, GRAIN)
    return target


def igamma(a, x):
    """Return the regularised lower incomplete gamma function P(a, x) of two arrays of one shape and type."""
    return _combine(trt_igamma, (a, x))


def igammac(a, x):
    """Return the regularised upper incomplete gamma function Q(a, x)."""
    return _combine(trt_igammac, (a, x))


def igamma_grad_a(a, x):
    """Return the derivative of P(a, x) by a."""
    return _combine(trt_igamma_grad_a, (a, x))


def zeta(x, q):
    """Return Hurwitz' zeta function, the sum of (q + k)^-x over all k >= 0."""
    return _combine(trt_zeta, (x, q))


def polygamma(n, x):
    """Return the n-th derivative of digamma at x, for whole n >= 0."""
    return _combine(trt_polygamma, (n, x))


def betainc(a, b, x):
    """Return the regularised incomplete beta integral I_x(a, b)."""
    return _combine(trt_betainc, (a, b, x))


def ndtri(p):
    """Return the quantiles of the standard normal distribution."""
    return _combine(trt_ndtri, (p,))


def digamma(x):
    """Return the derivative of log gamma: NaN at the poles."""
    return _combine(trt_digamma_of, (x,))


def erfinv(x):
    """Return the inverse of the error function: NaN outside [-1, 1]."""
    return _combine(trt_erfinv, (x,))


def bessel_i0(x):
    """Return the modified Bessel function of order 0."""
    return _combine(trt_bessel_i0, (x,))


def bessel_i1(x):
    """Return the modified Bessel function of order 1."""
    return _combine(trt_bessel_i1, (x,))


def bessel_i0e(x):
    """Return the modified Bessel function of order 0 times exp(-abs(x))."""
    return _combine(trt_bessel_i0e, (x,))


def bessel_i1e(x):
    """Return the modified Bessel function of order 1 times exp(-abs(x))."""
    return _combine(trt_bessel_i1e, (x,))
