from libc.stdint cimport uint8_t

from runtime._ext.wirescan cimport Span

cdef object cached_name(Span span, const uint8_t* base, str message, int field)
