# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Philox 4x32-10 and the distributions made of it, value for value as TensorFlow draws them.

A generator is a key of two words and a counter of four; each step gives four words and adds one to the counter.
Distributions with a fixed need read the stream from the start, so many words per group of values; the truncated normal,
which draws again what lies outside, gives every group of values a stretch of the stream of its own.
"""

import numpy as np

from libc.math cimport fabs, fabsf
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cimport cython

from runtime._ext.running_step cimport stop_flag

cdef enum:
    RESERVED_PER_VALUE = 256  # words that a value of a distribution with redraws may use

cdef double TRUNCATE_AT = 2.0


cdef struct Words:  # hands out the words of a stream one at a time
    State state
    uint32_t block[4]
    int used


cdef inline uint32_t _word(Words *words) noexcept nogil:
    if words.used == 4:
        next_block(&words.state, words.block)
        words.used = 0
    words.used += 1
    return words.block[words.used - 1]


@cython.final
cdef class Philox:
    """A stream of random numbers.

    Parameters
    ----------
    seed, seed2 : int
        The key and the upper half of the counter; taken modulo 2**64. The lower half starts at 0.
    start : int
        Where in the stream to begin: lower half of the counter.

    Notes
    -----
    Drawing from a generator starts at its counter and leaves the counter alone; `reserve` moves it. Once the step of the
    calling thread is cancelled the rest of what is drawn is arbitrary.
    """

    def __cinit__(self, seed, seed2, start=0):
        cdef uint64_t key = int(seed) & 0xFFFFFFFFFFFFFFFF
        cdef uint64_t high = int(seed2) & 0xFFFFFFFFFFFFFFFF
        cdef uint64_t low = int(start) & 0xFFFFFFFFFFFFFFFF
        self.state.key[0] = <uint32_t>key
        self.state.key[1] = <uint32_t>(key >> 32)
        self.state.counter[0] = <uint32_t>low
        self.state.counter[1] = <uint32_t>(low >> 32)
        self.state.counter[2] = <uint32_t>high
        self.state.counter[3] = <uint32_t>(high >> 32)

    def reserve(self, uint64_t blocks):
        """Return a generator that stands where this one does, and move this one on by so many blocks of four words."""
        cdef Philox copy = Philox(0, 0)
        copy.state = self.state
        skip_blocks(&self.state, blocks)
        return copy

    def words(self, Py_ssize_t size):
        """Return the first words of the stream, uint32 (size,)."""
        result = np.empty(size, np.uint32)
        cdef uint32_t[::1] out = result
        cdef State state = self.state
        cdef uint32_t block[4]
        cdef const int *stop = stop_flag()
        cdef Py_ssize_t place
        with nogil:
            for place in range(size):
                if place % 4 == 0:
                    if stop != NULL and stop[0]:
                        break
                    next_block(&state, block)
                out[place] = block[place % 4]
        return result

    def uniform_float(self, Py_ssize_t size, int bits=23):
        """Return values in [0, 1), float32 (size,), made of the low `bits` of a word each (23; half 10, bfloat16 7)."""
        result = np.empty(size, np.float32)
        cdef float[::1] out = result
        cdef State state = self.state
        cdef uint32_t block[4]
        cdef uint32_t mask = (<uint32_t>1 << bits) - 1
        cdef float scale = <float>1.0 / <float>(<uint32_t>1 << bits)
        cdef const int *stop = stop_flag()
        cdef Py_ssize_t place
        with nogil:
            for place in range(size):
                if place % 4 == 0:
                    if stop != NULL and stop[0]:
                        break
                    next_block(&state, block)
                out[place] = <float>(block[place % 4] & mask) * scale
        return result

    def uniform_double(self, Py_ssize_t size):
        """Return values in [0, 1), float64 (size,)."""
        result = np.empty(size, np.float64)
        cdef double[::1] out = result
        cdef State state = self.state
        cdef uint32_t block[4]
        cdef const int *stop = stop_flag()
        cdef Py_ssize_t place
        cdef int half
        with nogil:
            for place in range(size):
                half = place % 2
                if half == 0:
                    if stop != NULL and stop[0]:
                        break
                    next_block(&state, block)
                out[place] = unit_double(block[2 * half], block[2 * half + 1])
        return result

    def uniform_int32(self, Py_ssize_t size, int32_t low, int32_t high):
        """Return values in [low, high), int32 (size,): a word modulo the width."""
        result = np.empty(size, np.int32)
        cdef int32_t[::1] out = result
        cdef State state = self.state
        cdef uint32_t block[4]
        cdef uint32_t width = <uint32_t>high - <uint32_t>low
        cdef const int *stop = stop_flag()
        cdef Py_ssize_t place
        with nogil:
            for place in range(size):
                if place % 4 == 0:
                    if stop != NULL and stop[0]:
                        break
                    next_block(&state, block)
                out[place] = <int32_t>(<uint32_t>low + block[place % 4] % width)
        return result

    def uniform_int64(self, Py_ssize_t size, int64_t low, int64_t high):
        """Return values in [low, high), int64 (size,): two words, the low one first, modulo the width."""
        result = np.empty(size, np.int64)
        cdef int64_t[::1] out = result
        cdef State state = self.state
        cdef uint32_t block[4]
        cdef uint64_t width = <uint64_t>high - <uint64_t>low
        cdef uint64_t word
        cdef const int *stop = stop_flag()
        cdef Py_ssize_t place
        cdef int half
        with nogil:
            for place in range(size):
                half = place % 2
                if half == 0:
                    if stop != NULL and stop[0]:
                        break
                    next_block(&state, block)
                word = block[2 * half] | (<uint64_t>block[2 * half + 1] << 32)
                out[place] = <int64_t>(<uint64_t>low + word % width)
        return result

    def normal_float(self, Py_ssize_t size):
        """Return standard normal values, float32 (size,)."""
        result = np.empty(size, np.float32)
        cdef float[::1] out = result
        cdef State state = self.state
        cdef uint32_t block[4]
        cdef float pair[4]
        cdef const int *stop = stop_flag()
        cdef Py_ssize_t place
        with nogil:
            for place in range(size):
                if place % 4 == 0:
                    if stop != NULL and stop[0]:
                        break
                    next_block(&state, block)
                    box_muller_float(block[0], block[1], pair)
                    box_muller_float(block[2], block[3], pair + 2)
                out[place] = pair[place % 4]
        return result

    def normal_double(self, Py_ssize_t size):
        """Return standard normal values, float64 (size,)."""
        result = np.empty(size, np.float64)
        cdef double[::1] out = result
        cdef State state = self.state
        cdef uint32_t block[4]
        cdef double pair[2]
        cdef const int *stop = stop_flag()
        cdef Py_ssize_t place
        with nogil:
            for place in range(size):
                if place % 2 == 0:
                    if stop != NULL and stop[0]:
                        break
                    next_block(&state, block)
                    box_muller_double(block[0], block[1], block[2], block[3], pair)
                out[place] = pair[place % 2]
        return result

    def truncated_float(self, Py_ssize_t size):
        """Return normal values within two standard deviations, float32 (size,)."""
        result = np.empty(size, np.float32)
        cdef float[::1] out = result
        cdef Words words
        cdef float pair[2]
        cdef const int *stop = stop_flag()
        cdef Py_ssize_t place = 0, end
        cdef uint32_t x0, x1
        cdef int half
        with nogil:
            while place < size and (stop == NULL or stop[0] == 0):
                # Groups of four values, each with a stretch of its own.
                end = min(place + 4, size)
                words.state = self.state
                words.used = 4
                skip_blocks(&words.state, <uint64_t>(place // 4) * RESERVED_PER_VALUE)
                while place < end:
                    x0 = _word(&words)
                    x1 = _word(&words)
                    box_muller_float(x0, x1, pair)
                    for half in range(2):
                        if fabsf(pair[half]) < <float>TRUNCATE_AT and place < end:
                            out[place] = pair[half]
                            place += 1
        return result

    def truncated_double(self, Py_ssize_t size):
        """Return normal values within two standard deviations, float64 (size,)."""
        result = np.empty(size, np.float64)
        cdef double[::1] out = result
        cdef Words words
        cdef double pair[2]
        cdef uint32_t block[4]
        cdef const int *stop = stop_flag()
        cdef Py_ssize_t place = 0, end
        cdef int half
        with nogil:
            while place < size and (stop == NULL or stop[0] == 0):
                # Groups of two values.
                end = min(place + 2, size)
                words.state = self.state
                words.used = 4
                skip_blocks(&words.state, <uint64_t>(place // 2) * (RESERVED_PER_VALUE // 2))
                while place < end:
                    for half in range(4):
                        block[half] = _word(&words)
                    box_muller_double(block[0], block[1], block[2], block[3], pair)
                    for half in range(2):
                        if fabs(pair[half]) < TRUNCATE_AT and place < end:
                            out[place] = pair[half]
                            place += 1
        return result

    def permutation(self, Py_ssize_t size):
        """Return a permutation of range(size), int64: each place swaps with one at or behind it."""
        result = np.arange(size, dtype=np.int64)
        cdef int64_t[::1] out = result
        cdef State state = self.state
        cdef uint32_t block[4]
        cdef const int *stop = stop_flag()
        cdef Py_ssize_t place, other
        cdef int64_t kept
        with nogil:
            for place in range(size - 1):
                if place % 4 == 0:
                    if stop != NULL and stop[0]:
                        break
                    next_block(&state, block)
                other = place + <Py_ssize_t>(block[place % 4] % <uint32_t>(size - place))
                kept = out[place]
                out[place] = out[other]
                out[other] = kept
        return result


def scrambled(seed, seed2):
    """Return (key, counter) that stateless ops make of a pair of seeds: uint64, and the upper half of the counter.

    Seeds that differ by little must not give streams that overlap, hence one block of a fixed generator.
    """
    cdef Philox mixer = Philox(0x02461E293EC8F720, seed2, seed)
    cdef uint32_t block[4]
    next_block(&mixer.state, block)
    return block[0] | (<uint64_t>block[1] << 32), block[2] | (<uint64_t>block[3] << 32)
