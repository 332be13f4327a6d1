"""Two tasks of one cluster in this process, and a master of tests that talks to them over the wire."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest

import runtime
from runtime import wire
from runtime._ext.tensor_codec import decode_tensor
from runtime._ext.worker_codec import encode_run_graph_request
from runtime.client.channels import Access
from runtime.client.status import fetch_status
from runtime.errors import Error, from_code
from tests.graph.graphs import graph_def, node
from tests.processes import free_port

TIMEOUT_S = 20.0
SERVICE = "/tensorflow.WorkerService/"


def until(condition: Callable[[], Any]) -> Any:
    """Return what a function finds, asked again until it finds something."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.005)
    return found


class Task:
    """One task as a master sees it."""

    def __init__(self, server: runtime.Server, index: int) -> None:
        self.name = f"/job:worker/replica:0/task:{index}"
        self.cpu = f"{self.name}/device:CPU:0"
        self.server = server
        self.channel = grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)])
        self.incarnation: int = self.call("GetStatus").device_attributes[0].incarnation

    def start(self, method: str, message: Any = None, **fields: Any) -> Any:
        """Start a call and return its future; ``message`` may be bytes."""
        kind = wire.SERVICES["tensorflow.WorkerService"][method]
        if message is None:
            message = kind.request(**fields)
        data = message if isinstance(message, bytes) else message.SerializeToString()
        return self.channel.unary_unary(SERVICE + method).future(data, timeout=TIMEOUT_S)

    def finish(self, method: str, future: Any) -> Any:
        """Return the answer of a call; its error is a domain error."""
        try:
            answer = future.result()
        except grpc.RpcError as error:
            found = from_code(error.code().value[0], error.details())
            found.trailers = tuple(error.trailing_metadata())  # type: ignore[attr-defined]
            raise found from None
        return wire.SERVICES["tensorflow.WorkerService"][method].response.FromString(answer)

    def call(self, method: str, message: Any = None, **fields: Any) -> Any:
        """Make a call and return the answer; raise its error."""
        return self.finish(method, self.start(method, message, **fields))

    def told(self) -> Any:
        """Return the task's status."""
        return fetch_status(f"grpc://{self.server.address}", Access(), 5, only_this_task=True).task[0]

    def until_wanted(self, count: int = 1) -> None:
        """Wait until other tasks wait here for so many tensors."""
        until(lambda: len(self.told().wanted) == count)

    def session(self, handle: str = "s", **fields: Any) -> str:
        """Create a worker session as a master of TensorFlow 2.21 does."""
        self.call("CreateWorkerSession", session_handle=handle, **fields)
        return handle

    def register(self, *nodes: Any, handle: str = "s", **options: Any) -> str:
        """Register a graph; nodes without a device get this task's."""
        graph = graph_def(*nodes, **options)
        for proto in graph.node:
            proto.device = proto.device or self.cpu
        answer = self.call("RegisterGraph", session_handle=handle, create_worker_session_called=True, graph_def=graph)
        return str(answer.graph_handle)

    def run(self, graph: str, step: int, *, handle: str = "s", send: dict[str, Any] | None = None,
            receive: Sequence[str] = (), **fields: Any) -> list[Any]:
        """Run a graph and return what was to be received; raise the error in the answer's body."""
        return self.finish_run(self.start_run(graph, step, handle=handle, send=send, receive=receive, **fields))

    def start_run(self, graph: str, step: int, *, handle: str = "s", send: dict[str, Any] | None = None,
                  receive: Sequence[str] = (), **fields: Any) -> Any:
        """Start a RunGraph."""
        data = encode_run_graph_request(handle, graph, step, tuple(send or ()),
                                        [np.asarray(value) for value in (send or {}).values()], receive,
                                        **fields)
        return self.start("RunGraph", data)

    def finish_run(self, future: Any) -> list[Any]:
        """Return what a RunGraph received; raise the error in its body."""
        answer = self.finish("RunGraph", future)
        if answer.status_code:
            raise from_code(answer.status_code, answer.status_error_message)
        return [decode_tensor(entry.tensor.SerializeToString()) for entry in answer.recv]

    def key(self, other: Task, edge: str, where: str = "0:0") -> str:
        """Return the rendezvous key of an edge from this task to another."""
        return f"{self.cpu};{self.incarnation:016x};{other.cpu};{edge};{where}"

    def ends(self, other: Task, edge: str) -> dict[str, Any]:
        """Return the attrs of both ends of an edge from this task to another."""
        signed = self.incarnation - (1 << 64) if self.incarnation >= 1 << 63 else self.incarnation
        return {"tensor_name": edge.encode(), "send_device": self.cpu.encode(), "recv_device": other.cpu.encode(),
                "send_device_incarnation": signed}

    def fetch(self, step: int, key: str, **fields: Any) -> Any:
        """Ask for a tensor and return the RecvTensorResponse."""
        return self.call("RecvTensor", step_id=step, rendezvous_key=key, **fields)


def send(name: str, source: str, kind: Any, ends: dict[str, Any], op: str = "_Send", **options: Any) -> Any:
    """Return a _Send node."""
    return node(name, op, source, T=kind, **ends, **options)


def recv(name: str, kind: Any, ends: dict[str, Any], *controls: str, op: str = "_Recv") -> Any:
    """Return a _Recv node."""
    return node(name, op, *controls, tensor_type=kind, **ends)


@pytest.fixture
def steps() -> Iterator[int]:
    """Step ids, each used once."""
    return itertools.count(1 << 40)


@pytest.fixture
def tasks() -> Iterator[list[Task]]:
    """Two tasks of one cluster."""
    cluster = {"worker": [f"127.0.0.1:{free_port()}" for _ in range(2)]}
    with contextlib.ExitStack() as stack:
        made = []
        for index in range(2):
            server = stack.enter_context(runtime.Server(cluster, "worker", index, peer_timeout_s=3))
            made.append(Task(server, index))
            stack.callback(made[-1].channel.close)
        yield made


@pytest.fixture
def task(tasks: list[Task]) -> Task:
    """The first of the two."""
    return tasks[0]


def code_of(error: BaseException) -> int:
    """Return the status code of a domain error."""
    assert isinstance(error, Error)
    return error.code
