"""Every method of every service answers, whatever it is sent, and nothing it is sent harms the others."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

import runtime
from runtime import wire
from runtime.edge import plane
from tests.server.conftest import Client, connect
from tests.server.raw_http2 import Raw

METHODS = sorted(method.path for methods in wire.SERVICES.values() for method in methods.values())
HEALTH = "/grpc.health.v1.Health/Check"
ABSENT = "tests.server.no_such_module:create"


@pytest.fixture(scope="module")
def bare() -> Iterator[Client]:
    """A client of a server on which no plane exists."""
    before = dict(plane.PLANES)
    plane.PLANES.update(dict.fromkeys(before, ABSENT))
    try:
        with runtime.Server() as server, connect(server.address) as client:
            yield client
    finally:
        plane.PLANES.update(before)


def plane_of(path: str) -> str:
    return wire.PLANES.get(path.split("/")[1], "stream")


def call(client: Client, path: str, requests: list[bytes]) -> list[bytes]:
    """Call any method in its own form."""
    _, service, name = path.split("/")
    method = wire.SERVICES[service][name]
    if method.client_streaming and method.server_streaming:
        return list(client.both(path, requests, timeout=5))
    if method.client_streaming:
        return [client.send(path, requests, timeout=5)]
    if method.server_streaming:
        return list(client.stream(path, requests[0], timeout=0.5 if path.endswith("/Watch") else 5))
    return [client.unary(path, requests[0], timeout=5)]


# Metrics are told by every server: tests/observe/test_metrics.py.
@pytest.mark.parametrize("path", [
    path for path in METHODS if plane_of(path) != "edge" and path != "/runtime.v1.Observer/GetMetrics"])
def test_method_of_an_absent_plane_says_what_is_missing(bare: Client, path: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(bare, path, [b""])
    error = caught.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == (
        f"{path[1:]}: the {plane_of(path)} plane is not part of this release; planes available here: none"
    )


def test_all_five_families_are_registered() -> None:
    services = {path.split("/")[1] for path in METHODS}
    assert services >= {
        "tensorflow.MasterService",
        "tensorflow.WorkerService",
        "ArmoniK.api.grpc.v1.Submitter",
        "ArmoniK.api.grpc.v1.Worker",
        "taskqueue.TaskQueue",
        "pb.FunctionDispatcher",
        "pb.ServerDispatcher",
        "pb.WorkerSaver",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_plane_that_was_not_asked_for_says_so(fake: list[str]) -> None:
    with runtime.Server(services=("graph", "task")) as server, connect(server.address) as client:
        error = client.failure("/taskqueue.TaskQueue/ListTasks")
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.details() == (
            "taskqueue.TaskQueue/ListTasks: the command plane is not served here; add it to the services of this "
            "server; planes available here: graph, task"
        )


def test_method_that_a_plane_lacks_says_so(client: Client) -> None:
    error = client.failure("/tensorflow.MasterService/ListDevices")
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == (
        "tensorflow.MasterService/ListDevices: the graph plane does not answer this method in this release; planes "
        "available here: command, graph, task"
    )


@pytest.mark.parametrize("path", ["/tensorflow.eager.EagerService/CreateContext", "/a/b/c", "/x"])
def test_unknown_service_is_unimplemented(bare: Client, path: str) -> None:
    error = bare.failure(path, b"anything")
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "tensorflow.MasterService" in error.details()


def test_refused_method_does_not_read_a_large_request(bare: Client) -> None:
    assert bare.failure("/pb.WorkerSaver/SaveMachine", bytes(64 << 20)).code() is grpc.StatusCode.UNIMPLEMENTED


OK = b"grpc-status\x010"
SMUGGLED = {
    "path that is not UTF-8": {"path": b"/\xff\xfe/Check"},
    "path with a null": {"path": b"/grpc.health.v1.Health/\0Check"},
    "empty path": {"path": b""},
    "path without a slash": {"path": b"nothing"},
    "very long path": {"path": b"/" + b"x" * 100},
    "metadata that is not ASCII": {"headers": ((b"x-a", b"\xff\xfe"),)},
    "binary metadata that is not base64": {"headers": ((b"x-a-bin", b"!!!"),)},
    "metadata that claims a timeout": {"headers": ((b"grpc-timeout", b"99999999999H"),)},
    "unknown compression": {"headers": ((b"grpc-encoding", b"lzma"),), "body": b"\x01\0\0\0\x02xx"},
    "compressed without saying how": {"body": b"\x01\0\0\0\x05hello"},
    "length of 4 GiB": {"body": b"\0\xff\xff\xff\xffhello"},
    "length beyond the body": {"body": b"\0\0\0\0\x09hello"},
    "two messages": {"body": b"\0\0\0\0\0\0\0\0\0\0"},
    "no message": {"body": b""},
    "wrong content type": {"content_type": b"text/html"},
    "wrong method": {"method": b"GET"},
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_malformed_http2_harms_nobody(client: Client, what: str) -> None:
    waiting = client.future("/tensorflow.MasterService/RunStep", b"sleep 0.4")
    with Raw(client.address) as raw:
        raw.call(**SMUGGLED[what])
        raw.read_until_quiet(0.3)
    assert waiting.result(20) == b"slept"
    with Raw(client.address) as raw:
        raw.call()
        assert OK in raw.read_until_quiet(2.0, OK)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\0" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
    ],
)
def test_other_protocols_on_the_port_harm_nobody(client: Client, data: bytes) -> None:
    with Raw(client.address, preface=False) as raw:
        raw.send(data)
        raw.read_until_quiet(0.2)
        assert client.unary(HEALTH) == b"\x08\x01"
