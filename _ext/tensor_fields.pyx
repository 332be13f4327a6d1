"""Tensors as fields of larger messages: named or by position, among the other fields, read and written.

The codecs of whole requests and answers (``step_codec``, ``worker_codec``) stand on this.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from runtime._ext.message_parts cimport MessageParts
from runtime._ext.tensor_decode cimport Budget, decode_span
from runtime._ext.tensor_encode cimport (TensorLayout, content_apart, new_message, plan_tensor, write_tensor,
                                         write_tensor_head)
from runtime._ext.wirefault cimport raise_wire
from runtime._ext.wirescan cimport (MAX_FIELD_BYTES, WIRE_BYTES, WIRE_VARINT, Cursor, Span, field_size, put_varint,
                                    read_span, read_tag, skip_field)

from runtime._ext.datatypes import name_of
from runtime._ext.errors import Error, InvalidArgument, ResourceExhausted

cdef enum:
    FEW_TENSORS = 8


cdef void start_spans(SpanList* spans) noexcept:
    spans.items = spans.few
    spans.n = 0
    spans.capacity = 8


cdef int add_span(SpanList* spans, Span span) except -1:
    # Each entry stands for at least two bytes of the message, so the list stays in proportion to it.
    cdef Span* grown
    if spans.n == spans.capacity:
        grown = <Span*>realloc(NULL if spans.items == spans.few else spans.items, 2 * spans.capacity * sizeof(Span))
        if grown == NULL:
            raise MemoryError
        if spans.items == spans.few:
            memcpy(grown, spans.few, spans.n * sizeof(Span))
        spans.items = grown
        spans.capacity *= 2
    spans.items[spans.n] = span
    spans.n += 1
    return 0


cdef void free_spans(SpanList* spans) noexcept:
    if spans.items != spans.few:
        free(spans.items)


cdef Cursor open_message(bytes message):
    cdef Cursor c
    c.base = <const uint8_t*>PyBytes_AS_STRING(message)
    c.p = c.base
    c.end = c.base + PyBytes_GET_SIZE(message)
    return c


cdef bytes join_spans(SpanList* spans):
    """Join the occurrences of one message field in one object, which is how protobuf merges them."""
    cdef int64_t size = 0
    cdef int64_t i
    cdef bytes joined
    cdef char* p
    for i in range(spans.n):
        size += spans.items[i].n
    joined = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    p = PyBytes_AS_STRING(joined)
    for i in range(spans.n):
        memcpy(p, spans.items[i].p, spans.items[i].n)
        p += spans.items[i].n
    return joined


cdef bytes _join_field(Cursor c, uint32_t wanted):
    """Join all occurrences of a length-delimited field in a message that has been read before."""
    cdef SpanList spans
    cdef Span span
    cdef uint32_t tag = 0
    start_spans(&spans)
    try:
        while c.p < c.end and not read_tag(&c, &tag):
            if tag == wanted:
                if read_span(&c, &span):
                    break
                add_span(&spans, span)
            elif skip_field(&c, tag):
                break
        return join_spans(&spans)
    finally:
        free_spans(&spans)


cdef bytes scan_named_tensor(bytes owner, Span message, Span* name, Span* tensor):
    """Find name and tensor of a NamedTensorProto; return the object that the tensor's bytes lie in."""
    cdef Cursor c, start
    cdef uint32_t tag
    cdef int status
    cdef int num_tensors = 0
    cdef bytes joined
    name.p = tensor.p = message.p
    name.n = tensor.n = 0
    c.base, c.p, c.end = <const uint8_t*>PyBytes_AS_STRING(owner), message.p, message.p + message.n
    start = c
    while c.p < c.end:
        tag = 0
        status = read_tag(&c, &tag)
        if not status:
            if tag == (1 << 3 | WIRE_BYTES):
                status = read_span(&c, name)
            elif tag == (2 << 3 | WIRE_BYTES):
                status = read_span(&c, tensor)
                num_tensors += 1
            else:
                status = skip_field(&c, tag)
        if status:
            raise_wire("NamedTensorProto", tag, status, &c)
    if num_tensors > 1:
        joined = _join_field(start, 2 << 3 | WIRE_BYTES)
        tensor.p = <const uint8_t*>PyBytes_AS_STRING(joined)
        tensor.n = PyBytes_GET_SIZE(joined)
        return joined
    return owner


