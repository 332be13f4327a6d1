"""Serialized TensorProtos for tests: hand-written fields, a sample of every encoding, and random ones."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np

from runtime import wire
from tests.ext.tensor_reference import ALL_DATATYPES, NUMERIC, OBJECTS

VARINT, FIXED64, BYTES, START_GROUP, END_GROUP, FIXED32 = range(6)
FIELD_NUMBERS = {field.name: field.number for field in wire.TensorProto.DESCRIPTOR.fields}


def varint(value: int) -> bytes:
    """Encode an integer; a negative one takes ten bytes."""
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    """Encode the tag of a field."""
    return varint(number << 3 | wire_type)


def field(number: int, payload: bytes) -> bytes:
    """Encode a length-delimited field."""
    return tag(number, BYTES) + varint(len(payload)) + payload


def int_field(number: int, value: int) -> bytes:
    """Encode a varint field, also when it is 0."""
    return tag(number, VARINT) + varint(value)


def shape_field(*sizes: int) -> bytes:
    """Encode tensor_shape."""
    return field(2, b"".join(field(2, int_field(1, size)) for size in sizes))


def tensor(datatype: int, shape: tuple[int, ...], *fields: bytes) -> bytes:
    """Encode dtype and shape, followed by other encoded fields."""
    return int_field(1, datatype) + shape_field(*shape) + b"".join(fields)


def example_array(datatype: int, shape: tuple[int, ...] = (2, 3)) -> np.ndarray[Any, Any]:
    """Return an array of a DataType with values that differ, negative ones included where there are any."""
    count = int(np.prod(shape))
    if datatype in OBJECTS:
        array = np.empty(count, object)
        if datatype == 7:
            array[:] = [bytes([65 + i % 26]) * (i % 4) + b"\x00\xff" * (i % 2) for i in range(count)]
        elif datatype == 20:
            array[:] = [wire.ResourceHandleProto(name=f"v{i}", hash_code=i).SerializeToString() for i in range(count)]
        else:
            array[:] = [
                wire.VariantTensorDataProto(type_name="t", metadata=bytes([i % 256])).SerializeToString()
                for i in range(count)
            ]
        return array.reshape(shape)
    dtype = np.dtype(NUMERIC[datatype][0])
    rng = np.random.default_rng(datatype)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype.kind == "c":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)
    if dtype.kind == "u" or "uint" in dtype.name:
        return rng.integers(0, 4, shape).astype(dtype)
    return rng.integers(-2, 2, shape).astype(dtype)


def samples() -> dict[str, bytes]:
    """Return small messages by name: every type in content form and in typed form, and every odd encoding."""
    found = {}
    for datatype in ALL_DATATYPES:
        array = example_array(datatype, (3,))
        if datatype in OBJECTS:
            content = b"".join(varint(len(item)) for item in array) + b"".join(array)
            number = FIELD_NUMBERS[OBJECTS[datatype]]
            typed = b"".join(field(number, item) for item in array)
        else:
            content = array.tobytes()
            number = FIELD_NUMBERS[NUMERIC[datatype][1]]
            if number in (5, 6, 9, 12, 18):
                typed = field(number, content)
            elif number == 13:
                typed = field(number, b"".join(varint(int(bits)) for bits in array.view(np.uint16)))
            else:
                typed = field(number, b"".join(varint(int(value)) for value in array))
        found[f"{datatype}-content"] = tensor(datatype, (3,), field(4, content))
        found[f"{datatype}-typed"] = tensor(datatype, (3,), typed)
    found |= {
        "nothing": b"",
        "scalar": int_field(1, 1) + field(4, b"\0\0\x80?"),
        "splat": tensor(1, (2, 2), field(5, struct.pack("<f", 1.5))),
        "short": tensor(3, (5,), field(7, varint(-1) + varint(300))),
        "surplus": tensor(9, (2,), field(10, varint(1) + varint(2) + varint(3))),
        "absent": tensor(2, (2,)),
        "empty": tensor(1, (2, 0), field(4, b"abc")),
        "unpacked": tensor(3, (3,), int_field(7, 1), int_field(7, -2), field(7, varint(3))),
        "unpacked-fixed": tensor(1, (2,), tag(5, FIXED32) + b"\0\0\x80?", tag(5, FIXED32) + b"\0\0\0@"),
        "split": field(4, b"\1\2") + tensor(4, (2,), field(4, b"\3\4")),
        "merged-shape": int_field(1, 4) + shape_field(2) + field(4, b"abcd") + shape_field(2),
        "values-before-type": field(7, b"\1\2") + shape_field(2) + int_field(1, 5),
        "reference-type": tensor(101, (), field(5, struct.pack("<f", 2))),
        "unknown-fields": tensor(4, (1,), field(4, b"\7"), field(100, b"x"), int_field(101, 5),
                                 tag(102, FIXED64) + bytes(8)),
        "unknown-group": tensor(4, (1,), tag(50, START_GROUP) + int_field(1, 1) + tag(51, START_GROUP)
                                + tag(51, END_GROUP) + tag(50, END_GROUP), field(4, b"\7")),
        "named-dimension": int_field(1, 4) + field(2, field(2, int_field(1, 1) + field(2, b"batch"))) + field(4, b"\1"),
        "unknown-rank": int_field(1, 1) + field(2, int_field(3, 1)),
        "version": tensor(4, (1,), int_field(3, 7), field(4, b"\1")),
        "bools": tensor(10, (3,), field(4, b"\0\1\2")),
        "half-complex": tensor(8, (2,), field(9, struct.pack("<fff", 1, 2, 3))),
    }
    return found


def _random_values(rng: random.Random, number: int, count: int) -> bytes:
    """Encode ``count`` values of a typed field in packed and unpacked pieces."""
    if number == 18:
        return field(number, rng.randbytes(count))
    if number in (8, 14, 15):
        payload = {
            8: lambda: rng.randbytes(rng.randrange(6)),
            14: lambda: wire.ResourceHandleProto(name="r", hash_code=rng.getrandbits(64)).SerializeToString(),
            15: lambda: wire.VariantTensorDataProto(metadata=rng.randbytes(3)).SerializeToString(),
        }[number]
        return b"".join(field(number, payload()) for _ in range(count))
    width = {5: 4, 9: 4, 6: 8, 12: 8}.get(number)
    out = b""
    while count:
        piece = rng.randint(1, count)
        count -= piece
        if width:
            raw = [rng.randbytes(width) for _ in range(piece)]
            one = tag(number, FIXED32 if width == 4 else FIXED64)
        else:
            raw = [varint(rng.choice((0, 1, -1, rng.getrandbits(7), rng.getrandbits(32), -rng.getrandbits(31),
                                      rng.getrandbits(64)))) for _ in range(piece)]
            one = tag(number, VARINT)
        out += field(number, b"".join(raw)) if rng.random() < 0.7 else b"".join(one + value for value in raw)
    return out


def random_tensor(rng: random.Random) -> bytes:
    """Return a well-formed message, which need not be a tensor: fields in any order, split, doubled, unknown."""
    datatype = rng.choice(ALL_DATATYPES) if rng.random() < 0.97 else rng.choice((0, 34, 99, 100, 119, 2**31 + 1))
    shape = [rng.choice((0, 1, 1, 2, 3, 4)) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 5)))]
    if rng.random() < 0.02:
        shape.append(rng.choice((-1, 2**40, 2**62, 10**6)))
    count = 1
    for size in shape:
        count *= size
    parts = [int_field(1, datatype)]
    cut = rng.randint(0, len(shape))
    parts += [shape_field(*shape)] if rng.random() < 0.8 else [shape_field(*shape[:cut]), shape_field(*shape[cut:])]
    known = datatype if datatype in ALL_DATATYPES else 1
    form = rng.random()
    if form < 0.45:
        size = min(max(count, 0), 4096)
        if known in OBJECTS:
            items = [rng.randbytes(rng.choice((0, 1, 5, 200))) for _ in range(size)]
            if known != 7:
                items = [wire.ResourceHandleProto(name="r").SerializeToString() for _ in items]
            content = b"".join(varint(len(item)) for item in items) + b"".join(items)
        else:
            content = rng.randbytes(size * np.dtype(NUMERIC[known][0]).itemsize)
        if rng.random() < 0.1:
            content += rng.randbytes(rng.randint(1, 9))
        parts.append(field(4, content))
    elif form < 0.95:
        number = FIELD_NUMBERS[OBJECTS[known] if known in OBJECTS else NUMERIC[known][1]]
        components = 2 if known in (8, 18) else 1
        wanted = min(max(count, 0), 100) * components
        parts.append(_random_values(rng, number, rng.choice((0, 1, wanted, max(wanted - 1, 0), wanted + 3))))
    if rng.random() < 0.2:
        parts.append(rng.choice((int_field(3, 9), field(1000, b"abc"), _random_values(rng, 7, 2),
                                 tag(40, START_GROUP) + field(2, b"") + tag(40, END_GROUP))))
    rng.shuffle(parts)
    return b"".join(parts)
