"""Memory from the kernel, and the right to a part of it."""


cdef class Memory:
    cdef char* data
    cdef readonly Py_ssize_t capacity
    cdef readonly bint is_writable
    cdef readonly int descriptor        # of the file behind it, owned; -1 for none
    cdef readonly object name           # what the owner calls it
    cdef Py_ssize_t _mapped
    cdef void* _mapping
    cdef public double idle_since


cdef class Buffer:
    cdef readonly Memory memory
    cdef readonly Py_ssize_t nbytes
    cdef readonly bint is_writable
    cdef object _release
    cdef Py_ssize_t _shape[1]
    cdef Py_ssize_t _strides[1]
