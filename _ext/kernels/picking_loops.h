/* Loops of selections, by the size of an element; see kernels/every_level.h. */

#define TRT_CHOOSE(BITS, TYPE) \
    static TRT_TARGET void TRT_LEVEL(trt_choose_##BITS)(char *out_, const trt_mem_u8 *condition, const char *x_, \
                                                        const char *y_, int x_moves, int y_moves, npy_intp count) \
    { \
        TYPE *out = (TYPE *)out_; \
        const TYPE *x = (const TYPE *)x_, *y = (const TYPE *)y_; \
        if (x_moves && y_moves) { \
            TRT_INDEPENDENT \
            for (npy_intp i = 0; i < count; i++) { \
                const TYPE a = x[i], b = y[i]; \
                out[i] = condition[i] ? a : b; \
            } \
        } else if (x_moves) { \
            const TYPE b = *y; \
            TRT_INDEPENDENT \
            for (npy_intp i = 0; i < count; i++) { \
                const TYPE a = x[i]; \
                out[i] = condition[i] ? a : b; \
            } \
        } else if (y_moves) { \
            const TYPE a = *x; \
            TRT_INDEPENDENT \
            for (npy_intp i = 0; i < count; i++) { \
                const TYPE b = y[i]; \
                out[i] = condition[i] ? a : b; \
            } \
        } else { \
            const TYPE a = *x, b = *y; \
            TRT_INDEPENDENT \
            for (npy_intp i = 0; i < count; i++) \
                out[i] = condition[i] ? a : b; \
        } \
    }
TRT_CHOOSE(8, trt_mem_u8)
TRT_CHOOSE(16, trt_mem_u16)
TRT_CHOOSE(32, trt_mem_u32)
TRT_CHOOSE(64, trt_mem_u64)
#undef TRT_CHOOSE

static TRT_TARGET trt_choose_loop TRT_LEVEL(trt_choose)(npy_intp size)
{
    switch (size) {
    case 1: return TRT_LEVEL(trt_choose_8);
    case 2: return TRT_LEVEL(trt_choose_16);
    case 4: return TRT_LEVEL(trt_choose_32);
    case 8: return TRT_LEVEL(trt_choose_64);
    default: return NULL;
    }
}
