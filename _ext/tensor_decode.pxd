from libc.stdint cimport int64_t, uint8_t

from runtime._ext.wirescan cimport Span

cdef struct Budget:
    int64_t limit  # bytes that one call may allocate for values
    int64_t left

cdef Budget make_budget(object max_bytes) except *
cdef object decode_span(object owner, const uint8_t* base, Span span, Budget* budget, int* datatype)
