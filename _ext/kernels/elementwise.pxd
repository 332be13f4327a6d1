"""How element-wise kernels are described and called (see ``elementwise.h``), for the modules that make them."""

from cpython.object cimport PyObject

cimport numpy as cnp

from runtime._ext.kernel_abi cimport CompiledKernel

cdef extern from "kernels/elementwise.h":
    ctypedef void (*trt_unary_loop)(char *out, const char *x, cnp.npy_intp count) noexcept nogil
    ctypedef void (*trt_binary_loop)(char *out, const char *x, const char *y, cnp.npy_intp count) noexcept nogil

    ctypedef void (*trt_widen_loop)(float *out, const char *x, cnp.npy_intp count) noexcept nogil
    ctypedef void (*trt_narrow_loop)(char *out, const float *x, cnp.npy_intp count) noexcept nogil

    ctypedef struct trt_unary_params:
        trt_unary_loop loop
        trt_widen_loop widen
        trt_narrow_loop narrow
        int type
        int out_type
        int size
        int out_size

    ctypedef struct trt_binary_params:
        trt_binary_loop both
        trt_binary_loop right
        trt_binary_loop left
        trt_widen_loop widen
        trt_narrow_loop narrow
        int type
        int out_type
        int size
        int out_size
        int broadcasts

    ctypedef struct trt_unary_entry:
        const char *op
        int type
        int out_type
        trt_unary_loop loop

    ctypedef struct trt_binary_entry:
        const char *op
        int type
        int out_type
        trt_binary_loop both
        trt_binary_loop right
        trt_binary_loop left

    int trt_unary(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                  const trt_unary_params *params) except -1
    int trt_binary(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                   const trt_binary_params *params) except -1
    int trt_add_n(PyObject **inputs, PyObject **outputs, int num_inputs, unsigned int reusable,
                  const trt_binary_params *params) except -1

cdef enum:
    OTHER = 0
    UNARY = 1
    BINARY = 2
    ADD_N = 3

# Which of these functions a kernel runs: UNARY has trt_unary_params, BINARY and ADD_N have trt_binary_params. OTHER for
# those that widen or narrow elements, too.
cdef int kind_of(CompiledKernel kernel)

# Kernels of the rows of a table, by (op, DataType number of the inputs, DataType number of the output). Rows for float32
# serve half and bfloat16 too, unless a row of `narrow.stepwise_*_entries` takes their place.
cdef dict unary_kernels(const trt_unary_entry *entry)
cdef dict binary_kernels(const trt_binary_entry *entry, bint broadcasts)

cdef int fill_unary(trt_unary_params *params, const trt_unary_entry *entry) except -1
cdef CompiledKernel unary_kernel(const trt_unary_params *params)
# Have a row for float32 take half or bfloat16.
cdef int narrow_binary(trt_binary_params *params, int datatype) except -1
cdef int fill_binary(trt_binary_params *params, const trt_binary_entry *entry, bint broadcasts) except -1
cdef int item_size(int type_number) except -1
cdef int datatype_of(int type_number) except -1
