"""Each of the sixteen calls of tensorflow.WorkerService, asked over the wire with a bare stub."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from runtime import wire
from runtime._ext.tensor_codec import decode_tensor
from runtime._ext.worker_codec import encode_run_graph_request
from tests.graph.graphs import FLOAT, const, graph_def
from tests.worker.conftest import SERVICE, TIMEOUT_S, Task, send

METHODS = wire.SERVICES["tensorflow.WorkerService"]
STEPS = itertools.count(1 << 41)


class Prepared:
    """A worker with a session ``s`` and a graph that sends ``[1, 2]`` to the other task under the edge ``e``."""

    def __init__(self, tasks: list[Task]) -> None:
        self.task, self.other = tasks
        self.task.session()
        self.graph = self.task.register(
            const("c", [1.0, 2.0]), send("s", "c", FLOAT, self.task.ends(self.other, "e")))
        self.key = self.task.key(self.other, "e")

    def run(self) -> int:
        step = next(STEPS)
        self.task.run(self.graph, step)
        return step

    def graph_def(self) -> Any:
        return graph_def(const("k", 1.0, device=self.task.cpu))


def _member(made: Prepared, size: int) -> dict[str, Any]:
    attributes = wire.DeviceAttributes(name=made.task.cpu, device_type="CPU", incarnation=made.task.incarnation)
    return {"group_key": 7, "group_size": size, "device_type": "CPU", "device_attributes": attributes}


def _instance(made: Prepared) -> dict[str, Any]:
    made.task.call("CompleteGroup", **_member(made, 1))
    return {"name": "all", "type": 0, "data_type": 1, "group_key": 7, "group_size": 1, "instance_key": 3,
            "device_type": "CPU", "device": made.task.cpu}


CALLS: dict[str, tuple[Callable[[Prepared], Any], Callable[[Prepared, Any], bool]]] = {
    "GetStatus": (
        lambda made: {},
        lambda made, answer: [one.name for one in answer.device_attributes] == [made.task.cpu]),
    "CreateWorkerSession": (lambda made: {"session_handle": "t"}, lambda made, answer: True),
    "DeleteWorkerSession": (lambda made: {"session_handle": "s"}, lambda made, answer: True),
    "RegisterGraph": (
        lambda made: {"session_handle": "s", "create_worker_session_called": True, "graph_def": made.graph_def()},
        lambda made, answer: bool(answer.graph_handle) and answer.graph_handle != made.graph),
    "DeregisterGraph": (
        lambda made: {"session_handle": "s", "create_worker_session_called": True, "graph_handle": made.graph},
        lambda made, answer: True),
    "RunGraph": (
        lambda made: encode_run_graph_request("s", made.graph, next(STEPS)),
        lambda made, answer: not answer.status_code and not answer.recv),
    "CleanupGraph": (lambda made: {"step_id": made.run()}, lambda made, answer: True),
    "CleanupAll": (lambda made: {"container": ["nobody"]}, lambda made, answer: True),
    "RecvTensor": (
        lambda made: {"step_id": made.run(), "rendezvous_key": made.key},
        lambda made, answer: decode_tensor(answer.tensor.SerializeToString()).tolist() == [1.0, 2.0]),
    "Logging": (lambda made: {"fetch_step_id": [made.run()]}, lambda made, answer: not answer.step),
    "Tracing": (lambda made: {"options": wire.TraceOpts(duration=0.01)}, lambda made, answer: True),
    "CompleteGroup": (
        lambda made: _member(made, 1),
        lambda made, answer: (answer.group_key, answer.num_tasks, len(answer.device_attributes)) == (7, 1, 1)),
    "CompleteInstance": (_instance, lambda made, answer: answer.instance_key == 3),
    "GetStepSequence": (
        lambda made: {"graph_key": [11, 12]},
        lambda made, answer: {one.graph_key for one in answer.step_sequence} == {11, 12}
        and all(one.next_step_id for one in answer.step_sequence)),
    "MarkRecvFinished": (lambda made: {"request_id": 5}, lambda made, answer: True),
}


@pytest.fixture
def made(tasks: list[Task]) -> Prepared:
    return Prepared(tasks)


def test_there_are_sixteen() -> None:
    assert {*CALLS, "RecvBuf"} == set(METHODS)  # what RecvBuf hands over: test_collectives.py
    assert len(METHODS) == 16


@pytest.mark.parametrize("method", CALLS)
def test_the_call_is_answered(made: Prepared, method: str) -> None:
    request, is_right = CALLS[method]
    asked = request(made)
    answer = made.task.call(method, asked) if isinstance(asked, bytes) else made.task.call(method, **asked)
    assert is_right(made, answer), answer


def test_a_buffer_is_awaited_until_its_step_is_over(made: Prepared) -> None:
    step = next(STEPS)
    waiting = made.task.start("RecvBuf", step_id=step, buf_rendezvous_key="nobody:offers", num_bytes=4,
                              src_device=made.task.cpu, src_incarnation=made.task.incarnation, request_id=77)
    with pytest.raises(grpc.FutureTimeoutError):
        waiting.result(0.2)
    made.task.call("CleanupGraph", step_id=step)
    with pytest.raises(grpc.RpcError) as caught:
        waiting.result(TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert caught.value.details() == f"Cleanup {step}"


@pytest.mark.parametrize("method", METHODS)
def test_damaged_requests_are_refused_and_the_worker_goes_on(made: Prepared, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        made.task.channel.unary_unary(SERVICE + method)(b"\x0a\xff", timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    assert np.array_equal(decode_tensor(made.task.fetch(made.run(), made.key).tensor.SerializeToString()), [1, 2])
