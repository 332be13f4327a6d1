"""What a handler's outcome becomes on the wire."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import grpc
import pytest

from runtime import errors
from tests.server.conftest import Client
from tests.server.fake_planes import PROCESS, RUN_STEP, SEND_LOGS, STREAM_LOGS


def test_answer_of_each_call_form(client: Client) -> None:
    assert client.unary(RUN_STEP, b"echo me") == b"echo me"
    assert list(client.stream(STREAM_LOGS, b"count 3")) == [b"0", b"1", b"2"]
    assert client.send(SEND_LOGS, [b"a", b"bcd", b""]) == b"1,3,0"
    assert list(client.both(PROCESS, [b"x", b"yy"])) == [b"x", b"yy"]


@pytest.mark.parametrize("code", range(1, 17))
def test_domain_error_becomes_its_status(client: Client, code: int) -> None:
    error = client.failure(RUN_STEP, b"code %d" % code)
    assert error.code() is errors.grpc_status(code)
    assert error.details() == f"you asked for {code}"
    assert type(errors.from_rpc_error(error)) is errors.CODES[code]


def test_unexpected_exception_tells_its_type_only_and_is_logged_once(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        error = client.failure(RUN_STEP, b"bug")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "ZeroDivisionError" in error.details()
    assert "secret" not in error.details()
    records = [record for record in caplog.records if record.exc_info]
    assert len(records) == 1
    assert records[0].exc_info is not None
    assert str(records[0].exc_info[1]) == "secret detail"


def test_out_of_memory_is_resource_exhausted(client: Client) -> None:
    assert client.failure(RUN_STEP, b"memory").code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_answer_that_is_not_bytes_is_an_internal_error(client: Client) -> None:
    error = client.failure(RUN_STEP, b"bytearray")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "TypeError" in error.details()


def test_message_that_does_not_parse_is_an_invalid_argument(client: Client) -> None:
    error = client.failure(RUN_STEP, b"parse")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a valid message" in error.details()


def test_error_in_a_stream_comes_after_its_messages(client: Client) -> None:
    call = client.stream(STREAM_LOGS, b"fail")
    assert next(call) == b"first"
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS
    assert caught.value.details() == "after the first"


def test_trailers_of_an_error_are_sent(client: Client) -> None:
    error = client.failure(RUN_STEP, b"trailers")
    assert ("x-note-bin", b"\x00\x01") in [tuple(pair) for pair in error.trailing_metadata()]


@pytest.mark.parametrize("letter", ["x", "\N{SNOWMAN}", "\N{GRINNING FACE}", "%", "\n"])
def test_long_message_arrives_cut(client: Client, letter: str) -> None:
    error = client.failure(RUN_STEP, f"long {letter}".encode())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    text = error.details()
    assert text.endswith(errors.TRUNCATED)
    assert text.removesuffix(errors.TRUNCATED).strip(letter) == ""
    assert len(text.removesuffix(errors.TRUNCATED).encode()) > 1900


def test_client_that_leaves_cancels_the_handler(client: Client, fake: list[str]) -> None:
    future = client.future(RUN_STEP, b"forever")
    _await(lambda: "waiting" in fake)
    future.cancel()
    _await(lambda: "cancelled" in fake)


def test_client_that_leaves_closes_the_stream(client: Client, fake: list[str]) -> None:
    call = client.stream(STREAM_LOGS, b"forever")
    assert next(call) == b"more"
    call.cancel()
    _await(lambda: "stream closed" in fake)


def test_deadline_cancels_the_handler(client: Client, fake: list[str]) -> None:
    assert client.failure(RUN_STEP, b"forever", timeout=0.2).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    _await(lambda: "cancelled" in fake)


def _await(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
