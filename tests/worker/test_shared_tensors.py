"""Tensors between our own tasks on one host: they lie in shared memory, and what cannot go there goes as before."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime import transport, wire
from runtime._ext.worker_codec import encode_recv_tensor_response, scan_recv_tensor_response
from runtime.client.channels import Access
from runtime.client.status import fetch_status
from runtime.errors import DataLoss, InvalidArgument, NotFound, Unavailable
from runtime.transport import borrower, elsewhere, handover
from runtime.transport.borrower import num_borrowed
from runtime.transport.place import Place, here
from runtime.transport.roads import Totals
from runtime.transport.segments import SHARED_BYTES
from runtime.worker import peers
from tests.processes import free_port, has_stopped, start_server


@contextlib.contextmanager
def master_and_worker(folder: Path, *options: str) -> Iterator[str]:
    """Run a master in this process, and a worker with options in another."""
    cluster = {job: [f"127.0.0.1:{free_port()}"] for job in ("master", "worker")}
    with (
        start_server(folder, "--cluster", json.dumps(cluster), "--job", "worker", "--task", "0", *options,
                     listen=cluster["worker"][0]),
        runtime.Server(cluster, "master", 0) as server,
    ):
        yield f"grpc://{server.address}"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A master in this process, and a worker in another."""
    with master_and_worker(tmp_path_factory.mktemp("worker")) as found:
        yield found


