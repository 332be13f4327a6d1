"""Reads a TensorProto into a numpy array, straight from the bytes it arrived in.

``tensor_content`` of a numeric type becomes a read-only view that keeps the bytes object alive. Typed value fields,
strings, resources and variants are copied out, and what that may allocate is charged to a budget beforehand: a message
of twenty bytes can announce any number of elements. Called by ``tensor_codec`` and by the codecs of whole requests.
"""

cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from runtime._ext.datatypes cimport (DT_BOOL, DT_RESOURCE, DT_STRING, TYPED_BOOL, TYPED_FIXED, TYPED_RAW,
                                     TYPED_STRING, TYPED_VARINT, DataTypeInfo, datatype_info)
from runtime._ext.running_step cimport count_work, current_step, trt_step
from runtime._ext.wirefault cimport field_label, raise_wire
from runtime._ext.wirescan cimport (WIRE_BYTES, WIRE_FIXED32, WIRE_FIXED64, WIRE_OK, WIRE_TRUNCATED, WIRE_VARINT,
                                    Cursor, Span, read_span, read_tag, read_varint, skip_field)

import numpy as np

from runtime._ext.datatypes import name_of
from runtime._ext.errors import InvalidArgument, ResourceExhausted

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    object new_array "PyArray_NewFromDescr"(void* subtype, void* descr, int nd, cnp.npy_intp* dims,
                                            cnp.npy_intp* strides, void* data, int flags, void* obj)
    object zero_array "PyArray_Zeros"(int nd, cnp.npy_intp* dims, void* descr, int fortran)
    int set_base "PyArray_SetBaseObject"(cnp.ndarray array, PyObject* base) except -1
    void* ARRAY_TYPE "(&PyArray_Type)"

cdef extern from "Python.h":
    void incref "Py_INCREF"(void* ref) noexcept

cdef enum:
    MAX_NDIM = 64
    # Below this the time to hand the interpreter lock over and back is not worth the work done without it.
    NOGIL_BYTES = 256 * 1024
    # Skimming so much may take milliseconds, when it is many small fields.
    NOGIL_SKIM_BYTES = 8 * 1024 * 1024
    # What a bytes object costs beside its bytes.
    BYTES_OBJECT_BYTES = 33

# numpy 1 stops at 32 dimensions, numpy 2 at 64; TensorFlow allows 254.
cdef int _max_ndim = 32 if int(np.__version__.split(".")[0]) < 2 else MAX_NDIM

DEFAULT_MAX_BYTES = 2**31
"""Allocation limit of a decode that names none: what the largest protobuf message could carry in full."""

cdef struct TensorScan:
    int datatype
    int ndim
    bint unknown_rank
    uint32_t seen            # bit per field number of the typed fields that are there
    uint32_t tag             # of the field being read, for error texts
    const char* message      # of the same
    Span content
    cnp.npy_intp dims[MAX_NDIM]


cdef Budget make_budget(object max_bytes) except *:
    cdef Budget budget
    budget.limit = DEFAULT_MAX_BYTES if max_bytes is None else max_bytes
    if budget.limit < 0:
        raise InvalidArgument(f"max_bytes must be 0 or more, not {budget.limit}")
    budget.left = budget.limit
    return budget


cdef int _scan_dim(Cursor* outer, TensorScan* scan) noexcept nogil:
    cdef Cursor c
    cdef Span span
    cdef uint32_t tag = 0
    cdef uint64_t size = 0
    cdef int status = read_span(outer, &span)
    if status:
        return status
    c.base, c.p, c.end = outer.base, span.p, span.p + span.n
    while c.p < c.end:
        status = read_tag(&c, &tag)
        if not status:
            status = read_varint(&c, &size) if tag == 8 else skip_field(&c, tag)
        if status:
            outer.p = c.p
            return status
    if scan.ndim < MAX_NDIM:
        scan.dims[scan.ndim] = <cnp.npy_intp>size
    scan.ndim += 1
    return WIRE_OK


