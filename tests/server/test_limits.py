"""The bound on bytes in flight."""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc
import pytest

import runtime
from runtime.edge.limits import Account
from tests.server.conftest import connect
from tests.server.fake_planes import PROCESS, RUN_STEP, SEND_LOGS, STREAM_LOGS

LIMIT = 1 << 20
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
Start = Callable[..., runtime.Server]


def test_message_larger_than_the_limit_is_refused_by_its_length(serving: Start) -> None:
    with connect(serving(max_bytes_in_flight=LIMIT).address) as client:
        error = client.failure(RUN_STEP, bytes(LIMIT + 1))
        assert error.code() is EXHAUSTED
        assert str(LIMIT) in error.details()
        assert str(LIMIT + 1) in error.details()
        assert client.unary(RUN_STEP, b"echo on") == b"echo on"


def test_requests_together_beyond_the_limit_are_refused(serving: Start, fake: list[str]) -> None:
    with connect(serving(max_bytes_in_flight=LIMIT).address) as client:
        slow = client.future(RUN_STEP, b"sleep 1 " + b" " * (LIMIT // 2))
        _wait_for(fake, "sleeping")
        error = client.failure(RUN_STEP, b"echo " + bytes(LIMIT // 2 + 10))
        assert error.code() is EXHAUSTED
        assert str(LIMIT) in error.details()
        assert str(LIMIT // 2 + 15) in error.details()
        assert "max_bytes_in_flight" in error.details()
        assert slow.result(20) == b"slept"
        assert client.unary(RUN_STEP, b"sleep 0 " + b" " * (LIMIT // 2 + 10)) == b"slept"


def test_answers_count(serving: Start) -> None:
    server = serving(max_bytes_in_flight=LIMIT)
    with connect(server.address) as client:
        error = client.failure(RUN_STEP, b"size %d" % (LIMIT + 1))
        assert error.code() is EXHAUSTED
        assert "an answer of" in error.details()
        assert len(client.unary(RUN_STEP, b"size %d" % (LIMIT // 2))) == LIMIT // 2


def test_stream_messages_count_one_at_a_time(serving: Start) -> None:
    half = LIMIT // 2
    with connect(serving(max_bytes_in_flight=LIMIT).address) as client:
        assert client.send(SEND_LOGS, [bytes(half)] * 5) == b",".join([b"%d" % half] * 5)
        assert [len(m) for m in client.stream(STREAM_LOGS, b"sizes %d,%d,%d" % (half, half, half))] == [half] * 3
        assert [len(m) for m in client.both(PROCESS, [bytes(half - 10)] * 4)] == [half - 10] * 4
        with pytest.raises(grpc.RpcError) as caught:
            list(client.stream(STREAM_LOGS, b"sizes 5,%d" % (LIMIT + 1)))
        assert caught.value.code() is EXHAUSTED


def test_everything_is_given_back(serving: Start, fake: list[str]) -> None:
    server = serving(max_bytes_in_flight=LIMIT)
    account = server._listener.account  # type: ignore[union-attr]
    with connect(server.address) as client:
        for request in (b"echo x", b"bug", b"code 5", b"size 200000", b"size 2000000"):
            future = client.future(RUN_STEP, request)
            future.exception(20)
        gone = client.future(RUN_STEP, b"forever " + bytes(1000))
        _wait_for(fake, "waiting")
        gone.cancel()
        _wait_for(fake, "cancelled")
        list(client.stream(STREAM_LOGS, b"sizes 100000,7"))
        stream = client.stream(STREAM_LOGS, b"forever")
        next(stream)
        stream.cancel()
        _wait_for(fake, "stream closed")
        client.send(SEND_LOGS, [bytes(70000)] * 3)
    _until(lambda: account.used == 0)
    assert account.num_calls >= 9


def test_servers_of_one_process_share_the_bound(serving: Start, fake: list[str]) -> None:
    first, second = serving(max_bytes_in_flight=LIMIT), serving(max_bytes_in_flight=LIMIT)
    with connect(first.address) as one, connect(second.address) as other:
        slow = one.future(RUN_STEP, b"sleep 1 " + b" " * (LIMIT - 1000))
        _wait_for(fake, "sleeping")
        assert other.failure(RUN_STEP, b"echo " + bytes(2000)).code() is EXHAUSTED
        assert slow.result(20) == b"slept"
        assert other.unary(RUN_STEP, b"echo " + b"x" * 2000)


def test_closed_account_does_not_count() -> None:
    first, second = Account(100), Account(100)
    first.open()
    second.open()
    first.used = 80
    assert not second.fits(30)
    first.close()
    assert second.fits(30)
    second.close()
    assert second.others == ()


def test_large_message_passes_without_a_limit_of_its_own(serving: Start) -> None:
    with connect(serving().address) as client:
        # Above gRPC's default of 4 MiB in both directions.
        request = b"echo " + b"x" * (9 << 20)
        assert client.unary(RUN_STEP, request) == request


def _wait_for(events: list[str], event: str) -> None:
    _until(lambda: event in events)


def _until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("not reached in time")
