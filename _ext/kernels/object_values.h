/* Arrays of Python objects, and access to arrays that need not be of one kind. */
#ifndef TRT_KERNELS_OBJECT_VALUES_H
#define TRT_KERNELS_OBJECT_VALUES_H

#include "kernels/array_access.h"
#include "kernels/simd.h"

#define TRT_IS_ARRAY(value) PyArray_CheckExact(value)
#define TRT_TYPE(array) PyArray_TYPE((PyArrayObject *)(array))
#define TRT_RANK(array) PyArray_NDIM((PyArrayObject *)(array))
#define TRT_DIMS(array) PyArray_DIMS((PyArrayObject *)(array))
#define TRT_SIZE(array) PyArray_SIZE((PyArrayObject *)(array))
#define TRT_NBYTES(array) PyArray_NBYTES((PyArrayObject *)(array))
#define TRT_BYTES(array) PyArray_BYTES((PyArrayObject *)(array))
#define TRT_ELEMENT(array) (*(PyObject **)PyArray_DATA((PyArrayObject *)(array)))

/* The value of a scalar index, -1 where it is none. */
static inline long long trt_index_of(PyObject *value)
{
    return trt_is_plain(value, NPY_INT32) && TRT_RANK(value) == 0 ? *(const trt_mem_i32 *)TRT_BYTES(value) : -1;
}

/* A scalar array of one object. */
static inline PyObject *trt_scalar_of(PyObject *element)
{
    PyObject *made = PyArray_SimpleNew(0, NULL, NPY_OBJECT);
    if (made != NULL) {
        PyObject **place = (PyObject **)PyArray_DATA((PyArrayObject *)made);
        PyObject *former = *place;
        Py_INCREF(element);
        *place = element;
        Py_XDECREF(former);
    }
    return made;
}

#endif
