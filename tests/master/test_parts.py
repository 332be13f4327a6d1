"""Steps over tasks of ours in bare calls: partial runs, callables, traces, and what they leave on the tasks."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import runtime
from runtime import wire
from runtime.client.channels import Access
from runtime.client.status import fetch_status
from runtime.dtypes import DataType
from tests.graph.graphs import FLOAT, const, node, placeholder
from tests.interop.raw import Refused, Wire, connect
from tests.master.harness import array, step_request

DEADLINE_S = 20.0
MASTER, WORKER = "/job:master/replica:0/task:0", "/job:worker/replica:0/task:0"
THERE = "/job:worker/task:0"
GONE = (3, "Must run PartialRunSetup before performing partial runs")


@pytest.fixture(scope="module")
def cluster() -> Iterator[runtime.Cluster]:
    with runtime.Cluster(jobs={"master": 1, "worker": 1}, services=("graph",), grace_s=1, peer_timeout_s=4,
                         cached_steps=3) as made:
        yield made


@pytest.fixture
def client(cluster: runtime.Cluster) -> Iterator[Wire]:
    with connect(cluster.targets["master"][0]) as made:
        yield made


def there(name: str, op: str, *inputs: str, **attrs: Any) -> Any:
    return node(name, op, *inputs, device=THERE, **attrs)


@pytest.fixture
def handle(client: Wire) -> Iterator[str]:
    """A session with ``double = 2 x`` on the worker, ``sum = double + w`` here, and what waits for a queue there."""
    made = client.session(
        placeholder("x"), placeholder("w"), const("two", 2.0, device=THERE),
        there("double", "Mul", "x", "two", T=FLOAT), node("sum", "AddV2", "double", "w", T=FLOAT),
        there("queue", "FIFOQueueV2", component_types=[FLOAT]),
        there("take", "QueueDequeueV2", "queue", component_types=[FLOAT]), there("taken", "Mul", "take", "x", T=FLOAT),
        there("put", "QueueEnqueueV2", "queue", "two", Tcomponents=[FLOAT]),
        const("three", np.array([3], np.int32), device=THERE),
        there("bad", "Reshape", "double", "three", T=FLOAT, Tshape=DataType.INT32),
    )
    yield made
    with contextlib.suppress(Refused):
        client.call("CloseSession", session_handle=made)


def until(found: Callable[[], Any]) -> Any:
    """Return what a function finds, asked again until it finds something."""
    deadline = time.monotonic() + DEADLINE_S
    while not (answer := found()):
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)
    return answer


def told(cluster: runtime.Cluster, job: str) -> Any:
    """Return the status of a job's task."""
    return fetch_status(cluster.targets[job][0], Access(), 5, only_this_task=True).task[0]


def on_worker(cluster: runtime.Cluster, handle: str) -> Any:
    """Return what the worker has of a session."""
    return next((session for session in told(cluster, "worker").worker_session if session.handle == handle), None)


def setup(client: Wire, handle: str, feed: list[str], fetch: list[str], target: tuple[str, ...] = ()) -> str:
    return str(client.call("PartialRunSetup", session_handle=handle, feed=feed, fetch=fetch, target=target
                           ).partial_run_handle)


def waits(cluster: runtime.Cluster, handle: str) -> list[Any]:
    """Return what the worker's steps of a session wait for."""
    found = on_worker(cluster, handle)
    return [] if found is None else [wait for step in found.step for wait in step.wait]


# Partial runs


def test_42_a_partial_run_over_tasks_goes_on_call_by_call(cluster: runtime.Cluster, client: Wire, handle: str) -> None:
    run = setup(client, handle, ["x:0", "w:0"], ["double:0", "sum:0"])
    assert on_worker(cluster, handle).graph  # registered, and nothing runs yet
    assert on_worker(cluster, handle).num_steps == 0
    first = client.step(handle, ["double:0"], feed={"x:0": 3.0}, partial_run_handle=run)
    assert [float(array(entry.tensor)) for entry in first.tensor] == [6.0]
    assert not first.HasField("metadata")
    last = client.step(handle, ["sum:0"], feed={"w:0": 1.0}, partial_run_handle=run)
    assert [float(array(entry.tensor)) for entry in last.tensor] == [7.0]
    assert last.HasField("metadata")
    assert client.in_body(handle, ["sum:0"], partial_run_handle=run) == GONE
    until(lambda: not on_worker(cluster, handle).num_steps)


