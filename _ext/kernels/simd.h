/* Levels of vector instructions that kernels are compiled for, in one file that runs on every machine of its kind.
 *
 * A header of loops is included once for each level through kernels/every_level.h; the level is chosen once, when a
 * kernel module is imported, and from then on the loops are called by pointer. On processors other than x86-64, and
 * with compilers that do not know the levels by name, there is the baseline alone.
 */
#ifndef TRT_KERNELS_SIMD_H
#define TRT_KERNELS_SIMD_H

#include <stdint.h>

#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 16 : defined(__GNUC__) && __GNUC__ >= 11)
#define TRT_HAS_LEVELS 1
#else
#define TRT_HAS_LEVELS 0
#endif

enum { TRT_BASELINE = 0, TRT_V3 = 1, TRT_V4 = 2, TRT_NUM_LEVELS = 3 };

/* Return whether code of a level is there and this processor runs it. */
static inline int trt_level_works(int level)
{
    if (level == TRT_BASELINE)
        return 1;
#if TRT_HAS_LEVELS
    __builtin_cpu_init();
    if (level == TRT_V3)
        return __builtin_cpu_supports("x86-64-v3") != 0;
    if (level == TRT_V4)
        return __builtin_cpu_supports("x86-64-v4") != 0;
#endif
    return 0;
}

/* Return from a function with what has this name in a level. */
#if TRT_HAS_LEVELS
#define TRT_OF_LEVEL(level, name) \
    return (level) == TRT_V4 ? name##_v4 : (level) == TRT_V3 ? name##_v3 : name##_baseline;
#else
#define TRT_OF_LEVEL(level, name) return (void)(level), name##_baseline;
#endif

/* Put before a loop whose turns do not depend on each other. A kernel may write into an input: element i is then read
 * before element i is written, and no other turn touches it. Without this a compiler would keep a second, scalar loop
 * for arguments that overlap and take it whenever memory is reused. */
#if defined(__clang__)
#define TRT_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define TRT_INDEPENDENT _Pragma("GCC ivdep")
#else
#define TRT_INDEPENDENT
#endif

/* Elements as they lie in memory: a fed tensor is a view on the bytes of a request, at any address. */
#if defined(__GNUC__)
#define TRT_UNALIGNED __attribute__((aligned(1), may_alias))
#else
#error "these kernels need a compiler with GNU attributes: unaligned access is declared by them"
#endif
typedef float trt_mem_f32 TRT_UNALIGNED;
typedef double trt_mem_f64 TRT_UNALIGNED;
typedef int32_t trt_mem_i32 TRT_UNALIGNED;
typedef int64_t trt_mem_i64 TRT_UNALIGNED;
typedef uint32_t trt_mem_u32 TRT_UNALIGNED;
typedef uint64_t trt_mem_u64 TRT_UNALIGNED;
typedef uint16_t trt_mem_u16 TRT_UNALIGNED;
typedef uint8_t trt_mem_u8 TRT_UNALIGNED;

#endif
