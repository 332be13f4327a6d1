"""Tensors of a RunGraph that take long to read or to write do so in a thread, and their errors keep their text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime._ext.worker_codec import encode_run_graph_request
from runtime.dtypes import DataType
from runtime.errors import InvalidArgument, ResourceExhausted
from runtime.worker import service
from tests.graph.graphs import FLOAT, STRING, node
from tests.worker.conftest import Task, recv, send

ENDS = {"client_terminated": True}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The names of the threads that read requests, and that wrote answers, without giving up."""
    seen: dict[str, set[str]] = {}

    def watch(name: str) -> None:
        work = getattr(service, name)
        names = seen[name] = set()

        def wrapped(*arguments: Any, **options: Any) -> Any:
            found = work(*arguments, **options)
            names.add(threading.current_thread().name.rpartition("_")[0])
            return found

        monkeypatch.setattr(service, name, wrapped)

    watch("scan_run_graph")
    watch("encode_run_graph_response")
    return seen


def echo(task: Task, kind: DataType = FLOAT, name: str = "Identity") -> str:
    """Register a graph that hands back what it is given."""
    task.session()
    return task.register(recv("x", kind, {**task.ends(task, "x"), **ENDS}), node("y", name, "x", T=kind),
                         send("s", "y", kind, {**task.ends(task, "y"), **ENDS}))


POOL = "tensor-runtime-tensors"


@pytest.mark.parametrize("value, reads, writes", [
    (np.ones(8, np.float32), False, False),
    (np.ones(1 << 19, np.float32), False, True),  # a view of the request, and a copy in the answer
    (np.ones(3 << 20, np.float32), True, True),
    (np.array([b"x" * 10] * (1 << 17), object), True, True),
])
def test_what_takes_long_is_done_in_a_thread(task: Task, steps: Iterator[int], threads: dict[str, set[str]], value: Any,
                                             reads: bool, writes: bool) -> None:
    kind = STRING if value.dtype == object else FLOAT
    graph = echo(task, kind)
    (found,) = task.run(graph, next(steps), send={task.key(task, "x"): value}, receive=[task.key(task, "y")])
    assert found.dtype == value.dtype and np.array_equal(found, value)
    assert (threads["scan_run_graph"] == {POOL}) is reads
    assert (threads["encode_run_graph_response"] == {POOL}) is writes


def announced(task: Task, graph: str, step: int, elements: int) -> Any:
    """Return a short request with a tensor of so many equal elements."""
    request = wire.RunGraphRequest(session_handle="s", create_worker_session_called=True, graph_handle=graph,
                                   step_id=step, store_errors_in_response_body=True)
    tensor = request.send.add(name=task.key(task, "x")).tensor
    tensor.dtype = int(FLOAT)  # type: ignore[assignment]
    tensor.tensor_shape.dim.add(size=elements)
    tensor.float_val.append(2.0)
    return request


def test_a_short_message_of_a_large_tensor_is_read_in_a_thread(task: Task, steps: Iterator[int],
                                                               threads: dict[str, set[str]]) -> None:
    graph = echo(task)
    task.finish_run(task.start("RunGraph", announced(task, graph, next(steps), 1 << 22)))
    assert threads["scan_run_graph"] == {POOL}


def test_errors_of_large_requests_keep_their_text_and_place(task: Task, steps: Iterator[int]) -> None:
    graph = echo(task)
    key = task.key(task, "x")
    for size in (4, 12 << 20):
        data = encode_run_graph_request("s", graph, next(steps), [key, key + "!"], [
            np.zeros(size, np.uint8), np.zeros(2, np.float32)])
        # A shape of 9 for 2 elements.
        damaged = data[:-60] + data[-60:].replace(b"\x12\x02\x08\x02", b"\x12\x02\x08\x09")
        assert damaged != data
        with pytest.raises(InvalidArgument, match=r'^RunGraphRequest\.send\[1\] ".*!": TensorProto'):
            task.finish_run(task.start("RunGraph", damaged))
    with pytest.raises(ResourceExhausted, match=r'RunGraphRequest\.send\[0\]|the tensors of a RunGraph'):
        task.finish_run(task.start("RunGraph", announced(task, graph, next(steps), 1 << 45)))
    task.run(graph, next(steps), send={key: np.float32(1)})
