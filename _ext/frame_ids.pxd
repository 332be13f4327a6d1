"""How a frame of a loop is called in the keys of tensors that cross tasks.

Every task that has a part of the loop must find the same number, TensorFlow's workers included (2.4 and later), so the
two functions are fixed: MurmurHash64A of the frame's name, and a mixing of that with the frame and iteration around it.
"""

from libc.stdint cimport uint64_t


cdef inline uint64_t mix(uint64_t a, uint64_t b) noexcept nogil:
    return a ^ (b + <uint64_t>0x9E3779B97F4A7800 + (a << 10) + (a >> 4))


cdef inline uint64_t child_frame_id(uint64_t parent_id, uint64_t parent_iteration, uint64_t name_hash) noexcept nogil:
    return mix(parent_id, mix(parent_iteration, name_hash))


cdef uint64_t hash_name(bytes name)