cdef object decode_field(bytes owner, Span tensor, Budget* budget, str field, int64_t index, object name,
                         int* datatype):
    """Decode one tensor of a repeated field; an error names the field, the index and the tensor's name."""
    try:
        return decode_span(owner, <const uint8_t*>PyBytes_AS_STRING(owner), tensor, budget, datatype)
    except Error as error:
        label = f"{field}[{index}]" if name is None else f'{field}[{index}] "{name}"'
        raise type(error)(f"{label}: {error.message}") from None


cdef bytes bytes_field(int number, bytes payload):
    """Write a length-delimited field."""
    cdef uint8_t head[20]
    cdef uint8_t* p = put_varint(head, <uint64_t>number << 3 | WIRE_BYTES)
    p = put_varint(p, <uint64_t>PyBytes_GET_SIZE(payload))
    return PyBytes_FromStringAndSize(<char*>head, p - head) + payload


cdef bytes text_field(int number, object text):
    """Write a string field; nothing for an empty one, as proto3 does."""
    if not isinstance(text, str):
        raise InvalidArgument(f"a name or handle must be str, not {type(text).__name__}: {text!r}")
    return bytes_field(number, text.encode()) if text else b""


cdef bytes int_field(int number, object value):
    """Write an integer, enum or bool field; nothing for 0."""
    cdef uint8_t out[20]
    cdef uint8_t* p
    cdef int64_t signed_value
    if not value:
        return b""
    try:
        signed_value = value
    except OverflowError:
        raise InvalidArgument(f"{value} does not fit the 64 signed bits of field {number}") from None
    p = put_varint(out, <uint64_t>number << 3 | WIRE_VARINT)
    p = put_varint(p, <uint64_t>signed_value)
    return PyBytes_FromStringAndSize(<char*>out, p - out)


