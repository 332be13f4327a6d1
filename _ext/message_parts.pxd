cdef class MessageParts:
    cdef readonly list parts
    cdef Py_ssize_t size
    cdef list cut(self, Py_ssize_t start, Py_ssize_t stop)
