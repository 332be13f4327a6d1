"""Values to their places in a file, with the checksum of each: one stretch without the GIL for many of them.

Called by `runtime.objects.arena` in a thread beside the loop, for which each return to the interpreter is a wait.
"""

from libc.errno cimport EINTR, errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport strerror

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer


cdef extern from "crc32c.h" nogil:
    ctypedef uint32_t (*crc32c_fn)(uint32_t crc, const unsigned char *data, size_t size)
    crc32c_fn crc32c_choose()


cdef extern from "unistd.h" nogil:
    ssize_t pwrite(int file, const void *data, size_t size, int64_t offset)


cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    static void trt_begin_writing(int file, int64_t place, int64_t size) {
    #ifdef SYNC_FILE_RANGE_WRITE
        /* Only a hint: whoever syncs waits for less. */
        (void)sync_file_range(file, place, size, SYNC_FILE_RANGE_WRITE);
    #endif
    }
    """
    void trt_begin_writing(int file, int64_t place, int64_t size) nogil


cdef crc32c_fn _crc32c = crc32c_choose()


cdef int _write(int file, const unsigned char *data, Py_ssize_t size, int64_t place) noexcept nogil:
    """Return 0, or the number of the error."""
    cdef ssize_t written
    while size > 0:
        written = pwrite(file, data, size, place)
        if written < 0:
            if errno == EINTR:
                continue
            return errno
        data += written
        place += written
        size -= written
    return 0


def write_values(int file, list values not None, bint are_synced=False):
    """Write values, each to its place.

    Parameters
    ----------
    file : int
        A descriptor.
    values : list of (int, sequence of buffers)
        Where each begins, and its bytes in pieces. Nobody changes them meanwhile.
    are_synced : bool
        Whether somebody else syncs them soon: the disk is set to work on each as soon as it is written.

    Returns
    -------
    list of int
        The CRC-32C of each.

    Raises
    ------
    OSError
        What was written until then stays.

    Notes
    -----
    Releases the GIL.
    """
    cdef Py_ssize_t num_values = len(values), num_pieces = 0, number = 0, index, piece
    cdef Py_buffer *views = NULL
    cdef Py_ssize_t *counts = NULL
    cdef int64_t *places = NULL
    cdef uint32_t *sums = NULL
    cdef int64_t place
    cdef int error = 0
    for _, pieces in values:
        num_pieces += len(pieces)
    try:
        views = <Py_buffer *>calloc(num_pieces + 1, sizeof(Py_buffer))
        counts = <Py_ssize_t *>calloc(num_values + 1, sizeof(Py_ssize_t))
        places = <int64_t *>calloc(num_values + 1, sizeof(int64_t))
        sums = <uint32_t *>calloc(num_values + 1, sizeof(uint32_t))
        if views is NULL or counts is NULL or places is NULL or sums is NULL:
            raise MemoryError
        for index in range(num_values):
            places[index], pieces = values[index]
            for part in pieces:
                if number == num_pieces:
                    raise ValueError("a value got longer while it was looked at")
                PyObject_GetBuffer(part, &views[number], PyBUF_SIMPLE)
                number += 1
                counts[index] += 1
        piece = 0
        with nogil:
            for index in range(num_values):
                place = places[index]
                while counts[index] > 0 and error == 0:
                    sums[index] = _crc32c(sums[index], <const unsigned char *>views[piece].buf, views[piece].len)
                    error = _write(file, <const unsigned char *>views[piece].buf, views[piece].len, place)
                    place += views[piece].len
                    piece += 1
                    counts[index] -= 1
                if error != 0:
                    break
                if are_synced:
                    trt_begin_writing(file, places[index], place - places[index])
        if error != 0:
            raise OSError(error, strerror(error).decode("utf-8", "replace"))
        return [sums[index] for index in range(num_values)]
    finally:
        for index in range(number):
            PyBuffer_Release(&views[index])
        free(views)
        free(counts)
        free(places)
        free(sums)
