/* Copies between layouts: any strides on both sides, elements as bytes.
 *
 * Neighbouring axes that lie alike on both sides are taken together. What is then left is copied in runs, or element by
 * element, or, where the two sides are contiguous along different axes, in square blocks that use whole cache lines of
 * both.
 */
#ifndef TRT_KERNELS_STRIDED_COPY_H
#define TRT_KERNELS_STRIDED_COPY_H

#include "kernels/simd.h"
#include "kernels/array_access.h"
#include "kernels/sharing.h"

enum { TRT_COPY_AXES = 34, TRT_COPY_BLOCK = 16 };

typedef struct {
    int axes;                                          /* outermost first, none of length 1 */
    npy_intp lengths[TRT_COPY_AXES];
    npy_intp to_steps[TRT_COPY_AXES], from_steps[TRT_COPY_AXES]; /* bytes */
    npy_intp size;                                     /* bytes of an element */
    npy_intp count;
    char *to;
    const char *from;
} trt_copy;

typedef struct __attribute__((packed, may_alias)) { uint64_t low, high; } trt_pair;

static void trt_copy_begin(trt_copy *copy, char *to, const char *from, npy_intp size)
{
    copy->axes = 0;
    copy->count = 1;
    copy->size = size;
    copy->to = to;
    copy->from = from;
}

/* Add an axis inside those that are there. */
static void trt_copy_axis(trt_copy *copy, npy_intp length, npy_intp to_step, npy_intp from_step)
{
    copy->count *= length;
    if (length == 1)
        return;
    int last = copy->axes - 1;
    if (last >= 0 && copy->to_steps[last] == length * to_step && copy->from_steps[last] == length * from_step) {
        copy->lengths[last] *= length;
        copy->to_steps[last] = to_step;
        copy->from_steps[last] = from_step;
        return;
    }
    copy->lengths[copy->axes] = length;
    copy->to_steps[copy->axes] = to_step;
    copy->from_steps[copy->axes++] = from_step;
}

#define TRT_COPY_LINE(TYPE) \
    for (npy_intp i = 0; i < count; i++) \
        *(TYPE *)(to + i * to_step) = *(const TYPE *)(from + i * from_step);

static void trt_copy_line(char *to, const char *from, npy_intp count, npy_intp to_step, npy_intp from_step,
                          npy_intp size)
{
    if (to_step == size && from_step == size) {
        memcpy(to, from, count * size);
        return;
    }
    switch (size) {
    case 1: TRT_COPY_LINE(trt_mem_u8) break;
    case 2: TRT_COPY_LINE(trt_mem_u16) break;
    case 4: TRT_COPY_LINE(trt_mem_u32) break;
    case 8: TRT_COPY_LINE(trt_mem_u64) break;
    case 16: TRT_COPY_LINE(trt_pair) break;
    default:
        for (npy_intp i = 0; i < count; i++)
            memcpy(to + i * to_step, from + i * from_step, size);
    }
}
#undef TRT_COPY_LINE

/* The two innermost axes, in blocks. */
static void trt_copy_plane(const trt_copy *copy, char *to, const char *from)
{
    int outer = copy->axes - 2, inner = copy->axes - 1;
    npy_intp rows = copy->lengths[outer], columns = copy->lengths[inner];
    npy_intp to_row = copy->to_steps[outer], from_row = copy->from_steps[outer];
    npy_intp to_step = copy->to_steps[inner], from_step = copy->from_steps[inner];
    int crossed = from_step != copy->size && from_row == copy->size && columns >= 4;
    if (!crossed) {
        for (npy_intp row = 0; row < rows; row++)
            trt_copy_line(to + row * to_row, from + row * from_row, columns, to_step, from_step, copy->size);
        return;
    }
    for (npy_intp first = 0; first < rows; first += TRT_COPY_BLOCK) {
        npy_intp height = rows - first < TRT_COPY_BLOCK ? rows - first : TRT_COPY_BLOCK;
        for (npy_intp start = 0; start < columns; start += TRT_COPY_BLOCK) {
            npy_intp width = columns - start < TRT_COPY_BLOCK ? columns - start : TRT_COPY_BLOCK;
            char *into = to + first * to_row + start * to_step;
            const char *out_of = from + first * from_row + start * from_step;
            for (npy_intp row = 0; row < height; row++)
                trt_copy_line(into + row * to_row, out_of + row * from_row, width, to_step, from_step, copy->size);
        }
    }
}

/* Turns [begin, end) of the outermost axis. */
static void trt_copy_range(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    trt_copy copy = *(const trt_copy *)context;
    npy_intp turns[TRT_COPY_AXES] = {0};
    copy.to += begin * copy.to_steps[0];
    copy.from += begin * copy.from_steps[0];
    copy.lengths[0] = end - begin;
    if (copy.axes == 1) {
        trt_copy_line(copy.to, copy.from, copy.lengths[0], copy.to_steps[0], copy.from_steps[0], copy.size);
        return;
    }
    for (;;) {
        int axis = copy.axes - 3;
        trt_copy_plane(&copy, copy.to, copy.from);
        for (; axis >= 0; axis--) {
            copy.to += copy.to_steps[axis];
            copy.from += copy.from_steps[axis];
            if (++turns[axis] < copy.lengths[axis])
                break;
            copy.to -= copy.to_steps[axis] * copy.lengths[axis];
            copy.from -= copy.from_steps[axis] * copy.lengths[axis];
            turns[axis] = 0;
        }
        if (axis < 0)
            return;
    }
}

static void trt_copy_run(trt_copy *copy)
{
    npy_intp bytes = copy->count * copy->size;
    if (copy->count == 0)
        return;
    if (copy->axes == 0) {
        memcpy(copy->to, copy->from, copy->size);
        return;
    }
    if (2 * bytes < 2 * TRT_SHARED_BYTES) {
        trt_copy_range(copy, 0, copy->lengths[0]);
        return;
    }
    npy_intp each = 2 * bytes / copy->lengths[0];
    trt_share(trt_copy_range, copy, copy->lengths[0], each >= TRT_SHARED_BYTES ? 1 : TRT_SHARED_BYTES / (each + 1) + 1);
}

#endif
