"""Connections that say nothing, half of something, or far too much: bounded in time, in number, and in memory.

What differs between the transports is said where it does; docs/server.md has the table.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import runtime
from tests.edge.test_native_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    message,
)
from tests.security import calls
from tests.security.calls import DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, Streams
from tests.server import fake_planes
from tests.server.fake_planes import PROCESS, RUN_STEP, SEND_LOGS, STREAM_LOGS

Start = Callable[..., runtime.Server]
BOTH = pytest.mark.parametrize("transport", ["native", "grpc"])


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that starts a server of planes that do what they are told, and looks often."""
    from runtime.edge import native, plane

    for name, target in fake_planes.TARGETS.items():
        monkeypatch.setitem(plane.PLANES, name, target)
    monkeypatch.setattr(native, "WATCH_INTERVAL_S", 0.1)
    fake_planes.events.clear()
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(runtime.Server(**options))


def block(path: str, *extra: tuple[bytes, bytes]) -> bytes:
    from runtime._ext.hpack import encode_block

    return encode_block([
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"test"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"), *extra,
    ])


class Socket:
    """A TCP connection that sends what it is told, and reads when it is told."""

    def __init__(self, server: runtime.Server, greet: bool = True, settings: bytes = b"", source: str = "") -> None:
        host, _, port = server.address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), 10, (source, 0) if source else None)
        if greet:
            self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def send(self, data: bytes) -> bool:
        """Send as much as is taken; return False when the server has closed."""
        try:
            self.socket.sendall(data)
        except (ConnectionError, TimeoutError):
            return False
        return True

    def is_closed(self, within_s: float) -> bool:
        """Read until the server closes."""
        deadline = time.monotonic() + within_s
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if not self.socket.recv(1 << 16):
                    return True
            except TimeoutError:
                return False
            except ConnectionError:
                return True
        return False


@contextlib.contextmanager
def sockets(number: int, *arguments: Any, **options: Any) -> Iterator[list[Socket]]:
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(number):
            with contextlib.suppress(ConnectionError):  # the server closes what it does not want
                one = Socket(*arguments, **options)
                stack.callback(one.socket.close)
                made.append(one)
        yield made


def lives(server: runtime.Server) -> None:
    """A good client is answered."""
    with grpc.insecure_channel(server.address, calls.UNLIMITED) as channel:
        assert channel.unary_unary(RUN_STEP)(b"echo", timeout=20) == b"echo"


def until(what: Callable[[], bool], awaited: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, f"no {awaited} within {timeout_s} s"
        time.sleep(0.02)


def native_of(server: runtime.Server) -> Any:
    assert server._listener is not None
    return server._listener._transport._server  # type: ignore[union-attr]


def account_of(server: runtime.Server) -> Any:
    assert server._listener is not None
    return server._listener.account


def resident() -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmRSS"))


# -- what begins and does not go on ------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("sent", [b"", b"\x16", bytes.fromhex("160301020001000000fc0303"), b"\x16\x03\x01\xff\xff"],
                         ids=["nothing", "a byte", "half a hello", "a record that is too long"])
def test_half_a_tls_hello_is_given_up(serving: Start, pki: Path, transport: str, sent: bytes) -> None:
    server = serving(transport=transport, handshake_timeout_s=0.5, listen="localhost:0", tls_cert=pki / "server.pem",
                     tls_key=pki / "server.key")
    with sockets(5, server, greet=False) as silent:
        for one in silent:
            one.send(sent)
        assert all(one.is_closed(10) for one in silent)
    roots = grpc.ssl_channel_credentials((pki / "ca.pem").read_bytes())
    with grpc.secure_channel(server.address, roots) as channel:
        assert channel.unary_unary(RUN_STEP)(b"echo", timeout=20) == b"echo"
    if transport == "native":
        until(lambda: native_of(server).census.whole.connections <= 1, "end of the count")


@BOTH
def test_a_greeting_a_byte_at_a_time_is_given_up(serving: Start, transport: str) -> None:
    server = serving(transport=transport, handshake_timeout_s=0.5)
    with sockets(1, server, greet=False) as (slow,):
        started = time.monotonic()
        for byte in PREFACE[:-1]:
            if not slow.send(bytes([byte])) or slow.is_closed(0.2):
                break
        else:
            assert slow.is_closed(5)
        assert time.monotonic() - started < 15
    lives(server)


