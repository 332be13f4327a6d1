/* Softmax, its logarithm and the cross entropies with their gradients, each in one pass over the rows. */
#ifndef TRT_KERNELS_SOFTMAX_H
#define TRT_KERNELS_SOFTMAX_H

#include "kernels/simd.h"
#include "kernels/array_access.h"

enum { TRT_SOFTMAX_ALONE, TRT_LOG_SOFTMAX, TRT_CROSS_ENTROPY, TRT_SPARSE_CROSS_ENTROPY };
/* Elements and rows of a block. */
enum { TRT_SOFTMAX_BLOCK = 2048, TRT_SOFTMAX_ROWS = 256 };

typedef struct {
    int kind;
    int wide_labels;         /* int64 instead of int32 */
    npy_intp classes;
    const char *x;
    const char *labels;      /* of the type of x, or whole numbers; NULL without */
    char *out, *loss;        /* `out` may be x */
} trt_softmax_work;

typedef void (*trt_softmax_loop)(const trt_softmax_work *work, npy_intp begin, npy_intp end);

static inline npy_intp trt_label(const trt_softmax_work *work, npy_intp row)
{
    return work->wide_labels ? (npy_intp)((const trt_mem_i64 *)work->labels)[row]
                             : (npy_intp)((const trt_mem_i32 *)work->labels)[row];
}

#define TRT_LOOPS "kernels/softmax_loops.h"
#include "kernels/every_level.h"

static trt_softmax_loop trt_softmax_of_f32(int level)
{
    TRT_OF_LEVEL(level, trt_softmax_f32)
}

static trt_softmax_loop trt_softmax_of_f64(int level)
{
    TRT_OF_LEVEL(level, trt_softmax_f64)
}

typedef void (*trt_share_rows)(void (*run)(void *context, Py_ssize_t begin, Py_ssize_t end), void *context,
                               Py_ssize_t rows, Py_ssize_t grain);

typedef struct {
    trt_softmax_loop loop;
    trt_share_rows share;    /* runs ranges of rows, in several threads where that pays */
    int kind;
    int type;
    int label_type;
} trt_softmax_params;

typedef struct {
    trt_softmax_work work;
    trt_softmax_loop loop;
} trt_softmax_job;

static void trt_softmax_rows(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_softmax_job *job = (const trt_softmax_job *)context;
    job->loop(&job->work, begin, end);
}

/* Elements that one thread does in some 30 microseconds. */
enum { TRT_SOFTMAX_GRAIN = 1 << 15 };

static inline int trt_softmax(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                              const trt_softmax_params *p)
{
    PyArrayObject *x = (PyArrayObject *)inputs[0], *labels = NULL;
    PyObject *loss = NULL;
    trt_softmax_job job;
    int rank = PyArray_CheckExact(inputs[0]) ? PyArray_NDIM(x) : 0;
    int has_labels = p->kind == TRT_CROSS_ENTROPY || p->kind == TRT_SPARSE_CROSS_ENTROPY;
    if (!trt_is_plain(inputs[0], p->type) || rank < 1 || PyArray_SIZE(x) == 0)
        return 1;
    npy_intp classes = PyArray_DIM(x, rank - 1), rows = PyArray_SIZE(x) / classes;
    job.loop = p->loop;
    job.work.kind = p->kind;
    job.work.classes = classes;
    job.work.x = PyArray_BYTES(x);
    job.work.labels = NULL;
    job.work.loss = NULL;
    job.work.wide_labels = p->label_type == NPY_INT64;
    if (has_labels) {
        labels = (PyArrayObject *)inputs[1];
        if (rank != 2 || !trt_is_plain(inputs[1], p->label_type))
            return 1;
        job.work.labels = PyArray_BYTES(labels);
        if (p->kind == TRT_CROSS_ENTROPY) {
            if (!trt_same_shape(x, labels))
                return 1;
        } else {
            if (PyArray_NDIM(labels) != 1 || PyArray_DIM(labels, 0) != rows)
                return 1;
            for (npy_intp row = 0; row < rows; row++) {
                npy_intp label = trt_label(&job.work, row);
                if (label < 0 || label >= classes)
                    return 1;
            }
        }
        loss = trt_new_array(p->type, 1, &rows);
        if (loss == NULL)
            return -1;
        job.work.loss = PyArray_BYTES((PyArrayObject *)loss);
    }
    PyObject *result = reusable & 1 ? trt_same(x) : trt_new_like(x, p->type);
    if (result == NULL) {
        Py_XDECREF(loss);
        return -1;
    }
    job.work.out = PyArray_BYTES((PyArrayObject *)result);
    TRT_BEGIN_WORK(PyArray_NBYTES(x) * 4)
    p->share(trt_softmax_rows, &job, rows, classes > TRT_SOFTMAX_GRAIN ? 1 : TRT_SOFTMAX_GRAIN / classes);
    TRT_END_WORK
    outputs[0] = has_labels ? loss : result;
    if (has_labels)
        outputs[1] = result;
    return 0;
}

#endif
