"""Reads and writes the protobuf wire format: varints, tags, lengths, skipping what is not known.

Everything here is inline C without Python objects, for the modules that ``cimport`` it; there is no module to import.
A ``Cursor`` never moves past its ``end``, and a length is compared with what remains before it is used.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum WireStatus:
    WIRE_OK = 0
    WIRE_TRUNCATED = 1    # a field or varint goes on past the end of its message
    WIRE_BAD_VARINT = 2   # more than ten bytes, or a length above 2**31 - 1
    WIRE_BAD_TAG = 3      # field number 0 or above 2**29 - 1, or wire type 6 or 7
    WIRE_BAD_GROUP = 4    # an end-group tag without its start, or with another field number
    WIRE_TOO_DEEP = 5     # groups nested deeper than MAX_GROUP_DEPTH

cdef enum WireType:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2
    WIRE_START_GROUP = 3
    WIRE_END_GROUP = 4
    WIRE_FIXED32 = 5

cdef enum:
    # The depth that protobuf's own parsers allow.
    MAX_GROUP_DEPTH = 100
    # A message is below 2 GiB, and so is every field in it.
    MAX_FIELD_BYTES = 0x7fffffff

cdef struct Cursor:
    const uint8_t* base  # first byte of the whole buffer: offsets in error texts count from here
    const uint8_t* p     # next byte to read
    const uint8_t* end   # one past the last byte of the message at hand

cdef struct Span:
    const uint8_t* p
    int64_t n


cdef inline int read_varint(Cursor* c, uint64_t* out) noexcept nogil:
    cdef const uint8_t* p = c.p
    cdef uint64_t value, byte
    cdef int shift = 7
    if p >= c.end:
        return WIRE_TRUNCATED
    value = p[0]
    p += 1
    if value < 0x80:
        c.p = p
        out[0] = value
        return WIRE_OK
    value &= 0x7f
    while shift < 70:
        if p >= c.end:
            return WIRE_TRUNCATED
        byte = p[0]
        p += 1
        value |= (byte & 0x7f) << shift
        if byte < 0x80:
            c.p = p
            out[0] = value
            return WIRE_OK
        shift += 7
    return WIRE_BAD_VARINT


cdef inline int read_tag(Cursor* c, uint32_t* tag) noexcept nogil:
    """Read a tag; it is ``field number << 3 | wire type`` and has been checked."""
    cdef uint64_t value = 0
    cdef int status
    if c.p < c.end and c.p[0] < 0x80:
        value = c.p[0]
        c.p += 1
    else:
        status = read_varint(c, &value)
        if status:
            return status
    if value < 8 or value > 0xffffffffULL or (value & 7) > 5:
        return WIRE_BAD_TAG
    tag[0] = <uint32_t>value
    return WIRE_OK


cdef inline int read_span(Cursor* c, Span* out) noexcept nogil:
    """Read a length and step over that many bytes."""
    cdef uint64_t n = 0
    cdef int status = read_varint(c, &n)
    if status:
        return status
    if n > MAX_FIELD_BYTES:
        return WIRE_BAD_VARINT
    if n > <uint64_t>(c.end - c.p):
        return WIRE_TRUNCATED
    out.p = c.p
    out.n = <int64_t>n
    c.p += n
    return WIRE_OK


cdef inline int skip_group(Cursor* c, uint32_t opening) noexcept nogil:
    """Step over a group whose start tag has just been read, with every group inside it."""
    cdef uint32_t open_fields[MAX_GROUP_DEPTH]
    cdef int depth = 1
    cdef uint32_t tag = 0
    cdef int status
    open_fields[0] = opening >> 3
    while depth:
        status = read_tag(c, &tag)
        if status:
            return status
        if (tag & 7) == WIRE_START_GROUP:
            if depth == MAX_GROUP_DEPTH:
                return WIRE_TOO_DEEP
            open_fields[depth] = tag >> 3
            depth += 1
        elif (tag & 7) == WIRE_END_GROUP:
            depth -= 1
            if open_fields[depth] != tag >> 3:
                return WIRE_BAD_GROUP
        else:
            status = skip_plain(c, tag)
            if status:
                return status
    return WIRE_OK


cdef inline int skip_plain(Cursor* c, uint32_t tag) noexcept nogil:
    cdef uint64_t ignored = 0
    cdef Span span
    cdef uint32_t wire_type = tag & 7
    if wire_type == WIRE_VARINT:
        return read_varint(c, &ignored)
    if wire_type == WIRE_BYTES:
        return read_span(c, &span)
    cdef int64_t width = 8 if wire_type == WIRE_FIXED64 else 4
    if c.end - c.p < width:
        return WIRE_TRUNCATED
    c.p += width
    return WIRE_OK


cdef inline int skip_field(Cursor* c, uint32_t tag) noexcept nogil:
    """Step over the field whose tag has just been read."""
    if (tag & 7) == WIRE_START_GROUP:
        return skip_group(c, tag)
    if (tag & 7) == WIRE_END_GROUP:
        return WIRE_BAD_GROUP
    return skip_plain(c, tag)


cdef inline int varint_size(uint64_t value) noexcept nogil:
    cdef int size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline uint8_t* put_varint(uint8_t* p, uint64_t value) noexcept nogil:
    while value >= 0x80:
        p[0] = <uint8_t>(value | 0x80)
        p += 1
        value >>= 7
    p[0] = <uint8_t>value
    return p + 1


cdef inline int64_t field_size(int64_t n) noexcept nogil:
    """Bytes of a length-delimited field below number 16 with ``n`` bytes of payload."""
    return 1 + varint_size(<uint64_t>n) + n


cdef inline uint64_t hash_bytes(const uint8_t* p, int64_t n) noexcept nogil:
    """Mix ``n`` bytes into 64 bits, for cache slots only: a hit is always confirmed by comparing the bytes."""
    cdef uint64_t h = 0x9e3779b97f4a7800ULL ^ <uint64_t>n
    cdef uint64_t word
    cdef int64_t i
    while n >= 8:
        word = (<uint64_t>p[0] | <uint64_t>p[1] << 8 | <uint64_t>p[2] << 16 | <uint64_t>p[3] << 24
                | <uint64_t>p[4] << 32 | <uint64_t>p[5] << 40 | <uint64_t>p[6] << 48 | <uint64_t>p[7] << 56)
        h = (h ^ word) * 0xff51afd7ed558ccdULL
        h ^= h >> 32
        p += 8
        n -= 8
    word = 0
    for i in range(n):
        word = word << 8 | p[i]
    h = (h ^ word) * 0xc4ceb9fe1a85ec53ULL
    return h ^ h >> 29
