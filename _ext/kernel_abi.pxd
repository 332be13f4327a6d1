"""What a compiled kernel is: a C function, its parameters, and one call of it.

Both executors call kernels through this; kernel modules under ``_ext/kernels`` make them.
"""

from cpython.object cimport PyObject


cdef struct KernelCall:
    PyObject **inputs         # borrowed, num_inputs of them; arrays, or a Variable where the op takes a reference
    PyObject **outputs        # all NULL on entry; the kernel stores one new reference for each output
    int num_inputs
    int num_outputs
    unsigned int reusable     # bit i: input i dies here, nobody else holds it, it owns writable memory
    void *params              # the CompiledKernel's


# 0: done, every output stored. 1: declined, nothing changed; the executor calls the Python definition instead.
# -1: failed with a Python exception; outputs stored so far are released by the executor.
# Called with the GIL held; a kernel that works long releases it itself.
ctypedef int (*kernel_fn)(KernelCall *call) except -1


cdef class CompiledKernel:
    cdef kernel_fn fn
    cdef void *params
    cdef object memory        # owns what params points to

# A kernel with a private copy of `size` bytes of parameters (a plain C struct; no Python references in it).
cdef CompiledKernel make_kernel(kernel_fn fn, const void *params, size_t size)
