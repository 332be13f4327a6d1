"""Variables as kernels get them: behind references, behind handles; held, and changed in place where that is allowed."""

from cpython.object cimport PyObject

from runtime._ext.variable cimport Variable

cdef extern from "kernels/array_access.h":
    bint trt_is_plain(PyObject *value, int type)

cdef extern from *:
    """
    #define TRT_REFCNT(object) Py_REFCNT(object)
    #define TRT_NDIM(array) PyArray_NDIM((PyArrayObject *)(array))
    #define TRT_SIZE(array) PyArray_SIZE((PyArrayObject *)(array))
    #define TRT_DATA(array) ((void *)PyArray_DATA((PyArrayObject *)(array)))
    #define TRT_SAME_SHAPE(x, y) trt_same_shape((PyArrayObject *)(x), (PyArrayObject *)(y))
    #define TRT_HAS_FLAGS(array, flags) PyArray_CHKFLAGS((PyArrayObject *)(array), flags)
    #define TRT_NEW_LIKE(array) trt_new_like((PyArrayObject *)(array), PyArray_TYPE((PyArrayObject *)(array)))
    #define TRT_IS_ARRAY(value) PyArray_CheckExact(value)
    #define TRT_TYPE(array) PyArray_TYPE((PyArrayObject *)(array))
    """
    Py_ssize_t TRT_REFCNT(PyObject *value)
    int TRT_NDIM(PyObject *array)
    Py_ssize_t TRT_SIZE(PyObject *array)
    void *TRT_DATA(PyObject *array)
    bint TRT_SAME_SHAPE(PyObject *x, PyObject *y)
    bint TRT_HAS_FLAGS(PyObject *array, int flags)
    PyObject *TRT_NEW_LIKE(PyObject *array) except NULL
    bint TRT_IS_ARRAY(PyObject *value)
    int TRT_TYPE(PyObject *array)

cdef enum:
    MAX_HELD = 4

# A variable behind a reference or, with `by_handle`, behind a scalar resource tensor; borrowed, NULL for anything else.
cdef PyObject *find_variable(PyObject *value, bint by_handle) noexcept

# The variable's array, borrowed, when it is plain and aligned and of a type; else NULL. Only with the lock held, or
# while nobody holds it and the GIL is kept.
cdef PyObject *plain_value(PyObject *variable, int type_number) noexcept

# Whether the variable alone holds its array, which may then be changed in place.
cdef bint changeable(PyObject *array) noexcept


# Variables that are held while they are changed. With `long_work` their locks are taken, for the GIL is given up; else
# it is enough that nobody holds one.
cdef struct Held:
    int count
    bint locked
    PyObject *variables[MAX_HELD]

# Hold them; each may be named once. 0: held. 1: one is named twice, nothing is held.
cdef int hold(Held *held, bint long_work) except -1
cdef int let_go(Held *held) except -1