cdef int _scan_shape(Cursor* outer, TensorScan* scan) noexcept nogil:
    # A repeated tensor_shape is merged, as protobuf does: its dimensions follow the ones read before.
    cdef Cursor c
    cdef Span span
    cdef uint32_t tag = 0
    cdef uint64_t value = 0
    cdef int status = read_span(outer, &span)
    if status:
        return status
    c.base, c.p, c.end = outer.base, span.p, span.p + span.n
    while c.p < c.end:
        status = read_tag(&c, &tag)
        if not status:
            if tag == (2 << 3 | WIRE_BYTES):
                status = _scan_dim(&c, scan)
            elif tag == (3 << 3 | WIRE_VARINT):
                status = read_varint(&c, &value)
                scan.unknown_rank = value != 0
            else:
                status = skip_field(&c, tag)
        if status:
            scan.message = b"TensorShapeProto"
            scan.tag = tag
            outer.p = c.p
            return status
    return WIRE_OK


cdef int _scan_tensor(Cursor* c, TensorScan* scan) noexcept nogil:
    """Read the outline of a TensorProto: everything but the values of its typed fields."""
    cdef uint32_t tag = 0
    cdef uint64_t value = 0
    cdef uint32_t number
    cdef int status
    while c.p < c.end:
        tag = 0
        status = read_tag(c, &tag)
        if not status:
            if tag == (4 << 3 | WIRE_BYTES):
                status = read_span(c, &scan.content)
            elif tag == (2 << 3 | WIRE_BYTES):
                status = _scan_shape(c, scan)
            elif tag == (1 << 3 | WIRE_VARINT):
                status = read_varint(c, &value)
                scan.datatype = <int>value
            else:
                number = tag >> 3
                if 5 <= number <= 18:
                    scan.seen |= <uint32_t>1 << number
                status = skip_field(c, tag)
        if status:
            if scan.message == NULL:
                scan.message = b"TensorProto"
                scan.tag = tag
            return status
    return WIRE_OK


cdef inline void _store(uint8_t* at, int64_t width, uint64_t value) noexcept nogil:
    if width == 4:
        memcpy(at, &value, 4)
    elif width == 8:
        memcpy(at, &value, 8)
    elif width == 2:
        memcpy(at, &value, 2)
    else:
        at[0] = <uint8_t>value


cdef int _fill_varints(Cursor* c, const DataTypeInfo* info, uint8_t* out, int64_t n, int64_t* filled) noexcept nogil:
    """Read packed varints up to the cursor's end; those beyond ``n`` elements are read and dropped."""
    cdef uint64_t value = 0
    cdef int64_t have = filled[0]
    cdef int64_t width = info.itemsize
    cdef bint as_bool = info.typed_kind == TYPED_BOOL
    cdef int status
    while c.p < c.end:
        status = read_varint(c, &value)
        if status:
            return status
        if have < n:
            _store(out + have * width, width, value != 0 if as_bool else value)
            have += 1
    filled[0] = have
    return WIRE_OK


