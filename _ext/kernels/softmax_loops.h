/* Softmax and what is made of it, row by row in blocks that stay in the nearest cache; see kernels/every_level.h.
 *
 * A block is a few rows, or a part of none: first x - max(x) into the output, then the exponentials over the whole
 * block at once, so that short rows fill the vectors too, then the sums and what is done with them.
 */

#include "kernels/math_functions.h"

#define TRT_SOFTMAX(TYPE, MEM, C, LARGEST) \
    static TRT_TARGET C TRT_LEVEL(trt_row_max_##TYPE)(const MEM *x, npy_intp count) \
    { \
        enum { LANES = 64 / sizeof(C) }; \
        C most = -LARGEST; \
        npy_intp i = 0; \
        if (count >= 2 * LANES) { \
            C lanes[LANES]; \
            for (int k = 0; k < LANES; k++) \
                lanes[k] = x[k]; \
            for (i = LANES; i + LANES <= count; i += LANES) \
                for (int k = 0; k < LANES; k++) \
                    lanes[k] = x[i + k] > lanes[k] ? x[i + k] : lanes[k]; \
            for (int k = 0; k < LANES; k++) \
                most = lanes[k] > most ? lanes[k] : most; \
        } \
        for (; i < count; i++) \
            most = x[i] > most ? x[i] : most; \
        return most; \
    } \
    static TRT_TARGET C TRT_LEVEL(trt_row_sum_##TYPE)(const MEM *x, npy_intp count) \
    { \
        enum { LANES = 64 / sizeof(C) }; \
        C sum = 0; \
        npy_intp i = 0; \
        if (count >= 2 * LANES) { \
            C lanes[LANES] = {0}; \
            for (; i + LANES <= count; i += LANES) \
                for (int k = 0; k < LANES; k++) \
                    lanes[k] += x[i + k]; \
            for (int k = 0; k < LANES; k++) \
                sum += lanes[k]; \
        } \
        for (; i < count; i++) \
            sum += x[i]; \
        return sum; \
    } \
    /* The sum of x[i] y[i]. */ \
    static TRT_TARGET C TRT_LEVEL(trt_row_dot_##TYPE)(const MEM *x, const MEM *y, npy_intp count) \
    { \
        enum { LANES = 64 / sizeof(C) }; \
        C sum = 0; \
        npy_intp i = 0; \
        if (count >= 2 * LANES) { \
            C lanes[LANES] = {0}; \
            for (; i + LANES <= count; i += LANES) \
                for (int k = 0; k < LANES; k++) \
                    lanes[k] += x[i + k] * y[i + k]; \
            for (int k = 0; k < LANES; k++) \
                sum += lanes[k]; \
        } \
        for (; i < count; i++) \
            sum += x[i] * y[i]; \
        return sum; \
    } \
    static TRT_TARGET void TRT_LEVEL(trt_exp_block_##TYPE)(MEM *out, const MEM *x, npy_intp count) \
    { \
        TRT_INDEPENDENT \
        for (npy_intp i = 0; i < count; i++) { \
            const C a = x[i]; \
            out[i] = TRT_LEVEL(trt_exp_of_##TYPE)(a); \
        } \
    } \
    static TRT_TARGET void TRT_LEVEL(trt_log_block_##TYPE)(C *x, npy_intp count) \
    { \
        for (npy_intp i = 0; i < count; i++) \
            x[i] = TRT_LEVEL(trt_log_of_##TYPE)(x[i]); \
    } \
    /* The row sums of the exponentials of x, which stays as it is. */ \
    static TRT_TARGET void TRT_LEVEL(trt_exp_sums_##TYPE)(C *sums, const MEM *x, npy_intp rows, npy_intp count) \
    { \
        C space[TRT_SOFTMAX_BLOCK]; \
        if (rows > 1) { \
            TRT_LEVEL(trt_exp_block_##TYPE)((MEM *)space, x, rows * count); \
            for (npy_intp row = 0; row < rows; row++) \
                sums[row] = TRT_LEVEL(trt_row_sum_##TYPE)((const MEM *)space + row * count, count); \
            return; \
        } \
        sums[0] = 0; \
        for (npy_intp start = 0; start < count; start += TRT_SOFTMAX_BLOCK) { \
            npy_intp width = count - start < TRT_SOFTMAX_BLOCK ? count - start : TRT_SOFTMAX_BLOCK; \
            TRT_LEVEL(trt_exp_block_##TYPE)((MEM *)space, x + start, width); \
            sums[0] += TRT_LEVEL(trt_row_sum_##TYPE)((const MEM *)space, width); \
        } \
    } \
    static TRT_TARGET void TRT_LEVEL(trt_softmax_##TYPE)(const trt_softmax_work *work, npy_intp begin, npy_intp end) \
    { \
        C sums[TRT_SOFTMAX_ROWS], picked[TRT_SOFTMAX_ROWS], weights[TRT_SOFTMAX_ROWS]; \
        const npy_intp classes = work->classes; \
        npy_intp step = TRT_SOFTMAX_BLOCK / classes; \
        step = step < 1 ? 1 : step > TRT_SOFTMAX_ROWS ? TRT_SOFTMAX_ROWS : step; \
        for (npy_intp first = begin; first < end; first += step) { \
            const npy_intp rows = end - first < step ? end - first : step; \
            const MEM *x = (const MEM *)work->x + first * classes, *labels = NULL; \
            MEM *out = (MEM *)work->out + first * classes; \
            for (npy_intp row = 0; row < rows; row++) { \
                const MEM *from = x + row * classes; \
                MEM *to = out + row * classes; \
                const C most = TRT_LEVEL(trt_row_max_##TYPE)(from, classes); \
                TRT_INDEPENDENT \
                for (npy_intp i = 0; i < classes; i++) \
                    to[i] = from[i] - most; \
                if (work->kind == TRT_CROSS_ENTROPY) { \
                    labels = (const MEM *)work->labels + (first + row) * classes; \
                    picked[row] = TRT_LEVEL(trt_row_dot_##TYPE)(to, labels, classes); \
                    weights[row] = TRT_LEVEL(trt_row_sum_##TYPE)(labels, classes); \
                } else if (work->kind == TRT_SPARSE_CROSS_ENTROPY) { \
                    picked[row] = to[trt_label(work, first + row)]; \
                } \
            } \
            if (work->kind == TRT_LOG_SOFTMAX) { \
                TRT_LEVEL(trt_exp_sums_##TYPE)(sums, out, rows, classes); \
                TRT_LEVEL(trt_log_block_##TYPE)(sums, rows); \
                for (npy_intp row = 0; row < rows; row++) { \
                    MEM *to = out + row * classes; \
                    const C sum = sums[row]; \
                    for (npy_intp i = 0; i < classes; i++) \
                        to[i] -= sum; \
                } \
                continue; \
            } \
            TRT_LEVEL(trt_exp_block_##TYPE)(out, out, rows * classes); \
            for (npy_intp row = 0; row < rows; row++) { \
                MEM *to = out + row * classes; \
                const C sum = sums[row] = TRT_LEVEL(trt_row_sum_##TYPE)(to, classes); \
                for (npy_intp i = 0; i < classes; i++) \
                    to[i] /= sum; \
            } \
            if (work->kind == TRT_SOFTMAX_ALONE) \
                continue; \
            TRT_LEVEL(trt_log_block_##TYPE)(sums, rows); \
            MEM *loss = (MEM *)work->loss + first; \
            if (work->kind == TRT_SPARSE_CROSS_ENTROPY) { \
                for (npy_intp row = 0; row < rows; row++) { \
                    loss[row] = sums[row] - picked[row]; \
                    out[row * classes + trt_label(work, first + row)] -= 1; \
                } \
                continue; \
            } \
            labels = (const MEM *)work->labels + first * classes; \
            TRT_INDEPENDENT \
            for (npy_intp i = 0; i < rows * classes; i++) \
                out[i] -= labels[i]; \
            for (npy_intp row = 0; row < rows; row++) \
                loss[row] = sums[row] * weights[row] - picked[row]; \
        } \
    }
TRT_SOFTMAX(f32, trt_mem_f32, float, __builtin_inff())
TRT_SOFTMAX(f64, trt_mem_f64, double, __builtin_inf())
#undef TRT_SOFTMAX
