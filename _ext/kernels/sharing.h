/* Long work in ranges, by several threads where that pays; a module sets `trt_share` to the worker pool's function. */
#ifndef TRT_KERNELS_SHARING_H
#define TRT_KERNELS_SHARING_H

#include <Python.h>

typedef void (*trt_range_work)(void *context, Py_ssize_t begin, Py_ssize_t end);
typedef void (*trt_share_ranges)(trt_range_work run, void *context, Py_ssize_t size, Py_ssize_t grain);

static void trt_share_alone(trt_range_work run, void *context, Py_ssize_t size, Py_ssize_t grain)
{
    (void)grain;
    if (size > 0)
        run(context, 0, size);
}

static trt_share_ranges trt_share = trt_share_alone;

static inline void trt_share_by(trt_share_ranges share)
{
    trt_share = share;
}

/* Bytes that one thread reads and writes at a time; less work than twice this is not shared. */
#define TRT_SHARED_BYTES ((npy_intp)1 << 19)

/* Run over `size` entries, each of which reads and writes so many bytes. */
static inline void trt_share_bytes(trt_range_work run, void *context, npy_intp size, npy_intp bytes)
{
    if (size < 2 * TRT_SHARED_BYTES / (bytes + 1))
        trt_share_alone(run, context, size, size);
    else
        trt_share(run, context, size, TRT_SHARED_BYTES / (bytes + 1) + 1);
}

#endif
