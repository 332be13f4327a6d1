cimport numpy as cnp
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t

cdef struct TensorLayout:
    # What the message will say is fixed here, so that a change of the array between plan and writing, by another
    # thread or by a to_wire() of a later tensor, cannot make the message longer than its memory.
    PyObject* array         # borrowed: the caller's array, or one made for the purpose and held in ``made``
    PyObject* strings       # the elements as a list of bytes, held in ``made``; NULL for numbers
    int datatype
    int ndim
    int64_t shape_bytes     # payload of tensor_shape; -1 where the field is left out
    int64_t content_bytes
    int64_t total_bytes     # of the whole TensorProto
    cnp.npy_intp dims[64]

cdef int plan_tensor(object array, int datatype, bint omit_scalar_shape, list made, TensorLayout* layout) except -1
cdef uint8_t* write_tensor(uint8_t* p, const TensorLayout* layout) except NULL
cdef uint8_t* write_tensor_head(uint8_t* p, const TensorLayout* layout) noexcept
cdef object content_apart(const TensorLayout* layout)
cdef int check_message_size(int64_t size) except -1
cdef object new_message(int64_t size, uint8_t** at)
