from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import urllib.parse
from collections.abc import AsyncIterator

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import errors
from tests.leaks import run_async


@pytest.mark.parametrize("code", range(1, 17))
def test_from_code_makes_the_class_of_the_code(code: int) -> None:
    error = errors.from_code(code, "text")
    assert type(error) is errors.CODES[code]
    assert (error.code, str(error)) == (code, "text")
    assert errors.grpc_status(code).value[0] == code


def test_from_code_keeps_an_unknown_number_in_the_text() -> None:
    error = errors.from_code(77, "odd")
    assert type(error) is errors.Unknown
    assert str(error) == "odd (status code 77)"


def test_success_is_no_error() -> None:
    with pytest.raises(ValueError, match="success"):
        errors.from_code(0, "fine")


@pytest.mark.parametrize("code", range(1, 17))
def test_errors_pickle(code: int) -> None:
    again = pickle.loads(pickle.dumps(errors.from_code(code, "text")))
    assert (type(again), str(again), again.message) == (errors.CODES[code], "text", "text")


def test_short_message_is_left_alone() -> None:
    for text in ("", "plain", "x" * 3072, "é" * 1024, "line\nline"):
        assert errors.header_message(text) == text


def test_long_message_is_cut_after_3072_bytes() -> None:
    assert errors.header_message("x" * 3073) == "x" * 3072 + " ... [truncated]"


@given(st.text(min_size=0, max_size=300), st.integers(1, 40))
def test_header_message_is_bounded_in_bytes_and_when_encoded(part: str, times: int) -> None:
    text = part * times
    cut = errors.header_message(text)
    body = cut.removesuffix(errors.TRUNCATED)
    assert len(body.encode()) <= errors.MAX_MESSAGE_BYTES
    assert len(urllib.parse.quote(body, safe="".join(map(chr, range(0x20, 0x7F))).replace("%", ""))) <= 6144
    assert text.startswith(body)
    assert (cut == text) or cut.endswith(errors.TRUNCATED)


def test_lone_surrogate_is_replaced() -> None:
    assert errors.header_message("a\ud800b") == "a?b"


class _RpcError(Exception):
    def __init__(self, code: int, details: str) -> None:
        self._code, self._details = errors.grpc_status(code), details

    def code(self) -> object:
        return self._code

    def details(self) -> str:
        return self._details


def test_removed_stream_counts_as_unavailable() -> None:
    assert type(errors.from_rpc_error(_RpcError(2, "Stream removed"))) is errors.Unavailable
    assert type(errors.from_rpc_error(_RpcError(2, "else"))) is errors.Unknown
    assert type(errors.from_rpc_error(_RpcError(5, "gone"))) is errors.NotFound


def test_a_connection_that_goes_while_a_request_is_sent_counts_as_unavailable() -> None:
    assert type(errors.from_rpc_error(_RpcError(13, "Internal error from Core"))) is errors.Unavailable
    assert type(errors.from_rpc_error(_RpcError(13, "else"))) is errors.Internal

    async def cut_off(after_s: float) -> errors.Error:
        """Send on a stream until the server ends, in the middle of it; return what is made of that."""

        async def swallow(requests: AsyncIterator[bytes], context: object) -> bytes:
            async for _ in requests:
                pass
            return b""

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1000

        handler = grpc.stream_unary_rpc_method_handler(swallow)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", {"C": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_unary("/a.B/C")(endless())
            await asyncio.sleep(after_s)
            await server.stop(0)
            with pytest.raises(grpc.aio.AioRpcError) as found:
                await call
        return errors.from_rpc_error(found.value)

    async def work() -> None:
        for number in range(20):
            assert type(await cut_off(0.01 + 0.0005 * number)) is errors.Unavailable

    run_async(work)


def test_import_does_not_import_grpc() -> None:
    script = "import runtime.errors, runtime.config, sys; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=30).returncode == 0
