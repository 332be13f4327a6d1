"""The error function's relatives, their inverses, and modified Bessel functions, in vectors.

For float32 (with half and bfloat16) and, where no inverse is meant, float64; arrays as in
`runtime._ext.kernels.elementwise`. What is left is in `runtime._ext.special_functions`.
"""

cimport numpy as cnp

from runtime._ext.kernels cimport simd
from runtime._ext.kernels.elementwise cimport trt_unary_entry, unary_kernels

cnp.import_array()

cdef extern from "kernels/special_functions.h":
    const trt_unary_entry *trt_special_entries(int level)

cdef dict _kernels = unary_kernels(trt_special_entries(simd.level))
OPS = frozenset([op for op, _, _ in _kernels])


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    return _kernels.get((op, input_types[0], output_types[0]))
