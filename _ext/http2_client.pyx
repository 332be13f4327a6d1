"""gRPC over HTTP/2, the client's side: unary calls to another server over one connection.

It stands on the server's `Connection` and `Call`, which parse frames, keep windows and assemble messages; here is what
is the other way round: the preface goes out, requests are written and answers awaited. As there, a message is assembled
straight into its final bytes object, and a large request leaves from where it lies.

The headers of a request are the same each time but for the path, so they go into the peer's table with the first call
of a method and are indices from then on.

Not safe from several threads: everything happens on the loop that owns the transport.

Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), "gRPC over HTTP2" of the gRPC project.
"""

from base64 import b64decode
from collections import deque
from urllib.parse import unquote_to_bytes

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy

from runtime._ext.errors import Unavailable
from runtime._ext.http2 cimport Connection
from runtime._ext.http2_call cimport Call, Method, message_size
from runtime._ext.http2_frames cimport (
    CANCEL, CONNECTION_WINDOW, DATA, DEFAULT_WINDOW, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FRAME_HEADER, GOAWAY,
    HEADERS, INTERNAL_ERROR, MAX_DATA_FRAME, MAX_HEADER_BLOCK, PREFIX, PROTOCOL_ERROR, REFUSED_STREAM, RST_STREAM,
    SETTINGS, SMALL_ANSWER, STREAM_WINDOW, WINDOW_UPDATE, WRITE_AHEAD, ACK, frame_bytes, put_header, setting, uint32_at,
    uint32_bytes)

cdef bytes _PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Static entries of the header table, by field.
cdef dict _STATIC = {(b":method", b"POST"): 3, (b":scheme", b"http"): 6, (b":scheme", b"https"): 7}
cdef enum:
    STATIC_ENTRIES = 61
    ENTRY_OVERHEAD = 32
    TABLE_BYTES = 4096
    LAST_STREAM = 0x7FFFFFFF
    MAX_REFUSED = 100

cdef double ASK_AGAIN_S = 0.01
# gRPC's status for an HTTP status without one of gRPC's, and for a stream that was reset.
cdef dict _HTTP_CODES = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}


cdef int _code_of_reset(int reset_code):
    if reset_code == CANCEL:
        return 1
    if reset_code == ENHANCE_YOUR_CALM:
        return 8
    if reset_code == PROTOCOL_ERROR or reset_code == INTERNAL_ERROR:
        return 13
    return 14


