"""Lists of tensors: the simple cases of making them, and of adding, taking, setting, reading and stacking elements.

Whatever needs a message, more room, or an element that was never set, is left to the Python definition.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.string cimport memcpy

cimport numpy as cnp

from runtime._ext.kernel_abi cimport KernelCall, make_kernel
from runtime._ext.running_step cimport spare_arrays, trt_spares
from runtime._ext.tensor_chunks cimport TensorChunks, new_list

cnp.import_array()

cdef extern from "kernels/simd.h":
    # at any address: a fed value lies anywhere in a request
    ctypedef int trt_mem_i32
    ctypedef long long trt_mem_i64

cdef extern from "kernels/object_values.h":
    enum:
        TRT_LONG_WORK_BYTES
    trt_spares *trt_spares_here
    bint trt_is_plain(PyObject *value, int type)
    PyObject *trt_new_array(int type, int rank, const cnp.npy_intp *dims) except NULL
    bint TRT_IS_ARRAY(PyObject *value)
    int TRT_TYPE(PyObject *array)
    int TRT_RANK(PyObject *array)
    cnp.npy_intp *TRT_DIMS(PyObject *array)
    cnp.npy_intp TRT_SIZE(PyObject *array)
    cnp.npy_intp TRT_NBYTES(PyObject *array)
    char *TRT_BYTES(PyObject *array)
    PyObject *TRT_ELEMENT(PyObject *array)
    long long trt_index_of(PyObject *value) noexcept
    PyObject *trt_scalar_of(object element) except NULL

cdef extern from "kernels/row_views.h":
    object trt_rows(PyObject *value, cnp.npy_intp first, cnp.npy_intp count, cnp.npy_intp row_bytes)

trt_spares_here = spare_arrays()

cdef enum:
    MAX_RANK = 8
    # Longer lists are made by the definition, which knows how long one may be.
    MAX_MADE = 1 << 16
    INT32_TYPE = 3               # DataType

cdef struct Params:
    long kind                    # DataType of the elements; 0: any
    long long count              # TensorListStack: how many there must be; -1: any

# DataTypes by their numbers, for lists that are made
cdef dict _types = {}

# In place of a shape that cannot be read.
cdef object _NO_SHAPE = object()

OPS = ("TensorListPushBack", "TensorListPopBack", "TensorListLength", "TensorListGetItem", "TensorListSetItem",
       "TensorListStack", "TensorListReserve", "TensorListFromTensor", "TensorListElementShape")


def select(str op, input_types, output_types, attr):
    """Return the kernel of an op on lists of tensors."""
    cdef Params params
    params.kind, params.count = 0, -1
    if op == "TensorListLength":
        return make_kernel(_length, &params, sizeof(Params))
    if op == "TensorListElementShape":
        params.kind = output_types[0]
        return make_kernel(_element_shape, &params, sizeof(Params))
    params.kind = attr("element_dtype")
    if op == "TensorListReserve" or op == "TensorListFromTensor":
        _types[params.kind] = attr("element_dtype")
        return make_kernel(_reserve if op == "TensorListReserve" else _from_tensor, &params, sizeof(Params))
    if op == "TensorListPushBack":
        return make_kernel(_push, &params, sizeof(Params))
    if op == "TensorListPopBack":
        return make_kernel(_pop, &params, sizeof(Params))
    if op == "TensorListGetItem":
        return make_kernel(_get, &params, sizeof(Params))
    if op == "TensorListSetItem":
        return make_kernel(_set, &params, sizeof(Params))
    params.count = attr("num_elements")
    return make_kernel(_stack, &params, sizeof(Params))


cdef TensorChunks _list_of(PyObject *handle, long kind):
    """Return the list that a variant scalar holds, if its elements are of this type; else None."""
    cdef PyObject *element
    cdef TensorChunks found
    if not TRT_IS_ARRAY(handle) or TRT_TYPE(handle) != cnp.NPY_OBJECT or TRT_RANK(handle):
        return None
    element = TRT_ELEMENT(handle)
    if element == NULL or not isinstance(<object>element, TensorChunks):
        return None
    found = <TensorChunks>element
    return found if kind == 0 or <long>found.dtype == kind else None


cdef bint _fits(object wanted, PyObject *value, int skipped=0) except -1:
    """Tell whether an array, or one of its rows, is of a shape that may be known in part."""
    cdef tuple dims
    cdef int rank, i
    if not TRT_IS_ARRAY(value):
        return False
    if wanted is None:
        return True
    dims, rank = wanted, TRT_RANK(value) - skipped
    if len(dims) != rank:
        return False
    for i in range(rank):
        if dims[i] is not None and <cnp.npy_intp>dims[i] != TRT_DIMS(value)[i + skipped]:
            return False
    return True


cdef bint _spells(PyObject *shape, PyObject *value) noexcept:
    """Tell whether a tensor spells a shape, perhaps in part, that an array is of."""
    cdef int i, dim
    if not trt_is_plain(shape, cnp.NPY_INT32):
        return False
    if TRT_RANK(shape) == 0:
        return (<const trt_mem_i32 *>TRT_BYTES(shape))[0] == -1
    if TRT_RANK(shape) != 1 or TRT_SIZE(shape) != TRT_RANK(value):
        return False
    for i in range(TRT_RANK(value)):
        dim = (<const trt_mem_i32 *>TRT_BYTES(shape))[i]
        if dim != -1 and dim != TRT_DIMS(value)[i]:
            return False
    return True


cdef object _shape_from(PyObject *tensor):
    """Return the shape that a tensor spells, None for an unknown rank; `_NO_SHAPE` where it is not as it should be."""
    cdef bint is_wide = trt_is_plain(tensor, cnp.NPY_INT64)
    cdef cnp.npy_intp i
    cdef long long dim
    cdef list dims = []
    if (not is_wide and not trt_is_plain(tensor, cnp.NPY_INT32)) or TRT_RANK(tensor) > 1:
        return _NO_SHAPE
    for i in range(TRT_SIZE(tensor)):
        if is_wide:
            dim = (<const trt_mem_i64 *>TRT_BYTES(tensor))[i]
        else:
            dim = (<const trt_mem_i32 *>TRT_BYTES(tensor))[i]
        if dim < -1:
            return _NO_SHAPE
        dims.append(None if dim == -1 else dim)
    if TRT_RANK(tensor) == 0:
        return None if dims[0] is None else _NO_SHAPE
    return tuple(dims)


cdef int _push(KernelCall *call) except -1:
    cdef TensorChunks source = _list_of(call.inputs[0], (<Params *>call.params).kind)
    if (source is None or not _fits(source.element_shape, call.inputs[1])
            or 0 <= source.max_num_elements <= source.length):
        return 1
    call.outputs[0] = trt_scalar_of(source.with_more(<object>call.inputs[1]))
    return 0


cdef int _pop(KernelCall *call) except -1:
    cdef TensorChunks source = _list_of(call.inputs[0], (<Params *>call.params).kind)
    cdef object element
    if source is None or source.length == 0:
        return 1
    element = source.element(source.length - 1)
    if element is None or not TRT_IS_ARRAY(<PyObject *>element):
        return 1
    call.outputs[0] = trt_scalar_of(source.without_last())
    Py_INCREF(element)
    call.outputs[1] = <PyObject *>element
    return 0


cdef int _length(KernelCall *call) except -1:
    cdef TensorChunks source = _list_of(call.inputs[0], 0)
    if source is None:
        return 1
    call.outputs[0] = trt_new_array(cnp.NPY_INT32, 0, NULL)
    (<int *>TRT_BYTES(call.outputs[0]))[0] = <int>source.length
    return 0


cdef int _get(KernelCall *call) except -1:
    cdef TensorChunks source = _list_of(call.inputs[0], (<Params *>call.params).kind)
    cdef long long index = trt_index_of(call.inputs[1])
    cdef object element
    if source is None or not 0 <= index < source.length:
        return 1
    element = source.element(index)
    if element is None or not TRT_IS_ARRAY(<PyObject *>element):
        return 1
    Py_INCREF(element)
    call.outputs[0] = <PyObject *>element
    return 0


cdef int _set(KernelCall *call) except -1:
    cdef TensorChunks source = _list_of(call.inputs[0], (<Params *>call.params).kind)
    cdef long long index = trt_index_of(call.inputs[1])
    if source is None or not 0 <= index < source.length or not _fits(source.element_shape, call.inputs[2]):
        return 1
    call.outputs[0] = trt_scalar_of(source.with_element(index, <object>call.inputs[2]))
    return 0


cdef int _stack(KernelCall *call) except -1:
    """Pack elements of one shape, all of which are set, into one array."""
    cdef Params *params = <Params *>call.params
    cdef TensorChunks source = _list_of(call.inputs[0], params.kind)
    cdef cnp.npy_intp dims[MAX_RANK]
    cdef cnp.npy_intp each
    cdef int rank, type_number, k
    cdef long long i
    cdef object element
    cdef PyObject *value
    cdef char *packed
    if source is None or source.length == 0 or params.count not in (-1, source.length):
        return 1
    element = source.element(0)
    value = <PyObject *>element
    if element is None or not TRT_IS_ARRAY(value):
        return 1
    rank, type_number = TRT_RANK(value), TRT_TYPE(value)
    if (rank >= MAX_RANK or type_number == cnp.NPY_OBJECT or not _spells(call.inputs[1], value)
            or not _fits(source.element_shape, value)):
        return 1
    dims[0] = source.length
    for k in range(rank):
        dims[k + 1] = TRT_DIMS(value)[k]
    for i in range(source.length):
        element = source.element(i)
        value = <PyObject *>element
        if element is None or not trt_is_plain(value, type_number) or TRT_RANK(value) != rank:
            return 1
        for k in range(rank):
            if TRT_DIMS(value)[k] != dims[k + 1]:
                return 1
    each = TRT_NBYTES(value)
    if source.length * each >= TRT_LONG_WORK_BYTES:
        return 1  # numpy lets others run meanwhile
    call.outputs[0] = trt_new_array(type_number, rank + 1, dims)
    packed = TRT_BYTES(call.outputs[0])
    for i in range(source.length):
        element = source.element(i)
        memcpy(packed + i * each, TRT_BYTES(<PyObject *>element), each)
    return 0


cdef int _reserve(KernelCall *call) except -1:
    cdef object shape = _shape_from(call.inputs[0])
    cdef long long count = trt_index_of(call.inputs[1])
    cdef TensorChunks made
    if shape is _NO_SHAPE or not 0 <= count <= MAX_MADE:
        return 1
    made = new_list(_types[(<Params *>call.params).kind], shape, None, count)
    if made is None:
        return 1
    call.outputs[0] = trt_scalar_of(made)
    return 0


cdef int _from_tensor(KernelCall *call) except -1:
    """Make a list of the rows of an array, as views."""
    cdef PyObject *value = call.inputs[0]
    cdef object shape = _shape_from(call.inputs[1])
    cdef cnp.npy_intp count, i, row_bytes
    cdef TensorChunks made
    if (shape is _NO_SHAPE or not TRT_IS_ARRAY(value) or not trt_is_plain(value, TRT_TYPE(value))
            or TRT_TYPE(value) == cnp.NPY_OBJECT or TRT_RANK(value) < 1 or TRT_SIZE(value) == 0
            or TRT_DIMS(value)[0] > MAX_MADE or not _fits(shape, value, 1)):
        return 1
    count = TRT_DIMS(value)[0]
    row_bytes = TRT_NBYTES(value) // count
    made = new_list(_types[(<Params *>call.params).kind], shape,
                    [trt_rows(value, i, -1, row_bytes) for i in range(count)], count)
    if made is None:
        return 1
    call.outputs[0] = trt_scalar_of(made)
    return 0


cdef int _element_shape(KernelCall *call) except -1:
    cdef TensorChunks source = _list_of(call.inputs[0], 0)
    cdef bint is_wide = (<Params *>call.params).kind != INT32_TYPE
    cdef int type_number = cnp.NPY_INT64 if is_wide else cnp.NPY_INT32
    cdef cnp.npy_intp count = 1, i
    cdef long long dim
    cdef tuple shape = (None,)
    if source is None:
        return 1
    if source.element_shape is None:
        call.outputs[0] = trt_new_array(type_number, 0, NULL)
    else:
        shape = source.element_shape
        count = len(shape)
        call.outputs[0] = trt_new_array(type_number, 1, &count)
    for i in range(count):
        dim = -1 if shape[i] is None else shape[i]
        if is_wide:
            (<long long *>TRT_BYTES(call.outputs[0]))[i] = dim
        else:
            (<int *>TRT_BYTES(call.outputs[0]))[i] = <int>dim
    return 0
