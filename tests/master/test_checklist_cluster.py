"""Items of the checklist that only a master with other tasks shows, on the wire between it and them."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import runtime
from runtime import wire
from runtime.master import parts_run
from tests.graph.graphs import BOOL, FLOAT, INT32, const, graph_def, node, placeholder
from tests.interop.raw import Wire, connect
from tests.master.harness import array, step_request
from tests.processes import free_port
from tests.watched_calls import DEADLINE_S, Seen, Watched, watched

MASTER = "/job:master/replica:0/task:0"
WORKERS = ("/job:worker/replica:0/task:0", "/job:worker/replica:0/task:1")
CPU = "/device:CPU:0"


class Cluster:
    """A master that calls two workers at watched addresses; the workers call everybody directly.

    Attributes
    ----------
    master : str
        Its address.
    addresses : list of str
        At which the master finds the workers.
    workers : list of Watched
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.master = f"127.0.0.1:{free_port()}"
        real = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        self.addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        for index in range(2):
            stack.enter_context(runtime.Server({"master": [self.master], "worker": real}, "worker", index,
                                               services=("graph",)))
        stack.enter_context(runtime.Server({"master": [self.master], "worker": self.addresses}, "master", 0,
                                           services=("graph",)))
        self.workers = [stack.enter_context(watched(address, listen))
                        for address, listen in zip(real, self.addresses, strict=True)]


def steps(worker: Watched, method: str) -> set[int]:
    """Return the numbers of the steps of which a worker was asked something."""
    return {seen.request.step_id for seen in worker.of(method)}


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        yield Cluster(stack)


@pytest.fixture
def cluster(made: Cluster) -> Cluster:
    """The cluster, with nothing seen so far: nobody waits for the CleanupGraph of a step, so it may come late."""
    for worker in made.workers:
        worker.refusals.clear()
        worker.until(lambda worker=worker: steps(worker, "RunGraph") <= steps(worker, "CleanupGraph"))
        worker.calls.clear()
    return made


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Wire]:
    with connect(cluster.master) as made:
        yield made


@pytest.fixture
def worker(cluster: Cluster) -> Watched:
    """What the first worker is asked."""
    return cluster.workers[0]


def there(name: str, op: str, *inputs: str, index: int = 0, **attrs: Any) -> Any:
    return node(name, op, *inputs, device=WORKERS[index], **attrs)


def signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def test_08_a_cancelled_step_is_cancelled_and_cleaned_up_on_every_worker(cluster: Cluster, client: Wire) -> None:
    queues = [there(f"q{index}", "FIFOQueueV2", index=index, component_types=[FLOAT]) for index in range(2)]
    takes = [there(f"t{index}", "QueueDequeueV2", f"q{index}", index=index, component_types=[FLOAT])
             for index in range(2)]
    handle = client.session(*queues, *takes)
    future = client.future("RunStep", step_request(handle, ["t0:0", "t1:0"]).SerializeToString())
    runs = [worker.until(lambda worker=worker: worker.of("RunGraph"))[0] for worker in cluster.workers]
    future.cancel()
    for worker, run in zip(cluster.workers, runs, strict=True):
        worker.until(lambda run=run: run.is_cancelled)
        cleaned = worker.until(lambda worker=worker: worker.of("CleanupGraph"))
        assert [seen.request.step_id for seen in cleaned] == [run.request.step_id]


def test_17_18_reset_empties_the_workers_before_it_closes_the_sessions(cluster: Cluster, client: Wire) -> None:
    nodes = [there("v", "VarHandleOp", dtype=FLOAT, shape=(), shared_name=b"v", container=b"kept"),
             there("known", "VarIsInitializedOp", "v"), const("one", 1.0, device=WORKERS[0]),
             there("set", "AssignVariableOp", "v", "one", dtype=FLOAT)]
    client.call("Reset")  # the sessions of other tests
    handle = client.session(*nodes)
    client.step(handle, target=["set"])
    for containers, filters, is_known in ((["other"], [], True), (["kept"], ["/job:worker/task:1"], True),
                                          (["kept"], ["/job:worker/task:0"], False)):
        for worker in cluster.workers:
            worker.calls.clear()
        client.call("Reset", container=containers, device_filters=filters)
        for worker, name in zip(cluster.workers, WORKERS, strict=True):
            asked = [seen.method for seen in worker.of("CleanupAll", "DeleteWorkerSession")]
            is_meant = not filters or name.startswith(filters[0].replace("/task", "/replica:0/task"))
            assert asked == [*(["CleanupAll"] if is_meant else []), "DeleteWorkerSession"]
            assert all(list(seen.request.container) == containers for seen in worker.of("CleanupAll"))
        assert client.in_body(handle, ["known:0"]) == (10, f"Session {handle} is not found.")
        handle = client.session(*nodes)
        assert client.run(handle, ["known:0"])["known:0"] == is_known


