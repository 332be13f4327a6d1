"""Calls to other servers, by this project's own HTTP/2, against servers of the gRPC library and of our own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from runtime._ext.message_parts import MessageParts
from runtime.edge.limits import Account
from runtime.edge.outgoing import Outgoing
from runtime.edge.peer_access import PeerAccess
from runtime.errors import Unavailable
from tests.edge.native_service import SERVICE as OURS
from tests.edge.native_service import running
from tests.leaks import run_async
from tests.processes import free_port

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SERVICE = "/test.Calls/"
LIMIT = 100 << 20


class Handlers(grpc.GenericRpcHandler):
    """Methods of a server of the gRPC library."""

    def __init__(self) -> None:
        self.most_at_once = 0
        self.released = threading.Event()
        self.cancelled = threading.Event()
        self._at_once = 0
        self._lock = threading.Lock()

    def service(self, details: Any) -> Any:
        handler = getattr(self, details.method.rpartition("/")[2], None)
        return None if handler is None else grpc.unary_unary_rpc_method_handler(handler)

    def echo(self, request: bytes, context: Any) -> bytes:
        return request

    def zipped(self, request: bytes, context: Any) -> bytes:
        context.set_compression(grpc.Compression.Gzip)
        return request

    def refuse(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("tells", "why"), ("raw-bin", b"\0\xff")))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not so \N{SNOWMAN} 100%")
        raise AssertionError

    def metadata(self, request: bytes, context: Any) -> bytes:
        return repr(sorted(item for item in context.invocation_metadata() if item[0] == "authorization")).encode()

    def wait(self, request: bytes, context: Any) -> bytes:
        context.add_callback(self.cancelled.set)
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        self.released.wait(20)
        with self._lock:
            self._at_once -= 1
        return request


class Library:
    """A server of the gRPC library."""

    def __init__(self, port: int, *options: tuple[str, Any]) -> None:
        self.handlers = Handlers()
        self.server = grpc.server(ThreadPoolExecutor(8), options=[*UNLIMITED, ("grpc.so_reuseport", 0), *options])
        self.server.add_generic_rpc_handlers((self.handlers,))
        self.address = f"127.0.0.1:{port}"
        assert self.server.add_insecure_port(self.address)
        self.server.start()


@pytest.fixture
def library() -> Iterator[Library]:
    made = Library(free_port())
    yield made
    made.handlers.released.set()
    made.server.stop(0).wait()


Answer = tuple[bytes | None, int, str, Any]


class Caller:
    """Calls as coroutines."""

    def __init__(self, outgoing: Outgoing) -> None:
        self.outgoing = outgoing

    def start(self, address: str, name: str, message: Any = b"", service: str = SERVICE
              ) -> tuple[asyncio.Future[Answer], Callable[[], None]]:
        found: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        give_up = self.outgoing.start(address, service + name, message, lambda *answer: found.set_result(answer))
        return found, give_up

    async def call(self, address: str, name: str, message: Any = b"", service: str = SERVICE) -> Answer:
        return await self.start(address, name, message, service)[0]


@contextlib.asynccontextmanager
async def calling(access: PeerAccess | None = None, limit: int = LIMIT) -> AsyncIterator[Caller]:
    account = Account(limit)
    outgoing = Outgoing(asyncio.get_running_loop(), access or PeerAccess(), account)
    try:
        yield Caller(outgoing)
        assert account.used == 0
    finally:
        await outgoing.close()


@pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"])
def test_messages_of_any_size_come_back(library: Library, loop_kind: str) -> None:
    async def work() -> None:
        async with calling() as caller:
            for size in (0, 1, 5, 16_378, 16_384, 65_535, 1_000_003, 40_000_001):
                message = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
                assert await caller.call(library.address, "echo", message) == (message, 0, "", ())
            parts = MessageParts([b"head", memoryview(bytes(3_000_000))])
            answer, code, *_ = await caller.call(library.address, "echo", parts)
            assert (answer, code) == (bytes(parts), 0)

    uvloop = pytest.importorskip("uvloop")
    run_async(work, loop_factory=uvloop.new_event_loop if loop_kind == "uvloop" else None)


def test_many_calls_at_once(library: Library) -> None:
    async def work() -> None:
        async with calling() as caller:
            messages = [b"%d" % number * 10_000 for number in range(200)]
            answers = await asyncio.gather(*(caller.call(library.address, "echo", message) for message in messages))
            assert [answer for answer, *_ in answers] == messages

    run_async(work)


def test_compressed_answer_is_unpacked(library: Library) -> None:
    async def work() -> None:
        async with calling() as caller:
            assert await caller.call(library.address, "zipped", bytes(100_000)) == (bytes(100_000), 0, "", ())

    run_async(work)


def test_errors_carry_text_and_trailers(library: Library) -> None:
    async def work() -> None:
        async with calling() as caller:
            answer, code, message, trailers = await caller.call(library.address, "refuse")
            assert (answer, code, message) == (None, 9, "not so \N{SNOWMAN} 100%")
            assert {("tells", "why"), ("raw-bin", b"\0\xff")} <= set(trailers)
            _, code, message, _ = await caller.call(library.address, "nothing")
            assert (code, message) == (12, "Method not found!")
            assert (await caller.call(library.address, "echo", b"on"))[0] == b"on"

    run_async(work)


def test_metadata_goes_with_every_call(library: Library) -> None:
    async def work() -> None:
        async with calling(PeerAccess(None, ((b"authorization", b"Bearer abc"),))) as caller:
            for _ in range(2):
                answer, *_ = await caller.call(library.address, "metadata")
                assert b"authorization" in answer and b"Bearer abc" in answer

    run_async(work)


def test_a_call_that_is_given_up_is_cancelled_there(library: Library) -> None:
    async def work() -> None:
        async with calling() as caller:
            found, give_up = caller.start(library.address, "wait")
            await caller.call(library.address, "echo")
            give_up()
            give_up()
            assert (await found)[1] == 1
            assert await asyncio.to_thread(library.handlers.cancelled.wait, 10)
            found, give_up = caller.start(library.address, "echo")
            give_up()
            assert (await found)[1] == 1

    run_async(work)


def test_no_more_calls_at_once_than_the_server_takes() -> None:
    library = Library(free_port(), ("grpc.max_concurrent_streams", 3))

    async def work() -> None:
        async with calling() as caller:
            await caller.call(library.address, "echo")  # the server's settings are there then
            calls = [caller.start(library.address, "wait", b"%d" % number) for number in range(7)]
            calls[5][1]()
            await asyncio.sleep(0.3)
            library.handlers.released.set()
            answers = [await found for found, _ in calls]
            assert [answer for answer, *_ in answers] == [b"0", b"1", b"2", b"3", b"4", None, b"6"], answers

    try:
        run_async(work)
        assert library.handlers.most_at_once == 3
    finally:
        library.server.stop(0).wait()


def test_a_server_that_is_not_there_is_told_at_once_and_found_when_it_comes() -> None:
    port = free_port()

    async def work() -> None:
        async with calling() as caller:
            _, code, message, _ = await caller.call(f"127.0.0.1:{port}", "echo")
            assert code == Unavailable.code
            assert message.startswith("failed to connect to all addresses; last error: ")
            library = Library(port)
            assert (await caller.call(library.address, "echo", b"x"))[0] == b"x"
            found, _ = caller.start(library.address, "wait")
            await caller.call(library.address, "echo")
            library.server.stop(0)
            _, code, message, _ = await found
            assert code in (Unavailable.code, 1)
            library.handlers.released.set()
            await asyncio.to_thread(library.server.stop(0).wait)
            again = Library(port)
            assert (await caller.call(again.address, "echo", b"y"))[0] == b"y"
            await asyncio.to_thread(again.server.stop(0).wait)

    run_async(work)


def test_a_server_that_goes_away_without_a_word_ends_its_calls() -> None:
    async def work() -> None:
        async with calling() as caller:
            with socket.socket() as listening:
                listening.bind(("127.0.0.1", 0))
                listening.listen()
                found, _ = caller.start(f"127.0.0.1:{listening.getsockname()[1]}", "echo")
                connection, _ = await asyncio.to_thread(listening.accept)
                await asyncio.to_thread(connection.recv, 100)
                connection.close()
            _, code, message, _ = await found
            assert code == Unavailable.code
            assert "Socket closed" in message

    run_async(work)


@pytest.mark.parametrize("reply", [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\0\0\0\4\0\0\0\0\0" + b"\0\0\2\1\4\0\0\0\1\xff\xff",
    b"\0\0\0\4\0\0\0\0\0" + b"\0\0\4\3\0\0\0\0\7\0\0\0\1",
    b"\0\0\0\4\0\0\0\0\0" + b"\0\0\5\0\1\0\0\0\1" + b"\0\xff\xff\xff\xff",
], ids=["no-http2", "bad-headers", "reset-of-nothing", "huge-message"])
def test_what_breaks_the_protocol_ends_the_call(reply: bytes) -> None:
    async def work() -> None:
        async with calling() as caller:
            with socket.socket() as listening:
                listening.bind(("127.0.0.1", 0))
                listening.listen()
                found, _ = caller.start(f"127.0.0.1:{listening.getsockname()[1]}", "echo")
                connection, _ = await asyncio.to_thread(listening.accept)
                await asyncio.to_thread(connection.recv, 4096)
                await asyncio.to_thread(connection.sendall, reply)
                answer, code, _, _ = await asyncio.wait_for(found, 10)
                assert answer is None and code
                connection.close()

    run_async(work)


def test_an_answer_beyond_the_limit_is_refused_and_others_go_on(library: Library) -> None:
    async def work() -> None:
        async with calling(limit=1 << 20) as caller:
            _, code, message, _ = await caller.call(library.address, "echo", bytes(2 << 20))
            assert code == 8
            assert "max_bytes_in_flight" in message
            assert (await caller.call(library.address, "echo", b"x"))[0] == b"x"

    run_async(work)


def test_our_own_server_answers_and_drains(no_leaks: None) -> None:
    with running() as service:
        async def work() -> None:
            async with calling() as caller:
                for name in ("echo", "now", "parts"):
                    for size in (0, 7, 100_000, 20_000_000):
                        answer, code, *_ = await caller.call(service.address, name, bytes(size), OURS)
                        assert (len(answer or b""), code) == (size, 0)

        run_async(work)
