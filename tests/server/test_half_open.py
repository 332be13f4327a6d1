"""Connections whose other end says nothing, or is gone without a word, do not pile up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pytest

import runtime
from tests.server.conftest import connect
from tests.server.raw_http2 import PREFACE, Raw

HEALTH = "/grpc.health.v1.Health/Check"


def sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


def test_connection_that_says_nothing_is_closed(serving: Callable[..., runtime.Server]) -> None:
    server = serving(handshake_timeout_s=0.5)
    silent = [Raw(server.address, preface=False) for _ in range(20)]
    for raw in silent:
        assert raw.closed_within(10)
        raw.socket.close()
    with connect(server.address) as client:
        assert client.unary(HEALTH) == b"\x08\x01"


def test_connection_that_stops_in_its_preface_is_closed(serving: Callable[..., runtime.Server]) -> None:
    server = serving(handshake_timeout_s=0.5)
    with Raw(server.address, preface=False) as raw:
        raw.send(PREFACE[:10])
        assert raw.closed_within(10)


def test_peer_that_answers_no_ping_is_dropped(
    serving: Callable[..., runtime.Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.edge import grpc_transport, native

    monkeypatch.setattr(grpc_transport, "KEEPALIVE_TIMEOUT_MS", 1000)
    monkeypatch.setattr(native, "PING_TIMEOUT_S", 1.0)
    monkeypatch.setattr(native, "WATCH_INTERVAL_S", 0.2)
    server = serving(keepalive_s=1)
    with Raw(server.address) as raw:
        # It speaks HTTP/2, but as a dead machine would it never answers the pings that come now.
        assert raw.closed_within(20)


def test_client_that_leaves_in_the_middle_of_a_request_leaves_nothing(
    serving: Callable[..., runtime.Server],
) -> None:
    server = serving()
    with connect(server.address) as client:
        client.unary(HEALTH)
        before = sockets()
        for _ in range(30):
            raw = Raw(server.address)
            raw.call(path=b"/tensorflow.MasterService/RunStep", body=b"\0\0\x10\0\0begin", end=False)
            raw.socket.close()
        for _ in range(1000):
            if sockets() <= before:
                break
            client.unary(HEALTH)
        assert sockets() <= before
        assert server._listener.account.used == 0  # type: ignore[union-attr]