@pytest.fixture(autouse=True)
def feeds_in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave feeds and fetches of the client in its messages: what is counted here is what goes between tasks."""
    monkeypatch.setattr(elsewhere, "LARGE_BYTES", 1 << 40)


def there_and_back(target: str, value: np.ndarray, fetch: str = "all") -> np.ndarray:
    graph = runtime.Graph()
    x = graph.placeholder(value.dtype, [None] * value.ndim)
    with graph.device("/job:worker"):
        there = x + x
    answer = there + x
    with runtime.Session(target, graph) as session:
        return session.run(answer, {x: value})


def received() -> Totals:
    return transport.totals()["received"].get("shared memory", Totals())


def test_large_tensors_lie_in_shared_memory_both_ways(target: str) -> None:
    value = np.random.default_rng(1).normal(size=(700, 1000)).astype(np.float32)
    before = received()
    sent = transport.totals()["sent"].get("shared memory", Totals())
    found = there_and_back(target, value)
    assert (found == value + value + value).all()
    assert received().bytes - before.bytes == value.nbytes
    assert received().copies == before.copies
    assert transport.totals()["sent"]["shared memory"].bytes - sent.bytes == value.nbytes


def test_what_a_step_got_is_given_back_with_its_answer_and_not_when_garbage_is_collected(target: str) -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [None])
    with graph.device("/job:worker"):
        there = x + x
        bad = graph.op("CheckNumerics", there, message=b"as it should")
    value = np.ones(1 << 18, np.float32)
    with runtime.Session(target, graph) as session:
        session.run(there, {x: value})
        gc.collect()
        gc.disable()
        try:
            before = received().transfers
            for _ in range(3):
                assert session.run(there, {x: value})[-1] == 2.0
            with pytest.raises(InvalidArgument):
                session.run([there, bad], {x: value * np.nan})
            assert received().transfers - before >= 3
            deadline = time.monotonic() + 20
            while num_borrowed():
                assert time.monotonic() < deadline, f"{num_borrowed()} tensors of the worker are kept"
                time.sleep(0.01)
        finally:
            gc.enable()


@pytest.mark.parametrize("value", [
    np.arange(10, dtype=np.int64), np.empty((0, 3), np.float32), np.ones(SHARED_BYTES - 1, np.uint8)])
def test_small_tensors_go_in_the_message(target: str, value: np.ndarray) -> None:
    before = received()
    assert (there_and_back(target, value) == value + value + value).all()
    assert received() == before


def test_tensors_keep_coming_right_while_segments_are_used_again(target: str) -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [None])
    with graph.device("/job:worker"):
        there = x * 2.0
    answer = there + 1.0
    with runtime.Session(target, graph) as session:
        kept = []
        for turn in range(12):
            found = session.run([answer, there], {x: np.full(200_000, turn, np.float32)})
            kept.append(found[1])
            assert (found[0] == 2 * turn + 1).all()
        assert all((array == 2 * turn).all() for turn, array in enumerate(kept))


def test_a_variable_is_handed_over_as_it_is_while_it_is_updated(target: str) -> None:
    """Each read of a variable that grows by one in every step is one of its values, all over."""
    graph = runtime.Graph()
    with graph.device("/job:worker"):
        weights = graph.variable(np.zeros((512, 512), np.float32), name="weights")
        grow = weights.assign_add(np.ones((512, 512), np.float32))
    with graph.device("/job:master"):
        seen = weights.read()
        least, most = graph.reduce_min(seen), graph.reduce_max(seen)
    with runtime.Session(target, graph) as session:
        session.run(weights.initializer)
        for turn in range(30):
            low, high, _ = session.run([least, most, grow])
            assert low == high and low in (turn, turn + 1)


def sent_by_worker(target: str) -> tuple[int, int]:
    """Return how many tensors the worker has lent, and how often it copied for that."""
    (task,) = [task for task in fetch_status(target, Access(), 10).task if task.task.startswith("/job:worker")]
    roads = [road for road in task.road if (road.direction, road.road) == ("sent", "shared memory")]
    return sum(road.transfers for road in roads), sum(road.copies for road in roads)


@pytest.mark.parametrize("malloc", ["tuned", "default"])
def test_what_a_step_of_a_task_makes_is_lent_without_a_copy_unless_memory_is_left_alone(
        target: str, tmp_path: Path, malloc: str) -> None:
    graph = runtime.Graph()
    with graph.device("/job:worker"):
        made = graph.op("RandomUniform", np.int32([512, 512]), dtype="float32")
    with graph.device("/job:master"):
        largest = graph.reduce_max(made)
    with contextlib.ExitStack() as stack:
        if malloc == "default":
            target = stack.enter_context(master_and_worker(tmp_path, "--malloc", malloc))
        before = sent_by_worker(target)
        with runtime.Session(target, graph) as session:
            for _ in range(3):
                assert 0.9 < session.run(largest) < 1
        transfers, copies = sent_by_worker(target)
    assert transfers - before[0] == 3
    assert copies - before[1] == (0 if malloc == "tuned" else 3)


def test_a_segment_out_of_reach_is_asked_for_in_a_message(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise Unavailable("another network namespace")

    value = np.arange(500_000, dtype=np.float64)
    monkeypatch.setattr(handover, "claim", unreachable)
    before = received()
    assert (there_and_back(target, value) == 3 * value).all()
    assert received() == before


def test_a_sender_that_freezes_when_it_has_lent_a_tensor_is_reported_in_the_time_that_any_call_has(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timeout_s = 3.0
    cluster = {job: [f"127.0.0.1:{free_port()}"] for job in ("master", "worker")}
    value = np.arange(500_000, dtype=np.float64)
    graph = runtime.Graph()
    x = graph.placeholder(value.dtype, [None])
    with graph.device("/job:worker"):
        there = x + x
    frozen_at = []
    with (
        start_server(tmp_path, "--cluster", json.dumps(cluster), "--job", "worker", "--task", "0",
                     listen=cluster["worker"][0]) as worker,
        runtime.Server(cluster, "master", 0, peer_timeout_s=timeout_s) as server,
    ):
        target = f"grpc://{server.address}"
        assert (there_and_back(target, value) == 3 * value).all()

        def claim_of_the_frozen(*args: Any) -> Any:
            os.kill(worker.pid, signal.SIGSTOP)
            while not has_stopped(worker.pid):  # a thread that still runs would answer
                time.sleep(0.001)
            frozen_at.append(time.monotonic())
            return claim(*args)

        claim = handover.claim
        monkeypatch.setattr(peers, "_APART_S", 1.0)
        monkeypatch.setattr(handover, "claim", claim_of_the_frozen)
        try:
            with runtime.Session(target, graph) as session:
                with pytest.raises(Unavailable, match="/job:worker/replica:0/task:0 at .* has not answered for"
                                                      f" {timeout_s:g} s; (the tensor|step) .* was awaited"):
                    session.run(there, {x: value})
                # The margin is for a busy machine; one limit after the other would take that of the claim longer.
                assert time.monotonic() - frozen_at[0] < timeout_s + 0.9 * min(borrower.ANSWER_S, timeout_s / 3)
                monkeypatch.setattr(handover, "claim", claim)
                os.kill(worker.pid, signal.SIGCONT)
        finally:
            monkeypatch.setattr(handover, "claim", claim)
            os.kill(worker.pid, signal.SIGCONT)
        before, deadline = received().transfers, time.monotonic() + 30
        while received().transfers == before:  # it is out of reach for a while, and then no longer
            assert time.monotonic() < deadline
            assert (there_and_back(target, value) == 3 * value).all()


# The words of both ends, without a network.


def options_of(place: Place) -> object:
    request = wire.RecvTensorRequest.FromString(handover.offer())
    message = wire.runtime_v1.SharedMemoryOffer(place=place.message())
    request.transport_options.value = message.SerializeToString()
    return request.transport_options


def test_only_another_process_of_the_same_user_and_boot_is_served() -> None:
    large, own = np.zeros(SHARED_BYTES, np.uint8), here()
    assert handover.is_wanted(options_of(Place(own.boot_id, own.user_id, 1)), large)
    assert not handover.is_wanted(options_of(own), large)
    assert not handover.is_wanted(options_of(Place(own.boot_id, own.user_id + 1, 1)), large)
    assert not handover.is_wanted(options_of(Place("another", own.user_id, 1)), large)
    assert not handover.is_wanted(options_of(Place(own.boot_id, own.user_id, 1)), large[1:])
    assert not handover.is_wanted(options_of(Place(own.boot_id, own.user_id, 1)), np.full(1 << 20, b"x", object))
    assert not handover.is_wanted(wire.RecvTensorRequest().transport_options, large)


def lent(array: np.ndarray) -> tuple[bytes, int]:
    answer = encode_recv_tensor_response(array[:0], None, False, 5) + handover.lend_tensor(array)
    datatype, empty, is_dead, _, options, _ = scan_recv_tensor_response(answer)
    assert empty.size == 0 and not is_dead and options is not None
    return options, datatype


@pytest.mark.parametrize("array", [
    np.arange(300_000, dtype=np.float64).reshape(300, 1000),
    np.arange(300_000, dtype=np.int16).reshape(300, 1000)[:, ::2],
    np.asfortranarray(np.arange(300_000, dtype=np.complex64).reshape(300, 1000)),
])
def test_a_lent_tensor_is_taken_as_it_was(array: np.ndarray) -> None:
    found = handover.take_tensor(*lent(array))
    assert found.dtype == array.dtype and (found == array).all()


def test_a_tensor_in_shared_memory_is_not_copied() -> None:
    array = transport.empty((1000, 100), np.float32)
    array[...] = 3
    before = transport.totals()["sent"].get("shared memory", Totals()).copies
    found = handover.take_tensor(*lent(array))
    assert transport.totals()["sent"]["shared memory"].copies == before
    array[5, 5] = 4
    assert found[5, 5] == 4 and not found.flags.writeable


def test_a_refused_tensor_is_given_once() -> None:
    array = np.arange(100_000, dtype=np.float32)
    options, datatype = lent(array)
    request = wire.RecvTensorRequest.FromString(handover.refusal(options, datatype))
    found = handover.take_back(request.transport_options)
    assert found is not None and found[1] == datatype and (found[0] == array).all()
    with pytest.raises(NotFound):
        handover.take_back(request.transport_options)
    with pytest.raises(NotFound):
        handover.take_tensor(options, datatype)
    assert handover.take_back(wire.RecvTensorRequest.FromString(handover.offer()).transport_options) is None


def test_answers_that_cannot_be_are_refused() -> None:
    options, datatype = lent(np.arange(100_000, dtype=np.float32))
    with pytest.raises(InvalidArgument, match=r"SharedTensor.shape is \[100000\] of double, and Lease.nbytes 400000"):
        handover.take_tensor(options, 2)
    with pytest.raises(InvalidArgument, match="RecvTensorResponse.transport_options is a nothing"):
        handover.take_tensor(b"", datatype)
    request = wire.RecvTensorRequest.FromString(handover.refusal(options, 2))
    with pytest.raises(DataLoss, match="400000 bytes were lent"):
        handover.take_back(request.transport_options)
