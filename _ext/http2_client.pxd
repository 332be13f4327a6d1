"""The calling side of the gRPC transport: one HTTP/2 connection to another server, and its unary calls."""

from libc.stdint cimport int64_t, uint32_t

from runtime._ext.http2 cimport Connection
from runtime._ext.http2_call cimport Call, Method


cdef class ClientCall(Call):
    cdef object answered                # (answer, code, message, trailers), once
    cdef object request                 # until the call has a stream; a small one is kept in case that it is refused
    cdef int num_refused
    cdef int reset_code                 # of a stream that the server reset, -1 before
    cdef int http_status

    cdef int complete(self, int code, str message, tuple trailing, bint resets) except -1
    cdef int take_headers(self, list fields, bint ends) except -1


cdef class ClientConnection(Connection):
    cdef uint32_t _next_stream
    cdef int64_t _max_streams           # the peer's
    cdef object _waiting                # deque of calls that have no stream yet
    cdef readonly str lost_reason
    # header compression: entries in the order in which the peer's table got them
    cdef dict _indices
    cdef Py_ssize_t _table_bytes
    cdef bint _is_plain                 # the peer wants a smaller table: nothing is kept in it any more
    cdef bint _must_shrink
    cdef dict _blocks                   # method to its header block, as long as the table stays the same

    cdef int _open(self, ClientCall call) except -1
    cdef bytes _block_of(self, Method method)
    cdef int _put_field(self, bytearray out, bytes name, bytes value) except -1
    cdef int _open_waiting(self) except -1
    cdef int _ask_again(self, ClientCall call) except -1
