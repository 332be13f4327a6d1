"""Switch numpy's floating-point warnings off while a step runs: a tensor division by zero gives inf, and no more is said.

numpy keeps the setting in a context variable (in older versions per thread). `numpy.errstate` would cost more than
many a small step takes; setting the variable itself costs a tenth of that. Where it is not to be found, the public
functions do.
"""

import numpy

cdef extern from "Python.h":
    object PyContextVar_Set(object variable, object value)
    int PyContextVar_Reset(object variable, object token) except -1

cdef object _variable = None
cdef object _silent = None

try:
    from numpy._core.umath import _extobj_contextvar, _make_extobj
except ImportError:
    pass
else:
    _variable = _extobj_contextvar
    _silent = _make_extobj(all="ignore")


cdef object silence_warnings():
    if _variable is not None:
        return PyContextVar_Set(_variable, _silent)
    return numpy.seterr(all="ignore")


cdef int restore_warnings(object former) except -1:
    if _variable is not None:
        PyContextVar_Reset(_variable, former)
    else:
        numpy.seterr(**former)
    return 0
