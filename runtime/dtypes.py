"""The tensor element types: TensorFlow's numbers, names and their numpy dtypes.

A tensor is a ``numpy.ndarray`` everywhere in this project. Types that numpy lacks come from ml-dtypes; quantized types
share the array dtype of their integers; strings, resource handles and variants are object arrays (of ``bytes``, of
handles, of variant values). The `DataType` therefore travels beside the array wherever the array alone cannot tell.

Source: types.proto of TensorFlow 2.21.
"""

from __future__ import annotations

import enum
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["REF_OFFSET", "DataType", "as_datatype", "base", "from_numpy", "is_ref", "to_numpy"]

REF_OFFSET = 100
"""A reference type is its base type's number plus this; it occurs in signatures only, never in a tensor."""


class DataType(enum.IntEnum):
    """Element type of a tensor, numbered as on the wire."""

    INVALID = 0
    FLOAT = 1
    DOUBLE = 2
    INT32 = 3
    UINT8 = 4
    INT16 = 5
    INT8 = 6
    STRING = 7
    COMPLEX64 = 8
    INT64 = 9
    BOOL = 10
    QINT8 = 11
    QUINT8 = 12
    QINT32 = 13
    BFLOAT16 = 14
    QINT16 = 15
    QUINT16 = 16
    UINT16 = 17
    COMPLEX128 = 18
    HALF = 19
    RESOURCE = 20
    VARIANT = 21
    UINT32 = 22
    UINT64 = 23
    FLOAT8_E5M2 = 24
    FLOAT8_E4M3FN = 25
    FLOAT8_E4M3FNUZ = 26
    FLOAT8_E4M3B11FNUZ = 27
    FLOAT8_E5M2FNUZ = 28
    INT4 = 29
    UINT4 = 30
    INT2 = 31
    UINT2 = 32
    FLOAT4_E2M1FN = 33

    @property
    def label(self) -> str:
        """Return the name TensorFlow prints in messages, such as ``float`` or ``int32``."""
        return _LABELS.get(self, self.name.lower())

    @property
    def is_object(self) -> bool:
        """Tell whether arrays of this type hold Python objects (strings, resources, variants)."""
        return self in _OBJECT_TYPES


_OBJECT_TYPES = frozenset({DataType.STRING, DataType.RESOURCE, DataType.VARIANT})
_LABELS: dict[DataType, str] = {}

_NUMPY: dict[DataType, np.dtype[Any]] = {
    DataType.FLOAT: np.dtype(np.float32),
    DataType.DOUBLE: np.dtype(np.float64),
    DataType.INT32: np.dtype(np.int32),
    DataType.UINT8: np.dtype(np.uint8),
    DataType.INT16: np.dtype(np.int16),
    DataType.INT8: np.dtype(np.int8),
    DataType.STRING: np.dtype(object),
    DataType.COMPLEX64: np.dtype(np.complex64),
    DataType.INT64: np.dtype(np.int64),
    DataType.BOOL: np.dtype(np.bool_),
    DataType.QINT8: np.dtype(np.int8),
    DataType.QUINT8: np.dtype(np.uint8),
    DataType.QINT32: np.dtype(np.int32),
    DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    DataType.QINT16: np.dtype(np.int16),
    DataType.QUINT16: np.dtype(np.uint16),
    DataType.UINT16: np.dtype(np.uint16),
    DataType.COMPLEX128: np.dtype(np.complex128),
    DataType.HALF: np.dtype(np.float16),
    DataType.RESOURCE: np.dtype(object),
    DataType.VARIANT: np.dtype(object),
    DataType.UINT32: np.dtype(np.uint32),
    DataType.UINT64: np.dtype(np.uint64),
    DataType.FLOAT8_E5M2: np.dtype(ml_dtypes.float8_e5m2),
    DataType.FLOAT8_E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
    DataType.FLOAT8_E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    DataType.FLOAT8_E4M3B11FNUZ: np.dtype(ml_dtypes.float8_e4m3b11fnuz),
    DataType.FLOAT8_E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    DataType.INT4: np.dtype(ml_dtypes.int4),
    DataType.UINT4: np.dtype(ml_dtypes.uint4),
}
for _name in ("INT2", "UINT2", "FLOAT4_E2M1FN"):  # younger than the oldest ml-dtypes we accept
    if hasattr(ml_dtypes, _name.lower()):
        _NUMPY[DataType[_name]] = np.dtype(getattr(ml_dtypes, _name.lower()))