@cython.final
cdef class TensorFields:
    """The repeated tensor field of one kind of message, prepared for writing again and again.

    Parameters
    ----------
    number : int
        Field number, 1 to 15.
    names : sequence of str or None
        Names for NamedTensorProto; None writes plain TensorProto.
    datatypes : sequence of int or None
        DataType of each tensor, 0 for that of the array; None is all 0, and for plain tensors any number of them.
    omit_scalar_shape : bool
        Leave tensor_shape out where there are no dimensions.
    """

    def __cinit__(self, int number, names, datatypes, bint omit_scalar_shape=False):
        cdef int64_t i
        cdef bytes text
        self._pieces = NULL
        self._tag = <uint8_t>(number << 3 | WIRE_BYTES)
        self._named = names is not None
        self._omit_scalar_shape = omit_scalar_shape
        self._texts = []
        self.names = tuple(names) if names is not None else ()
        if datatypes is not None:
            self.datatypes = tuple(datatypes)
        elif names is not None:
            self.datatypes = (0,) * len(self.names)
        else:
            self.datatypes = ()
            self._n = -1
            return
        self._n = len(self.datatypes)
        if self._named and len(self.names) != self._n:
            raise InvalidArgument(f"{len(self.names)} tensor names and {self._n} datatypes: one of each is needed")
        self._pieces = <NamePiece*>malloc(max(self._n, 1) * sizeof(NamePiece))
        if self._pieces == NULL:
            raise MemoryError
        for i in range(self._n):
            self._pieces[i].datatype = self.datatypes[i] or 0
            if self._named:
                name = self.names[i]
                if not isinstance(name, str):
                    raise InvalidArgument(f"name {i} must be str, not {type(name).__name__}: {name!r}")
                text = name.encode()
                self._texts.append(text)
                self._pieces[i].p = <const uint8_t*>PyBytes_AS_STRING(text)
                self._pieces[i].n = PyBytes_GET_SIZE(text)

    def __dealloc__(self):
        free(self._pieces)

    cdef int _refuse(self, int64_t total, tuple values, TensorLayout* layouts) except -1:
        """Raise the error for a message that is too long; names its largest tensor."""
        cdef int64_t i
        cdef int64_t largest = 0
        for i in range(len(values)):
            if layouts[i].total_bytes > layouts[largest].total_bytes:
                largest = i
        label = f'tensor {largest} "{self.names[largest]}"' if self._named else f"tensor {largest}"
        raise ResourceExhausted(
            f"the message would have {total} bytes, protobuf allows {MAX_FIELD_BYTES}; the largest is {label} with "
            f"{layouts[largest].content_bytes} bytes ({name_of(layouts[largest].datatype)} of "
            f"{list(values[largest].shape)}): send fewer or smaller tensors at a time, such as slices of it. Between "
            "programs of this project (runtime.Session, tasks of a cluster) numbers of any size travel beside the "
            "message")

    cdef object assemble(self, bytes head, object arrays, bytes tail, bint apart=False):
        """Write ``head``, the tensors and ``tail`` as one message: bytes, or with ``apart`` perhaps a MessageParts.

        In parts, the content of a large array is the array's own memory.
        """
        cdef TensorLayout few[FEW_TENSORS]
        cdef TensorLayout* layouts = few
        cdef list made = []
        cdef tuple values = tuple(arrays)
        cdef int64_t n = len(values)
        cdef int64_t i, inner
        cdef int64_t total = PyBytes_GET_SIZE(head) + PyBytes_GET_SIZE(tail)
        cdef uint8_t* p = NULL
        cdef uint8_t* start
        cdef bytes message
        cdef list contents = None
        cdef list parts = []
        cdef Py_ssize_t written = 0
        if self._n >= 0 and n != self._n:
            raise InvalidArgument(f"{n} tensors given where {self._n} are expected"
                                  + (f": {', '.join(self.names[:20])}" if self._named else ""))
        if n > FEW_TENSORS:
            layouts = <TensorLayout*>malloc(n * sizeof(TensorLayout))
            if layouts == NULL:
                raise MemoryError
        try:
            for i in range(n):
                try:
                    plan_tensor(values[i], self._pieces[i].datatype if self._n >= 0 else 0,
                                self._omit_scalar_shape, made, &layouts[i])
                except Error as error:
                    label = f'tensor {i} "{self.names[i]}"' if self._named else f"tensor {i}"
                    raise type(error)(f"{label}: {error.message}") from None
                inner = layouts[i].total_bytes
                if self._named:
                    inner = field_size(self._pieces[i].n) + field_size(inner)
                total += field_size(inner)
            if total > MAX_FIELD_BYTES:
                self._refuse(total, values, layouts)
            if apart:
                for i in range(n):
                    content = content_apart(&layouts[i])
                    if content is not None:
                        if contents is None:
                            contents = [None] * n
                        contents[i] = content
                        total -= layouts[i].content_bytes
            message = new_message(total, &p)
            start = p
            memcpy(p, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
            p += PyBytes_GET_SIZE(head)
            for i in range(n):
                inner = layouts[i].total_bytes
                p[0] = self._tag
                if self._named:
                    p = put_varint(p + 1, <uint64_t>(field_size(self._pieces[i].n) + field_size(inner)))
                    p[0] = 0x0a
                    p = put_varint(p + 1, <uint64_t>self._pieces[i].n)
                    memcpy(p, self._pieces[i].p, self._pieces[i].n)
                    p += self._pieces[i].n
                    p[0] = 0x12
                p = put_varint(p + 1, <uint64_t>inner)
                if contents is None or contents[i] is None:
                    p = write_tensor(p, &layouts[i])
                else:
                    p = write_tensor_head(p, &layouts[i])
                    parts += [PyMemoryView_FromObject(message)[written:p - start], contents[i]]
                    written = p - start
            memcpy(p, PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
            if contents is None:
                return message
            if written < total:
                parts.append(PyMemoryView_FromObject(message)[written:])
            return MessageParts(parts)
        finally:
            if layouts != few:
                free(layouts)
