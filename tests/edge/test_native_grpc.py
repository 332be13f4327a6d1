"""The native transport as gRPC's own client sees it."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime.authority import certificates
from runtime.config import Settings
from runtime.edge.live_tls import LiveTls
from runtime.errors import Error, Unauthenticated
from tests.edge.native_service import SERVICE, RunningService, running

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
TIMEOUT_S = 30.0


@pytest.fixture(params=["asyncio", "uvloop"])
def service(request: pytest.FixtureRequest, no_leaks: None) -> Iterator[RunningService]:
    with running(loop_kind=request.param) as found:
        yield found


@pytest.fixture
def channel(service: RunningService) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.address, options=UNLIMITED) as found:
        yield found


def unary(channel: grpc.Channel, name: str) -> Any:
    return channel.unary_unary(SERVICE + name)


@pytest.mark.parametrize("name", ["echo", "now"])
@pytest.mark.parametrize("size", [0, 1, 5, 100, 16383, 16384, 65535, 65536, 1_000_003, 40_000_001])
def test_message_of_any_size_comes_back(channel: grpc.Channel, name: str, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    assert unary(channel, name)(message, timeout=TIMEOUT_S) == message


@pytest.mark.parametrize("size", [0, 1, 7, 8, 16_379, 65_536, 3_000_001, 40_000_003])
def test_answer_in_parts_arrives_whole(channel: grpc.Channel, size: int) -> None:
    request = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert channel.unary_unary(SERVICE + "parts")(request, timeout=20) == request


def test_immediate_method_that_declines_runs_its_handler(channel: grpc.Channel) -> None:
    assert unary(channel, "now")(b"later", timeout=TIMEOUT_S) == b"later"


@pytest.mark.parametrize(("name", "request_", "code", "text"), [
    ("fail", "x \N{SNOWMAN} %".encode(), grpc.StatusCode.FAILED_PRECONDITION, "x \N{SNOWMAN} %"),
    ("fail", b" blanks  ", grpc.StatusCode.FAILED_PRECONDITION, " blanks  "),
    ("now", b"fail", grpc.StatusCode.INVALID_ARGUMENT, "field 'x' is 7; it must be below 5 \N{SNOWMAN} 100%"),
])
def test_domain_error_arrives_with_code_and_text(channel: grpc.Channel, name: str, request_: bytes,
                                                 code: grpc.StatusCode, text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, name)(request_, timeout=TIMEOUT_S)
    assert (caught.value.code(), caught.value.details()) == (code, text)


def test_unexpected_exception_is_internal_and_names_its_type(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, "crash")(b"", timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "ZeroDivisionError" in caught.value.details()


def test_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Echo/nothing")(b"x" * 100_000, timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_metadata_deadline_and_trailers_travel(channel: grpc.Channel) -> None:
    answer, call = unary(channel, "describe").with_call(
        b"", timeout=TIMEOUT_S, metadata=(("x-key", "value"), ("z-bin", b"\x00\x01\xfe")))
    lines = answer.decode().splitlines()
    assert "x-key='value'" in lines
    assert "z-bin=b'\\x00\\x01\\xfe'" in lines
    assert "deadline=True" in lines
    assert dict(call.trailing_metadata())["x-trailer"] == "t"
    assert dict(call.trailing_metadata())["y-bin"] == b"\x00\xff"


def test_deadline_ends_a_waiting_call_and_cancels_its_handler(service: RunningService, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, "wait")(b"", timeout=0.3)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert service.echo.cancelled.wait(5)


def test_cancelled_call_cancels_its_handler(service: RunningService, channel: grpc.Channel) -> None:
    future = unary(channel, "wait").future(b"", timeout=TIMEOUT_S)
    assert service.echo.waiting.wait(5)
    future.cancel()
    assert service.echo.cancelled.wait(5)


@pytest.mark.parametrize(("number", "size"), [(0, 1), (1, 0), (1000, 10), (20, 1_000_000)])
def test_answer_stream_arrives_in_order(channel: grpc.Channel, number: int, size: int) -> None:
    answers = list(channel.unary_stream(SERVICE + "count")(f"{number} {size}".encode(), timeout=TIMEOUT_S))
    assert answers == [bytes([index % 256]) * size for index in range(number)]


def test_error_behind_an_answer_stream_keeps_the_answers(channel: grpc.Channel) -> None:
    answers = channel.unary_stream(SERVICE + "count")(b"3 13", timeout=TIMEOUT_S)
    received = []
    with pytest.raises(grpc.RpcError) as caught:
        for message in answers:
            received.append(message)
    assert len(received) == 3
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "thirteen")


def test_request_stream_is_summed(channel: grpc.Channel) -> None:
    sizes = [0, 1, 100_000, 5_000_000, 3]
    answer = channel.stream_unary(SERVICE + "total")((bytes(size) for size in sizes), timeout=TIMEOUT_S)
    assert int(answer) == sum(sizes)


def test_both_streams_run_at_once(channel: grpc.Channel) -> None:
    sent = [b"ab", b"", b"xyz" * 100_000, b"q"]
    received = list(channel.stream_stream(SERVICE + "chat")(iter(sent), timeout=TIMEOUT_S))
    assert received == [message[::-1] for message in sent]


def test_slow_reader_of_a_request_stream_holds_its_writer(service: RunningService, channel: grpc.Channel) -> None:
    sent = 0

    def messages() -> Iterator[bytes]:
        nonlocal sent
        yield b"hold"
        for _ in range(200):
            sent += 1
            yield bytes(1 << 20)

    future = channel.stream_unary(SERVICE + "total").future(messages(), timeout=TIMEOUT_S)
    assert service.echo.waiting.wait(5)
    stable, since = -1, time.monotonic()
    while time.monotonic() - since < 0.5:  # until the writer has stood still for half a second
        if sent != stable:
            stable, since = sent, time.monotonic()
        time.sleep(0.02)
    assert sent < 100, f"{sent} MiB were taken from the client while nobody read"
    assert service.call(lambda: service.server.account.used) < 16 << 20
    service.loop.call_soon_threadsafe(service.echo.release.set)  # type: ignore[union-attr]
    assert int(future.result()) == 200 * (1 << 20) + 4


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_request_is_understood(service: RunningService, algorithm: grpc.Compression) -> None:
    with grpc.insecure_channel(service.address, options=UNLIMITED, compression=algorithm) as channel:
        message = b"abc" * 100_000
        assert unary(channel, "echo")(message, timeout=TIMEOUT_S) == message


def test_many_calls_at_once_from_many_threads(channel: grpc.Channel) -> None:
    call = unary(channel, "now")

    def one(index: int) -> bool:
        message = bytes([index % 256]) * (index * 37 % 70_000)
        return bool(call(message, timeout=TIMEOUT_S) == message)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(400)))


def test_large_answers_share_one_connection(channel: grpc.Channel) -> None:
    call = unary(channel, "echo")
    messages = [bytes([index]) * 8_000_000 for index in range(6)]
    futures = [call.future(message, timeout=TIMEOUT_S) for message in messages]
    assert [future.result() for future in futures] == messages


def test_unix_socket(tmp_path: Any, no_leaks: None) -> None:
    path = tmp_path / "s"
    with running(unix_path=path) as service, grpc.insecure_channel(service.address) as channel:
        assert unary(channel, "echo")(b"hello", timeout=TIMEOUT_S) == b"hello"


@pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"])
def test_large_messages_over_tls(tmp_path: Path, no_leaks: None, loop_kind: str) -> None:
    certificates.make_authority(tmp_path, "ca", 1)
    chain, key = certificates.make_leaf(tmp_path, tmp_path, "server", ["127.0.0.1"], 1)
    context = LiveTls(Settings(tls_cert=chain, tls_key=key), ["h2"])
    roots = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
    message = bytes(range(256)) * 100_000
    with running(tls=context, loop_kind=loop_kind) as service, grpc.secure_channel(
            service.address, roots, options=UNLIMITED) as channel:
        assert unary(channel, "now")(message, timeout=TIMEOUT_S) == message
        answers = list(channel.stream_stream(SERVICE + "chat")(iter([message, b"ab"]), timeout=TIMEOUT_S))
        assert answers == [message[::-1], b"ba"]


def test_message_beyond_the_cap_is_refused_before_it_arrives(no_leaks: None) -> None:
    with running(limit=1 << 20) as service, grpc.insecure_channel(service.address, options=UNLIMITED) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            unary(channel, "echo")(bytes(2 << 20), timeout=TIMEOUT_S)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(1 << 20) in caught.value.details()
        assert unary(channel, "echo")(b"small", timeout=TIMEOUT_S) == b"small"


def test_compressed_message_that_unfolds_beyond_the_cap_is_refused(no_leaks: None) -> None:
    with running(limit=1 << 20) as service, grpc.insecure_channel(
            service.address, options=UNLIMITED, compression=grpc.Compression.Gzip) as channel:
        bomb = bytes(64 << 20)
        assert len(gzip.compress(bomb)) < 1 << 20
        with pytest.raises(grpc.RpcError) as caught:
            unary(channel, "echo")(bomb, timeout=TIMEOUT_S)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert unary(channel, "echo")(b"small", timeout=TIMEOUT_S) == b"small"


def test_refused_token_is_unauthenticated(no_leaks: None) -> None:
    def authorize(path: str, metadata: Any) -> Error | None:
        assert path.startswith(SERVICE)
        return None if dict(metadata).get("authorization") == "Bearer yes" else Unauthenticated("no token")

    with running(authorize=authorize) as service, grpc.insecure_channel(service.address) as channel:
        for metadata, expected in (((("authorization", "Bearer yes"),), None), ((), grpc.StatusCode.UNAUTHENTICATED)):
            try:
                answer = unary(channel, "now")(b"x", timeout=TIMEOUT_S, metadata=metadata)
                assert expected is None and answer == b"x"
            except grpc.RpcError as error:
                assert error.code() == expected
        with pytest.raises(grpc.RpcError):
            list(channel.stream_stream(SERVICE + "chat")(iter([b"x"]), timeout=TIMEOUT_S))


def test_stop_lets_open_calls_end_and_refuses_new_ones(service: RunningService, channel: grpc.Channel) -> None:
    future = unary(channel, "wait").future(b"", timeout=TIMEOUT_S)
    assert service.echo.waiting.wait(5)
    stopped = service.stop(10.0)
    with pytest.raises(grpc.RpcError) as caught:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            unary(channel, "echo")(b"", timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    service.loop.call_soon_threadsafe(service.echo.release.set)  # type: ignore[union-attr]
    assert future.result() == b"released"
    stopped.result(10)


def test_stop_without_grace_cancels_open_calls(service: RunningService, channel: grpc.Channel) -> None:
    future = unary(channel, "wait").future(b"", timeout=TIMEOUT_S)
    assert service.echo.waiting.wait(5)
    service.stop(0.0).result(10)
    assert service.echo.cancelled.wait(5)
    assert future.exception() is not None


def test_client_that_vanishes_releases_everything(service: RunningService) -> None:
    channel = grpc.insecure_channel(service.address)
    future = unary(channel, "wait").future(b"x" * 1000, timeout=TIMEOUT_S)
    assert service.echo.waiting.wait(5)
    channel.close()
    assert future.done()
    assert service.echo.cancelled.wait(5)


def test_calls_from_many_connections(service: RunningService) -> None:
    def one(index: int) -> bool:
        with grpc.insecure_channel(service.address, options=[("grpc.use_local_subchannel_pool", 1)]) as own:
            return bool(unary(own, "now")(b"%d" % index, timeout=TIMEOUT_S) == b"%d" % index)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(40)))
    assert threading.active_count() < 50
