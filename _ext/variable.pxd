"""Variables and resource handles as compiled kernels see them."""


cdef class Variable:
    cdef public object value        # ndarray, or None while uninitialised; replaced or written in place under `lock`
    cdef public object datatype     # int: element type without reference mark
    cdef public object shape        # tuple of int/None, or None when unknown
    cdef readonly str name
    cdef readonly str container
    cdef readonly object lock       # threading.Lock; held while the value is replaced or written
    # Set, under `lock`, by a kernel that writes into `value` without the GIL; whoever wants the value then waits for it.
    cdef bint writing

    # The current value or None; once a kernel that writes into it is done.
    cdef object current(self)

    # Take and release `lock`; waiting for it gives up the GIL.
    cdef int acquire(self) except -1
    cdef int release(self) except -1

    # Whether somebody holds `lock`. While nobody does and the GIL is kept, the value may be changed without it.
    cdef int is_locked(self) except -1


cdef class ResourceHandle:
    cdef readonly str device
    cdef readonly str container
    cdef readonly str name
    cdef readonly str type_name
    cdef readonly object resource   # what the handle names: a Variable, a queue, a table, ...
