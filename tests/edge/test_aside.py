"""One call sent and read by threads, beside the loop that has the connection."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import uvloop

from runtime._ext.http2_aside import Aside, begin_aside
from runtime._ext.http2_call import Method
from runtime._ext.http2_client_stream import StreamCall, start_stream
from runtime.edge.connect import PeerConnection, connect
from runtime.errors import Unavailable
from tests.edge.native_service import SERVICE, EchoService, RunningService, running
from tests.leaks import run_async

CHAT = Method(SERVICE + "chat", True, True, None)
ECHO = Method(SERVICE + "echo", False, False, None)
TIMEOUT_S = 20.0


@pytest.fixture
def service() -> Iterator[RunningService]:
    with running(loop_kind="uvloop") as made:
        yield made


@contextlib.asynccontextmanager
async def connected(service: RunningService) -> AsyncIterator[PeerConnection]:
    lost = asyncio.Event()
    connection = await connect(service.address, lost=lost.set)
    try:
        yield connection
    finally:
        connection.abort()
        await lost.wait()


@contextlib.asynccontextmanager
async def beside(service: RunningService) -> AsyncIterator[tuple[PeerConnection, StreamCall, Aside]]:
    """A call by which one message has gone each way, and its other road."""
    async with connected(service) as connection:
        call = start_stream(connection, CHAT)
        await call.send(b"ab")
        assert await call.receive() == b"ba"
        aside = begin_aside(call)
        assert aside is not None
        yield connection, call, aside
        call.cancel()


def run(work: Callable[[], Any]) -> None:
    run_async(work, TIMEOUT_S, uvloop.new_event_loop)


class Told:
    """Takes messages, and tells when there are so many."""

    def __init__(self, wanted: int = 1, refused: bytes | None = None) -> None:
        self.messages: list[bytes] = []
        self.names: list[str] = []
        self._wanted = wanted
        self._refused = refused

    def take(self, message: bytes) -> bool:
        if message == self._refused:
            return False
        self.messages.append(message)
        self.names.append(threading.current_thread().name)
        return True

    def done(self) -> bool:
        return len(self.messages) >= self._wanted


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_thread_sends_and_reads_by_itself(service: RunningService) -> None:
    async def work() -> None:
        async with beside(service) as (_, call, aside):
            call.take_by(lambda message: pytest.fail(f"the loop has read {message!r}"))

            def talk() -> tuple[list[bytes], bool]:
                told = Told(1000)
                for number in range(1000):
                    told._wanted = number + 1
                    assert aside.post(b"%d" % number)
                    assert aside.read(told.done, told.take, TIMEOUT_S)
                return told.messages, set(told.names) == {threading.current_thread().name}

            messages, is_own = await asyncio.to_thread(talk)
            assert is_own
            assert messages == [(b"%d" % number)[::-1] for number in range(1000)]

    run(work)


def test_the_loop_reads_what_comes_while_no_thread_does(service: RunningService) -> None:
    async def work() -> None:
        async with beside(service) as (_, call, aside):
            assert aside.post(b"one")
            assert await call.receive() == b"eno"
            told = Told()
            call.take_by(told.take)
            await call.send(bytes(3 << 20))  # many reads, into the message itself
            await until(told.done)
            assert told.messages == [bytes(3 << 20)]

    run(work)


@pytest.mark.parametrize("size", [0, 1, (16 << 10) - 5, 16 << 10, (16 << 10) + 1, 100_000, 5 << 20])
def test_messages_of_any_size_come_to_whoever_waits(service: RunningService, size: int) -> None:
    """Small ones are read in the thread, long ones go to the loop in the middle of a frame."""
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)

    async def work() -> None:
        async with beside(service) as (_, call, aside):
            told = Told()
            call.take_by(told.take)
            reading = asyncio.ensure_future(asyncio.to_thread(aside.read, told.done, told.take, TIMEOUT_S))
            await asyncio.sleep(0.02)
            await call.send(message)
            await until(told.done)
            await reading
            assert told.messages == [message[::-1]]
            # And the next one comes to whoever reads then.
            told._wanted = 2
            assert aside.post(b"next")
            assert await asyncio.to_thread(aside.read, told.done, told.take, TIMEOUT_S)
            assert told.messages[1:] == [b"txen"]

    run(work)


def test_what_a_thread_does_not_take_goes_to_the_loop_with_all_behind_it(service: RunningService) -> None:
    async def work() -> None:
        async with beside(service) as (_, call, aside):
            for message in (b"a1", b"a2", b"a3"):
                assert aside.post(message)
            told = Told(3, refused=b"2a")
            with ThreadRead(aside, told) as thread:
                thread.join(TIMEOUT_S)
            assert told.messages in ([b"1a"], [])  # the loop may have been quicker than the thread
            assert [await call.receive() for _ in range(3 - len(told.messages))] == [b"1a", b"2a", b"3a"][
                len(told.messages):
            ]

    run(work)


class ThreadRead:
    """A thread that reads; the loop stands still while it is joined."""

    def __init__(self, aside: Aside, told: Told, seconds: float = TIMEOUT_S) -> None:
        self.result: bool | None = None
        self.error: BaseException | None = None
        self._aside, self._told, self._seconds = aside, told, seconds
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> threading.Thread:
        self._thread.start()
        return self._thread

    def __exit__(self, *_: object) -> None:
        self._thread.join(TIMEOUT_S)

    def _run(self) -> None:
        try:
            self.result = self._aside.read(self._told.done, self._told.take, self._seconds)
        except BaseException as error:
            self.error = error


def test_a_message_whose_taking_fails_is_not_lost(service: RunningService) -> None:
    async def work() -> None:
        async with beside(service) as (_, call, aside):
            told = Told()

            def take(message: bytes) -> bool:
                raise KeyboardInterrupt

            told.take = take  # type: ignore[method-assign]
            reader = ThreadRead(aside, told)
            with reader as thread:
                time.sleep(0.05)
                assert aside.post(b"precious")
                thread.join(TIMEOUT_S)
            assert isinstance(reader.error, KeyboardInterrupt)
            assert await call.receive() == b"suoicerp"

    run(work)


def test_frames_of_other_calls_go_to_the_loop(service: RunningService) -> None:
    async def work() -> None:
        async with beside(service) as (connection, call, aside):
            told = Told()
            call.take_by(told.take)
            reading = asyncio.ensure_future(asyncio.to_thread(aside.read, told.done, told.take, TIMEOUT_S))
            await asyncio.sleep(0.02)
            answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            connection.start(ECHO, b"other", lambda answer, *status: answered.set_result(answer))
            assert await answered == b"other"
            assert not await reading, "the loop reads since then"
            assert aside.post(b"mine")
            await until(told.done)
            assert told.messages == [b"enim"]

    run(work)


def test_pings_are_answered_while_a_thread_reads() -> None:
    with running(loop_kind="uvloop", keepalive_s=0.2, handshake_timeout_s=0.2) as service:

        async def work() -> None:
            async with beside(service) as (_, call, aside):
                told = Told()
                call.take_by(told.take)
                for _ in range(3):
                    await asyncio.to_thread(aside.read, told.done, told.take, 0.5)
                (connection,) = service.server._connections
                assert service.call(lambda: not connection.awaits_ping)
                assert aside.post(b"on")
                await until(told.done)

        run(work)


def test_only_one_thread_reads(service: RunningService) -> None:
    async def work() -> None:
        async with beside(service) as (_, call, aside):
            first, second = Told(), Told()
            with ThreadRead(aside, first):
                await asyncio.sleep(0.05)
                began = time.monotonic()
                assert not aside.read(second.done, second.take, TIMEOUT_S)
                assert time.monotonic() - began < TIMEOUT_S / 2
                assert aside.post(b"x")
            assert (first.messages, second.messages) == ([b"x"], [])

    run(work)


def test_reading_ends_in_time_and_when_it_is_woken(service: RunningService) -> None:
    async def work() -> None:
        async with beside(service) as (_, call, aside):
            told = Told()
            began = time.monotonic()
            assert not await asyncio.to_thread(aside.read, told.done, told.take, 0.1)
            assert 0.09 < time.monotonic() - began < 5.0
            reader = ThreadRead(aside, told)
            with reader:
                await asyncio.sleep(0.05)
                aside.wake()
            assert reader.result is False
            assert aside.post(b"still")
            assert await call.receive() == b"llits"

    run(work)


@pytest.mark.parametrize("end", ["call", "connection", "server"])
def test_a_thread_that_reads_ends_with_the_call(service: RunningService, end: str) -> None:
    async def work() -> None:
        async with beside(service) as (connection, call, aside):
            told = Told()
            reading = asyncio.ensure_future(asyncio.to_thread(aside.read, told.done, told.take, TIMEOUT_S))
            await asyncio.sleep(0.05)
            if end == "call":
                call.cancel()
            elif end == "connection":
                connection.abort()
            else:
                service.call(lambda: [one.abort() for one in list(service.server._connections)])
            async with asyncio.timeout(TIMEOUT_S / 2):
                assert not await reading
            assert not aside.post(b"too late") or end == "server"
            if end == "call":
                # The connection has its own reading back.
                other = start_stream(connection, CHAT)
                await other.send(b"ab")
                assert await other.receive() == b"ba"
                other.cancel()
            else:
                with pytest.raises(Unavailable, match="Socket closed"):
                    await call.receive()

    run(work)


def test_post_leaves_to_the_loop_what_would_overtake_or_block(service: RunningService) -> None:
    async def work() -> None:
        async with beside(service) as (_, call, aside):
            assert not aside.post(bytes((16 << 10) + 1))
            # The server reads nothing, as its loop stands still: what does not leave at once is in order behind it.
            sleeping = threading.Event()
            service.loop.call_soon_threadsafe(sleeping.wait, TIMEOUT_S)
            piece = bytes(16 << 10)
            sent = 0
            while aside.post(piece):
                sent += 1
                assert sent < 10_000
            await asyncio.sleep(0)
            call.post(b"last")
            sleeping.set()
            told = Told(sent + 1)
            call.take_by(told.take)
            await until(told.done)
            assert told.messages == [piece] * sent + [b"tsal"]

    run(work)


def test_there_is_none_on_a_loop_in_python(service: RunningService) -> None:
    async def work() -> None:
        async with connected(service) as connection:
            call = start_stream(connection, CHAT)
            assert begin_aside(call) is None
            call.cancel()

    run_async(work, TIMEOUT_S)


def test_there_is_one_of_a_connection(service: RunningService) -> None:
    async def work() -> None:
        async with beside(service) as (connection, _, _aside):
            other = start_stream(connection, CHAT)
            assert begin_aside(other) is None
            other.cancel()

    run(work)


def test_an_interrupt_ends_the_waiting_of_the_main_thread(service: RunningService) -> None:
    """Ctrl-C, that is: it is heard while nothing comes, and nothing is lost by it."""
    ready: dict[str, Any] = {}
    began = threading.Event()

    async def hold() -> None:
        async with beside(service) as (_, call, aside):
            stop = asyncio.Event()
            ready.update(call=call, aside=aside, stop=stop, loop=asyncio.get_running_loop())
            began.set()
            await stop.wait()
            ready["after"] = await call.receive()

    # Whoever runs this in a shell's background has it ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=lambda: run(hold))
    thread.start()
    try:
        assert began.wait(TIMEOUT_S)
        told = Told()
        timer = threading.Timer(0.1, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            ready["aside"].read(told.done, told.take, TIMEOUT_S)
        timer.join()
        assert ready["aside"].post(b"after")
    finally:
        signal.signal(signal.SIGINT, before)
        ready["loop"].call_soon_threadsafe(ready["stop"].set)
        thread.join(TIMEOUT_S)
    assert ready["after"] == b"retfa"


def test_the_side_of_a_server_has_one_too() -> None:
    """As workers use it: a handler's call, whose messages a thread answers."""
    told = Told(200)

    def talk(aside: Aside) -> None:
        def take(message: bytes) -> bool:
            return aside.post(message.upper()) and told.take(message)

        while not aside.read(told.done, take, TIMEOUT_S):
            time.sleep(0.001)  # what is no message of the call went to the loop

    async def chat(self: EchoService, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        def answer(message: bytes) -> bool:
            context.post(message.upper())
            return told.take(message)

        async for message in requests:
            yield message[::-1]
            aside = begin_aside(context)
            assert aside is not None
            context.take_by(answer)
            await asyncio.to_thread(talk, aside)
            aside.close()
            context.take_by(lambda message: False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EchoService, "chat", chat)
        with running(loop_kind="uvloop") as service:

            async def work() -> None:
                async with connected(service) as connection:
                    call = start_stream(connection, CHAT)
                    await call.send(b"ab")
                    assert await call.receive() == b"ba"
                    for number in range(200):
                        await call.send(b"m%d" % number)
                        assert await call.receive() == b"M%d" % number
                    call.cancel()

            run(work)
            # All that was counted as being on its way is gone, which the end of the service checks.
    assert told.names.count("native-service") < 100, "the loop had most of them"


def test_messages_are_taken_in_order_by_a_taker_and_by_who_receives(service: RunningService) -> None:
    async def work() -> None:
        async with connected(service) as connection:
            call = start_stream(connection, CHAT)
            seen: list[bytes | None] = []

            def take(message: bytes) -> bool:
                if message.endswith(b"!"):
                    return False
                seen.append(message)
                return True

            call.take_by(take)
            for message in (b"1", b"2", b"!3", b"4", b"5"):
                await call.send(message)
            while len(seen) < 5:
                with contextlib.suppress(TimeoutError):  # the others were taken
                    async with asyncio.timeout(0.05):
                        seen.append(await call.receive())
            assert seen == [b"1", b"2", b"3!", b"4", b"5"]
            call.cancel()

    run(work)
