"""The other two hashes by which strings are put into buckets: the first one there was, and SipHash with a key.

Callers are the string ops. The functions are fixed for ever: models store what follows from them.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE

import numpy as np

cnp.import_array()

cdef uint64_t MULTIPLIER = 0xC6A4A7935BD1E995
cdef uint64_t SEED = 0xDECAFCAFFE


cdef inline uint64_t _load(const char *text, uint64_t size) noexcept nogil:
    """Return up to eight bytes as a little-endian number."""
    cdef uint64_t value = 0
    memcpy(&value, text, size)
    return value


cdef uint64_t _murmur(const char *text, uint64_t size) noexcept nogil:
    """MurmurHash64A (Appleby) with a seed that never changed."""
    cdef uint64_t h = SEED ^ (size * MULTIPLIER)
    cdef uint64_t k
    while size >= 8:
        k = _load(text, 8) * MULTIPLIER
        k = (k ^ (k >> 47)) * MULTIPLIER
        h = (h ^ k) * MULTIPLIER
        text += 8
        size -= 8
    if size:
        h = (h ^ _load(text, size)) * MULTIPLIER
    h = (h ^ (h >> 47)) * MULTIPLIER
    return h ^ (h >> 47)


cdef inline uint64_t _rotate(uint64_t value, int bits) noexcept nogil:
    return (value << bits) | (value >> (64 - bits))


cdef inline void _round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = _rotate(v[1], 13) ^ v[0]
    v[0] = _rotate(v[0], 32)
    v[2] += v[3]
    v[3] = _rotate(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = _rotate(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = _rotate(v[1], 17) ^ v[2]
    v[2] = _rotate(v[2], 32)


cdef uint64_t _siphash(const char *text, uint64_t size, uint64_t k0, uint64_t k1) noexcept nogil:
    """SipHash-2-4 (Aumasson and Bernstein, 2012)."""
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef uint64_t last = size << 56
    cdef int turn
    v[0] = k0 ^ <uint64_t>0x736F6D6570736575
    v[1] = k1 ^ <uint64_t>0x646F72616E646F6D
    v[2] = k0 ^ <uint64_t>0x6C7967656E657261
    v[3] = k1 ^ <uint64_t>0x7465646279746573
    while size >= 8:
        word = _load(text, 8)
        v[3] ^= word
        _round(v)
        _round(v)
        v[0] ^= word
        text += 8
        size -= 8
    last |= _load(text, size)
    v[3] ^= last
    _round(v)
    _round(v)
    v[0] ^= last
    v[2] ^= 0xFF
    for turn in range(4):
        _round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef object _buckets(object array, uint64_t num_buckets, bint keyed, uint64_t k0, uint64_t k1):
    cdef Py_ssize_t index
    cdef object item
    cdef uint64_t hashed
    if num_buckets == 0:
        raise ValueError("num_buckets must be above 0")
    flat = array.reshape(-1)
    result = np.empty(flat.shape[0], np.int64)
    cdef cnp.int64_t[::1] out = result
    for index in range(flat.shape[0]):
        item = flat[index]
        if not PyBytes_Check(item):
            raise TypeError(f"element {index} is a {type(item).__name__}, not bytes")
        if keyed:
            hashed = _siphash(PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item), k0, k1)
        else:
            hashed = _murmur(PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
        out[index] = <cnp.int64_t>(hashed % num_buckets)
    return result.reshape(array.shape)


def murmur_buckets(array, uint64_t num_buckets):
    """Return the bucket of every string of an object array, int64 of the same shape.

    Raises
    ------
    TypeError
        If an element is not bytes.
    ValueError
        If there is no bucket.
    """
    return _buckets(array, num_buckets, False, 0, 0)


def siphash_buckets(array, uint64_t num_buckets, uint64_t k0, uint64_t k1):
    """Return the same by SipHash-2-4 with a key of two words."""
    return _buckets(array, num_buckets, True, k0, k1)
