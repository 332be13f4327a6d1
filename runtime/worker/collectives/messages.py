"""RecvBufResponse, whose content lies in an Any in its transport_options: written without a copy, read as a view."""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext.errors import InvalidArgument
from runtime._ext.message_parts import MessageParts

__all__ = ["content_of", "encode_buffer"]

_URL = b"type.googleapis.com/tensorflow.RecvBufRespExtra"
_BYTES_FIELD_1, _BYTES_FIELD_2, _BYTES_FIELD_4 = b"\x0a", b"\x12", b"\x22"


def encode_buffer(array: Any, send_start_micros: int) -> bytes | MessageParts:
    """Return the serialized RecvBufResponse with an array's bytes as one piece of content."""
    array = np.ascontiguousarray(array)
    size = array.nbytes
    inner = b"" if size == 0 else _BYTES_FIELD_1 + _varint(size)
    any_head = _BYTES_FIELD_1 + _varint(len(_URL)) + _URL + _BYTES_FIELD_2 + _varint(len(inner) + size) + inner
    head = b"\x10" + _varint(size) + _BYTES_FIELD_4 + _varint(len(any_head) + size) + any_head
    tail = b"\x28" + _varint(send_start_micros)
    # Protobuf lets fields come in any order, so what follows the content may stand behind it.
    if size < 1 << 14:
        return b"".join((head, array.tobytes(), tail))
    return MessageParts([head, memoryview(array.reshape(-1).view(np.uint8)), tail])


def content_of(answer: bytes, num_bytes: int) -> memoryview:
    """Return the content of a RecvBufResponse, which must have so many bytes.

    Raises
    ------
    InvalidArgument
        If it is none, or has more or fewer.
    """
    found = _single_piece(answer)
    if found is None:
        try:
            message = wire.RecvBufResponse.FromString(answer)
            extra = wire.RecvBufRespExtra.FromString(message.transport_options.value)
        except DecodeError as error:
            raise InvalidArgument(f"an answer is no RecvBufResponse: {error}") from None
        found = memoryview(b"".join(extra.tensor_content))
    if len(found) != num_bytes:
        raise InvalidArgument(f"RecvBufResponse has {len(found)} bytes of content; {num_bytes} were expected")
    return found


def _single_piece(answer: bytes) -> memoryview | None:
    """Return the content of an answer of the form that `encode_buffer` writes, or None for another form."""
    try:
        if answer[0] != 0x10:
            return None
        _, place = _read(answer, 1)
        if answer[place] != 0x22:
            return None
        length, place = _read(answer, place + 1)
        end = place + length
        head = _BYTES_FIELD_1 + _varint(len(_URL)) + _URL + _BYTES_FIELD_2
        if answer[place:place + len(head)] != head:
            return None
        length, place = _read(answer, place + len(head))
        if place + length != end or end > len(answer):
            return None
        if length == 0:
            return memoryview(b"")
        if answer[place] != 0x0A:
            return None
        length, place = _read(answer, place + 1)
        return memoryview(answer)[place:end] if place + length == end else None
    except IndexError:
        return None


def _read(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise IndexError


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