def test_a_session_that_one_worker_refuses_is_deleted_on_the_others(cluster: Cluster, client: Wire) -> None:
    first, second = cluster.workers
    second.refusals["CreateWorkerSession"] = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many sessions")
    assert client.refusal("CreateSession") == (8, "too many sessions")
    (made,) = first.of("CreateWorkerSession")
    (deleted,) = first.of("DeleteWorkerSession")
    assert deleted.request.session_handle == made.request.session_handle
    second.refusals["GetStatus"] = (grpc.StatusCode.INTERNAL, "no devices")
    assert client.refusal("CreateSession") == (13, "no devices")
    assert len(first.of("CreateWorkerSession")) == 1


def test_a_registration_that_failed_is_tried_again_by_the_next_step(cluster: Cluster, client: Wire) -> None:
    handle = client.session(placeholder("x"), there("a", "Neg", "x", T=FLOAT), there("b", "Neg", "a", index=1, T=FLOAT))
    first, second = cluster.workers
    second.refusals["RegisterGraph"] = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many graphs")
    for _ in range(2):
        assert client.in_body(handle, ["b:0"], feed={"x:0": 2.0}) == (8, "too many graphs")
        assert not first.of("RunGraph")
    second.refusals.clear()
    assert client.run(handle, ["b:0"], feed={"x:0": 2.0}) == {"b:0": 2.0}
    assert len(first.of("RegisterGraph")) == 3
    forgotten = first.until(lambda: len(first.of("DeregisterGraph")) == 2 and first.of("DeregisterGraph"))
    assert ([seen.request.graph_handle for seen in forgotten]
            == [seen.answer.graph_handle for seen in first.of("RegisterGraph")[:2]])


@pytest.mark.parametrize("filters, expected", [
    (["/job:worker/task:1"], [False, True]), (["/job:worker"], [True, True]), (["/job:master"], [False, False]),
    (["/job:ps", "/job:worker/task:0"], [True, False]), (["/device:CPU:0"], [True, True]),
])
def test_20_filters_keep_workers_out_of_a_session(cluster: Cluster, client: Wire, filters: list[str],
                                                  expected: list[bool]) -> None:
    handle = client.session(const("c", 1.0), device_filters=filters)
    names = [device.name for device in client.call("ListDevices", session_handle=handle).local_device]
    assert names == [f"{MASTER}{CPU}", *(f"{name}{CPU}" for name, used in zip(WORKERS, expected, strict=True) if used)]
    assert client.run(handle, ["c:0"]) == {"c:0": 1.0}
    client.call("CloseSession", session_handle=handle)
    for worker, is_used in zip(cluster.workers, expected, strict=True):
        wanted = ["GetStatus", "CreateWorkerSession", "DeleteWorkerSession"] if is_used else []
        assert [seen.method for seen in worker.of()] == wanted


def test_20_a_filter_may_leave_out_devices_of_a_task_that_is_used(client: Wire, worker: Watched) -> None:
    handle = client.session(const("c", 1.0), device_filters=["/job:worker/task:0/device:GPU:0"])
    names = [device.name for device in client.call("ListDevices", session_handle=handle).local_device]
    assert names == [f"{MASTER}{CPU}"]
    assert client.run(handle, ["c:0"]) == {"c:0": 1.0}
    code, text = client.refusal("CreateSession", wire.CreateSessionRequest(
        graph_def=graph_def(const("c", 1.0, device=WORKERS[0])),
        config=wire.ConfigProto(device_filters=["/job:worker/task:0/device:GPU:0"])))
    assert (code, f"available devices are [ {MASTER}{CPU} ]" in text) == (3, True)


