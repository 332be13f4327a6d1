"""Frames of HTTP/2: their numbers, the limits this server sets, and how they are written."""

from libc.stdint cimport int64_t, uint32_t

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
    # One holds a chunk of 1 MiB with what stands before it.
    MAX_DATA_FRAME = (1 << 20) + (1 << 10)
    MAX_CONTROL_FRAME = 1 << 16
    MAX_HEADER_BLOCK = 1 << 16
    MAX_CONTINUATIONS = 32
    MAX_STREAMS = 1 << 16
    MAX_STREAM = 0x7FFFFFFF
    # A stream may run this far ahead of a handler that reads slowly; a client sends a message of 16 MB in 0.87 of the time
    # that a window of 4 MB takes.
    STREAM_WINDOW = 16 << 20
    # What all streams together may run ahead before it counts as bytes in flight.
    MAX_LOOKAHEAD = 64 << 20
    CONNECTION_WINDOW = 1 << 30
    DEFAULT_WINDOW = 65535
    MAX_WINDOW = 0x7FFFFFFF
    # Control frames without effect that a peer may send within CONTROL_PERIOD_S.
    MAX_CONTROL_FRAMES = 10000
    # Calls that a peer may give up within a second of their start, in CONTROL_PERIOD_S.
    MAX_RAPID_RESETS = 4000
    # Header blocks above this size count as bytes in flight as long as their call lasts.
    SMALL_HEADERS = 1024
    # Above this much unsent, frames that ask for an answer are no longer read.
    MAX_UNSENT = 16 << 20
    # Bytes of one message handed to the transport before other calls get their turn.
    PUMP_BYTES = 4 << 20
    SMALL_ANSWER = 1 << 14
    # What the socket may be behind before no more is handed to it. The bytes are the answers' own, not copies; the bound
    # is for the calls that wait behind a large one.
    WRITE_AHEAD = 4 << 20
    # From this much on, a read goes straight into the message instead of by way of the read buffer.
    DIRECT_READ = 1 << 16
    # What is read behind a frame that was read so: the head of the next one, which is likely to be as long.
    HEAD_READ = 64


cdef inline void put_header(char *out, Py_ssize_t size, int kind, int flags, uint32_t stream) noexcept nogil:
    out[0] = <char>((size >> 16) & 0xFF)
    out[1] = <char>((size >> 8) & 0xFF)
    out[2] = <char>(size & 0xFF)
    out[3] = <char>kind
    out[4] = <char>flags
    out[5] = <char>((stream >> 24) & 0x7F)
    out[6] = <char>((stream >> 16) & 0xFF)
    out[7] = <char>((stream >> 8) & 0xFF)
    out[8] = <char>(stream & 0xFF)


cdef inline uint32_t uint32_at(const unsigned char *data) noexcept nogil:
    return (<uint32_t>data[0] << 24) | (<uint32_t>data[1] << 16) | (<uint32_t>data[2] << 8) | data[3]


cdef bytes frame_bytes(int kind, int flags, uint32_t stream, bytes payload)
cdef bytes uint32_bytes(int64_t value)
cdef bytes setting(int identifier, int64_t value)
cdef bytes trailer_block(int code, str message, object trailing, bint with_headers)
cdef double timeout_s(bytes text) except -1
