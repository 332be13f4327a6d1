"""Special functions of C's library over arrays, without the temporaries that a formula over whole arrays needs.

Callers are the kernels of the element-wise ops on a CPU. Each loop releases the GIL.
"""

cimport numpy as cnp
from libc.math cimport erf as c_erf
from libc.math cimport erfc as c_erfc

cnp.import_array()

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
