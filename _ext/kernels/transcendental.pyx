"""Exponentials, logarithms, sigmoids and the activations made of them, roundings and tests of floats.

For float32, float64, half and bfloat16; as in `runtime._ext.kernels.elementwise`: C-contiguous arrays, aligned or not, and a dying input
takes the result.
"""

cimport numpy as cnp

from runtime._ext.kernels cimport simd
from runtime._ext.kernels.elementwise cimport binary_kernels, trt_binary_entry, trt_unary_entry, unary_kernels

cnp.import_array()

cdef extern from "kernels/transcendental.h":
    const trt_unary_entry *trt_function_entries(int level)
    const trt_binary_entry *trt_function_gradient_entries(int level)

cdef dict _kernels = {**unary_kernels(trt_function_entries(simd.level)),
                      **binary_kernels(trt_function_gradient_entries(simd.level), False)}
OPS = frozenset([op for op, _, _ in _kernels])


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    return _kernels.get((op, input_types[0], output_types[0]))
