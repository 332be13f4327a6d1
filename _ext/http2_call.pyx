"""One call: its messages in and out, and the context that a handler gets.

A message is assembled straight into its final bytes object, whose length is counted in the service's account when the
message announces it. An answer leaves as one buffer with its headers and trailers when the windows let it. A method may
have an *immediate* form, a plain function that answers within the read callback; such a call costs neither a task nor a
turn of the loop.

Not safe from several threads: everything happens on the loop that owns the transport.

Source: "gRPC over HTTP2" of the gRPC project.
"""

import zlib
from base64 import b64decode
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from runtime._ext.errors import Cancelled, InvalidArgument, ResourceExhausted
from runtime._ext.hpack cimport encode_headers
from runtime._ext.http2_frames cimport (
    DATA, END_HEADERS, END_STREAM, FRAME_HEADER, HEADERS, INTERNAL_ERROR, MAX_LOOKAHEAD, NO_ERROR, PREFIX, PUMP_BYTES,
    SMALL_ANSWER, STREAM_WINDOW, WINDOW_UPDATE, frame_bytes, put_header, trailer_block, uint32_at, uint32_bytes)
from runtime._ext.http2_link cimport Link
from runtime._ext.message_parts cimport MessageParts

cdef bytes _HEADERS_BLOCK = encode_headers([
    (b":status", b"200"), (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity,deflate,gzip")])
# A client that is refused while it sends its request is told when it has sent it, or after this time. gRPC's own client may
# report a message that it could not send any more in place of the status that it got, and short requests are sent by then.
cdef double REST_S = 0.1
cdef bytes _OK_TRAILERS = encode_headers([(b"grpc-status", b"0")])


cdef Py_ssize_t message_size(object message) except -1:
    """Return the bytes of a message to be sent; a TypeError for what is none."""
    if PyBytes_CheckExact(message):
        return PyBytes_GET_SIZE(<bytes>message)
    if type(message) is not MessageParts:
        raise TypeError(f"a message to send is bytes or MessageParts, not {type(message).__name__}")
    return (<MessageParts>message).size


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
    `time_remaining`, `peer`, `peer_certificate`, `cancelled`, `done`, `add_done_callback`, `set_trailing_metadata` and `abort`.
    """

    def __cinit__(self, Link connection, stream_id, Method method, list fields):
        self.connection = connection
        self.stream_id = stream_id
        self.method = method
        self.fields = fields
        self.inbox = None
        self.send_window = connection.initial_send_window
        self.receive_window = STREAM_WINDOW
        self.outbox = None
        self.trailing = None
        self.encoding = None

    # -- the handler's side ------------------------------------------------------------------------------------

    def invocation_metadata(self):
        """Return the request's metadata as (key, value) pairs; values of ``-bin`` keys are bytes."""
        cdef list result = []
        for name, value in self.fields:
            if name[:1] == b":":
                continue
            key = name.decode("latin-1")
            if name.endswith(b"-bin"):
                for part in value.split(b","):
                    result.append((key, b64decode(part + b"=" * ((4 - len(part) % 4) % 4))))
            else:
                result.append((key, value.decode("latin-1")))
        return tuple(result)

    def time_remaining(self):
        """Return the seconds until the call's deadline, or None when it has none."""
        if self.deadline == 0:
            return None
        return max(0.0, self.deadline - self.connection.loop.time())

    def peer(self):
        """Return the client's address as text."""
        transport = self.connection.transport
        address = transport.get_extra_info("peername") if transport is not None else None
        return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unix:"

    def peer_certificate(self):
        """Return the DER form of the certificate that the client showed, or None."""
        return self.connection.peer_certificate()

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
        elif self.callbacks is None:
            self.callbacks = [callback]
        else:
            self.callbacks.append(callback)

    def set_trailing_metadata(self, metadata):
        """Send these (key, value) pairs with the status."""
        self.trailing = tuple(metadata)

    async def abort(self, code, details="", trailing_metadata=()):
        """End the call with a status; raises `Abort`, which handlers let pass."""
        number = code if isinstance(code, int) else code.value[0]
        if trailing_metadata:
            self.trailing = tuple(trailing_metadata)
        self.finish(number, details)
        raise Abort(details)

    async def receive(self):
        """Return the next message of the request stream, or None after the last.

        The message before counts as done with from now on.
        """
        cdef Py_ssize_t size
        account = self.connection.service.account
        if self.delivered and not self.is_done:
            account.used -= self.delivered
            self.held -= self.delivered
        self.delivered = 0
        while True:
            if self.is_done:
                # Not as if the request had ended here: a handler would take the part for the whole.
                raise Cancelled("the call has ended")
            if self.inbox:
                message, is_counted = self.inbox.popleft()
                size = len(message)
                if not is_counted:
                    self.connection.service.lookahead -= size
                    self.ahead -= size
                    if not account.fits(size):
                        raise account.refusal(size, "a message of the request stream")
                    account.used += size
                    self.held += size
                self.delivered = size
                if self.deferred and len(self.inbox) <= 1:
                    deferred, self.deferred = self.deferred, 0
                    self.consumed(deferred)
                    self.connection.flush()
                return message
            if self.remote_closed:
                return None
            self.receiver = self.connection.loop.create_future()
            try:
                await self.receiver
            finally:
                self.receiver = None

    def take_by(self, taker not None):
        """Have ``taker(message)`` called with each message of the stream as it comes, inside of the read callback.

        It returns whether it has taken the message, and raises nothing. One that it has not taken waits for `receive`, and
        so does all that comes before that is read: the order stays.
        """
        self.taker = taker

    def __aiter__(self):
        return self

    async def __anext__(self):
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def send(self, message not None):
        """Send one message (bytes or `MessageParts`) of the answer stream; returns when it has left, so that a slow reader holds the writer."""
        if self.is_done or self.local_closed:
            raise Cancelled("the call has ended")
        self._queue(message)
        while self.outbox:
            self.sender = self.connection.loop.create_future()
            try:
                await self.sender
            finally:
                self.sender = None
            if self.is_done:
                raise Cancelled("the call has ended")

    def post(self, message not None):
        """Send one message of the answer stream as soon as the client takes it; tell whether it has left already.

        Nothing holds the writer: who is told that a message has not left is to wait with the next one, by `send`.
        """
        if self.is_done or self.local_closed:
            raise Cancelled("the call has ended")
        self._queue(message)
        return not self.outbox

    def _queue(self, message):
        if self.outbox is None:
            self.outbox = deque()
        self.outbox.append(message)
        self.pump()
        self.connection.flush()

    def reply(self, message not None):
        """Send the answer of a unary call, bytes or `MessageParts`, and end it with OK.

        Without effect when the call has ended.
        """
        cdef Link connection = self.connection
        cdef Py_ssize_t size = message_size(message)
        cdef Py_ssize_t headers_size, trailers_size, position, body = size + PREFIX
        cdef bytes trailers, buffer
        cdef char *out
        if self.is_done or self.local_closed:
            return
        trailers = _OK_TRAILERS if self.trailing is None else trailer_block(0, "", self.trailing, False)
        if (self.headers_sent or body > SMALL_ANSWER or not PyBytes_CheckExact(message) or body > connection.send_window or body > self.send_window
                or body > connection.max_frame or connection.is_paused):
            if self.outbox is None:
                self.outbox = deque()
            self.outbox.append(message)
            self.trailers = trailers
            self.pump()
            connection.flush()
            return
        headers_size = PyBytes_GET_SIZE(_HEADERS_BLOCK)
        trailers_size = PyBytes_GET_SIZE(trailers)
        buffer = PyBytes_FromStringAndSize(NULL, 3 * FRAME_HEADER + headers_size + body + trailers_size)
        out = PyBytes_AS_STRING(buffer)
        put_header(out, headers_size, HEADERS, END_HEADERS, self.stream_id)
        memcpy(out + FRAME_HEADER, PyBytes_AS_STRING(_HEADERS_BLOCK), headers_size)
        position = FRAME_HEADER + headers_size
        put_header(out + position, body, DATA, 0, self.stream_id)
        position += FRAME_HEADER
        out[position] = 0
        out[position + 1] = <char>((size >> 24) & 0xFF)
        out[position + 2] = <char>((size >> 16) & 0xFF)
        out[position + 3] = <char>((size >> 8) & 0xFF)
        out[position + 4] = <char>(size & 0xFF)
        position += PREFIX
        memcpy(out + position, PyBytes_AS_STRING(<bytes>message), size)
        position += size
        put_header(out + position, trailers_size, HEADERS, END_HEADERS | END_STREAM, self.stream_id)
        memcpy(out + position + FRAME_HEADER, PyBytes_AS_STRING(trailers), trailers_size)
        connection.send_window -= body
        connection.write(buffer)
        self.local_closed = True
        self.end(False)
        connection.flush()

    def finish(self, int code, str message=""):
        """End the call with a status, behind what is still to be sent. Without effect when it has ended."""
        if self.is_done or self.local_closed or self.trailers is not None:
            return
        if code != 0 and self.outbox:
            self.outbox.clear()  # what was not sent of a failed stream is of no use; a started message is cut
            if self.offset:
                self.connection.reset(self.stream_id, INTERNAL_ERROR)
                self.local_closed = True
                self.end(False)
                self.connection.flush()
                return
        self.trailers = trailer_block(code, message, self.trailing, not self.headers_sent and not self.outbox)
        if (code != 0 and self.method.client_streaming and not self.method.server_streaming
                and not self.remote_closed and not self.is_cancelled):
            self.awaits_end = True
            self.message = None
            self.connection.loop.call_later(REST_S, self.end_rest)
            return
        self.pump()
        self.connection.flush()

    def end_rest(self):
        """Send the status that waits for the rest of the request."""
        if self.awaits_end and not self.is_done:
            self.awaits_end = False
            self.pump()
            self.connection.flush()

    # -- sending -----------------------------------------------------------------------------------------------

    cdef int pump(self) except -1:
        """Write what the windows allow of the outbox, then the trailers."""
        cdef Link connection = self.connection
        cdef Py_ssize_t total, size, least, budget = PUMP_BYTES
        cdef int64_t window
        cdef bytes head
        cdef object message
        cdef char *out
        if self.is_done or self.local_closed or self.awaits_end:
            return 0
        while self.outbox:
            message = self.outbox[0]
            total = message_size(message) + PREFIX
            window = min(connection.send_window, self.send_window)
            least = PREFIX if self.offset == 0 else 1  # a message's prefix is not split over frames
            if window < least or connection.is_paused or budget <= 0:
                if self.send_window >= least and not self.is_blocked:
                    self.is_blocked = True  # by the connection, not by this stream's own window
                    connection.blocked.append(self)
                    if budget <= 0 and not connection.is_paused and connection.send_window >= least:
                        connection.loop.call_soon(connection.pump_soon)
                return 0
            size = min(total - self.offset, connection.max_frame)
            size = <Py_ssize_t>min(<int64_t>size, window)
            if not self.headers_sent:
                self.headers_sent = True
                connection.write(frame_bytes(HEADERS, END_HEADERS, self.stream_id, _HEADERS_BLOCK))
            if self.offset == 0:
                head = PyBytes_FromStringAndSize(NULL, FRAME_HEADER + PREFIX)
                out = PyBytes_AS_STRING(head)
                put_header(out, size, DATA, 0, self.stream_id)
                out[9] = 0
                total -= PREFIX
                out[10] = <char>((total >> 24) & 0xFF)
                out[11] = <char>((total >> 16) & 0xFF)
                out[12] = <char>((total >> 8) & 0xFF)
                out[13] = <char>(total & 0xFF)
                total += PREFIX
                connection.write(head)
                if size > PREFIX:
                    self._write_part(message, 0, size - PREFIX)
            else:
                head = PyBytes_FromStringAndSize(NULL, FRAME_HEADER)
                put_header(PyBytes_AS_STRING(head), size, DATA, 0, self.stream_id)
                connection.write(head)
                self._write_part(message, self.offset - PREFIX, size)
            self.offset += size
            self.send_window -= size
            connection.send_window -= size
            budget -= size
            if self.offset == total:
                self.outbox.popleft()
                self.offset = 0
        if self.trailers is not None:
            connection.write(frame_bytes(HEADERS, END_HEADERS | END_STREAM, self.stream_id, self.trailers))
            self.local_closed = True
            if not self.remote_closed:
                connection.reset(self.stream_id, NO_ERROR)  # the rest of the request is not wanted
            self.end(False)
        elif self.sender is not None and not self.sender.done():
            self.sender.set_result(None)
        return 0

    cdef int _write_part(self, object message, Py_ssize_t start, Py_ssize_t size) except -1:
        """Write some bytes of a message, where they lie."""
        if not PyBytes_CheckExact(message):
            self.connection.out += (<MessageParts>message).cut(start, start + size)
        elif size == PyBytes_GET_SIZE(<bytes>message):
            self.connection.write(message)
        else:
            self.connection.write(PyMemoryView_FromObject(message)[start:start + size])
        return 0

    # -- receiving ---------------------------------------------------------------------------------------------

    cdef int feed(self, const unsigned char *data, Py_ssize_t size) except -1:
        """Take bytes of the request stream."""
        cdef Py_ssize_t part
        cdef Py_ssize_t taken = size
        if self.awaits_end:
            return 0  # of no use; the stream's window bounds how much comes
        while size > 0 and not self.is_done and not self.awaits_end:
            if self.prefix_size < PREFIX:
                part = min(size, PREFIX - self.prefix_size)
                memcpy(self.prefix + self.prefix_size, data, part)
                self.prefix_size += part
                data += part
                size -= part
                if self.prefix_size == PREFIX:
                    self._begin_message()
                    if self.message_total == 0 and not self.is_done and not self.awaits_end:
                        self._end_message()
                continue
            part = min(size, self.message_total - self.message_size)
            memcpy(PyBytes_AS_STRING(self.message) + self.message_size, data, part)
            self.message_size += part
            data += part
            size -= part
            if self.message_size == self.message_total:
                self._end_message()
        if not self.is_done and not self.awaits_end:
            self._account_for(taken)
        return 0

    cdef int _account_for(self, Py_ssize_t size) except -1:
        """Give bytes back to the sender's window, unless the handler is behind: then when it asks for more."""
        if self.inbox is not None and len(self.inbox) > 1:
            self.deferred += size
        else:
            self.consumed(size)
        return 0

    cdef Py_ssize_t room(self) noexcept:
        """Return how many bytes of the message under assembly are still to come; 0 when none is."""
        if self.is_done or self.awaits_end or self.message is None or self.prefix_size < PREFIX:
            return 0
        return self.message_total - self.message_size

    cdef char *position(self) noexcept:
        """Return where the next byte of the message belongs; there is `room` there."""
        return PyBytes_AS_STRING(self.message) + self.message_size

    cdef int received(self, Py_ssize_t size) except -1:
        """Take bytes that were read to `position`."""
        self.message_size += size
        if self.message_size == self.message_total:
            self._end_message()
        if not self.is_done:
            self._account_for(size)
        return 0

    cdef int _begin_message(self) except -1:
        account = self.connection.service.account
        self.is_compressed = self.prefix[0] & 1
        self.message_total = uint32_at(self.prefix + 1)
        self.message_size = 0
        if self.prefix[0] > 1:
            self.finish(13, f"{self.method.path}: message with flags {self.prefix[0]}; only 0 and 1 are defined")
            return 0
        if not self.method.client_streaming and self.inbox:
            self.finish(13, f"{self.method.path}: more than one request message in a unary call")
            return 0
        # What a stream runs ahead of its handler is bounded by its window, and counts when the handler takes it.
        self.is_counted = (not self.method.client_streaming or self.message_total > STREAM_WINDOW
                            or self.connection.service.lookahead + self.message_total > MAX_LOOKAHEAD)
        if self.is_counted:
            if not account.fits(self.message_total):
                self.fail(account.refusal(self.message_total, "a message of the request stream"
                                           if self.method.client_streaming else "a request"))
                return 0
            account.used += self.message_total
            self.held += self.message_total
        else:
            self.connection.service.lookahead += self.message_total
            self.ahead += self.message_total
        try:
            self.message = PyBytes_FromStringAndSize(NULL, self.message_total)
        except MemoryError:
            self.fail(ResourceExhausted(f"{self.method.path}: no memory for a message of {self.message_total} bytes"))
        return 0

    cdef int _end_message(self) except -1:
        cdef bytes message = self.message
        self.message = None
        self.prefix_size = 0
        if self.is_compressed:
            try:
                message = self._decompressed(message)
            except Exception as error:
                self.fail(error)
                return 0
        return self.deliver(message)

    cdef int deliver(self, bytes message) except -1:
        """Hand over a message that is complete and counted."""
        cdef Py_ssize_t size
        if self.taker is not None and not self.inbox and self.taker(message):
            if not self.is_done:  # else `end` has let go of it
                size = PyBytes_GET_SIZE(message)
                if self.is_counted:
                    self.connection.service.account.used -= size
                    self.held -= size
                else:
                    self.connection.service.lookahead -= size
                    self.ahead -= size
            return 0
        if self.inbox is None:
            self.inbox = deque()
        self.inbox.append((message, self.is_counted) if self.method.client_streaming else message)
        if self.receiver is not None and not self.receiver.done():
            self.receiver.set_result(None)
        return 0

    def _decompressed(self, bytes message):
        """Return a compressed message's bytes; what they unfold to is counted like any other message."""
        account = self.connection.service.account
        if self.encoding == b"gzip":
            decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
        elif self.encoding == b"deflate":
            decoder = zlib.decompressobj()
        else:
            raise InvalidArgument(f"{self.method.path}: a compressed message without a grpc-encoding")
        room = account.limit - account.used
        try:
            result = decoder.decompress(message, max(1, room))
        except zlib.error as error:
            raise InvalidArgument(f"{self.method.path}: the message is no valid {self.encoding.decode()}: {error}")
        if decoder.unconsumed_tail:
            raise account.refusal(len(result) + 1, "a compressed request")
        if self.is_counted:
            account.used += len(result) - self.message_total
            self.held += len(result) - self.message_total
        else:
            self.connection.service.lookahead += len(result) - self.message_total
            self.ahead += len(result) - self.message_total
        return result

    cdef int consumed(self, Py_ssize_t size) except -1:
        """Give bytes back to the sender's window of this stream, in large portions."""
        self.unacknowledged += size
        if self.unacknowledged >= STREAM_WINDOW // 2 and not self.remote_closed:
            self.receive_window += self.unacknowledged
            self.connection.write(frame_bytes(WINDOW_UPDATE, 0, self.stream_id,
                                                 uint32_bytes(self.unacknowledged)))
            self.unacknowledged = 0
        return 0

    cdef int remote_end(self) except -1:
        """The client has sent everything."""
        cdef bint is_partial
        if self.remote_closed:
            return 0
        self.remote_closed = True
        if self.awaits_end:
            self.end_rest()
            return 0
        is_partial = self.prefix_size != 0
        if is_partial:
            self.finish(13, f"{self.method.path}: the request stream ended inside a message "
                            f"({self.message_size} of {self.message_total} bytes)")
            return 0
        if self.receiver is not None and not self.receiver.done():
            self.receiver.set_result(None)
        if not self.method.client_streaming and not self.is_dispatched:
            if not self.inbox:
                self.finish(13, f"{self.method.path}: the call ended without a request message")
                return 0
            self.dispatch(self.inbox.popleft())
        return 0

    cdef int dispatch(self, object request) except -1:
        """Run the method: in place when it has an immediate form that answers, else by the service."""
        cdef Link connection = self.connection
        self.is_dispatched = True
        connection.control_frames = 0
        service = connection.service
        service.account.num_calls += 1
        if self.method.immediate is not None:
            try:
                answer = self.method.immediate(request, self)
            except Exception as error:
                self.fail(error)
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

    def expel(self, error):
        """End the call with the status of an exception, and its handler with it."""
        if not self.is_done:
            self.is_cancelled = True
            task = self.task
            self.fail(error)
            if task is not None:
                task.cancel()

    def fail(self, error):
        """End the call with the status that belongs to an exception."""
        code, message, trailing = self.connection.service.status_of(self.method.path, error)
        if trailing:
            self.trailing = trailing
        self.finish(code, message)

    cdef int end(self, bint cancelled) except -1:
        """Forget the call; everything it held is released."""
        cdef Link connection = self.connection
        if self.is_done:
            return 0
        self.is_done = True
        if cancelled:
            self.is_cancelled = True
        connection.calls.pop(self.stream_id, None)
        if connection.peer is not None:
            connection.peer.calls -= 1
            connection.whole.calls -= 1
        connection.service.account.used -= self.held
        connection.service.lookahead -= self.ahead
        self.held = 0
        self.ahead = 0
        self.message = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.taker = None
        for future in (self.receiver, self.sender):
            if future is not None and not future.done():
                future.set_result(None)
        if cancelled:
            self.outbox = None
            task, self.task = self.task, None
            if task is not None:
                task.cancel()
        callbacks, self.callbacks = self.callbacks, None
        if callbacks is not None:
            for callback in callbacks:
                try:
                    callback(self)
                except Exception as error:
                    connection.loop.call_exception_handler({
                        "message": "a done callback of a call failed", "exception": error})
        if connection.is_draining and not connection.calls:
            connection.loop.call_soon(connection.close)
        return 0
