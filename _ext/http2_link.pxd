"""The writing half of a connection: what its calls share."""

from libc.stdint cimport int64_t, uint32_t


cdef class Tally:
    cdef readonly str name
    cdef public long connections
    cdef public long calls              # that have not ended
    cdef readonly long max_calls


cdef class Link:
    cdef readonly object service
    cdef object transport
    cdef object loop
    cdef public Tally peer              # what this peer has open; None for a client's connection
    cdef public Tally whole             # what all peers have
    cdef readonly double last_activity  # when something was read last, on the loop's clock
    cdef dict calls                     # stream id to Call
    cdef object blocked                 # deque of calls that wait for the connection's window or the socket
    cdef list out                       # buffers to write at the end of this turn
    cdef bint is_reading                # inside a read callback: writes wait for its end
    cdef int64_t send_window
    cdef int64_t initial_send_window    # of each new call
    cdef Py_ssize_t max_frame           # the peer's
    cdef bint is_paused                 # the socket takes no more for now
    cdef bint is_retiring               # the client is asked to leave
    cdef bint is_draining
    cdef bint is_closed
    cdef long control_frames            # since the last call, without effect
    cdef object aside                   # `runtime._ext.http2_aside.Aside` that reads in place of the transport, or None

    cdef int _fd                        # of a transport without TLS; -1 when there is none, -2 before that is known

    cdef int write(self, object buffer) except -1
    cdef int flush(self) except -1
    cdef int _find_file(self) except -1
    cdef bint _send_small(self, list out) except -1
    cdef int reset(self, uint32_t stream, int code) except -1
