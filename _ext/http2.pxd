"""The gRPC transport of the server: one HTTP/2 connection, and the calls on it."""

from libc.stdint cimport int64_t, uint32_t

from runtime._ext.hpack cimport HeaderDecoder


cdef class Method:
    cdef readonly str path
    cdef readonly bint client_streaming
    cdef readonly bint server_streaming
    cdef readonly object handler        # async, of the form that the method has
    cdef readonly object immediate      # plain callable (request, call) -> bytes or None, or None
    cdef readonly object refusal        # exception that answers every call, or None


cdef class Call:
    cdef Connection _connection
    cdef readonly uint32_t stream_id
    cdef readonly Method method
    cdef list _fields                   # (name, value) tuples of bytes, as received
    # one message under assembly: 5 bytes of prefix, then its bytes
    cdef unsigned char _prefix[5]
    cdef int _prefix_size
    cdef bytes _message
    cdef Py_ssize_t _message_size
    cdef Py_ssize_t _message_total
    cdef bint _is_compressed
    cdef object _inbox                  # deque of complete messages
    cdef object _receiver               # future of a handler that waits for one
    cdef bint _remote_closed
    cdef bint _local_closed
    cdef bint _is_dispatched
    cdef readonly bint is_done
    cdef readonly bint is_cancelled
    cdef int64_t _receive_window
    cdef int64_t _unacknowledged        # bytes consumed, not yet given back to the sender's window
    cdef int64_t _deferred              # bytes in messages that nobody has asked for yet
    cdef Py_ssize_t _held               # bytes counted in the account
    cdef Py_ssize_t _ahead              # bytes counted in the service's look-ahead
    cdef bint _is_counted               # whether the message under assembly is in the account
    cdef Py_ssize_t _delivered          # of these, the message that the handler works on
    cdef int64_t _send_window
    cdef object _outbox                 # deque of messages (bytes) to send, or None
    cdef Py_ssize_t _offset             # bytes of outbox[0], its prefix included, that are sent
    cdef object _sender                 # future of a handler that waits until the outbox is empty
    cdef bytes _trailers                # header block to send behind the outbox
    cdef bint _headers_sent
    cdef bint _is_blocked               # in the connection's queue of calls that wait for it
    cdef public object task
    cdef object _timer
    cdef object _callbacks
    cdef object _trailing
    cdef double _deadline               # on the loop's clock, 0 for none
    cdef object _encoding

    cdef int _feed(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef int _begin_message(self) except -1
    cdef int _end_message(self) except -1
    cdef int _consumed(self, Py_ssize_t size) except -1
    cdef int _remote_end(self) except -1
    cdef int _dispatch(self, object request) except -1
    cdef int _pump(self) except -1
    cdef int _end(self, bint cancelled) except -1


cdef class Connection:
    cdef readonly object service
    cdef object _transport
    cdef object _loop
    cdef HeaderDecoder _decoder
    cdef dict _calls                    # stream id to Call
    cdef list _out                      # buffers to write at the end of this turn
    cdef bint _is_reading               # inside buffer_updated: writes wait for its end
    cdef bytearray _rest                # an incomplete frame, between two reads
    cdef int _preface                   # bytes of the client's preface seen
    # the DATA frame under way
    cdef uint32_t _data_stream
    cdef Py_ssize_t _data_left
    cdef Py_ssize_t _padding_left
    cdef bint _data_ends
    # a header block that goes on in CONTINUATION frames
    cdef uint32_t _headers_stream
    cdef bint _headers_end
    cdef bytearray _headers_block
    cdef int _continuations
    cdef uint32_t _last_stream
    cdef int64_t _send_window
    cdef int64_t _initial_send_window
    cdef Py_ssize_t _max_frame
    cdef int64_t _receive_window
    cdef int64_t _unacknowledged
    cdef bint _is_paused
    cdef bint _is_draining
    cdef bint _is_closed
    cdef long _control_frames
    cdef double _control_since
    cdef readonly double last_activity
    cdef readonly bint awaits_ping
    cdef object _blocked                # deque of calls that wait for the connection's window

    cdef int _parse(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef int _frame(self, int kind, int flags, uint32_t stream, const unsigned char *data, Py_ssize_t size) except -1
    cdef int _begin_data(self, int flags, uint32_t stream, Py_ssize_t size, const unsigned char *data) except -1
    cdef int _end_data(self) except -1
    cdef int _header_block(self, uint32_t stream, const unsigned char *data, Py_ssize_t size, bint ends) except -1
    cdef int _settings(self, int flags, const unsigned char *data, Py_ssize_t size) except -1
    cdef int _window_update(self, uint32_t stream, int64_t increment) except -1
    cdef int _control(self) except -1
    cdef int _write(self, object buffer) except -1
    cdef int _flush(self) except -1
    cdef int _pump_blocked(self) except -1
    cdef int _fail(self, int code, str message) except -1
    cdef int _reset(self, uint32_t stream, int code) except -1