def test_42_the_texts_are_those_of_one_task(client: Wire, handle: str) -> None:
    run = setup(client, handle, ["x:0", "w:0"], ["double:0", "sum:0"])
    for feed, fetch, text in (
        ({"two:0": 1.0}, [], "The feed two:0 was not specified in partial_run_setup."),
        ({}, ["two:0"], "The fetch two:0 was not specified in partial_run_setup."),
        ({"x:0": 1.0}, ["sum:0"], "Fetch w:0 can't be computed from the feeds that have been fed so far."),
    ):
        assert client.in_body(handle, fetch, (), feed, partial_run_handle=run) == (3, text)
    assert client.run(handle, ["double:0"], feed={"x:0": 3.0}, partial_run_handle=run) == {"double:0": 6.0}
    for feed, fetch, text in (({"x:0": 1.0}, [], "The feed x:0 has already been fed."),
                              ({}, ["double:0"], "The fetch double:0 has already been fetched.")):
        assert client.in_body(handle, fetch, (), feed, partial_run_handle=run) == (3, text)
    code, text = client.in_body(handle, ["sum:0"], feed={"w:0": np.int32(1)}, partial_run_handle=run)
    assert (code, text.partition("\n")[0]) == (13, f"From {MASTER}:")
    assert client.in_body(handle, ["sum:0"], partial_run_handle=run) == GONE
    with pytest.raises(Refused, match=r"^5 FetchOutputs node nono:0: not found$"):
        setup(client, handle, ["x:0"], ["nono:0"])


def test_a_failure_there_between_the_calls_is_told_by_the_next(cluster: runtime.Cluster, client: Wire,
                                                              handle: str) -> None:
    run = setup(client, handle, ["x:0", "w:0"], ["double:0", "sum:0"], ("bad",))
    assert client.run(handle, ["double:0"], feed={"x:0": 3.0}, partial_run_handle=run) == {"double:0": 6.0}
    code, text = client.in_body(handle, ["sum:0"], feed={"w:0": 3.0}, partial_run_handle=run)
    assert code == 3
    assert text.startswith(f"From {WORKER}:\n") and text.endswith("[[{{node bad}}]]")
    until(lambda: not on_worker(cluster, handle).num_steps)


def test_a_call_that_its_client_leaves_ends_the_run_on_all_tasks(cluster: runtime.Cluster, client: Wire,
                                                                handle: str) -> None:
    run = setup(client, handle, ["x:0"], ["double:0", "taken:0"])
    assert client.run(handle, ["double:0"], feed={"x:0": 3.0}, partial_run_handle=run) == {"double:0": 6.0}
    left = client.future("RunStep", step_request(handle, ["taken:0"], partial_run_handle=run).SerializeToString())
    until(lambda: waits(cluster, handle))
    left.cancel()
    until(lambda: not on_worker(cluster, handle).num_steps)
    assert client.in_body(handle, ["taken:0"], partial_run_handle=run) == GONE


def test_a_run_that_waits_for_its_next_call_ends_with_its_session(cluster: runtime.Cluster, client: Wire,
                                                                  handle: str) -> None:
    run = setup(client, handle, ["x:0"], ["double:0", "taken:0"])
    idle = setup(client, handle, ["x:0", "w:0"], ["sum:0"])
    assert client.run(handle, ["double:0"], feed={"x:0": 3.0}, partial_run_handle=run) == {"double:0": 6.0}
    assert client.run(handle, [], feed={"x:0": 3.0}, partial_run_handle=idle) == {}
    assert until(lambda: waits(cluster, handle))
    client.call("CloseSession", session_handle=handle, timeout_s=10.0)
    until(lambda: on_worker(cluster, handle) is None)
    assert client.in_body(handle, ["sum:0"], partial_run_handle=idle) == (10, f"Session {handle} is not found.")


def test_a_run_at_its_limit_says_what_it_waits_for(cluster: runtime.Cluster, client: Wire, handle: str) -> None:
    run = setup(client, handle, ["x:0"], ["taken:0"])
    code, text = client.in_body(handle, ["taken:0"], feed={"x:0": 3.0}, partial_run_handle=run,
                                options=wire.RunOptions(timeout_in_ms=500))
    assert code == 4
    own = rf"tensor \S+_taken;0:0 from {WORKER} by node taken_S\d+, for 0\.\d s"
    assert re.search(rf"it waits for: its parts on {MASTER}, {WORKER}, for 0\.\d s; {own}$", text)
    until(lambda: not on_worker(cluster, handle).num_steps)


