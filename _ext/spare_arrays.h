/* Small arrays that have died in a step, kept for the next kernel that makes one of their type and shape: making an array
 * and letting go of it costs twice what a small kernel does with it.
 *
 * The table exists once in a process (running_step.pyx owns it); it is used under the interpreter's lock.
 */
#ifndef TRT_SPARE_ARRAYS_H
#define TRT_SPARE_ARRAYS_H

#include <Python.h>
#include <stdint.h>

#include "numpy/arrayobject.h"

enum {
    TRT_SPARE_PLACES = 64,
    TRT_SPARES_EACH = 8,
    TRT_SPARE_BYTES = 512, /* of an array's elements, at most */
    TRT_SPARE_RANK = 4,
    TRT_SPARE_TYPES = 17 /* numpy's numbers of the plain types from bool to complex */
};

typedef struct {
    struct {
        int count;
        PyObject *arrays[TRT_SPARES_EACH]; /* of one type and shape */
    } places[TRT_SPARE_PLACES];
    PyArray_Descr *types[TRT_SPARE_TYPES]; /* numpy's own, in native order */
} trt_spares;

static inline unsigned trt_spare_place(int type, int rank, const npy_intp *dims) {
    uint64_t mixed = (uint64_t)type + 32 * (uint64_t)rank;
    for (int axis = 0; axis < rank; axis++)
        mixed = (mixed ^ (uint64_t)dims[axis]) * 0x9E3779B97F4A7C15ULL;
    return (unsigned)(mixed >> 7) % TRT_SPARE_PLACES;
}

/* Return an array of this type and shape that nobody else has, its elements of no particular value; NULL for none. */
static inline PyObject *trt_take_spare(trt_spares *spares, int type, int rank, const npy_intp *dims) {
    if (type >= TRT_SPARE_TYPES || rank > TRT_SPARE_RANK)
        return NULL;
    unsigned place = trt_spare_place(type, rank, dims);
    int last = spares->places[place].count - 1;
    if (last < 0)
        return NULL;
    PyObject *found = spares->places[place].arrays[last];
    PyArrayObject *array = (PyArrayObject *)found;
    if (PyArray_TYPE(array) != type || PyArray_NDIM(array) != rank)
        return NULL;
    for (int axis = 0; axis < rank; axis++)
        if (PyArray_DIM(array, axis) != dims[axis])
            return NULL;
    spares->places[place].count = last;
    return found;
}

/* Whether an array can be handed out again: plain, small, and with nothing that hangs on it. */
static inline int trt_may_be_spare(const trt_spares *spares, PyObject *value) {
    if (Py_REFCNT(value) != 1 || !PyArray_CheckExact(value))
        return 0;
    const PyArrayObject_fields *array = (const PyArrayObject_fields *)value;
    const int wanted = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_OWNDATA | NPY_ARRAY_ALIGNED | NPY_ARRAY_WRITEABLE;
    int type = array->descr->type_num;
    if (array->nd > TRT_SPARE_RANK || type < 0 || type >= TRT_SPARE_TYPES || array->descr != spares->types[type] ||
        (array->flags & wanted) != wanted || array->base != NULL || array->weakreflist != NULL)
        return 0;
    npy_intp bytes = PyDataType_ELSIZE(array->descr);
    for (int axis = 0; axis < array->nd; axis++) {
        bytes *= array->dimensions[axis];
        if (bytes > TRT_SPARE_BYTES)
            return 0;
    }
    return bytes > 0;
}

/* Give up a reference; the array stays for others when this was the last one. */
static inline void trt_let_go(trt_spares *spares, PyObject *value) {
    if (value == NULL)
        return;
    if (!trt_may_be_spare(spares, value)) {
        Py_DECREF(value);
        return;
    }
    PyArrayObject *array = (PyArrayObject *)value;
    unsigned place = trt_spare_place(PyArray_TYPE(array), PyArray_NDIM(array), PyArray_DIMS(array));
    int count = spares->places[place].count;
    if (count == TRT_SPARES_EACH) {
        Py_DECREF(value);
        return;
    }
    if (count > 0) { /* those of another shape at this place have had their time */
        PyArrayObject *other = (PyArrayObject *)spares->places[place].arrays[count - 1];
        int same = PyArray_TYPE(other) == PyArray_TYPE(array) && PyArray_NDIM(other) == PyArray_NDIM(array);
        for (int axis = 0; same && axis < PyArray_NDIM(array); axis++)
            same = PyArray_DIM(other, axis) == PyArray_DIM(array, axis);
        if (!same) {
            spares->places[place].count = 0;
            while (count > 0)
                Py_DECREF(spares->places[place].arrays[--count]);
            count = 0;
        }
    }
    spares->places[place].arrays[count] = value;
    spares->places[place].count = count + 1;
}

static inline void trt_begin_spares(trt_spares *spares) {
    for (int type = 0; type < TRT_SPARE_TYPES; type++)
        spares->types[type] = PyArray_DescrFromType(type);
}

#endif
