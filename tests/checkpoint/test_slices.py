"""Slice specifications, and keys whose order is the order of what they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.checkpoint.slices import FULL, TensorSlice, parse_shape_and_slice
from runtime.errors import Error, Internal, InvalidArgument


def test_a_specification_is_read() -> None:
    shape, part = parse_shape_and_slice("16 3 0,8:-")
    assert shape == (16, 3)
    assert part == TensorSlice(((0, 8), (0, FULL)))
    assert part.bounds(shape) == ((0, 8), (0, 3))
    assert part.shape(shape) == (8, 3)
    assert str(part) == "0,8:-"
    assert not part.is_full
    assert parse_shape_and_slice("4 5 -:-")[1].is_full


@pytest.mark.parametrize(("text", "kind", "message"), [
    ("3 x 1,2:-", InvalidArgument, "Non numerical dimension in shape_and_slice: 3 x 1,2:-"),
    ("3 4", InvalidArgument, "Expected a pair of numbers or '-' but got '4': string = 4"),
    ("3 4 1,2", Internal, "Mismatching ranks: shape = [3,4], slice = 1,2"),
    ("3 4 2,2:-", Internal, "Extent in dimension 0 out of bounds: shape = [3,4], slice = 2,2:-"),
    ("-", InvalidArgument, "Need least two elements in shape_and_slice specification: -"),
    ("4 -1,2", InvalidArgument, "Expected non-negative start and positive length but got start = -1, length = 2: "
                                "string = -1,2"),
])
def test_a_wrong_specification_is_told(text: str, kind: type[Error], message: str) -> None:
    with pytest.raises(kind) as caught:
        parse_shape_and_slice(text)
    assert caught.value.message == message


extents = st.lists(st.tuples(st.integers(0, 2**40), st.one_of(st.just(FULL), st.integers(1, 2**40))), max_size=4)


@given(extents)
def test_a_slice_travels_as_a_message(parts: list[tuple[int, int]]) -> None:
    part = TensorSlice(tuple((0, FULL) if length == FULL else (start, length) for start, length in parts))
    assert TensorSlice.from_proto(part.to_proto()) == part


@given(st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62))
def test_the_order_of_keys_is_that_of_numbers(left: int, right: int) -> None:
    a, b = (TensorSlice(((value, 1),)).key(b"t") for value in (left, right))
    assert (a < b) == (left < right)
    assert (a == b) == (left == right)


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_the_order_of_keys_is_that_of_names(left: bytes, right: bytes) -> None:
    a, b = (TensorSlice(((0, 1),)).key(name) for name in (left, right))
    assert (a < b) == (left < right)


def test_a_key_as_tensorflow_writes_it() -> None:
    """Two rows of a checkpoint that TensorFlow 2.21 wrote: parts ``0,8:-`` and ``8,8:-`` of the tensor p."""
    assert TensorSlice(((0, 8), (0, FULL))).key(b"p") == bytes.fromhex("0070000101028088807f")
    assert TensorSlice(((8, 8), (0, FULL))).key(b"p") == bytes.fromhex("0070000101028888807f")
    assert TensorSlice(((64, 2**40),)).key(b"\0")[-8:-6] == bytes.fromhex("c040")