cdef int _fill_numbers(Cursor* c, const DataTypeInfo* info, uint8_t* out, int64_t n, int64_t* filled) noexcept nogil:
    """Collect the values of the typed field from a whole TensorProto.

    ``n`` and ``filled`` count values, of which a complex element has two. Both the packed and the one-by-one encoding
    are read, in any mixture.
    """
    cdef uint32_t number = info.typed_field
    cdef int64_t width = info.itemsize // info.components
    cdef uint32_t fixed_type = WIRE_FIXED32 if width == 4 else WIRE_FIXED64
    cdef uint32_t tag = 0
    cdef uint64_t value = 0
    cdef int64_t count
    cdef Span span
    cdef Cursor packed
    cdef int status
    while c.p < c.end:
        status = read_tag(c, &tag)
        if status:
            return status
        if tag >> 3 != number:
            status = skip_field(c, tag)
        elif info.typed_kind == TYPED_FIXED:
            if (tag & 7) == WIRE_BYTES:
                status = read_span(c, &span)
                if not status:
                    count = span.n // width
                    if count * width != span.n:
                        return WIRE_TRUNCATED
                    count = min(count, n - filled[0])
                    memcpy(out + filled[0] * width, span.p, count * width)
                    filled[0] += count
            elif (tag & 7) == fixed_type:
                if c.end - c.p < width:
                    return WIRE_TRUNCATED
                if filled[0] < n:
                    memcpy(out + filled[0] * width, c.p, width)
                    filled[0] += 1
                c.p += width
            else:
                status = skip_field(c, tag)
        elif info.typed_kind == TYPED_RAW:
            if (tag & 7) == WIRE_BYTES:
                # Not a repeated field: the last one counts.
                status = read_span(c, &span)
                if not status:
                    filled[0] = min(span.n, n)
                    memcpy(out, span.p, filled[0])
            else:
                status = skip_field(c, tag)
        elif (tag & 7) == WIRE_BYTES:
            status = read_span(c, &span)
            if not status:
                packed.base, packed.p, packed.end = c.base, span.p, span.p + span.n
                status = _fill_varints(&packed, info, out, n, filled)
                if status:
                    c.p = packed.p
        elif (tag & 7) == WIRE_VARINT:
            status = read_varint(c, &value)
            if not status and filled[0] < n:
                _store(out + filled[0] * width, width,
                       value != 0 if info.typed_kind == TYPED_BOOL else value)
                filled[0] += 1
        else:
            status = skip_field(c, tag)
        if status:
            return status
    return WIRE_OK


cdef void _repeat_last(uint8_t* out, int64_t itemsize, int64_t have, int64_t n) noexcept nogil:
    """Fill elements ``have`` to ``n`` with element ``have - 1``, doubling what is copied each time."""
    cdef int64_t done = 1
    cdef int64_t total = n - have + 1
    cdef int64_t step
    cdef uint8_t* start = out + (have - 1) * itemsize
    while done < total:
        step = min(done, total - done)
        memcpy(start + done * itemsize, start, step * itemsize)
        done += step


cdef bint _all_bools(const uint8_t* p, int64_t n) noexcept nogil:
    cdef uint8_t seen = 0
    cdef int64_t i
    for i in range(n):
        seen |= p[i]
    return seen <= 1


cdef str _shape_text(TensorScan* scan):
    return "[" + ",".join([str(scan.dims[i]) for i in range(scan.ndim)]) + "]"


cdef int _charge(Budget* budget, int64_t wanted, int datatype, TensorScan* scan) except -1:
    if wanted > budget.left:
        used = f", of which {budget.limit - budget.left} are used" if budget.left < budget.limit else ""
        raise ResourceExhausted(
            f"TensorProto: a {name_of(datatype)} tensor of shape {_shape_text(scan)} needs {wanted} bytes, "
            f"the limit is {budget.limit}{used}: send a smaller tensor or raise max_bytes")
    budget.left -= wanted
    return 0


cdef int64_t _count_elements(TensorScan* scan, DataTypeInfo* info) except -1:
    """Check the shape and return its number of elements; neither it nor the byte size overflows 63 bits."""
    cdef int64_t product = info.itemsize if info.itemsize > 8 else 8
    cdef int64_t size
    cdef bint empty = False
    cdef int i
    if scan.unknown_rank:
        raise InvalidArgument("TensorProto.tensor_shape has unknown_rank: a tensor value needs its full shape")
    if scan.ndim > _max_ndim:
        raise InvalidArgument(f"TensorProto.tensor_shape has {scan.ndim} dimensions, more than the {_max_ndim} "
                              "that a numpy array can have: reshape the tensor before it is sent")
    for i in range(scan.ndim):
        size = scan.dims[i]
        if size < 0:
            raise InvalidArgument(f"TensorProto.tensor_shape.dim[{i}].size is {size}: "
                                  "a tensor value needs every size known and not negative")
        if size == 0:
            empty = True
        elif product > 0x7fffffffffffffffLL // size:
            raise InvalidArgument(f"TensorProto.tensor_shape {_shape_text(scan)} has more elements "
                                  "than 64 bits can count the bytes of")
        else:
            product *= size
    return 0 if empty else product // (info.itemsize if info.itemsize > 8 else 8)


