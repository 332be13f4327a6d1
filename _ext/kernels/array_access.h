/* Arrays as kernels take and give them. For modules that have imported numpy's C interface. */
#ifndef TRT_KERNELS_ARRAY_ACCESS_H
#define TRT_KERNELS_ARRAY_ACCESS_H

#include <Python.h>
#include <numpy/arrayobject.h>
#include <string.h>

#include "spare_arrays.h"

/* Bytes read and written by one kernel from which on it lets other threads have the interpreter: some 20 us of work.
 * Getting it back can take a switch interval of milliseconds, so short work keeps it. */
#define TRT_LONG_WORK_BYTES ((npy_intp)1 << 19)

#define TRT_BEGIN_WORK(bytes) \
    { \
        PyThreadState *trt_state = (bytes) > TRT_LONG_WORK_BYTES ? PyEval_SaveThread() : NULL;
#define TRT_END_WORK \
        if (trt_state != NULL) \
            PyEval_RestoreThread(trt_state); \
    }

/* Returns what is not 0 any more once the step that this thread works for is cancelled, or NULL. Set by modules whose
 * kernels look at it; those of others run to their end. */
static const int *(*trt_stop_flag)(void) = NULL;

static inline const int *trt_find_stop(void) { return trt_stop_flag == NULL ? NULL : trt_stop_flag(); }

static inline int trt_stopped(const int *stop) { return stop != NULL && __atomic_load_n(stop, __ATOMIC_RELAXED); }

/* Whether a value is an array of a type, in native byte order, its elements one after the other; aligned or not. */
static inline int trt_is_plain(PyObject *value, int type)
{
    PyArrayObject *array = (PyArrayObject *)value;
    return PyArray_CheckExact(value) && PyArray_TYPE(array) == type
        && PyArray_CHKFLAGS(array, NPY_ARRAY_C_CONTIGUOUS) && PyArray_ISNOTSWAPPED(array);
}

static inline int trt_same_shape(PyArrayObject *x, PyArrayObject *y)
{
    int rank = PyArray_NDIM(x);
    if (rank != PyArray_NDIM(y))
        return 0;
    for (int i = 0; i < rank; i++)
        if (PyArray_DIM(x, i) != PyArray_DIM(y, i))
            return 0;
    return 1;
}

/* Set by modules whose kernels take small arrays from there. */
static trt_spares *trt_spares_here = NULL;

/* Return a new array with elements of no particular value, or NULL with an exception set. */
static inline PyObject *trt_new_array(int type, int rank, const npy_intp *dims)
{
    PyObject *spare = trt_spares_here == NULL ? NULL : trt_take_spare(trt_spares_here, type, rank, dims);
    if (spare != NULL)
        return spare;
    return PyArray_NewFromDescr(&PyArray_Type, PyArray_DescrFromType(type), rank, dims, NULL, NULL, 0, NULL);
}

static inline PyObject *trt_new_like(PyArrayObject *array, int type)
{
    return trt_new_array(type, PyArray_NDIM(array), PyArray_DIMS(array));
}

static inline PyObject *trt_same(PyArrayObject *array)
{
    Py_INCREF((PyObject *)array);
    return (PyObject *)array;
}

#endif
