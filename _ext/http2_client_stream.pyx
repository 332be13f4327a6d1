"""A call of a method that streams both ways, from the client's side.

It stands on the unary calls of `runtime._ext.http2_client` and takes over the writing of streams from the server's
side: a message leaves from where it lies, and one that comes is assembled straight into its final bytes object.

Not safe from several threads: everything happens on the loop that owns the transport.
"""

from collections import deque

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.math cimport ceil

from runtime._ext import errors as _errors
from runtime._ext.errors import Cancelled, Unavailable
from runtime._ext.http2_call cimport Call, Method
from runtime._ext.http2_client cimport ClientCall, ClientConnection
from runtime._ext.http2_frames cimport (
    CANCEL, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, frame_bytes, uint32_at)

# The largest message that is taken: a chunk of the largest size, with its head.
MAX_MESSAGE_BYTES = (64 << 20) + 1024

cdef bytes _TIMEOUT = b"grpc-timeout"
cdef tuple _UNITS = ((b"u", 1e-6), (b"m", 1e-3), (b"S", 1.0), (b"M", 60.0), (b"H", 3600.0))


def start_stream(ClientConnection connection not None, Method method not None, timeout_s=None):
    """Start a call.

    Parameters
    ----------
    connection : ClientConnection
    method : Method
        One that streams both ways.
    timeout_s : float, optional
        What the server is told that the call may take; whoever calls sees to it here.

    Returns
    -------
    StreamCall

    Raises
    ------
    Unavailable
        If the connection takes no call now.
    """
    cdef StreamCall call
    cdef bytes block, value
    if not connection.takes_calls or <long long>len(connection.calls) >= connection._max_streams:
        raise Unavailable(connection.lost_reason or "the connection takes no more calls")
    call = StreamCall(connection, 0, method, None)
    call.reset_code = -1
    call.code = -1
    call.stream_id = connection._next_stream
    connection._next_stream += 2
    connection._last_stream = call.stream_id
    call.send_window = connection.initial_send_window
    call.headers_sent = True
    connection.calls[call.stream_id] = call
    block = connection._block_of(method)
    if timeout_s is not None:
        # Another one each time, so it is no entry of the peer's table.
        value = timeout_field(timeout_s)
        block += b"\x00" + bytes((len(_TIMEOUT),)) + _TIMEOUT + bytes((len(value),)) + value
    connection.write(frame_bytes(HEADERS, END_HEADERS, call.stream_id, block))
    connection.flush()
    return call


def timeout_field(double seconds):
    """Return a time as the field ``grpc-timeout`` has it: at most eight digits and a unit, rounded up."""
    cdef double count
    for unit, size in _UNITS:
        count = ceil(seconds / size)
        if count < 1e8:
            return b"%d%s" % (max(1, <long long>count), unit)
    return b"99999999H"


cdef class StreamCall(ClientCall):
    """One call; made by `start_stream`.

    `send` (as of a server's call) sends a message and returns when it has left; iterating yields what comes, and raises
    the error that the call ended with.
    """

    async def receive(self):
        """Return the next message, or None after the last of a call that ended well.

        Raises
        ------
        Error
            With which the call ended.
        """
        while True:
            if self.inbox:
                message = self.inbox.popleft()
                if self.deferred and len(self.inbox) <= 1 and not self.is_done:
                    deferred, self.deferred = self.deferred, 0
                    self.consumed(deferred)
                    self.connection.flush()
                return message
            if self.code == 0:
                return None
            if self.code > 0:
                raise self.error()
            self.receiver = self.connection.loop.create_future()
            try:
                await self.receiver
            finally:
                self.receiver = None

    def error(self):
        """Return the error with which the call ended; None while it goes on, or when it ended well."""
        if self.code <= 0:
            return None
        return _errors.CODES.get(self.code, _errors.Unknown)(self.status_message)

    async def send(self, message not None):
        """Send one message (bytes or `MessageParts`); returns when it has left, so that a slow reader holds the writer.

        Raises
        ------
        Error
            With which the call ended.
        """
        if self.is_done or self.local_closed:
            raise self.error() or Cancelled("the call has ended")
        self._queue(message)
        while self.outbox:
            self.sender = self.connection.loop.create_future()
            try:
                await self.sender
            finally:
                self.sender = None
            if self.is_done:
                raise self.error() or Cancelled("the call has ended")

    def post(self, message not None):
        """Send one message as soon as the server takes it; tell whether it has left already.

        Nothing holds the writer: for few and small ones.

        Raises
        ------
        Error
            With which the call ended.
        """
        if self.is_done or self.local_closed or self._is_ending:
            raise self.error() or Cancelled("the call has ended")
        self._queue(message)
        return not self.outbox

    def done_sending(self):
        """Say that nothing more will be sent."""
        if not self._is_ending and not self.is_done:
            self._is_ending = True
            self.pump()
            self.connection.flush()

    cdef int pump(self) except -1:
        Call.pump(self)
        if self._is_ending and not self.is_done and not self.local_closed and not self.outbox:
            self.connection.write(frame_bytes(DATA, END_STREAM, self.stream_id, b""))
            self.local_closed = True
        return 0

    cdef int _begin_message(self) except -1:
        self.is_compressed = False
        self.message_total = uint32_at(self.prefix + 1)
        self.message_size = 0
        self.is_counted = False
        if self.prefix[0]:
            return self.complete(13, f"{self.method.path}: message with flags {self.prefix[0]}; only 0 was agreed on",
            (),
                                 True)
        if self.message_total > MAX_MESSAGE_BYTES:
            return self.complete(8, f"{self.method.path}: a message of {self.message_total} bytes; at most "
                                    f"{MAX_MESSAGE_BYTES} are taken", (), True)
        try:
            self.message = PyBytes_FromStringAndSize(NULL, self.message_total)
        except MemoryError:
            return self.complete(8, f"{self.method.path}: no memory for a message of {self.message_total} bytes", (),
            True)
        return 0

    cdef int _end_message(self) except -1:
        cdef bytes message = self.message
        self.message = None
        self.prefix_size = 0
        return self.deliver(message)

    cdef int deliver(self, bytes message) except -1:
        if self.taker is not None and not self.inbox and self.taker(message):
            return 0
        if self.inbox is None:
            self.inbox = deque()
        self.inbox.append(message)
        if self.receiver is not None and not self.receiver.done():
            self.receiver.set_result(None)
        return 0

    cdef int complete(self, int code, str message, tuple trailing, bint resets) except -1:
        if self.is_done:
            return 0
        self.code = code
        self.status_message = message
        if resets or not self.local_closed:
            self.connection.reset(self.stream_id, CANCEL)
        self.outbox = None
        self.local_closed = True
        self.end(False)
        return 0

    cdef int end(self, bint cancelled) except -1:
        if self.is_done:
            return 0
        if self.code < 0:  # the stream was reset, or the connection is gone
            if self.reset_code >= 0:
                self.code = 8 if self.reset_code == ENHANCE_YOUR_CALM else 14
                self.status_message = f"{self.method.path}: the stream was reset with error {self.reset_code}"
            else:
                self.code = 14
                self.status_message = (<ClientConnection>self.connection).lost_reason or "Socket closed"
        return ClientCall.end(self, cancelled)
