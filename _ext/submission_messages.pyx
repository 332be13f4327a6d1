"""Messages of runtime.v1.Submissions, the usual ones, read and written at once.

As in `runtime._ext.task_messages`: readers return None for whatever is not usual, be it broken or not, and protobuf has
the last word; writers write what protobuf would, byte for byte.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from runtime._ext.wirescan cimport (
    WIRE_BYTES, WIRE_VARINT, Cursor, Span, field_size, put_varint, read_span, read_tag, read_varint, varint_size)

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    # The most bytes that a message may have.
    MAX_BYTES = 0x7fffffff

cdef const char *COMPLETED = "COMPLETED"
cdef enum:
    COMPLETED_SIZE = 9


cdef inline Cursor _cursor(const uint8_t *p, int64_t n) noexcept nogil:
    cdef Cursor c
    c.base = c.p = p
    c.end = p + n
    return c


cdef inline uint8_t *_put(uint8_t *p, uint32_t number, const void *data, int64_t n) noexcept:
    """Write a field with a length."""
    p[0] = <uint8_t>(number << 3 | WIRE_BYTES)
    p = put_varint(p + 1, <uint64_t>n)
    memcpy(p, data, n)
    return p + n


cdef inline int64_t _number_size(uint64_t value) noexcept:
    return 1 + varint_size(value) if value else 0


cdef inline uint8_t *_put_number(uint8_t *p, uint32_t number, uint64_t value) noexcept:
    """Write a varint, unless it is 0."""
    if not value:
        return p
    p[0] = <uint8_t>(number << 3 | WIRE_VARINT)
    return put_varint(p + 1, value)


def submission_bytes(uint64_t number, bytes request not None, bint tells_results, uint32_t inline_bytes):
    """Return a ``Submission``."""
    cdef int64_t n = PyBytes_GET_SIZE(request)
    cdef int64_t size = _number_size(number) + _number_size(tells_results) + _number_size(inline_bytes)
    if n:
        size += field_size(n)
    if size > MAX_BYTES:
        raise ValueError(f"a message of {size} bytes; it may have {MAX_BYTES}")
    cdef bytes message = PyBytes_FromStringAndSize(NULL, size)
    cdef uint8_t *p = <uint8_t *>PyBytes_AS_STRING(message)
    p = _put_number(p, 1, number)
    if n:
        p = _put(p, 2, PyBytes_AS_STRING(request), n)
    p = _put_number(p, 3, tells_results)
    _put_number(p, 4, inline_bytes)
    return message


def plain_submission(bytes data not None):
    """Return number, request, ``tells_results`` and ``inline_bytes`` of a ``Submission``, or None."""
    cdef Cursor c = _cursor(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    cdef uint32_t tag = 0
    cdef uint64_t number = 0, tells = 0, inline_bytes = 0
    cdef Span request
    request.p = NULL
    request.n = 0
    while c.p < c.end:
        if read_tag(&c, &tag):
            return None
        if tag == (1 << 3 | WIRE_VARINT):
            if read_varint(&c, &number):
                return None
        elif tag == (2 << 3 | WIRE_BYTES):
            if read_span(&c, &request):
                return None
        elif tag == (3 << 3 | WIRE_VARINT):
            if read_varint(&c, &tells) or tells > 1:
                return None
        elif tag == (4 << 3 | WIRE_VARINT):
            if read_varint(&c, &inline_bytes) or inline_bytes > 0xffffffff:
                return None
        else:
            return None
    return number, PyBytes_FromStringAndSize(<const char *>request.p, request.n), tells == 1, inline_bytes


def news_bytes(list answers not None, list results not None):
    """Return a ``SubmissionNews`` of tasks that were made, and of results that are there.

    Parameters
    ----------
    answers : list of int
        Numbers of submissions.
    results : list of tuple of (int, str, bytes)
        Number, key and value of each.
    """
    cdef int64_t size = 0, inner, nested
    cdef uint64_t number
    cdef Py_ssize_t n_key = 0
    cdef Py_ssize_t n_value
    cdef const char *key
    cdef bytes value, message
    cdef uint8_t *p
    for number in answers:
        size += field_size(_number_size(number))
    for item in results:
        number = item[0]
        nested = _collected_size(item[1], item[2])
        size += field_size(_number_size(number) + field_size(nested))
    if size > MAX_BYTES:
        raise ValueError(f"a message of {size} bytes; it may have {MAX_BYTES}")
    message = PyBytes_FromStringAndSize(NULL, size)
    p = <uint8_t *>PyBytes_AS_STRING(message)
    for number in answers:
        p[0] = 1 << 3 | WIRE_BYTES
        p = put_varint(p + 1, _number_size(number))
        p = _put_number(p, 1, number)
    for item in results:
        number = item[0]
        value = item[2]
        key = PyUnicode_AsUTF8AndSize(item[1], &n_key)
        n_value = PyBytes_GET_SIZE(value)
        nested = _collected_size(item[1], value)
        inner = _number_size(number) + field_size(nested)
        p[0] = 2 << 3 | WIRE_BYTES
        p = put_varint(p + 1, inner)
        p = _put_number(p, 1, number)
        p[0] = 2 << 3 | WIRE_BYTES
        p = put_varint(p + 1, nested)
        if n_key:
            p = _put(p, 1, key, n_key)
        p = _put(p, 2, COMPLETED, COMPLETED_SIZE)
        p = _put_number(p, 3, n_value)
        p = _put(p, 4, PyBytes_AS_STRING(value), n_value)  # optional: there, even if it is empty
    return message


cdef int64_t _collected_size(str key, bytes value) except -1:
    cdef Py_ssize_t n_key = 0
    cdef Py_ssize_t n_value = PyBytes_GET_SIZE(value)
    PyUnicode_AsUTF8AndSize(key, &n_key)
    cdef int64_t size = field_size(COMPLETED_SIZE) + _number_size(n_value) + field_size(n_value)
    return size + field_size(n_key) if n_key else size


def plain_news(bytes data not None):
    """Return answers and results of a ``SubmissionNews`` as `news_bytes` has them, or None."""
    cdef Cursor c = _cursor(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    cdef Cursor inner
    cdef uint32_t tag = 0
    cdef uint32_t kind
    cdef uint64_t number
    cdef Span field
    cdef Span collected
    cdef list answers = []
    cdef list results = []
    while c.p < c.end:
        if read_tag(&c, &tag) or (tag & 7) != WIRE_BYTES or read_span(&c, &field):
            return None
        kind = tag >> 3
        if kind != 1 and kind != 2:
            return None
        inner = _cursor(field.p, field.n)
        number = 0
        collected.p = NULL
        while inner.p < inner.end:
            if read_tag(&inner, &tag):
                return None
            if tag == (1 << 3 | WIRE_VARINT):
                if read_varint(&inner, &number):
                    return None
            elif kind == 2 and tag == (2 << 3 | WIRE_BYTES) and collected.p == NULL:
                if read_span(&inner, &collected):
                    return None
            else:
                return None
        if kind == 1:
            answers.append(number)
            continue
        result = None if collected.p == NULL else _result(number, collected)
        if result is None:
            return None
        results.append(result)
    return answers, results


cdef object _result(uint64_t number, Span span):
    """Return number, key and value of a result that is there with its value, or None."""
    cdef Cursor c = _cursor(span.p, span.n)
    cdef uint32_t tag = 0
    cdef uint64_t num_bytes = 0
    cdef Span key
    cdef Span status
    cdef Span value
    key.p = status.p = value.p = NULL
    key.n = status.n = value.n = 0
    while c.p < c.end:
        if read_tag(&c, &tag):
            return None
        if tag == (1 << 3 | WIRE_BYTES):
            if read_span(&c, &key):
                return None
        elif tag == (2 << 3 | WIRE_BYTES):
            if read_span(&c, &status):
                return None
        elif tag == (3 << 3 | WIRE_VARINT):
            if read_varint(&c, &num_bytes):
                return None
        elif tag == (4 << 3 | WIRE_BYTES):
            if read_span(&c, &value):
                return None
        else:
            return None
    if value.p == NULL or status.n != COMPLETED_SIZE or memcmp(status.p, COMPLETED, COMPLETED_SIZE):
        return None
    try:
        text = PyUnicode_DecodeUTF8(<const char *>key.p, key.n, NULL)
    except UnicodeDecodeError:
        return None
    return number, text, PyBytes_FromStringAndSize(<const char *>value.p, value.n)
