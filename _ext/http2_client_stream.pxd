"""The calling side of the gRPC transport: a call of a method that streams both ways."""

from runtime._ext.http2_client cimport ClientCall


cdef class StreamCall(ClientCall):
    cdef bint _is_ending                # nothing more will be sent
    cdef int code                       # of the status, -1 before there is one
    cdef str status_message
