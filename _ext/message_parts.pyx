"""A message in parts: what the codec need not copy together when the transport can write one part behind the other."""

cimport cython
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_Check, PyMemoryView_FromObject
from cpython.object cimport PyObject_Size


@cython.final
cdef class MessageParts:
    """The bytes of one message as a sequence of buffers.

    ``len()`` is the message's length in bytes, ``bytes()`` joins it.

    Parameters
    ----------
    parts : list of bytes or memoryview
        Views are of bytes, one dimension and no stride. Nobody changes what they show while the message is on its way.
    """

    def __init__(self, list parts not None):
        cdef Py_ssize_t size = 0
        for part in parts:
            if PyBytes_CheckExact(part):
                size += PyBytes_GET_SIZE(part)
            elif PyMemoryView_Check(part) and part.format == "B" and part.ndim == 1 and part.c_contiguous:
                size += PyObject_Size(part)
            else:
                raise TypeError(f"a part of a message is bytes or a memoryview of bytes, not {part!r}")
        self.parts = parts
        self.size = size

    def __len__(self):
        return self.size

    def __bytes__(self):
        return b"".join(self.parts)

    cdef list cut(self, Py_ssize_t start, Py_ssize_t stop):
        """Return the buffers that hold the bytes from ``start`` to ``stop``."""
        cdef list found = []
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t size, first, last
        for part in self.parts:
            size = PyObject_Size(part)
            first = max(start - at, 0)
            last = min(stop - at, size)
            if first < last:
                found.append(part if last - first == size else PyMemoryView_FromObject(part)[first:last])
            at += size
            if at >= stop:
                break
        return found
