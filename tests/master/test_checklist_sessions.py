"""Checklist 11 to 23: making, extending, closing and isolating sessions."""

from __future__ import annotations

import re

import pytest

from runtime import wire
from runtime.cluster_spec import ClusterSpec
from runtime.errors import Aborted, Cancelled, FailedPrecondition, InvalidArgument, Unimplemented
from runtime.master.master import Master
from runtime.master.task import Task
from tests.graph.graphs import FLOAT, INT32, const, function_def, graph_def, identity, node
from tests.master.harness import Caller, needs_queues, serving, wait_until_waiting

CPU = "/job:local/replica:0/task:0/device:CPU:0"


def variable(value: float = 0.0, *, container: bytes = b"", name: str = "v") -> list[object]:
    return [
        node(name, "VariableV2", dtype=FLOAT, shape=(), container=container),
        const(f"{name}/value", value),
        node(f"{name}/assign", "Assign", name, f"{name}/value", T=FLOAT),
        identity(f"{name}/read", name),
    ]


def devices(master: Caller, handle: str = "") -> list[str]:
    response = master.call("ListDevices", session_handle=handle)
    assert not response.remote_device
    return [device.name for device in response.local_device]


def test_11_an_empty_graph_makes_a_session_and_its_devices_are_listed(master: Caller) -> None:
    handle = master.session()
    response = master.call("ListDevices", session_handle=handle)
    (device,) = response.local_device
    assert (device.name, device.device_type, device.memory_limit) == (CPU, "CPU", 268435456)
    assert device.HasField("locality")
    assert device.incarnation
    assert master.call("ListDevices").local_device[0].incarnation == device.incarnation
    with pytest.raises(InvalidArgument, match=r"^Session gone is not found\. Possibly, this master has restarted\.$"):
        devices(master, "gone")


def test_11_several_cpus_are_all_listed_and_usable() -> None:
    with serving(Master(Task(num_cpus=2))) as master:
        handle = master.session(const("a", 1.0, device="/cpu:1"))
        assert devices(master, handle) == [CPU, CPU.replace("CPU:0", "CPU:1")]
        assert master.run(handle, ["a:0"]) == [1.0]


def test_12_handles_are_unique_and_unknown_ones_aborted(master: Caller) -> None:
    handles = {master.session(const("c", 1.0)) for _ in range(20)}
    assert len(handles) == 20
    assert all(re.fullmatch(r"[0-9a-f]{16}", handle) for handle in handles)
    for handle in ("", "gone"):
        with pytest.raises(Aborted, match=rf"^Session {handle} is not found\.$"):
            master.step(handle, ["c:0"])
        with pytest.raises(Aborted, match=rf"^Session {handle} is not found\.$"):
            master.extend(handle, 0)
        with pytest.raises(Aborted, match=rf"^Session {handle} is not found\.$"):
            master.call("ReleaseCallable", session_handle=handle, handle=3)


def test_13_a_wrong_version_changes_nothing(master: Caller) -> None:
    handle = master.session(const("c", 1.0))
    with pytest.raises(Aborted, match=r"^Current version is 0 but caller expected 3\.$"):
        master.extend(handle, 3, const("d", 2.0))
    assert master.extend(handle, 0, const("d", 2.0)) == 1
    assert master.run(handle, ["d:0"]) == [2.0]


def test_14_an_existing_node_is_refused(master: Caller) -> None:
    handle = master.session(const("c", 1.0))
    with pytest.raises(
        InvalidArgument, match="includes node 'c', which was created by a previous call to Create or Ext"
    ):
        master.extend(handle, 0, const("d", 2.0), const("c", 1.0))
    assert master.extend(handle, 0, const("d", 2.0)) == 1


@pytest.mark.parametrize(
    "bad",
    [
        identity("e", "nowhere"),
        const("e", 1.0, device="/job:nope"),
        const("e", 1.0, device="bad name"),
        const("e e", 1.0),
    ],
)
def test_15_after_a_failed_extension_the_same_version_goes_on(master: Caller, bad: object) -> None:
    handle = master.session(const("c", 1.0))
    function = function_def("f", {"x": FLOAT}, {"y": (FLOAT, "x")}, [])
    with pytest.raises(InvalidArgument):
        master.extend(handle, 0, const("d", 2.0), bad, functions=(function,))
    assert master.extend(handle, 0, const("d", 2.0), identity("e", "d"), functions=(function,)) == 1
    assert master.run(handle, ["e:0"]) == [2.0]