cdef class ClientCall(Call):
    """One unary call to another server; made by `ClientConnection.start`."""

    def cancel(self):
        """Give the call up: its callback gets CANCELLED, unless it has been answered."""
        if not self.is_done:
            self.complete(1, "the call was given up", (), True)
            self.connection.flush()

    def finish(self, int code, str message=""):
        """End the call with a status of this side's making."""
        if not self.is_done:
            self.complete(code, message, (), True)

    def fail(self, error):
        """End the call with an error that arose here, of what the server sent."""
        code = getattr(error, "code", 13)
        self.finish(code, getattr(error, "message", None) or f"{type(error).__name__}: {error}")

    cdef int complete(self, int code, str message, tuple trailing, bint resets) except -1:
        """Tell how the call ended and forget it."""
        cdef bytes answer = None
        answered, self.answered = self.answered, None
        if code == 0:
            if self.inbox:
                answer = <bytes>self.inbox.popleft()
            else:
                code, message = 13, f"{self.method.path}: the call ended with OK and without an answer"
        if self.stream_id and (resets or not self.local_closed):
            self.connection.reset(self.stream_id, CANCEL)
        self.outbox = None
        self.local_closed = True
        self.end(False)
        if answered is not None:
            self._tell(answered, answer, code, message, trailing)
        return 0

    def _tell(self, answered, answer, code, message, trailing):
        try:
            answered(answer, code, message, trailing)
        except Exception as error:
            self.connection.loop.call_exception_handler({
                "message": "the callback of a call failed", "exception": error})

    cdef int end(self, bint cancelled) except -1:
        if self.is_done:
            return 0
        cdef ClientConnection connection = <ClientConnection>self.connection
        Call.end(self, cancelled)
        self.request = None
        connection.control_frames = 0
        answered, self.answered = self.answered, None
        if answered is not None:  # the stream was reset, or the connection is gone
            if self.reset_code >= 0:
                self._tell(answered, None, _code_of_reset(self.reset_code),
                           f"{self.method.path}: the stream was reset with error {self.reset_code}", ())
            else:
                self._tell(answered, None, 14, connection.lost_reason or "Socket closed", ())
        if connection._waiting and not connection.is_closed:
            connection._open_waiting()
        return 0

    cdef int pump(self) except -1:
        Call.pump(self)
        if not self.is_done and not self.local_closed and not self.outbox:
            self.connection.write(frame_bytes(DATA, END_STREAM, self.stream_id, b""))
            self.local_closed = True
        return 0

    cdef int _begin_message(self) except -1:
        account = self.connection.service.account
        self.is_compressed = self.prefix[0] & 1
        self.message_total = uint32_at(self.prefix + 1)
        self.message_size = 0
        if self.prefix[0] > 1:
            return self.complete(13, f"{self.method.path}: message with flags {self.prefix[0]}; only 0 and 1 are "
                                     "defined", (), True)
        if self.inbox:
            return self.complete(13, f"{self.method.path}: more than one answer to a unary call", (), True)
        if not account.fits(self.message_total):
            self.fail(account.refusal(self.message_total, "an answer"))
            return 0
        account.used += self.message_total
        self.held += self.message_total
        self.is_counted = True
        try:
            self.message = PyBytes_FromStringAndSize(NULL, self.message_total)
        except MemoryError:
            return self.complete(8, f"{self.method.path}: no memory for an answer of {self.message_total} bytes", (),
                                 True)
        return 0

    cdef int remote_end(self) except -1:
        """The server has closed the stream without a status."""
        if not self.is_done:
            return self.complete(13, f"{self.method.path}: the answer ended without a status", (), False)
        return 0

    cdef int take_headers(self, list fields, bint ends) except -1:
        """Take the head of the answer, or its end."""
        cdef bytes name, value, text = None
        cdef int code = -1
        cdef list trailing = []
        for entry in fields:
            name = <bytes>(<tuple>entry)[0]
            value = <bytes>(<tuple>entry)[1]
            if name == b":status":
                self.http_status = int(value) if value.isdigit() and len(value) == 3 else 0
            elif name == b"grpc-encoding":
                self.encoding = value
            elif not ends:
                continue
            elif name == b"grpc-status":
                code = int(value) if value.isdigit() and len(value) < 6 else 2
            elif name == b"grpc-message":
                text = value
            elif name.endswith(b"-bin"):
                try:
                    for part in value.split(b","):
                        trailing.append((name.decode("latin-1"), b64decode(part + b"=" * ((4 - len(part) % 4) % 4))))
                except ValueError:
                    pass  # what is no base64 says nothing
            elif name[:1] != b":" and name != b"content-type":
                trailing.append((name.decode("latin-1"), value.decode("latin-1")))
        if not ends:
            return 0
        if code < 0:
            if self.http_status == 200:
                return self.complete(2, f"{self.method.path}: the answer ended without a status", (), False)
            return self.complete(_HTTP_CODES.get(self.http_status, 2),
                                 f"{self.method.path}: HTTP status {self.http_status}, without a status of gRPC", (),
                                 False)
        if self.prefix_size and code == 0:
            return self.complete(13, f"{self.method.path}: the answer ended inside a message", (), False)
        message = "" if text is None else unquote_to_bytes(text).decode("utf-8", "replace")
        return self.complete(code, message, tuple(trailing), False)


