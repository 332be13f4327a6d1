"""The native transport against clients that speak HTTP/2 frame by frame, well or badly."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import pytest

from runtime._ext.hpack import encode_block
from tests.edge.native_service import SERVICE, RunningService, running

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, COMPRESSION_ERROR, CALM = 1, 3, 6, 9, 11


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(path: str = "echo", **extra: str) -> list[tuple[bytes, bytes]]:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", (SERVICE + path).encode()),
              (b":authority", b"test"), (b"content-type", b"application/grpc"), (b"te", b"trailers")]
    return fields + [(key.replace("_", "-").encode(), value.encode()) for key, value in extra.items()]


def message(body: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(body)) + body


def request(stream: int, body: bytes = b"hi", path: str = "echo") -> bytes:
    return (frame(HEADERS, END_HEADERS, stream, encode_block(headers(path)))
            + frame(DATA, END_STREAM, stream, message(body)))


class RawClient:
    """A socket and the frames that arrive on it."""

    def __init__(self, address: str, greet: bool = True) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.buffer = b""
        if greet:
            self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield (kind, flags, stream, payload) until the server closes."""
        while True:
            while len(self.buffer) >= 9 and len(self.buffer) >= 9 + int.from_bytes(self.buffer[:3], "big"):
                size = int.from_bytes(self.buffer[:3], "big")
                head, payload = self.buffer[:9], self.buffer[9:9 + size]
                self.buffer = self.buffer[9 + size:]
                yield head[3], head[4], int.from_bytes(head[5:9], "big"), payload
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return
            if not data:
                return
            self.buffer += data

    def answer(self, stream: int) -> bytes:
        """Return the message of a unary answer."""
        body = b""
        for kind, flags, where, payload in self.frames():
            if where == stream and kind == DATA:
                body += payload
            if where == stream and kind == HEADERS and flags & END_STREAM:
                return body[5:]
        raise AssertionError("the connection closed before the answer")

    def goaway(self) -> tuple[int, bytes]:
        """Read until the server's GOAWAY; return its error code and text."""
        for kind, _, _, payload in self.frames():
            if kind == GOAWAY:
                return int.from_bytes(payload[4:8], "big"), payload[8:]
        raise AssertionError("the connection closed without a GOAWAY")

    def ended(self) -> int | None:
        """Read until the connection is gone; return the code of a GOAWAY that was not lost with it."""
        code = None
        try:
            for kind, _, _, payload in self.frames():
                if kind == GOAWAY:
                    code = int.from_bytes(payload[4:8], "big")
        except ConnectionError:
            pass
        return code

    def close(self) -> None:
        self.socket.close()


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running() as found:
        yield found


@pytest.fixture
def client(service: RunningService) -> Iterator[RawClient]:
    found = RawClient(service.address)
    yield found
    found.close()
    check = RawClient(service.address)  # whatever this client did, the next one is served
    check.send(request(1, b"alive"))
    assert check.answer(1) == b"alive"
    check.close()


def test_request_split_into_single_bytes(client: RawClient) -> None:
    for byte in request(1, b"slow"):
        client.send(bytes([byte]))
    assert client.answer(1) == b"slow"


def test_message_spread_over_small_padded_frames(client: RawClient) -> None:
    body = message(bytes(range(256)) * 4)
    parts = [body[index:index + 7] for index in range(0, len(body), 7)]
    data = frame(HEADERS, END_HEADERS, 1, encode_block(headers()))
    for index, part in enumerate(parts):
        flags = PADDED | (END_STREAM if index == len(parts) - 1 else 0)
        data += frame(DATA, flags, 1, bytes([index % 20]) + part + bytes(index % 20))
    client.send(data)
    assert client.answer(1) == bytes(range(256)) * 4


def test_header_block_in_continuations_with_priority_and_padding(client: RawClient) -> None:
    block = encode_block(headers())
    client.send(frame(HEADERS, 0x20 | PADDED, 1, b"\x03" + bytes(5) + block[:10] + bytes(3))
                + frame(CONTINUATION, 0, 1, block[10:20]) + frame(CONTINUATION, END_HEADERS, 1, block[20:])
                + frame(DATA, END_STREAM, 1, message(b"joined")))
    assert client.answer(1) == b"joined"


def test_unknown_frames_settings_and_priority_are_ignored(client: RawClient) -> None:
    client.send(frame(0x42, 0xFF, 0, b"??") + frame(PRIORITY, 0, 3, bytes(5))
                + frame(SETTINGS, 0, 0, struct.pack(">HI", 0x99, 7)) + request(1))
    assert client.answer(1) == b"hi"


def test_ping_is_acknowledged(client: RawClient) -> None:
    client.send(frame(PING, 0, 0, b"12345678"))
    assert any(kind == PING and flags == ACK and payload == b"12345678" for kind, flags, _, payload in client.frames())


