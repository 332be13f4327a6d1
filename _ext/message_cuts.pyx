"""Long fields of a message, found where they lie: so that whoever parses the rest need not copy them.

Called with messages of many tasks, whose payloads are most of their bytes.
"""

from libc.stdint cimport uint8_t, uint32_t

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from runtime._ext.wirescan cimport (
    WIRE_BYTES, WIRE_OK, Cursor, Span, put_varint, read_span, read_tag, skip_field)


def cut_fields(bytes message not None, uint32_t outer, uint32_t inner, Py_ssize_t least):
    """Take a bytes field out of each of a message's repeated submessages, where it is long.

    Parameters
    ----------
    message : bytes
    outer, inner : int
        Numbers of the repeated field of submessages, and of the field in them.
    least : int
        Fields of fewer bytes stay.

    Returns
    -------
    rest : bytes
        The message without what was taken out.
    places : list of (int, int) or None
        For each submessage where the field begins and ends in ``message``; None where it stayed in ``rest``, or is
        missing. Empty, and ``rest`` the message itself, when it is malformed: who parses it says how.
    """
    cdef Cursor at, within
    cdef Span span
    cdef uint32_t tag = 0, field = 0
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(message)
    cdef const uint8_t *start
    cdef const uint8_t *inside
    cdef const uint8_t *first
    cdef const uint8_t *copied = base
    cdef const uint8_t *cut_from
    cdef const uint8_t *cut_to
    cdef uint8_t head[16]  # a tag of at most five bytes, and a length of ten
    cdef uint8_t *after
    cdef list places = [], parts = []
    at.base = at.p = base
    at.end = base + PyBytes_GET_SIZE(message)
    while at.p < at.end:
        start = at.p
        if read_tag(&at, &tag) != WIRE_OK:
            return message, []
        if tag != (outer << 3 | WIRE_BYTES):
            if skip_field(&at, tag) != WIRE_OK:
                return message, []
            continue
        if read_span(&at, &span) != WIRE_OK:
            return message, []
        within.base = base
        within.p = inside = span.p
        within.end = span.p + span.n
        cut_from = cut_to = NULL
        place = None
        while within.p < within.end:
            first = within.p
            if read_tag(&within, &field) != WIRE_OK:
                return message, []
            if field != (inner << 3 | WIRE_BYTES):
                if skip_field(&within, field) != WIRE_OK:
                    return message, []
                continue
            if cut_from is not NULL:
                # Written twice, of which the last counts; nobody does so, and protobuf knows how.
                return message, []
            if read_span(&within, &span) != WIRE_OK:
                return message, []
            if span.n >= least:
                place = (span.p - base, span.p - base + span.n)
                cut_from = first
                cut_to = within.p
        places.append(place)
        if cut_from is NULL:
            continue
        if copied < start:
            parts.append(PyBytes_FromStringAndSize(<const char *>copied, start - copied))
        after = put_varint(head, tag)
        after = put_varint(after, (within.end - inside) - (cut_to - cut_from))
        parts.append(PyBytes_FromStringAndSize(<char *>head, after - head))
        parts.append(PyBytes_FromStringAndSize(<const char *>inside, cut_from - inside))
        copied = cut_to
    if not parts:
        return message, places
    parts.append(PyBytes_FromStringAndSize(<const char *>copied, at.end - copied))
    return b"".join(parts), places
