"""The fixed hash of a frame's name; see frame_ids.pxd."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cdef uint64_t _SEED = 0xDECAFCAFFE
cdef uint64_t _FACTOR = 0xC6A4A7935BD1E995


cdef uint64_t hash_name(bytes name):
    cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(name)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(name)
    cdef Py_ssize_t whole = size & ~7
    cdef Py_ssize_t i
    cdef uint64_t block
    cdef uint64_t result = _SEED ^ (<uint64_t>size * _FACTOR)
    for i in range(0, whole, 8):
        memcpy(&block, data + i, 8)  # little-endian, as every machine that this is built for
        block *= _FACTOR
        block ^= block >> 47
        block *= _FACTOR
        result ^= block
        result *= _FACTOR
    if size > whole:
        block = 0
        memcpy(&block, data + whole, size - whole)
        result ^= block
        result *= _FACTOR
    result ^= result >> 47
    result *= _FACTOR
    result ^= result >> 47
    return result


def frame_id(path):
    """Return the number of a frame.

    Parameters
    ----------
    path : sequence of (int, bytes)
        From the outermost loop inwards, the iteration of the frame around it and its own name.

    Returns
    -------
    int
        64 bits, unsigned; 0 for an empty path, the frame outside of all loops.
    """
    cdef uint64_t found = 0
    for iteration, name in path:
        found = child_frame_id(found, iteration, hash_name(name))
    return found
