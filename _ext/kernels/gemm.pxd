"""Matrix products for kernels: C = A B for float and double, any strides, shared over the worker pool."""

from runtime._ext.kernels.finish cimport trt_finish

cdef extern from "kernels/gemm_types.h" nogil:
    ctypedef struct trt_matrix:
        const char *data                    # at any address
        Py_ssize_t row_step, column_step    # in bytes, of any sign

    ctypedef struct trt_product:
        int is_double
        Py_ssize_t rows, columns, inner     # C is rows x columns, A rows x inner, B inner x columns
        trt_matrix a, b
        void *c                             # aligned; overwritten
        Py_ssize_t c_step                   # elements from one row of C to the next; columns are contiguous
        int alone                           # do not share the work: the caller is one of many that do
        int adds                            # C += A B, where `can_add` says so
        const trt_finish *finish            # for what is complete of C; NULL: nothing
        Py_ssize_t finish_row               # which row of the whole result the first one of C is

# Whether this processor has the instructions; without them nothing here may be called.
cdef bint available() noexcept nogil

# Whether A B may be added to C with the bits of a separate addition: each element is formed as one sum.
cdef bint can_add(const trt_product *work) noexcept nogil

# Compute C; the description may be changed. 0: done, or the step is cancelled; -1: no memory.
cdef int multiply(trt_product *work) noexcept nogil