cdef cnp.ndarray _view(object owner, const uint8_t* data, DataTypeInfo* info, TensorScan* scan):
    cdef int flags = cnp.NPY_ARRAY_C_CONTIGUOUS
    cdef cnp.ndarray array
    if (<size_t>data) % <size_t>(<cnp.dtype>info.descr).alignment == 0:
        flags |= cnp.NPY_ARRAY_ALIGNED
    incref(info.descr)
    array = new_array(ARRAY_TYPE, info.descr, scan.ndim, scan.dims, NULL, <void*>data, flags, NULL)
    incref(<void*>owner)
    set_base(array, <PyObject*>owner)
    return array


cdef cnp.ndarray _fresh(DataTypeInfo* info, TensorScan* scan):
    incref(info.descr)
    return new_array(ARRAY_TYPE, info.descr, scan.ndim, scan.dims, NULL, NULL, 0, NULL)


cdef cnp.ndarray _zeros(DataTypeInfo* info, TensorScan* scan):
    incref(info.descr)
    return zero_array(scan.ndim, scan.dims, info.descr, 0)


cdef object _decode_content(object owner, DataTypeInfo* info, int datatype, int64_t n, TensorScan* scan,
                            Budget* budget, const uint8_t* base):
    cdef cnp.ndarray array
    cdef uint8_t* out
    cdef const uint8_t* data = scan.content.p
    cdef int64_t i
    cdef bint clean
    if scan.content.n != n * info.itemsize:
        raise InvalidArgument(
            f"TensorProto.tensor_content (field 4) at byte {data - base} has {scan.content.n} bytes; "
            f"{n} elements of {name_of(datatype)} in shape {_shape_text(scan)} take {n * info.itemsize}")
    if datatype == DT_BOOL:
        if n >= NOGIL_BYTES:
            with nogil:
                clean = _all_bools(data, n)
        else:
            clean = _all_bools(data, n)
        if not clean:
            # A numpy bool other than 0 or 1 is undefined behaviour, so these are made anew.
            _charge(budget, n, datatype, scan)
            array = _fresh(info, scan)
            out = <uint8_t*>cnp.PyArray_DATA(array)
            with nogil:
                for i in range(n):
                    out[i] = data[i] != 0
            return array
    return _view(owner, data, info, scan)


cdef object _decode_string_content(DataTypeInfo* info, int datatype, int64_t n, TensorScan* scan, Budget* budget,
                                   const uint8_t* base):
    """Read ``n`` varint lengths and then the strings back to back."""
    cdef cnp.ndarray array
    cdef PyObject** out
    cdef Cursor lengths
    cdef const uint8_t* text
    cdef uint64_t size = 0
    cdef uint64_t total = 0
    cdef int64_t i
    cdef object item
    cdef int status
    cdef trt_step *step = current_step()
    lengths.base, lengths.p, lengths.end = base, scan.content.p, scan.content.p + scan.content.n
    label = f"TensorProto.tensor_content (field 4) at byte {scan.content.p - base}"
    if n > scan.content.n:
        raise InvalidArgument(f"{label} has {scan.content.n} bytes, which cannot hold the lengths of {n} elements "
                              f"of {name_of(datatype)} in shape {_shape_text(scan)}")
    for i in range(n):
        status = read_varint(&lengths, &size)
        if status or size > 0xffffffffULL:
            raise InvalidArgument(f"{label}: the length of element {i} of {n} is damaged or cut off")
        total += size
    if total != <uint64_t>(lengths.end - lengths.p):
        raise InvalidArgument(f"{label}: the {n} elements of {name_of(datatype)} take {total} bytes, "
                              f"{lengths.end - lengths.p} follow their lengths")
    _charge(budget, n * (BYTES_OBJECT_BYTES + <int64_t>sizeof(void*)) + <int64_t>total, datatype, scan)
    text = lengths.p
    lengths.p = scan.content.p
    array = _fresh(info, scan)
    out = <PyObject**>cnp.PyArray_DATA(array)
    for i in range(n):
        read_varint(&lengths, &size)
        item = PyBytes_FromStringAndSize(<const char*>text, <Py_ssize_t>size)
        incref(<void*>item)
        out[i] = <PyObject*>item
        text += size
        if step != NULL:
            count_work(step, 1)
    return array


