"""Stacks and tensor arrays of loops: the simple cases of pushing, popping, reading, writing, packing, joining and their
opposites.

Whatever needs a message, more room, a sum, or a wait for somebody at work on the array, is left to the Python definition.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.string cimport memcpy

cimport numpy as cnp

from runtime._ext.kernel_abi cimport KernelCall, make_kernel
from runtime._ext.running_step cimport spare_arrays, trt_spares
from runtime._ext.step_arrays cimport Place, Places, Stack
from runtime._ext.variable cimport ResourceHandle

cnp.import_array()

cdef extern from "kernels/array_access.h":
    enum:
        TRT_LONG_WORK_BYTES
    trt_spares *trt_spares_here
    bint trt_is_plain(PyObject *value, int type)
    PyObject *trt_new_array(int type, int rank, const cnp.npy_intp *dims) except NULL

cdef extern from "kernels/simd.h":
    # at any address: a fed value lies anywhere in a request
    ctypedef int trt_mem_i32
    ctypedef long long trt_mem_i64

cdef extern from "kernels/object_values.h":
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

cdef struct Params:
    long kind                    # DataType of the elements
    PyObject *text               # TensorArrayGradV3: for which source

# what Params point to
cdef list _texts = []

OPS = ("StackPush", "StackPushV2", "StackPop", "StackPopV2", "TensorArrayReadV3", "TensorArrayWriteV3",
       "TensorArrayGradV3", "TensorArrayGatherV3", "TensorArrayScatterV3", "TensorArrayConcatV3", "TensorArraySplitV3",
       "TensorArraySizeV3", "TensorArrayCloseV3")


def select(str op, input_types, output_types, attr):
    """Return the kernel of an op on stacks or tensor arrays."""
    cdef Params params
    params.text = NULL
    params.kind = 0
    if op == "TensorArrayGradV3":
        text = attr("source").decode("utf-8", "replace")
        if text not in _texts:
            if len(_texts) >= 1000:  # names that a client makes up
                return None
            _texts.append(text)
        text = _texts[_texts.index(text)]
        params.text = <PyObject *>text
        return make_kernel(_gradient, &params, sizeof(Params))
    if op == "StackPush" or op == "StackPushV2":
        params.kind = input_types[1]
        return make_kernel(_push, &params, sizeof(Params))
    if op == "StackPop" or op == "StackPopV2":
        return make_kernel(_pop, &params, sizeof(Params))
    if op == "TensorArrayWriteV3":
        params.kind = input_types[2]
        return make_kernel(_write, &params, sizeof(Params))
    if op == "TensorArrayScatterV3":
        params.kind = input_types[2]
        return make_kernel(_scatter, &params, sizeof(Params))
    if op == "TensorArraySplitV3":
        params.kind = input_types[1]
        return make_kernel(_split, &params, sizeof(Params))
    if op == "TensorArraySizeV3":
        return make_kernel(_size, &params, sizeof(Params))
    if op == "TensorArrayCloseV3":
        return make_kernel(_close, &params, sizeof(Params))
    params.kind = output_types[0]
    if op == "TensorArrayReadV3":
        return make_kernel(_read, &params, sizeof(Params))
    if op == "TensorArrayConcatV3":
        return make_kernel(_concat, &params, sizeof(Params)) if attr("element_shape_except0") is None else None
    return make_kernel(_gather, &params, sizeof(Params)) if attr("element_shape") is None else None


cdef object _resource(PyObject *handle):
    """Return what a resource tensor names, or None."""
    if not TRT_IS_ARRAY(handle) or TRT_TYPE(handle) != cnp.NPY_OBJECT or TRT_SIZE(handle) != 1:
        return None
    cdef PyObject *element = TRT_ELEMENT(handle)
    if element == NULL or not isinstance(<object>element, ResourceHandle):
        return None
    return (<ResourceHandle>element).resource


cdef Places _array_of(PyObject *handle, long kind):
    """Return the tensor array that a handle names if it can be used here and now, else None."""
    cdef object found = _resource(handle)
    cdef Places array
    if not isinstance(found, Places):
        return None
    array = found
    return array if array.is_free() and (kind == 0 or array.kind == kind) else None


cdef bint _fits(tuple wanted, int rank, const cnp.npy_intp *dims) except -1:
    """Tell whether a shape is exactly this."""
    cdef int i
    if len(wanted) != rank:
        return False
    for i in range(rank):
        if wanted[i] is None or <cnp.npy_intp>wanted[i] != dims[i]:
            return False
    return True


cdef bint _may_write(Places array, long long index, int rank, const cnp.npy_intp *dims) except -1:
    """Tell whether writing an array of this shape needs nothing but to be noted.

    A place of a gradient whose shape alone is known, from what was written at it in the source, stands for zeros.
    """
    cdef Place place
    if not 0 <= index < array.count:
        return False
    if array.element_shape is None:
        if array.same_shapes:
            return False  # the first one decides
    elif not _fits(array.element_shape, rank, dims):
        return False
    place = array.places.get(index)
    if place is None or not (place.written or place.read):
        return True
    return array.is_gradient and place.value is None and not place.read and _fits(place.shape, rank, dims)


cdef int _note_written(Places array, long long index, object value) except -1:
    cdef Place place = array.places.get(index)
    if place is None:
        place = array.places[index] = Place.__new__(Place)
    place.value, place.written = value, True
    place.shape = value.shape
    return 0


cdef int _push(KernelCall *call) except -1:
    cdef object found = _resource(call.inputs[0])
    cdef Stack stack
    if not isinstance(found, Stack):
        return 1
    stack = found
    if stack.kind != (<Params *>call.params).kind:
        return 1
    stack.push(<object>call.inputs[1])
    Py_INCREF(<object>call.inputs[1])
    call.outputs[0] = call.inputs[1]
    return 0


cdef int _pop(KernelCall *call) except -1:
    cdef object found = _resource(call.inputs[0])
    cdef object element
    if not isinstance(found, Stack):
        return 1
    element = (<Stack>found).pop()
    Py_INCREF(element)
    call.outputs[0] = <PyObject *>element
    return 0


cdef int _read(KernelCall *call) except -1:
    cdef Places array = _array_of(call.inputs[0], (<Params *>call.params).kind)
    cdef long long index = trt_index_of(call.inputs[1])
    cdef object value
    if array is None or index < 0:
        return 1
    value = array.readable(index)
    if value is None:
        return 1
    array.note_read(index)
    Py_INCREF(value)
    call.outputs[0] = <PyObject *>value
    return 0


cdef int _write(KernelCall *call) except -1:
    cdef Places array = _array_of(call.inputs[0], (<Params *>call.params).kind)
    cdef long long index = trt_index_of(call.inputs[1])
    cdef PyObject *value = call.inputs[2]
    if (array is None or index < 0 or not TRT_IS_ARRAY(value)
            or not _may_write(array, index, TRT_RANK(value), TRT_DIMS(value))):
        return 1
    _note_written(array, index, <object>value)
    Py_INCREF(<object>call.inputs[3])
    call.outputs[0] = call.inputs[3]
    return 0


cdef int _gradient(KernelCall *call) except -1:
    """Return another handle of an array of gradients that is there."""
    cdef Places array = _array_of(call.inputs[0], 0)
    cdef Places found
    cdef ResourceHandle handle
    if array is None or array.is_gradient or array.is_dynamic:
        return 1
    found = array.gradients.get(<object>(<Params *>call.params).text)
    if found is None:
        return 1
    handle = <ResourceHandle>TRT_ELEMENT(call.inputs[0])
    handle = ResourceHandle(handle.device, "_tensor_array_grads", found.name, handle.type_name, found)
    call.outputs[0] = trt_scalar_of(handle)
    Py_INCREF(<object>call.inputs[1])
    call.outputs[1] = call.inputs[1]
    return 0


cdef bint _are_alike(list values, int first) except -1:
    """Tell whether all are plain arrays of one type, no objects, and from dimension `first` on of one shape."""
    cdef PyObject *model = <PyObject *>values[0]
    cdef PyObject *value
    cdef int rank, k
    if not TRT_IS_ARRAY(model) or TRT_TYPE(model) == cnp.NPY_OBJECT:
        return False
    rank = TRT_RANK(model)
    for element in values:
        value = <PyObject *>element
        if not trt_is_plain(value, TRT_TYPE(model)) or TRT_RANK(value) != rank:
            return False
        for k in range(first, rank):
            if TRT_DIMS(value)[k] != TRT_DIMS(model)[k]:
                return False
    return True


cdef int _gather(KernelCall *call) except -1:
    """Pack the elements at rising indices into one array."""
    cdef Places array = _array_of(call.inputs[0], (<Params *>call.params).kind)
    cdef PyObject *indices = call.inputs[1]
    cdef cnp.npy_intp dims[MAX_RANK]
    cdef cnp.npy_intp count, each, i, k
    cdef int rank
    cdef long long former = -1
    cdef const trt_mem_i32 *places
    cdef list values
    cdef PyObject *value
    cdef PyObject *made
    cdef const char **rows
    cdef char *packed
    if array is None or not trt_is_plain(indices, cnp.NPY_INT32) or TRT_RANK(indices) != 1 or TRT_SIZE(indices) == 0:
        return 1
    count = TRT_SIZE(indices)
    places = <const trt_mem_i32 *>TRT_BYTES(indices)
    values = []
    for i in range(count):
        if places[i] <= former:  # an index that comes twice reads what may have been cleared
            return 1
        former = places[i]
        element = array.readable(former)
        if element is None:
            return 1
        values.append(element)
    value = <PyObject *>values[0]
    if not _are_alike(values, 0) or TRT_RANK(value) >= MAX_RANK:
        return 1
    rank = TRT_RANK(value)
    dims[0] = count
    for k in range(rank):
        dims[k + 1] = TRT_DIMS(value)[k]
    made = trt_new_array(TRT_TYPE(value), rank + 1, dims)
    call.outputs[0] = made
    rows = <const char **>PyMem_Malloc(count * sizeof(char *))
    if rows == NULL:
        raise MemoryError()
    each = TRT_NBYTES(value)
    for i in range(count):
        rows[i] = TRT_BYTES(<PyObject *>values[i])
        array.note_read(places[i])
    packed = TRT_BYTES(made)
    if count * each < TRT_LONG_WORK_BYTES:
        for i in range(count):
            memcpy(packed + i * each, rows[i], each)
    else:
        with nogil:
            for i in range(count):
                memcpy(packed + i * each, rows[i], each)
    PyMem_Free(rows)
    return 0


cdef int _scatter(KernelCall *call) except -1:
    """Put the rows of an array, as views, at rising indices."""
    cdef Places array = _array_of(call.inputs[0], (<Params *>call.params).kind)
    cdef PyObject *indices = call.inputs[1]
    cdef PyObject *value = call.inputs[2]
    cdef cnp.npy_intp count, i
    cdef long long former = -1
    cdef const trt_mem_i32 *places
    if (array is None or not trt_is_plain(indices, cnp.NPY_INT32) or TRT_RANK(indices) != 1
            or not trt_is_plain(value, TRT_TYPE(value)) or TRT_TYPE(value) == cnp.NPY_OBJECT or TRT_RANK(value) < 1
            or TRT_DIMS(value)[0] != TRT_SIZE(indices) or TRT_SIZE(value) == 0):
        return 1
    count = TRT_SIZE(indices)
    places = <const trt_mem_i32 *>TRT_BYTES(indices)
    for i in range(count):
        if places[i] <= former or not _may_write(array, places[i], TRT_RANK(value) - 1, TRT_DIMS(value) + 1):
            return 1
        former = places[i]
    for i in range(count):
        _note_written(array, places[i], trt_rows(value, i, -1, TRT_NBYTES(value) // count))
    Py_INCREF(<object>call.inputs[3])
    call.outputs[0] = call.inputs[3]
    return 0


cdef int _concat(KernelCall *call) except -1:
    """Join all elements along their first dimension; their lengths are the second output."""
    cdef Places array = _array_of(call.inputs[0], (<Params *>call.params).kind)
    cdef cnp.npy_intp dims[MAX_RANK]
    cdef cnp.npy_intp nbytes, total = 0
    cdef long long i
    cdef int rank, k
    cdef list values
    cdef PyObject *value
    cdef PyObject *lengths
    cdef char *place
    if array is None or array.count == 0:
        return 1
    values = []
    for i in range(array.count):
        element = array.readable(i)
        if element is None:
            return 1
        values.append(element)
    value = <PyObject *>values[0]
    if not _are_alike(values, 1) or not 1 <= TRT_RANK(value) <= MAX_RANK:
        return 1
    rank = TRT_RANK(value)
    for k in range(1, rank):
        dims[k] = TRT_DIMS(value)[k]
    dims[0] = 0
    for element in values:
        dims[0] += TRT_DIMS(<PyObject *>element)[0]
        total += TRT_NBYTES(<PyObject *>element)
    if total >= TRT_LONG_WORK_BYTES:
        return 1  # numpy lets others run meanwhile
    call.outputs[0] = trt_new_array(TRT_TYPE(value), rank, dims)
    dims[0] = array.count
    call.outputs[1] = lengths = trt_new_array(cnp.NPY_INT64, 1, dims)
    place = TRT_BYTES(call.outputs[0])
    for i in range(array.count):
        value = <PyObject *>values[i]
        nbytes = TRT_NBYTES(value)
        memcpy(place, TRT_BYTES(value), nbytes)
        place += nbytes
        (<long long *>TRT_BYTES(lengths))[i] = TRT_DIMS(value)[0]
        array.note_read(i)
    return 0


cdef int _split(KernelCall *call) except -1:
    """Put pieces of an array, as views, at all indices."""
    cdef Places array = _array_of(call.inputs[0], (<Params *>call.params).kind)
    cdef PyObject *value = call.inputs[1]
    cdef PyObject *lengths = call.inputs[2]
    cdef cnp.npy_intp dims[MAX_RANK]
    cdef cnp.npy_intp count, rows, i, row_bytes, first = 0
    cdef int rank, k
    cdef const trt_mem_i64 *sizes
    if (array is None or not trt_is_plain(lengths, cnp.NPY_INT64) or TRT_RANK(lengths) != 1 or not TRT_IS_ARRAY(value)
            or not trt_is_plain(value, TRT_TYPE(value)) or TRT_TYPE(value) == cnp.NPY_OBJECT
            or not 1 <= TRT_RANK(value) <= MAX_RANK or TRT_SIZE(value) == 0 or TRT_SIZE(lengths) != array.count):
        return 1
    rank, count, rows = TRT_RANK(value), TRT_SIZE(lengths), TRT_DIMS(value)[0]
    sizes = <const trt_mem_i64 *>TRT_BYTES(lengths)
    for k in range(1, rank):
        dims[k] = TRT_DIMS(value)[k]
    for i in range(count):
        dims[0] = sizes[i]
        if not 0 <= sizes[i] <= rows - first or not _may_write(array, i, rank, dims):
            return 1
        first += sizes[i]
    if first != rows:
        return 1
    row_bytes = TRT_NBYTES(value) // rows
    first = 0
    for i in range(count):
        _note_written(array, i, trt_rows(value, first, sizes[i], row_bytes))
        first += sizes[i]
    Py_INCREF(<object>call.inputs[3])
    call.outputs[0] = call.inputs[3]
    return 0


cdef int _size(KernelCall *call) except -1:
    cdef Places array = _array_of(call.inputs[0], 0)
    if array is None:
        return 1
    call.outputs[0] = trt_new_array(cnp.NPY_INT32, 0, NULL)
    (<int *>TRT_BYTES(call.outputs[0]))[0] = <int>array.count
    return 0


cdef int _close(KernelCall *call) except -1:
    cdef Places array = _array_of(call.inputs[0], 0)
    if array is None:
        return 1
    array.closed = True
    array.places.clear()
    return 0
