"""Arrays of other libraries by DLPack whose element types numpy itself has not: bfloat16 and the small floats.

numpy reads all others (`numpy.from_dlpack`). The memory stays the other library's, and is given back to it when the last
view dies.

Source: the definition of DLPack, version 1.1 (`dlpack.h`), of which only the layout is used.
"""

cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_SetName
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cimport numpy as cnp

from runtime._ext.errors import InvalidArgument

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    object PyArray_NewFromDescr(type subtype, cnp.dtype descr, int nd, const cnp.npy_intp *dims,
                                const cnp.npy_intp *strides, void *data, int flags, object obj)
    int PyArray_SetBaseObject(cnp.ndarray array, object base) except -1

cdef enum:
    MAX_RANK = 64  # numpy's

cdef struct Device:
    int32_t device_type
    int32_t device_id

cdef struct DataType:
    uint8_t code
    uint8_t bits
    uint16_t lanes

cdef struct Tensor:
    void *data
    Device device
    int32_t ndim
    DataType dtype
    int64_t *shape
    int64_t *strides  # in elements; NULL: row by row
    uint64_t byte_offset

ctypedef void (*Deleter)(void *managed) noexcept

cdef struct Managed:
    Tensor tensor
    void *context
    Deleter deleter


@cython.final
@cython.internal
cdef class Owner:
    """A tensor of another library, there until the last view of it dies."""
    cdef Managed *managed

    def __dealloc__(self):
        if self.managed != NULL and self.managed.deleter != NULL:
            self.managed.deleter(self.managed)


def read(capsule, dict dtypes not None):
    """Return the tensor of a capsule as an array that shares its memory, and is not writable.

    Parameters
    ----------
    capsule : PyCapsule
        What ``__dlpack__()`` of a tensor on the host gave; it is used up.
    dtypes : dict of (int, int) to dtype
        The element types that are known, by DLPack's code and number of bits.

    Raises
    ------
    InvalidArgument
        The capsule is none of an unused tensor, or its elements are of another type.
    """
    cdef Owner owner = Owner()
    cdef Managed *managed
    cdef Tensor *tensor
    cdef cnp.npy_intp dims[MAX_RANK]
    cdef cnp.npy_intp strides[MAX_RANK]
    cdef cnp.npy_intp step
    cdef int axis
    if not PyCapsule_IsValid(capsule, "dltensor"):
        raise InvalidArgument(f"{type(capsule).__name__} is no DLPack capsule whose tensor nobody has taken yet")
    managed = <Managed *>PyCapsule_GetPointer(capsule, "dltensor")
    tensor = &managed.tensor
    dtype = dtypes.get((tensor.dtype.code, tensor.dtype.bits)) if tensor.dtype.lanes == 1 else None
    if dtype is None:
        raise InvalidArgument(f"the elements have DLPack's type {tensor.dtype.code} of {tensor.dtype.bits} bits in "
                              f"{tensor.dtype.lanes} lanes, which is not known here")
    if not 0 <= tensor.ndim <= MAX_RANK:
        raise InvalidArgument(f"the tensor has {tensor.ndim} dimensions; at most {<int>MAX_RANK} are allowed")
    PyCapsule_SetName(capsule, "used_dltensor")
    owner.managed = managed
    step = dtype.itemsize
    for axis in range(tensor.ndim - 1, -1, -1):
        dims[axis] = tensor.shape[axis]
        if tensor.strides != NULL:
            strides[axis] = tensor.strides[axis] * <cnp.npy_intp>dtype.itemsize
        else:
            strides[axis] = step
            step *= max(dims[axis], 1)
    Py_INCREF(dtype)  # the array takes it
    array = PyArray_NewFromDescr(cnp.ndarray, dtype, tensor.ndim, dims, strides,
                                 <char *>tensor.data + tensor.byte_offset, 0, None)
    Py_INCREF(owner)
    PyArray_SetBaseObject(array, owner)
    return array
