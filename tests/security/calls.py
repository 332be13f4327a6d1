"""Every method that a server answers, and calls of them with any bytes: by gRPC's client and a plain HTTP/2 one."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings

from runtime import wire

METHODS = [method for methods in wire.SERVICES.values() for method in methods.values()]
"""From the descriptors: a method that is added is covered by every table of these tests."""

HEALTH = "/grpc.health.v1.Health/Check"
OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, _, PERMISSION_DENIED = range(8)
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = range(8, 15)
DATA_LOSS, UNAUTHENTICATED = 15, 16

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
             ("grpc.use_local_subchannel_pool", 1)]


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    return () if token is None else (("authorization", f"Bearer {token}"),)


def status(
    channel: grpc.Channel, method: wire.MethodType, requests: Sequence[bytes], timeout_s: float = 10.0,
    metadata: Iterable[tuple[str, str]] = (),
) -> tuple[int, str]:
    """Call a method in its own form; return the status as code and text, answers being thrown away."""
    options: dict[str, Any] = {"timeout": timeout_s, "metadata": tuple(metadata)}
    source: Any = iter(requests) if method.client_streaming else requests[0]
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    call = getattr(channel, kind)(method.path)
    try:
        if method.server_streaming:
            for _ in call(source, **options):
                pass
        else:
            call(source, **options)
    except grpc.RpcError as error:
        return error.code().value[0], error.details() or ""
    return OK, ""


class Streams:
    """An HTTP/2 connection on which calls are opened and need not be finished.

    Parameters
    ----------
    address : str
        ``HOST:PORT``.
    tls : ssl.SSLContext, optional
        With ``h2`` among its protocols.
    source : str
        Address to come from: all of 127.0.0.0/8 are this host's, and others to the server.
    """

    def __init__(
        self, address: str, tls: ssl.SSLContext | None = None, server_name: str = "localhost", source: str = ""
    ) -> None:
        host, _, port = address.rpartition(":")
        self.socket: socket.socket = socket.create_connection((host, int(port)), 10, (source, 0) if source else None)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=server_name)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(
            header_encoding=None, validate_inbound_headers=False))
        self.h2.initiate_connection()
        self.statuses: dict[int, tuple[int, str]] = {}
        self.ended: set[int] = set()
        self.received: dict[int, int] = {}
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def open(self, path: str, metadata: Iterable[tuple[str, str]] = (), end: bool = False) -> int:
        """Send the headers of a call and nothing else."""
        stream: int = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test"), ("te", "trailers"),
            ("content-type", "application/grpc"), *metadata,
        ], end_stream=end)
        self.flush()
        return stream

    def send(self, stream: int, message: bytes, end: bool = True) -> None:
        """Send a message of a call, in as many frames as it takes."""
        data = b"\0" + struct.pack(">I", len(message)) + message
        size = self.h2.max_outbound_frame_size
        for start in range(0, len(data), size):
            self.h2.send_data(stream, data[start:start + size], end_stream=end and start + size >= len(data))
        self.flush()

    def read(self, timeout_s: float = 0.5, acknowledge: bool = True) -> bool:
        """Take what the server has sent; return False when it has closed the connection."""
        self.socket.settimeout(timeout_s)
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            return True
        except ConnectionError:
            return False
        if not data:
            return False
        for event in self.h2.receive_data(data):
            if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                fields = dict(event.headers)
                if b"grpc-status" in fields:
                    code, text = int(fields[b"grpc-status"]), fields.get(b"grpc-message", b"").decode()
                    self.statuses[event.stream_id] = code, text
            elif isinstance(event, h2.events.DataReceived):
                self.received[event.stream_id] = self.received.get(event.stream_id, 0) + len(event.data)
                if acknowledge:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.ConnectionTerminated):
                return False
        self.flush()
        return True

    def results(self, streams: Iterable[int], timeout_s: float = 30.0) -> list[tuple[int, str] | None]:
        """Wait until calls have a status; None for those that have got none in time."""
        wanted = list(streams)
        deadline = time.monotonic() + timeout_s
        while any(stream not in self.statuses for stream in wanted) and time.monotonic() < deadline:
            if not self.read():
                break
        return [self.statuses.get(stream) for stream in wanted]
