"""The parser of Examples, beside what the tables of ops compare with TensorFlow."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from runtime._ext.example_codec import ExampleFault, ExampleParser
from tests.ext.tensor_messages import field, varint
from tests.ops.example_messages import NO_INTEGERS, entry, example, feature, features

KEYS, KINDS = [b"s", b"f", b"i"], [1, 2, 3]


def integers(message: bytes) -> list[int]:
    """Return the values of the feature i of one example."""
    counts, values, *_ = ExampleParser(KEYS, KINDS).parse([message])
    assert counts[2, 0] in (-1, values[2].size)
    return [int(value) for value in values[2]]


def test_packed_and_single_numbers_add_up() -> None:
    mixed = field(3, field(1, b"\x01\x02") + b"\x08\x03" + field(1, varint(-1)))
    assert integers(field(1, entry("i", mixed))) == [1, 2, 3, -1]


def test_unknown_fields_are_stepped_over() -> None:
    inside = feature([1]) + field(9, b"zz") + b"\x50\x01"
    assert integers(field(7, b"x") + field(1, entry("i", inside) + b"\x18\x05")) == [1]


def test_of_equal_keys_the_last_counts() -> None:
    assert integers(field(1, features({"i": [1, 2]}) + features({"i": [3]}))) == [3]


def test_of_several_lists_the_last_counts() -> None:
    assert integers(field(1, entry("i", feature(["text"]) + feature([4])))) == [4]


def test_a_feature_without_a_list_is_none_and_an_empty_list_is_one() -> None:
    counts, *_ = ExampleParser(KEYS, KINDS).parse([example(i=NO_INTEGERS), field(1, entry("i", b"")), b""])
    assert counts[2].tolist() == [0, -1, -1]


def test_many_keys_are_told_apart() -> None:
    keys = [f"key{number}".encode() for number in range(500)]
    plain = {key.decode(): [number] for number, key in enumerate(keys)}
    counts, values, *_ = ExampleParser(keys, [3] * 500).parse([example(plain), example({"key7": [70]})])
    assert counts[:, 0].tolist() == [1] * 500
    assert counts[:, 1].sum() == 1 - 499
    assert values[7].tolist() == [7, 70]


@pytest.mark.parametrize(("messages", "place"), [
    ([b"\x07"], (0, -1)), ([b"", example(i=[1.5])], (1, 2)),
    ([field(1, entry("f", field(2, field(1, b"abc"))))], (0, -1)),
    ([field(1, entry("i", field(3, b"\x0a\x05\x01")))], (0, -1)),
    ([field(1, b"\x0a\x7f")], (0, -1)),
])
def test_a_fault_says_where(messages: list[bytes], place: tuple[int, int]) -> None:
    with pytest.raises(ExampleFault) as caught:
        ExampleParser(KEYS, KINDS).parse(messages)
    assert (caught.value.example, caught.value.feature) == place


def test_a_parser_goes_on_after_a_fault() -> None:
    parser = ExampleParser(KEYS, KINDS)
    with pytest.raises(ExampleFault):
        parser.parse([example(s=["kept?"], i=[1, 2]), b"\x07"])
    counts, values, *_ = parser.parse([example(i=[5])])
    assert values[2].tolist() == [5]
    assert values[0].size == 0
    assert counts[:, 0].tolist() == [-1, -1, 1]


def test_keys_and_kinds_are_checked() -> None:
    with pytest.raises(ValueError, match="twice"):
        ExampleParser([b"a", b"a"], [1, 1])
    with pytest.raises(ValueError, match="kind"):
        ExampleParser([b"a"], [4])
    with pytest.raises(TypeError):
        ExampleParser(KEYS, KINDS).parse(["text"])  # type: ignore[list-item]


def test_strings_are_owned_by_the_result_alone() -> None:
    _, values, *_ = ExampleParser(KEYS, KINDS).parse([example(s=["a rather long text" * 9])])
    assert sys.getrefcount(values[0][0]) <= 3
    assert values[0].dtype == np.dtype(object)