def test_client_window_bounds_what_is_sent(service: RunningService) -> None:
    client = RawClient(service.address, greet=False)
    client.send(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1000)))
    client.send(frame(HEADERS, END_HEADERS, 1, encode_block(headers()))
                + frame(DATA, END_STREAM, 1, message(bytes(5000))))
    body = b""
    client.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        for kind, _, _, payload in client.frames():
            body += payload if kind == DATA else b""
    assert len(body) == 1000
    client.socket.settimeout(10)
    client.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 3)) + frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 9000)))
    assert len(body + client.answer(1)) + 5 >= 5005
    client.close()


@pytest.mark.parametrize(("data", "code"), [
    (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    (frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
    (frame(HEADERS, END_HEADERS, 2, encode_block(headers())), PROTOCOL_ERROR),
    (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), COMPRESSION_ERROR),
    (frame(HEADERS, END_HEADERS, 1, b"\xc0"), COMPRESSION_ERROR),
    (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x09x"), PROTOCOL_ERROR),
    (frame(HEADERS, 0, 1, b"") + frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
    (frame(CONTINUATION, END_HEADERS, 1, b""), PROTOCOL_ERROR),
    (frame(HEADERS, 0, 1, b"") + b"".join(frame(CONTINUATION, 0, 1, b"") for _ in range(100)), CALM),
    (frame(SETTINGS, 0, 0, b"12345"), FRAME_SIZE_ERROR),
    (frame(SETTINGS, ACK, 0, b"123456"), FRAME_SIZE_ERROR),
    (frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    (frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)), FLOW_CONTROL_ERROR),
    (frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 100)), PROTOCOL_ERROR),
    (frame(PING, 0, 0, b"short"), FRAME_SIZE_ERROR),
    (frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    (frame(RST_STREAM, 0, 1, bytes(4)), PROTOCOL_ERROR),
    (frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), PROTOCOL_ERROR),
    (frame(WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL_ERROR),
    (frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7FFFFFFF)), FLOW_CONTROL_ERROR),
    (frame(WINDOW_UPDATE, 0, 0, b"123"), FRAME_SIZE_ERROR),
    (b"\xff\xff\xff" + bytes([HEADERS, 0]) + bytes(4), FRAME_SIZE_ERROR),
    (b"\xff\xff\xff" + bytes([DATA, 0]) + bytes(4), FRAME_SIZE_ERROR),
    (request(3) + request(1), None),
])
def test_broken_protocol_ends_the_connection_with_its_code(client: RawClient, data: bytes, code: int | None) -> None:
    client.send(data)
    if code is None:  # a stream below the last one is closed already: ignored, not fatal
        assert client.answer(3) == b"hi"
        return
    assert client.goaway()[0] == code


def test_something_else_than_http2_is_closed(service: RunningService) -> None:
    for greeting in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00", bytes(100)):
        client = RawClient(service.address, greet=False)
        client.send(greeting)
        assert client.goaway()[0] == PROTOCOL_ERROR
        client.close()


@pytest.mark.parametrize("data", [
    frame(PING, 0, 0, bytes(8)), frame(SETTINGS, 0, 0), frame(PRIORITY, 0, 1, bytes(5)), frame(0x77, 0, 0)])
def test_flood_of_control_frames_is_ended(client: RawClient, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the server closes while we are sending
        for _ in range(40):
            client.send(data * 500)
    assert client.ended() in (None, CALM)


def test_rapid_resets_are_ended(client: RawClient) -> None:
    block = encode_block(headers("wait"))
    stream = 1
    with contextlib.suppress(ConnectionError):
        for _ in range(60):
            data = b""
            for _ in range(250):
                data += frame(HEADERS, END_HEADERS, stream, block) + frame(RST_STREAM, 0, stream, bytes(4))
                stream += 2
            client.send(data)
    assert client.ended() in (None, CALM)


def test_header_list_that_unfolds_is_refused(client: RawClient) -> None:
    big = encode_block([(b"x", b"y" * 3000)])
    block = b"\x40" + big[1:]  # the same literal, indexed
    client.send(frame(HEADERS, END_HEADERS, 1, block + b"\xbe" * 10_000))
    assert client.goaway()[0] == CALM


@pytest.mark.parametrize(("fields", "status"), [
    ([(b":method", b"GET"), (b":path", b"/")], b"405"),
    ([(b":method", b"POST"), (b":path", b"/"), (b"content-type", b"text/html")], b"415"),
])
def test_plain_http_request_gets_an_answer(service: RunningService, fields: list[tuple[bytes, bytes]],
                                           status: bytes) -> None:
    client = RawClient(service.address)
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, encode_block(fields)))
    for kind, _, stream, payload in client.frames():
        if kind == HEADERS and stream == 1:
            assert status in payload
            break
    client.close()


@pytest.mark.parametrize(("body", "text"), [
    (b"", b"without"), (b"\0\0\0\0\x09abc", b"inside"), (b"\x07\0\0\0\x01a", b"flags"),
    (message(b"a") + message(b"b"), b"more than one"), (b"\x01\0\0\0\x01a", b"grpc-encoding")])
