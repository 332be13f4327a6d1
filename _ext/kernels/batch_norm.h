/* Batch normalisation and its gradient of float32 images and volumes, channels first or last.
 *
 * Memory is read once for the moments and once to apply them; the gradient likewise. The sums do not depend on how many
 * threads take part: they are made of parts whose number depends on the size alone.
 */
#ifndef TRT_KERNELS_BATCH_NORM_H
#define TRT_KERNELS_BATCH_NORM_H

#include <math.h>
#include <stdlib.h>
#include "kernels/simd.h"
#include "kernels/array_access.h"
#include "kernels/sharing.h"

/* Channels that are done together, elements of a strip, and parts of the sums at most. */
enum { TRT_NORM_WIDTH = 128, TRT_NORM_STRIP = 8192, TRT_NORM_PARTS = 16 };

/* An image is [outer, channels, inner]; inner is 1 when channels come last. */
typedef struct {
    const char *x, *dy;
    char *out;
    npy_intp outer, channels, inner;
    const float *mean, *factor, *offset, *slope;   /* per channel */
} trt_norm_work;

typedef struct {
    void (*moments)(const trt_norm_work *work, npy_intp begin, npy_intp end, double *mean, double *squares);
    void (*projections)(const trt_norm_work *work, npy_intp begin, npy_intp end, double *sums, double *projections);
    void (*apply)(const trt_norm_work *work, npy_intp begin, npy_intp end);
    void (*apply_grad)(const trt_norm_work *work, npy_intp begin, npy_intp end);
} trt_norm_loops;

#define TRT_LOOPS "kernels/batch_norm_loops.h"
#include "kernels/every_level.h"

static const trt_norm_loops *trt_norm_loops_of(int level)
{
    TRT_OF_LEVEL(level, &trt_norm_table)
}

typedef struct {
    const trt_norm_loops *loops;
    int rank, channels_first, training;
    float epsilon, average_factor;
} trt_norm_params;

typedef struct {
    trt_norm_work work;
    const trt_norm_loops *loops;
    npy_intp parts;
    double *first, *second;  /* parts x channels */
    int gradient;
} trt_norm_job;

static void trt_norm_sum_part(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_norm_job *job = (const trt_norm_job *)context;
    for (Py_ssize_t part = begin; part < end; part++) {
        npy_intp from = job->work.outer * part / job->parts, to = job->work.outer * (part + 1) / job->parts;
        (job->gradient ? job->loops->projections : job->loops->moments)(
            &job->work, from, to, job->first + part * job->work.channels, job->second + part * job->work.channels);
    }
}

static void trt_norm_apply_part(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_norm_job *job = (const trt_norm_job *)context;
    (job->gradient ? job->loops->apply_grad : job->loops->apply)(&job->work, begin, end);
}

static void trt_norm_run(trt_norm_job *job, trt_range_work run, npy_intp bytes, npy_intp size)
{
    if (bytes < 2 * TRT_SHARED_BYTES)
        run(job, 0, size);
    else
        trt_share(run, job, size, size * TRT_SHARED_BYTES / bytes + 1);
}

/* Fill the sizes; 0 for another type or shape. */
static int trt_norm_describe(trt_norm_work *work, PyObject *x, const trt_norm_params *p)
{
    PyArrayObject *array = (PyArrayObject *)x;
    if (!trt_is_plain(x, NPY_FLOAT32) || PyArray_NDIM(array) != p->rank || PyArray_SIZE(array) == 0)
        return 0;
    work->x = PyArray_BYTES(array);
    work->channels = PyArray_DIM(array, p->channels_first ? 1 : p->rank - 1);
    work->outer = p->channels_first ? PyArray_DIM(array, 0) : PyArray_SIZE(array) / work->channels;
    work->inner = p->channels_first ? PyArray_SIZE(array) / work->channels / work->outer : 1;
    return work->channels <= NPY_MAX_INTP / (64 * TRT_NORM_PARTS);
}

