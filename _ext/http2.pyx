"""gRPC over HTTP/2, the server's side: one connection, its frames, and the calls on it.

`Connection` is the body of an asyncio buffered protocol (``runtime.edge.native`` adds the base class): it parses frames
out of the read buffer, assembles each message straight into its final bytes object, and writes an answer's headers,
message and trailers as one buffer when they fit. `Call` is one stream, and at the same time the context that a handler
gets. A method may have an *immediate* form, a plain function that answers within the read callback; such a call costs
neither a task nor a turn of the loop.

What arrives from outside is bounded: header lists, continuations, control frames, streams, and the bytes of all messages
under assembly, which are counted in the service's account when a message announces its length, before it arrives.

Not safe from several threads: everything happens on the loop that owns the transport.

Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), "gRPC over HTTP2" of the gRPC project.
"""

import zlib
from base64 import b64decode, b64encode
from collections import deque
from urllib.parse import quote_from_bytes

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.string cimport memcpy, memcmp

from runtime._ext.errors import Cancelled, InvalidArgument, ResourceExhausted
from runtime._ext.hpack cimport HeaderDecoder, encode_headers


cdef enum:
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9

cdef enum:
    END_STREAM = 1
    ACK = 1
    END_HEADERS = 4
    PADDED = 8
    PRIORITY_FLAG = 32

cdef enum:
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11

cdef enum:
    FRAME_HEADER = 9
    PREFIX = 5
    # DATA frames may be long, since their bytes are consumed as they come; any other frame must fit what is kept.
    MAX_DATA_FRAME = 1 << 20
    MAX_CONTROL_FRAME = 1 << 16
    MAX_HEADER_BLOCK = 1 << 16
    MAX_CONTINUATIONS = 32
    MAX_STREAMS = 1 << 16
    # A stream may run this far ahead of a handler that reads slowly.
    STREAM_WINDOW = 4 << 20
    # What all streams together may run ahead before it counts as bytes in flight.
    MAX_LOOKAHEAD = 64 << 20
    CONNECTION_WINDOW = 1 << 30
    DEFAULT_WINDOW = 65535
    MAX_WINDOW = 0x7FFFFFFF
    # Control frames without effect that a peer may send within CONTROL_PERIOD_S.
    MAX_CONTROL_FRAMES = 10000
    # Above this much unsent, frames that ask for an answer are no longer read.
    MAX_UNSENT = 16 << 20
    # Bytes of one message handed to the transport before other calls get their turn.
    PUMP_BYTES = 1 << 20
    SMALL_ANSWER = 1 << 14

cdef double CONTROL_PERIOD_S = 10.0

