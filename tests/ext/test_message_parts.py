"""Answers in parts: the same bytes as in one piece, with the arrays' own memory among them."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime._ext.errors import ResourceExhausted
from runtime._ext.message_parts import MessageParts
from runtime._ext.step_codec import ResponsePlan, encode_run_callable_response
from runtime.dtypes import DataType

LARGE = np.arange(100_000, dtype=np.float32)


@pytest.mark.parametrize("arrays", [
    [LARGE],
    [LARGE, np.int32(1), LARGE[::-1], np.zeros((0, 3))],
    [np.array(["a", "b"], object), LARGE.reshape(100, 10, 100), LARGE.reshape(100, 1000).T],
    [LARGE.astype(">f4"), LARGE.astype(ml_dtypes.bfloat16), LARGE.astype(np.complex128)],
    [np.frombuffer(b"x" + LARGE.tobytes(), np.float32, offset=1)],
    [LARGE[:5]],
], ids=["one", "mixed", "strings-and-strides", "types", "unaligned", "small"])
@pytest.mark.parametrize("metadata", [None, b"", b"\x0a\x00" * 20])
def test_parts_join_to_the_message(arrays: list[Any], metadata: bytes | None) -> None:
    plan = ResponsePlan([f"t:{i}" for i in range(len(arrays))])
    apart = plan.encode(arrays, metadata, True)
    whole = plan.encode(arrays, metadata)
    assert bytes(apart) == whole and len(apart) == len(whole)
    assert bytes(encode_run_callable_response(arrays, None, metadata, True)) == encode_run_callable_response(
        arrays, None, metadata)


def test_the_large_array_is_sent_from_its_own_memory_and_lives_on() -> None:
    array = LARGE.copy()
    gone = weakref.ref(array)
    message = ResponsePlan(["t:0"]).encode([array], None, True)
    assert isinstance(message, MessageParts)
    own = np.frombuffer(message.parts[1], np.float32)
    assert np.shares_memory(own, array) and not own.flags.writeable
    del array, own
    gc.collect()
    assert gone() is not None and bytes(message).endswith(LARGE.tobytes())
    del message
    assert gone() is None


def test_what_has_to_be_turned_round_is_one_object() -> None:
    plan = ResponsePlan(["t:0"])
    assert isinstance(plan.encode([LARGE[::-1]], None, True), bytes)
    assert isinstance(plan.encode([LARGE[:100]], None, True), bytes)


def test_a_message_beyond_protobuf_is_refused_in_parts_too() -> None:
    array = np.broadcast_to(np.uint8(0), (1 << 31,))
    whole = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (1 << 31,), (1,))
    for huge in (array, whole):
        with pytest.raises(ResourceExhausted, match="protobuf allows"):
            ResponsePlan(["t:0"], [DataType.UINT8]).encode([huge], None, True)


def test_a_part_that_is_no_buffer_of_bytes_is_refused() -> None:
    for part in ("text", bytearray(3), memoryview(LARGE), memoryview(b"abcd")[::2], None):
        with pytest.raises(TypeError, match="a part of a message"):
            MessageParts([b"a", part])  # type: ignore[list-item]
