"""RunStep and RunCallable messages against protobuf's own classes, both ways."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime._ext.errors import InvalidArgument, ResourceExhausted
from runtime._ext.step_codec import (
    RequestPlan,
    ResponsePlan,
    encode_run_callable_request,
    encode_run_callable_response,
    encode_run_step_error,
    encode_run_step_request,
    encode_run_step_response,
    scan_run_callable,
    scan_run_callable_response,
    scan_run_step,
    scan_run_step_response,
)
from runtime._ext.tensor_codec import decode_tensor
from tests.ext import tensor_reference as reference
from tests.ext.tensor_messages import example_array, field, int_field, tensor

X = np.arange(4, dtype=np.float32)
OPTIONS = wire.RunOptions(trace_level=wire.RunOptions.FULL_TRACE, timeout_in_ms=5).SerializeToString()


def random_name(rng: random.Random) -> str:
    return rng.choice(("x", "layer_1/kernel", "é", "", "a" * 300, "x:0")) + str(rng.randrange(5))


def random_arrays(rng: random.Random, count: int) -> tuple[list[np.ndarray[Any, Any]], list[int]]:
    datatypes = [rng.choice(reference.ALL_DATATYPES) for _ in range(count)]
    shapes = [rng.choice(((), (3,), (2, 2), (0, 4), (200,))) for _ in range(count)]
    return [example_array(datatype, shape) for datatype, shape in zip(datatypes, shapes)], datatypes


def same_all(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(map(reference.same, left, right))


def parsed_tensor(message: Any) -> np.ndarray[Any, Any]:
    return reference.decode(message)[1]


def random_request(rng: random.Random) -> tuple[dict[str, Any], bytes]:
    feeds, datatypes = random_arrays(rng, rng.choice((0, 1, 2, 12)))
    arguments: dict[str, Any] = {
        "session_handle": random_name(rng),
        "feed_names": [random_name(rng) for _ in feeds],
        "feed_values": feeds,
        "fetches": [random_name(rng) for _ in range(rng.choice((0, 1, 30)))],
        "targets": [random_name(rng) for _ in range(rng.randrange(3))],
        "options": rng.choice((None, b"", OPTIONS)),
        "partial_run_handle": rng.choice(("", "7")),
        "store_errors": rng.random() < 0.5,
        "request_id": rng.choice((0, 1, -1, 2**63 - 1, -(2**63))),
        "feed_datatypes": datatypes,
    }
    return arguments, encode_run_step_request(**arguments)


@pytest.mark.parametrize("seed", range(6))
def test_requests_read_back_in_protobuf_and_in_the_codec(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        wanted, request = random_request(rng)
        message = wire.RunStepRequest.FromString(request)
        assert message.session_handle == wanted["session_handle"]
        assert [feed.name for feed in message.feed] == wanted["feed_names"]
        assert same_all([parsed_tensor(feed.tensor) for feed in message.feed], wanted["feed_values"])
        assert list(message.fetch) == wanted["fetches"] and list(message.target) == wanted["targets"]
        assert message.HasField("options") == (wanted["options"] is not None)
        assert message.options.SerializeToString() == (wanted["options"] or b"")
        assert message.partial_run_handle == wanted["partial_run_handle"]
        assert message.store_errors_in_response_body == wanted["store_errors"]
        assert message.request_id == wanted["request_id"]
        # Protobuf writes the fields in the same order and in the same way.
        assert message.SerializeToString() == request

        call = scan_run_step(request)
        assert call.session_handle == wanted["session_handle"]
        assert list(call.feed_names) == wanted["feed_names"]
        assert same_all(call.feed_values, wanted["feed_values"])
        assert call.feed_datatypes == wanted["feed_datatypes"]
        assert [name for name, _ in call.feeds] == wanted["feed_names"]
        assert list(call.fetches) == wanted["fetches"] and list(call.targets) == wanted["targets"]
        assert call.options == wanted["options"]
        assert call.partial_run_handle == wanted["partial_run_handle"]
        assert call.store_errors_in_response_body == wanted["store_errors"]
        assert call.request_id == wanted["request_id"]


@pytest.mark.parametrize("seed", range(6))
def test_fields_in_any_order_split_and_unknown(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        message = wire.RunStepRequest.FromString(random_request(rng)[1])
        parts = [wire.RunStepRequest(session_handle=message.session_handle), wire.RunStepRequest(request_id=5),
                 wire.RunStepRequest(request_id=message.request_id)]
        parts += [wire.RunStepRequest(feed=[feed]) for feed in message.feed]
        parts += [wire.RunStepRequest(fetch=[name]) for name in message.fetch]
        parts += [wire.RunStepRequest(target=[name]) for name in message.target]
        parts += [wire.RunStepRequest(options=wire.RunOptions(timeout_in_ms=9)),
                  wire.RunStepRequest(options=wire.RunOptions(trace_level=3)), wire.RunStepRequest()]
        rng.shuffle(parts)
        pieces = [part.SerializeToString() for part in parts]
        pieces.insert(rng.randrange(len(pieces)), field(200, b"new") + int_field(201, 7))
        request = b"".join(pieces)
        merged = wire.RunStepRequest.FromString(request)
        call = scan_run_step(request)
        assert call.session_handle == merged.session_handle
        assert list(call.feed_names) == [feed.name for feed in merged.feed]
        assert same_all(call.feed_values, [parsed_tensor(feed.tensor) for feed in merged.feed])
        assert list(call.fetches) == list(merged.fetch) and list(call.targets) == list(merged.target)
        assert call.options is not None
        assert wire.RunOptions.FromString(call.options) == merged.options
        assert call.request_id == merged.request_id


def test_a_tensor_given_in_two_pieces_is_merged() -> None:
    whole = tensor(1, (4,), field(4, X.tobytes()))
    named = field(1, b"x:0") + field(2, whole[:2]) + field(2, whole[2:])
    assert wire.NamedTensorProto.FromString(named).tensor == wire.TensorProto.FromString(whole)
    call = scan_run_step(field(2, named) + field(2, field(1, b"y:0") + field(2, whole)))
    assert call.feed_names == ("x:0", "y:0")
    assert same_all(call.feed_values, [X, X])


def test_a_name_after_its_tensor_is_found() -> None:
    named = field(2, tensor(1, (), field(4, bytes(4)))) + field(1, b"late")
    assert scan_run_step(field(2, named)).feed_names == ("late",)


def test_a_feed_without_a_name_has_the_empty_name() -> None:
    assert scan_run_step(field(2, field(2, tensor(1, ())))).feed_names == ("",)
    with pytest.raises(InvalidArgument, match=r'feed\[0\] "": TensorProto.dtype'):
        scan_run_step(field(2, b""))


def make_request(**changes: Any) -> bytes:
    arguments: dict[str, Any] = {"session_handle": "s", "feed_names": ["x:0", "y:0"], "feed_values": [X, X],
                                 "fetches": ["f"], "targets": ["t"], "options": OPTIONS}
    return encode_run_step_request(**{**arguments, **changes})


def test_the_key_ignores_what_does_not_belong_to_the_step() -> None:
    key = scan_run_step(make_request()).key
    assert scan_run_step(make_request(session_handle="other", request_id=9, partial_run_handle="1",
                                      feed_values=[X, np.zeros(3)], store_errors=False)).key == key


@pytest.mark.parametrize(
    "change",
    [
        {"feed_names": ["y:0", "x:0"]},
        {"feed_names": ["x:0"], "feed_values": [X]},
        {"fetches": []},
        {"fetches": ["f", "f"]},
        {"fetches": ["t"], "targets": ["f"]},
        {"fetches": ["f", "t"], "targets": []},
        {"targets": ["t", ""]},
        {"options": None},
        {"options": b""},
        {"options": wire.RunOptions(timeout_in_ms=6).SerializeToString()},
    ],
    ids=str,
)
def test_the_key_changes_with_what_belongs_to_the_step(change: dict[str, Any]) -> None:
    assert scan_run_step(make_request(**change)).key != scan_run_step(make_request()).key


def test_equal_steps_share_their_names() -> None:
    first, second = scan_run_step(make_request()), scan_run_step(make_request(request_id=3))
    assert first.key is second.key and first.feed_names is second.feed_names and first.fetches is second.fetches


def test_more_different_steps_than_the_cache_holds_stay_apart() -> None:
    for _ in range(2):
        for index in range(1500):
            call = scan_run_step(make_request(fetches=[f"fetch{index}"]))
            assert call.fetches == (f"fetch{index}",)
            assert call.feed_names == ("x:0", "y:0")


def test_a_very_long_signature_is_read() -> None:
    fetches = [f"some/long/scope/{index}:0" for index in range(2000)]
    first, second = (scan_run_step(make_request(fetches=fetches)) for _ in range(2))
    assert list(first.fetches) == fetches and first.key == second.key


def test_a_bad_feed_is_named_and_the_rest_is_there() -> None:
    bad = field(2, field(1, b"y:0") + field(2, tensor(1, (5,), field(4, b"abc"))))
    with pytest.raises(InvalidArgument, match=r'RunStepRequest.feed\[1\] "y:0": TensorProto.tensor_content') as caught:
        scan_run_step(make_request(feed_names=["x:0"], feed_values=[X], request_id=-8) + bad)
    call = caught.value.call  # type: ignore[attr-defined]
    assert call.session_handle == "s" and call.request_id == -8 and call.store_errors_in_response_body
    assert call.fetches == ("f",) and call.feed_names == ("x:0", "y:0")
    assert same_all(call.feed_values, [X])


def test_all_feeds_share_one_budget() -> None:
    splat = field(2, field(1, b"x") + field(2, tensor(2, (100,))))
    assert len(scan_run_step(splat * 2, max_bytes=1600).feed_values) == 2
    with pytest.raises(ResourceExhausted, match=r'feed\[2\] "x".* the limit is 2000, of which 1600 are used'):
        scan_run_step(splat * 3, max_bytes=2000)


@pytest.mark.parametrize(
    ("request_bytes", "text"),
    [
        (b"\x0a\x05ab", r"RunStepRequest.session_handle \(field 1\) needs more bytes"),
        (field(1, b"\xff\xfe"), r"RunStepRequest.session_handle \(field 1\) at byte 2 is not UTF-8 at its byte 0"),
        (field(3, b"ok\xff"), r"RunStepRequest.fetch \(field 3\) .* is not UTF-8 at its byte 2"),
        (field(2, field(1, b"\xff")), r"NamedTensorProto.name \(field 1\)"),
        (field(2, b"\x12\x7f"), r"NamedTensorProto.tensor \(field 2\) needs more bytes"),
        (b"\x40" + b"\xff" * 11, r"RunStepRequest.request_id \(field 8\) holds a varint"),
    ],
)
def test_damaged_requests_name_the_field(request_bytes: bytes, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        scan_run_step(request_bytes)


@pytest.mark.parametrize("seed", range(4))
def test_responses_read_back_in_protobuf_and_in_the_codec(seed: int) -> None:
    rng = random.Random(seed)
    metadata = wire.RunMetadata(partition_graphs=[wire.GraphDef()]).SerializeToString()
    for _ in range(40):
        arrays, datatypes = random_arrays(rng, rng.choice((0, 1, 3, 20)))
        names = [random_name(rng) for _ in arrays]
        plan = ResponsePlan(names, datatypes)
        for given in (None, b"", metadata):
            response = plan.encode(arrays, given)
            assert response == encode_run_step_response(names, arrays, datatypes, given)
            message = wire.RunStepResponse.FromString(response)
            assert message.SerializeToString() == response
            assert message.HasField("metadata") == (given is not None)
            assert [item.name for item in message.tensor] == names
            assert same_all([parsed_tensor(item.tensor) for item in message.tensor], arrays)
            got_names, got_arrays, code, text, got_metadata = scan_run_step_response(response)
            assert (got_names, code, text, got_metadata) == (names, 0, "", given)
            assert same_all(got_arrays, arrays)


def test_error_responses_carry_code_and_text() -> None:
    for metadata in (None, b""):
        response = encode_run_step_error(9, "é is not ready", metadata)
        message = wire.RunStepResponse.FromString(response)
        assert (message.status_code, message.status_error_message) == (9, "é is not ready")
        assert message.HasField("metadata") == (metadata is not None)
        assert scan_run_step_response(response) == ([], [], 9, "é is not ready", metadata)


def test_a_plan_says_which_array_does_not_fit() -> None:
    plan = ResponsePlan(["a:0", "b:0"], [1, 3])
    assert plan.names == ("a:0", "b:0") and plan.datatypes == (1, 3)
    with pytest.raises(InvalidArgument, match='tensor 1 "b:0": an array of dtype float32 cannot be sent as DT_INT32'):
        plan.encode([X, X])
    with pytest.raises(InvalidArgument, match="1 tensors given where 2 are expected: a:0, b:0"):
        plan.encode([X])
    with pytest.raises(InvalidArgument, match="2 tensor names and 1 datatypes"):
        ResponsePlan(["a", "b"], [1])
    with pytest.raises(InvalidArgument, match="name 0 must be str, not bytes"):
        ResponsePlan([b"a"])  # type: ignore[list-item]


def test_a_response_keeps_the_quantized_type() -> None:
    message = wire.RunStepResponse.FromString(ResponsePlan(["q"], [11]).encode([np.array([-1], np.int8)]))
    assert message.tensor[0].tensor.dtype == wire.DT_QINT8


def test_elements_that_change_while_a_message_is_made_do_no_harm() -> None:
    strings = np.array([b"short", b"short"], object)

    class Grow:
        def to_wire(self) -> bytes:
            strings[:] = [b"x" * 100000, b"y" * 100000]
            return b"done"

    response = encode_run_step_response(["s", "g"], [strings, np.array([Grow()], object)], [7, 21])
    message = wire.RunStepResponse.FromString(response)
    assert decode_tensor(message.tensor[0].tensor.SerializeToString()).tolist() == [b"short", b"short"]


def test_a_request_plan_writes_what_the_function_writes() -> None:
    plan = RequestPlan("s", ["x:0", "y:0"], ["f"], ["t"], OPTIONS)
    assert plan.encode([X, X], 7) == make_request(request_id=7)
    with pytest.raises(InvalidArgument, match="does not fit the 64 signed bits"):
        plan.encode([X, X], 2**63)
    with pytest.raises(InvalidArgument, match="must be str, not int"):
        RequestPlan("s", fetches=[1])  # type: ignore[list-item]


@pytest.mark.parametrize("seed", range(4))
def test_callables_read_back_in_protobuf_and_in_the_codec(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        arrays, datatypes = random_arrays(rng, rng.choice((0, 1, 3, 20)))
        handle, request_id = rng.choice((0, 5)), rng.choice((0, -3))
        request = encode_run_callable_request("s", handle, arrays, request_id, datatypes)
        message = wire.RunCallableRequest.FromString(request)
        assert message.SerializeToString() == request
        assert (message.session_handle, message.handle, message.request_id) == ("s", handle, request_id)
        assert same_all([parsed_tensor(item) for item in message.feed], arrays)
        session, got_handle, got, got_id = scan_run_callable(request)
        assert (session, got_handle, got_id) == ("s", handle, request_id) and same_all(got, arrays)

        response = encode_run_callable_response(arrays, datatypes, b"")
        answer = wire.RunCallableResponse.FromString(response)
        assert answer.SerializeToString() == response and answer.HasField("metadata")
        got, metadata = scan_run_callable_response(response)
        assert same_all(got, arrays) and metadata == b""
        assert scan_run_callable_response(encode_run_callable_response(arrays, datatypes))[1] is None


def test_a_bad_callable_feed_is_named_by_position() -> None:
    good = encode_run_callable_request("s", 1, [X])
    with pytest.raises(InvalidArgument, match=r"RunCallableRequest.feed\[1\]: TensorProto.dtype"):
        scan_run_callable(good + field(3, b""))


def test_damage_in_metadata_or_options_is_left_to_their_reader() -> None:
    assert scan_run_step(field(5, b"\xff")).options == b"\xff"
    assert scan_run_step_response(field(2, b"\xff"))[4] == b"\xff"


def test_nothing_at_all_is_an_empty_request() -> None:
    call = scan_run_step(b"")
    assert call.session_handle == "" and call.feeds == [] and call.fetches == () and call.options is None
    assert isinstance(call.key, bytes)
