"""What the iterations of a loop leave for each other within one step: stacks, and the memory of tensor arrays."""

import threading

from runtime._ext.errors import InvalidArgument


cdef class Stack:
    """Tensors of one type, last in, first out. Safe from several threads: the GIL is held all the time.

    Parameters
    ----------
    name : str
        For messages.
    element_type : DataType
    limit : int
        Most elements at a time; negative for no limit.
    """

    def __cinit__(self, str name, element_type, long long limit):
        self.name = name
        self.element_type = element_type
        self.kind = element_type
        self.limit = limit
        self.elements = []

    cpdef object push(self, object element):
        """Add an element.

        Raises
        ------
        InvalidArgument
            If the stack is full or closed.
        """
        if self.elements is None:
            raise self._is_closed()
        if 0 <= self.limit <= len(self.elements):
            raise InvalidArgument(f"Stack[{self.name}] overflowed its max_size ({self.limit})")
        self.elements.append(element)

    cpdef object pop(self):
        """Remove and return the youngest element.

        Raises
        ------
        InvalidArgument
            If the stack is empty or closed.
        """
        if self.elements is None:
            raise self._is_closed()
        if not self.elements:
            raise InvalidArgument(f"Stack[{self.name}] is empty when calling Pop().")
        return self.elements.pop()

    def close(self):
        """Drop all elements; from now on every use fails."""
        self.elements = None

    def _is_closed(self):
        return InvalidArgument(f"Stack[{self.name}] has already been closed.")

    def __repr__(self):
        return f"<Stack {self.name} of {self.element_type.label} size {len(self.elements or ())}>"


cdef class Place:
    """One index of a tensor array.

    Attributes
    ----------
    value : ndarray or None
        None while unwritten, when cleared, and when only the shape is known, which stands for zeros.
    shape : tuple of int or None
        Of what was written; for a gradient, of what was written at this index of its source.
    is_own : bool
        `value` is a sum that this array has made and nobody else has seen.
    """


cdef class Places:
    """What a tensor array keeps; see `runtime.ops.state.tensor_array.TensorArray` for the parameters.

    Attributes
    ----------
    places : dict of int to Place
        Only those that were touched: most of a large array may never be.
    lock : threading.Lock
        Held by whoever may give up the GIL while at work.
    """

    def __init__(self, str name, element_type, element_shape, *, bint is_dynamic=False, bint clears=True,
                 bint same_shapes=False, bint is_gradient=False):
        self.name = name
        self.element_type = element_type
        self.kind = element_type
        self.element_shape = element_shape
        self.is_dynamic = is_dynamic
        self.clears = clears
        self.same_shapes = same_shapes
        self.is_gradient = is_gradient
        self.closed = False
        self.count = 0
        self.places = {}
        self.gradients = {}
        self.lock = threading.Lock()

    cdef bint is_free(self) except -1:
        return not self.closed and self.lock.locked() is False

    cdef object readable(self, long long index):
        cdef Place place
        if not 0 <= index < self.count:
            return None
        place = self.places.get(index)
        return place.value if place is not None and place.written and not place.cleared else None

    cdef int note_read(self, long long index) except -1:
        cdef Place place = self.places[index]
        place.read = True
        if self.clears:
            place.value, place.cleared = None, True
        return 0
