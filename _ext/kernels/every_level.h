/* Include the file that TRT_LOOPS names once for each level; no guard, because it is done for several files.
 *
 * In that file TRT_LEVEL(name) makes a name of the level, TRT_TARGET stands before every function, and TRT_FUSES tells
 * whether the level has a fused multiply-add.
 */
#define TRT_LEVEL(name) name##_baseline
#define TRT_TARGET
#define TRT_FUSES 0
#include TRT_LOOPS
#undef TRT_LEVEL
#undef TRT_TARGET
#undef TRT_FUSES

#if TRT_HAS_LEVELS
#define TRT_LEVEL(name) name##_v3
#define TRT_TARGET __attribute__((target("arch=x86-64-v3")))
#define TRT_FUSES 1
#include TRT_LOOPS
#undef TRT_LEVEL
#undef TRT_TARGET
#undef TRT_FUSES

#define TRT_LEVEL(name) name##_v4
#define TRT_TARGET __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))
#define TRT_FUSES 1
#include TRT_LOOPS
#undef TRT_LEVEL
#undef TRT_TARGET
#undef TRT_FUSES
#endif

#undef TRT_LOOPS