def test_a_function_may_come_again_but_not_changed(master: Caller) -> None:
    function = function_def("f", {"x": FLOAT}, {"y": (FLOAT, "x")}, [])
    other = function_def("f", {"x": INT32}, {"y": (INT32, "x")}, [])
    handle = master.session(const("c", 1.0), functions=(function,))
    assert master.extend(handle, 0, functions=(function,)) == 1
    with pytest.raises(
        InvalidArgument, match="^Cannot add function 'f' because a different function with the same name"
    ):
        master.extend(handle, 1, functions=(other,))
    assert master.extend(handle, 1, node("call", "f", "c")) == 2


def test_16_closing_an_unknown_session_is_aborted(master: Caller) -> None:
    handle = master.session()
    master.call("CloseSession", session_handle=handle)
    for unknown in (handle, "", "gone"):
        with pytest.raises(Aborted) as caught:
            master.call("CloseSession", session_handle=unknown)
        assert str(caught.value) == f"Session {unknown} is not found. Possibly, this master has restarted."


def test_17_reset_empties_the_default_container_and_closes_every_session(master: Caller) -> None:
    first, second = master.session(*variable(3.0)), master.session(*variable())
    master.step(first, target=["v/assign"])
    assert master.run(second, ["v/read:0"]) == [3.0]
    master.call("Reset")
    for handle in (first, second):
        with pytest.raises(Aborted, match=f"^Session {handle} is not found.$"):
            master.step(handle, ["v/read:0"])
    with pytest.raises(FailedPrecondition, match="Attempting to use uninitialized value v"):
        master.run(master.session(*variable()), ["v/read:0"])


def test_18_reset_of_a_container_keeps_the_others(master: Caller) -> None:
    nodes = [*variable(3.0), *variable(4.0, container=b"c", name="w")]
    handle = master.session(*nodes)
    master.step(handle, target=["v/assign", "w/assign"])
    master.call("Reset", container=["c"])
    with pytest.raises(Aborted):
        master.step(handle, ["v/read:0"])
    handle = master.session(*nodes)
    assert master.run(handle, ["v/read:0"]) == [3.0]
    with pytest.raises(FailedPrecondition):
        master.run(handle, ["w/read:0"])


@needs_queues
def test_22_a_queue_without_a_shared_name_is_its_sessions_own(master: Caller) -> None:
    nodes = [
        node("q", "FIFOQueueV2", component_types=[FLOAT]),
        const("c", 1.0),
        node("put", "QueueEnqueueV2", "q", "c", Tcomponents=[FLOAT]),
        node("size", "QueueSizeV2", "q"),
    ]
    first, second = master.session(*nodes), master.session(*nodes)
    master.step(first, target=["put"])
    master.call("CloseSession", session_handle=master.session(*nodes))
    assert [master.run(handle, ["size:0"]) for handle in (first, second)] == [[1], [0]]


@needs_queues
def test_17_reset_ends_steps_that_wait_with_the_text(master: Caller) -> None:
    queue = node("q", "FIFOQueueV2", component_types=[FLOAT], container=b"c", shared_name=b"of_reset")
    handle = master.session(queue, node("take", "QueueDequeueV2", "q", component_types=[FLOAT]))
    waiting = master.start_step(handle, ["take:0"])
    wait_until_waiting(master, handle)
    master.call("Reset", container=["c"])
    with pytest.raises(Cancelled) as caught:
        waiting.result(10)
    assert str(caught.value) == "Step was cancelled by an explicit call to `Session::Close()`."


@pytest.mark.parametrize(
    "config",
    [
        {"use_per_session_threads": True},
        {"session_inter_op_thread_pool": [wire.ThreadPoolOptionProto()]},
    ],
)
def test_19_thread_pools_are_refused(master: Caller, config: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=r"^Distributed session does not support session thread pool options\.$"):
        master.session(const("c", 1.0), **config)


def test_20_the_own_task_stays_whatever_the_filters(master: Caller) -> None:
    handle = master.session(const("c", 1.0), device_filters=["/job:nope"])
    assert devices(master, handle) == [CPU]
    with pytest.raises(InvalidArgument, match="Invalid device filter: hello"):
        master.session(device_filters=["hello"])


