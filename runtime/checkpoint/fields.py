"""The wire format of protocol buffers for the few small messages that have no class here."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from runtime._ext.errors import DataLoss

__all__ = ["bytes_field", "double_field", "fixed32_field", "packed_doubles", "read_fields", "read_varint", "varint",
           "varint_field"]

_MAX_VARINT_BYTES = 10


def varint(value: int) -> bytes:
    """Return a number as a varint; negative ones as 64-bit two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """Return the varint at a position and the position behind it.

    Raises
    ------
    DataLoss
        If the data ends within it, or it is longer than ten bytes.
    """
    result = 0
    for index in range(_MAX_VARINT_BYTES):
        if position + index >= len(data):
            break
        byte = data[position + index]
        result |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, position + index + 1
    raise DataLoss(f"a number at byte {position} of {len(data)} has no end")


def varint_field(number: int, value: int) -> bytes:
    """Return a varint field; nothing for 0, the default."""
    return varint(number << 3) + varint(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """Return a field of bytes, text or an encoded message."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def fixed32_field(number: int, value: int) -> bytes:
    """Return a field of four bytes; nothing for 0."""
    return varint(number << 3 | 5) + struct.pack("<I", value) if value else b""


def double_field(number: int, value: float) -> bytes:
    """Return a field of eight bytes."""
    return varint(number << 3 | 1) + struct.pack("<d", value)


def packed_doubles(number: int, values: list[float]) -> bytes:
    """Return a packed repeated field of doubles."""
    return bytes_field(number, struct.pack(f"<{len(values)}d", *values))


def read_fields(data: bytes | memoryview) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and value of each field of a message: int for varints and fixed fields, else bytes.

    Raises
    ------
    DataLoss
        If the data is no message.
    """
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = read_varint(data, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, position = read_varint(data, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise DataLoss(f"a field of wire type {kind} at byte {position} of a message of {len(data)} bytes")
        if position + size > len(data):
            raise DataLoss(f"a field of {size} bytes at byte {position} of a message of {len(data)} bytes")
        chunk = bytes(data[position:position + size])
        position += size
        yield tag >> 3, chunk if kind == 2 else int.from_bytes(chunk, "little")
