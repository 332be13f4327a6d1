"""CRC-32C of buffers, and the mask that checkpoints and record files put over it."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer


cdef extern from "crc32c.h" nogil:
    ctypedef uint32_t (*crc32c_fn)(uint32_t crc, const unsigned char *data, size_t size)
    crc32c_fn crc32c_choose()
    uint32_t crc32c_by_tables(uint32_t crc, const unsigned char *data, size_t size)

cdef crc32c_fn chosen = crc32c_choose()

cdef enum:
    MASK_DELTA = 0xA282EAD8
    WITHOUT_GIL = 4096  # bytes from which releasing the GIL is worth it


cdef uint32_t _extend(crc32c_fn function, uint32_t crc, data) except? 0:
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len >= WITHOUT_GIL:
            with nogil:
                crc = function(crc, <const unsigned char *>view.buf, view.len)
        else:
            crc = function(crc, <const unsigned char *>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return crc


def crc32c(data, uint32_t start=0):
    """Return the CRC-32C of a contiguous buffer, continued from the one of what stands before it."""
    return _extend(chosen, start, data)


def crc32c_portable(data, uint32_t start=0):
    """Return the same without the processor's instruction; for tests."""
    return _extend(crc32c_by_tables, start, data)


def mask(uint32_t crc):
    """Return a checksum in the form in which it is stored: rotated and offset, for it is itself summed up again."""
    return <uint32_t>(((crc >> 15) | (crc << 17)) + <uint32_t>MASK_DELTA)


def unmask(uint32_t masked):
    """Undo `mask`."""
    cdef uint32_t rotated = masked - <uint32_t>MASK_DELTA
    return <uint32_t>((rotated >> 17) | (rotated << 15))
