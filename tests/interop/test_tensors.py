"""Checklist 62 to 65 with TensorFlow's client: every type and every encoding."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from tests.interop.programs import Seen, from_task

PROGRAM = "tensors_tf"


def numbers(entry: list[Any]) -> tuple[str, list[int], list[Any]]:
    """Return the type, the shape and the elements of a fetched array that travelled as its bytes."""
    name, shape, raw = entry
    if name == "object":
        return name, shape, raw
    return name, shape, np.frombuffer(base64.b64decode(raw), name).tolist()


def bits(entry: list[Any]) -> tuple[str, list[int], str]:
    """Return the type, the shape and the bytes in hexadecimal of a fetched array."""
    name, shape, raw = entry
    return name, shape, base64.b64decode(raw).hex()


def test_62_every_type_goes_there_and_back(seen: Seen) -> None:
    answer = seen("every_type_there_and_back")
    assert answer["wrong"] == []
    assert len(answer["types"]) == 24


def test_62_all_types_in_one_step(seen: Seen) -> None:
    assert seen("types_that_only_travel") == 0


def test_62_strings_of_every_kind(seen: Seen) -> None:
    assert seen("strings_there_and_back") == []


def test_62_constants_as_the_client_writes_them(seen: Seen) -> None:
    assert seen("constants_as_the_client_writes_them") == []


def test_62_a_resource_handle_can_be_fetched(seen: Seen) -> None:
    assert seen("resource_handle") == ["ndarray", "void8", True]


def test_63_65_the_last_value_repeats_and_absent_ones_are_zero(seen: Seen) -> None:
    answer = {name: numbers(entry) for name, entry in seen("short_and_absent_values").items()}
    assert answer == {
        "splat": ("float32", [2, 3], [2.5] * 6),
        "short": ("float32", [5], [1.0, 2.0, 2.0, 2.0, 2.0]),
        "exact": ("int32", [3], [1, 2, 3]),
        "zeros": ("int32", [2, 2], [0] * 4),
        "zero_scalar": ("float32", [], [0.0]),
        "no_shape": ("float32", [], [4.0]),
        "no_shape_no_value": ("float32", [], [0.0]),
        "empty_strings": ("object", [2], ["", ""]),
        "short_strings": ("object", [3], ["a", "b", "b"]),
        "short_bools": ("bool", [3], [False, True, True]),
        "empty": ("float32", [0, 4], []),
        "empty_strings_of_shape": ("object", [2, 0], []),
        "int64": ("int64", [3], [-(1 << 62), 7, 7]),
        "uint64": ("uint64", [2], [(1 << 64) - 1] * 2),
        "uint32": ("uint32", [2], [(1 << 32) - 1] * 2),
        "double": ("float64", [2], [1e300] * 2),
        "int8": ("int8", [3], [-128, 127, 127]),
        "uint16": ("uint16", [2], [65535, 1]),
    }


def test_64_small_floats_are_raw_bits_and_complex_numbers_interleaved(seen: Seen) -> None:
    answer = {name: bits(entry) for name, entry in seen("bits_of_small_floats_and_complex_numbers").items()}
    assert answer == {
        "half": ("float16", [3], "003c0080007e"),
        "half_splat": ("float16", [3], "00c0" * 3),
        "bfloat16": ("bfloat16", [2], "803f80ff"),
        "float8": ("float8_e4m3fn", [2], "38b8"),
        "complex64": ("complex64", [3], np.array([1 + 2j, 3 - 4j, 3 - 4j], np.complex64).tobytes().hex()),
        "complex128": ("complex128", [2], np.array([0.5 - 0.5j] * 2).tobytes().hex()),
    }


def test_feeds_of_a_wrong_shape_stay_at_the_client_and_others_fail_in_their_kernel(seen: Seen) -> None:
    assert seen("wrong_feeds") == {
        "local": True,
        "default": [[3.0]],
        "fed": [[7.0]],
        "good": [[3.0]],
        "error": from_task(
            3, "Input to reshape is a tensor with 2 values, but the requested shape has 3\n\t [[{{node bad}}]]"
        ),
    }