cdef object _decode_string_fields(Span span, DataTypeInfo* info, int datatype, int64_t n, TensorScan* scan,
                                  Budget* budget, const uint8_t* base):
    """Read string_val, resource_handle_val or variant_val, one field per element."""
    cdef cnp.ndarray array
    cdef PyObject** out
    cdef Cursor c
    cdef Span value
    cdef uint32_t tag = 0
    cdef uint32_t wanted = info.typed_field << 3 | WIRE_BYTES
    cdef int64_t have = 0
    cdef object item = b""
    cdef int status
    cdef trt_step *step = current_step()
    _charge(budget, n * <int64_t>sizeof(void*), datatype, scan)
    array = _fresh(info, scan)
    out = <PyObject**>cnp.PyArray_DATA(array)
    c.base, c.p, c.end = base, span.p, span.p + span.n
    while c.p < c.end and have < n:
        status = read_tag(&c, &tag)
        if not status:
            if tag == wanted:
                status = read_span(&c, &value)
                if not status:
                    _charge(budget, value.n + BYTES_OBJECT_BYTES, datatype, scan)
                    item = PyBytes_FromStringAndSize(<const char*>value.p, value.n)
                    incref(<void*>item)
                    out[have] = <PyObject*>item
                    have += 1
                    if step != NULL:
                        count_work(step, 1)
            else:
                status = skip_field(&c, tag)
        if status:
            raise_wire("TensorProto", tag, status, &c)
    # Strings repeat the last one; a missing resource or variant is the empty message.
    if datatype != DT_STRING:
        item = b""
    while have < n:
        incref(<void*>item)
        out[have] = <PyObject*>item
        have += 1
    return array


cdef object _decode_numbers(Span span, DataTypeInfo* info, int datatype, int64_t n, TensorScan* scan,
                            Budget* budget, const uint8_t* base):
    """Read the typed field of a numeric tensor; repeat its last value, or zeros where it has none."""
    cdef cnp.ndarray array
    cdef uint8_t* out
    cdef Cursor c
    cdef int64_t filled = 0
    cdef int64_t have
    cdef int status
    _charge(budget, n * info.itemsize, datatype, scan)
    if not scan.seen & (<uint32_t>1 << info.typed_field):
        return _zeros(info, scan)
    array = _fresh(info, scan)
    out = <uint8_t*>cnp.PyArray_DATA(array)
    c.base, c.p, c.end = base, span.p, span.p + span.n
    if span.n >= NOGIL_BYTES:
        with nogil:
            status = _fill_numbers(&c, info, out, n * info.components, &filled)
    else:
        status = _fill_numbers(&c, info, out, n * info.components, &filled)
    if status:
        raise_wire("TensorProto", info.typed_field << 3, status, &c)
    # Half a complex number counts for nothing.
    have = filled // info.components
    if have == 0:
        return _zeros(info, scan)
    if have < n:
        if (n - have) * info.itemsize >= NOGIL_BYTES:
            with nogil:
                _repeat_last(out, info.itemsize, have, n)
        else:
            _repeat_last(out, info.itemsize, have, n)
    return array


