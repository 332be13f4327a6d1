"""Sharing the work of a large kernel between the calling thread and a few helpers, without the GIL."""

ctypedef void (*task_fn)(void *context, Py_ssize_t index) noexcept nogil
ctypedef void (*range_fn)(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil

# Call run(context, i) for every i below num_tasks, in no particular order, and return when all have returned. Worth it
# from some 50 microseconds of work upwards; tasks of 20 to 100 microseconds each balance well. Nothing is allocated.
# When the step that the caller works for is cancelled, tasks that have not begun are left out: the step then takes no
# result, but until the kernel returns, memory that a task was to fill may hold anything.
cdef void parallel_for(task_fn run, void *context, Py_ssize_t num_tasks) noexcept nogil

# Call run(context, begin, end) for ranges of `grain` entries that cover `size`; once and here when that is one range.
cdef void parallel_ranges(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil

# The same for work that must be done or not done, but not half: on values of variables.
cdef void parallel_ranges_to_end(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil

# How many threads may work on one job, the caller included.
cdef int num_workers() noexcept nogil