cdef bytes _PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
cdef bytes _HEADERS_BLOCK = encode_headers([
    (b":status", b"200"), (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity,deflate,gzip")])
cdef bytes _OK_TRAILERS = encode_headers([(b"grpc-status", b"0")])
cdef object _MESSAGE_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


cdef inline void _put_header(char *out, Py_ssize_t size, int kind, int flags, uint32_t stream) noexcept nogil:
    out[0] = <char>((size >> 16) & 0xFF)
    out[1] = <char>((size >> 8) & 0xFF)
    out[2] = <char>(size & 0xFF)
    out[3] = <char>kind
    out[4] = <char>flags
    out[5] = <char>((stream >> 24) & 0x7F)
    out[6] = <char>((stream >> 16) & 0xFF)
    out[7] = <char>((stream >> 8) & 0xFF)
    out[8] = <char>(stream & 0xFF)


cdef inline uint32_t _uint32(const unsigned char *data) noexcept nogil:
    return (<uint32_t>data[0] << 24) | (<uint32_t>data[1] << 16) | (<uint32_t>data[2] << 8) | data[3]


cdef bytes _frame_bytes(int kind, int flags, uint32_t stream, bytes payload):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
    cdef bytes result = PyBytes_FromStringAndSize(NULL, FRAME_HEADER + size)
    cdef char *out = PyBytes_AS_STRING(result)
    _put_header(out, size, kind, flags, stream)
    memcpy(out + FRAME_HEADER, PyBytes_AS_STRING(payload), size)
    return result


cdef bytes _uint32_bytes(int64_t value):
    cdef char out[4]
    out[0] = <char>((value >> 24) & 0xFF)
    out[1] = <char>((value >> 16) & 0xFF)
    out[2] = <char>((value >> 8) & 0xFF)
    out[3] = <char>(value & 0xFF)
    return PyBytes_FromStringAndSize(out, 4)


cdef bytes _setting(int identifier, int64_t value):
    return bytes((identifier >> 8, identifier & 0xFF)) + _uint32_bytes(value)


cdef bytes _trailer_block(int code, str message, object trailing, bint with_headers):
    """Return the header block that ends a call; with the response headers in it when none were sent."""
    cdef list fields = []
    if with_headers:
        fields.append((b":status", b"200"))
        fields.append((b"content-type", b"application/grpc"))
    fields.append((b"grpc-status", b"%d" % code))
    if message:
        fields.append((b"grpc-message",
                       quote_from_bytes(message.encode("utf-8", "surrogatepass"), safe=_MESSAGE_SAFE).encode()))
    for key, value in trailing or ():
        name = key.lower().encode() if isinstance(key, str) else key
        if name.endswith(b"-bin"):
            value = b64encode(value).rstrip(b"=")
        fields.append((name, value.encode() if isinstance(value, str) else value))
    return encode_headers(fields)


@cython.wraparound(True)
cdef double _timeout_s(bytes text) except -1:
    """Return a ``grpc-timeout`` (at most 8 digits and a unit) in seconds."""
    cdef double scale
    units = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
    unit = units.get(text[-1:])
    if unit is None or not text[:-1].isdigit() or len(text) > 9:
        raise InvalidArgument(f"grpc-timeout {text!r} is not up to 8 digits and one of H M S m u n")
    scale = unit
    return int(text[:-1]) * scale


class Abort(Exception):
    """Raised by `Call.abort` to end a handler; the call's status is already decided."""


cdef class Method:
    """A method as the connection sees it.

    Parameters
    ----------
    path : str
        ``/SERVICE/METHOD``.
    client_streaming, server_streaming : bool
    handler : callable
        The plane's asynchronous handler; the service runs it.
    immediate : callable or None
        ``immediate(request, call)`` returns the answer's bytes, or None to have the handler run. Unary methods only.
    refusal : Exception or None
        When given, every call is answered with it, and its request is not taken.
    """

    def __cinit__(self, str path, bint client_streaming, bint server_streaming, handler, immediate=None, refusal=None):
        self.path = path
        self.client_streaming = client_streaming
        self.server_streaming = server_streaming
        self.handler = handler
        self.immediate = immediate
        self.refusal = refusal


cdef class Call:
    """One call, and the context of its handler.

    The handler's side has the part of grpc.aio's servicer context that handlers here use: `invocation_metadata`,
    `time_remaining`, `peer`, `cancelled`, `done`, `add_done_callback`, `set_trailing_metadata` and `abort`.
    """

    def __cinit__(self, Connection connection, stream_id, Method method, list fields):
        self._connection = connection
        self.stream_id = stream_id
        self.method = method
        self._fields = fields
        self._inbox = None
        self._send_window = connection._initial_send_window
        self._receive_window = STREAM_WINDOW
        self._outbox = None
        self._trailing = None
        self._encoding = None

    # -- the handler's side ------------------------------------------------------------------------------------

    def invocation_metadata(self):
        """Return the request's metadata as (key, value) pairs; values of ``-bin`` keys are bytes."""
        cdef list result = []
        for name, value in self._fields:
            if name[:1] == b":":
                continue
            key = name.decode("latin-1")
            if name.endswith(b"-bin"):
                for part in value.split(b","):
                    result.append((key, b64decode(part + b"=" * (-len(part) % 4))))
            else:
                result.append((key, value.decode("latin-1")))
        return tuple(result)

    def time_remaining(self):
        """Return the seconds until the call's deadline, or None when it has none."""
        if self._deadline == 0:
            return None
        return max(0.0, self._deadline - self._connection._loop.time())

    def peer(self):
        """Return the client's address as text."""
        transport = self._connection._transport
        address = transport.get_extra_info("peername") if transport is not None else None
        return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unix:"

    def cancelled(self):
        """Tell whether the client gave the call up, or its deadline passed."""
        return bool(self.is_cancelled)

    def done(self):
        """Tell whether the call has ended."""
        return bool(self.is_done)

    def add_done_callback(self, callback):
        """Have ``callback(call)`` called when the call ends; at once if it has ended."""
        if self.is_done:
            callback(self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def set_trailing_metadata(self, metadata):
        """Send these (key, value) pairs with the status."""
        self._trailing = tuple(metadata)

    async def abort(self, code, details="", trailing_metadata=()):
        """End the call with a status; raises `Abort`, which handlers let pass."""
        number = code if isinstance(code, int) else code.value[0]
        if trailing_metadata:
            self._trailing = tuple(trailing_metadata)
        self.finish(number, details)
        raise Abort(details)

    async def receive(self):
        """Return the next message of the request stream, or None after the last.

        The message before counts as done with from now on.
        """
        cdef Py_ssize_t size
        account = self._connection.service.account
        if self._delivered and not self.is_done:
            account.used -= self._delivered
            self._held -= self._delivered
        self._delivered = 0
        while True:
            if self._inbox:
                message, is_counted = self._inbox.popleft()
                size = len(message)
                if not is_counted:
                    self._connection.service.lookahead -= size
                    self._ahead -= size
                    if not account.fits(size):
                        raise account.refusal(size, "a message of the request stream")
                    account.used += size
                    self._held += size
                self._delivered = size
                if self._deferred and len(self._inbox) <= 1:
                    deferred, self._deferred = self._deferred, 0
                    self._consumed(deferred)
                    self._connection._flush()
                return message
            if self._remote_closed:
                return None
            if self.is_done:
                raise Cancelled("the call has ended")
            self._receiver = self._connection._loop.create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None

    def __aiter__(self):
        return self

    async def __anext__(self):
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def send(self, bytes message):
        """Send one message of the answer stream; returns when it has left, so that a slow reader holds the writer."""
        if self.is_done or self._local_closed:
            raise Cancelled("the call has ended")
        self._queue(message)
        while self._outbox:
            self._sender = self._connection._loop.create_future()
            try:
                await self._sender
            finally:
                self._sender = None
            if self.is_done:
                raise Cancelled("the call has ended")

    def _queue(self, bytes message):
        if self._outbox is None:
            self._outbox = deque()
        self._outbox.append(message)
        self._pump()
        self._connection._flush()

    def reply(self, bytes message):
        """Send the answer of a unary call and end it with OK. Without effect when the call has ended."""
        cdef Connection connection = self._connection
        cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
        cdef Py_ssize_t headers_size, trailers_size, position, body = size + PREFIX
        cdef bytes trailers, buffer
        cdef char *out
        if self.is_done or self._local_closed:
            return
        trailers = _OK_TRAILERS if self._trailing is None else _trailer_block(0, "", self._trailing, False)
        if (self._headers_sent or body > SMALL_ANSWER or body > connection._send_window or body > self._send_window
                or body > connection._max_frame or connection._is_paused):
            if self._outbox is None:
                self._outbox = deque()
            self._outbox.append(message)
            self._trailers = trailers
            self._pump()
            connection._flush()
            return
        headers_size = PyBytes_GET_SIZE(_HEADERS_BLOCK)
        trailers_size = PyBytes_GET_SIZE(trailers)
        buffer = PyBytes_FromStringAndSize(NULL, 3 * FRAME_HEADER + headers_size + body + trailers_size)
        out = PyBytes_AS_STRING(buffer)
        _put_header(out, headers_size, HEADERS, END_HEADERS, self.stream_id)
        memcpy(out + FRAME_HEADER, PyBytes_AS_STRING(_HEADERS_BLOCK), headers_size)
        position = FRAME_HEADER + headers_size
        _put_header(out + position, body, DATA, 0, self.stream_id)
        position += FRAME_HEADER
        out[position] = 0
        out[position + 1] = <char>((size >> 24) & 0xFF)
        out[position + 2] = <char>((size >> 16) & 0xFF)
        out[position + 3] = <char>((size >> 8) & 0xFF)
        out[position + 4] = <char>(size & 0xFF)
        position += PREFIX
        memcpy(out + position, PyBytes_AS_STRING(message), size)
        position += size
        _put_header(out + position, trailers_size, HEADERS, END_HEADERS | END_STREAM, self.stream_id)
        memcpy(out + position + FRAME_HEADER, PyBytes_AS_STRING(trailers), trailers_size)
        connection._send_window -= body
        connection._write(buffer)
        self._local_closed = True
        self._end(False)
        connection._flush()

    def finish(self, int code, str message=""):
        """End the call with a status, behind what is still to be sent. Without effect when it has ended."""
        if self.is_done or self._local_closed or self._trailers is not None:
            return
        if code != 0 and self._outbox:
            self._outbox.clear()  # what was not sent of a failed stream is of no use; a started message is cut
            if self._offset:
                self._connection._reset(self.stream_id, INTERNAL_ERROR)
                self._local_closed = True
                self._end(False)
                self._connection._flush()
                return
        self._trailers = _trailer_block(code, message, self._trailing, not self._headers_sent and not self._outbox)
        self._pump()
        self._connection._flush()

    # -- sending -----------------------------------------------------------------------------------------------

    cdef int _pump(self) except -1:
        """Write what the windows allow of the outbox, then the trailers."""
        cdef Connection connection = self._connection
        cdef Py_ssize_t total, size, least, budget = PUMP_BYTES
        cdef int64_t window
        cdef bytes message, head
        cdef char *out
        if self.is_done or self._local_closed:
            return 0
        while self._outbox:
            message = <bytes>self._outbox[0]
            total = PyBytes_GET_SIZE(message) + PREFIX
            window = min(connection._send_window, self._send_window)
            least = PREFIX if self._offset == 0 else 1  # a message's prefix is not split over frames
            if window < least or connection._is_paused or budget <= 0:
                if self._send_window >= least and not self._is_blocked:
                    self._is_blocked = True  # by the connection, not by this stream's own window
                    connection._blocked.append(self)
                    if budget <= 0 and not connection._is_paused and connection._send_window >= least:
                        connection._loop.call_soon(connection.pump_soon)
                return 0
            size = min(total - self._offset, connection._max_frame)
            size = <Py_ssize_t>min(<int64_t>size, window)
            if not self._headers_sent:
                self._headers_sent = True
                connection._write(_frame_bytes(HEADERS, END_HEADERS, self.stream_id, _HEADERS_BLOCK))
            if self._offset == 0:
                head = PyBytes_FromStringAndSize(NULL, FRAME_HEADER + PREFIX)
                out = PyBytes_AS_STRING(head)
                _put_header(out, size, DATA, 0, self.stream_id)
                out[9] = 0
                total -= PREFIX
                out[10] = <char>((total >> 24) & 0xFF)
                out[11] = <char>((total >> 16) & 0xFF)
                out[12] = <char>((total >> 8) & 0xFF)
                out[13] = <char>(total & 0xFF)
                total += PREFIX
                connection._write(head)
                if size > PREFIX:
                    connection._write(message if size == total else PyMemoryView_FromObject(message)[:size - PREFIX])
            else:
                head = PyBytes_FromStringAndSize(NULL, FRAME_HEADER)
                _put_header(PyBytes_AS_STRING(head), size, DATA, 0, self.stream_id)
                connection._write(head)
                connection._write(PyMemoryView_FromObject(message)[
                    self._offset - PREFIX:self._offset - PREFIX + size])
            self._offset += size
            self._send_window -= size
            connection._send_window -= size
            budget -= size
            if self._offset == total:
                self._outbox.popleft()
                self._offset = 0
        if self._trailers is not None:
            connection._write(_frame_bytes(HEADERS, END_HEADERS | END_STREAM, self.stream_id, self._trailers))
            self._local_closed = True
            if not self._remote_closed:
                connection._reset(self.stream_id, NO_ERROR)  # the rest of the request is not wanted
            self._end(False)
        elif self._sender is not None and not self._sender.done():
            self._sender.set_result(None)
        return 0

    # -- receiving ---------------------------------------------------------------------------------------------

    cdef int _feed(self, const unsigned char *data, Py_ssize_t size) except -1:
        """Take bytes of the request stream."""
        cdef Py_ssize_t part
        cdef Py_ssize_t taken = size
        while size > 0 and not self.is_done:
            if self._prefix_size < PREFIX:
                part = min(size, PREFIX - self._prefix_size)
                memcpy(self._prefix + self._prefix_size, data, part)
                self._prefix_size += part
                data += part
                size -= part
                if self._prefix_size == PREFIX:
                    self._begin_message()
                    if self._message_total == 0 and not self.is_done:
                        self._end_message()
                continue
            part = min(size, self._message_total - self._message_size)
            memcpy(PyBytes_AS_STRING(self._message) + self._message_size, data, part)
            self._message_size += part
            data += part
            size -= part
            if self._message_size == self._message_total:
                self._end_message()
        if not self.is_done:
            if self._inbox is not None and len(self._inbox) > 1:
                self._deferred += taken
            else:
                self._consumed(taken)
        return 0

    cdef int _begin_message(self) except -1:
        account = self._connection.service.account
        self._is_compressed = self._prefix[0] & 1
        self._message_total = _uint32(self._prefix + 1)
        self._message_size = 0
        if self._prefix[0] > 1:
            self.finish(13, f"{self.method.path}: message with flags {self._prefix[0]}; only 0 and 1 are defined")
            return 0
        if not self.method.client_streaming and self._inbox:
            self.finish(13, f"{self.method.path}: more than one request message in a unary call")
            return 0
        # What a stream runs ahead of its handler is bounded by its window, and counts when the handler takes it.
        self._is_counted = (not self.method.client_streaming or self._message_total > STREAM_WINDOW
                            or self._connection.service.lookahead + self._message_total > MAX_LOOKAHEAD)
        if self._is_counted:
            if not account.fits(self._message_total):
                self._fail(account.refusal(self._message_total, "a message of the request stream"
                                           if self.method.client_streaming else "a request"))
                return 0
            account.used += self._message_total
            self._held += self._message_total
        else:
            self._connection.service.lookahead += self._message_total
            self._ahead += self._message_total
        try:
            self._message = PyBytes_FromStringAndSize(NULL, self._message_total)
        except MemoryError:
            self._fail(ResourceExhausted(f"{self.method.path}: no memory for a message of {self._message_total} bytes"))
        return 0

    cdef int _end_message(self) except -1:
        cdef bytes message = self._message
        self._message = None
        self._prefix_size = 0
        if self._is_compressed:
            try:
                message = self._decompressed(message)
            except Exception as error:
                self._fail(error)
                return 0
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append((message, self._is_counted) if self.method.client_streaming else message)
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)
        return 0

    def _decompressed(self, bytes message):
        """Return a compressed message's bytes; what they unfold to is counted like any other message."""
        account = self._connection.service.account
        if self._encoding == b"gzip":
            decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
        elif self._encoding == b"deflate":
            decoder = zlib.decompressobj()
        else:
            raise InvalidArgument(f"{self.method.path}: a compressed message without a grpc-encoding")
        room = account.limit - account.used
        try:
            result = decoder.decompress(message, max(1, room))
        except zlib.error as error:
            raise InvalidArgument(f"{self.method.path}: the message is no valid {self._encoding.decode()}: {error}")
        if decoder.unconsumed_tail:
            raise account.refusal(len(result) + 1, "a compressed request")
        if self._is_counted:
            account.used += len(result) - self._message_total
            self._held += len(result) - self._message_total
        else:
            self._connection.service.lookahead += len(result) - self._message_total
            self._ahead += len(result) - self._message_total
        return result

    cdef int _consumed(self, Py_ssize_t size) except -1:
        """Give bytes back to the sender's window of this stream, in large portions."""
        self._unacknowledged += size
        if self._unacknowledged >= STREAM_WINDOW // 2 and not self._remote_closed:
            self._receive_window += self._unacknowledged
            self._connection._write(_frame_bytes(WINDOW_UPDATE, 0, self.stream_id,
                                                 _uint32_bytes(self._unacknowledged)))
            self._unacknowledged = 0
        return 0

    cdef int _remote_end(self) except -1:
        """The client has sent everything."""
        cdef bint is_partial
        if self._remote_closed:
            return 0
        self._remote_closed = True
        is_partial = self._prefix_size != 0
        if is_partial:
            self.finish(13, f"{self.method.path}: the request stream ended inside a message "
                            f"({self._message_size} of {self._message_total} bytes)")
            return 0
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)
        if not self.method.client_streaming and not self._is_dispatched:
            if not self._inbox:
                self.finish(13, f"{self.method.path}: the call ended without a request message")
                return 0
            self._dispatch(self._inbox.popleft())
        return 0

    cdef int _dispatch(self, object request) except -1:
        """Run the method: in place when it has an immediate form that answers, else by the service."""
        cdef Connection connection = self._connection
        self._is_dispatched = True
        connection._control_frames = 0
        service = connection.service
        service.account.num_calls += 1
        if self.method.immediate is not None:
            try:
                answer = self.method.immediate(request, self)
            except Exception as error:
                self._fail(error)
                return 0
            if answer is not None:
                self.reply(answer)
                return 0
        service.run(self, request)
        return 0

    def expire(self):
        """End the call because its deadline passed."""
        if not self.is_done:
            self.is_cancelled = True
            task = self.task
            self.finish(4, "Deadline Exceeded")
            if task is not None:
                task.cancel()

    def _fail(self, error):
        code, message, trailing = self._connection.service.status_of(self.method.path, error)
        if trailing:
            self._trailing = trailing
        self.finish(code, message)

    def fail(self, error):
        """End the call with the status that belongs to an exception."""
        self._fail(error)

    cdef int _end(self, bint cancelled) except -1:
        """Forget the call; everything it held is released."""
        cdef Connection connection = self._connection
        if self.is_done:
            return 0
        self.is_done = True
        if cancelled:
            self.is_cancelled = True
        connection._calls.pop(self.stream_id, None)
        connection.service.account.used -= self._held
        connection.service.lookahead -= self._ahead
        self._held = 0
        self._ahead = 0
        self._message = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for future in (self._receiver, self._sender):
            if future is not None and not future.done():
                future.set_result(None)
        if cancelled:
            self._outbox = None
            task, self.task = self.task, None
            if task is not None:
                task.cancel()
        callbacks, self._callbacks = self._callbacks, None
        if callbacks is not None:
            for callback in callbacks:
                try:
                    callback(self)
                except Exception as error:
                    connection._loop.call_exception_handler({
                        "message": "a done callback of a call failed", "exception": error})
        if connection._is_draining and not connection._calls:
            connection._loop.call_soon(connection.close)
        return 0


cdef class Connection:
    """The frames of one connection.

    Parameters
    ----------
    service : object
        Has ``methods`` (dict of path bytes to `Method`), ``unknown_method`` (a text), ``account`` (`fits(n)`, `refusal(n, what)`, `used`, `limit`,
        `num_calls`), ``lookahead`` (bytes of
        messages that wait for their handlers, not in the account yet), ``authorize`` (None, or a callable of the metadata that returns a reason to refuse), ``read_buffer``
        (a bytearray shared by all connections of the loop), ``run(call, request)``, ``status_of(path, error)``,
        ``opened(connection)`` and ``closed(connection)``.
    loop : asyncio event loop
    """

    def __init__(self, service, loop):
        self.service = service
        self._loop = loop
        self._decoder = HeaderDecoder(MAX_HEADER_BLOCK)
        self._calls = {}
        self._out = []
        self._blocked = deque()
        self._rest = bytearray()
        self._headers_block = bytearray()
        self._send_window = DEFAULT_WINDOW
        self._initial_send_window = DEFAULT_WINDOW
        self._max_frame = 16384
        self._receive_window = CONNECTION_WINDOW
        self.last_activity = loop.time()
        self._control_since = self.last_activity

    @property
    def num_calls(self):
        """Return the number of calls that have not ended."""
        return len(self._calls)

    @property
    def is_ready(self):
        """Tell whether the client's preface has arrived."""
        return self._preface == len(_PREFACE)

    # -- asyncio's side ----------------------------------------------------------------------------------------

    def connection_made(self, transport):
        """Greet the client: settings, and a large window for the connection."""
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 20, low=1 << 18)
        settings = (_setting(3, MAX_STREAMS) + _setting(4, STREAM_WINDOW) + _setting(5, MAX_DATA_FRAME)
                    + _setting(6, MAX_HEADER_BLOCK))
        transport.write(_frame_bytes(SETTINGS, 0, 0, settings)
                        + _frame_bytes(WINDOW_UPDATE, 0, 0, _uint32_bytes(CONNECTION_WINDOW - DEFAULT_WINDOW)))
        self.service.opened(self)

    def connection_lost(self, error):
        """End every call; the client will never learn of them."""
        self._is_closed = True
        for call in list(self._calls.values()):
            (<Call>call)._end(True)
        self._calls.clear()
        self._blocked.clear()
        self._out.clear()
        self._transport = None
        self.service.closed(self)

    def eof_received(self):
        """A half-closed connection serves nobody."""
        return False

    def pause_writing(self):
        """Stop handing out bytes until the socket has taken some."""
        self._is_paused = True

    def resume_writing(self):
        """Go on with the calls that wait for the socket."""
        self._is_paused = False
        if self._transport is not None and not self._is_closed:
            self._transport.resume_reading()
        self._pump_blocked()
        self._flush()

    def get_buffer(self, sizehint):
        """Return where the transport shall read to: the shared buffer, behind what is left of the last read."""
        cdef Py_ssize_t rest = len(self._rest)
        return PyMemoryView_FromObject(self.service.read_buffer)[rest:]

    def buffer_updated(self, Py_ssize_t size):
        """Take `size` new bytes from the read buffer."""
        cdef bytearray buffer = self.service.read_buffer
        cdef char *data = buffer
        cdef Py_ssize_t rest = len(self._rest)
        if rest:
            memcpy(data, <char *>self._rest, rest)
            self._rest.clear()
        if self._is_closed:
            return
        self.last_activity = self._loop.time()
        self.awaits_ping = False
        self._is_reading = True
        try:
            self._parse(<const unsigned char *>data, rest + size)
        except InvalidArgument as error:
            self._fail(COMPRESSION_ERROR, error.message)
        except ResourceExhausted as error:
            self._fail(ENHANCE_YOUR_CALM, error.message)
        finally:
            self._is_reading = False
            self._flush()

    # -- frames in ---------------------------------------------------------------------------------------------

    cdef int _parse(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t position = 0, part, length
        cdef int kind
        cdef uint32_t stream
        cdef Call call
        while position < size and not self._is_closed:
            if self._data_left > 0:
                part = min(size - position, self._data_left)
                self._data_left -= part
                if self._data_stream != 0:
                    call = <Call>self._calls.get(self._data_stream)
                    if call is not None:
                        length = part
                        if self._padding_left > 0 and self._data_left < self._padding_left:
                            length = max(0, part - (self._padding_left - self._data_left))
                        call._feed(data + position, length)
                position += part
                if self._data_left == 0:
                    self._end_data()
                continue
            if self._preface < 24:
                part = min(size - position, 24 - self._preface)
                if memcmp(data + position, PyBytes_AS_STRING(_PREFACE) + self._preface, part) != 0:
                    self._fail(PROTOCOL_ERROR, "the connection does not begin with the HTTP/2 preface")
                    return 0
                self._preface += part
                position += part
                continue
            if size - position < FRAME_HEADER:
                break
            length = (<Py_ssize_t>data[position] << 16) | (<Py_ssize_t>data[position + 1] << 8) | data[position + 2]
            kind = data[position + 3]
            stream = _uint32(data + position + 5) & 0x7FFFFFFF
            if kind == DATA:
                if length > MAX_DATA_FRAME:
                    self._fail(FRAME_SIZE_ERROR, f"DATA frame of {length} bytes; at most {MAX_DATA_FRAME}")
                    return 0
                part = 1 if data[position + 4] & PADDED else 0
                if size - position < FRAME_HEADER + part:
                    break
                self._begin_data(data[position + 4], stream, length, data + position + FRAME_HEADER)
                position += FRAME_HEADER + part
                continue
            if length > MAX_CONTROL_FRAME:
                self._fail(FRAME_SIZE_ERROR, f"frame of type {kind} with {length} bytes; at most {MAX_CONTROL_FRAME}")
                return 0
            if size - position < FRAME_HEADER + length:
                break
            self._frame(kind, data[position + 4], stream, data + position + FRAME_HEADER, length)
            position += FRAME_HEADER + length
        if position < size and not self._is_closed:
            self._rest += data[position:size]
        return 0

    cdef int _begin_data(self, int flags, uint32_t stream, Py_ssize_t size, const unsigned char *data) except -1:
        cdef Call call
        if self._headers_stream:
            return self._fail(PROTOCOL_ERROR, "DATA frame inside a header block")
        if stream == 0 or stream > self._last_stream:
            return self._fail(PROTOCOL_ERROR, f"DATA frame on stream {stream}, which is not open")
        self._receive_window -= size
        if self._receive_window < 0:
            return self._fail(FLOW_CONTROL_ERROR, "more data than the connection's window allows")
        self._unacknowledged += size
        if self._unacknowledged >= CONNECTION_WINDOW // 2:
            self._receive_window += self._unacknowledged
            self._write(_frame_bytes(WINDOW_UPDATE, 0, 0, _uint32_bytes(self._unacknowledged)))
            self._unacknowledged = 0
        call = <Call>self._calls.get(stream)
        self._data_stream = stream
        self._data_ends = flags & END_STREAM
        self._padding_left = 0
        self._data_left = size
        if call is not None:
            if call._remote_closed:
                self._reset(stream, STREAM_CLOSED)
                call._end(True)
            else:
                call._receive_window -= size
                if call._receive_window < 0:
                    self._reset(stream, FLOW_CONTROL_ERROR)
                    call._end(True)
        if flags & PADDED:
            if size == 0 or data[0] >= size:
                return self._fail(PROTOCOL_ERROR, "padding longer than its DATA frame")
            self._padding_left = data[0]
            self._data_left = size - 1
            if call is not None and not call.is_done:
                call._consumed(1 + data[0])
        if size == 0 and not self._data_ends:
            self._control()
        if self._data_left == 0:
            self._end_data()
        return 0

    cdef int _end_data(self) except -1:
        cdef Call call
        if self._data_ends:
            call = <Call>self._calls.get(self._data_stream)
            if call is not None:
                call._remote_end()
        self._data_stream = 0
        self._data_ends = False
        return 0

    cdef int _frame(self, int kind, int flags, uint32_t stream, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t start = 0, end = size
        cdef Call call
        if self._headers_stream and (kind != CONTINUATION or stream != self._headers_stream):
            return self._fail(PROTOCOL_ERROR, "another frame inside a header block")
        if kind == HEADERS:
            if stream == 0 or not stream & 1:
                return self._fail(PROTOCOL_ERROR, f"HEADERS on stream {stream}; a client's streams are odd")
            if flags & PADDED:
                if size < 1 or data[0] > size - 1:
                    return self._fail(PROTOCOL_ERROR, "padding longer than its HEADERS frame")
                start = 1
                end = size - data[0]
            if flags & PRIORITY_FLAG:
                start += 5
            if start > end:
                return self._fail(FRAME_SIZE_ERROR, "HEADERS frame too short for its flags")
            if flags & END_HEADERS:
                return self._header_block(stream, data + start, end - start, flags & END_STREAM)
            self._headers_stream = stream
            self._headers_end = flags & END_STREAM
            self._continuations = 0
            self._headers_block.clear()
            self._headers_block += data[start:end]
            return 0
        if kind == CONTINUATION:
            if not self._headers_stream:
                return self._fail(PROTOCOL_ERROR, "CONTINUATION without a header block")
            self._continuations += 1
            if self._continuations > MAX_CONTINUATIONS or len(self._headers_block) + size > MAX_HEADER_BLOCK:
                return self._fail(ENHANCE_YOUR_CALM, f"header block above {MAX_HEADER_BLOCK} bytes or "
                                                     f"{MAX_CONTINUATIONS} continuations")
            self._headers_block += data[:size]
            if flags & END_HEADERS:
                self._headers_stream = 0
                block = bytes(self._headers_block)
                self._headers_block.clear()
                return self._header_block(stream, <const unsigned char *>PyBytes_AS_STRING(block),
                                          PyBytes_GET_SIZE(block), self._headers_end)
            return 0
        if kind == WINDOW_UPDATE:
            if size != 4:
                return self._fail(FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {size} bytes")
            return self._window_update(stream, _uint32(data) & 0x7FFFFFFF)
        if kind == SETTINGS:
            if stream != 0:
                return self._fail(PROTOCOL_ERROR, "SETTINGS on a stream")
            return self._settings(flags, data, size)
        if kind == PING:
            if stream != 0:
                return self._fail(PROTOCOL_ERROR, "PING on a stream")
            if size != 8:
                return self._fail(FRAME_SIZE_ERROR, f"PING of {size} bytes")
            if not flags & ACK:
                self._control()
                self._write(_frame_bytes(PING, ACK, 0, data[:8]))
            return 0
        if kind == RST_STREAM:
            if size != 4:
                return self._fail(FRAME_SIZE_ERROR, f"RST_STREAM of {size} bytes")
            if stream == 0 or stream > self._last_stream:
                return self._fail(PROTOCOL_ERROR, f"RST_STREAM on stream {stream}, which is not open")
            self._control()
            call = <Call>self._calls.get(stream)
            if call is not None:
                call._end(True)
            return 0
        if kind == PUSH_PROMISE:
            return self._fail(PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        # PRIORITY has no meaning here, a client's GOAWAY needs no answer, unknown types are to be ignored
        return self._control()

    cdef int _header_block(self, uint32_t stream, const unsigned char *data, Py_ssize_t size, bint ends) except -1:
        """A complete header block: the start of a call, or the (unused) trailers of a request."""
        cdef list fields = self._decoder.decode(data, size)
        cdef Call call = <Call>self._calls.get(stream)
        cdef bytes name, path = None, method = None, content_type = None, timeout = None, encoding = None
        if call is not None:
            if not ends or call._remote_closed:
                self._reset(stream, PROTOCOL_ERROR)
                call._end(True)
            else:
                call._remote_end()
            return 0
        if stream <= self._last_stream:
            return 0  # trailers of a call that has ended
        self._last_stream = stream
        if self._is_draining or len(self._calls) >= MAX_STREAMS:
            return self._reset(stream, REFUSED_STREAM)
        for entry in fields:
            name = <bytes>(<tuple>entry)[0]
            if name == b":path":
                path = <bytes>(<tuple>entry)[1]
            elif name == b":method":
                method = <bytes>(<tuple>entry)[1]
            elif name == b"content-type":
                content_type = <bytes>(<tuple>entry)[1]
            elif name == b"grpc-timeout":
                timeout = <bytes>(<tuple>entry)[1]
            elif name == b"grpc-encoding":
                encoding = <bytes>(<tuple>entry)[1]
        if method is None or path is None:
            return self._reset(stream, PROTOCOL_ERROR)
        if method != b"POST" or content_type is None or not content_type.startswith(b"application/grpc"):
            status = b"405" if method != b"POST" else b"415"
            self._write(_frame_bytes(HEADERS, END_HEADERS | END_STREAM, stream, encode_headers(
                [(b":status", status), (b"content-type", b"text/plain"), (b"grpc-status", b"13"),
                 (b"grpc-message", b"this port speaks gRPC: POST with content-type application/grpc")])))
            if not ends:
                self._reset(stream, NO_ERROR)
            return 0
        found = self.service.methods.get(path)
        call = Call(self, stream, <Method>found if found is not None else Method(
            path.decode("latin-1"), False, False, None), fields)
        self._calls[stream] = call
        if self.service.authorize is not None:
            reason = self.service.authorize(call.invocation_metadata())
            if reason is not None:
                call._remote_closed = ends
                call.finish(16, reason)
                return 0
        if found is None:
            call._remote_closed = ends
            call.finish(12, self.service.unknown_method)
            return 0
        if call.method.refusal is not None:
            call._remote_closed = ends
            call._fail(call.method.refusal)
            return 0
        if encoding is not None and encoding != b"identity":
            if encoding not in (b"gzip", b"deflate"):
                call._remote_closed = ends
                call.finish(12, f"grpc-encoding {encoding.decode('latin-1')} is not one of identity, deflate, gzip")
                return 0
            call._encoding = encoding
        if timeout is not None:
            try:
                call._deadline = self._loop.time() + _timeout_s(timeout)
                call._timer = self._loop.call_at(call._deadline, call.expire)
            except InvalidArgument as error:
                call._remote_closed = ends
                call.finish(13, error.message)
                return 0
        if call.method.client_streaming:
            call._remote_closed = ends
            call._inbox = deque()
            call._dispatch(None)
        elif ends:
            call._remote_end()
        return 0

    cdef int _settings(self, int flags, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t position = 0
        cdef int identifier
        cdef int64_t value, change
        if flags & ACK:
            if size:
                return self._fail(FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            return 0
        if size % 6:
            return self._fail(FRAME_SIZE_ERROR, f"SETTINGS of {size} bytes")
        self._control()
        while position < size:
            identifier = (data[position] << 8) | data[position + 1]
            value = _uint32(data + position + 2)
            position += 6
            if identifier == 4:
                if value > MAX_WINDOW:
                    return self._fail(FLOW_CONTROL_ERROR, f"initial window {value} above 2**31-1")
                change = value - self._initial_send_window
                self._initial_send_window = value
                for call in self._calls.values():
                    (<Call>call)._send_window += change
                    if change > 0 and (<Call>call)._outbox and not (<Call>call)._is_blocked:
                        (<Call>call)._is_blocked = True
                        self._blocked.append(call)
            elif identifier == 5:
                if value < 16384 or value > 16777215:
                    return self._fail(PROTOCOL_ERROR, f"maximum frame size {value} outside 16384..16777215")
                self._max_frame = <Py_ssize_t>min(value, <int64_t>MAX_DATA_FRAME)
            elif identifier == 2 and value > 1:
                return self._fail(PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
        self._write(_frame_bytes(SETTINGS, ACK, 0, b""))
        self._pump_blocked()
        return 0

    cdef int _window_update(self, uint32_t stream, int64_t increment) except -1:
        cdef Call call
        if stream == 0:
            if increment == 0:
                return self._fail(PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            self._send_window += increment
            if self._send_window > MAX_WINDOW:
                return self._fail(FLOW_CONTROL_ERROR, "the connection's window exceeds 2**31-1")
            return self._pump_blocked()
        if stream > self._last_stream:
            return self._fail(PROTOCOL_ERROR, f"WINDOW_UPDATE on stream {stream}, which is not open")
        call = <Call>self._calls.get(stream)
        if call is None:
            return 0
        call._send_window += increment
        if increment == 0 or call._send_window > MAX_WINDOW:
            self._reset(stream, PROTOCOL_ERROR if increment == 0 else FLOW_CONTROL_ERROR)
            return call._end(True)
        return call._pump()

    cdef int _control(self) except -1:
        """Count a frame that costs the client nothing; too many in a short time end the connection."""
        cdef double now
        self._control_frames += 1
        if self._control_frames >= MAX_CONTROL_FRAMES:
            now = self._loop.time()
            if now - self._control_since < CONTROL_PERIOD_S:
                return self._fail(ENHANCE_YOUR_CALM, f"{MAX_CONTROL_FRAMES} control frames within "
                                                     f"{CONTROL_PERIOD_S:.0f} s")
            self._control_frames = 0
            self._control_since = now
        if (self._is_paused and self._transport is not None
                and self._transport.get_write_buffer_size() > MAX_UNSENT):
            self._transport.pause_reading()  # answers pile up unread; resume_writing() goes on
        return 0

    # -- frames out --------------------------------------------------------------------------------------------

    cdef int _write(self, object buffer) except -1:
        self._out.append(buffer)
        return 0

    cdef int _flush(self) except -1:
        """Hand what was written in this turn to the transport, as one write where that is possible."""
        cdef list out = self._out
        if self._is_reading or not out:
            return 0
        if self._transport is None:
            out.clear()
            return 0
        if len(out) == 1:
            self._transport.write(out[0])
        else:
            self._transport.writelines(out)
        self._out = []
        return 0

    cdef int _pump_blocked(self) except -1:
        """Give every call that waits for the connection one turn."""
        cdef Py_ssize_t turns = len(self._blocked)
        cdef Call call
        while turns > 0 and self._blocked and self._send_window > 0 and not self._is_paused:
            turns -= 1
            call = <Call>self._blocked.popleft()
            call._is_blocked = False
            call._pump()
            self._flush()
        return 0

    def pump_soon(self):
        """Go on with calls that gave others their turn."""
        self._pump_blocked()
        self._flush()

    cdef int _reset(self, uint32_t stream, int code) except -1:
        self._write(_frame_bytes(RST_STREAM, 0, stream, _uint32_bytes(code)))
        return 0

    cdef int _fail(self, int code, str message) except -1:
        """End the connection with an error of the connection."""
        if self._is_closed:
            return 0
        self._is_closed = True
        self.service.broken(self, code, message)
        self._write(_frame_bytes(GOAWAY, 0, 0, _uint32_bytes(self._last_stream) + _uint32_bytes(code)
                                 + message.encode()[:512]))
        for call in list(self._calls.values()):
            (<Call>call)._end(True)
        if self._transport is not None:
            self._transport.writelines(self._out)
            self._out = []
            self._transport.close()
        return 0

    def drain(self):
        """Take no new calls; close when the last one has ended. Calls that cross this on the wire are refused."""
        if self._is_draining or self._is_closed:
            return
        self._is_draining = True
        self._write(_frame_bytes(GOAWAY, 0, 0, _uint32_bytes(self._last_stream) + _uint32_bytes(NO_ERROR)))
        self._flush()
        if not self._calls:
            self.close()

    def close(self):
        """Close when everything written has left; calls that have not ended are cancelled."""
        if self._is_closed:
            return
        self._is_closed = True
        for call in list(self._calls.values()):
            (<Call>call)._end(True)
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self):
        """Close at once; what is unsent is lost."""
        self._is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def ping(self):
        """Ask the client for a sign of life; `awaits_ping` holds until any bytes arrive."""
        if not self._is_closed:
            self.awaits_ping = True
            self._write(_frame_bytes(PING, 0, 0, b"\0\0\0\0\0\0\0\1"))
            self._flush()
