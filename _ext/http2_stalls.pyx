"""What a client leaves unfinished: greetings, frames, header blocks, messages under way, answers that it does not take.

The service looks at every connection from time to time. Time is counted in looks where a client is to move on by itself:
while the process stands still, nobody is late.
"""

from runtime._ext.errors import DeadlineExceeded
from runtime._ext.http2 cimport Connection
from runtime._ext.http2_call cimport Call
from runtime._ext.http2_frames cimport ENHANCE_YOUR_CALM

cdef enum:
    PREFACE_BYTES = 24
    # What has to move of a message within the looks that it gets, unless it ends: half a kilobyte a second, as set by
    # default. A byte now and then would keep a message of a gigabyte under way for ever.
    LEAST_BYTES = 1 << 16
    NOTHING = 0
    REQUEST = 1
    ANSWER = 2


def look(Connection connection, double now, double greet_s, int looks, int stream_looks):
    """Look at a connection, and end those of its calls whose messages do not move.

    Parameters
    ----------
    connection : Connection
        A server's.
    now : float
        The loop's time.
    greet_s : float
        Seconds from the connection to its greeting, and from the first to the last byte of a frame or header block.
    looks : int
        At so many looks in a row a message under way may stand still; a request that did not begin is one.
    stream_looks : int
        The same for messages of an answer stream, whose reader may have stopped to think.

    Returns
    -------
    str or None
        Why the connection is to be cut.
    """
    cdef int side
    cdef Py_ssize_t unsent
    if connection.is_closed or connection.transport is None:
        return None
    late = _late(connection, now, greet_s)
    if late is None:
        connection.late_looks = 0
    else:
        connection.late_looks += 1
        if connection.late_looks > 1:  # what came while the process stood still has been read by now
            if connection._preface < PREFACE_BYTES:
                return late
            connection._fail(ENHANCE_YOUR_CALM, late)
    if connection._preface < PREFACE_BYTES or connection.is_closed:
        return None
    if connection._data_left > 0 and not connection.is_paused:
        if connection.frames == connection.seen_frame and connection.seen_left - connection._data_left < LEAST_BYTES:
            connection.data_looks += 1
            if connection.data_looks > looks:
                connection._fail(ENHANCE_YOUR_CALM, "a DATA frame that does not go on")
                return None
        else:
            connection.seen_frame = connection.frames
            connection.seen_left = connection._data_left
            connection.data_looks = 0
    if connection.is_paused:
        unsent = connection.transport.get_write_buffer_size()
        if connection.seen_unsent and connection.seen_unsent - unsent < LEAST_BYTES:
            connection.unsent_looks += 1
            if connection.unsent_looks > looks:
                return f"{unsent} bytes that the client does not take"
        else:
            connection.seen_unsent = unsent
            connection.unsent_looks = 0
    else:
        connection.seen_unsent = 0
    if connection.calls or connection._last_stream != connection.seen_stream:
        connection.seen_stream = connection._last_stream
        connection.idle_since = now
        for call in list(connection.calls.values()):
            side = _stalled(<Call>call, looks, stream_looks)
            if side:
                _end(<Call>call, side)
        connection.flush()
    return None


cdef str _late(Connection connection, double now, double greet_s):
    """Return what of a connection should be complete by now and is not."""
    if connection._preface < PREFACE_BYTES:
        return f"no greeting within {greet_s:g} s" if now - connection.since > greet_s else None
    if connection._headers_stream and now - connection.block_since > greet_s:
        return f"a header block that does not end within {greet_s:g} s"
    if connection._rest and now - connection.partial_since > greet_s:
        return f"a frame that does not end within {greet_s:g} s"
    return None


cdef int _stalled(Call call, int looks, int stream_looks) except -1:
    """Return which of a call's messages has stood still for too long."""
    cdef int side = NOTHING, most = looks
    cdef Py_ssize_t place = 0, moved
    if call.is_done:
        return NOTHING
    if call.outbox:
        if not call.connection.is_paused:  # else it is the connection that stands still
            side = ANSWER
            place = call.offset
            if call.method.server_streaming:
                most = stream_looks
    elif not call.remote_closed and call.deferred == 0 and call.receive_window > 0:
        if call.prefix_size or not call.method.client_streaming:
            side = REQUEST
            place = call.prefix_size + call.message_size
    moved = place - call.seen_place
    if side != NOTHING and side == call.seen_side and 0 <= moved < LEAST_BYTES:
        call.seen_looks += 1
        return side if call.seen_looks > most else NOTHING
    call.seen_side = side
    call.seen_place = place
    call.seen_looks = 0
    return NOTHING


cdef int _end(Call call, int side) except -1:
    if side == REQUEST:
        call.expel(DeadlineExceeded(f"{call.method.path}: the request does not go on: {call.message_size} of "
                                    f"{call.message_total} bytes are here"))
        return 0
    # Nothing can be said behind an answer that is not taken.
    task = call.task
    call.connection.reset(call.stream_id, ENHANCE_YOUR_CALM)
    call.end(True)
    if task is not None:
        task.cancel()
    return 0
