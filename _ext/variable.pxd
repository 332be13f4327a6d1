"""Variables and resource handles as compiled kernels see them."""


cdef class Variable:
    cdef public object value        # ndarray, or None while uninitialised; replaced or written in place under `lock`
    cdef public object datatype     # int: element type without reference mark
    cdef public object shape        # tuple of int/None, or None when unknown
    cdef readonly str name
    cdef readonly str container
    cdef readonly object lock       # threading.Lock; held while the value is replaced or written


cdef class ResourceHandle:
    cdef readonly str device
    cdef readonly str container
    cdef readonly str name
    cdef readonly str type_name
    cdef readonly object resource   # what the handle names: a Variable, a queue, a table, ...
