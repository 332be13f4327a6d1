/* One running step, as kernels and the memory of arrays see it. */
#ifndef TRT_RUNNING_STEP_H
#define TRT_RUNNING_STEP_H

#include <stdint.h>

typedef struct trt_step {
    int cancelled;       /* atomic: kernels look at it without the GIL */
    int64_t references;  /* one of the owner's, and one for each counted block; under the lock */
    int64_t held;        /* bytes of its blocks now */
    int64_t peak;
    int64_t limit;       /* 0: none */
    int64_t refused;     /* bytes of the block that was refused last; 0: none was */
    int64_t refused_at;  /* bytes held when it was */
    int refused_by_all;  /* whether the limit of all steps together was what it broke */
} trt_step;

#endif
