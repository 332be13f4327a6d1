"""Products of matrices that others work on while they lie in the cache."""

from runtime._ext.kernel_abi cimport CompiledKernel
from runtime._ext.kernels.finish cimport finishing_fn

# The function of a kernel of this module; NULL for kernels of others.
cdef finishing_fn finishing(CompiledKernel kernel) noexcept
