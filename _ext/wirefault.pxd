from libc.stdint cimport uint32_t

from runtime._ext.wirescan cimport Cursor

cdef int raise_wire(str message, uint32_t tag, int status, Cursor* at) except -1
cdef str field_label(str message, int number)
