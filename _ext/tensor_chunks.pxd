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


# A list of the registered type; None while there is none. `elements` are its own, `None` for as many that are not set.
cdef TensorChunks new_list(dtype, element_shape, list elements, long long length)
