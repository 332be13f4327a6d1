"""Servers in this process with planes that do what they are told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

import runtime
from runtime.edge import plane
from tests.server import fake_planes

TIMEOUT_S = 20.0


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put fake planes in the place of the real ones; return the list of what happens to them."""
    for name, target in fake_planes.TARGETS.items():
        monkeypatch.setitem(plane.PLANES, name, target)
    fake_planes.events.clear()
    return fake_planes.events


class Client:
    """A channel with raw bytes in and out and a deadline on everything."""

    def __init__(self, address: str, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self.address = address
        self.channel = channel
        self.metadata = metadata

    def unary(self, path: str, request: bytes = b"", timeout: float = TIMEOUT_S) -> bytes:
        return self.channel.unary_unary(path)(request, timeout=timeout, metadata=self.metadata)

    def future(self, path: str, request: bytes = b"", timeout: float = TIMEOUT_S) -> Any:
        return self.channel.unary_unary(path).future(request, timeout=timeout, metadata=self.metadata)

    def stream(self, path: str, request: bytes = b"", timeout: float = TIMEOUT_S) -> Any:
        return self.channel.unary_stream(path)(request, timeout=timeout, metadata=self.metadata)

    def send(self, path: str, requests: Any, timeout: float = TIMEOUT_S) -> bytes:
        return self.channel.stream_unary(path)(iter(requests), timeout=timeout, metadata=self.metadata)

    def both(self, path: str, requests: Any, timeout: float = TIMEOUT_S) -> Any:
        return self.channel.stream_stream(path)(iter(requests), timeout=timeout, metadata=self.metadata)

    def failure(self, path: str, request: bytes = b"", timeout: float = TIMEOUT_S) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            self.unary(path, request, timeout)
        return caught.value


UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@contextlib.contextmanager
def connect(address: str, credentials: Any = None, token: str | None = None, **options: Any) -> Iterator[Client]:
    """Open a channel to an address and close it at the end."""
    arguments = [*UNLIMITED, *((f"grpc.{name}", value) for name, value in options.items())]
    if credentials is None:
        channel = grpc.insecure_channel(address, arguments)
    else:
        channel = grpc.secure_channel(address, credentials, arguments)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with channel:
        yield Client(address, channel, metadata)


@pytest.fixture(params=["native", "grpc"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport in turn: what a client sees must be the same."""
    return str(request.param)


@pytest.fixture
def serving(fake: list[str], transport: str) -> Iterator[Callable[..., runtime.Server]]:
    """Return a function that starts a server with fake planes; all are stopped at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(runtime.Server(**{"transport": transport, **options}))


@pytest.fixture
def client(serving: Callable[..., runtime.Server]) -> Iterator[Client]:
    """A client of a server with fake planes and the default options."""
    with connect(serving().address) as client:
        yield client
