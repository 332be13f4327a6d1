"""gRPC over HTTP/2, the server's side: one connection and its frames.

`Connection` is the body of an asyncio buffered protocol (``runtime.edge.native`` adds the base class): it parses frames
out of the read buffer and hands their content to the calls (`runtime._ext.http2_call`).

What arrives from outside is bounded: header lists, continuations, control frames, streams, and the bytes of all messages
under assembly.

Not safe from several threads: everything happens on the loop that owns the transport.

Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), "gRPC over HTTP2" of the gRPC project.
"""

from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory, PyMemoryView_FromObject
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp, memcpy

from runtime._ext.errors import InvalidArgument, ResourceExhausted
from runtime._ext.hpack cimport HeaderDecoder, encode_headers
from runtime._ext.http2_call cimport Call, Method
from runtime._ext.http2_frames cimport (
    ACK, COMPRESSION_ERROR, CONNECTION_WINDOW, CONTINUATION, DATA, DEFAULT_WINDOW, DIRECT_READ, END_HEADERS, END_STREAM,
    ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME_HEADER, FRAME_SIZE_ERROR, GOAWAY, HEADERS, HEAD_READ, MAX_CONTINUATIONS,
    MAX_CONTROL_FRAME, MAX_CONTROL_FRAMES, MAX_DATA_FRAME, MAX_HEADER_BLOCK, MAX_RAPID_RESETS, MAX_STREAM, MAX_STREAMS,
    MAX_UNSENT, MAX_WINDOW, NO_ERROR, PADDED, PING, PRIORITY_FLAG, PROTOCOL_ERROR, PUSH_PROMISE, REFUSED_STREAM, RST_STREAM,
    SETTINGS, SMALL_HEADERS, STREAM_CLOSED, STREAM_WINDOW, WINDOW_UPDATE, WRITE_AHEAD, frame_bytes, setting, timeout_s,
    trailer_block, uint32_at, uint32_bytes)
from runtime._ext.http2_link cimport Link

cdef bytes _PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# A flood is MAX_CONTROL_FRAMES within this time.
cdef double CONTROL_PERIOD_S = 10.0
# A call that is given up earlier than this after its start may have been begun for that purpose.
cdef double RAPID_S = 1.0
# Of the ping that shows that a client knows its connection to be retired.
cdef bytes _RETIRING = b"\0\0\0\0\0\0\0\2"


