"""The object that carries a compiled kernel from its module to the executor; see ``kernel_abi.pxd`` for the contract.

A kernel may write into input ``i`` and return it as an output (with a new reference) when bit ``i`` of
``KernelCall.reusable`` is set, and in no other case; it must check dtype, shape, contiguity and alignment itself and
decline what it was not made for. Inputs are not always C-contiguous nor aligned: a fed tensor is a view on the bytes
of a request.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize


cdef class CompiledKernel:
    """A compiled kernel with its parameters, made by a kernel module's ``select``."""

    def __init__(self):
        raise TypeError("a CompiledKernel is made by the select function of a kernel module")


cdef CompiledKernel make_kernel(kernel_fn fn, const void *params, size_t size):
    cdef CompiledKernel kernel = CompiledKernel.__new__(CompiledKernel)
    kernel.fn = fn
    kernel.params = NULL
    if size:
        kernel.memory = PyBytes_FromStringAndSize(<const char *>params, <Py_ssize_t>size)
        kernel.params = <void *>PyBytes_AS_STRING(kernel.memory)
    return kernel
