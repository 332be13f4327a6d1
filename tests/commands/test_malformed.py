"""What no client of the protocol sends: every call answers with a clear error, and the server goes on."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.conformance.taskqueue.client import Queue, code, serving
from tests.conformance.taskqueue.messages import METHODS

INVALID = grpc.StatusCode.INVALID_ARGUMENT
# The whole of what an arbitrary message may be told; never INTERNAL or UNKNOWN.
EXPECTED = {INVALID, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED}


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    with serving(tmp_path_factory.mktemp("queue"), command_providers=()) as queue:
        yield queue


@pytest.mark.parametrize("name", METHODS)
def test_bytes_of_any_kind(queue: Queue, name: str) -> None:
    chance = random.Random(name)
    form = METHODS[name][2]
    with grpc.insecure_channel(queue.address) as channel:
        for _ in range(60):
            request = chance.randbytes(chance.choice([1, 2, 5, 20, 300]))
            try:
                if form == "stream_unary":
                    channel.stream_unary(f"/taskqueue.TaskQueue/{name}")(iter([request]), timeout=30)
                elif form == "unary_stream":
                    metadata = (("x-tq-follow", "0"),)
                    list(channel.unary_stream(f"/taskqueue.TaskQueue/{name}")(request, timeout=30, metadata=metadata))
                else:
                    channel.unary_unary(f"/taskqueue.TaskQueue/{name}")(request, timeout=30)
            except grpc.RpcError as error:
                assert error.code() in EXPECTED, error  # type: ignore[attr-defined]
    assert queue.tasks() is not None


@pytest.mark.parametrize(("key", "value"), [
    ("x_tq_limit", "-1"), ("x_tq_offset", "many"), ("x_tq_limit", "9" * 30),
])
def test_metadata_that_is_no_number(queue: Queue, key: str, value: str) -> None:
    assert code(lambda: queue.tasks(**{key: value})) is INVALID


def test_metadata_of_workers(queue: Queue) -> None:
    worker = queue.register("w")
    for bad in ("1", "1.2,", "a.b", "1.1;2.1", "1.99999999999"):
        if bad != "1.2,":
            assert code(lambda bad=bad: queue.ping(worker, x_tq_owned=bad)) is INVALID  # type: ignore[misc]
    assert code(lambda: queue.ping(worker, x_tq_ping_hold_ms="soon")) is INVALID
    assert code(lambda: queue.submit("true", x_tq_request_id="x" * 300)) is INVALID
    assert code(lambda: queue.tasks("P" * 65)) is INVALID


def test_a_request_that_is_sent_again_makes_one_task(queue: Queue) -> None:
    first = queue.submit("true", x_tq_request_id="one")
    assert queue.submit("true", x_tq_request_id="one") == first
    assert queue.submit("true", x_tq_request_id="two") != first


def test_large_messages(queue: Queue) -> None:
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    task = queue.submit("true")
    assert code(lambda: queue.register("x" * (9 << 20))) is exhausted
    assert code(lambda: queue.send([(task, "O", "x" * (9 << 20))])) is exhausted
    assert code(lambda: queue.update(task, "x" * (9 << 20))) is exhausted


def test_half_open_connections_hold_nobody(queue: Queue, tmp_path: Path) -> None:
    host, _, port = queue.address.rpartition(":")
    connections = [socket.create_connection((host, int(port))) for _ in range(50)]
    try:
        for connection in connections:
            connection.sendall(b"PRI * HTT")
        assert queue.submit("true") > 0
    finally:
        for connection in connections:
            connection.close()
