"""Requests as messages: large ones a piece at a time, because protobuf keeps the interpreter while it parses."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from runtime._ext.errors import InvalidArgument

__all__ = ["LARGE_BYTES", "parse", "parse_in_pieces"]

_M = TypeVar("_M", bound=Message)

LARGE_BYTES = 256 << 10
"""What protobuf parses in about two milliseconds."""

_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)


def parse(kind: type[_M], request: bytes) -> _M:
    """Return a request as a message.

    Raises
    ------
    InvalidArgument
        If it is none of that kind.
    """
    try:
        return kind.FromString(request)
    except DecodeError as error:
        raise _damaged(kind, request, error) from None


def parse_in_pieces(kind: type[_M], request: bytes) -> _M:
    """Return what `parse` does, letting other threads have the interpreter between pieces.

    Fields of a message may be merged one after the other: repeated ones grow, messages merge, of others the last
    counts. So whole fields make up the pieces, and a message too large for one is taken apart likewise.
    """
    made = kind()
    try:
        _merge(made, memoryview(request))
    except DecodeError as error:
        raise _damaged(kind, request, error) from None
    return made


def _damaged(kind: type[Message], request: bytes, error: DecodeError) -> InvalidArgument:
    return InvalidArgument(
        f"the request is no tensorflow.{kind.DESCRIPTOR.name} message ({len(request)} bytes): {error}"
    )


def _merge(message: Message, data: memoryview) -> None:
    fields = message.DESCRIPTOR.fields_by_number
    begin = position = 0
    size = len(data)
    while position < size:
        start = position
        tag, position = _varint(data, position)
        wire_type = tag & 7
        if wire_type == _BYTES:
            length, position = _varint(data, position)
            if position + length > size:
                break  # protobuf says what is wrong
            if length > LARGE_BYTES:
                field = fields.get(tag >> 3)
                inner = None if field is None else _message_of(message, field)
                if inner is not None:
                    message.MergeFromString(bytes(data[begin:start]))
                    _merge(inner() if callable(inner) else inner, data[position : position + length])
                    begin = position + length
            position += length
        elif wire_type == _VARINT:
            _, position = _varint(data, position)
        elif wire_type == _FIXED64:
            position += 8
        elif wire_type == _FIXED32:
            position += 4
        else:
            break  # groups: none of ours has any
        if position - begin >= LARGE_BYTES:
            message.MergeFromString(bytes(data[begin:position]))
            begin = position
    message.MergeFromString(bytes(data[begin:]))


def _message_of(message: Any, field: Any) -> Any:
    """Return the message to merge a field's content into, or what makes it; None when the field holds no message."""
    if field.message_type is None or field.message_type.GetOptions().map_entry:
        return None
    held = getattr(message, field.name)
    if hasattr(held, "add"):  # a repeated field
        return held.add
    held.SetInParent()
    return held


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            return 0, len(data) + 1  # cut off: the rest is left to protobuf
        byte = data[position]
        position += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result, position
        shift += 7