@BOTH
@pytest.mark.parametrize("sent", [
    b"\0\0", frame(PING, 0, 0, bytes(8))[:-1], frame(HEADERS, 0, 1, block(RUN_STEP)),
    frame(HEADERS, 0, 1, block(RUN_STEP)) + frame(CONTINUATION, 0, 1, b""),
], ids=["half a frame header", "half a ping", "headers without an end", "and one continuation"])
def test_what_does_not_end_ends_its_connection(serving: Start, transport: str, sent: bytes) -> None:
    """grpc leaves them until the connection counts as idle, for it has no call; native takes the time for headers."""
    server = serving(transport=transport, handshake_timeout_s=0.5, idle_timeout_s=1)
    with sockets(3, server) as started:
        for one in started:
            one.send(sent)
        assert all(one.is_closed(10) for one in started)
    lives(server)


def test_half_a_frame_that_goes_on_in_time_is_left_alone(serving: Start) -> None:
    server = serving(handshake_timeout_s=3)
    whole = frame(HEADERS, END_HEADERS, 1, block(RUN_STEP)) + frame(DATA, END_STREAM, 1, message(b"echo"))
    with sockets(1, server) as (slow,):
        for start in range(0, len(whole), 40):
            slow.send(whole[start:start + 40])
            time.sleep(0.1)
        slow.socket.settimeout(10)
        received = b""
        while b"echo" not in received:
            received += slow.socket.recv(1 << 16)


@BOTH
def test_a_flood_of_continuations_is_ended(serving: Start, transport: str) -> None:
    server = serving(transport=transport)
    before = resident()
    with sockets(1, server) as (flood,):
        flood.send(frame(HEADERS, 0, 1, block(RUN_STEP)))
        more = frame(CONTINUATION, 0, 1, b"\0\x03x-a" + b"\x40" + b"y" * 64) * 200
        sent = 0
        while sent < 64 << 20 and flood.send(more):
            sent += len(more)
        if transport == "native":  # the library reads on and keeps nothing
            assert flood.is_closed(10)
    assert resident() - before < 64 << 20
    lives(server)


def test_requests_that_do_not_go_on_are_ended(serving: Start) -> None:
    """Native alone; the gRPC library lets a call wait for its request for as long as its client lives."""
    server = serving(stall_timeout_s=1)
    with Streams(server.address) as client:
        bare = [client.open(RUN_STEP) for _ in range(3)]
        half = client.open(RUN_STEP)
        client.h2.send_data(half, b"\0" + struct.pack(">I", 1 << 20) + b"abc")
        inside = client.open(SEND_LOGS)
        client.send(inside, b"first", end=False)
        client.h2.send_data(inside, b"\0\0\0")
        client.flush()
        until(lambda: account_of(server).used >= 1 << 20, "message that counts")
        answers = client.results([*bare, half, inside])
        assert [answer and answer[0] for answer in answers] == [DEADLINE_EXCEEDED] * 5
        assert answers[3] is not None and "3 of 1048576 bytes" in answers[3][1]
    assert account_of(server).used == 0
    lives(server)


def test_a_request_that_trickles_is_ended(serving: Start) -> None:
    """A byte now and then does not keep a large message under way."""
    server = serving(stall_timeout_s=1)
    with Streams(server.address) as client:
        stream = client.open(RUN_STEP)
        client.h2.send_data(stream, b"\0" + struct.pack(">I", 100 << 20))
        deadline = time.monotonic() + 20
        while stream not in client.statuses and stream not in client.ended:
            assert time.monotonic() < deadline
            with contextlib.suppress(Exception):  # h2 refuses to send on a stream that has been reset
                client.h2.send_data(stream, b"x")
                client.flush()
            client.read(0.1)
        assert client.statuses[stream][0] == DEADLINE_EXCEEDED
    assert account_of(server).used == 0


@BOTH
def test_clients_that_wait_for_long_are_left_alone(serving: Start, transport: str) -> None:
    """Long polls, streams on which nothing happens, and a slow upload outlast every limit on what stands still."""
    server = serving(transport=transport, stall_timeout_s=1, handshake_timeout_s=0.5, idle_timeout_s=1)
    pause = threading.Event()

    def slow() -> Iterator[bytes]:
        for _ in range(3):
            pause.wait(0.9)
            yield b"x"

    with grpc.insecure_channel(server.address, calls.UNLIMITED) as channel:
        poll = channel.unary_unary(RUN_STEP).future(b"sleep 2.7", timeout=20)
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)
        assert next(watch) == b"\x08\x01"
        both = channel.stream_stream(PROCESS)(slow(), timeout=20)
        assert channel.stream_unary(SEND_LOGS)(slow(), timeout=20) == b"1,1,1"
        assert list(both) == [b"x"] * 3
        assert poll.result() == b"slept"
        assert watch.is_active()
        watch.cancel()


