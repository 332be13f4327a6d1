/* Include the file that TRT_LOOPS names once for each level; no guard, because it is done for several files.
 *
 * In that file TRT_LEVEL(name) makes a name of the level, TRT_TARGET stands before every function, TRT_FUSES tells
 * whether the level has a fused multiply-add, and TRT_VECTOR_BYTES how long its vectors are.
 */
#define TRT_LEVEL(name) name##_baseline
#define TRT_TARGET
#define TRT_FUSES 0
#define TRT_VECTOR_BYTES 16
#include TRT_LOOPS
#undef TRT_LEVEL
#undef TRT_TARGET
#undef TRT_FUSES
#undef TRT_VECTOR_BYTES

#if TRT_HAS_LEVELS
#define TRT_LEVEL(name) name##_v3
#define TRT_TARGET __attribute__((target("arch=x86-64-v3")))
#define TRT_FUSES 1
#define TRT_VECTOR_BYTES 32
#include TRT_LOOPS
#undef TRT_LEVEL
#undef TRT_TARGET
#undef TRT_FUSES
#undef TRT_VECTOR_BYTES

#define TRT_LEVEL(name) name##_v4
#define TRT_TARGET __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))
#define TRT_FUSES 1
#define TRT_VECTOR_BYTES 64
#include TRT_LOOPS
#undef TRT_LEVEL
#undef TRT_TARGET
#undef TRT_FUSES
#undef TRT_VECTOR_BYTES
#endif

#undef TRT_LOOPS
