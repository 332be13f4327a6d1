"""The table of tensor element types: number on the wire, numpy dtype, and how a TensorProto holds them.

The numbers are those of ``tensorflow.DataType``. Quantized types have the plain integer dtype of their width, so they
cannot be told from the dtype alone; strings, resources and variants are arrays of objects.
"""

import sys

import ml_dtypes
import numpy as np

cimport numpy as cnp
from cpython.dict cimport PyDict_GetItem
from cpython.ref cimport PyObject

from runtime._ext.errors import InvalidArgument

cnp.import_array()

if sys.byteorder != "little":
    raise ImportError("runtime reads tensor bytes in place and so needs a little-endian machine")

cdef DataTypeInfo _table[NUM_DATATYPES]

# (number, name, numpy dtype, field number of the typed values, their kind, values per element)
_ROWS = (
    (1, b"DT_FLOAT", np.float32, 5, TYPED_FIXED, 1),
    (2, b"DT_DOUBLE", np.float64, 6, TYPED_FIXED, 1),
    (3, b"DT_INT32", np.int32, 7, TYPED_VARINT, 1),
    (4, b"DT_UINT8", np.uint8, 7, TYPED_VARINT, 1),
    (5, b"DT_INT16", np.int16, 7, TYPED_VARINT, 1),
    (6, b"DT_INT8", np.int8, 7, TYPED_VARINT, 1),
    (7, b"DT_STRING", np.object_, 8, TYPED_STRING, 1),
    (8, b"DT_COMPLEX64", np.complex64, 9, TYPED_FIXED, 2),
    (9, b"DT_INT64", np.int64, 10, TYPED_VARINT, 1),
    (10, b"DT_BOOL", np.bool_, 11, TYPED_BOOL, 1),
    (11, b"DT_QINT8", np.int8, 7, TYPED_VARINT, 1),
    (12, b"DT_QUINT8", np.uint8, 7, TYPED_VARINT, 1),
    (13, b"DT_QINT32", np.int32, 7, TYPED_VARINT, 1),
    (14, b"DT_BFLOAT16", ml_dtypes.bfloat16, 13, TYPED_VARINT, 1),
    (15, b"DT_QINT16", np.int16, 7, TYPED_VARINT, 1),
    (16, b"DT_QUINT16", np.uint16, 7, TYPED_VARINT, 1),
    (17, b"DT_UINT16", np.uint16, 7, TYPED_VARINT, 1),
    (18, b"DT_COMPLEX128", np.complex128, 12, TYPED_FIXED, 2),
    (19, b"DT_HALF", np.float16, 13, TYPED_VARINT, 1),
    (20, b"DT_RESOURCE", np.object_, 14, TYPED_STRING, 1),
    (21, b"DT_VARIANT", np.object_, 15, TYPED_STRING, 1),
    (22, b"DT_UINT32", np.uint32, 16, TYPED_VARINT, 1),
    (23, b"DT_UINT64", np.uint64, 17, TYPED_VARINT, 1),
    (24, b"DT_FLOAT8_E5M2", ml_dtypes.float8_e5m2, 18, TYPED_RAW, 1),
    (25, b"DT_FLOAT8_E4M3FN", ml_dtypes.float8_e4m3fn, 18, TYPED_RAW, 1),
    (26, b"DT_FLOAT8_E4M3FNUZ", ml_dtypes.float8_e4m3fnuz, 18, TYPED_RAW, 1),
    (27, b"DT_FLOAT8_E4M3B11FNUZ", ml_dtypes.float8_e4m3b11fnuz, 18, TYPED_RAW, 1),
    (28, b"DT_FLOAT8_E5M2FNUZ", ml_dtypes.float8_e5m2fnuz, 18, TYPED_RAW, 1),
    (29, b"DT_INT4", ml_dtypes.int4, 7, TYPED_VARINT, 1),
    (30, b"DT_UINT4", ml_dtypes.uint4, 7, TYPED_VARINT, 1),
    # Older ml_dtypes lack these three; the types are then unknown here rather than the import failing.
    (31, b"DT_INT2", getattr(ml_dtypes, "int2", None), 7, TYPED_VARINT, 1),
    (32, b"DT_UINT2", getattr(ml_dtypes, "uint2", None), 7, TYPED_VARINT, 1),
    (33, b"DT_FLOAT4_E2M1FN", getattr(ml_dtypes, "float4_e2m1fn", None), 18, TYPED_RAW, 1),
)
_QUANTIZED = (11, 12, 13, 15, 16)
_NAMES = {0: "DT_INVALID"}
_DTYPES = {}

cdef enum:
    NUM_BUILTIN_TYPES = 24

# numpy type number of a built-in type -> DataType, 0 where there is none.
cdef int _by_builtin[NUM_BUILTIN_TYPES]
# The same for types that ml_dtypes registers, whose numbers are given out at run time.
cdef dict _by_extension = {}


