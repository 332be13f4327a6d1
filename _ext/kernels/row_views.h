/* Views of rows of arrays. */
#ifndef TRT_KERNELS_ROW_VIEWS_H
#define TRT_KERNELS_ROW_VIEWS_H

#include "kernels/array_access.h"

/* Rows of a C-contiguous array as a view: `count` of them from row `first` on, or that row by itself when `count` is
 * negative. */
static PyObject *trt_rows(PyObject *value, npy_intp first, npy_intp count, npy_intp row_bytes)
{
    PyArrayObject *array = (PyArrayObject *)value;
    PyArray_Descr *type = PyArray_DESCR(array);
    npy_intp dims[NPY_MAXDIMS];
    int rank = PyArray_NDIM(array) - (count < 0);
    memcpy(dims, PyArray_DIMS(array) + (count < 0), rank * sizeof *dims);
    if (count >= 0)
        dims[0] = count;
    Py_INCREF(type);
    PyObject *view = PyArray_NewFromDescr(&PyArray_Type, type, rank, dims, NULL, PyArray_BYTES(array) + first * row_bytes,
                                          PyArray_FLAGS(array) & (NPY_ARRAY_WRITEABLE | NPY_ARRAY_ALIGNED), NULL);
    if (view == NULL)
        return NULL;
    Py_INCREF(value);
    if (PyArray_SetBaseObject((PyArrayObject *)view, value) < 0) {
        Py_DECREF(view);
        return NULL;
    }
    return view;
}

#endif
