from libc.stdint cimport int64_t, uint8_t

from runtime._ext.tensor_decode cimport Budget
from runtime._ext.tensor_encode cimport TensorLayout
from runtime._ext.wirescan cimport Cursor, Span

cdef struct SpanList:
    Span* items
    int64_t n
    int64_t capacity
    Span few[8]

cdef struct NamePiece:
    const uint8_t* p   # the name as UTF-8, owned by the ``texts`` of the plan
    int64_t n
    int datatype       # 0: that of the array

cdef class TensorFields:
    cdef readonly tuple names
    cdef readonly tuple datatypes
    cdef uint8_t _tag
    cdef bint _named
    cdef bint _omit_scalar_shape
    cdef int64_t _n
    cdef NamePiece* _pieces
    cdef list _texts
    cdef int _refuse(self, int64_t total, tuple values, TensorLayout* layouts) except -1
    cdef object assemble(self, bytes head, object arrays, bytes tail, bint apart=*)

cdef void start_spans(SpanList* spans) noexcept
cdef int add_span(SpanList* spans, Span span) except -1
cdef void free_spans(SpanList* spans) noexcept
cdef bytes scan_named_tensor(bytes owner, Span message, Span* name, Span* tensor)
cdef bytes join_spans(SpanList* spans)
cdef object decode_field(bytes owner, Span tensor, Budget* budget, str field, int64_t index, object name,
                         int* datatype)
cdef Cursor open_message(bytes message)
cdef bytes bytes_field(int number, bytes payload)
cdef bytes text_field(int number, object text)
cdef bytes int_field(int number, object value)