cdef int _fill() except -1:
    cdef int i, number
    cdef cnp.dtype descr
    for i in range(NUM_DATATYPES):
        _table[i].descr = NULL
        _table[i].name = b"DT_INVALID"
    for i in range(NUM_BUILTIN_TYPES):
        _by_builtin[i] = 0
    for number, name, scalar, field, kind, components in _ROWS:
        _NAMES[number] = name.decode()
        if scalar is None:
            continue
        descr = np.dtype(scalar)
        _DTYPES[number] = descr
        _table[number].descr = <void*>descr
        _table[number].itemsize = 0 if kind == TYPED_STRING else descr.itemsize
        _table[number].typed_field = field
        _table[number].typed_kind = kind
        _table[number].components = components
        _table[number].name = name
        if number in _QUANTIZED or number in (DT_RESOURCE, DT_VARIANT):
            continue
        if descr.num < NUM_BUILTIN_TYPES:
            _by_builtin[descr.num] = number
        else:
            _by_extension[descr.num] = number
    # C has two integer types of 8 bytes (or of 4, on Windows); numpy keeps them apart, the wire does not.
    for code in "bhilqBHILQ":
        descr = np.dtype(code)
        if not _by_builtin[descr.num]:
            _by_builtin[descr.num] = _by_builtin[np.dtype(descr.str).num]
    # Text and fixed-width bytes travel as strings.
    _by_builtin[np.dtype("S").num] = DT_STRING
    _by_builtin[np.dtype("U").num] = DT_STRING
    return 0


_fill()


cdef DataTypeInfo* datatype_info(int datatype) noexcept:
    """Return the row of ``datatype`` without its reference mark, NULL when there is none."""
    if datatype > 100:
        datatype -= 100
    if datatype <= 0 or datatype >= NUM_DATATYPES or _table[datatype].descr == NULL:
        return NULL
    return &_table[datatype]


cdef int _datatype_of_num(int num) except -1:
    cdef PyObject* found
    if 0 <= num < NUM_BUILTIN_TYPES:
        return _by_builtin[num]
    found = PyDict_GetItem(_by_extension, num)
    return 0 if found == NULL else <int><object>found


cdef int datatype_of_array(object array) except -1:
    """Return the DataType that an array's dtype stands for; raise InvalidArgument when there is none."""
    cdef int datatype
    if not cnp.PyArray_Check(array):
        raise InvalidArgument(f"a tensor must be a numpy.ndarray, not {type(array).__name__}: "
                              "convert it with numpy.asarray")
    datatype = _datatype_of_num(cnp.PyArray_TYPE(<cnp.ndarray>array))
    if datatype == 0:
        raise InvalidArgument(f"dtype {array.dtype} has no DataType: convert the array to one of "
                              f"{', '.join(sorted({str(d) for d in _DTYPES.values()}))}")
    return datatype


cdef int check_array_type(object array, int datatype) except -1:
    """Return ``datatype`` without its reference mark if the array can be sent as that, else raise InvalidArgument.

    Datatype 0 stands for the array's own.
    """
    cdef DataTypeInfo* info
    cdef int own
    if datatype == 0:
        return datatype_of_array(array)
    info = datatype_info(datatype)
    if info == NULL:
        raise InvalidArgument(f"DataType {datatype} is not one of the known types 1 to {NUM_DATATYPES - 1}")
    own = datatype_of_array(array)
    if datatype > 100:
        datatype -= 100
    if own != datatype and _table[own].descr != info.descr:
        raise InvalidArgument(f"an array of dtype {array.dtype} cannot be sent as {info.name.decode()}, "
                              f"which needs dtype {<object>info.descr}")
    return datatype


def dtype_of(int enum):
    """Return the numpy dtype of a DataType number.

    Parameters
    ----------
    enum : int
        A ``tensorflow.DataType``, 1 to 33, or 100 more for the reference form.

    Returns
    -------
    numpy.dtype
        ``object`` for strings, resources and variants; the plain integer for quantized types.

    Raises
    ------
    InvalidArgument
        The number is not a known type.
    """
    cdef DataTypeInfo* info = datatype_info(enum)
    if info == NULL:
        raise InvalidArgument(f"DataType {enum} is not one of the known types 1 to {NUM_DATATYPES - 1}")
    return <object>info.descr


def enum_of(dtype):
    """Return the DataType number of a numpy dtype.

    Parameters
    ----------
    dtype : numpy.dtype or anything that ``numpy.dtype`` takes
        Byte order is ignored; ``object``, ``S`` and ``U`` are strings.

    Returns
    -------
    int
        Never a quantized, resource or variant type, which have no dtype of their own.

    Raises
    ------
    InvalidArgument
        No DataType has this dtype.
    """
    cdef cnp.dtype descr = np.dtype(dtype)
    cdef int datatype = _datatype_of_num(descr.num)
    if datatype == 0:
        raise InvalidArgument(f"dtype {descr} has no DataType: use one of "
                              f"{', '.join(sorted({str(d) for d in _DTYPES.values()}))}")
    return datatype


def name_of(int enum):
    """Return the name of a DataType number, such as ``DT_FLOAT`` or ``DT_FLOAT_REF``; the number itself if unknown."""
    if enum > 100:
        return f"{_NAMES[enum - 100]}_REF" if enum - 100 in _NAMES and enum != 100 else str(enum)
    return _NAMES.get(enum, str(enum))