_QUANTIZED = frozenset({DataType.QINT8, DataType.QUINT8, DataType.QINT16, DataType.QUINT16, DataType.QINT32})
_FROM_NUMPY = {dtype: kind for kind, dtype in _NUMPY.items() if kind not in _QUANTIZED and not kind.is_object}


def is_ref(datatype: int) -> bool:
    """Tell whether a type number denotes a reference."""
    return datatype > REF_OFFSET


def base(datatype: int) -> DataType:
    """Return the type without its reference mark."""
    return DataType(datatype - REF_OFFSET if datatype > REF_OFFSET else datatype)


def to_numpy(datatype: int) -> np.dtype[Any]:
    """Return the numpy dtype of arrays of a type (reference marks are ignored).

    Raises
    ------
    ValueError
        For a type that has no arrays: INVALID, or one that the installed ml-dtypes lacks.
    """
    kind = base(datatype)
    try:
        return _NUMPY[kind]
    except KeyError:
        raise ValueError(f"data type {kind.name} ({int(kind)}) has no arrays here; "
                         "INT2, UINT2 and FLOAT4_E2M1FN need a newer ml-dtypes") from None


def from_numpy(dtype: np.dtype[Any]) -> DataType:
    """Return the type of arrays of a numpy dtype; object, bytes and str arrays are strings.

    Raises
    ------
    ValueError
        If no tensor type has that dtype.
    """
    kind = _FROM_NUMPY.get(dtype)
    if kind is not None:
        return kind
    if dtype.kind in "OSU":
        return DataType.STRING
    native = dtype.newbyteorder("=")
    kind = _FROM_NUMPY.get(native)
    if kind is None:
        raise ValueError(f"numpy dtype {dtype} has no tensor type; cast the array to one of "
                         f"{', '.join(sorted({str(known) for known in _FROM_NUMPY}))}")
    return kind


def as_datatype(value: Any) -> DataType:
    """Return the `DataType` of a number, a name (``float32``, ``float``, ``DT_FLOAT``), a numpy dtype or a type object.

    Objects with an ``as_datatype_enum`` attribute (TensorFlow's own dtypes) are understood too.
    """
    if isinstance(value, DataType):
        return value
    number = getattr(value, "as_datatype_enum", None)
    if number is not None:
        return base(int(number))
    if isinstance(value, int) and not isinstance(value, bool):
        return base(value)
    if isinstance(value, str):
        name = value.removeprefix("DT_").upper()
        if name in DataType.__members__:
            return DataType[name]
        if value in ("string", "str"):
            return DataType.STRING
        short = _SHORT.get(value)
        if short is not None:
            return short
    return from_numpy(np.dtype(value))


_SHORT = {
    "f16": DataType.HALF, "bf16": DataType.BFLOAT16, "f32": DataType.FLOAT, "f64": DataType.DOUBLE,
    "i8": DataType.INT8, "i16": DataType.INT16, "i32": DataType.INT32, "i64": DataType.INT64,
    "u8": DataType.UINT8, "u16": DataType.UINT16, "u32": DataType.UINT32, "u64": DataType.UINT64,
    "c64": DataType.COMPLEX64, "c128": DataType.COMPLEX128, "bool": DataType.BOOL, "str": DataType.STRING,
    "res": DataType.RESOURCE, "variant": DataType.VARIANT, "bfloat16": DataType.BFLOAT16,
}
