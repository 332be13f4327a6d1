"""Writes numpy arrays as TensorProto, each value copied once, into the bytes object that is sent.

Writing has two steps: ``plan_tensor`` checks an array and finds how long its message is, ``write_tensor`` fills memory
of that length. So the codecs of whole requests plan all tensors, make one bytes object and fill it. Field order is
dtype, tensor_shape, tensor_content: TensorFlow reads tensors of that form without a general parse.
"""

cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from runtime._ext.datatypes cimport (DT_STRING, TYPED_STRING, DataTypeInfo, check_array_type, datatype_info)
from runtime._ext.wirescan cimport MAX_FIELD_BYTES, field_size, put_varint, varint_size

import numpy as np

from runtime._ext.datatypes import name_of
from runtime._ext.errors import InvalidArgument, ResourceExhausted

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    object new_array "PyArray_NewFromDescr"(void* subtype, void* descr, int nd, cnp.npy_intp* dims,
                                            cnp.npy_intp* strides, void* data, int flags, void* obj)
    int copy_into "PyArray_CopyInto"(cnp.ndarray to, cnp.ndarray source) except -1
    bint is_c_contiguous "PyArray_IS_C_CONTIGUOUS"(cnp.ndarray array) noexcept
    bint is_native "PyArray_ISNOTSWAPPED"(cnp.ndarray array) noexcept
    void* ARRAY_TYPE "(&PyArray_Type)"

cdef extern from "Python.h":
    void incref "Py_INCREF"(void* ref) noexcept

cdef extern from *:
    """
    #ifdef __linux__
    #include <stdint.h>
    #include <sys/mman.h>
    static void runtime_want_huge_pages(void *start, size_t size) {
        uintptr_t first = ((uintptr_t)start + 4095) & ~(uintptr_t)4095;
        uintptr_t end = ((uintptr_t)start + size) & ~(uintptr_t)4095;
        if (end > first)
            (void)madvise((void *)first, end - first, MADV_HUGEPAGE);
    }
    #else
    static void runtime_want_huge_pages(void *start, size_t size) { (void)start; (void)size; }
    #endif
    """
    void want_huge_pages "runtime_want_huge_pages"(void* start, size_t size) noexcept nogil

cdef enum:
    # Memory of this size is fresh from the system unless the allocator was told to keep it, and touching it page by
    # page takes longer than the copy: a message of 64 MiB 38 ms, in huge pages 7 ms. Smaller ones gain nothing.
    HUGE_BYTES = 4 * 1024 * 1024
    # A copy of this size takes longer than handing the interpreter lock over and back may cost.
    NOGIL_BYTES = 256 * 1024
    # A copy of this size takes longer than writing its memory to the socket as a buffer of its own.
    APART_BYTES = 64 * 1024


cdef int check_message_size(int64_t size) except -1:
    """Raise `ResourceExhausted` for a message longer than protobuf allows."""
    if size > MAX_FIELD_BYTES:
        raise ResourceExhausted(f"the message would have {size} bytes, protobuf allows {MAX_FIELD_BYTES}: "
                                "send fewer or smaller tensors at a time")
    return 0


cdef object new_message(int64_t size, uint8_t** at):
    """Make the bytes object of a message of ``size`` bytes, to be filled before anything else sees it."""
    check_message_size(size)
    message = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    at[0] = <uint8_t*>PyBytes_AS_STRING(message)
    if size >= HUGE_BYTES:
        want_huge_pages(at[0], <size_t>size)
    return message


cdef bytes _as_bytes(object item, int datatype, Py_ssize_t index):
    """Return the bytes of one element of an array of objects."""
    if isinstance(item, bytes):
        # A subclass of bytes may overload anything; what is sent is its content.
        return item if type(item) is bytes else bytes(memoryview(item))
    if datatype == DT_STRING:
        if isinstance(item, str):
            return item.encode()
        wanted = "bytes or str"
    else:
        to_wire = getattr(item, "to_wire", None)
        if to_wire is not None:
            item = to_wire()
            if type(item) is bytes:
                return item
        wanted = "bytes or objects whose to_wire() returns bytes"
    raise InvalidArgument(f"element {index} of a {name_of(datatype)} tensor is of type {type(item).__name__}: "
                          f"its elements are {wanted}")


