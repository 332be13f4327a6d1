"""Shapes: reading and changing them, parts of arrays, arrays put together and filled, values handed on.

A part whose elements lie one after the other is a view; an array whose shape stays as it is comes back itself.
"""

cimport numpy as cnp
from cpython.object cimport PyObject
from libc.string cimport memcpy, memset

from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall, kernel_fn, make_kernel
from runtime._ext.kernels.elementwise cimport item_size
from runtime._ext.running_step cimport spare_arrays, stop_flag, trt_spares
from runtime._ext.worker_pool cimport parallel_ranges, range_fn

import numpy

cnp.import_array()

cdef extern from "kernels/array_access.h":
    const int *(*trt_stop_flag)() noexcept nogil
    trt_spares *trt_spares_here

trt_stop_flag = stop_flag
trt_spares_here = spare_arrays()

cdef extern from "kernels/shaping.h":
    ctypedef struct trt_squeeze_params:
        int count
        int axes[16]

    ctypedef struct trt_slice_masks:
        cnp.int64_t begin
        cnp.int64_t end
        cnp.int64_t ellipsis
        cnp.int64_t new_axis
        cnp.int64_t shrink

    enum:
        TRT_SHAPING_RANK

    void trt_share_by(void (*share)(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil)

    int trt_hand_on(PyObject **inputs, PyObject **outputs, int count) except -1
    int trt_shapes(PyObject **inputs, PyObject **outputs, int count, int type) except -1
    int trt_size(PyObject **inputs, PyObject **outputs, int type) except -1
    int trt_rank(PyObject **inputs, PyObject **outputs) except -1
    int trt_reshape(PyObject **inputs, PyObject **outputs) except -1
    int trt_expand_dims(PyObject **inputs, PyObject **outputs) except -1
    int trt_squeeze(PyObject **inputs, PyObject **outputs, const trt_squeeze_params *params) except -1
    int trt_transpose(PyObject **inputs, PyObject **outputs) except -1
    int trt_slice(PyObject **inputs, PyObject **outputs) except -1
    int trt_strided_slice(PyObject **inputs, PyObject **outputs, const trt_slice_masks *masks) except -1
    int trt_unpack(PyObject **inputs, PyObject **outputs, int count, int axis) except -1

cdef extern from "kernels/joining.h":
    ctypedef struct trt_like_params:
        int type
        int size
        char item[16]

    int trt_pack(PyObject **inputs, PyObject **outputs, int count, int axis) except -1
    int trt_concat(PyObject **values, int count, PyObject *axis, PyObject **outputs) except -1
    int trt_fill(PyObject **inputs, PyObject **outputs) except -1
    int trt_like(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                 const trt_like_params *params) except -1

trt_share_by(parallel_ranges)

cdef enum:
    INT32 = 3
    INT64 = 9

# DataType numbers of complex types, which a transposition may conjugate.
cdef frozenset _COMPLEX = frozenset([8, 18])
cdef dict _ITEMS = {1: numpy.float32, 2: numpy.float64, 3: numpy.int32, 4: numpy.uint8, 5: numpy.int16, 6: numpy.int8,
                    9: numpy.int64, 10: numpy.bool_, 8: numpy.complex64, 18: numpy.complex128}


cdef int _hand_on(KernelCall *call) except -1:
    return trt_hand_on(call.inputs, call.outputs, call.num_outputs)


cdef int _shapes(KernelCall *call) except -1:
    return trt_shapes(call.inputs, call.outputs, call.num_outputs, (<int *>call.params)[0])


cdef int _size(KernelCall *call) except -1:
    return trt_size(call.inputs, call.outputs, (<int *>call.params)[0])


cdef int _rank(KernelCall *call) except -1:
    return trt_rank(call.inputs, call.outputs)


cdef int _reshape(KernelCall *call) except -1:
    return trt_reshape(call.inputs, call.outputs)


cdef int _expand_dims(KernelCall *call) except -1:
    return trt_expand_dims(call.inputs, call.outputs)


cdef int _squeeze(KernelCall *call) except -1:
    return trt_squeeze(call.inputs, call.outputs, <const trt_squeeze_params *>call.params)


cdef int _transpose(KernelCall *call) except -1:
    return trt_transpose(call.inputs, call.outputs)


cdef int _slice(KernelCall *call) except -1:
    return trt_slice(call.inputs, call.outputs)


cdef int _strided_slice(KernelCall *call) except -1:
    return trt_strided_slice(call.inputs, call.outputs, <const trt_slice_masks *>call.params)


cdef int _unpack(KernelCall *call) except -1:
    return trt_unpack(call.inputs, call.outputs, call.num_outputs, (<int *>call.params)[0])


cdef int _pack(KernelCall *call) except -1:
    return trt_pack(call.inputs, call.outputs, call.num_inputs, (<int *>call.params)[0])


cdef int _concat_v2(KernelCall *call) except -1:
    return trt_concat(call.inputs, call.num_inputs - 1, call.inputs[call.num_inputs - 1], call.outputs)


cdef int _concat(KernelCall *call) except -1:
    return trt_concat(call.inputs + 1, call.num_inputs - 1, call.inputs[0], call.outputs)


cdef int _fill(KernelCall *call) except -1:
    return trt_fill(call.inputs, call.outputs)


cdef int _like(KernelCall *call) except -1:
    return trt_like(call.inputs, call.outputs, call.reusable, <const trt_like_params *>call.params)


cdef CompiledKernel _with_int(kernel_fn function, int value):
    return make_kernel(function, &value, sizeof(value))


cdef CompiledKernel _make_squeeze(axes):
    cdef trt_squeeze_params params
    cdef int i
    if len(axes) > TRT_SHAPING_RANK:
        return None
    memset(&params, 0, sizeof(params))
    params.count = <int>len(axes)
    for i in range(params.count):
        params.axes[i] = axes[i]
    return make_kernel(_squeeze, &params, sizeof(params))


cdef CompiledKernel _make_strided_slice(attr):
    cdef trt_slice_masks masks
    masks.begin, masks.end = attr("begin_mask"), attr("end_mask")
    masks.ellipsis, masks.new_axis = attr("ellipsis_mask"), attr("new_axis_mask")
    masks.shrink = attr("shrink_axis_mask")
    if masks.ellipsis & (masks.ellipsis - 1):
        return None
    return make_kernel(_strided_slice, &masks, sizeof(masks))


cdef CompiledKernel _make_like(str op, int datatype):
    cdef trt_like_params params
    item = _ITEMS.get(datatype)
    if item is None:
        return None
    cdef cnp.ndarray value = numpy.asarray(item(op == "OnesLike"))
    memset(&params, 0, sizeof(params))
    params.type, params.size = cnp.PyArray_TYPE(value), item_size(cnp.PyArray_TYPE(value))
    memcpy(params.item, cnp.PyArray_DATA(value), params.size)
    return make_kernel(_like, &params, sizeof(params))


cdef frozenset _HANDING_ON = frozenset(["Identity", "StopGradient", "PreventGradient", "Snapshot", "GuaranteeConst",
                                        "PlaceholderWithDefault", "IdentityN", "LoopCond"])
cdef dict _SIMPLE = {
    "Rank": make_kernel(_rank, NULL, 0),
    "Reshape": make_kernel(_reshape, NULL, 0),
    "ExpandDims": make_kernel(_expand_dims, NULL, 0),
    "Transpose": make_kernel(_transpose, NULL, 0),
    "Slice": make_kernel(_slice, NULL, 0),
    "ConcatV2": make_kernel(_concat_v2, NULL, 0),
    "Concat": make_kernel(_concat, NULL, 0),
    "Fill": make_kernel(_fill, NULL, 0),
    **{op: make_kernel(_hand_on, NULL, 0) for op in _HANDING_ON},
}
OPS = frozenset(_SIMPLE) | {"Cast", "ConjugateTranspose", "Shape", "ShapeN", "Size", "Squeeze", "StridedSlice", "Pack",
                            "Unpack", "ZerosLike", "OnesLike"}


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    found = _SIMPLE.get(op)
    if found is not None:
        return found
    if op == "Cast":
        return _SIMPLE["Identity"] if input_types[0] == output_types[0] else None
    if op == "ConjugateTranspose":
        return None if input_types[0] in _COMPLEX else _SIMPLE["Transpose"]
    if op == "Shape" or op == "ShapeN" or op == "Size":
        if output_types[0] != INT32 and output_types[0] != INT64:
            return None
        return _with_int(_size if op == "Size" else _shapes, cnp.NPY_INT32 if output_types[0] == INT32
                         else cnp.NPY_INT64)
    if op == "Squeeze":
        return _make_squeeze([int(axis) for axis in attr("squeeze_dims")])
    if op == "StridedSlice":
        return _make_strided_slice(attr)
    if op == "Pack" or op == "Unpack":
        return _with_int(_pack if op == "Pack" else _unpack, attr("axis"))
    return _make_like(op, input_types[0])
