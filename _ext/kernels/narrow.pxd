"""Half and bfloat16 for kernels: what widens and narrows them, and kernels for float32 that take and give them."""

cimport numpy as cnp

from runtime._ext.kernel_abi cimport CompiledKernel
from runtime._ext.kernels.elementwise cimport trt_binary_entry, trt_unary_entry

cdef enum:
    BFLOAT16 = 14
    HALF = 19

ctypedef void (*widen_fn)(float *out, const char *x, cnp.npy_intp count) noexcept nogil
ctypedef void (*narrow_fn)(char *out, const float *x, cnp.npy_intp count) noexcept nogil

# numpy's number for a DataType, HALF or BFLOAT16; and its loops. NULL for any other.
cdef int narrow_type(int datatype) except -1
cdef widen_fn widen_of(int datatype) noexcept
cdef narrow_fn narrow_of(int datatype) noexcept

# Rows for formulas of several steps that are rounded after each; a type of TRT_BFLOAT16 stands for bfloat16.
cdef enum:
    TRT_BFLOAT16 = -1
cdef const trt_unary_entry *stepwise_unary_entries()
cdef const trt_binary_entry *stepwise_binary_entries()

# A kernel that runs one for float32 over widened copies of some inputs, bit i for input i, and narrows some of its
# outputs. The other inputs and outputs are those of the inner kernel.
cdef CompiledKernel over_float(CompiledKernel inner, int datatype, unsigned int inputs, unsigned int outputs)