def test_a_worker_that_dies_between_the_calls_is_named(cluster: runtime.Cluster, client: Wire, handle: str) -> None:
    run = setup(client, handle, ["x:0", "w:0"], ["double:0", "sum:0"])
    assert client.run(handle, ["double:0"], feed={"x:0": 3.0}, partial_run_handle=run) == {"double:0": 6.0}
    other = setup(client, handle, ["x:0"], ["taken:0"])
    waiting = client.future("RunStep", step_request(handle, ["taken:0"], feed={"x:0": 3.0}, partial_run_handle=other,
                                                    store_errors_in_response_body=True).SerializeToString())
    until(lambda: waits(cluster, handle))
    cluster.kill("worker", 0)
    try:
        answer = wire.RunStepResponse.FromString(waiting.result(DEADLINE_S))
        assert answer.status_code == 14
        assert answer.status_error_message.startswith(f"From {WORKER}:\n")
        assert "partial run" in answer.status_error_message
        code, text = client.in_body(handle, ["sum:0"], feed={"w:0": 3.0}, partial_run_handle=run)
        assert code == 14
        assert text.startswith(f"From {WORKER}:\n")
        assert client.in_body(handle, ["sum:0"], partial_run_handle=run) == GONE
        with pytest.raises(Refused, match="^14 ") as caught:
            setup(client, handle, ["x:0"], ["double:0", "taken:0"])
        assert WORKER in caught.value.message and "the registration of a graph" in caught.value.message
    finally:
        cluster.start("worker", 0)
    session = client.session(placeholder("x"), there("y", "Neg", "x", T=FLOAT))
    run = setup(client, session, ["x:0"], ["y:0"])
    assert client.run(session, ["y:0"], feed={"x:0": 3.0}, partial_run_handle=run) == {"y:0": -3.0}
    client.call("CloseSession", session_handle=session)


# Our client


def test_our_client_runs_partially_and_by_callables(cluster: runtime.Cluster) -> None:
    graph = runtime.Graph()
    x, w = graph.placeholder("float32", [], name="x"), graph.placeholder("float32", [], name="w")
    with graph.device(THERE):
        double = x * 2.0
    total = double + w
    with runtime.Session(cluster.targets["master"][0], graph) as session:
        handle = session.partial_run_setup([double, total], [x, w])
        assert session.partial_run(handle, double, {x: 3.0}) == 6.0
        assert session.partial_run(handle, [total], {w: 1.0}) == [7.0]
        with session.make_callable([total, double], [w, x]) as call:
            assert call(1.0, 3.0) == [7.0, 6.0]
            assert call(2.0, 4.0) == [10.0, 8.0]
            assert len(on_worker(cluster, told(cluster, "master").session[-1].handle).graph) == 2
        until(lambda: len(on_worker(cluster, told(cluster, "master").session[-1].handle).graph) == 1)


# Graphs on the tasks


def test_43_a_callable_over_tasks_and_its_graphs_go_when_it_is_released(cluster: runtime.Cluster, client: Wire,
                                                                       handle: str) -> None:
    options = wire.CallableOptions(feed=["w:0", "x:0"], fetch=["sum:0", "double:0", "sum:0"], target=["put"])
    number = client.call("MakeCallable", session_handle=handle, options=options).handle
    for _ in range(2):
        assert client.run_callable(handle, number, 1.0, 3.0) == [7.0, 6.0, 7.0]
    assert len(on_worker(cluster, handle).graph) == 1
    waiting = client.call("MakeCallable", session_handle=handle, options=wire.CallableOptions(
        feed=["x:0"], fetch=["taken:0"])).handle
    assert client.run_callable(handle, waiting, 5.0) == [10.0]
    assert client.run_callable(handle, waiting, 5.0) == [10.0]
    request = wire.RunCallableRequest(session_handle=handle, handle=waiting)
    request.feed.add(dtype=1, float_val=[5.0])
    running = client.future("RunCallable", request.SerializeToString())
    until(lambda: waits(cluster, handle))
    client.call("ReleaseCallable", session_handle=handle, handle=number)
    client.call("ReleaseCallable", session_handle=handle, handle=waiting)
    until(lambda: len(on_worker(cluster, handle).graph) == 1)  # that of the one that runs, until it has ended
    client.step(handle, target=["put"])
    answer = wire.RunCallableResponse.FromString(running.result(DEADLINE_S))
    assert array(answer.fetch[0]) == 10.0
    until(lambda: len(on_worker(cluster, handle).graph) == 1)  # the step that put something
    with pytest.raises(Refused, match=f"^3 Attempted to run callable after handle was released: {number}$"):
        client.run_callable(handle, number, 1.0, 3.0)