cdef class Connection(Link):
    """The frames of one connection.

    Parameters
    ----------
    service : object
        Has ``methods`` (dict of path bytes to `Method`), ``unknown_method`` (a text), ``account`` (`fits(n)`, `refusal(n, what)`, `used`, `limit`,
        `num_calls`), ``lookahead`` (bytes of
        messages that wait for their handlers, not in the account yet), ``authorize`` (None, or a callable of path and
        metadata that returns the error which refuses the call), ``read_buffer`` (a bytearray shared by all connections of the loop), ``run(call, request)``, ``status_of(path, error)``,
        ``opened(connection)`` and ``closed(connection)``.
    loop : asyncio event loop
    """

    def __init__(self, service, loop):
        Link.__init__(self, service, loop)
        self._decoder = HeaderDecoder(MAX_HEADER_BLOCK)
        self._rest = bytearray()
        self._headers_block = bytearray()
        self.receive_window = CONNECTION_WINDOW
        self.since = self.idle_since = self.last_activity = loop.time()
        self._control_since = self._rapid_since = self.last_activity

    @property
    def num_calls(self):
        """Return the number of calls that have not ended."""
        return len(self.calls)

    @property
    def is_ready(self):
        """Tell whether the client's preface has arrived."""
        return self._preface == len(_PREFACE)

    # -- asyncio's side ----------------------------------------------------------------------------------------

    def connection_made(self, transport):
        """Greet the client: settings, and a large window for the connection."""
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_AHEAD, low=WRITE_AHEAD // 4)
        settings = (setting(3, MAX_STREAMS) + setting(4, STREAM_WINDOW) + setting(5, MAX_DATA_FRAME)
                    + setting(6, MAX_HEADER_BLOCK))
        transport.write(frame_bytes(SETTINGS, 0, 0, settings)
                        + frame_bytes(WINDOW_UPDATE, 0, 0, uint32_bytes(CONNECTION_WINDOW - DEFAULT_WINDOW)))
        self.service.opened(self)

    def connection_lost(self, error):
        """End every call; the client will never learn of them."""
        self.is_closed = True
        if self.aside is not None:
            self.aside.close()
        for call in list(self.calls.values()):
            (<Call>call).end(True)
        self.calls.clear()
        self.blocked.clear()
        self.out.clear()
        self.transport = None
        self.service.closed(self)

    def eof_received(self):
        """A half-closed connection serves nobody."""
        return False

    def pause_writing(self):
        """Stop handing out bytes until the socket has taken some."""
        self.is_paused = True

    def resume_writing(self):
        """Go on with the calls that wait for the socket."""
        self.is_paused = False
        if self.transport is not None and not self.is_closed:
            if self.aside is None:
                self.transport.resume_reading()
            else:
                self.aside.go_on()
        self._pump_blocked()
        self.flush()

    def get_buffer(self, sizehint):
        """Return where the transport shall read to.

        That is the message itself when much of one is still to come in the frame under way, else the shared buffer, behind
        what is left of the last read. Between two such frames it is only as much of it as the head needs, so that nothing
        of the message passes through the buffer.
        """
        cdef Py_ssize_t room, rest = len(self._rest)
        cdef Call call
        self._direct_call = None
        if self._data_left >= DIRECT_READ and self._padding_left == 0 and rest == 0:
            call = <Call>self.calls.get(self._data_stream)
            if call is not None:
                room = min(call.room(), self._data_left)
                if room >= DIRECT_READ:
                    self._direct_call = call
                    return PyMemoryView_FromMemory(call.position(), room, PyBUF_WRITE)
        if self._reads_head and rest == 0:
            return PyMemoryView_FromObject(self.service.read_buffer)[:HEAD_READ]
        return PyMemoryView_FromObject(self.service.read_buffer)[rest:]

    def buffer_updated(self, Py_ssize_t size):
        """Take `size` new bytes from where `get_buffer` had them read to."""
        cdef bytearray buffer = self.service.read_buffer
        cdef char *data = buffer
        cdef Py_ssize_t rest = len(self._rest)
        if rest:
            memcpy(data, <char *>self._rest, rest)
            self._rest.clear()
        if self.is_closed:
            return
        self.last_activity = self.loop.time()
        self.awaits_ping = False
        self.is_reading = True
        try:
            if self._direct_call is not None:
                self._data_left -= size
                self._direct_call.received(size)
                if self._data_left == 0:
                    self._end_data()
                    self._reads_head = True
                return
            self._reads_head = False
            self._parse(<const unsigned char *>data, rest + size)
        except InvalidArgument as error:
            self._fail(COMPRESSION_ERROR, error.message)
        except ResourceExhausted as error:
            self._fail(ENHANCE_YOUR_CALM, error.message)
        finally:
            self.is_reading = False
            self.flush()

    cdef int feed(self, bytes data) except -1:
        """Take bytes that were read elsewhere, behind everything before; there is no incomplete frame."""
        cdef bytearray buffer = self.service.read_buffer
        cdef Py_ssize_t part, position = 0, size = PyBytes_GET_SIZE(data)
        self._reads_head = False
        while position < size:
            self._direct_call = None
            part = min(size - position, <Py_ssize_t>len(buffer) - <Py_ssize_t>len(self._rest))
            memcpy(<char *>buffer + len(self._rest), PyBytes_AS_STRING(data) + position, part)
            position += part
            self.buffer_updated(part)
        return 0

    # -- frames in ---------------------------------------------------------------------------------------------

    cdef int _parse(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t position = 0, part, length
        cdef int kind
        cdef uint32_t stream
        cdef Call call
        while position < size and not self.is_closed:
            if self._data_left > 0:
                part = min(size - position, self._data_left)
                self._data_left -= part
                if self._data_stream != 0:
                    call = <Call>self.calls.get(self._data_stream)
                    if call is not None:
                        length = part
                        if self._padding_left > 0 and self._data_left < self._padding_left:
                            length = max(0, part - (self._padding_left - self._data_left))
                        call.feed(data + position, length)
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
            stream = uint32_at(data + position + 5) & 0x7FFFFFFF
            if kind == DATA:
                if length > MAX_DATA_FRAME:
                    self._fail(FRAME_SIZE_ERROR, f"DATA frame of {length} bytes; at most {MAX_DATA_FRAME}")
                    return 0
                part = 1 if data[position + 4] & PADDED else 0
                if size - position < FRAME_HEADER + part:
                    break
                self.frames += 1
                self._begin_data(data[position + 4], stream, length, data + position + FRAME_HEADER)
                position += FRAME_HEADER + part
                continue
            if length > MAX_CONTROL_FRAME:
                self._fail(FRAME_SIZE_ERROR, f"frame of type {kind} with {length} bytes; at most {MAX_CONTROL_FRAME}")
                return 0
            if size - position < FRAME_HEADER + length:
                break
            self.frames += 1
            self._frame(kind, data[position + 4], stream, data + position + FRAME_HEADER, length)
            position += FRAME_HEADER + length
        if position < size and not self.is_closed:
            self._rest += data[position:size]
            if self.partial_frame != self.frames + 1:
                self.partial_frame = self.frames + 1
                self.partial_since = self.last_activity
        return 0

    cdef int _begin_data(self, int flags, uint32_t stream, Py_ssize_t size, const unsigned char *data) except -1:
        cdef Call call
        if self._headers_stream:
            return self._fail(PROTOCOL_ERROR, "DATA frame inside a header block")
        if stream == 0 or stream > self._last_stream:
            return self._fail(PROTOCOL_ERROR, f"DATA frame on stream {stream}, which is not open")
        self.receive_window -= size
        if self.receive_window < 0:
            return self._fail(FLOW_CONTROL_ERROR, "more data than the connection's window allows")
        self.unacknowledged += size
        if self.unacknowledged >= CONNECTION_WINDOW // 2:
            self.receive_window += self.unacknowledged
            self.write(frame_bytes(WINDOW_UPDATE, 0, 0, uint32_bytes(self.unacknowledged)))
            self.unacknowledged = 0
        call = <Call>self.calls.get(stream)
        self._data_stream = stream
        self._data_ends = flags & END_STREAM
        self._padding_left = 0
        self._data_left = size
        if call is not None:
            if call.remote_closed:
                self.reset(stream, STREAM_CLOSED)
                self._given_up(call)
            else:
                call.receive_window -= size
                if call.receive_window < 0:
                    self.reset(stream, FLOW_CONTROL_ERROR)
                    self._given_up(call)
        if flags & PADDED:
            if size == 0 or data[0] >= size:
                return self._fail(PROTOCOL_ERROR, "padding longer than its DATA frame")
            self._padding_left = data[0]
            self._data_left = size - 1
            if call is not None and not call.is_done:
                call.consumed(1 + data[0])
        if size == 0 and not self._data_ends:
            self._control()
        if self._data_left == 0:
            self._end_data()
        return 0

    cdef int _end_data(self) except -1:
        cdef Call call
        if self._data_ends:
            call = <Call>self.calls.get(self._data_stream)
            if call is not None:
                call.remote_end()
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
            self.block_since = self.last_activity
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
            return self._window_update(stream, uint32_at(data) & 0x7FFFFFFF)
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
                self.write(frame_bytes(PING, ACK, 0, data[:8]))
            elif self.is_retiring and data[:8] == _RETIRING:
                self.drain()
            return 0
        if kind == RST_STREAM:
            if size != 4:
                return self._fail(FRAME_SIZE_ERROR, f"RST_STREAM of {size} bytes")
            if stream == 0 or stream > self._last_stream:
                return self._fail(PROTOCOL_ERROR, f"RST_STREAM on stream {stream}, which is not open")
            self._control()
            call = <Call>self.calls.get(stream)
            if call is not None:
                self._given_up(call)
            return 0
        if kind == PUSH_PROMISE:
            return self._fail(PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        # PRIORITY has no meaning here, a client's GOAWAY needs no answer, unknown types are to be ignored
        return self._control()

    cdef int _header_block(self, uint32_t stream, const unsigned char *data, Py_ssize_t size, bint ends) except -1:
        """A complete header block: the start of a call, or the (unused) trailers of a request."""
        cdef list fields = self._decoder.decode(data, size)
        cdef Call call = <Call>self.calls.get(stream)
        cdef bytes name, path = None, method = None, content_type = None, timeout = None, encoding = None
        if call is not None:
            if not ends or call.remote_closed:
                self.reset(stream, PROTOCOL_ERROR)
                self._given_up(call)
            else:
                call.remote_end()
            return 0
        if stream <= self._last_stream:
            return self._control()  # trailers of a call that has ended
        self._last_stream = stream
        if self.is_draining or len(self.calls) >= MAX_STREAMS:
            self._control()
            return self.reset(stream, REFUSED_STREAM)
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
            self._control()
            return self.reset(stream, PROTOCOL_ERROR)
        if method != b"POST" or content_type is None or not content_type.startswith(b"application/grpc"):
            status = b"405" if method != b"POST" else b"415"
            self._control()
            self.write(frame_bytes(HEADERS, END_HEADERS | END_STREAM, stream, encode_headers(
                [(b":status", status), (b"content-type", b"text/plain"), (b"grpc-status", b"13"),
                 (b"grpc-message", b"this port speaks gRPC: POST with content-type application/grpc")])))
            if not ends:
                self.reset(stream, NO_ERROR)
            return 0
        if self.peer is not None:
            if self.peer.calls >= self.peer.max_calls:
                return self._refuse(stream, f"{self.peer.name} has {self.peer.calls} calls open here; wait for some to end",
                                    ends)
            if self.whole.calls >= self.whole.max_calls:
                return self._refuse(stream, f"{self.whole.calls} calls are open here (max_open_calls); try again later", ends)
            self.peer.calls += 1
            self.whole.calls += 1
        found = self.service.methods.get(path)
        call = Call(self, stream, <Method>found if found is not None else Method(
            path.decode("latin-1"), False, False, None), fields)
        call.begun = self.last_activity
        self.calls[stream] = call
        if self.service.authorize is not None:
            error = self.service.authorize(call.method.path, call.invocation_metadata())
            if error is not None:
                call.remote_closed = ends
                call.fail(error)
                return 0
        if found is None:
            call.remote_closed = ends
            call.finish(12, self.service.unknown_method)
            return 0
        if call.method.refusal is not None:
            call.remote_closed = ends
            call.fail(call.method.refusal)
            return 0
        if size > SMALL_HEADERS:
            if not self.service.account.fits(size):
                call.remote_closed = ends
                call.fail(self.service.account.refusal(size, "metadata"))
                return 0
            self.service.account.used += size
            call.held += size
        if encoding is not None and encoding != b"identity":
            if encoding not in (b"gzip", b"deflate"):
                call.remote_closed = ends
                call.finish(12, f"grpc-encoding {encoding.decode('latin-1')} is not one of identity, deflate, gzip")
                return 0
            call.encoding = encoding
        if timeout is not None:
            try:
                call.deadline = self.loop.time() + timeout_s(timeout)
                call.timer = self.loop.call_at(call.deadline, call.expire)
            except InvalidArgument as error:
                call.remote_closed = ends
                call.finish(13, error.message)
                return 0
        if call.method.client_streaming:
            call.remote_closed = ends
            call.inbox = deque()
            call.dispatch(None)
        elif ends:
            call.remote_end()
        return 0

    cdef int _settings(self, int flags, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t position = 0
        cdef int identifier
        cdef int64_t value, change, window = self.initial_send_window
        if flags & ACK:
            if size:
                return self._fail(FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            return 0
        if size % 6:
            return self._fail(FRAME_SIZE_ERROR, f"SETTINGS of {size} bytes")
        self._control()
        while position < size:
            identifier = (data[position] << 8) | data[position + 1]
            value = uint32_at(data + position + 2)
            position += 6
            if identifier == 4:
                if value > MAX_WINDOW:
                    return self._fail(FLOW_CONTROL_ERROR, f"initial window {value} above 2**31-1")
                window = value  # the last one counts: each costs a look at every call
            elif identifier == 5:
                if value < 16384 or value > 16777215:
                    return self._fail(PROTOCOL_ERROR, f"maximum frame size {value} outside 16384..16777215")
                self.max_frame = <Py_ssize_t>min(value, <int64_t>MAX_DATA_FRAME)
            elif identifier == 2 and value > 1:
                return self._fail(PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
        change = window - self.initial_send_window
        if change:
            self.initial_send_window = window
            self.control_frames += len(self.calls) >> 5  # they are many, and the frame is short
            for call in self.calls.values():
                (<Call>call).send_window += change
                if change > 0 and (<Call>call).outbox and not (<Call>call).is_blocked:
                    (<Call>call).is_blocked = True
                    self.blocked.append(call)
        self.write(frame_bytes(SETTINGS, ACK, 0, b""))
        self._pump_blocked()
        return 0

    cdef int _window_update(self, uint32_t stream, int64_t increment) except -1:
        cdef Call call
        if stream == 0:
            if increment == 0:
                return self._fail(PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            self.send_window += increment
            if self.send_window > MAX_WINDOW:
                return self._fail(FLOW_CONTROL_ERROR, "the connection's window exceeds 2**31-1")
            return self._pump_blocked()
        if stream > self._last_stream:
            return self._fail(PROTOCOL_ERROR, f"WINDOW_UPDATE on stream {stream}, which is not open")
        call = <Call>self.calls.get(stream)
        if call is None:
            return 0
        call.send_window += increment
        if increment == 0 or call.send_window > MAX_WINDOW:
            self.reset(stream, PROTOCOL_ERROR if increment == 0 else FLOW_CONTROL_ERROR)
            return self._given_up(call)
        return call.pump()

    cdef int _control(self) except -1:
        """Count a frame that costs the client nothing; too many in a short time end the connection."""
        cdef double now
        self.control_frames += 1
        if self.control_frames >= MAX_CONTROL_FRAMES:
            now = self.loop.time()
            if now - self._control_since < CONTROL_PERIOD_S:
                return self._fail(ENHANCE_YOUR_CALM, f"{MAX_CONTROL_FRAMES} control frames within "
                                                     f"{CONTROL_PERIOD_S:.0f} s")
            self.control_frames = 0
            self._control_since = now
        if (self.is_paused and self.transport is not None
                and self.transport.get_write_buffer_size() > MAX_UNSENT):
            # Answers pile up unread; resume_writing() goes on.
            if self.aside is None:
                self.transport.pause_reading()
            else:
                self.aside.hold()
        return 0

    cdef int _given_up(self, Call call) except -1:
        """End a call that the client has reset, or made us reset.

        Work that was begun for it is thrown away, which costs the client next to nothing: too many calls that were given up
        right after their start end the connection. A client that gives up many older calls is left alone.
        """
        cdef double now = self.last_activity
        if self.peer is not None and now - call.begun < RAPID_S:
            if now - self._rapid_since >= CONTROL_PERIOD_S:
                self._rapid_since = now
                self._rapid_resets = 0
            self._rapid_resets += 1
            if self._rapid_resets > MAX_RAPID_RESETS:
                return self._fail(ENHANCE_YOUR_CALM, f"{MAX_RAPID_RESETS} calls given up at once within "
                                                     f"{CONTROL_PERIOD_S:.0f} s")
        return call.end(True)

    cdef int _refuse(self, uint32_t stream, str message, bint ends) except -1:
        """Answer a call with RESOURCE_EXHAUSTED, without a trace of it."""
        self._control()
        self.write(frame_bytes(HEADERS, END_HEADERS | END_STREAM, stream, trailer_block(8, message, None, True)))
        return 0 if ends else self.reset(stream, NO_ERROR)

    # -- frames out --------------------------------------------------------------------------------------------

    cdef int _pump_blocked(self) except -1:
        """Give every call that waits for the connection one turn."""
        cdef Py_ssize_t turns = len(self.blocked)
        cdef Call call
        while turns > 0 and self.blocked and self.send_window > 0 and not self.is_paused:
            turns -= 1
            call = <Call>self.blocked.popleft()
            call.is_blocked = False
            call.pump()
            self.flush()
        return 0

    def pump_soon(self):
        """Go on with calls that gave others their turn."""
        self._pump_blocked()
        self.flush()

    cdef int _fail(self, int code, str message) except -1:
        """End the connection with an error of the connection."""
        if self.is_closed:
            return 0
        self.is_closed = True
        self.service.broken(self, code, message)
        self.write(frame_bytes(GOAWAY, 0, 0, uint32_bytes(self._last_stream) + uint32_bytes(code)
                                 + message.encode()[:512]))
        for call in list(self.calls.values()):
            (<Call>call).end(True)
        if self.transport is not None:
            self.transport.writelines(self.out)
            self.out = []
            self.transport.close()
        return 0

    def drain(self):
        """Take no new calls; close when the last one has ended. Calls that cross this on the wire are refused."""
        if self.is_draining or self.is_closed:
            return
        self.is_draining = True
        self.write(frame_bytes(GOAWAY, 0, 0, uint32_bytes(self._last_stream) + uint32_bytes(NO_ERROR)))
        self.flush()
        if not self.calls:
            self.close()

    def retire(self):
        """Ask the client to call over another connection from now on; end when it has heard of it and the last call has ended."""
        if self.is_retiring or self.is_draining or self.is_closed:
            return
        self.is_retiring = True
        self.write(frame_bytes(GOAWAY, 0, 0, uint32_bytes(MAX_STREAM) + uint32_bytes(NO_ERROR)))
        self.awaits_ping = True
        self.write(frame_bytes(PING, 0, 0, _RETIRING))
        self.flush()

    def check_again(self):
        """End the calls of those who may not make them any more."""
        for call in list(self.calls.values()):
            error = self.service.authorize((<Call>call).method.path, (<Call>call).invocation_metadata())
            if error is not None and (<Call>call).trailers is None:
                (<Call>call).expel(error)
        self.flush()

    def close(self):
        """Close when everything written has left; calls that have not ended are cancelled."""
        if self.is_closed:
            return
        self.is_closed = True
        for call in list(self.calls.values()):
            (<Call>call).end(True)
        self.flush()
        if self.transport is not None:
            self.transport.close()

    def peer_certificate(self):
        """Return the DER form of the certificate that the client showed, or None."""
        tls = self.transport.get_extra_info("ssl_object") if self.transport is not None else None
        return tls.getpeercert(True) if tls is not None else None

    def abort(self):
        """Close at once; what is unsent is lost."""
        self.is_closed = True
        if self.transport is not None:
            self.transport.abort()

    def ping(self):
        """Ask the client for a sign of life; `awaits_ping` holds until any bytes arrive."""
        if not self.is_closed:
            self.awaits_ping = True
            self.write(frame_bytes(PING, 0, 0, b"\0\0\0\0\0\0\0\1"))
            self.flush()
