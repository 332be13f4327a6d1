"""What a client says of a server that does not keep to the protocol: which call, which key; it never waits for ever."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

import runtime
from runtime import wire
from runtime.errors import Internal, Unavailable

TIMEOUT_S = 60.0
OK = b"\n\x00"
Tell = Callable[[list[str]], list[str]]


class _OddServer(grpc.GenericRpcHandler):
    """Says yes to whatever creates something, and tells of results as it likes."""

    def __init__(self, tell: Tell, chunk_bytes: int) -> None:
        self._tell = tell
        self._configuration = wire.armonik.Configuration(data_chunk_max_size=chunk_bytes).SerializeToString()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        service, _, name = details.method[1:].partition("/")
        if details.method == "/runtime.v1.Results/Collect":
            return grpc.unary_stream_rpc_method_handler(self._collect)
        if wire.SERVICES[service][name].client_streaming:
            return grpc.stream_unary_rpc_method_handler(lambda messages, _: [*messages] and OK)
        answer = self._configuration if name == "GetServiceConfiguration" else OK
        return grpc.unary_unary_rpc_method_handler(lambda *_: answer)

    def _collect(self, data: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        request = wire.runtime_v1.CollectRequest.FromString(data)
        for key in self._tell(list(request.key)):
            reply = wire.runtime_v1.CollectReply()
            reply.result.add(key=key, status="COMPLETED", value=b"1")
            yield reply.SerializeToString()


@contextlib.contextmanager
def odd_server(tell: Tell, chunk_bytes: int = 84_000) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([_OddServer(tell, chunk_bytes)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize(
    ("tell", "error", "message"),
    [
        (lambda keys: [keys[0], *keys], Internal, "tells of the result '{0}', which it has told of before or was not"),
        (lambda keys: ["other"], Internal, "tells of the result 'other', which it has told of before or was not"),
        (lambda keys: [], Unavailable, "ended before it told of the result '{0}'"),
    ],
    ids=["twice", "other", "nothing"],
)
def test_odd_news_of_results(tell: Tell, error: type[runtime.Error], message: str) -> None:
    with odd_server(tell) as target, runtime.TaskClient(target, retry_s=0.2) as client:
        session = client.session()
        tasks = session.map([b"", b""])
        with pytest.raises(error) as caught:
            session.gather(tasks, timeout_s=TIMEOUT_S)
        assert caught.value.message.startswith(f"{target}: /runtime.v1.Results/Collect ")
        assert message.format(*(task.keys[0] for task in tasks)) in caught.value.message


@pytest.mark.parametrize("tell", [lambda keys: keys[::-1], lambda keys: keys[:1]], ids=["at once", "one by call"])
def test_a_server_that_tells_of_all_in_the_end_is_understood(tell: Tell) -> None:
    with odd_server(tell) as target, runtime.TaskClient(target) as client:
        session = client.session()
        assert session.gather(session.map([b""] * 5), timeout_s=TIMEOUT_S) == [b"1"] * 5


def test_a_server_that_takes_no_bytes_at_all() -> None:
    with (
        odd_server(lambda keys: keys, chunk_bytes=0) as target,
        runtime.TaskClient(target) as client,
        pytest.raises(Internal, match="GetServiceConfiguration answered data_chunk_max_size 0"),
    ):
        client.session().submit(b"x")
