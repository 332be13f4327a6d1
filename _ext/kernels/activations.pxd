"""What biases are described by, for those who take kernels apart."""

from runtime._ext.kernel_abi cimport CompiledKernel
from runtime._ext.kernels.elementwise cimport trt_binary_params

cdef extern from "kernels/bias_types.h":
    ctypedef struct trt_bias_params:
        trt_binary_params add
        int channels_first

cdef bint is_bias_add(CompiledKernel kernel)
