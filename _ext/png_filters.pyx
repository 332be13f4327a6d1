"""Undo the filters of PNG rows: each byte was stored as its difference from what its neighbours foretell.

Bytes depend on those before them, so that whole arrays do not help; the loop releases the GIL.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport abs as c_abs


cdef inline uint8_t _paeth(int left, int above, int corner) noexcept nogil:
    """Return whichever neighbour is nearest to left + above - corner."""
    cdef int to_left = c_abs(above - corner)
    cdef int to_above = c_abs(left - corner)
    cdef int to_corner = c_abs(left + above - 2 * corner)
    if to_left <= to_above and to_left <= to_corner:
        return left
    return above if to_above <= to_corner else corner


cdef int _undo(int filter, uint8_t *row, const uint8_t *above, Py_ssize_t size, Py_ssize_t step) noexcept nogil:
    """Undo one row in place; `above` is the row over it, all zero for the first. Returns 0 for an unknown filter."""
    cdef Py_ssize_t i
    if filter == 0:
        return 1
    if filter == 1:
        for i in range(step, size):
            row[i] = <uint8_t>(row[i] + row[i - step])
    elif filter == 2:
        for i in range(size):
            row[i] = <uint8_t>(row[i] + above[i])
    elif filter == 3:
        for i in range(min(step, size)):
            row[i] = <uint8_t>(row[i] + above[i] // 2)
        for i in range(step, size):
            row[i] = <uint8_t>(row[i] + (row[i - step] + above[i]) // 2)
    elif filter == 4:
        for i in range(min(step, size)):
            row[i] = <uint8_t>(row[i] + above[i])
        for i in range(step, size):
            row[i] = <uint8_t>(row[i] + _paeth(row[i - step], above[i], above[i - step]))
    else:
        return 0
    return 1


def unfilter(const uint8_t[::1] data not None, Py_ssize_t rows, Py_ssize_t row_bytes, Py_ssize_t pixel_bytes):
    """Return rows as they were before they were filtered.

    Parameters
    ----------
    data : buffer
        ``rows`` times one byte for the filter and `row_bytes` bytes.
    pixel_bytes : int
        Distance to the byte of the pixel on the left; at least 1.

    Returns
    -------
    bytearray
        ``rows * row_bytes`` bytes.

    Raises
    ------
    ValueError
        If there is not enough data, or a row names an unknown filter.
    """
    cdef Py_ssize_t i, j, bad = -1
    if rows < 0 or row_bytes < 0 or pixel_bytes < 1 or (rows and data.shape[0] // rows < row_bytes + 1):
        raise ValueError(f"{data.shape[0]} bytes do not hold {rows} rows of {row_bytes} bytes and their filters")
    result = bytearray(rows * row_bytes)
    if not rows or not row_bytes:
        return result
    nothing = bytearray(row_bytes)
    cdef uint8_t[::1] out = result
    cdef uint8_t[::1] zeros = nothing
    cdef const uint8_t *source
    cdef uint8_t *row
    with nogil:
        for i in range(rows):
            source = &data[i * (row_bytes + 1)]
            row = &out[i * row_bytes]
            for j in range(row_bytes):
                row[j] = source[j + 1]
            if not _undo(source[0], row, &out[(i - 1) * row_bytes] if i else &zeros[0], row_bytes, pixel_bytes):
                bad = i
                break
    if bad >= 0:
        raise ValueError(f"row {bad} names the unknown filter {data[bad * (row_bytes + 1)]}")
    return result
