"""Lists of tensors as compiled kernels see them."""


cdef class TensorChunks:
    cdef public object dtype            # DataType of the elements
    cdef public object element_shape    # tuple of int/None, or None
    cdef public long long max_num_elements
    cdef public long long length
    cdef public list chunks             # of lists, which other lists share: never changed

    cdef object element(self, long long index)
    cdef TensorChunks with_element(self, long long index, object element)
    cdef TensorChunks with_more(self, object element)
    cdef TensorChunks without_last(self)
    cdef TensorChunks like(self, list chunks, long long length)
