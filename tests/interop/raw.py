"""A gRPC client that sends what no TensorFlow client would, in messages or bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from runtime import wire
from tests.graph.graphs import graph_def
from tests.master.harness import array, fill, step_request

__all__ = ["MASTER", "Refused", "Wire", "connect"]

MASTER = "/tensorflow.MasterService/"
TIMEOUT_S = 20.0
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# What TensorFlow's server appends to a message now and then.
APPENDED = re.compile(r"\nRecent warning and error logs:.*", re.DOTALL)


class Refused(Exception):
    """A call that ended with a status other than OK.

    Attributes
    ----------
    code : int
        gRPC's number of the status.
    message : str
        Its text, without what TensorFlow's server appends.
    """

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: int = error.code().value[0]
        self.message = APPENDED.sub("", error.details() or "")
        super().__init__(f"{self.code} {self.message}")


class Wire:
    """Calls of tensorflow.MasterService over one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.methods = wire.SERVICES["tensorflow.MasterService"]

    def future(self, method: str, request: bytes, timeout_s: float = TIMEOUT_S) -> Any:
        """Start a call with bytes; a method without a slash is one of the MasterService's."""
        path = method if method.startswith("/") else MASTER + method
        return self.channel.unary_unary(path).future(request, timeout=timeout_s)

    def send(self, method: str, request: bytes, timeout_s: float = TIMEOUT_S) -> bytes:
        """Make a call with bytes and return the answer's; raise :class:`Refused` for its status."""
        try:
            answer = self.future(method, request, timeout_s).result()
        except grpc.RpcError as error:
            raise Refused(error) from None
        assert type(answer) is bytes
        return answer

    def call(self, method: str, message: Any = None, timeout_s: float = TIMEOUT_S, **fields: Any) -> Any:
        """Make a call, with a message or the fields of one, and return the answer."""
        kind = self.methods[method]
        message = kind.request(**fields) if message is None else message
        return kind.response.FromString(self.send(method, message.SerializeToString(), timeout_s))

    def refusal(self, method: str, message: Any = None, **fields: Any) -> tuple[int, str]:
        """Make a call that is to fail and return its status as code and text."""
        try:
            answer = self.call(method, message, **fields)
        except Refused as error:
            return error.code, error.message
        return 0, f"no error, but {answer!r:.200}"

    def session(self, *nodes: Any, functions: tuple[Any, ...] = (), producer: int = 2474, **config: Any) -> str:
        """Create a session and return its handle."""
        request = wire.CreateSessionRequest(graph_def=graph_def(*nodes, functions=functions, producer=producer))
        request.config.CopyFrom(wire.ConfigProto(**config))
        return str(self.call("CreateSession", request).session_handle)

    def extend(self, handle: str, version: int, *nodes: Any, **options: Any) -> int:
        """Extend a session's graph and return the new version."""
        graph = graph_def(*nodes, **options)
        answer = self.call("ExtendSession", session_handle=handle, graph_def=graph, current_graph_version=version)
        return int(answer.new_graph_version)

    def step(self, handle: str, fetch: Any = (), target: Any = (), feed: Any = None, **fields: Any) -> Any:
        """Run a step and return the RunStepResponse."""
        return self.call("RunStep", step_request(handle, fetch, target, feed, **fields))

    def in_body(self, handle: str, fetch: Any = (), target: Any = (), feed: Any = None, **fields: Any) -> Any:
        """Run a step that is to fail and return code and text from the answer's body."""
        answer = self.step(handle, fetch, target, feed, store_errors_in_response_body=True, **fields)
        assert not answer.tensor
        return answer.status_code, APPENDED.sub("", answer.status_error_message)

    def run(self, handle: str, fetch: Any = (), target: Any = (), feed: Any = None, **fields: Any) -> dict[str, Any]:
        """Run a step and return its tensors by name, as arrays."""
        answer = self.step(handle, fetch, target, feed, **fields)
        return {entry.name: array(entry.tensor) for entry in answer.tensor}

    def run_callable(self, handle: str, number: int, *values: Any) -> list[Any]:
        """Run a callable and return its tensors in order, as arrays."""
        request = wire.RunCallableRequest(session_handle=handle, handle=number)
        for value in values:
            fill(request.feed.add(), value)
        return [array(tensor) for tensor in self.call("RunCallable", request).fetch]


@contextmanager
def connect(target: str) -> Iterator[Wire]:
    """Open a channel of its own to ``grpc://HOST:PORT`` and close it at the end."""
    options = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target.removeprefix("grpc://"), options) as channel:
        yield Wire(channel)
