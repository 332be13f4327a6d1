"""Messages for any method, made from its descriptor: a sound one, and every way in which bytes are not one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from runtime import wire

_VARINT, _FIXED64, _LENGTH, _START_GROUP, _FIXED32 = 0, 1, 2, 3, 5
_INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT32,
             FieldDescriptor.CPPTYPE_UINT64}
_FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}
NESTED = 5000


def sample(cls: type[Message], depth: int = 3) -> Message:
    """Return a message with a value in every field, down to a depth."""
    message = cls()
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None and message.WhichOneof(field.containing_oneof.name):
            continue
        _fill(message, field, depth)
    return message


def _fill(message: Any, field: FieldDescriptor, depth: int) -> None:
    if field.message_type is not None:
        if depth == 0:
            return
        if field.message_type.GetOptions().map_entry:
            return
        inner = sample(wire.message_class(field.message_type.full_name), depth - 1)
        if field.is_repeated:
            getattr(message, field.name).append(inner)
        else:
            getattr(message, field.name).CopyFrom(inner)
        return
    value: Any = _scalar(field)
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def _scalar(field: FieldDescriptor) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return b"a" if field.type == FieldDescriptor.TYPE_BYTES else "a"
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return True
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        assert field.enum_type is not None
        return field.enum_type.values[-1].number
    return 1.0 if field.cpp_type in _FLOATS else 1


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def malformed(cls: type[Message], seed: str) -> Iterator[tuple[str, bytes]]:
    """Yield what it is and the bytes. Some may be a message all the same: many fields make a prefix one."""
    source = random.Random(seed)
    for size in (1, 2, 7, 40, 300, 5000):
        yield f"{size} random bytes", source.randbytes(size)
    whole = sample(cls).SerializeToString()
    cuts = range(1, len(whole))
    for cut in source.sample(cuts, min(12, len(cuts))):
        yield f"cut off behind {cut} of {len(whole)} bytes", whole[:cut]
    yield "a varint of eleven bytes", b"\xff" * 11
    yield "field number zero", b"\x00\x01"
    yield "groups in groups", b"\x0b" * NESTED
    yield "a group that ends and never began", b"\x0c"
    for field in cls.DESCRIPTOR.fields:
        yield from _field(field)
    path = _recursion(cls.DESCRIPTOR)
    if path is not None:
        yield "messages in messages", _nested(path)


def _field(field: FieldDescriptor) -> Iterator[tuple[str, bytes]]:
    number, name = field.number, field.name
    is_text = field.cpp_type == FieldDescriptor.CPPTYPE_STRING
    if is_text or field.message_type is not None:
        for length in ((1 << 31) - 1, (1 << 32) + 5, (1 << 63) - 1, (1 << 64) - 1):
            yield f"{name} of {length} bytes", _tag(number, _LENGTH) + varint(length) + b"abc"
    if field.type == FieldDescriptor.TYPE_STRING:
        yield f"{name} that is not UTF-8", _tag(number, _LENGTH) + b"\x02\xff\xfe"
    if field.message_type is not None:
        yield f"{name} that is no message", _tag(number, _LENGTH) + b"\x03\xff\xff\xff"
    own = _LENGTH if is_text or field.message_type is not None else (
        _FIXED32 if field.type == FieldDescriptor.TYPE_FLOAT else
        _FIXED64 if field.type == FieldDescriptor.TYPE_DOUBLE else _VARINT)
    for other, value in ((_VARINT, b"\x07"), (_FIXED64, bytes(8)), (_LENGTH, b"\x01a"), (_FIXED32, bytes(4))):
        if other != own:
            yield f"{name} with the wire type {other}", _tag(number, other) + value
    yield f"{name} as a group", _tag(number, _START_GROUP) + b"\x08\x01"


def _recursion(descriptor: Descriptor) -> list[int] | None:
    """Return the field numbers that lead from a message into one of its own kind for ever, or None."""
    todo: list[tuple[Descriptor, list[int], list[str]]] = [(descriptor, [], [descriptor.full_name])]
    while todo:
        at, path, seen = todo.pop(0)
        for field in at.fields:
            inner = field.message_type
            if inner is None or len(path) > 6:
                continue
            if inner.full_name in seen:
                first = seen.index(inner.full_name)
                return [*path[:first], *((path[first:] + [field.number]) * NESTED)][:NESTED]
            todo.append((inner, [*path, field.number], [*seen, inner.full_name]))
    return None


def _nested(path: list[int]) -> bytes:
    out = b""
    for number in reversed(path):
        out = _tag(number, _LENGTH) + varint(len(out)) + out
    return out
