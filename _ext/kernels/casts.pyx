"""Casts among float32, float64, half, bfloat16, int32, int64, uint8 and bool.

Half and bfloat16 go through float32, from float64 and integers too, as in TensorFlow.
"""

cimport numpy as cnp

from runtime._ext.kernels cimport simd
from runtime._ext.kernels.elementwise cimport (
    datatype_of,
    fill_unary,
    trt_unary_entry,
    trt_unary_params,
    unary_kernel,
)
from runtime._ext.kernels.narrow cimport BFLOAT16, HALF, narrow_of, narrow_type, widen_of

cnp.import_array()

cdef extern from "kernels/casts.h":
    const trt_unary_entry *trt_cast_entries(int level)

cdef enum:
    FLOAT = 1


cdef int _widen(trt_unary_params *params, int datatype) except -1:
    params.widen, params.type, params.size = widen_of(datatype), narrow_type(datatype), 2
    return 0


cdef int _narrow(trt_unary_params *params, int datatype) except -1:
    params.narrow, params.out_type, params.out_size = narrow_of(datatype), narrow_type(datatype), 2
    return 0


cdef dict _make():
    """Return kernels by the DataTypes of input and output."""
    cdef dict made = {}
    cdef const trt_unary_entry *entry = trt_cast_entries(simd.level)
    cdef trt_unary_entry kept
    cdef trt_unary_params params
    while entry.op != NULL:
        source, target = datatype_of(entry.type), datatype_of(entry.out_type)
        fill_unary(&params, entry)
        made[source, target] = unary_kernel(&params)
        for datatype in (HALF, BFLOAT16):
            fill_unary(&params, entry)
            if source == FLOAT:
                _widen(&params, datatype)
                made[datatype, target] = unary_kernel(&params)
            elif target == FLOAT:
                _narrow(&params, datatype)
                made[source, datatype] = unary_kernel(&params)
        entry += 1
    # the elements of a float as they are
    kept.op, kept.type, kept.out_type, kept.loop = b"Cast", cnp.NPY_FLOAT32, cnp.NPY_FLOAT32, NULL
    for datatype, other in ((HALF, BFLOAT16), (BFLOAT16, HALF)):
        fill_unary(&params, &kept)
        _widen(&params, datatype)
        made[datatype, FLOAT] = unary_kernel(&params)
        _narrow(&params, other)
        made[datatype, other] = unary_kernel(&params)
        fill_unary(&params, &kept)
        _narrow(&params, datatype)
        made[FLOAT, datatype] = unary_kernel(&params)
    return made


cdef dict _kernels = _make()
OPS = frozenset(["Cast"])


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    return None if attr("Truncate") else _kernels.get((input_types[0], output_types[0]))
