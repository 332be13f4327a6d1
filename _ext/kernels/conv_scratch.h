/* Memory that the tasks of a convolution work in. */
#ifndef TRT_KERNELS_CONV_SCRATCH_H
#define TRT_KERNELS_CONV_SCRATCH_H

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>

#define TRT_KEPT_SCRATCH_BYTES (1 << 20)

/* Memory that vectors do not straddle lines of; NULL when there is none. */
static inline char *trt_conv_memory(ptrdiff_t bytes)
{
    void *memory;
    return posix_memalign(&memory, 64, bytes > 0 ? (size_t)bytes : 64) == 0 ? memory : NULL;
}

/* Scratch memory of a thread, made when it first needs it and freed when it ends. */

static pthread_key_t trt_conv_scratch_key;

static inline int trt_conv_scratch_init(void) { return pthread_key_create(&trt_conv_scratch_key, free); }

static inline char *trt_conv_scratch(ptrdiff_t bytes)
{
    void *memory;
    if (bytes > TRT_KEPT_SCRATCH_BYTES)
        return trt_conv_memory(bytes);
    memory = pthread_getspecific(trt_conv_scratch_key);
    if (memory == NULL && (memory = trt_conv_memory(TRT_KEPT_SCRATCH_BYTES)) != NULL &&
        pthread_setspecific(trt_conv_scratch_key, memory) != 0) {
        free(memory);
        memory = NULL;
    }
    return memory;
}

static inline void trt_conv_scratch_done(char *memory, ptrdiff_t bytes)
{
    if (bytes > TRT_KEPT_SCRATCH_BYTES)
        free(memory);
}

#endif
