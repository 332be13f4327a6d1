"""Stacks and tensor arrays as compiled kernels see them."""


cdef class Stack:
    cdef readonly str name
    cdef readonly object element_type
    cdef long kind                   # its number
    cdef readonly long long limit    # most elements; negative: no limit
    cdef list elements               # None once closed

    cpdef object push(self, object element)
    cpdef object pop(self)


cdef class Place:
    cdef public object value         # ndarray, or None
    cdef public object shape         # tuple of int, or None
    cdef public bint written
    cdef public bint read
    cdef public bint cleared
    cdef public bint is_own


cdef class Places:
    cdef readonly str name
    cdef readonly object element_type
    cdef long kind                   # its number
    cdef public object element_shape # tuple of int/None, or None
    cdef public bint is_dynamic
    cdef readonly bint clears
    cdef readonly bint same_shapes
    cdef readonly bint is_gradient
    cdef public bint closed
    cdef public long long count
    cdef readonly dict places
    cdef readonly dict gradients
    cdef readonly object lock

    # Whether the GIL alone protects the array now: it is open, and nobody is at work on it.
    cdef bint is_free(self) except -1
    # The value at an index, as reading takes it; None where that is not simple.
    cdef object readable(self, long long index)
    cdef int note_read(self, long long index) except -1