cdef class ClientConnection(Connection):
    """A connection to another server.

    Parameters
    ----------
    service : object
        Has ``fields`` (list of (name, value) in bytes: what every request carries besides its path; pseudo fields come
        first), ``account``, ``lookahead`` and ``read_buffer`` as of a server, ``opened(connection)``,
        ``closed(connection)`` and ``broken(connection, code, message)``.
    loop : asyncio event loop

    Attributes
    ----------
    lost_reason : str or None
        Why the connection ended.
    """

    def __init__(self, service, loop):
        Connection.__init__(self, service, loop)
        self._preface = 24  # the other side's business
        self._next_stream = 1
        self._max_streams = LAST_STREAM
        self._waiting = deque()
        self._indices = {}
        self._blocks = {}

    @property
    def takes_calls(self):
        """Tell whether a call can be started."""
        return not (self.is_closed or self.is_draining or self.transport is None)

    # -- asyncio's side ----------------------------------------------------------------------------------------

    def connection_made(self, transport):
        """Greet the server."""
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_AHEAD, low=WRITE_AHEAD // 4)
        settings = (setting(2, 0) + setting(4, STREAM_WINDOW) + setting(5, MAX_DATA_FRAME)
                    + setting(6, MAX_HEADER_BLOCK))
        transport.write(_PREFACE + frame_bytes(SETTINGS, 0, 0, settings)
                        + frame_bytes(WINDOW_UPDATE, 0, 0, uint32_bytes(CONNECTION_WINDOW - DEFAULT_WINDOW)))
        self.service.opened(self)

    def connection_lost(self, error):
        """End every call."""
        if self.lost_reason is None:
            self.lost_reason = "Socket closed" if error is None else f"Socket closed: {error}"
        Connection.connection_lost(self, error)
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            (<ClientCall>call).end(True)

    # -- calls -------------------------------------------------------------------------------------------------

    def start(self, Method method not None, message not None, answered not None):
        """Start a unary call.

        Parameters
        ----------
        method : Method
        message : bytes or MessageParts
        answered : callable
            ``answered(answer, code, message, trailers)``, once: with bytes and 0, or None and the status.

        Returns
        -------
        ClientCall
            For giving it up.

        Raises
        ------
        Unavailable
            If the connection takes no calls any more.
        """
        cdef ClientCall call
        message_size(message)  # the right kind
        if not self.takes_calls:
            raise Unavailable(self.lost_reason or "the connection takes no more calls")
        call = ClientCall(self, 0, method, None)
        call.answered = answered
        call.request = message
        call.reset_code = -1
        if <int64_t>len(self.calls) >= self._max_streams:
            self._waiting.append(call)
        else:
            self._open(call)
            self.flush()
        return call

    cdef int _open_waiting(self) except -1:
        cdef ClientCall call
        while self._waiting and <int64_t>len(self.calls) < self._max_streams and not self.is_closed:
            call = <ClientCall>self._waiting.popleft()
            if call.is_done:
                continue
            if self.is_draining:
                call.end(True)
            else:
                self._open(call)
        self.flush()
        return 0

    cdef int _open(self, ClientCall call) except -1:
        cdef object message = call.request
        cdef bytes block = self._block_of(call.method)
        cdef bytes buffer
        cdef Py_ssize_t size = message_size(message)
        cdef Py_ssize_t body = size + PREFIX, head = PyBytes_GET_SIZE(block), position
        cdef char *out
        cdef uint32_t stream = self._next_stream
        self._next_stream += 2
        self._last_stream = stream
        if not PyBytes_CheckExact(message) or body > SMALL_ANSWER:
            call.request = None
        call.stream_id = stream
        call.send_window = self.initial_send_window
        call.headers_sent = True
        self.calls[stream] = call
        if self._next_stream >= LAST_STREAM - 2:
            self.is_draining = True  # another connection takes over
        if (body > SMALL_ANSWER or not PyBytes_CheckExact(message) or body > self.send_window
                or body > call.send_window or body > self.max_frame or self.is_paused):
            self.write(frame_bytes(HEADERS, END_HEADERS, stream, block))
            call.outbox = deque((message,))
            return call.pump()
        buffer = PyBytes_FromStringAndSize(NULL, 2 * FRAME_HEADER + head + body)
        out = PyBytes_AS_STRING(buffer)
        put_header(out, head, HEADERS, END_HEADERS, stream)
        memcpy(out + FRAME_HEADER, PyBytes_AS_STRING(block), head)
        position = FRAME_HEADER + head
        put_header(out + position, body, DATA, END_STREAM, stream)
        position += FRAME_HEADER
        out[position] = 0
        out[position + 1] = <char>((size >> 24) & 0xFF)
        out[position + 2] = <char>((size >> 16) & 0xFF)
        out[position + 3] = <char>((size >> 8) & 0xFF)
        out[position + 4] = <char>(size & 0xFF)
        memcpy(out + position + PREFIX, PyBytes_AS_STRING(<bytes>message), size)
        self.send_window -= body
        call.send_window -= body
        call.local_closed = True
        return self.write(buffer)

    # -- headers -----------------------------------------------------------------------------------------------

    cdef bytes _block_of(self, Method method):
        """Return the header block of a request."""
        cdef bytearray out
        cdef bytes path
        cdef Py_ssize_t num_entries = len(self._indices)
        block = self._blocks.get(method)
        if block is not None:
            return <bytes>block
        out = bytearray()
        if self._must_shrink:
            self._must_shrink = False
            out.append(0x20)  # the table holds nothing from now on
        path = (<str>method.path).encode()
        for name, value in self.service.fields:
            if path is not None and name[:1] != b":":
                self._put_field(out, b":path", path)
                path = None
            self._put_field(out, name, value)
        block = bytes(out)
        if len(self._indices) != num_entries:
            self._blocks.clear()  # what was added moved all the others
        elif out[0] != 0x20:
            self._blocks[method] = block
        return <bytes>block

    cdef int _put_field(self, bytearray out, bytes name, bytes value) except -1:
        cdef Py_ssize_t index, size = len(name) + len(value) + ENTRY_OVERHEAD
        cdef tuple field = (name, value)
        found = _STATIC.get(field)
        if found is None and not self._is_plain:
            place = self._indices.get(field)
            if place is not None:
                found = STATIC_ENTRIES + len(self._indices) - <Py_ssize_t>place
        if found is not None:
            _put_integer(out, found, 7, 0x80)
            return 0
        if not self._is_plain and self._table_bytes + size <= TABLE_BYTES:
            self._indices[field] = len(self._indices)
            self._table_bytes += size
            out.append(0x40)
        else:
            out.append(0)
        _put_integer(out, len(name), 7, 0)
        out += name
        _put_integer(out, len(value), 7, 0)
        out += value
        return 0

    # -- frames in ---------------------------------------------------------------------------------------------

    cdef int _header_block(self, uint32_t stream, const unsigned char *data, Py_ssize_t size, bint ends) except -1:
        cdef list fields = self._decoder.decode(data, size)
        cdef ClientCall call = <ClientCall>self.calls.get(stream)
        if call is None:
            return 0  # it was given up
        return call.take_headers(fields, ends)

    cdef int _frame(self, int kind, int flags, uint32_t stream, const unsigned char *data, Py_ssize_t size) except -1:
        cdef ClientCall call
        if kind == RST_STREAM and size == 4:
            call = <ClientCall>self.calls.get(stream)
            if call is not None:
                call.reset_code = <int>(uint32_at(data) & 0x7FFFFFFF)
                if call.reset_code == REFUSED_STREAM and call.request is not None and call.num_refused < MAX_REFUSED:
                    return self._ask_again(call)
        elif kind == GOAWAY and size >= 8 and stream == 0 and not self._headers_stream:
            return self._go_away(uint32_at(data) & 0x7FFFFFFF, uint32_at(data + 4), data[8:size])
        return Connection._frame(self, kind, flags, stream, data, size)

    cdef int _ask_again(self, ClientCall call) except -1:
        """The server has not looked at a call, for it still counts one that has ended: a moment later it will."""
        self.calls.pop(call.stream_id, None)
        call.stream_id = 0
        call.num_refused += 1
        call.reset_code = -1
        call.local_closed = False
        self._waiting.append(call)
        self.loop.call_later(ASK_AGAIN_S, self._look_again)
        return 0

    def _look_again(self):
        if not self.is_closed:
            self._open_waiting()

    def _go_away(self, last_stream, code, reason):
        """The server takes no more calls: those that it will not look at end now."""
        self.is_draining = True
        self.lost_reason = "the server is going away" if code == 0 else (
            f"the server ended the connection with error {code}: {reason.decode('utf-8', 'replace')}")
        for call in [call for number, call in self.calls.items() if number > last_stream]:
            (<ClientCall>call).end(True)
        self._open_waiting()
        if not self.calls and not self.is_closed:
            self.loop.call_soon(self.close)
        return 0

    cdef int _settings(self, int flags, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t position = 0
        cdef int identifier
        cdef int64_t value
        if not flags & ACK and size % 6 == 0:
            while position < size:
                identifier = (data[position] << 8) | data[position + 1]
                value = uint32_at(data + position + 2)
                position += 6
                if identifier == 3:
                    self._max_streams = value
                elif identifier == 1 and value < TABLE_BYTES and not self._is_plain:
                    self._is_plain = self._must_shrink = True
                    self._blocks.clear()
        Connection._settings(self, flags, data, size)
        if self._waiting:
            self._open_waiting()
        return 0


cdef int _put_integer(bytearray out, Py_ssize_t value, int prefix_bits, int flags) except -1:
    cdef Py_ssize_t mask = (1 << prefix_bits) - 1
    if value < mask:
        out.append(flags | value)
        return 0
    out.append(flags | mask)
    value -= mask
    while value >= 0x80:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return 0