cdef list _elements(cnp.ndarray array, int datatype):
    """Return the elements in C order, every one of type bytes."""
    cdef PyObject** items
    cdef list elements
    cdef Py_ssize_t n, i
    if cnp.PyArray_TYPE(array) == cnp.NPY_OBJECT and is_c_contiguous(array):
        n = cnp.PyArray_SIZE(array)
        items = <PyObject**>cnp.PyArray_DATA(array)
        elements = PyList_New(n)
        for i in range(n):
            # numpy reads an element that was never set as None.
            item = None if items[i] == NULL else <object>items[i]
            incref(<void*>item)
            PyList_SET_ITEM(elements, i, item)
    else:
        elements = array.ravel().tolist()
        n = len(elements)
    for i in range(n):
        if not PyBytes_CheckExact(elements[i]):
            elements[i] = _as_bytes(elements[i], datatype, i)
    return elements


cdef int _plan_strings(object array, int datatype, list made, TensorLayout* layout) except -1:
    cdef list elements = _elements(array, datatype)
    cdef int64_t total = 0
    cdef Py_ssize_t size
    cdef bytes item
    for item in elements:
        size = PyBytes_GET_SIZE(item)
        total += size + varint_size(<uint64_t>size)
    made.append(elements)
    layout.strings = <PyObject*>elements
    layout.content_bytes = total
    return 0


cdef int plan_tensor(object array, int datatype, bint omit_scalar_shape, list made, TensorLayout* layout) except -1:
    """Check ``array`` and lay out its TensorProto.

    ``datatype`` 0 stands for the array's own. ``made`` takes what has to live until ``write_tensor``; so must the array.
    """
    cdef int ndim, i
    cdef int64_t shape_bytes = 0
    cdef int64_t size
    cdef DataTypeInfo* info
    if not cnp.PyArray_Check(array) and isinstance(array, np.generic):
        # What numpy's reductions return in place of an array without dimensions.
        array = np.asarray(array)
        made.append(array)
    layout.datatype = check_array_type(array, datatype)
    info = datatype_info(layout.datatype)
    layout.array = <PyObject*>array
    layout.strings = NULL
    layout.ndim = ndim = cnp.PyArray_NDIM(<cnp.ndarray>array)
    layout.content_bytes = info.itemsize
    for i in range(ndim):
        size = cnp.PyArray_DIM(<cnp.ndarray>array, i)
        layout.dims[i] = size
        layout.content_bytes *= size
        shape_bytes += 2 if size == 0 else 3 + varint_size(<uint64_t>size)
    layout.shape_bytes = -1 if ndim == 0 and omit_scalar_shape else shape_bytes
    if info.typed_kind == TYPED_STRING:
        _plan_strings(array, layout.datatype, made, layout)
    layout.total_bytes = 2
    if layout.shape_bytes >= 0:
        layout.total_bytes += field_size(layout.shape_bytes)
    if layout.content_bytes:
        layout.total_bytes += field_size(layout.content_bytes)
    return 0


cdef void _write_strings(uint8_t* p, list elements) noexcept:
    cdef bytes item
    cdef Py_ssize_t size
    for item in elements:
        p = put_varint(p, <uint64_t>PyBytes_GET_SIZE(item))
    for item in elements:
        size = PyBytes_GET_SIZE(item)
        memcpy(p, PyBytes_AS_STRING(item), size)
        p += size


