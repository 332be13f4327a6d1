"""The 64-bit fingerprint of FarmHash, by which strings are put into buckets.

Callers are the string ops. The function is fixed for ever: models store what follows from it.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE

import numpy as np

cnp.import_array()

# The multipliers of the published function: primes between 2**63 and 2**64.
cdef uint64_t K0 = 0xC3A5C85C97CB3127
cdef uint64_t K1 = 0xB492B66FBE98F273
cdef uint64_t K2 = 0x9AE16A3B2F90404F

cdef struct Pair:
    uint64_t first
    uint64_t second


cdef inline uint64_t _load64(const char *text) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, text, 8)
    return value


cdef inline uint64_t _load32(const char *text) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, text, 4)
    return value


cdef inline uint64_t _rotate(uint64_t value, int bits) noexcept nogil:
    return (value >> bits) | (value << (64 - bits))


cdef inline uint64_t _shift_mix(uint64_t value) noexcept nogil:
    return value ^ (value >> 47)


cdef inline uint64_t _mix(uint64_t u, uint64_t v, uint64_t factor) noexcept nogil:
    cdef uint64_t a = _shift_mix((u ^ v) * factor)
    return _shift_mix((v ^ a) * factor) * factor


cdef uint64_t _up_to_16(const char *text, uint64_t size) noexcept nogil:
    cdef uint64_t factor = K2 + size * 2
    cdef uint64_t a, b
    if size >= 8:
        a = _load64(text) + K2
        b = _load64(text + size - 8)
        return _mix(_rotate(b, 37) * factor + a, (_rotate(a, 25) + b) * factor, factor)
    if size >= 4:
        return _mix(size + (_load32(text) << 3), _load32(text + size - 4), factor)
    if size > 0:
        a = <unsigned char>text[0] + (<uint64_t>(<unsigned char>text[size >> 1]) << 8)
        b = size + (<uint64_t>(<unsigned char>text[size - 1]) << 2)
        return _shift_mix((a * K2) ^ (b * K0)) * K2
    return K2


cdef uint64_t _up_to_64(const char *text, uint64_t size) noexcept nogil:
    cdef uint64_t factor = K2 + size * 2
    cdef uint64_t first = _load64(text) * (K1 if size <= 32 else K2)
    cdef uint64_t second = _load64(text + 8)
    cdef uint64_t last = _load64(text + size - 8) * factor
    cdef uint64_t y = _rotate(first + second, 43) + _rotate(last, 30) + _load64(text + size - 16) * K2
    cdef uint64_t z = _mix(y, first + _rotate(second + K2, 18) + last, factor)
    cdef uint64_t e, f, g, h
    if size <= 32:
        return z
    e = _load64(text + 16) * factor
    f = _load64(text + 24)
    g = (y + _load64(text + size - 32)) * factor
    h = (z + _load64(text + size - 24)) * factor
    return _mix(_rotate(e + f, 43) + _rotate(g, 30) + h, e + _rotate(f + first, 18) + g, factor)


cdef Pair _weak(const char *text, uint64_t a, uint64_t b) noexcept nogil:
    """Fold 32 bytes into two seeds."""
    cdef Pair result
    cdef uint64_t start
    cdef uint64_t last = _load64(text + 24)
    a += _load64(text)
    b = _rotate(b + a + last, 21)
    start = a
    a += _load64(text + 8) + _load64(text + 16)
    b += _rotate(a, 44)
    result.first = a + last
    result.second = b + start
    return result


cdef uint64_t _fingerprint(const char *text, uint64_t size) noexcept nogil:
    if size <= 16:
        return _up_to_16(text, size)
    if size <= 64:
        return _up_to_64(text, size)
    cdef uint64_t y = <uint64_t>81 * K1 + 113
    cdef uint64_t z = _shift_mix(y * K2 + 113) * K2
    cdef uint64_t x = <uint64_t>81 * K2 + _load64(text)
    cdef Pair v, w
    cdef const char *tail = text + size - 64
    cdef uint64_t rest = (size - 1) & 63
    cdef const char *end = text + (size - 1 - rest)
    cdef uint64_t factor
    v.first = v.second = w.first = w.second = 0
    while text != end:
        x = _rotate(x + y + v.first + _load64(text + 8), 37) * K1
        y = _rotate(y + v.second + _load64(text + 48), 42) * K1
        x ^= w.second
        y += v.first + _load64(text + 40)
        z = _rotate(z + w.first, 33) * K1
        v = _weak(text, v.second * K1, x + w.first)
        w = _weak(text + 32, z + w.second, y + _load64(text + 16))
        x, z = z, x
        text += 64
    # The last 64 bytes, which may overlap what was read before.
    factor = K1 + ((z & 0xFF) << 1)
    w.first += rest
    v.first += w.first
    w.first += v.first
    x = _rotate(x + y + v.first + _load64(tail + 8), 37) * factor
    y = _rotate(y + v.second + _load64(tail + 48), 42) * factor
    x ^= w.second * 9
    y += v.first * 9 + _load64(tail + 40)
    z = _rotate(z + w.first, 33) * factor
    v = _weak(tail, v.second * factor, x + w.first)
    w = _weak(tail + 32, z + w.second, y + _load64(tail + 16))
    x, z = z, x
    return _mix(_mix(v.first, w.first, factor) + _shift_mix(y) * K0 + z, _mix(v.second, w.second, factor) + x, factor)


def fingerprint64(bytes text not None):
    """Return the fingerprint of a string as an unsigned 64-bit integer.

    Source: FarmHash, ``Fingerprint64``; the same on every machine (bytes are read as little-endian).
    """
    return _fingerprint(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


def fingerprint_buckets(array, uint64_t num_buckets):
    """Return ``fingerprint64(item) % num_buckets`` of every string of an object array.

    Parameters
    ----------
    array : ndarray of object
        Elements are bytes; any shape.
    num_buckets : int
        Above 0.

    Returns
    -------
    ndarray of int64
        Of the same shape.

    Raises
    ------
    TypeError
        If an element is not bytes.
    """
    cdef Py_ssize_t index
    cdef object item
    if num_buckets == 0:
        raise ValueError("num_buckets must be above 0")
    flat = array.reshape(-1)
    result = np.empty(flat.shape[0], np.int64)
    cdef cnp.int64_t[::1] buckets = result
    for index in range(flat.shape[0]):
        item = flat[index]
        if not PyBytes_Check(item):
            raise TypeError(f"element {index} is a {type(item).__name__}, not bytes")
        buckets[index] = <cnp.int64_t>(
            _fingerprint(PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item)) % num_buckets
        )
    return result.reshape(array.shape)


def fingerprints(array):
    """Return ``fingerprint64(item)`` of every string of an object array, as uint64 of the same shape.

    Raises
    ------
    TypeError
        If an element is not bytes.
    """
    cdef Py_ssize_t index
    cdef object item
    flat = array.reshape(-1)
    result = np.empty(flat.shape[0], np.uint64)
    cdef uint64_t[::1] out = result
    for index in range(flat.shape[0]):
        item = flat[index]
        if not PyBytes_Check(item):
            raise TypeError(f"element {index} is a {type(item).__name__}, not bytes")
        out[index] = _fingerprint(PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
    return result.reshape(array.shape)
