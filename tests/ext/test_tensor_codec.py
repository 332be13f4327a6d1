"""The tensor codec against protobuf's parser and a plain reading of what a TensorProto means."""

from __future__ import annotations

import random
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext.errors import InvalidArgument, ResourceExhausted
from runtime._ext.tensor_codec import decode_tensor, decode_tensor_ex, dtype_of, encode_tensor, enum_of, name_of
from tests.ext import tensor_reference as reference
from tests.ext.tensor_messages import (
    END_GROUP,
    START_GROUP,
    example_array,
    field,
    int_field,
    random_tensor,
    samples,
    shape_field,
    tag,
    tensor,
    varint,
)

SHAPES = ((), (1,), (7,), (2, 3), (0,), (2, 0, 3), (1, 2, 1, 3, 2))
# Enough for whatever the reference makes, strings included.
BUDGET = 1 << 23


def expected(message: bytes) -> Any:
    """Return what protobuf and the reference make of a message: a pair, or the exception type of the codec."""
    try:
        parsed = wire.TensorProto.FromString(message)
    except DecodeError:
        return None
    try:
        return reference.decode(parsed)
    except reference.Rejected:
        return InvalidArgument
    except reference.TooLarge:
        return ResourceExhausted


def _rewritten(array: np.ndarray[Any, Any], datatype: int) -> np.ndarray[Any, Any]:
    """Return the resources or variants in the form that protobuf writes, those it cannot read as they are."""
    cls = wire.ResourceHandleProto if datatype == 20 else wire.VariantTensorDataProto
    result = np.empty(array.size, object)
    for index, item in enumerate(array.reshape(-1)):
        try:
            result[index] = cls.FromString(item).SerializeToString()
        except DecodeError:
            result[index] = item
    return result.reshape(array.shape)


def check_against_reference(message: bytes) -> None:
    """Decode and compare; where protobuf rejects the message the codec may do either."""
    wanted = expected(message)
    try:
        datatype, array = decode_tensor_ex(message, max_bytes=BUDGET)
    except (InvalidArgument, ResourceExhausted) as error:
        # Inside a group that it skips, protobuf's C library lets field number 0 pass.
        lenient = "field number 0" in str(error) and b"\x00" in message
        assert wanted is None or type(error) is wanted or lenient, f"{message.hex()}: {error}"
        return
    if wanted is None or (wanted is ResourceExhausted and array.nbytes <= BUDGET):
        return
    assert isinstance(wanted, tuple), f"{message.hex()}: decoded, wanted {wanted}"
    if datatype in (20, 21):
        # The codec hands on the bytes as they came, protobuf writes them anew.
        array, wanted = _rewritten(array, datatype), (wanted[0], _rewritten(wanted[1], datatype))
    assert datatype == wanted[0], message.hex()
    assert reference.same(array, wanted[1]), message.hex()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("datatype", reference.ALL_DATATYPES)
def test_every_type_round_trips(datatype: int, shape: tuple[int, ...]) -> None:
    array = example_array(datatype, shape)
    got_type, got = decode_tensor_ex(encode_tensor(array, datatype))
    assert got_type == datatype
    assert reference.same(got, array)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("datatype", reference.ALL_DATATYPES)
def test_encoding_is_what_protobuf_writes(datatype: int, shape: tuple[int, ...]) -> None:
    array = example_array(datatype, shape)
    message = wire.TensorProto(dtype=datatype)
    message.tensor_shape.SetInParent()
    for size in shape:
        message.tensor_shape.dim.add(size=size)
    if datatype in reference.OBJECTS:
        items = list(array.reshape(-1))
        message.tensor_content = b"".join(varint(len(item)) for item in items) + b"".join(items)
    else:
        message.tensor_content = array.tobytes()
    assert encode_tensor(array, datatype) == message.SerializeToString()


@pytest.mark.parametrize("name", samples())
def test_samples_decode_as_the_reference_says(name: str) -> None:
    check_against_reference(samples()[name])


@pytest.mark.parametrize("seed", range(8))
def test_random_messages_decode_as_the_reference_says(seed: int) -> None:
    rng = random.Random(seed)
    decoded = 0
    for _ in range(400):
        message = random_tensor(rng)
        check_against_reference(message)
        decoded += isinstance(expected(message), tuple)
    assert decoded > 250, "most random messages have to be tensors for this test to mean anything"


