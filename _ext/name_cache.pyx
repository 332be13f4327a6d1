"""A bounded cache from the UTF-8 bytes of a name on the wire to the one ``str`` that stands for it.

The same few names (endpoints, session handles, rendezvous keys) arrive with every step. A hit costs a hash and a
comparison, and gives a string whose own hash is already known to the dictionaries it is looked up in. Each name has one
slot, which a newcomer takes over, so the cache never holds more than ``NUM_SLOTS`` names of ``MAX_CACHED_BYTES``.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

from runtime._ext.wirefault cimport field_label
from runtime._ext.wirescan cimport Span, hash_bytes

from runtime._ext.errors import InvalidArgument

cdef extern from "Python.h":
    void incref "Py_INCREF"(PyObject* ref) noexcept
    void xdecref "Py_XDECREF"(PyObject* ref) noexcept
    const char* utf8_of "PyUnicode_AsUTF8AndSize"(PyObject* text, Py_ssize_t* size) except NULL
    object decode_utf8 "PyUnicode_DecodeUTF8"(const char* p, Py_ssize_t n, const char* errors)

cdef enum:
    NUM_SLOTS = 4096
    # Longer names are rare, and this bounds the cache at about 2 MiB.
    MAX_CACHED_BYTES = 256

# One owned reference per slot; the lock of the interpreter guards them.
cdef PyObject* _slots[NUM_SLOTS]


cdef object _decode(Span span, const uint8_t* base, str message, int field):
    try:
        return decode_utf8(<const char*>span.p, span.n, NULL)
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"{field_label(message, field)} at byte {span.p - base} is not UTF-8 at its byte {error.start}: "
            f"{(<bytes>span.p[:min(span.n, 80)])!r}") from None


cdef object cached_name(Span span, const uint8_t* base, str message, int field):
    """Return the string whose UTF-8 form is ``span``; errors name ``field`` of ``message``."""
    cdef PyObject** slot
    cdef PyObject* old
    cdef const char* text
    cdef Py_ssize_t size = 0
    if span.n == 0:
        return ""
    if span.n > MAX_CACHED_BYTES:
        return _decode(span, base, message, field)
    slot = &_slots[hash_bytes(span.p, span.n) % NUM_SLOTS]
    if slot[0] != NULL:
        text = utf8_of(slot[0], &size)
        if size == span.n and memcmp(text, span.p, size) == 0:
            return <object>slot[0]
    name = _decode(span, base, message, field)
    incref(<PyObject*>name)
    old = slot[0]
    slot[0] = <PyObject*>name
    xdecref(old)
    return name
