"""Messages of one call sent and received by other threads, beside the loop that has the connection.

A thread that hands a message to the loop, or waits until the loop hands it one, wakes another thread each time. That
takes more than everything else there is to do with a small message. So a thread may send one by itself when nothing
else is on its way, and may read in place of the loop while it waits for something.

The loop stays the owner. At any moment one side reads: the loop, or one thread; what that thread has no use for goes to
the loop, with all that comes behind it. And what is done here to the connection's state is done in one go, without any
Python code in between at which the interpreter could turn to another thread; the loop's side leaves something in
``out``, or has ``is_reading`` set, wherever that may happen to it.
"""

import os
import types

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close, dup, read, write

from runtime._ext.http2 cimport Connection
from runtime._ext.http2_call cimport Call
from runtime._ext.http2_client cimport ClientConnection
from runtime._ext.http2_frames cimport (
    CONNECTION_WINDOW, DATA, FRAME_HEADER, PREFIX, STREAM_WINDOW, put_header, uint32_at)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int POLLIN
    int ppoll(pollfd *fds, unsigned long n, const timespec *timeout, const void *mask)

cdef extern from "<sys/epoll.h>" nogil:
    struct epoll_event:
        uint32_t events
    int EPOLLIN
    int EPOLL_CLOEXEC
    int EPOLL_CTL_ADD
    int EPOLL_CTL_DEL
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC
    int EFD_NONBLOCK
    int eventfd(unsigned int value, int flags)

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)

cdef enum:
    # What a thread sends by itself, with its frame, and what it reads at a time.
    MAX_SENT = 16 << 10
    READ_BYTES = 64 << 10
    # Reads of the loop in a row, before others have their turn.
    MAX_READS = 16

cdef enum Reader:
    LOOP
    THREAD
    # What a thread has read is on its way to the loop.
    NOBODY


cdef double _now() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


def begin_aside(Call call not None):
    """Return the `Aside` of a call, or None where there can be none; on the loop, which reads by way of it from now on.

    There is none with TLS, with a transport written in Python - another thread could find it between two of its
    steps -, and beside another one of the connection.
    """
    cdef Connection connection
    if call.is_done or not isinstance(call.connection, Connection):
        return None
    connection = <Connection>call.connection
    transport = connection.transport
    if transport is None or connection.is_closed or connection.aside is not None:
        return None
    if transport.get_extra_info("ssl_object") is not None or transport.get_extra_info("sslcontext") is not None:
        return None
    if isinstance(getattr(type(transport), "get_write_buffer_size", None), types.FunctionType):
        return None
    opened = transport.get_extra_info("socket")
    return None if opened is None else Aside(call, opened.fileno())


