/* Include the file that TRT_LOOPS names once for each level; no guard, because it is done for several files.
 *
 * In that file TRT_LEVEL(name) makes a name of the level, and TRT_TARGET stands before every function.
 */
#define TRT_LEVEL(name) name##_baseline
#define TRT_TARGET
#include TRT_LOOPS
#undef TRT_LEVEL
#undef TRT_TARGET

#if TRT_HAS_LEVELS
#define TRT_LEVEL(name) name##_v3
#define TRT_TARGET __attribute__((target("arch=x86-64-v3")))
#include TRT_LOOPS
#undef TRT_LEVEL
#undef TRT_TARGET

#define TRT_LEVEL(name) name##_v4
#define TRT_TARGET __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))
#include TRT_LOOPS
#undef TRT_LEVEL
#undef TRT_TARGET
#endif

#undef TRT_LOOPS
