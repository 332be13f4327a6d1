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
    int64_t worked;      /* in nodes; by the thread that runs the step */
    int work_left;       /* until it is looked at whether others shall have the interpreter's lock */
    int work_at_once;    /* adapted so that this is about every millisecond */
    int64_t looked_ns;   /* when that was last; 0: never */
    int64_t slice_ns;    /* when the slice of time began that the step is in */
    int waits_for_turns; /* 0: in a thread that serves everybody, which waits for nobody */
    int lease;           /* its number, see turns.h; -1: none */
} trt_step;

#endif
