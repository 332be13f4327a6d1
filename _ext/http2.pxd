"""The gRPC transport of the server: one HTTP/2 connection."""

from libc.stdint cimport int64_t, uint32_t

from runtime._ext.hpack cimport HeaderDecoder
from runtime._ext.http2_call cimport Call
from runtime._ext.http2_link cimport Link


cdef class Connection(Link):
    cdef HeaderDecoder _decoder
    cdef bytearray _rest                # an incomplete frame, between two reads
    cdef int _preface                   # bytes of the client's preface seen
    # the DATA frame under way
    cdef uint32_t _data_stream
    cdef Py_ssize_t _data_left
    cdef Py_ssize_t _padding_left
    cdef bint _data_ends
    cdef Call _direct_call              # whose message the transport reads into, for one read
    cdef bint _reads_head               # the next read is for the head of a frame alone
    # a header block that goes on in CONTINUATION frames
    cdef uint32_t _headers_stream
    cdef bint _headers_end
    cdef bytearray _headers_block
    cdef int _continuations
    cdef uint32_t _last_stream
    cdef int64_t receive_window
    cdef int64_t unacknowledged
    cdef double _control_since
    cdef double _rapid_since
    cdef long _rapid_resets             # calls given up at once, since then
    cdef readonly bint awaits_ping
    # what `runtime._ext.http2_stalls` looks at
    cdef double since                   # when the connection was made
    cdef unsigned long frames           # begun so far
    cdef unsigned long partial_frame    # the one that was incomplete after a read, and since when
    cdef double partial_since
    cdef double block_since             # of the header block that goes on
    cdef int late_looks                 # in a row, with something that should have ended
    cdef readonly double idle_since     # when calls were seen last
    cdef uint32_t seen_stream
    cdef Py_ssize_t seen_left           # of the DATA frame under way, and for how many looks
    cdef unsigned long seen_frame
    cdef int data_looks
    cdef Py_ssize_t seen_unsent
    cdef int unsent_looks

    cdef int feed(self, bytes data) except -1
    cdef int _parse(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef int _frame(self, int kind, int flags, uint32_t stream, const unsigned char *data, Py_ssize_t size) except -1
    cdef int _begin_data(self, int flags, uint32_t stream, Py_ssize_t size, const unsigned char *data) except -1
    cdef int _end_data(self) except -1
    cdef int _header_block(self, uint32_t stream, const unsigned char *data, Py_ssize_t size, bint ends) except -1
    cdef int _settings(self, int flags, const unsigned char *data, Py_ssize_t size) except -1
    cdef int _window_update(self, uint32_t stream, int64_t increment) except -1
    cdef int _control(self) except -1
    cdef int _given_up(self, Call call) except -1
    cdef int _refuse(self, uint32_t stream, str message, bint ends) except -1
    cdef int _pump_blocked(self) except -1
    cdef int _fail(self, int code, str message) except -1