# -- what is not taken -------------------------------------------------------------------------------------------------

NO_WINDOW = struct.pack(">HI", 4, 0)


def test_answers_that_are_not_taken_are_ended(serving: Start) -> None:
    """No window is ever opened: the answers' memory comes back. Native alone."""
    server = serving(stall_timeout_s=1, unread_timeout_s=2)
    with sockets(1, server, settings=NO_WINDOW) as (client,):
        for index, (path, body) in enumerate(((RUN_STEP, b"size 1000000"), (STREAM_LOGS, b"sizes 1000000,1000000"))):
            stream = 2 * index + 1
            client.send(frame(HEADERS, END_HEADERS, stream, block(path))
                        + frame(DATA, END_STREAM, stream, message(body)))
        until(lambda: account_of(server).used >= 2_000_000, "answers that wait")
        until(lambda: account_of(server).used < 1_100_000, "end of the unary call")
        until(lambda: account_of(server).used == 0, "end of the stream")
    lives(server)


def test_a_client_that_reads_nothing_is_cut(serving: Start) -> None:
    """The windows are wide open, but the socket is full; it goes on to ask, so that it seems alive. Native alone."""
    server = serving(stall_timeout_s=1)
    wide = struct.pack(">HI", 4, (1 << 31) - 1)
    with sockets(1, server, settings=wide) as (client,):
        client.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30)))
        for stream in range(1, 9, 2):
            client.send(frame(HEADERS, END_HEADERS, stream, block(RUN_STEP))
                        + frame(DATA, END_STREAM, stream, message(b"size 16000000")))

        def is_cut() -> bool:
            client.send(frame(PING, 0, 0, bytes(8)))
            return not native_of(server)._connections

        until(is_cut, "end of the connection")
    assert account_of(server).used == 0
    lives(server)


# -- too much ----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("kind", ["headers and reset", "request and reset", "made to reset"])
def test_rapid_resets_are_ended_or_cost_little(serving: Start, transport: str, kind: str) -> None:
    """CVE-2023-44487: a call is begun and given up at once, over and over; or the server is made to give it up."""
    server = serving(transport=transport)
    reset = {
        "headers and reset": b"", "request and reset": frame(DATA, END_STREAM, 0, message(b"forever")),
        "made to reset": frame(DATA, END_STREAM, 0, message(b"forever")),
    }[kind]
    headers = block(RUN_STEP)
    before = resident()
    with sockets(1, server) as (client,):
        stream, alive = 1, True
        for _ in range(100):
            data = bytearray()
            for _ in range(200):
                data += frame(HEADERS, END_HEADERS, stream, headers)
                data += reset[:5] + struct.pack(">I", stream) + reset[9:] if reset else b""
                data += (frame(WINDOW_UPDATE, 0, stream, bytes(4)) if kind == "made to reset"
                         else frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
                stream += 2
            alive = client.send(bytes(data))
            if not alive:
                break
        if transport == "native":
            assert client.is_closed(20)
            # No more handlers were begun than such calls are allowed, in time or a read's worth later.
            assert account_of(server).num_calls < 4000 + 500
    until(lambda: account_of(server).used == 0, "end of every call")
    assert resident() - before < 64 << 20
    if transport == "native":
        lives(server)
    # The gRPC library refuses calls of everyone, as cancelled, while it has thousands before it.
    until(lambda: _answers(server), "answer")


def test_many_older_calls_may_be_given_up_at_once(serving: Start) -> None:
    """A client that is cancelled, with thousands of calls waiting, is no attack."""
    server = serving()
    headers = block(RUN_STEP)
    with sockets(1, server) as (client,):
        streams = range(1, 10_001, 2)
        client.send(b"".join(frame(HEADERS, END_HEADERS, stream, headers) for stream in streams))
        until(lambda: native_of(server).census.whole.calls == len(streams), "calls")
        time.sleep(1.1)
        client.send(b"".join(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)) for stream in streams))
        until(lambda: native_of(server).census.whole.calls == 0, "end of the calls")
        client.send(frame(HEADERS, END_HEADERS, 10_001, headers) + frame(DATA, END_STREAM, 10_001, message(b"echo")))
        client.socket.settimeout(10)
        received = b""
        while b"echo" not in received:
            received += client.socket.recv(1 << 16)


