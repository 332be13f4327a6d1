"""The writing half of a connection.

`Link` is the base of `runtime._ext.http2.Connection`, and all that a `runtime._ext.http2_call.Call` knows of it: its windows,
its socket, and the calls beside it.
"""

from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from runtime._ext.http2_frames cimport DEFAULT_WINDOW, RST_STREAM, frame_bytes, uint32_bytes

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    ssize_t send(int fd, const void *data, size_t size, int flags)

cdef enum:
    # Up to here what is written in a turn is sent in one piece.
    SMALL_BYTES = 4 << 10


cdef class Tally:
    """How much one peer, or all of them, have open.

    Parameters
    ----------
    name : str
        Whose it is.
    max_calls : int
        Calls that may be open at once; those beyond are refused.
    """

    def __init__(self, str name, long max_calls):
        self.name = name
        self.max_calls = max_calls


cdef class Link:
    """What all calls of a connection write through.

    Parameters
    ----------
    service : object
        See `runtime._ext.http2.Connection`.
    loop : asyncio event loop
    """

    def __init__(self, service, loop):
        self.service = service
        self.loop = loop
        self.calls = {}
        self.blocked = deque()
        self.out = []
        self.send_window = DEFAULT_WINDOW
        self.initial_send_window = DEFAULT_WINDOW
        self.max_frame = 16384
        self._fd = -2

    cdef int write(self, object buffer) except -1:
        self.out.append(buffer)
        return 0

    cdef int flush(self) except -1:
        """Hand what was written in this turn to the transport, as one write where that is possible."""
        cdef list out = self.out
        if self.is_reading or not out:
            return 0
        if self.transport is None:
            out.clear()
            return 0
        if self._fd != -1 and self._send_small(out):
            self.out = []
            return 0
        if len(out) == 1:
            self.transport.write(out[0])
        else:
            self.transport.writelines(out)
        self.out = []
        return 0

    cdef int _find_file(self) except -1:
        transport = self.transport
        self._fd = -1
        if transport.get_extra_info("ssl_object") is None and transport.get_extra_info("sslcontext") is None:
            opened = transport.get_extra_info("socket")
            if opened is not None:
                self._fd = opened.fileno()
        return 0

    cdef bint _send_small(self, list out) except -1:
        """Send what is little without the interpreter's lock; tell whether it has left. The rest is in ``out``.

        To wake whoever waits for it takes far longer than to send it, and he may have this processor at once: the transport
        would keep other threads waiting for the lock meanwhile.
        """
        cdef char data[SMALL_BYTES]
        cdef Py_ssize_t size = 0, part, sent
        for buffer in out:
            if not PyBytes_CheckExact(buffer):
                return False
            part = PyBytes_GET_SIZE(buffer)
            if size + part > SMALL_BYTES:
                return False
            memcpy(data + size, PyBytes_AS_STRING(buffer), part)
            size += part
        if self._fd == -2:
            self._find_file()
        if self._fd < 0 or self.transport.get_write_buffer_size() != 0 or self.transport.is_closing():
            return False
        with nogil:
            sent = send(self._fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent >= size:
            return True
        if sent > 0:
            out[:] = [PyBytes_FromStringAndSize(data + sent, size - sent)]
        return False  # the transport waits until it can, or finds out why it cannot

    cdef int reset(self, uint32_t stream, int code) except -1:
        self.write(frame_bytes(RST_STREAM, 0, stream, uint32_bytes(code)))
        return 0

    def pump_soon(self):
        """Go on with calls that gave others their turn; the connection knows how."""
        raise NotImplementedError