@pytest.mark.parametrize("datatype", [1, 3, 5, 9, 10, 14, 18, 7, 29])
@pytest.mark.parametrize(
    "change",
    [lambda a: a.T, lambda a: a[::-1], lambda a: a[:, ::2], lambda a: np.asfortranarray(a), lambda a: a[1:, 1:]],
    ids=["transposed", "reversed", "strided", "fortran", "inner"],
)
def test_any_memory_layout_encodes_in_row_major_order(datatype: int, change: Any) -> None:
    view = change(example_array(datatype, (4, 6)))
    assert encode_tensor(view, datatype) == encode_tensor(np.array(view, order="C", copy=True), datatype)


@pytest.mark.parametrize("dtype", ["i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])
def test_big_endian_arrays_encode_like_little_endian_ones(dtype: str) -> None:
    array = np.arange(6).astype("<" + dtype)
    assert encode_tensor(array.astype(">" + dtype)) == encode_tensor(array)


def test_misaligned_and_broadcast_arrays_encode() -> None:
    raw = np.zeros(17, np.uint8)
    misaligned = raw[1:].view(np.float32)
    misaligned[:] = [1, 2, 3, 4]
    assert not misaligned.flags.aligned
    assert decode_tensor(encode_tensor(misaligned)).tolist() == [1, 2, 3, 4]
    assert decode_tensor(encode_tensor(np.broadcast_to(np.float64(2), (2, 2)))).tolist() == [[2, 2], [2, 2]]


def test_numpy_scalars_encode_as_scalars() -> None:
    assert decode_tensor(encode_tensor(np.float32(2.5))).shape == ()
    assert decode_tensor(encode_tensor(np.arange(3).sum())).item() == 3


@pytest.mark.parametrize(
    "array",
    [np.array(["a", "é"]), np.array(["a", "é"], object), np.array([b"a", "é".encode()])],
    ids=["U", "str", "S"],
)
def test_text_and_fixed_width_bytes_encode_as_strings(array: np.ndarray[Any, Any]) -> None:
    datatype, got = decode_tensor_ex(encode_tensor(array))
    assert (datatype, got.tolist()) == (7, [b"a", "é".encode()])


def test_objects_with_to_wire_encode_as_resources_and_variants() -> None:
    class Handle:
        def to_wire(self) -> bytes:
            return b"\n\x01d"

    array = np.array([Handle(), b"raw"], object)
    for datatype in (20, 21):
        assert decode_tensor(encode_tensor(array, datatype)).tolist() == [b"\n\x01d", b"raw"]


@pytest.mark.parametrize("datatype", [7, 20, 21])
def test_elements_of_a_wrong_type_are_named(datatype: int) -> None:
    array = np.array([b"a", 5], object)
    with pytest.raises(InvalidArgument, match=rf"element 1 of a {name_of(datatype)} tensor is of type int"):
        encode_tensor(array, datatype)


def test_a_datatype_that_does_not_fit_the_dtype_is_rejected() -> None:
    with pytest.raises(InvalidArgument, match="dtype float64 cannot be sent as DT_FLOAT, which needs dtype float32"):
        encode_tensor(np.zeros(2), 1)
    with pytest.raises(InvalidArgument, match="DataType 77 is not one of"):
        encode_tensor(np.zeros(2), 77)
    with pytest.raises(InvalidArgument, match="has no DataType"):
        encode_tensor(np.zeros(2, "M8[s]"))
    with pytest.raises(InvalidArgument, match="must be a numpy.ndarray, not list"):
        encode_tensor([1, 2])  # type: ignore[arg-type]


def test_content_decodes_to_a_read_only_view_on_the_message() -> None:
    message = encode_tensor(np.arange(1000, dtype=np.float32))
    array = decode_tensor(message)
    assert array.base is message
    assert not array.flags.writeable and not array.flags.owndata
    assert array.flags.c_contiguous


@pytest.mark.parametrize("shift", range(9))
def test_the_aligned_flag_of_a_view_tells_the_truth(shift: int) -> None:
    message = encode_tensor(np.arange(10, dtype=np.float64))
    buffer = b"\0" * shift + message
    array = decode_tensor(buffer, shift)
    assert array.flags.aligned == (array.ctypes.data % 8 == 0)
    assert array.tolist() == list(range(10))


def test_a_view_has_the_flags_numpy_would_give_it() -> None:
    for shape in ((), (5,), (2, 3), (1, 4), (4, 1)):
        array = decode_tensor(encode_tensor(np.ones(shape, np.uint8)))
        fresh = np.ones(shape, np.uint8)
        assert array.flags.f_contiguous == fresh.flags.f_contiguous
        assert array.flags.c_contiguous == fresh.flags.c_contiguous
        assert array.strides == fresh.strides


def test_part_of_a_buffer_decodes() -> None:
    message = encode_tensor(np.arange(3))
    buffer = b"xyz" + message + b"tail"
    assert decode_tensor(buffer, 3, 3 + len(message)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("offset", "end"), [(-1, 2), (3, 2), (0, 9), (9, -1), (0, -2)])
def test_bounds_outside_the_buffer_are_rejected(offset: int, end: int) -> None:
    with pytest.raises(InvalidArgument, match="do not mark a part of a buffer of 4 bytes"):
        decode_tensor(b"\0\0\0\0", offset, end)


def test_only_bytes_are_taken() -> None:
    with pytest.raises(TypeError):
        decode_tensor(bytearray(encode_tensor(np.ones(2))))  # type: ignore[arg-type]


def test_a_splat_fills_the_shape() -> None:
    array = decode_tensor(tensor(1, (300, 1001), field(5, struct.pack("<f", 2.5))))
    assert array.shape == (300, 1001) and (array == 2.5).all() and array.flags.writeable


def test_short_values_repeat_the_last_and_surplus_ones_are_dropped() -> None:
    assert decode_tensor(tensor(6, (4,), field(7, varint(1) + varint(-2)))).tolist() == [1, -2, -2, -2]
    assert decode_tensor(tensor(6, (1,), field(7, varint(1) + varint(-2)))).tolist() == [1]
    assert decode_tensor(tensor(7, (3,), field(8, b"a"), field(8, b"b"))).tolist() == [b"a", b"b", b"b"]


def test_missing_resources_are_empty_rather_than_repeated() -> None:
    assert decode_tensor(tensor(20, (2,), field(14, b"\n\x01d"))).tolist() == [b"\n\x01d", b""]


def test_absent_values_are_zeros_or_empty_strings() -> None:
    assert decode_tensor(tensor(1, (2,))).tolist() == [0, 0]
    assert decode_tensor(tensor(7, (2,))).tolist() == [b"", b""]
    assert decode_tensor(int_field(1, 9)).item() == 0


def test_half_and_bfloat16_values_are_bit_patterns() -> None:
    bits = field(13, varint(0xC000))
    assert decode_tensor(tensor(19, (), bits)).item() == -2
    assert decode_tensor(tensor(14, (), bits)).item() == -2
    assert decode_tensor(tensor(14, (), bits)).dtype == ml_dtypes.bfloat16


def test_bools_other_than_0_and_1_count_as_true() -> None:
    array = decode_tensor(tensor(10, (4,), field(4, b"\0\1\2\xff")))
    assert array.view(np.uint8).tolist() == [0, 1, 1, 1]


def test_reference_types_decode_as_their_base_type() -> None:
    datatype, array = decode_tensor_ex(tensor(103, (1,), field(4, b"\1\0\0\0")))
    assert (datatype, array.tolist()) == (3, [1])


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (tensor(1, (2,), field(4, b"abc")), r"tensor_content \(field 4\) at byte 10 has 3 bytes; 2 elements of "
                                            r"DT_FLOAT in shape \[2\] take 8"),
        (tensor(0, (2,)), r"TensorProto.dtype \(field 1\) .* is 0 \(DT_INVALID\)"),
        (tensor(100, ()), "is 100"),
        (tensor(34, ()), "is 34"),
        (tensor(1, (2, -3)), r"dim\[1\].size is -3"),
        (int_field(1, 1) + field(2, int_field(3, 1)), "unknown_rank"),
        (tensor(1, (2**40, 2**40)), r"\[1099511627776,1099511627776\] has more elements"),
        (tensor(1, (0, 2**40, 2**40)), "has more elements"),
        (tensor(1, (1,) * 65), "has 65 dimensions, more than the (32|64)"),
        (tensor(7, (2,), field(4, b"\1\1a")), "the 2 elements of DT_STRING take 2 bytes, 1 follow"),
        (tensor(7, (2,), field(4, b"\1\xff")), "the length of element 1 of 2 is damaged"),
        (tensor(7, (9,), field(4, b"\1")), "cannot hold the lengths of 9 elements"),
        (int_field(1, 1) + b"\x22\x05ab", r"TensorProto.tensor_content \(field 4\) needs more bytes"),
        (int_field(1, 1) + field(2, b"\x12\x05"), r"TensorShapeProto.dim \(field 2\) needs more bytes"),
        (tensor(1, (1,), field(5, b"abc")), r"TensorProto.float_val \(field 5\)"),
        (tensor(3, (1,), field(7, b"\xff")), r"TensorProto.int_val \(field 7\)"),
        (b"\x00\x00", "field number 0"),
        (b"\x0f", "unknown wire type"),
        (b"\x08" + b"\xff" * 10, "varint of more than 10 bytes"),
        (tag(9, END_GROUP), "ends a group that was not begun"),
        (tag(50, START_GROUP) + tag(51, END_GROUP), "ends a group that was not begun"),
        (tag(50, START_GROUP) * 101 + tag(50, END_GROUP) * 101, "nests groups deeper than 100"),
    ],
)
def test_bad_messages_are_rejected_with_the_reason(message: bytes, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        decode_tensor(message)


def test_the_largest_rank_decodes() -> None:
    rank = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
    assert decode_tensor(tensor(1, (1,) * rank)).ndim == rank


@pytest.mark.parametrize(
    "message",
    [
        tensor(1, (2**31,), field(5, bytes(4))),
        tensor(1, (2**31,)),
        tensor(7, (2**31,), field(8, b"a")),
        tensor(7, (2**31,)),
        tensor(20, (2**31,)),
        tensor(10, (2**50,)),
    ],
    ids=["splat", "zeros", "string-splat", "strings", "resources", "bools"],
)
def test_a_small_message_that_announces_much_meets_the_budget(message: bytes) -> None:
    with pytest.raises(ResourceExhausted, match=r"of shape \[\d+\] needs \d+ bytes, the limit is 1000000"):
        decode_tensor(message, max_bytes=10**6)


def test_the_budget_is_exact_for_numbers() -> None:
    message = tensor(2, (100,), field(6, bytes(8)))
    assert decode_tensor(message, max_bytes=800).shape == (100,)
    with pytest.raises(ResourceExhausted, match="needs 800 bytes, the limit is 799"):
        decode_tensor(message, max_bytes=799)


def test_a_view_costs_no_budget() -> None:
    assert decode_tensor(encode_tensor(np.zeros(10000)), max_bytes=0).shape == (10000,)


def test_string_content_is_charged_for() -> None:
    array = np.array([b"x" * 100] * 10, object)
    message = encode_tensor(array)
    assert decode_tensor(message, max_bytes=2000).tolist() == array.tolist()
    with pytest.raises(ResourceExhausted):
        decode_tensor(message, max_bytes=1000)


def test_dtypes_and_numbers_belong_together() -> None:
    for datatype, (scalar, _) in reference.NUMERIC.items():
        assert dtype_of(datatype) == np.dtype(scalar)
        assert dtype_of(datatype + 100) == np.dtype(scalar)
        plain = {11: 6, 12: 4, 13: 3, 15: 5, 16: 17}.get(datatype, datatype)
        assert enum_of(scalar) == plain
    assert [dtype_of(datatype) for datatype in reference.OBJECTS] == [np.dtype(object)] * 3
    assert enum_of(object) == enum_of("S5") == enum_of("U5") == 7
    assert enum_of(">f4") == 1
    assert enum_of(np.longlong) == enum_of(np.int64) == 9


@pytest.mark.parametrize("number", [0, 34, 100, 134, -1, 2**31 - 1])
def test_numbers_without_a_type_are_rejected(number: int) -> None:
    with pytest.raises(InvalidArgument, match=str(number)):
        dtype_of(number)


def test_names_of_types_are_those_of_the_wire() -> None:
    for value in wire.DataType.DESCRIPTOR.values:
        assert name_of(value.number) == value.name
    assert name_of(77) == "77"


def test_shapes_are_merged_over_repeated_fields() -> None:
    message = int_field(1, 4) + shape_field(2) + field(4, b"abcd") + shape_field(2)
    assert decode_tensor(message).shape == (2, 2)
