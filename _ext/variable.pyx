"""Variables and resource handles: what stateful kernels share between steps.

`Variable` backs both reference variables (``VariableV2``) and resource variables (``VarHandleOp``). Reading hands out
the array itself; writers therefore change an array in place only while nobody else holds it (its reference count tells)
and replace it otherwise, so that a reader keeps a consistent snapshot without a copy.
"""

import threading

from cpython.ref cimport Py_REFCNT
from cpython.object cimport PyObject

from runtime._ext.errors import FailedPrecondition

cimport numpy as cnp

cnp.import_array()


cdef class Variable:
    """A mutable tensor that outlives steps and, unless private, sessions.

    Parameters
    ----------
    name, container : str
        Where it is found in the resource manager.
    datatype : int
        Element type without reference mark.
    shape : tuple of (int or None), or None
        Declared shape; None when unknown.

    Attributes
    ----------
    value : ndarray or None
        The current array; None while uninitialised.
    lock : threading.Lock
        Held by every writer; readers need none.
    """

    def __cinit__(self, str name, str container, datatype, shape=None):
        self.name = name
        self.container = container
        self.datatype = datatype
        self.shape = shape
        self.value = None
        self.lock = threading.Lock()
        self.writing = False

    cdef object current(self):
        if not self.writing:
            return self.value
        with self.lock:
            return self.value

    cdef int acquire(self) except -1:
        self.lock.acquire()
        return 0

    cdef int release(self) except -1:
        self.lock.release()
        return 0

    cdef int is_locked(self) except -1:
        return self.lock.locked() is True

    def read(self):
        """Return the current array (shared, not to be written).

        Raises
        ------
        FailedPrecondition
            While uninitialised, in the words reference variables use.
        """
        value = self.current()
        if value is None:
            raise FailedPrecondition(f"Attempting to use uninitialized value {self.name}")
        return value

    def writable(self):
        """Return an array that may be changed in place: the current one when nobody else holds it, else a copy.

        Call with `lock` held; the result is already installed as `value`.
        """
        value = self.read()
        # two references: the attribute and the local name
        if Py_REFCNT(value) > 2 or not cnp.PyArray_CHKFLAGS(value, cnp.NPY_ARRAY_OWNDATA | cnp.NPY_ARRAY_WRITEABLE):
            value = value.copy()
            self.value = value
        return value

    def __repr__(self):
        state = "uninitialised" if self.value is None else f"shape {self.value.shape}"
        return f"<Variable {self.container}/{self.name} type {self.datatype} {state}>"


cdef class ResourceHandle:
    """Name of a resource on a device, with a direct reference to it.

    A resource tensor is an object array whose elements are handles.
    """

    def __cinit__(self, str device, str container, str name, str type_name, resource):
        self.device = device
        self.container = container
        self.name = name
        self.type_name = type_name
        self.resource = resource

    def to_wire(self):
        """Return the handle as serialised ResourceHandleProto bytes (device 1, container 2, name 3, type name 5)."""
        cdef list parts = []
        for number, text in ((1, self.device), (2, self.container), (3, self.name), (5, self.type_name)):
            data = (<str>text).encode()
            if not data:
                continue
            length = len(data)
            head = bytearray([(number << 3) | 2])
            while length >= 0x80:
                head.append((length & 0x7F) | 0x80)
                length >>= 7
            head.append(length)
            parts.append(bytes(head))
            parts.append(data)
        return b"".join(parts)

    def __repr__(self):
        return f"<ResourceHandle {self.type_name} {self.container}/{self.name} on {self.device}>"