def test_20_a_session_in_the_masters_process_has_its_task_alone() -> None:
    with serving(Master(Task("w", 0), cluster=ClusterSpec.parse({"w": ["h:1", "h:2"]}))) as master:
        with pytest.raises(Unimplemented, match="would run on /job:w/replica:0/task:1 too: .*device_filters"):
            master.service.master.create_session(graph_def(const("c", 1.0)))
        handle = master.session(const("c", 1.0), device_filters=["/job:w/task:0"])
        assert master.run(handle, ["c:0"]) == [1.0]


def test_21_isolated_sessions_share_nothing(master: Caller) -> None:
    shared = master.session(*variable(1.0))
    isolated = [master.session(*variable(value), isolate_session_state=True) for value in (2.0, 3.0)]
    master.step(shared, target=["v/assign"])
    for handle in isolated:
        with pytest.raises(FailedPrecondition):
            master.step(handle, ["v/read:0"])
        master.step(handle, target=["v/assign"])
    assert [master.run(handle, ["v/read:0"])[0] for handle in (shared, *isolated)] == [1.0, 2.0, 3.0]


def test_22_variables_outlive_the_session_that_set_them(master: Caller) -> None:
    first = master.session(*variable(7.0))
    master.step(first, target=["v/assign"])
    second = master.session(*variable())
    assert master.run(second, ["v/read:0"]) == [7.0]
    master.call("CloseSession", session_handle=first)
    assert master.run(second, ["v/read:0"]) == [7.0]


def cluster(**jobs: dict[int, str]) -> object:
    made = wire.ClusterDef()
    for name, tasks in jobs.items():
        made.job.add(name=name).tasks.update(tasks)
    return made


def test_23_a_cluster_in_the_config_renames_the_devices(master: Caller) -> None:
    target = "grpc://localhost:1234"
    own = master.call("ListDevices").local_device[0].incarnation
    handle = master.session(
        const("c", 1.0, device="/job:w/task:3"), target=target, cluster_def=cluster(w={3: "localhost:1234"})
    )
    (device,) = master.call("ListDevices", session_handle=handle).local_device
    assert device.name == "/job:w/replica:0/task:3/device:CPU:0"
    assert device.incarnation == own
    assert master.run(handle, ["c:0"]) == [1.0]


def test_23_such_a_session_is_isolated_unless_it_says_otherwise(master: Caller) -> None:
    target, spec = "grpc://localhost:1234", cluster(w={0: "localhost:1234"})
    master.step(master.session(*variable(1.0)), target=["v/assign"])
    with pytest.raises(FailedPrecondition):
        master.run(master.session(*variable(), target=target, cluster_def=spec), ["v/read:0"])
    experimental = wire.ConfigProto.Experimental(share_session_state_in_clusterspec_propagation=True)
    handle = master.session(*variable(), target=target, cluster_def=spec, experimental=experimental)
    assert master.run(handle, ["v/read:0"]) == [1.0]


@pytest.mark.parametrize(
    ("jobs", "kind", "text"),
    [
        (
            {"w": {0: "h:1"}},
            InvalidArgument,
            "The master (current machine) is not included in the provided cluster_def. ",
        ),
        (
            {"local": {0: "localhost:1234"}},
            InvalidArgument,
            "The ClusterSpec names the job and task index to be the same names that were provided when the "
            "server booted.",
        ),
        (
            {"w": {0: "localhost:1234", 1: "localhost:1234"}},
            InvalidArgument,
            "Found multiple matching tasks that correspond to to the master. Master target: "
            "'grpc://localhost:1234'. ClusterDef: ",
        ),
    ],
)
def test_23_a_cluster_that_cannot_be_is_refused(
    master: Caller, jobs: dict[str, dict[int, str]], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as caught:
        master.session(const("c", 1.0), target="grpc://localhost:1234", cluster_def=cluster(**jobs))
    assert str(caught.value).startswith(text)


def test_extending_a_closed_session_in_process_is_a_failed_precondition() -> None:
    with Master() as master:
        handle, _ = master.create_session(graph_def(const("c", 1.0)))
        session = master.session(handle)
        master.close_session(handle).result(10)
        with pytest.raises(FailedPrecondition, match=r"^Session is closed\.$"):
            session.extend(graph_def(const("d", 1.0)), 0)
        with pytest.raises(FailedPrecondition, match=r"^Session is closed\.$"):
            session.run({}, ["c:0"])
