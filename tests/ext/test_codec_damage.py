"""Damaged messages: every truncation and changed byte of the samples decodes rightly or raises an Error."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext import step_codec, worker_codec
from runtime._ext.errors import Error
from tests.ext.tensor_messages import example_array, field, random_tensor, samples, tag
from tests.ext.test_tensor_codec import BUDGET, check_against_reference

X = np.arange(3, dtype=np.float32)
S = np.array([b"ab", b""], object)

MESSAGES: dict[str, tuple[Callable[..., Any], str, bytes]] = {
    "run_step": (
        step_codec.scan_run_step, "RunStepRequest",
        step_codec.encode_run_step_request("s", ["x:0", "y"], [X, S], ["f:0"], ["t"], b"\x08\x03", "1", True, -7)),
    "run_step_response": (
        step_codec.scan_run_step_response, "RunStepResponse",
        step_codec.encode_run_step_response(["f:0", "g"], [X, S], None, b"") + b"\x18\x03\x22\x02no"),
    "run_callable": (
        step_codec.scan_run_callable, "RunCallableRequest",
        step_codec.encode_run_callable_request("s", 3, [X, S], 5)),
    "run_callable_response": (
        step_codec.scan_run_callable_response, "RunCallableResponse",
        step_codec.encode_run_callable_response([X, S], None, b"")),
    "run_graph": (
        worker_codec.scan_run_graph, "RunGraphRequest",
        worker_codec.encode_run_graph_request("s", "g", 9, ["k"], [X], ["r"], b"", True, True, True, 4)),
    "run_graph_response": (
        worker_codec.scan_run_graph_response, "RunGraphResponse",
        worker_codec.encode_run_graph_response(["k"], [X], None, b"", [b""], (3, "no"), b"")),
    "recv_tensor": (
        worker_codec.scan_recv_tensor_response, "RecvTensorResponse",
        worker_codec.encode_recv_tensor_response(X, None, False, 99, True)),
}


def damaged(message: bytes) -> Iterator[bytes]:
    """Yield every prefix, every message with one byte changed, dropped or doubled."""
    for end in range(len(message)):
        yield message[:end]
    for index, byte in enumerate(message):
        for value in {byte ^ 1 << bit for bit in range(8)} | {0, 0x7F, 0x80, 0xFF}:
            yield message[:index] + bytes([value]) + message[index + 1 :]
        yield message[:index] + message[index + 1 :]
        yield message[:index] + message[index : index + 1] + message[index:]


@pytest.mark.parametrize("name", samples())
def test_damaged_tensors_decode_as_the_reference_says_or_are_rejected(name: str) -> None:
    for message in damaged(samples()[name]):
        check_against_reference(message)


def test_random_tensors_with_random_damage() -> None:
    rng = random.Random(11)
    for _ in range(3000):
        message = bytearray(random_tensor(rng))
        for _ in range(rng.choice((1, 1, 2, 5))):
            if message:
                message[rng.randrange(len(message))] = rng.randrange(256)
        check_against_reference(bytes(message))


def outline(parsed: Any, kind: str) -> list[Any]:
    """Return the fields of a parsed message that the codec reads, apart from tensors."""
    if kind == "RunStepRequest":
        return [parsed.session_handle, [feed.name for feed in parsed.feed], list(parsed.fetch), list(parsed.target),
                parsed.partial_run_handle, parsed.store_errors_in_response_body, parsed.request_id]
    if kind == "RunStepResponse":
        return [[item.name for item in parsed.tensor], parsed.status_code, parsed.status_error_message]
    if kind == "RunCallableRequest":
        return [parsed.session_handle, parsed.handle, len(parsed.feed), parsed.request_id]
    if kind == "RunCallableResponse":
        return [len(parsed.fetch), parsed.HasField("metadata")]
    if kind == "RunGraphRequest":
        return [parsed.session_handle, parsed.graph_handle, parsed.step_id, [item.name for item in parsed.send],
                list(parsed.recv_key), parsed.is_partial, parsed.is_last_partial_run, parsed.request_id]
    if kind == "RunGraphResponse":
        return [[item.name for item in parsed.recv], len(parsed.partition_graph), parsed.status_code,
                parsed.status_error_message]
    return [parsed.is_dead, parsed.send_start_micros, parsed.require_ack]


def scanned_outline(result: Any, kind: str) -> list[Any]:
    """Return the same from what the codec returned."""
    if kind == "RunStepRequest":
        return [result.session_handle, list(result.feed_names), list(result.fetches), list(result.targets),
                result.partial_run_handle, result.store_errors_in_response_body, result.request_id]
    if kind == "RunStepResponse":
        return [result[0], result[2], result[3]]
    if kind == "RunCallableRequest":
        return [result[0], result[1], len(result[2]), result[3]]
    if kind == "RunCallableResponse":
        return [len(result[0]), result[1] is not None]
    if kind == "RunGraphRequest":
        return [result.session_handle, result.graph_handle, result.step_id, result.send_names, result.recv_keys,
                result.is_partial, result.is_last_partial_run, result.request_id]
    if kind == "RunGraphResponse":
        return [result.names, len(result.partition_graphs), result.status_code, result.status_message]
    return [result[2], result[3], result[5]]


@pytest.mark.parametrize("name", MESSAGES)
def test_damaged_messages_read_as_protobuf_reads_them_or_are_rejected(name: str) -> None:
    scan, kind, message = MESSAGES[name]
    both = 0
    for changed in damaged(message):
        try:
            result = scan(changed, max_bytes=BUDGET)
        except Error:
            continue
        try:
            parsed = getattr(wire, kind).FromString(changed)
        except DecodeError:
            continue
        assert scanned_outline(result, kind) == outline(parsed, kind), changed.hex()
        both += 1
    assert both > len(message), "too few changed messages were readable for this test to mean anything"


@pytest.mark.parametrize("name", MESSAGES)
def test_deep_groups_are_bounded_everywhere(name: str) -> None:
    scan, _, message = MESSAGES[name]
    assert scan(message + tag(60, 3) * 100 + tag(60, 4) * 100) is not None
    for depth in (101, 100000):
        with pytest.raises(Error, match="nests groups deeper than 100"):
            scan(message + tag(60, 3) * depth + tag(60, 4) * depth)


def test_a_length_is_never_trusted() -> None:
    for claimed in (100, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1):
        length = b""
        value = claimed
        while value >= 0x80:
            length += bytes([value & 0x7F | 0x80])
            value >>= 7
        length += bytes([value])
        for name, (scan, _, _) in MESSAGES.items():
            for number in range(1, 12):
                # Numbers that are not a tensor's or a string's are skipped over, by the same length.
                try:
                    scan(tag(number, 2) + length + b"xx")
                except Error:
                    continue
                pytest.fail(f"{name} field {number} with length {claimed} was accepted")


def test_many_pieces_of_one_field_take_linear_time() -> None:
    # 400,000 pieces joined one at a time would copy 80 GB.
    pieces = 400_000
    request = field(5, b"\x08\x01") * pieces + field(2, field(2, b"\x08\x04") * pieces + field(2, field(4, b"\x01")))
    call = step_codec.scan_run_step(request)
    assert call.options is not None and len(call.options) == 2 * pieces
    assert call.feed_values[0].tolist() == 1
    metadata = step_codec.scan_run_step_response(field(2, b"\x08\x01") * pieces)[4]
    assert metadata is not None and len(metadata) == 2 * pieces


def test_many_small_feeds_are_read() -> None:
    array = example_array(1, (1,))
    names = [f"x{index}" for index in range(20000)]
    call = step_codec.scan_run_step(step_codec.encode_run_step_request("s", names, [array] * 20000))
    assert list(call.feed_names) == names and len(call.feed_values) == 20000