@pytest.mark.parametrize("field", ["share_cluster_devices_in_session", "experimental", ""])
def test_the_devices_of_a_session_are_told_to_its_workers_when_it_wants_that(client: Wire, worker: Watched, field: str
                                                                            ) -> None:
    config: dict[str, Any] = {}
    if field:
        config = {field: True} if field != "experimental" else {
            field: wire.ConfigProto.Experimental(share_cluster_devices_in_session=True)}
    handle = client.session(const("c", 1.0), **config)
    (created,) = worker.of("CreateWorkerSession")
    listed = client.call("ListDevices", session_handle=handle).local_device
    told = created.request.cluster_device_attributes
    assert [(one.name, one.incarnation) for one in told] == (
        [(one.name, one.incarnation) for one in listed] if field else [])


def test_21_isolation_is_asked_of_the_workers(cluster: Cluster, client: Wire, worker: Watched) -> None:
    variable = there("v", "VarHandleOp", dtype=FLOAT, shape=(), shared_name=b"apart")
    nodes = [variable, there("known", "VarIsInitializedOp", "v"), const("one", 1.0, device=WORKERS[0]),
             there("set", "AssignVariableOp", "v", "one", dtype=FLOAT)]
    first, second = (client.session(*nodes, isolate_session_state=True) for _ in range(2))
    shared = client.session(*nodes)
    assert [seen.request.isolate_session_state for seen in worker.of("CreateWorkerSession")] == [True, True, False]
    client.step(first, target=["set"])
    assert [client.run(one, ["known:0"])["known:0"] for one in (first, second, shared)] == [True, False, False]


def test_23_a_cluster_in_the_config_reaches_the_worker_and_renames_it(cluster: Cluster, client: Wire,
                                                                     worker: Watched) -> None:
    config = wire.ConfigProto()
    job = config.cluster_def.job.add(name="mine")
    job.tasks[3] = cluster.master
    job.tasks[8] = cluster.addresses[0]
    request = wire.CreateSessionRequest(config=config, target=f"grpc://{cluster.master}")
    request.graph_def.node.append(node("x", "Const", dtype=FLOAT, value=np.float32(3), device="/job:mine/task:8"))
    request.graph_def.node.append(node("y", "Neg", "x", T=FLOAT, device="/job:mine/task:3"))
    request.graph_def.versions.producer = 2474
    handle = client.call("CreateSession", request).session_handle
    (created,) = worker.of("CreateWorkerSession")
    server = created.request.server_def
    assert (server.job_name, server.task_index, server.protocol) == ("mine", 8, "grpc")
    assert dict(server.cluster.job[0].tasks) == dict(job.tasks)
    assert created.request.isolate_session_state
    assert created.request.master_task == "/job:mine/replica:0/task:3"
    assert client.run(handle, ["y:0"]) == {"y:0": -3.0}
    (graph,) = [seen.request.graph_def for seen in worker.of("RegisterGraph")]
    assert {found.device for found in graph.node} == {f"/job:mine/replica:0/task:8{CPU}"}
    own, other = client.call("ListDevices", session_handle=handle).local_device
    assert (own.name, other.name) == tuple(f"/job:mine/replica:0/task:{index}{CPU}" for index in (3, 8))
    plain = client.call("ListDevices")
    assert own.incarnation == plain.local_device[0].incarnation
    assert created.request.master_incarnation == signed(own.incarnation)
    assert other.incarnation in [device.incarnation for device in plain.remote_device]


def crossing(number: int) -> list[Any]:
    """Return nodes whose values go to the first worker and back."""
    return [there(f"n{number}", "Neg", "x", T=FLOAT), node(f"m{number}", "Neg", f"n{number}", T=FLOAT, device=MASTER)]


def test_36_37_a_signature_is_registered_once_and_steps_have_numbers_of_their_own(client: Wire, worker: Watched
                                                                                   ) -> None:
    handle = client.session(placeholder("x"), *crossing(0))
    for number in range(4):
        feeds = {"x:0": float(number)}
        assert client.run(handle, ["m0:0"], feed=feeds) == {"m0:0": float(number)}
    assert len(worker.of("RegisterGraph")) == 1
    runs = worker.of("RunGraph")
    ids = [seen.request.step_id for seen in runs]
    assert len(set(ids)) == 4 and all(0 <= number < 1 << 57 for number in ids)
    assert all(seen.request.store_errors_in_response_body and seen.request.create_worker_session_called
               and seen.request.request_id for seen in runs)
    assert len({seen.request.request_id for seen in runs}) == 4
    worker.until(lambda: steps(worker, "CleanupGraph") == set(ids))


