"""Methods, and calls of them: one stream of a connection each."""

from libc.stdint cimport int64_t, uint32_t

from runtime._ext.http2_link cimport Link


cdef Py_ssize_t message_size(object message) except -1


cdef class Method:
    cdef readonly str path
    cdef readonly bint client_streaming
    cdef readonly bint server_streaming
    cdef readonly object handler        # async, of the form that the method has
    cdef readonly object immediate      # plain callable (request, call) -> answer or None, or None
    cdef readonly object refusal        # exception that answers every call, or None


cdef class Call:
    cdef Link connection
    cdef readonly uint32_t stream_id
    cdef readonly Method method
    cdef list fields                   # (name, value) tuples of bytes, as received
    # one message under assembly: 5 bytes of prefix, then its bytes
    cdef unsigned char prefix[5]
    cdef int prefix_size
    cdef bytes message
    cdef Py_ssize_t message_size
    cdef Py_ssize_t message_total
    cdef bint is_compressed
    cdef object inbox                  # deque of complete messages
    cdef object receiver               # future of a handler that waits for one
    cdef object taker                  # plain callable (message) -> whether it has taken it, or None
    cdef bint remote_closed
    cdef bint local_closed
    cdef bint is_dispatched
    cdef readonly bint is_done
    cdef readonly bint is_cancelled
    cdef int64_t receive_window
    cdef int64_t unacknowledged        # bytes consumed, not yet given back to the sender's window
    cdef int64_t deferred              # bytes in messages that nobody has asked for yet
    cdef Py_ssize_t held               # bytes counted in the account
    cdef Py_ssize_t ahead              # bytes counted in the service's look-ahead
    cdef bint is_counted               # whether the message under assembly is in the account
    cdef Py_ssize_t delivered          # of these, the message that the handler works on
    cdef int64_t send_window
    cdef object outbox                 # deque of messages (bytes, MessageParts) to send, or None
    cdef Py_ssize_t offset             # bytes of outbox[0], its prefix included, that are sent
    cdef object sender                 # future of a handler that waits until the outbox is empty
    cdef bytes trailers                # header block to send behind the outbox
    cdef bint awaits_end               # the status waits until the client has sent its request, or for `REST_S`
    cdef bint headers_sent
    cdef bint is_blocked               # in the connection's queue of calls that wait for it
    cdef public object task
    cdef object timer
    cdef object callbacks
    cdef object trailing
    cdef double deadline               # on the loop's clock, 0 for none
    cdef object encoding
    cdef double begun                  # the loop's time of the read that it came with
    # where its messages were when `runtime._ext.http2_stalls` looked: which side, how far, for how many looks
    cdef int seen_side
    cdef Py_ssize_t seen_place
    cdef int seen_looks

    cdef int feed(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef Py_ssize_t room(self) noexcept
    cdef char *position(self) noexcept
    cdef int received(self, Py_ssize_t size) except -1
    cdef int _account_for(self, Py_ssize_t size) except -1
    cdef int _begin_message(self) except -1
    cdef int _end_message(self) except -1
    cdef int deliver(self, bytes message) except -1
    cdef int consumed(self, Py_ssize_t size) except -1
    cdef int remote_end(self) except -1
    cdef int dispatch(self, object request) except -1
    cdef int pump(self) except -1
    cdef int _write_part(self, object message, Py_ssize_t start, Py_ssize_t size) except -1
    cdef int end(self, bint cancelled) except -1
