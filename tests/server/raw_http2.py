"""Just enough HTTP/2 to send what no gRPC library would."""

from __future__ import annotations

import socket
import struct
import time
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header in HPACK's plainest form: not indexed, not compressed."""
    assert len(name) < 127 and len(value) < 127
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


class Raw:
    """A TCP connection to ``HOST:PORT`` that has said the HTTP/2 preface."""

    def __init__(self, address: str, preface: bool = True) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), 5)
        self.stream = -1
        if preface:
            self.send(PREFACE + frame(SETTINGS, 0, 0, b""))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def call(
        self,
        path: bytes = b"/grpc.health.v1.Health/Check",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        body: bytes = b"\0\0\0\0\0",
        method: bytes = b"POST",
        content_type: bytes = b"application/grpc",
        end: bool = True,
    ) -> None:
        self.stream += 2
        block = b"".join(
            literal(name, value)
            for name, value in (
                (b":method", method),
                (b":scheme", b"http"),
                (b":path", path),
                (b":authority", b"test"),
                (b"te", b"trailers"),
                (b"content-type", content_type),
                *headers,
            )
        )
        self.send(frame(HEADERS, END_HEADERS, self.stream, block))
        self.send(frame(DATA, END_STREAM if end else 0, self.stream, body))

    def read_until_quiet(self, seconds: float, mark: bytes | None = None) -> bytes:
        """Return what arrives until ``mark`` is in it, the peer closes, or ``seconds`` pass."""
        deadline = time.monotonic() + seconds
        received = b""
        while (left := deadline - time.monotonic()) > 0 and not (mark is not None and mark in received):
            self.socket.settimeout(left)
            try:
                chunk = self.socket.recv(65536)
            except TimeoutError:
                break
            except ConnectionError:
                break
            if not chunk:
                break
            received += chunk
        return received

    def closed_within(self, seconds: float) -> bool:
        """Return whether the peer closes the connection in that time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if not self.socket.recv(65536):
                    return True
            except TimeoutError:
                return False
            except ConnectionError:
                return True
        return False