def test_malformed_message_fails_its_call_only(client: RawClient, body: bytes, text: bytes) -> None:
    client.send(frame(HEADERS, END_HEADERS, 1, encode_block(headers())) + frame(DATA, END_STREAM, 1, body))
    seen = b""
    for kind, flags, stream, payload in client.frames():
        if stream == 1 and kind == HEADERS:
            seen += payload
            if flags & END_STREAM:
                break
    assert text in seen
    client.send(request(3, b"next"))
    assert client.answer(3) == b"next"


def _refused(client: RawClient) -> list[int]:
    """Return the kinds of frames of the first stream, up to the end of its answer."""
    kinds = []
    for kind, flags, stream, payload in client.frames():
        if stream == 1:
            kinds.append(kind)
            if kind == HEADERS and flags & END_STREAM:
                assert b"refused" in payload
                return kinds
    raise AssertionError("the connection closed before the answer")


def test_client_is_told_of_a_refusal_when_it_has_sent_its_request(client: RawClient) -> None:
    client.send(frame(HEADERS, END_HEADERS, 1, encode_block(headers("total"))))
    client.send(frame(DATA, 0, 1, message(b"refuse")))
    for _ in range(3):
        client.send(frame(DATA, 0, 1, message(b"late")))
    client.send(frame(DATA, END_STREAM, 1) + request(3, b"next"))
    assert _refused(client) == [HEADERS]
    assert client.answer(3) == b"next"


def test_request_that_ends_inside_a_message_is_not_taken_for_a_whole_one(
    service: RunningService, client: RawClient
) -> None:
    service.echo.received.clear()
    client.send(frame(HEADERS, END_HEADERS, 1, encode_block(headers("total")))
                + frame(DATA, END_STREAM, 1, message(b"first") + message(b"second")[:-2]))
    for kind, flags, stream, payload in client.frames():
        if (kind, stream) == (HEADERS, 1) and flags & END_STREAM:
            assert b"ended inside a message" in payload
            break
    client.send(request(3, b"next"))
    assert client.answer(3) == b"next"
    assert service.echo.received == []


def test_refusal_does_not_wait_for_a_client_that_goes_on(client: RawClient) -> None:
    client.send(frame(HEADERS, END_HEADERS, 1, encode_block(headers("total"))))
    client.send(frame(DATA, 0, 1, message(b"refuse")))
    assert _refused(client) == [HEADERS]
    assert next((kind, stream, payload) for kind, _, stream, payload in client.frames()) == (RST_STREAM, 1, bytes(4))
    client.send(frame(DATA, 0, 1, message(b"late")) + request(3, b"next"))
    assert client.answer(3) == b"next"


def test_connection_without_a_greeting_is_closed() -> None:
    with running(handshake_timeout_s=0.1) as service:
        client = RawClient(service.address, greet=False)
        client.socket.settimeout(15)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            service.call(service.server._look)
            time.sleep(0.05)
            if service.call(lambda: len(service.server._connections)) == 0:
                break
        assert [kind for kind, *_ in client.frames() if kind not in (SETTINGS, WINDOW_UPDATE)] == []
        client.close()


def test_silent_connection_is_pinged_and_then_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.edge.native.PING_TIMEOUT_S", 0.1)
    with running(keepalive_s=0.05) as service:
        client = RawClient(service.address)
        client.send(request(1))
        assert client.answer(1) == b"hi"
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and service.call(lambda: len(service.server._connections)):
            service.call(service.server._look)
            time.sleep(0.02)
        assert PING in [kind for kind, *_ in client.frames()]
        client.close()


def test_h2_library_as_a_client(service: RunningService) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    host, _, port = service.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        connection.initiate_connection()
        body = message(bytes(200_000))
        connection.send_headers(1, headers())
        position, received, ended = 0, b"", False
        while not ended:
            while position < len(body) and connection.local_flow_control_window(1) > 0:
                size = min(len(body) - position, connection.local_flow_control_window(1),
                           connection.max_outbound_frame_size)
                connection.send_data(1, body[position:position + size], end_stream=position + size == len(body))
                position += size
            raw.sendall(connection.data_to_send())
            for event in connection.receive_data(raw.recv(65536)):
                if isinstance(event, h2.events.DataReceived):
                    received += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, 1)
                ended = ended or isinstance(event, h2.events.StreamEnded)
        connection.close_connection()
        raw.sendall(connection.data_to_send())
    assert received == body


def test_random_bytes_never_harm_the_service(service: RunningService) -> None:
    generator = random.Random(20240917)
    for _ in range(300):
        client = RawClient(service.address, greet=generator.random() < 0.8)
        data = bytearray(b"".join(request(1 + 2 * index) for index in range(generator.randrange(4))))
        for _ in range(generator.randrange(1, 6)):
            if data and generator.random() < 0.6:
                data[generator.randrange(len(data))] = generator.randrange(256)
            else:
                data += bytes(generator.randrange(256) for _ in range(generator.randrange(40)))
        with contextlib.suppress(ConnectionError):
            client.send(bytes(data))
        client.close()
    check = RawClient(service.address)
    check.send(request(1, b"alive"))
    assert check.answer(1) == b"alive"
    check.close()
    deadline = time.monotonic() + 10
    while service.call(lambda: len(service.server._connections)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert service.call(lambda: service.server.account.used) == 0