cdef object decode_span(object owner, const uint8_t* base, Span span, Budget* budget, int* datatype):
    """Decode the TensorProto in ``span``, which lies in ``owner``, a bytes object that begins at ``base``.

    Store its DataType, without the reference mark, in ``datatype``.
    """
    cdef TensorScan scan
    cdef Cursor c
    cdef DataTypeInfo* info
    cdef int64_t n
    cdef int status
    scan.datatype = 0
    scan.ndim = 0
    scan.unknown_rank = False
    scan.seen = 0
    scan.tag = 0
    scan.message = NULL
    scan.content.p = NULL
    scan.content.n = 0
    c.base, c.p, c.end = base, span.p, span.p + span.n
    if span.n >= NOGIL_SKIM_BYTES:
        with nogil:
            status = _scan_tensor(&c, &scan)
    else:
        status = _scan_tensor(&c, &scan)
    if status:
        raise_wire(scan.message.decode(), scan.tag, status, &c)
    info = datatype_info(scan.datatype)
    if info == NULL:
        raise InvalidArgument(f"{field_label('TensorProto', 1)} of the message at byte {span.p - base} is "
                              f"{scan.datatype} ({name_of(scan.datatype)}): no tensor can have that type")
    datatype[0] = scan.datatype - 100 if scan.datatype > 100 else scan.datatype
    n = _count_elements(&scan, info)
    if n == 0:
        return _fresh(info, &scan)
    if info.typed_kind == TYPED_STRING:
        if scan.content.n:
            return _decode_string_content(info, datatype[0], n, &scan, budget, base)
        return _decode_string_fields(span, info, datatype[0], n, &scan, budget, base)
    if scan.content.n:
        return _decode_content(owner, info, datatype[0], n, &scan, budget, base)
    return _decode_numbers(span, info, datatype[0], n, &scan, budget, base)


cdef object _decode(bytes buf, Py_ssize_t offset, Py_ssize_t end, object max_bytes, int* datatype):
    cdef Budget budget = make_budget(max_bytes)
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(buf)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(buf)
    cdef Span span
    if end == -1:
        end = size
    if not 0 <= offset <= end <= size:
        raise InvalidArgument(f"offset {offset} and end {end} do not mark a part of a buffer of {size} bytes")
    span.p = base + offset
    span.n = end - offset
    return decode_span(buf, base, span, &budget, datatype)


def decode_tensor(bytes buf not None, Py_ssize_t offset=0, Py_ssize_t end=-1, max_bytes=None):
    """Decode a serialized TensorProto.

    Parameters
    ----------
    buf : bytes
        Holds the message, possibly among other bytes.
    offset, end : int
        Where in ``buf`` the message begins and ends, in bytes; an ``end`` of -1 is the end of ``buf``.
    max_bytes : int, optional
        Limit on what the decode may allocate for values, in bytes; ``DEFAULT_MAX_BYTES`` when left out. A view
        allocates nothing.

    Returns
    -------
    numpy.ndarray
        C order, native byte order, shape as in the message. Numeric ``tensor_content`` gives a read-only view that
        shares memory with ``buf`` and keeps it alive; it may be misaligned (``flags.aligned`` tells). Anything else is a
        new array. Strings are ``bytes`` in an array of objects; so are resources and variants, each the serialized
        ResourceHandleProto or VariantTensorDataProto.

    Raises
    ------
    InvalidArgument
        The bytes are damaged, the type unknown, the shape not fully known or over numpy's number of dimensions, or the
        content does not fit the shape.
    ResourceExhausted
        The values would take more than ``max_bytes``.

    Notes
    -----
    Short typed fields repeat their last value, absent ones are zeros or empty strings, surplus values are ignored, and
    non-empty ``tensor_content`` wins over typed fields, as in TensorFlow's ``Tensor::FromProto``. Booleans other than
    0 and 1 in ``tensor_content`` count as true. Safe from several threads.
    """
    cdef int datatype = 0
    return _decode(buf, offset, end, max_bytes, &datatype)


def decode_tensor_ex(bytes buf not None, Py_ssize_t offset=0, Py_ssize_t end=-1, max_bytes=None):
    """Decode a serialized TensorProto and tell its DataType too.

    Returns
    -------
    tuple of (int, numpy.ndarray)
        The DataType number without its reference mark, which tells quantized from plain integers and resources and
        variants from strings, and what ``decode_tensor`` returns for the same arguments.
    """
    cdef int datatype = 0
    array = _decode(buf, offset, end, max_bytes, &datatype)
    return datatype, array
