"""How kernels of products let others work on their results while these lie in the cache; see ``finish.h``."""

cimport numpy as cnp

from runtime._ext.kernel_abi cimport KernelCall

cdef extern from "kernels/finish.h" nogil:
    ctypedef struct trt_finish:
        bint (*fits)(trt_finish *finish, int type, int rank, const cnp.npy_intp *dims) noexcept
        void (*place)(trt_finish *finish, char *result) noexcept
        void (*run)(const trt_finish *finish, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t column,
                    Py_ssize_t columns) noexcept nogil
        void *addend

# Run the kernel of a product and what is to become of its result; as kernel_fn, but for the latter. NULL: nothing.
ctypedef int (*finishing_fn)(KernelCall *call, trt_finish *finish) except -1
