"""Named arrays as bytes, for payloads and results: ``runtime.v1.NamedArrays``, TensorFlow's tensors with their names.

Any language with protocol buffers can write and read them; nothing in them is ever executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime._ext.tensor_codec import decode_tensor, encode_tensor
from runtime.errors import InvalidArgument

__all__ = ["SINGLE", "decode_arrays", "encode_arrays"]

SINGLE = "value"
"""The name of an array that was given without one."""

_ARRAY = b"\x0a"  # NamedArrays.array
_NAME = b"\x0a"  # NamedTensorProto.name
_TENSOR = b"\x12"  # NamedTensorProto.tensor


def encode_arrays(arrays: Mapping[str, Any] | Any) -> bytes:
    """Return the bytes of named arrays.

    Parameters
    ----------
    arrays : mapping of str to array_like, or array_like
        Any numpy dtype that TensorFlow has, and object arrays of bytes or str; one alone gets the name ``value``.

    Raises
    ------
    InvalidArgument
        For a name that is no text, or an array that no tensor can hold; names it.
    """
    parts: list[bytes] = []
    for name, value in (arrays if isinstance(arrays, Mapping) else {SINGLE: arrays}).items():
        if not isinstance(name, str):
            raise InvalidArgument(f"arrays: the name {name!r} is no text")
        try:
            tensor = encode_tensor(_array(value))
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"array {name!r}: {error}") from error
        key = name.encode()
        inner = b"".join((_NAME, _varint(len(key)), key, _TENSOR, _varint(len(tensor))))
        parts += (_ARRAY, _varint(len(inner) + len(tensor)), inner, tensor)
    return b"".join(parts)


def decode_arrays(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays in ``data`` by name, views on its memory where possible: take them as read-only.

    Raises
    ------
    InvalidArgument
        If it is no NamedArrays, or a tensor in it is damaged.
    """
    found: dict[str, np.ndarray[Any, Any]] = {}
    position = 0
    while position < len(data):
        start, end = _field(data, position, len(data), _ARRAY)
        position = end
        name = b""
        array: np.ndarray[Any, Any] | None = None
        while start < end:
            if data[start : start + 1] == _NAME:
                first, start = _field(data, start, end, _NAME)
                name = data[first:start]
            else:
                first, start = _field(data, start, end, _TENSOR)
                array = decode_tensor(data, first, start)
        if array is None:
            raise InvalidArgument(f"named arrays: {name!r} has no tensor")
        try:
            found[name.decode()] = array
        except UnicodeDecodeError:
            raise InvalidArgument(f"named arrays: the name {name!r} is not UTF-8") from None
    return found


def _array(value: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(value)
    if array.dtype.kind in "US":
        flat = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
        strings = np.empty(len(flat), object)
        strings[:] = flat
        return strings.reshape(array.shape)
    return array


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(data: bytes, position: int, end: int, tag: bytes) -> tuple[int, int]:
    """Return where the content of a field with this tag begins and ends."""
    if data[position : position + 1] != tag:
        raise InvalidArgument(f"the bytes are no named arrays: field {data[position] >> 3} at byte {position}")
    size = shift = 0
    position += 1
    while True:
        if position >= end or shift > 63:
            raise InvalidArgument("named arrays: the bytes end inside a field")
        byte = data[position]
        position += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if size > end - position:
        raise InvalidArgument("named arrays: the bytes end inside a field")
    return position, position + size
