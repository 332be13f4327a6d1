/* Kernels of neural networks that are element-wise with a parameter or an own rule about shapes; tables by level. */
#ifndef TRT_KERNELS_ACTIVATIONS_H
#define TRT_KERNELS_ACTIVATIONS_H

#include "kernels/simd.h"
#include "kernels/elementwise.h"
#include "kernels/bias_types.h"
#include "kernels/loop_makers.h"

typedef void (*trt_sloped_loop)(char *out, const char *gradients, const char *features, double slope, npy_intp count);

#define TRT_LOOPS "kernels/activation_loops.h"
#include "kernels/every_level.h"

static const trt_unary_entry *trt_activation_entries(int level)
{
    TRT_OF_LEVEL(level, trt_activation_table)
}

static const trt_binary_entry *trt_gradient_entries(int level)
{
    TRT_OF_LEVEL(level, trt_gradient_table)
}

static const trt_binary_entry *trt_slope_entries(int level)
{
    TRT_OF_LEVEL(level, trt_slope_table)
}

static const trt_binary_entry *trt_bias_entries(int level)
{
    TRT_OF_LEVEL(level, trt_bias_table)
}

static trt_sloped_loop trt_leaky_grad_of_f32(int level)
{
    TRT_OF_LEVEL(level, trt_leaky_grad_f32)
}

static trt_sloped_loop trt_leaky_grad_of_f64(int level)
{
    TRT_OF_LEVEL(level, trt_leaky_grad_f64)
}

static inline int trt_bias_add(PyObject **inputs, PyObject **outputs, unsigned int reusable, const trt_bias_params *p)
{
    PyArrayObject *value = (PyArrayObject *)inputs[0], *bias = (PyArrayObject *)inputs[1];
    npy_intp dims[TRT_MAX_RANK];
    if (!trt_is_plain(inputs[0], p->add.type) || !trt_is_plain(inputs[1], p->add.type))
        return 1;
    int rank = PyArray_NDIM(value);
    if (rank < 2 || rank > TRT_MAX_RANK || PyArray_NDIM(bias) != 1
        || PyArray_DIM(bias, 0) != PyArray_DIM(value, p->channels_first ? 1 : rank - 1))
        return 1;
    int bias_rank = p->channels_first ? rank - 1 : 1;
    dims[0] = PyArray_DIM(bias, 0);
    for (int i = 1; i < bias_rank; i++)
        dims[i] = 1;
    return trt_binary_broadcast(value, rank, PyArray_DIMS(value), bias, bias_rank, dims, outputs, reusable & 1,
                                &p->add);
}

/* One array and the slope in its place as the right side. */
typedef struct {
    trt_binary_params work;  /* `right` is the loop */
    double slope;
    float slope_f32;
    unsigned short slope_16;
} trt_leaky_params;

static inline int trt_leaky_relu(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                                 const trt_leaky_params *p)
{
    PyArrayObject *x = (PyArrayObject *)inputs[0];
    if (!trt_is_plain(inputs[0], p->work.type))
        return 1;
    PyObject *result = reusable & 1 ? trt_same(x) : trt_new_like(x, p->work.type);
    if (result == NULL)
        return -1;
    const char *slope = p->work.size == sizeof(double) ? (const char *)&p->slope
        : p->work.size == sizeof(float) ? (const char *)&p->slope_f32 : (const char *)&p->slope_16;
    trt_binary_work work = {&p->work, p->work.right, PyArray_BYTES((PyArrayObject *)result), PyArray_BYTES(x), slope,
                            p->work.size, 0};
    TRT_BEGIN_WORK(PyArray_NBYTES(x) * 2)
    trt_share_bytes(trt_binary_range, &work, PyArray_SIZE(x), 2 * p->work.size);
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

typedef struct {
    trt_sloped_loop loop;
    double slope;
    int type;
    int size;
} trt_leaky_grad_params;

typedef struct {
    const trt_leaky_grad_params *params;
    char *out;
    const char *gradients, *features;
} trt_leaky_grad_work;

static void trt_leaky_grad_range(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_leaky_grad_work *work = (const trt_leaky_grad_work *)context;
    npy_intp offset = begin * work->params->size;
    work->params->loop(work->out + offset, work->gradients + offset, work->features + offset, work->params->slope,
                       end - begin);
}

static inline int trt_leaky_relu_grad(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                                      const trt_leaky_grad_params *p)
{
    PyArrayObject *gradients = (PyArrayObject *)inputs[0], *features = (PyArrayObject *)inputs[1];
    if (!trt_is_plain(inputs[0], p->type) || !trt_is_plain(inputs[1], p->type)
        || !trt_same_shape(gradients, features))
        return 1;
    PyObject *result;
    if (reusable & 3)
        result = trt_same(reusable & 1 ? gradients : features);
    else
        result = trt_new_like(gradients, p->type);
    if (result == NULL)
        return -1;
    trt_leaky_grad_work work = {p, PyArray_BYTES((PyArrayObject *)result), PyArray_BYTES(gradients),
                                PyArray_BYTES(features)};
    TRT_BEGIN_WORK(3 * PyArray_NBYTES(gradients))
    trt_share_bytes(trt_leaky_grad_range, &work, PyArray_SIZE(gradients), 3 * p->size);
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

#endif
