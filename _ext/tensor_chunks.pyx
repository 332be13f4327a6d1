"""The elements of an immutable list of tensors, in chunks that lists share.

An update copies one chunk and the list of chunks, so that a loop that adds or sets one element per turn costs little
however long the list, and nobody has to know who else holds it.
"""

cdef enum:
    BITS = 6
    MASK = (1 << BITS) - 1

CHUNK = 1 << BITS

# What kernels make lists of; see `register`.
cdef type _list_type = None
# Never changed, like all chunks.
cdef list _unset = [None] * CHUNK


def register(type kind not None):
    """Have compiled kernels make new lists of this type, a subclass of `TensorChunks` without fields of its own."""
    global _list_type
    if not issubclass(kind, TensorChunks):
        raise TypeError(f"{kind.__name__} is no subclass of TensorChunks")
    _list_type = kind


cdef TensorChunks new_list(dtype, element_shape, list elements, long long length):
    cdef TensorChunks made
    cdef long long start
    if _list_type is None:
        return None
    made = _list_type.__new__(_list_type)
    made.dtype = dtype
    made.element_shape = element_shape
    made.max_num_elements = -1
    made.length = length
    if elements is None:
        made.chunks = [_unset] * (length >> BITS)
        if length & MASK:
            made.chunks.append(_unset[:length & MASK])
    else:
        made.chunks = [elements[start:start + CHUNK] for start in range(0, length, CHUNK)]
    return made


cdef class TensorChunks:
    """What a list of tensors consists of; `runtime.ops.values.tensor_list` has the list itself, a subclass.

    Attributes
    ----------
    dtype : DataType
        Of the elements.
    element_shape : tuple of (int or None), or None
        What is known of all elements.
    max_num_elements : int
        Longest list that is made by adding one; negative for no limit.
    length : int
    chunks : list of list
        `CHUNK` elements each but for the last; None for an element that was never set.
    """

    cdef object element(self, long long index):
        return (<list>self.chunks[index >> BITS])[index & MASK]

    cdef TensorChunks like(self, list chunks, long long length):
        cdef type kind = type(self)
        cdef TensorChunks made = kind.__new__(kind)
        made.dtype = self.dtype
        made.element_shape = self.element_shape
        made.max_num_elements = self.max_num_elements
        made.length = length
        made.chunks = chunks
        return made

    cdef TensorChunks with_element(self, long long index, object element):
        cdef list chunks = list(self.chunks)
        cdef list chunk = list(<list>chunks[index >> BITS])
        chunk[index & MASK] = element
        chunks[index >> BITS] = chunk
        return self.like(chunks, self.length)

    cdef TensorChunks with_more(self, object element):
        cdef list chunks = list(self.chunks)
        cdef list chunk
        cdef Py_ssize_t last = len(chunks) - 1
        if self.length & MASK:
            chunk = list(<list>chunks[last])
            chunk.append(element)
            chunks[last] = chunk
        else:
            chunks.append([element])
        return self.like(chunks, self.length + 1)

    cdef TensorChunks without_last(self):
        cdef list chunks = list(self.chunks)
        cdef Py_ssize_t last = len(chunks) - 1
        cdef list chunk = <list>chunks[last]
        if len(chunk) == 1:
            del chunks[last]
        else:
            chunks[last] = chunk[:len(chunk) - 1]
        return self.like(chunks, self.length - 1)

    def get(self, index):
        """Return an element, None when it was never set; `index` is in [0, length)."""
        return self.element(self._checked(index))

    def set(self, index, element):
        """Return the list with another element at `index`, which is in [0, length)."""
        return self.with_element(self._checked(index), element)

    def push(self, element):
        """Return the list with one element more at its end."""
        return self.with_more(element)

    def pop(self):
        """Return the list without its last element; it has one."""
        self._checked(0)
        return self.without_last()

    def _checked(self, long long index):
        if not 0 <= index < self.length:
            raise IndexError(f"element {index} of a list of {self.length}")
        return index
