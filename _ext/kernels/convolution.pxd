"""Convolutions that others work on while they lie in the cache."""

from runtime._ext.kernel_abi cimport CompiledKernel
from runtime._ext.kernels.finish cimport finishing_fn

# The function of a kernel of a forward convolution, or of the gradient of the input where strides are 1, of floats or
# doubles with the channels last; NULL for all others.
cdef finishing_fn finishing(CompiledKernel kernel) noexcept