@BOTH
@pytest.mark.parametrize("data", [frame(PING, 0, 0, bytes(8)), frame(SETTINGS, 0, 0), frame(SETTINGS, 0, 0, NO_WINDOW),
                                  frame(DATA, 0, 1), frame(0x77, 0, 0)],
                         ids=["pings", "settings", "windows", "empty data", "unknown frames"])
def test_floods_of_frames_that_cost_the_client_nothing(serving: Start, transport: str, data: bytes) -> None:
    server = serving(transport=transport)
    before = resident()
    with sockets(1, server) as (client,):
        client.socket.settimeout(2)
        client.send(frame(HEADERS, END_HEADERS, 1, block(SEND_LOGS)))
        for _ in range(60):
            if not client.send(data * 1000):
                break
    assert resident() - before < 64 << 20
    lives(server)


def test_changes_of_the_window_count_by_the_calls_that_they_concern(serving: Start) -> None:
    """Thousands of changes in one frame are one look at the calls; of looks at thousands, hundreds are too many."""
    server = serving()
    many = b"".join(struct.pack(">HI", 4, 1 + index % 2) for index in range(10_000))
    calls_of_one = b"".join(frame(HEADERS, END_HEADERS, stream, block(RUN_STEP)) for stream in range(1, 10_001, 2))
    with sockets(2, server) as (quiet, flood):
        for client in (quiet, flood):
            client.send(calls_of_one)
        until(lambda: native_of(server).census.whole.calls == 10_000, "calls")
        for number in range(10):
            quiet.send(frame(SETTINGS, 0, 0, many + struct.pack(">HI", 4, number)))
        for number in range(200):
            if not flood.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, number))):
                break
        assert flood.is_closed(20)
        quiet.send(frame(PING, 0, 0, b"answered"))
        received = b""
        quiet.socket.settimeout(20)
        while frame(PING, 1, 0, b"answered") not in received:
            received += quiet.socket.recv(1 << 16)
    lives(server)


def test_calls_beyond_their_number_are_refused(serving: Start) -> None:
    server = serving(max_open_calls=50)
    with Streams(server.address) as client:
        opened = [client.open(RUN_STEP) for _ in range(60)]
        refused = client.results(opened[50:])
        assert {answer and answer[0] for answer in refused} == {RESOURCE_EXHAUSTED}
        assert "50 calls open here" in str(refused[0])
        assert not set(opened[:50]) & set(client.statuses)
    lives(server)


def test_metadata_of_open_calls_counts(serving: Start) -> None:
    server = serving(max_bytes_in_flight=200_000)
    large = block(RUN_STEP, *((f"x-{index}".encode(), b"y" * 100) for index in range(100)))
    with sockets(1, server) as (client,):
        for stream in range(1, 101, 2):
            client.send(frame(HEADERS, END_HEADERS, stream, large))
        until(lambda: account_of(server).used > 180_000, "metadata that counts")
        assert account_of(server).used <= 200_000
        assert native_of(server).census.whole.calls < 50
    until(lambda: account_of(server).used == 0, "end of the calls")


# -- too many ----------------------------------------------------------------------------------------------------------


@BOTH
def test_thousands_of_connections_are_kept_to_their_number(serving: Start, transport: str) -> None:
    server = serving(transport=transport, max_connections=100, handshake_timeout_s=5)
    before = resident()
    with sockets(1500, server) as made:
        kept = [one for one in made if not _closed_soon(one)]
        assert 50 <= len(kept) <= 100
        assert resident() - before < 64 << 20
    if transport == "native":
        until(lambda: native_of(server).census.whole.connections == 0, "end of the connections")
    until(lambda: _answers(server), "place for a good client")


def _answers(server: runtime.Server) -> bool:
    try:
        lives(server)
    except grpc.RpcError:
        return False
    return True


def _closed_soon(one: Socket) -> bool:
    """Return whether the server has closed a connection: its settings are all that it says otherwise."""
    one.socket.settimeout(10)
    try:
        return not one.socket.recv(1 << 16)
    except ConnectionError:
        return True


def test_one_peer_cannot_take_all_places(serving: Start) -> None:
    """Native alone: the gRPC library knows no limit for one address."""
    server = serving(max_connections=200, max_connections_per_peer=20)
    with sockets(300, server, source="127.0.0.9") as made:
        assert sum(not _closed_soon(one) for one in made) == 20
        lives(server)
        assert {name: tally.connections for name, tally in native_of(server).census._peers.items()}["127.0.0.9"] == 20


