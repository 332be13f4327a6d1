"""Header compression of HTTP/2 (RFC 7541): what the connection needs of it."""


cdef class HeaderDecoder:
    cdef list _table                # dynamic table, newest entry last: (name, value) tuples of bytes
    cdef Py_ssize_t _table_bytes    # size as RFC 7541 section 4.1 counts it: 32 bytes more per entry
    cdef Py_ssize_t _max_bytes
    cdef readonly Py_ssize_t max_list_bytes

    cdef list decode(self, const unsigned char *data, Py_ssize_t size)
    cdef tuple _entry(self, Py_ssize_t index)
    cdef int _insert(self, tuple entry) except -1
    cdef int _evict(self) except -1


cdef bytes encode_headers(object headers)