def test_graphs_of_steps_that_are_not_kept_go_from_the_tasks(cluster: runtime.Cluster, client: Wire) -> None:
    nodes = [there(f"n{number}", "Neg", "x", T=FLOAT) for number in range(6)]
    handle = client.session(placeholder("x"), *nodes)
    for _ in range(2):
        for number in range(6):
            assert client.run(handle, [f"n{number}:0"], feed={"x:0": 1.0}) == {f"n{number}:0": -1.0}
    until(lambda: len(on_worker(cluster, handle).graph) <= 3)  # cached_steps
    client.call("CloseSession", session_handle=handle)


# What is told of steps


def test_44_a_trace_has_every_device_once_and_what_went_between_them(client: Wire, handle: str) -> None:
    options = wire.RunOptions(trace_level=wire.RunOptions.FULL_TRACE, output_partition_graphs=True)
    for _ in range(2):
        metadata = client.step(handle, ["sum:0"], feed={"x:0": 1.0, "w:0": 2.0}, options=options).metadata
    devices = {device.device: device for device in metadata.step_stats.dev_stats}
    assert list(devices) == [f"{MASTER}/device:CPU:0", f"{WORKER}/device:CPU:0"]
    assert len(devices) == len(metadata.step_stats.dev_stats)
    for name, (node_name, sender) in {f"{MASTER}/device:CPU:0": ("sum", WORKER),
                                      f"{WORKER}/device:CPU:0": ("double", MASTER)}.items():
        entries = devices[name].node_stats
        assert node_name in [entry.node_name for entry in entries]
        (transfer,) = [entry for entry in entries if entry.node_name == "RecvTensor"]
        assert transfer.timeline_label.endswith(f"from {sender}/device:CPU:0 to {name} by message")
        assert transfer.timeline_label.startswith("[4B] [")
        starts = [entry.all_start_micros for entry in entries]
        assert starts == sorted(starts)
    assert sorted({found.device for graph in metadata.partition_graphs for found in graph.node}) == list(devices)
    assert len(metadata.partition_graphs) == 2
    by_name = {found.name: found for graph in metadata.partition_graphs for found in graph.node}
    assert by_name["double"].attr["T"].type == 1
    assert {"_recv_x_0", "_send_sum_0"} <= set(by_name)
    for options in (wire.RunOptions(output_partition_graphs=True), wire.RunOptions()):
        metadata = client.step(handle, ["sum:0"], feed={"x:0": 1.0, "w:0": 2.0}, options=options).metadata
        assert not metadata.step_stats.dev_stats
        assert len(metadata.partition_graphs) == 2 * options.output_partition_graphs


def test_a_traced_step_may_fail_and_be_cancelled(cluster: runtime.Cluster, client: Wire, handle: str) -> None:
    options = wire.RunOptions(trace_level=wire.RunOptions.FULL_TRACE)
    code, text = client.in_body(handle, ["bad:0"], feed={"x:0": 1.0}, options=options)
    assert code == 3 and text.startswith(f"From {WORKER}:\n")
    late = client.future("RunStep", step_request(handle, ["taken:0"], feed={"x:0": 3.0}, options=options
                                                 ).SerializeToString())
    until(lambda: waits(cluster, handle))
    late.cancel()
    until(lambda: not on_worker(cluster, handle).num_steps)
    answer = client.step(handle, ["sum:0"], feed={"x:0": 1.0, "w:0": 2.0}, options=options)
    assert array(answer.tensor[0].tensor) == 4.0
    assert len(answer.metadata.step_stats.dev_stats) == 2


def test_what_waits_on_a_task_is_told_with_its_node(cluster: runtime.Cluster, client: Wire, handle: str) -> None:
    waiting = client.future("RunStep", step_request(handle, ["taken:0"], feed={"x:0": 3.0}).SerializeToString())

    def only(found: list[Any], node: str) -> Any:  # what it was fed is awaited, too, until it has come
        return found[0] if len(found) == 1 and found[0].node.startswith(node) else None

    wait = until(lambda: only(waits(cluster, handle), "take"))
    assert wait.node == "take"
    assert wait.what.startswith("dequeue from FIFOQueue ")

    def own() -> list[Any]:
        return [wait for session in told(cluster, "master").worker_session for step in session.step
                for wait in step.wait]

    wait = until(lambda: only(own(), "taken_S"))
    assert wait.what.endswith(f"_taken;0:0 from {WORKER}")
    assert wait.seconds >= 0
    client.step(handle, target=["put"])
    assert array(wire.RunStepResponse.FromString(waiting.result(DEADLINE_S)).tensor[0].tensor) == 6.0