@cython.final
cdef class Aside:
    """One call beside the loop; made by `begin_aside`. It ends with the call, or with the connection."""

    cdef Call _call
    cdef Connection _connection
    cdef object _loop
    cdef int _fd       # a duplicate: what the transport closes may be another file by the time that a thread uses it
    cdef int _epoll    # what the loop watches in place of the socket: threads may change what it is about
    cdef int _event    # wakes the thread that reads
    cdef Reader _reader
    cdef bint _is_held
    cdef bint _is_closed
    cdef bint _has_ended  # there is nothing more to read, with this error number or 0
    cdef int _failure

    def __cinit__(self):
        self._fd = self._epoll = self._event = -1

    def __init__(self, Call call not None, int fd):
        cdef Connection connection = <Connection>call.connection
        self._call = call
        self._connection = connection
        self._loop = connection.loop
        self._fd = dup(fd)
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        self._event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self._fd < 0 or self._epoll < 0 or self._event < 0:
            raise OSError(errno, os.strerror(errno))
        os.set_inheritable(self._fd, False)
        self._watch(EPOLL_CTL_ADD)
        connection.transport.pause_reading()
        self._loop.add_reader(self._epoll, self._readable)
        connection.aside = self
        call.add_done_callback(self._call_ended)

    def __dealloc__(self):
        self._close_files()

    # -- any thread --------------------------------------------------------------------------------------------

    def post(self, bytes message not None):
        """Send a message if nothing else of the connection waits to be sent; tell whether that was done.

        Where it was not, nothing has happened, and the loop is to send it. From any thread.
        """
        cdef Call call = self._call
        cdef Connection connection = self._connection
        cdef char frame[FRAME_HEADER + PREFIX + MAX_SENT]
        cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
        cdef Py_ssize_t body = size + PREFIX, sent
        cdef bytes rest
        if size > MAX_SENT or self._is_closed or connection.transport is None:
            return False
        if connection.transport.get_write_buffer_size() != 0:
            return False
        if (connection.is_closed or connection.is_paused or connection.is_reading or connection.out or connection.blocked
                or call.is_done or call.local_closed or call.trailers is not None or call.outbox or not call.headers_sent
                or body > connection.send_window or body > call.send_window or body > connection.max_frame):
            return False
        put_header(frame, body, DATA, 0, call.stream_id)
        frame[9] = 0
        frame[10] = <char>((size >> 24) & 0xFF)
        frame[11] = <char>((size >> 16) & 0xFF)
        frame[12] = <char>((size >> 8) & 0xFF)
        frame[13] = <char>(size & 0xFF)
        memcpy(frame + FRAME_HEADER + PREFIX, PyBytes_AS_STRING(message), size)
        sent = send(self._fd, frame, FRAME_HEADER + body, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent <= 0:
            return False  # the loop finds out why
        connection.send_window -= body
        call.send_window -= body
        if sent < FRAME_HEADER + body:
            # Nobody else sends anything as long as this is in ``out``.
            rest = PyBytes_FromStringAndSize(frame + sent, FRAME_HEADER + body - sent)
            connection.out.append(rest)
            self._soon(connection.pump_soon)
        return True

    def read(self, done not None, taker not None, double timeout_s):
        """Read in the calling thread, if the loop can do without, until something has come.

        Parameters
        ----------
        done : callable
            Without arguments; tells whether it has come.
        taker : callable
            As of `Call.take_by`, here for this thread. A message that it has not taken, because it returns False or raises,
            goes to the loop with all behind it.
        timeout_s : float

        Returns
        -------
        bool
            Whether ``done()`` was true. If not, the time is over, or the loop reads, or another thread.
        """
        cdef double deadline = _now() + timeout_s
        cdef list messages = []
        cdef bytes rest = b""
        if not self._take():
            return bool(done())
        try:
            while not done():
                if not self._wait(deadline):
                    return False
                rest = self._receive(messages)
                while messages:
                    if not taker(messages[0]):
                        return bool(done())
                    del messages[0]
                if rest or self._has_ended:
                    return bool(done())
            return True
        finally:
            if messages or rest or self._has_ended:
                self._reader = NOBODY
                self._soon(self._handed_over, messages, rest)
            else:
                self._give_back()

    def wake(self):
        """Have the thread that reads stop it, if there is one. From any thread."""
        cdef uint64_t one = 1
        if self._event >= 0 and self._reader == THREAD:
            write(self._event, &one, sizeof(one))

    cdef bint _take(self) except -1:
        """Read from now on, unless the loop has to."""
        cdef Call call = self._call
        cdef Connection connection = self._connection
        if (self._reader != LOOP or self._is_closed or self._is_held or connection.is_closed or connection.is_reading
                or connection._data_left or connection._headers_stream or len(connection._rest) or connection._preface < 24
                or call.is_done or call.remote_closed or call.prefix_size or call.inbox):
            return False
        self._reader = THREAD
        self._watch(EPOLL_CTL_DEL)
        return True

    cdef int _give_back(self) except -1:
        if self._is_closed:
            self._reader = NOBODY
            self._close_files()
            self._soon(self._finish)
        else:
            self._reader = LOOP
            self._watch(EPOLL_CTL_ADD)
        return 0

    cdef bint _wait(self, double deadline) except -1:
        """Wait until there is something to read; False when the time is over, or the thread is to stop."""
        cdef pollfd files[2]
        cdef timespec left
        cdef double seconds
        cdef uint64_t count
        cdef int found, code
        files[0].fd, files[1].fd = self._fd, self._event
        files[0].events = files[1].events = <short>POLLIN
        while True:
            seconds = max(0.0, min(deadline - _now(), 1e6))
            left.tv_sec = <int64_t>seconds
            left.tv_nsec = <int64_t>((seconds - <double>left.tv_sec) * 1e9)
            files[0].revents = files[1].revents = 0
            with nogil:
                found = ppoll(files, 2, &left, NULL)
                code = errno
            if found < 0:
                if code != EINTR:
                    raise OSError(code, os.strerror(code))
                PyErr_CheckSignals()
                continue
            if files[1].revents:
                read(self._event, &count, sizeof(count))
                return False
            return found > 0

    cdef bytes _receive(self, list messages):
        """Read once, and append whole messages of the call; return what stands behind them."""
        cdef unsigned char data[READ_BYTES]
        cdef Call call = self._call
        cdef Connection connection = self._connection
        cdef Py_ssize_t position = 0, length, size = recv(self._fd, data, READ_BYTES, MSG_DONTWAIT)
        if size <= 0:
            if size == 0 or (errno != EAGAIN and errno != EINTR):
                self._has_ended = True
                self._failure = errno if size else 0
            return b""
        connection.last_activity = _now()
        connection.awaits_ping = False
        while size - position >= FRAME_HEADER + PREFIX and not call.is_done:
            length = ((<Py_ssize_t>data[position] << 16) | (<Py_ssize_t>data[position + 1] << 8) | data[position + 2])
            if (data[position + 3] != DATA or data[position + 4] != 0
                    or (uint32_at(data + position + 5) & 0x7FFFFFFF) != call.stream_id
                    or size - position < FRAME_HEADER + length or call.deferred
                    or length > connection.receive_window or length > call.receive_window
                    or connection.unacknowledged + length >= CONNECTION_WINDOW // 2
                    or call.unacknowledged + length >= STREAM_WINDOW // 2
                    or not _add_messages(data + position + FRAME_HEADER, length, messages)):
                break
            connection.frames += 1
            connection.receive_window -= length
            connection.unacknowledged += length
            call.receive_window -= length
            call.unacknowledged += length
            position += FRAME_HEADER + length
        return PyBytes_FromStringAndSize(<const char *>data + position, size - position)

    cdef int _watch(self, int operation) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        if epoll_ctl(self._epoll, operation, self._fd, &event) < 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    def _soon(self, function, *arguments):
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed, and with it everything here
            self._is_closed = True
            self._close_files()

    # -- the loop ----------------------------------------------------------------------------------------------

    def hold(self):
        """Read nothing until `go_on`."""
        if not self._is_held and not self._is_closed:
            self._is_held = True
            self._loop.remove_reader(self._epoll)

    def go_on(self):
        """Read again."""
        if self._is_held and not self._is_closed:
            self._is_held = False
            self._loop.add_reader(self._epoll, self._readable)

    def close(self):
        """Have the transport read again; a thread that reads is woken first."""
        cdef uint64_t one = 1
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._epoll)
        if self._reader == THREAD:
            write(self._event, &one, sizeof(one))  # it closes the files
            return
        self._close_files()
        if self._reader == LOOP:
            self._finish()

    def _call_ended(self, call):
        self.close()

    def _finish(self):
        cdef Connection connection = self._connection
        if connection.aside is self:
            connection.aside = None
            if connection.transport is not None and not connection.is_closed:
                connection.transport.resume_reading()
        self._close_files()

    def _close_files(self):
        fds = (self._fd, self._epoll, self._event)
        self._fd = self._epoll = self._event = -1
        for fd in fds:
            if fd >= 0:
                close(fd)

    def _handed_over(self, list messages, bytes rest):
        """Go on with what a thread has read."""
        cdef Connection connection = self._connection
        cdef Call call = self._call
        if not connection.is_closed and connection.transport is not None:
            connection.is_reading = True
            try:
                for message in messages:
                    if not call.is_done:
                        self._deliver(<bytes>message)
            finally:
                connection.is_reading = False
                connection.flush()
            if rest:
                connection.feed(rest)
        if self._has_ended:
            self._broken()
        if self._is_closed:
            self._finish()
        else:
            self._reader = LOOP
            self._watch(EPOLL_CTL_ADD)

    cdef int _deliver(self, bytes message) except -1:
        cdef Call call = self._call
        # What `deliver` lets go of is counted as if the message had come by `Call.feed`.
        call.is_counted = False
        call.connection.service.lookahead += PyBytes_GET_SIZE(message)
        call.ahead += PyBytes_GET_SIZE(message)
        return call.deliver(message)

    def _broken(self):
        """Have the transport find that the other side has gone."""
        if self._failure and isinstance(self._connection, ClientConnection):
            if (<ClientConnection>self._connection).lost_reason is None:
                error = OSError(self._failure, os.strerror(self._failure))
                (<ClientConnection>self._connection).lost_reason = f"Socket closed: {error}"
        self.close()

    def _readable(self):
        cdef Py_buffer view
        cdef Py_ssize_t size
        cdef int reads, code
        for reads in range(MAX_READS):
            place = self._connection.get_buffer(-1)
            PyObject_GetBuffer(place, &view, PyBUF_WRITABLE)
            if self._reader != LOOP or self._is_closed or self._is_held:
                PyBuffer_Release(&view)
                return
            size = recv(self._fd, view.buf, view.len, MSG_DONTWAIT)
            code = errno
            length = view.len
            PyBuffer_Release(&view)
            if size > 0:
                self._connection.buffer_updated(size)
                if size < length:
                    return
            elif size < 0 and (code == EAGAIN or code == EINTR):
                return
            else:
                self._failure = code if size else 0
                self._broken()
                return


cdef bint _add_messages(const unsigned char *data, Py_ssize_t size, list messages) except -1:
    """Append the messages of a frame; tell whether it has nothing but whole ones."""
    cdef Py_ssize_t position = 0, length
    while position < size:
        if size - position < PREFIX or data[position] != 0:
            return False
        length = uint32_at(data + position + 1)
        if size - position - PREFIX < length:
            return False
        position += PREFIX + length
    position = 0
    while position < size:
        length = uint32_at(data + position + 1)
        messages.append(PyBytes_FromStringAndSize(<const char *>data + position + PREFIX, length))
        position += PREFIX + length
    return True