def test_38_names_of_added_nodes_never_repeat_in_a_session(client: Wire, worker: Watched) -> None:
    nodes = [placeholder("x"), *(made for number in range(3) for made in crossing(number))]
    handle = client.session(*nodes)
    own = {proto.name for proto in nodes}
    for fetch in (["m0:0"], ["m1:0"], ["m0:0", "m1:0", "m2:0"], ["m0:0", "m2:0"]):
        client.run(handle, fetch, feed={"x:0": 1.0})
    client.extend(handle, 0, *crossing(3))
    client.run(handle, ["m3:0", "m0:0"], feed={"x:0": 1.0})
    names, edges = [], []
    graphs = [seen.request.graph_def for seen in worker.of("RegisterGraph")]
    assert len(graphs) == 5
    for graph in graphs:
        added = [found for found in graph.node if found.name not in own and found.name != "n3"]
        assert {found.op for found in added} == {"_Send", "_Recv"}
        names += [found.name for found in added]
        edges.append([found.attr["tensor_name"].s for found in added])
    assert len(set(names)) == len(names)
    assert all(len(set(found)) == len(found) for found in edges)  # a key is unique in its step


def received(worker: Watched) -> list[Seen]:
    return worker.of("RecvTensor")


def test_39_a_control_edge_sends_an_empty_tensor_behind_its_node(client: Wire, worker: Watched) -> None:
    handle = client.session(
        there("v", "VarHandleOp", dtype=FLOAT, shape=(), shared_name=b"order"),
        const("five", 5.0, device=WORKERS[0]), there("set", "AssignVariableOp", "v", "five", dtype=FLOAT),
        node("here", "Const", "^set", dtype=FLOAT, value=np.float32(2), device=MASTER),
        there("read", "ReadVariableOp", "v", "^here", dtype=FLOAT), node("sum", "AddV2", "read", "here", T=FLOAT),
    )
    assert client.run(handle, ["sum:0"]) == {"sum:0": 7.0}
    (graph,) = [seen.request.graph_def for seen in worker.of("RegisterGraph")]
    by_name = {found.name: found for found in graph.node}
    (signal,) = [name for name in by_name if re.fullmatch(r"set/ctrl_S\d+", name)]
    assert (by_name[signal].op, list(by_name[signal].input)) == ("Const", ["^set"])
    assert any(found.op == "Identity" and re.match(r"here/ctrl_S\d+", found.name) for found in graph.node)
    assert any(re.match(r"\^here/ctrl_S\d+", name) for name in by_name["read"].input)
    (empty,) = [seen.answer for seen in received(worker) if ";edge_" in seen.request.rendezvous_key
                and "set/ctrl_" in seen.request.rendezvous_key]
    assert (empty.tensor.dtype, [dim.size for dim in empty.tensor.tensor_shape.dim]) == (1, [0])
    assert not empty.tensor.tensor_content and not empty.is_dead


def test_40_a_dead_value_crosses_as_dead(client: Wire, worker: Watched) -> None:
    handle = client.session(
        const("c", 3, device=WORKERS[0]), placeholder("p", BOOL), there("s", "Switch", "c", "p", T=INT32),
        node("alive", "Identity", "s", T=INT32, device=MASTER), node("dead", "Identity", "s:1", T=INT32, device=MASTER),
        node("m", "Merge", "alive", "dead", T=INT32, N=2, device=MASTER))
    assert client.run(handle, ["m:0", "m:1"], feed={"p:0": np.bool_(False)}) == {"m:0": 3, "m:1": 0}
    answers = [seen.answer for seen in received(worker)]
    assert sorted(answer.is_dead for answer in answers) == [False, True]
    (dead,) = [answer for answer in answers if answer.is_dead]
    assert (dead.tensor.dtype, [dim.size for dim in dead.tensor.tensor_shape.dim]) == (1, [0])
    code, text = client.in_body(handle, ["dead:0"], feed={"p:0": np.bool_(False)})
    assert code == 13
    assert re.fullmatch(rf"From {MASTER}:\nFailed to fetch outputs for step \d+\. \(Original error message: The tensor "
                        rf"returned for {MASTER}{CPU};[0-9a-f]{{16}};{MASTER}{CPU};dead:0;0:0 was not valid\.\)", text)