static int trt_norm_is_vector(PyObject *value, npy_intp channels)
{
    return trt_is_plain(value, NPY_FLOAT32) && PyArray_NDIM((PyArrayObject *)value) == 1
        && PyArray_DIM((PyArrayObject *)value, 0) == channels;
}

#define TRT_NORM_VALUES(array) ((trt_mem_f32 *)PyArray_BYTES((PyArrayObject *)(array)))

static npy_intp trt_norm_parts(const trt_norm_work *work)
{
    npy_intp parts = work->outer * work->channels * work->inner * 4 / TRT_SHARED_BYTES + 1;
    parts = parts > TRT_NORM_PARTS ? TRT_NORM_PARTS : parts;
    return parts > work->outer ? work->outer : parts;
}

/* Make arrays of these numbers of elements; -1 marks scalars. On failure all are released. */
static int trt_norm_make(PyObject **outputs, int first, int last, npy_intp count)
{
    for (int i = first; i <= last; i++) {
        outputs[i] = trt_new_array(NPY_FLOAT32, count < 0 ? 0 : 1, &count);
        if (outputs[i] == NULL)
            return 0;
    }
    return 1;
}

static int trt_batch_norm(PyObject **inputs, PyObject **outputs, int num_outputs, unsigned int reusable,
                          const trt_norm_params *p)
{
    trt_norm_job job;
    PyArrayObject *x = (PyArrayObject *)inputs[0];
    int averages = !p->training || p->average_factor != 1;
    if (!trt_norm_describe(&job.work, inputs[0], p))
        return 1;
    npy_intp channels = job.work.channels, count = job.work.outer * job.work.inner, bytes = PyArray_NBYTES(x);
    if (!trt_norm_is_vector(inputs[1], channels) || !trt_norm_is_vector(inputs[2], channels)
        || (averages && (!trt_norm_is_vector(inputs[3], channels) || !trt_norm_is_vector(inputs[4], channels))))
        return 1;
    job.loops = p->loops;
    job.gradient = 0;
    job.parts = trt_norm_parts(&job.work);
    outputs[0] = reusable & 1 ? trt_same(x) : trt_new_like(x, NPY_FLOAT32);
    if (outputs[0] == NULL)
        return -1;
    if (p->training) {
        if (!trt_norm_make(outputs, 1, 4, channels))
            return -1;
    } else {
        for (int i = 1; i < 5; i++)
            outputs[i] = trt_same((PyArrayObject *)inputs[i % 2 ? 3 : 4]);
    }
    if (num_outputs > 5) {
        if (!trt_norm_make(outputs, 5, 5, -1))
            return -1;
        TRT_NORM_VALUES(outputs[5])[0] = 0;
    }
    job.first = (double *)PyMem_RawMalloc((2 * job.parts * sizeof(double) + 3 * sizeof(float)) * channels);
    if (job.first == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    job.second = job.first + job.parts * channels;
    float *mean = (float *)(job.second + job.parts * channels), *factor = mean + channels, *offset = factor + channels;
    const trt_mem_f32 *scale = TRT_NORM_VALUES(inputs[1]), *shift = TRT_NORM_VALUES(inputs[2]);
    job.work.out = PyArray_BYTES((PyArrayObject *)outputs[0]);
    job.work.mean = mean;
    job.work.factor = factor;
    job.work.offset = offset;
    TRT_BEGIN_WORK(2 * bytes)
    if (p->training)
        trt_norm_run(&job, trt_norm_sum_part, bytes, job.parts);
    for (npy_intp c = 0; c < channels; c++) {
        float variance;
        if (p->training) {
            double average = job.first[c], squares = job.second[c];
            for (npy_intp part = 1; part < job.parts; part++) {
                double before = (double)(job.work.outer * part / job.parts) * job.work.inner;
                double here = (double)(job.work.outer * (part + 1) / job.parts) * job.work.inner - before;
                double apart = job.first[part * channels + c] - average;
                average += apart * here / (before + here);
                squares += job.second[part * channels + c] + apart * apart * before * here / (before + here);
            }
            mean[c] = (float)average;
            variance = (float)(squares / (double)count);
            float unbiased = variance * (float)((double)count / (double)(count > 1 ? count - 1 : 1));
            float keep = (float)(1 - (double)p->average_factor), take = p->average_factor;
            TRT_NORM_VALUES(outputs[1])[c] = averages ? keep * TRT_NORM_VALUES(inputs[3])[c] + take * mean[c] : mean[c];
            TRT_NORM_VALUES(outputs[2])[c] = averages ? keep * TRT_NORM_VALUES(inputs[4])[c] + take * unbiased : unbiased;
            TRT_NORM_VALUES(outputs[3])[c] = mean[c];
            TRT_NORM_VALUES(outputs[4])[c] = variance;
        } else {
            mean[c] = TRT_NORM_VALUES(inputs[3])[c];
            variance = TRT_NORM_VALUES(inputs[4])[c];
        }
        factor[c] = scale[c] / sqrtf(variance + p->epsilon);
        offset[c] = shift[c];
    }
    trt_norm_run(&job, trt_norm_apply_part, 2 * bytes, job.work.outer);
    TRT_END_WORK
    PyMem_RawFree(job.first);
    return 0;
}

static int trt_batch_norm_grad(PyObject **inputs, PyObject **outputs, unsigned int reusable, const trt_norm_params *p)
{
    trt_norm_job job;
    PyArrayObject *dy = (PyArrayObject *)inputs[0], *x = (PyArrayObject *)inputs[1];
    if (!trt_norm_describe(&job.work, inputs[1], p) || !trt_is_plain(inputs[0], NPY_FLOAT32) || !trt_same_shape(dy, x))
        return 1;
    npy_intp channels = job.work.channels, bytes = PyArray_NBYTES(x);
    for (int i = 2; i < 5; i++)
        if (!trt_norm_is_vector(inputs[i], channels))
            return 1;
    job.loops = p->loops;
    job.gradient = 1;
    job.parts = trt_norm_parts(&job.work);
    outputs[0] = reusable & 1 ? trt_same(dy) : reusable & 2 ? trt_same(x) : trt_new_like(x, NPY_FLOAT32);
    if (outputs[0] == NULL || !trt_norm_make(outputs, 1, 2, channels) || !trt_norm_make(outputs, 3, 4, 0))
        return -1;
    job.first = (double *)PyMem_RawMalloc((2 * job.parts * sizeof(double) + 4 * sizeof(float)) * channels);
    if (job.first == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    job.second = job.first + job.parts * channels;
    float *mean = (float *)(job.second + job.parts * channels), *factor = mean + channels, *offset = factor + channels;
    float *slope = offset + channels, count = (float)(job.work.outer * job.work.inner);
    job.work.dy = PyArray_BYTES(dy);
    job.work.out = PyArray_BYTES((PyArrayObject *)outputs[0]);
    job.work.mean = mean;
    job.work.factor = factor;
    job.work.offset = offset;
    job.work.slope = slope;
    for (npy_intp c = 0; c < channels; c++)
        mean[c] = TRT_NORM_VALUES(inputs[3])[c];
    TRT_BEGIN_WORK(5 * bytes)
    trt_norm_run(&job, trt_norm_sum_part, 2 * bytes, job.parts);
    for (npy_intp c = 0; c < channels; c++) {
        double sum = 0, projection = 0;
        for (npy_intp part = 0; part < job.parts; part++) {
            sum += job.first[part * channels + c];
            projection += job.second[part * channels + c];
        }
        float deviation = 1 / sqrtf(TRT_NORM_VALUES(inputs[4])[c] + p->epsilon);
        factor[c] = TRT_NORM_VALUES(inputs[2])[c] * deviation;
        slope[c] = p->training ? deviation * deviation * ((float)projection / count) : 0;
        offset[c] = p->training ? (float)sum / count : 0;
        TRT_NORM_VALUES(outputs[1])[c] = (float)projection * deviation;
        TRT_NORM_VALUES(outputs[2])[c] = (float)sum;
    }
    trt_norm_run(&job, trt_norm_apply_part, 3 * bytes, job.work.outer);
    TRT_END_WORK
    PyMem_RawFree(job.first);
    return 0;
}

#endif