def test_idle_connections_make_room_for_new_ones(serving: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever filled all places and does nothing loses some; open calls are left alone. Native alone."""
    from runtime.edge import native

    monkeypatch.setattr(native, "IDLE_GOES_S", 0.3)
    server = serving(max_connections=60)
    with grpc.insecure_channel(server.address, calls.UNLIMITED) as busy, sockets(59, server):
        poll = busy.unary_unary(RUN_STEP).future(b"sleep 2", timeout=20)
        until(lambda: native_of(server).census.is_full, "crowd")
        time.sleep(0.5)
        lives(server)
        assert poll.result() == b"slept"


def test_limits_follow_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.config import Settings
    from runtime.edge import connections

    monkeypatch.setattr(connections, "descriptor_limit", lambda: 1000)
    here = connections.Limits.of(Settings())
    assert (here.connections, here.connections_per_peer, here.calls_per_peer) == (800, 800, 100_000)
    beyond = connections.Limits.of(Settings(listen="0.0.0.0:0", max_connections=300))
    assert (beyond.connections, beyond.connections_per_peer, beyond.calls_per_peer) == (300, 150, 50_000)
    own = connections.Limits.of(Settings(max_connections=300, max_connections_per_peer=400))
    assert own.connections_per_peer == 300


@pytest.mark.parametrize("address, name", [
    (("10.1.2.3", 5), "10.1.2.3"), (("::ffff:10.1.2.3", 5, 0, 0), "10.1.2.3"), ("", "unix"), (b"", "unix"),
    (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::/64"), (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
])
def test_who_counts_as_one_peer(address: object, name: str) -> None:
    from runtime.edge.connections import peer_of

    assert peer_of(address) == name


@BOTH
def test_an_idle_client_is_asked_to_leave_and_comes_back(serving: Start, transport: str) -> None:
    server = serving(transport=transport, idle_timeout_s=1)
    with sockets(3, server) as silent, grpc.insecure_channel(server.address, calls.UNLIMITED) as channel:
        states: list[grpc.ChannelConnectivity] = []
        channel.subscribe(states.append)
        assert channel.unary_unary(RUN_STEP)(b"echo", timeout=20) == b"echo"
        ready, idle = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE
        until(lambda: ready in states and idle in states[states.index(ready):], "end of the connection")
        for _ in range(50):  # also in the moment in which it is retired, no call fails
            assert channel.unary_unary(RUN_STEP)(b"echo", timeout=20) == b"echo"
            time.sleep(0.03)
        del silent
    lives(server)


def test_a_client_that_ignores_its_retirement_is_served_until_it_does_not(serving: Start) -> None:
    """It may have sent a call before it heard of it: that call is answered, for nothing but its answer says so."""
    server = serving(idle_timeout_s=1)
    with sockets(1, server) as (client,):
        client.socket.settimeout(10)
        received = b""
        while frame(7, 0, 0, struct.pack(">II", (1 << 31) - 1, 0)) not in received:
            received += client.socket.recv(1 << 16)
        client.send(frame(HEADERS, END_HEADERS, 1, block(RUN_STEP)) + frame(DATA, END_STREAM, 1, message(b"echo")))
        while b"echo" not in received:
            received += client.socket.recv(1 << 16)
        client.send(frame(PING, 1, 0, b"\0\0\0\0\0\0\0\2"))
        assert client.is_closed(10)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_a_server_stops_while_connections_come(serving: Start, pki: Path, loop: str, tls: bool) -> None:
    """Some have come, some are about to, some are in the middle of a handshake: none of them holds up the end."""
    options = {"tls_cert": pki / "server.pem", "tls_key": pki / "server.key"} if tls else {}
    for index in range(12):
        server = serving(loop=loop, **options)
        transport = native_of(server)
        coming = [socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2])), 10)
                             for _ in range(4)]
        for number, one in enumerate(coming):
            if (number + index) % 2:
                one.close()
        server.stop(5)
        for one in coming:
            one.close()
        assert not transport._connections and not transport._entering
        assert transport.census.whole.connections == 0


def test_tls_connections_come_and_go_in_great_number(serving: Start, pki: Path) -> None:
    """Half of them break off during the handshake; none is left in the count."""
    server = serving(listen="localhost:0", tls_cert=pki / "server.pem", tls_key=pki / "server.key")
    context = ssl.create_default_context(cafile=pki / "ca.pem")
    context.set_alpn_protocols(["h2"])
    host, _, port = server.address.rpartition(":")
    for index in range(60):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 10) as plain:
            if index % 2:
                plain.send(b"\x16\x03\x01")
            else:
                with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
                    wrapped.recv(1)
    until(lambda: native_of(server).census.whole.connections == 0, "end of the connections")
    assert not native_of(server).census._peers