cdef int _write_numbers(uint8_t* p, const TensorLayout* layout) except -1:
    cdef cnp.ndarray array = <cnp.ndarray>layout.array
    cdef cnp.ndarray target
    cdef DataTypeInfo* info = datatype_info(layout.datatype)
    cdef int64_t n = layout.content_bytes
    cdef const void* data
    cdef int flags
    if is_c_contiguous(array) and is_native(array):
        if cnp.PyArray_SIZE(array) * info.itemsize != n:
            raise InvalidArgument(f"an array of dtype {array.dtype} was resized while it was being encoded")
        data = cnp.PyArray_DATA(array)
        if n >= NOGIL_BYTES:
            with nogil:
                memcpy(p, data, n)
        else:
            memcpy(p, data, n)
        return 0
    # numpy turns strides and byte order round on its way straight into the message.
    flags = cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_WRITEABLE
    if (<size_t>p) % <size_t>(<cnp.dtype>info.descr).alignment == 0:
        flags |= cnp.NPY_ARRAY_ALIGNED
    incref(info.descr)
    target = new_array(ARRAY_TYPE, info.descr, layout.ndim, <cnp.npy_intp*>layout.dims, NULL, p, flags, NULL)
    copy_into(target, array)
    return 0


cdef object content_apart(const TensorLayout* layout):
    """Return the content as a view of the array's own memory, which it keeps alive; None where it has to be written.

    That is a matter of large numeric arrays whose memory is what the message wants.
    """
    cdef cnp.ndarray array, flat
    cdef cnp.npy_intp size = layout.content_bytes
    if layout.content_bytes < APART_BYTES or layout.strings != NULL:
        return None
    array = <cnp.ndarray>layout.array
    if not is_c_contiguous(array) or not is_native(array) or cnp.PyArray_NBYTES(array) != size:
        return None
    flat = cnp.PyArray_SimpleNewFromData(1, &size, cnp.NPY_UINT8, cnp.PyArray_DATA(array))
    cnp.set_array_base(flat, array)
    flat.flags.writeable = False
    return PyMemoryView_FromObject(flat)


cdef uint8_t* write_tensor(uint8_t* p, const TensorLayout* layout) except NULL:
    """Write the message that ``layout`` describes and return the address after its last byte."""
    p = write_tensor_head(p, layout)
    if layout.content_bytes:
        if layout.strings != NULL:
            _write_strings(p, <list>layout.strings)
        else:
            _write_numbers(p, layout)
        p += layout.content_bytes
    return p


cdef uint8_t* write_tensor_head(uint8_t* p, const TensorLayout* layout) noexcept:
    """Write the message but its content, which comes last; return the address where that belongs."""
    cdef int i
    cdef int64_t size
    cdef uint8_t* mark
    p[0] = 0x08
    p[1] = <uint8_t>layout.datatype
    p += 2
    if layout.shape_bytes >= 0:
        p[0] = 0x12
        p = put_varint(p + 1, <uint64_t>layout.shape_bytes)
        for i in range(layout.ndim):
            size = layout.dims[i]
            p[0] = 0x12
            if size == 0:
                p[1] = 0
                p += 2
            else:
                p[2] = 0x08
                mark = p
                p = put_varint(p + 3, <uint64_t>size)
                mark[1] = <uint8_t>(p - mark - 2)
    if layout.content_bytes:
        p[0] = 0x22
        p = put_varint(p + 1, <uint64_t>layout.content_bytes)
    return p


def encode_tensor(array not None, datatype=None):
    """Encode an array as a serialized TensorProto.

    Parameters
    ----------
    array : numpy.ndarray or numpy.generic
        Any shape, memory layout and byte order. Strings are an array of objects that are ``bytes`` or ``str`` (sent as
        UTF-8), or of dtype ``S`` or ``U``. Resources and variants are an array of objects that are ``bytes`` or have a
        method ``to_wire() -> bytes``.
    datatype : int, optional
        The DataType number to send it as; left out, it is the one that the dtype has. Needed for quantized types, resources
        and variants.

    Returns
    -------
    bytes
        dtype, tensor_shape (also for a scalar) and tensor_content, in that order. Does not share memory with ``array``.

    Raises
    ------
    InvalidArgument
        The dtype has no DataType, is not that of ``datatype``, or an element has the wrong type.
    ResourceExhausted
        The message would exceed protobuf's 2 GiB.

    Notes
    -----
    Releases the interpreter lock while it copies large numeric arrays.
    """
    cdef TensorLayout layout
    cdef list made = []
    cdef uint8_t* p = NULL
    plan_tensor(array, 0 if datatype is None else datatype, False, made, &layout)
    message = new_message(layout.total_bytes, &p)
    write_tensor(p, &layout)
    return message