def loop() -> list[Any]:
    """Return a loop that adds 2 to x five times, with its body on the first worker."""
    frame = {"frame_name": b"while/while_context", "parallel_iterations": 10, "is_constant": False}
    nodes = [
        const("zero", 0), const("five", 5), const("two", 2.0), placeholder("x"),
        node("i_in", "Enter", "zero", T=INT32, **frame), node("x_in", "Enter", "x", T=FLOAT, **frame),
        node("limit", "Enter", "five", T=INT32, **{**frame, "is_constant": True}),
        node("two_in", "Enter", "two", T=FLOAT, **{**frame, "is_constant": True}),
        node("i", "Merge", "i_in", "i_next", T=INT32, N=2), node("y", "Merge", "x_in", "y_next", T=FLOAT, N=2),
        node("less", "Less", "i", "limit", T=INT32), node("cond", "LoopCond", "less"),
        node("i_s", "Switch", "i", "cond", T=INT32), node("y_s", "Switch", "y", "cond", T=FLOAT),
        node("one", "Const", "^i_go", dtype=INT32, value=np.int32(1)), node("i_go", "Identity", "i_s:1", T=INT32),
        node("i_more", "AddV2", "i_go", "one", T=INT32), node("i_next", "NextIteration", "i_more", T=INT32),
        there("body", "AddV2", "y_s:1", "two_in", T=FLOAT), node("y_next", "NextIteration", "body", T=FLOAT),
        node("out", "Exit", "y_s", T=FLOAT),
    ]
    for proto in nodes:
        proto.device = proto.device or MASTER
    return nodes


def test_41_45_a_loop_over_tasks_has_the_frames_and_incarnations_of_all(client: Wire, worker: Watched) -> None:
    handle = client.session(*loop())
    assert client.run(handle, ["out:0"], feed={"x:0": 1.5}) == {"out:0": 11.5}
    devices = {device.name: device.incarnation for device in
               client.call("ListDevices", session_handle=handle).local_device}
    places = []
    for seen in received(worker):
        sender, incarnation, receiver, _, place = seen.request.rendezvous_key.split(";")
        assert (sender, receiver) == (f"{WORKERS[0]}{CPU}", f"{MASTER}{CPU}")
        assert incarnation == f"{devices[sender]:016x}"
        places.append(place)
    # The number that TensorFlow 2.21 gives this frame.
    assert sorted(places) == [f"18186195969791715286:{iteration}" for iteration in range(6)]
    (graph,) = [seen.request.graph_def for seen in worker.of("RegisterGraph")]
    assert {found.op for found in graph.node if found.name.startswith("_cloop")} >= {"Enter", "Merge", "Switch",
                                                                                    "NextIteration"}


def test_a_loop_over_tasks_without_a_condition_is_refused(client: Wire) -> None:
    frame = {"frame_name": b"endless", "parallel_iterations": 10, "is_constant": False}
    nodes = [placeholder("x"), node("in", "Enter", "x", T=FLOAT, **frame, device=MASTER),
             node("here", "Neg", "in", T=FLOAT, device=MASTER), there("there", "Neg", "here", T=FLOAT),
             node("out", "Exit", "there", T=FLOAT, device=MASTER)]
    handle = client.session(*nodes)
    assert client.in_body(handle, ["out:0"], feed={"x:0": 1.0}) == (
        3, "A cross-device loop must have a pivot predicate: endless")


