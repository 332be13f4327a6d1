"""The writing half of a connection.

`Link` is the base of `runtime._ext.http2.Connection`, and all that a `runtime._ext.http2_call.Call` knows of it: its windows,
its socket, and the calls beside it.
"""

from collections import deque

from runtime._ext.http2_frames cimport DEFAULT_WINDOW, RST_STREAM, frame_bytes, uint32_bytes


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
        if len(out) == 1:
            self.transport.write(out[0])
        else:
            self.transport.writelines(out)
        self.out = []
        return 0

    cdef int reset(self, uint32_t stream, int code) except -1:
        self.write(frame_bytes(RST_STREAM, 0, stream, uint32_bytes(code)))
        return 0

    def pump_soon(self):
        """Go on with calls that gave others their turn; the connection knows how."""
        raise NotImplementedError
