"""Casts among float32, float64, int32, int64, uint8 and bool."""

cimport numpy as cnp

from runtime._ext.kernels cimport simd
from runtime._ext.kernels.elementwise cimport trt_unary_entry, unary_kernels

cnp.import_array()

cdef extern from "kernels/casts.h":
    const trt_unary_entry *trt_cast_entries(int level)

cdef dict _kernels = unary_kernels(trt_cast_entries(simd.level))
OPS = frozenset(["Cast"])


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    return _kernels.get((op, input_types[0], output_types[0]))