@pytest.mark.parametrize("is_wanted", [False, True])
def test_floats_cross_as_bfloat16_where_a_session_wants_that(client: Wire, worker: Watched, is_wanted: bool) -> None:
    value = np.float32([1.00390625, 1.01171875, -3.1415927])  # the first has a bit more than bfloat16 holds
    cut_off = (value.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    assert cut_off[0] == 1.0
    handle = client.session(
        placeholder("x"), there("n", "Neg", "x", T=FLOAT), there("i", "Const", dtype=INT32, value=np.int32(7)),
        node("m", "Neg", "n", "^i", T=FLOAT, device=MASTER), node("k", "Neg", "i", T=INT32, device=MASTER),
        graph_options=wire.GraphOptions(enable_bfloat16_sendrecv=is_wanted))
    found = client.run(handle, ["m:0", "k:0"], feed={"x:0": value})
    assert found["m:0"].tolist() == (cut_off if is_wanted else value).tolist()
    assert found["k:0"] == -7
    answers = {seen.request.rendezvous_key.split(";")[3]: seen.answer.tensor for seen in received(worker)}
    carried = {edge.partition("_")[2].partition("_")[2]: tensor for edge, tensor in answers.items()}
    assert carried["n"].dtype == (14 if is_wanted else 1)
    assert carried["i"].dtype == 3
    (signal,) = [tensor for edge, tensor in carried.items() if "ctrl" in edge]
    assert signal.dtype == 1
    (graph,) = [seen.request.graph_def for seen in worker.of("RegisterGraph")]
    casts = [found for found in graph.node if found.op == "Cast"]
    assert sorted(found.attr["Truncate"].b for found in casts) == ([False, True] if is_wanted else [])


@pytest.mark.parametrize("index", [0, 1])
def test_61_the_cause_is_told_whoever_else_waits_for_it(cluster: Cluster, client: Wire, index: int) -> None:
    other = 1 - index
    handle = client.session(
        placeholder("x"), const("three", np.array([3], np.int32), device=WORKERS[index]),
        there("bad", "Reshape", "x", "three", index=index, T=FLOAT, Tshape=INT32),
        there("next", "Neg", "bad", index=other, T=FLOAT), node("last", "Neg", "next", T=FLOAT, device=MASTER),
        there("q", "FIFOQueueV2", index=other, component_types=[FLOAT]),
        there("take", "QueueDequeueV2", "q", index=other, component_types=[FLOAT]),
    )
    for _ in range(2):
        code, text = client.in_body(handle, ["last:0", "take:0"], feed={"x:0": np.float32([1, 2])})
        assert code == 3
        assert text.startswith(f"From {WORKERS[index]}:\nInput to reshape is a tensor with 2 values")
        assert text.endswith("[[{{node bad}}]]") and text.count("From ") == 1
    for worker in cluster.workers:
        worker.until(lambda worker=worker: len(worker.of("CleanupGraph")) == 2)
    assert client.run(handle, ["last:0"], feed={"x:0": np.float32([1, 2, 3])})["last:0"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("index", [0, 1])
def test_61_the_cause_is_waited_for_when_what_follows_from_it_arrives_first(
        cluster: Cluster, client: Wire, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_run, "_CAUSE_WAIT_S", 60.0)
    other = 1 - index
    handle = client.session(
        placeholder("x"), const("three", np.array([3], np.int32), device=WORKERS[index]),
        there("bad", "Reshape", "x", "three", index=index, T=FLOAT, Tshape=INT32),
        there("next", "Neg", "bad", index=other, T=FLOAT), node("last", "Neg", "next", T=FLOAT, device=MASTER),
    )
    fails, waits = cluster.workers[index], cluster.workers[other]
    go_on = fails.kept_back["RunGraph"] = threading.Event()
    try:
        step = client.future("RunStep", step_request(handle, ["last:0"], feed={"x:0": np.float32([1, 2])},
                                                     store_errors_in_response_body=True).SerializeToString())
        (follows,) = waits.until(lambda: [run for run in waits.of("RunGraph") if run.answer is not None])
        assert follows.answer.status_code == 3
        (cause,) = fails.until(lambda: [run for run in fails.of("RunGraph") if run.answer is not None])
        with pytest.raises(AssertionError, match="not among"):  # the master does not give the cause up
            fails.until(lambda: cause.is_cancelled, 0.3)
    finally:
        go_on.set()
        del fails.kept_back["RunGraph"]
    answer = wire.RunStepResponse.FromString(step.result(DEADLINE_S))
    assert answer.status_code == 3
    assert answer.status_error_message.startswith(f"From {WORKERS[index]}:\nInput to reshape is a tensor with 2 values")
    assert answer.status_error_message.count("From ") == 1


def test_a_closed_session_is_deleted_and_its_graphs_with_it(cluster: Cluster, client: Wire) -> None:
    handle = client.session(placeholder("x"), *crossing(0))
    for _ in range(20):
        assert array(client.step(handle, ["m0:0"], feed={"x:0": 1.0}).tensor[0].tensor) == 1.0
    client.call("CloseSession", session_handle=handle)
    (worker, _) = cluster.workers
    assert len(worker.of("DeleteWorkerSession")) == 1
    worker.until(lambda: len(worker.of("CleanupGraph")) == 20)
    assert not worker.of("DeregisterGraph")
