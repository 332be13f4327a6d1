"""Matrix products of our own, for x86-64 with AVX2 or AVX-512.

Why not a BLAS: numpy's can be limited to one thread only for the whole process, and its threads wait for each other in
a way that collapses on a busy machine. Here the work is split into tiles that the caller and the helpers of the worker
pool take one by one, and factors are read where they lie, transposed, strided or misaligned. What one thread reaches
is 85 to 95 % of what its multipliers can do, for the shapes of training steps.
"""

from libc.stdlib cimport free, malloc
from libc.string cimport memset

from runtime._ext.kernels cimport simd
from runtime._ext.running_step cimport stop_flag
from runtime._ext.worker_pool cimport num_workers, parallel_for, parallel_ranges

cdef extern from "kernels/gemm.h" nogil:
    ctypedef struct trt_plan:
        const trt_product *work
        int level
        Py_ssize_t row_tiles, column_tiles, slices, workers
        bint turned
        const int *stop
        char *partial
        int failed
    int trt_scratch_init()
    void trt_plan_product(trt_plan *plan)
    void trt_run_tile(void *plan, Py_ssize_t index) noexcept
    void trt_add_slices(void *plan, Py_ssize_t begin, Py_ssize_t end) noexcept
    bint trt_turn_column(trt_product *work)
    bint trt_can_add(const trt_product *work)
    bint trt_gemm_stopped(const int *stop)
    bint trt_is_row_product(const trt_product *work)
    void trt_run_row(void *plan, Py_ssize_t begin, Py_ssize_t end) noexcept

cdef enum:
    # Products of fewer multiplications (some 100 us in one thread) gain less by a helper than they lose when it is late.
    SHARED_FROM = 1 << 21


cdef bint available() noexcept nogil:
    return simd.level > simd.BASELINE


cdef bint can_add(const trt_product *work) noexcept nogil:
    return trt_can_add(work)


cdef int multiply(trt_product *work) noexcept nogil:
    cdef trt_plan plan
    cdef Py_ssize_t i, tasks
    cdef Py_ssize_t element = 8 if work.is_double else 4
    cdef bint shared = not work.alone and <double>work.rows * work.columns * work.inner >= SHARED_FROM
    if work.rows == 0 or work.columns == 0:
        return 0
    if work.inner == 0:
        for i in range(work.rows):
            memset(<char *>work.c + i * work.c_step * element, 0, work.columns * element)
        if work.finish != NULL:
            work.finish.run(work.finish, work.finish_row, work.rows, 0, work.columns)
        return 0
    plan.turned = trt_turn_column(work)
    plan.stop = stop_flag()
    plan.work = work
    plan.level = simd.level
    plan.workers = num_workers() if shared else 1
    plan.partial = NULL
    plan.failed = 0
    if trt_is_row_product(work):
        if shared:  # in ranges of columns that end where vectors do
            parallel_ranges(trt_run_row, &plan, work.columns, max(64, (SHARED_FROM // 4 // work.inner + 63) // 64 * 64))
        else:
            trt_run_row(&plan, 0, work.columns)
        return 0
    trt_plan_product(&plan)
    tasks = plan.row_tiles * plan.column_tiles * plan.slices
    if plan.slices > 1:
        plan.partial = <char *>malloc((plan.slices - 1) * work.rows * work.columns * element)
        if plan.partial == NULL:
            return -1
    if shared:
        parallel_for(trt_run_tile, &plan, tasks)
    else:
        for i in range(tasks):
            if trt_gemm_stopped(plan.stop):
                break
            trt_run_tile(&plan, i)
    if plan.slices > 1:
        if shared:
            parallel_ranges(trt_add_slices, &plan, work.rows, max(1, (1 << 15) // work.columns))
        else:
            trt_add_slices(&plan, 0, work.rows)
        free(plan.partial)
    return -1 if plan.failed else 0


if trt_scratch_init():
    raise MemoryError("no key left for the scratch memory of threads")
