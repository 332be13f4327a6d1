# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Levenshtein distances of many pairs of sequences, for the op EditDistance.

The loop works without the GIL, and ends early once the calling thread's step is cancelled.
"""

import numpy as np

from libc.stdint cimport int64_t

from runtime._ext.running_step cimport stop_flag


cdef int64_t _distance(const int64_t *a, int64_t n, const int64_t *b, int64_t m, int64_t *row,
                       const int *stop) noexcept nogil:
    """Fill one row after another of the table; `row` has room for m + 1 numbers."""
    cdef int64_t i, j, diagonal, above, best
    for j in range(m + 1):
        row[j] = j
    for i in range(1, n + 1):
        if stop != NULL and stop[0]:
            break
        diagonal = row[0]
        row[0] = i
        for j in range(1, m + 1):
            above = row[j]
            best = diagonal if a[i - 1] == b[j - 1] else diagonal + 1
            if above + 1 < best:
                best = above + 1
            if row[j - 1] + 1 < best:
                best = row[j - 1] + 1
            diagonal = above
            row[j] = best
    return row[m]


def edit_distances(const int64_t[::1] a, const int64_t[::1] a_lengths, const int64_t[::1] b,
                   const int64_t[::1] b_lengths):
    """Return the number of insertions, deletions and replacements between the sequences of each pair.

    Parameters
    ----------
    a, b : int64
        The first sequences of all pairs one after another, and the second ones.
    a_lengths, b_lengths : int64 (pairs,)
        Their lengths.

    Returns
    -------
    int64 (pairs,)

    Raises
    ------
    ValueError
        If the lengths do not add up to the sequences.
    """
    cdef Py_ssize_t pairs = a_lengths.shape[0], pair
    cdef int64_t a_start = 0, b_start = 0, longest = 0, a_total = 0, b_total = 0
    if b_lengths.shape[0] != pairs:
        raise ValueError(f"{pairs} and {b_lengths.shape[0]} lengths make no pairs")
    for pair in range(pairs):
        if a_lengths[pair] < 0 or b_lengths[pair] < 0:
            raise ValueError(f"the lengths of pair {pair} must not be negative")
        a_total += a_lengths[pair]
        b_total += b_lengths[pair]
        longest = max(longest, b_lengths[pair])
    if a_total != a.shape[0] or b_total != b.shape[0]:
        raise ValueError(f"lengths add up to {a_total} and {b_total}, the sequences have {a.shape[0]} and {b.shape[0]}")
    cdef int64_t[::1] row = np.empty(longest + 1, np.int64)
    result = np.empty(pairs, np.int64)
    cdef int64_t[::1] out = result
    cdef const int *stop = stop_flag()
    with nogil:
        for pair in range(pairs):
            out[pair] = _distance(&a[a_start] if a_lengths[pair] else NULL, a_lengths[pair],
                                  &b[b_start] if b_lengths[pair] else NULL, b_lengths[pair], &row[0], stop)
            a_start += a_lengths[pair]
            b_start += b_lengths[pair]
    return result
