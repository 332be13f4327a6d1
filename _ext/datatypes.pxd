from libc.stdint cimport int64_t

cdef enum:
    # Numbers 1 to 33 are assigned; 100 + n is the reference form of n.
    NUM_DATATYPES = 34
    DT_FLOAT = 1
    DT_STRING = 7
    DT_BOOL = 10
    DT_RESOURCE = 20
    DT_VARIANT = 21

cdef enum TypedField:
    # How the typed field of a TensorProto holds its values.
    TYPED_NONE = 0
    TYPED_FIXED = 1    # 4 or 8 bytes per value, as in memory
    TYPED_VARINT = 2   # the low bytes of a varint
    TYPED_BOOL = 3     # a varint, true when it is not zero
    TYPED_RAW = 4      # one bytes field, one byte per element
    TYPED_STRING = 5   # one length-delimited field per element

cdef struct DataTypeInfo:
    void* descr         # borrowed from this module's table, which lives as long as the process; NULL: no such type
    int64_t itemsize    # bytes per element in tensor_content; 0 for strings, resources and variants
    int typed_field     # field number in TensorProto
    int typed_kind      # a TypedField
    int components      # values per element in the typed field: 2 for complex numbers
    const char* name

cdef DataTypeInfo* datatype_info(int datatype) noexcept
cdef int datatype_of_array(object array) except -1
cdef int check_array_type(object array, int datatype) except -1
