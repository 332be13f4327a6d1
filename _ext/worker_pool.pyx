"""Helper threads for large kernels: one pool per process, started by the first kernel that is large enough.

The thread that runs a kernel always takes part, and takes over whatever the helpers do not get to: a busy machine slows
nothing down. Where a helper has been taken off its processor in the middle of a task, so that a kernel had to wait for
it, kernels run alone for a while. Helpers look out for the next kernel for some 40 microseconds after they have worked
and sleep otherwise, at once when a step has ended (`dismiss`). They end when the last of those who `retain` the pool
lets go of it, and when the interpreter ends. A forked child starts its own.
"""

import atexit
import os

from runtime._ext.running_step cimport stop_flag

cdef extern from "worker_pool.h" nogil:
    enum:
        TRT_MAX_HELPERS
    void trt_parallel_for(task_fn run, void *context, Py_ssize_t num_tasks, const int *stop)
    void trt_parallel_ranges(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain, const int *stop)
    void trt_pool_stop()
    void trt_pool_dismiss()
    int trt_pool_watch_forks()
    int trt_pool_default_limit()

cdef extern from *:
    """
    #define TRT_POOL_LIMIT trt_pool.limit
    #define TRT_POOL_THREADS trt_pool.num_threads
    #define TRT_POOL_BEGUN __atomic_load_n(&trt_pool.begun, __ATOMIC_RELAXED)
    """
    int TRT_POOL_LIMIT
    int TRT_POOL_THREADS
    long long TRT_POOL_BEGUN

# those who hold the pool; changed under the GIL
cdef int _users = 0


cdef void parallel_for(task_fn run, void *context, Py_ssize_t num_tasks) noexcept nogil:
    trt_parallel_for(run, context, num_tasks, stop_flag())


cdef void parallel_ranges(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil:
    trt_parallel_ranges(run, context, size, grain, stop_flag())


cdef void parallel_ranges_to_end(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil:
    trt_parallel_ranges(run, context, size, grain, NULL)


cdef int num_workers() noexcept nogil:
    return 1 + (TRT_POOL_LIMIT if TRT_POOL_LIMIT >= 0 else trt_pool_default_limit())


def workers():
    """Return how many threads may work on one kernel, the caller included."""
    return num_workers()


def running_helpers():
    """Return how many helper threads there are now."""
    return TRT_POOL_THREADS


def tasks_begun():
    """Return how many tasks of kernels have begun since the process did, on whichever thread."""
    return TRT_POOL_BEGUN


def dismiss():
    """Tell the helpers that a step has ended: those that look out for its next kernel go to sleep."""
    trt_pool_dismiss()


def set_workers(int count):
    """Set how many threads may work on one kernel, the caller included; 1 for no helpers.

    Parameters
    ----------
    count : int
        1 to 64. By default it is the number of processors that this process may use, or what
        ``TENSOR_RUNTIME_KERNEL_THREADS`` says.

    Raises
    ------
    ValueError
        If `count` is out of range.

    Notes
    -----
    Waits for helpers that are at work.
    """
    global TRT_POOL_LIMIT
    if not 1 <= count <= TRT_MAX_HELPERS + 1:
        raise ValueError(f"count is {count}; 1 to {TRT_MAX_HELPERS + 1} threads can work on one kernel")
    stop()
    TRT_POOL_LIMIT = count - 1


def retain():
    """Keep the helpers alive until a matching `release`."""
    global _users
    _users += 1


def release():
    """Undo one `retain`; the last one ends the helpers.

    Raises
    ------
    RuntimeError
        If there was no `retain` left to undo.
    """
    global _users
    if _users == 0:
        raise RuntimeError("the worker pool is released more often than it was retained")
    _users -= 1
    if _users == 0:
        stop()


def stop():
    """End the helper threads, after what they are doing now; the next large kernel starts new ones."""
    with nogil:
        trt_pool_stop()


def _wanted_from_environment():
    text = os.environ.get("TENSOR_RUNTIME_KERNEL_THREADS", "")
    if not text:
        return
    if not text.isdecimal() or not 1 <= int(text) <= TRT_MAX_HELPERS + 1:
        raise ValueError(f"TENSOR_RUNTIME_KERNEL_THREADS is {text!r}; it must be a number from 1 to "
                         f"{TRT_MAX_HELPERS + 1}")
    set_workers(int(text))


if trt_pool_watch_forks():
    raise MemoryError("no memory to watch for forks")
_wanted_from_environment()
atexit.register(stop)
