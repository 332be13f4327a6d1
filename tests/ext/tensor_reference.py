"""What a TensorProto means, read from protobuf's own message: slow, plain, and independent of the codec."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

MAX_RANK = 64
MAX_ELEMENTS = 1 << 17

NUMERIC: dict[int, tuple[Any, str]] = {
    1: (np.float32, "float_val"),
    2: (np.float64, "double_val"),
    3: (np.int32, "int_val"),
    4: (np.uint8, "int_val"),
    5: (np.int16, "int_val"),
    6: (np.int8, "int_val"),
    8: (np.complex64, "scomplex_val"),
    9: (np.int64, "int64_val"),
    10: (np.bool_, "bool_val"),
    11: (np.int8, "int_val"),
    12: (np.uint8, "int_val"),
    13: (np.int32, "int_val"),
    14: (ml_dtypes.bfloat16, "half_val"),
    15: (np.int16, "int_val"),
    16: (np.uint16, "int_val"),
    17: (np.uint16, "int_val"),
    18: (np.complex128, "dcomplex_val"),
    19: (np.float16, "half_val"),
    22: (np.uint32, "uint32_val"),
    23: (np.uint64, "uint64_val"),
    24: (ml_dtypes.float8_e5m2, "float8_val"),
    25: (ml_dtypes.float8_e4m3fn, "float8_val"),
    26: (ml_dtypes.float8_e4m3fnuz, "float8_val"),
    27: (ml_dtypes.float8_e4m3b11fnuz, "float8_val"),
    28: (ml_dtypes.float8_e5m2fnuz, "float8_val"),
    29: (ml_dtypes.int4, "int_val"),
    30: (ml_dtypes.uint4, "int_val"),
    31: (ml_dtypes.int2, "int_val"),
    32: (ml_dtypes.uint2, "int_val"),
    33: (ml_dtypes.float4_e2m1fn, "float8_val"),
}
OBJECTS = {7: "string_val", 20: "resource_handle_val", 21: "variant_val"}
ALL_DATATYPES = sorted([*NUMERIC, *OBJECTS])


class Rejected(Exception):
    """The message is well-formed protobuf, but no tensor."""


class TooLarge(Exception):
    """The message announces more elements than a test makes."""


def decode(message: Any) -> tuple[int, np.ndarray[Any, Any]]:
    """Return the DataType and the array that a parsed TensorProto stands for.

    Raises
    ------
    Rejected
        It stands for none.
    TooLarge
        It stands for one of more than ``MAX_ELEMENTS``.
    """
    datatype = message.dtype - 100 if message.dtype > 100 else message.dtype
    if datatype not in NUMERIC and datatype not in OBJECTS:
        raise Rejected(f"dtype {message.dtype}")
    if message.tensor_shape.unknown_rank:
        raise Rejected("unknown rank")
    shape = tuple(dim.size for dim in message.tensor_shape.dim)
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise Rejected(f"shape {shape}")
    widest = 16 if datatype == 18 else 8
    if math.prod(size for size in shape if size) > (2**63 - 1) // widest:
        raise Rejected(f"shape {shape}")
    count = math.prod(shape)
    if count > MAX_ELEMENTS and not message.tensor_content:
        raise TooLarge(f"shape {shape}")
    if datatype in OBJECTS:
        return datatype, _objects(message, datatype, count).reshape(shape)
    return datatype, _numbers(message, datatype, count).reshape(shape)


def _numbers(message: Any, datatype: int, count: int) -> np.ndarray[Any, Any]:
    dtype, field = NUMERIC[datatype]
    dtype = np.dtype(dtype)
    if count == 0:
        return np.empty(0, dtype)
    if message.tensor_content:
        if len(message.tensor_content) != count * dtype.itemsize:
            raise Rejected("content size")
        raw = np.frombuffer(message.tensor_content, np.uint8)
        return (raw != 0) if datatype == 10 else raw.view(dtype)
    values = getattr(message, field)
    if field == "float8_val":
        raw = np.frombuffer(values, np.uint8)
    elif field in ("scomplex_val", "dcomplex_val"):
        parts = np.array(values[: len(values) // 2 * 2], np.float32 if field[0] == "s" else np.float64)
        raw = parts.view(np.uint8)
    elif field in ("float_val", "double_val", "bool_val"):
        raw = np.array(values, dtype).view(np.uint8)
    else:
        wide = np.array([value & 0xFFFFFFFFFFFFFFFF for value in values], np.uint64)
        raw = wide.view(np.uint8).reshape(-1, 8)[:, : dtype.itemsize].reshape(-1)
    elements = raw.reshape(-1, dtype.itemsize)[:count]
    if len(elements) == 0:
        return np.zeros(count, dtype)
    filled = np.concatenate([elements, np.repeat(elements[-1:], count - len(elements), axis=0)])
    return np.ascontiguousarray(filled).reshape(-1).view(dtype)


def _objects(message: Any, datatype: int, count: int) -> np.ndarray[Any, Any]:
    if count == 0:
        return np.empty(0, object)
    if message.tensor_content:
        items = _content_items(message.tensor_content, count)
    else:
        items = list(getattr(message, OBJECTS[datatype]))[:count]
        if datatype != 7:
            items = [item.SerializeToString() for item in items]
        missing = items[-1] if items and datatype == 7 else b""
        items += [missing] * (count - len(items))
    result = np.empty(count, object)
    result[:] = items
    return result


def _content_items(content: bytes, count: int) -> list[bytes]:
    if count > len(content):
        raise Rejected("lengths")
    lengths = []
    position = 0
    for _ in range(count):
        length = shift = 0
        while True:
            if position >= len(content) or shift > 63:
                raise Rejected("lengths")
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if length > 0xFFFFFFFF:
            raise Rejected("length")
        lengths.append(length)
    if sum(lengths) != len(content) - position:
        raise Rejected("total")
    items = []
    for length in lengths:
        items.append(content[position : position + length])
        position += length
    return items


def same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    """Return whether two arrays are equal bit for bit, dtype and shape included.

    Types of less than a byte are compared by value, as their spare bits mean nothing; one NaN is as good as another, as
    values that went through Python's float lose the bits of some.
    """
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype == object:
        return bool(left.tolist() == right.tolist())
    if left.dtype.name in ("int4", "uint4", "int2", "uint2"):
        return bool((left.astype(np.int8) == right.astype(np.int8)).all())
    if left.dtype.name == "float4_e2m1fn":
        return bool((left.astype(np.float32) == right.astype(np.float32)).all())
    if left.dtype.kind in "fc":
        parts = [array.reshape(-1).view(array.real.dtype) for array in (left, right)]
        bits = [part.view(f"u{part.itemsize}") for part in parts]
        return bool(((bits[0] == bits[1]) | (np.isnan(parts[0]) & np.isnan(parts[1]))).all())
    return left.tobytes() == right.tobytes()
