"""The generator as declarations and inline functions, for modules that draw in loops of their own."""

from libc.math cimport cos, cosf, log, logf, sin, sinf, sqrt, sqrtf
from libc.stdint cimport uint32_t, uint64_t

cdef struct State:
    uint32_t key[2]
    uint32_t counter[4]


cdef inline void skip_blocks(State *state, uint64_t count) noexcept nogil:
    """Move on by so many blocks of four words."""
    cdef uint64_t low = (<uint64_t>state.counter[1] << 32) | state.counter[0]
    cdef uint64_t total = low + count
    state.counter[0] = <uint32_t>total
    state.counter[1] = <uint32_t>(total >> 32)
    if total < low:
        state.counter[2] += 1
        if state.counter[2] == 0:
            state.counter[3] += 1


cdef inline void next_block(State *state, uint32_t *out) noexcept nogil:
    """Draw four words, with the multipliers and key increments of the published algorithm (Salmon et al., 2011)."""
    cdef uint32_t k0 = state.key[0], k1 = state.key[1]
    cdef uint32_t c0 = state.counter[0], c1 = state.counter[1], c2 = state.counter[2], c3 = state.counter[3]
    cdef uint64_t a, b
    cdef int turn
    for turn in range(10):
        a = <uint64_t><uint32_t>0xD2511F53 * c0
        b = <uint64_t><uint32_t>0xCD9E8D57 * c2
        c0 = <uint32_t>(b >> 32) ^ c1 ^ k0
        c1 = <uint32_t>b
        c2 = <uint32_t>(a >> 32) ^ c3 ^ k1
        c3 = <uint32_t>a
        k0 += <uint32_t>0x9E3779B9
        k1 += <uint32_t>0xBB67AE85
    out[0] = c0
    out[1] = c1
    out[2] = c2
    out[3] = c3
    skip_blocks(state, 1)


cdef inline float unit_float(uint32_t word) noexcept nogil:
    """The low 23 bits as a float in [0, 1)."""
    return <float>(word & 0x7FFFFF) * <float>(1.0 / 8388608.0)


cdef inline double unit_double(uint32_t high, uint32_t low) noexcept nogil:
    """52 bits as a double in [0, 1)."""
    return <double>((<uint64_t>(high & 0xFFFFF) << 32) | low) * (1.0 / 4503599627370496.0)


cdef inline void box_muller_float(uint32_t x0, uint32_t x1, float *out) noexcept nogil:
    """Two words to two normal values."""
    cdef float u = unit_float(x0)
    if u < <float>1.0e-7:
        u = <float>1.0e-7
    cdef float angle = <float>(6.283185307179586 * unit_float(x1))
    cdef float radius = sqrtf(<float>-2.0 * logf(u))
    out[0] = sinf(angle) * radius
    out[1] = cosf(angle) * radius


cdef inline void box_muller_double(uint32_t x0, uint32_t x1, uint32_t x2, uint32_t x3, double *out) noexcept nogil:
    """Four words to two normal values."""
    cdef double u = unit_double(x0, x1)
    if u < 1.0e-7:
        u = 1.0e-7
    cdef double angle = 6.283185307179586 * unit_double(x2, x3)
    cdef double radius = sqrt(-2.0 * log(u))
    out[0] = sin(angle) * radius
    out[1] = cos(angle) * radius


cdef class Philox:
    cdef State state
