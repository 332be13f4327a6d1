"""Checklist 40 and 44 to 55 of the worker, by number, over the wire."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime._ext.tensor_codec import decode_tensor
from runtime._ext.worker_codec import encode_run_graph_request
from runtime.errors import Aborted, Cancelled, InvalidArgument, NotFound, Unimplemented
from tests.graph.graphs import BOOL, FLOAT, INT32, STRING, const, identity, node
from tests.worker.conftest import Task, recv, send, until


def array(answer: Any) -> Any:
    return decode_tensor(answer.tensor.SerializeToString())


def sender(task: Task, other: Task, value: Any, edge: str = "e") -> str:
    """Register a graph that sends one value to another task."""
    return task.register(const("c", value), send("s", "c", FLOAT, task.ends(other, edge)))


def test_04_an_unknown_session_or_graph_is_told_in_the_body(task: Task) -> None:
    with pytest.raises(Aborted, match=r'^Session handle is not found: gone\. Possibly this worker '
                                      r'\("/job:worker/replica:0/task:0"\) just restarted\.$'):
        task.run("0", 1, handle="gone")
    task.session()
    with pytest.raises(Aborted, match=r"^Graph handle is not found: 77"):
        task.run("77", 1)


def test_05_a_repeated_request_is_refused(tasks: list[Task], steps: Iterator[int]) -> None:
    task, other = tasks
    task.session()
    graph = task.register(const("c", 1.0))
    task.run(graph, next(steps), request_id=-5)
    with pytest.raises(Aborted, match=r"^The same RunGraph \(Worker\) request was received twice\."):
        task.run(graph, next(steps), request_id=-5)
    step = next(steps)
    task.run(sender(task, other, 2.0), step)
    task.fetch(step, task.key(other, "e"), request_id=9)
    with pytest.raises(Aborted, match=r"^The same RecvTensor \(GrpcWorker\) request was received twice\."):
        task.fetch(step, task.key(other, "e"), request_id=9)


def test_40_a_dead_value_crosses_as_dead_and_skips_its_consumers(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    for task in tasks:
        task.session()
    ends = first.ends(second, "maybe")
    graph = first.register(const("c", 3.0), const("no", np.array(False)),
                           node("w", "Switch", "c", "no", T=FLOAT), send("s", "w:1", FLOAT, ends))
    back = second.ends(first, "back")
    taker = second.register(recv("r", FLOAT, ends), node("n", "Neg", "r", T=FLOAT), send("b", "n", FLOAT, back))
    step = next(steps)
    running = second.start_run(taker, step)
    first.run(graph, step)
    second.finish_run(running)
    answer = second.fetch(step, second.key(first, "back"))
    assert answer.is_dead
    assert (answer.tensor.dtype, [dim.size for dim in answer.tensor.tensor_shape.dim]) == (1, [0])


def test_44_stats_and_the_graph_come_when_they_are_asked_for(task: Task, steps: Iterator[int]) -> None:
    task.session()
    graph = task.register(const("c", np.ones(4, np.float32)), node("v", "VariableV2", dtype=FLOAT, shape=(4,)),
                          node("a", "Assign", "v", "c", T=FLOAT))
    options = wire.ExecutorOpts(record_timeline=True, record_partition_graphs=True).SerializeToString()
    answer = task.call("RunGraph", encode_run_graph_request("s", graph, next(steps), exec_opts=options))
    (device,) = answer.step_stats.dev_stats
    assert device.device == task.cpu
    assert "a = Assign(v, c)" in [stats.timeline_label for stats in device.node_stats]
    assert {found.name for found in answer.partition_graph[0].node} == {"c", "v", "a"}


def test_45_the_incarnation_is_the_one_of_list_devices(task: Task) -> None:
    (device,) = task.call("GetStatus").device_attributes
    assert (device.name, device.device_type, device.memory_limit) == (task.cpu, "CPU", 268435456)
    channel = task.channel.unary_unary("/tensorflow.MasterService/ListDevices")
    (own,) = wire.ListDevicesResponse.FromString(channel(b"", timeout=20)).local_device
    assert own.incarnation == device.incarnation != 0


def test_46_a_tensor_is_awaited_before_its_step_begins(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    first.session()
    step = next(steps)
    early = first.start("RecvTensor", step_id=step, rendezvous_key=first.key(second, "e"))
    first.until_wanted()
    assert not early.done()
    first.run(sender(first, second, np.arange(3, dtype=np.float32)), step)
    answer = first.finish("RecvTensor", early)
    assert array(answer).tolist() == [0, 1, 2]
    assert answer.send_start_micros > 0


def test_46_large_and_scalar_tensors_of_many_types_arrive(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    first.session()
    for kind, value in ((FLOAT, np.arange(1 << 20, dtype=np.float32).reshape(4, -1)), (INT32, np.int32(7)),
                        (BOOL, np.zeros((0, 3), bool)), (STRING, np.array([b"a", b"\xff"], object))):
        graph = first.register(const("c", value), send("s", "c", kind, first.ends(second, "e"), op="_HostSend"))
        step = next(steps)
        first.run(graph, step)
        found = array(first.fetch(step, first.key(second, "e")))
        assert found.shape == value.shape
        assert np.array_equal(found, value)


def test_47_a_key_of_another_life_or_of_no_form_is_refused(tasks: list[Task]) -> None:
    first, second = tasks
    key = first.key(second, "e")
    other = f"{first.incarnation ^ 1:016x}"
    with pytest.raises(Aborted, match=rf"^RecvTensor expects a different device incarnation: {first.incarnation ^ 1} "
                                      rf'vs\. {first.incarnation}\. Your worker job \("{first.name}"\) was probably'):
        first.fetch(1, key.replace(f"{first.incarnation:016x}", other))
    for bad in ("", "a;b", f"{key};x", key.replace("0:0", "0"), key.replace("0:0", "x:0")):
        with pytest.raises(InvalidArgument, match=r"^Invalid  rendezvous key: "):
            first.fetch(1, bad)
    with pytest.raises(InvalidArgument, match=r"^/job:worker/replica:0/task:0/device:GPU:0 unknown device\.$"):
        first.fetch(1, key.replace("CPU:0", "GPU:0"))
    with pytest.raises(InvalidArgument, match=r"^Invalid rendezvous key \(src\): "):
        first.fetch(1, key.replace("task:0", "task:5", 1))


def test_48_cleanup_releases_those_who_wait_and_may_be_repeated(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    step = next(steps)
    parked = [first.start("RecvTensor", step_id=step, rendezvous_key=first.key(second, f"e{index}"))
              for index in range(3)]
    first.until_wanted(3)
    for _ in range(2):
        first.call("CleanupGraph", step_id=step)
    for future in parked:
        with pytest.raises(Aborted, match=rf"^Cleanup {step}$"):
            first.finish("RecvTensor", future)
    with pytest.raises(Aborted, match=rf"^Cleanup {step}$"):
        first.fetch(step, first.key(second, "late"))


def test_48_a_receiver_that_goes_away_leaves_nothing_and_takes_nothing(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    first.session()
    step = next(steps)
    gone = first.start("RecvTensor", step_id=step, rendezvous_key=first.key(second, "e"))
    first.until_wanted()
    gone.cancel()
    first.until_wanted(0)
    first.run(sender(first, second, 4.0), step)
    assert array(first.fetch(step, first.key(second, "e"))) == 4.0


def test_49_a_server_def_without_jobs_means_our_own_names(task: Task, steps: Iterator[int]) -> None:
    server = wire.ServerDef(job_name="worker", protocol="grpc")
    task.session(server_def=server, master_task="/job:m/replica:0/task:0", master_incarnation=4)
    assert task.run(task.register(const("c", 1.0)), next(steps)) == []
    task.session()  # again: the old one stays
    with pytest.raises(InvalidArgument, match=r"^Session must be non-empty\.$"):
        task.session("")


def test_23_a_server_def_with_jobs_renames_the_task(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    server = wire.ServerDef(job_name="other", task_index=3, protocol="grpc")
    job = server.cluster.job.add(name="other")
    job.tasks[3] = first.server.address
    job.tasks[4] = second.server.address
    first.session("renamed", server_def=server, isolate_session_state=True)
    cpu = "/job:other/replica:0/task:3/device:CPU:0"
    ends = {**first.ends(second, "e"), "send_device": cpu.encode()}
    graph = first.register(const("c", 5.0, device=cpu), send("s", "c", FLOAT, ends, device=cpu), handle="renamed")
    step = next(steps)
    first.run(graph, step, handle="renamed")
    key = f"{cpu};{first.incarnation:016x};{second.cpu};e;0:0"
    assert array(first.fetch(step, key)) == 5.0


def test_21_an_isolated_session_has_variables_of_its_own(task: Task, steps: Iterator[int]) -> None:
    nodes = [node("v", "VariableV2", dtype=FLOAT, shape=()), const("one", 1.0),
             node("a", "Assign", "v", "one", T=FLOAT)]
    read = [nodes[0], node("ok", "IsVariableInitialized", "v", dtype=FLOAT),
            send("s", "ok", BOOL, task.ends(task, "ok"))]
    for handle, isolated in (("a", False), ("b", False), ("c", True)):
        task.session(handle, isolate_session_state=isolated)
    task.run(task.register(*nodes, handle="a"), next(steps), handle="a")
    seen = [task.run(task.register(*read, handle=handle), next(steps), handle=handle,
                     receive=[task.key(task, "ok")])[0].item() for handle in ("a", "b", "c")]
    assert seen == [True, True, False]
    task.call("CleanupAll")
    assert not task.run(task.register(*read, handle="b"), next(steps), handle="b", receive=[task.key(task, "ok")])[0]


def test_50_stripped_defaults_unknown_marks_and_host_ends_are_taken(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    for task in tasks:
        task.session()
    ends = first.ends(second, "h")
    nodes = [const("c", np.array([3, 4], np.int32)),
             node("m", "Max", "c", "zero", T=INT32, _xla_mark=True, _src=b"c", _class=[b"loc:@c"]),
             const("zero", 0), send("_s", "m", INT32, ends, op="_HostSend")]
    graph = first.register(*nodes)
    taker = second.register(recv("_r", INT32, ends, op="_HostRecv"),
                            send("b", "_r", INT32, second.ends(second, "out"), op="_HostSend"))
    step = next(steps)
    running = second.start_run(taker, step, receive=[second.key(second, "out")])
    first.run(graph, step)
    assert second.finish_run(running)[0] == 4


def test_50_fed_and_fetched_tensors_pass_by_their_keys(task: Task, steps: Iterator[int]) -> None:
    task.session()
    graph = task.register(recv("_recv_x_0", FLOAT, {**task.ends(task, "x:0"), "client_terminated": True}),
                          node("y", "Neg", "_recv_x_0", T=FLOAT),
                          send("_send_y_0", "y", FLOAT, {**task.ends(task, "y:0"), "client_terminated": True}))
    for value in (1.0, 2.0):
        step = next(steps)
        (found,) = task.run(graph, step, send={task.key(task, "x:0"): np.float32(value)},
                            receive=[task.key(task, "y:0")])
        assert found == -value
        task.call("CleanupGraph", step_id=step)


def test_51_handles_of_two_sessions_do_not_collide(task: Task, steps: Iterator[int]) -> None:
    found = []
    for handle, value in (("a", 1.0), ("b", 2.0)):
        task.session(handle)
        graph = task.register(const("c", value), send("s", "c", FLOAT, task.ends(task, "e")), handle=handle)
        found.append(task.run(graph, next(steps), handle=handle, receive=[task.key(task, "e")])[0])
    assert found == [1.0, 2.0]


def test_52_deleting_sessions_and_graphs_that_are_not_there(task: Task, steps: Iterator[int]) -> None:
    task.call("DeleteWorkerSession", session_handle="never")
    task.session()
    graph = task.register(const("c", 1.0))
    task.call("DeregisterGraph", session_handle="s", create_worker_session_called=True, graph_handle=graph)
    with pytest.raises(Aborted, match=r"^Graph handle is not found: .* Possibly, this worker just restarted\.$"):
        task.call("DeregisterGraph", session_handle="s", create_worker_session_called=True, graph_handle=graph)
    task.call("DeleteWorkerSession", session_handle="s")
    with pytest.raises(Aborted, match="just restarted") as caught:
        task.register(const("c", 1.0))
    assert any(b"WorkerPossiblyRestarted" in value for key, value in caught.value.trailers
               if key == "grpc-status-details-bin")


def test_54_unknown_ops_devices_and_inputs_are_named(task: Task) -> None:
    task.session()
    with pytest.raises(NotFound, match="^Op type not registered 'NoSuchOp'"):
        task.register(node("n", "NoSuchOp"))
    with pytest.raises(NotFound, match="^No registered '_Arg' OpKernel for 'CPU' devices compatible with node "
                                       "{{node n}}$"):
        task.register(node("n", "_Arg", T=FLOAT, index=0))
    for device in ("/nonsense", "/job:worker"):
        with pytest.raises(InvalidArgument, match="^Missing device name in: {{node c}}"):
            task.register(const("c", 1.0, device=device))
    with pytest.raises(InvalidArgument, match="Unknown input node 'gone'|unknown input node 'gone'|gone"):
        task.register(identity("i", "gone"))


def test_55_logging_answers_and_tells_what_was_received(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    for task in tasks:
        task.session()
    second.call("Logging", enable_rpc_logging=True)
    ends = first.ends(second, "edge_1_c")
    taker = second.register(recv("r", FLOAT, ends))
    step = next(steps)
    running = second.start_run(taker, step)
    first.run(sender(first, second, np.ones(2, np.float32), "edge_1_c"), step)
    second.finish_run(running)
    (entry,) = second.call("Logging", fetch_step_id=[step], disable_rpc_logging=True).step
    (device,) = entry.step_stats.dev_stats
    assert (entry.step_id, device.device) == (step, second.cpu)
    assert device.node_stats[0].node_name == "RecvTensor"
    assert device.node_stats[0].timeline_label.startswith("[8B] [")
    assert device.node_stats[0].timeline_label.endswith(f"edge_1_c from {first.cpu} to {second.cpu} by message")
    assert not second.call("Logging", fetch_step_id=[step]).step
    second.call("Logging", clear=True)
    second.call("MarkRecvFinished", request_id=4)


def test_tracing_records_steps_that_logging_hands_over(task: Task, steps: Iterator[int]) -> None:
    task.session()
    graph = task.register(const("c", np.ones(4, np.float32)), node("v", "VariableV2", dtype=FLOAT, shape=(4,)),
                          node("a", "Assign", "v", "c", T=FLOAT))
    before, first, second, after = (next(steps) for _ in range(4))
    task.run(graph, before)
    task.call("Tracing", options=wire.TraceOpts(duration=60, use_step_profiler=True))
    for step in (first, second):
        task.run(graph, step)
    task.call("Tracing")  # without a duration: the end
    task.run(graph, after)
    found = {entry.step_id: entry for entry in task.call("Logging", fetch_step_id=[before, first, second, after]).step}
    assert set(found) == {first, second}
    (device,) = found[first].step_stats.dev_stats
    assert device.device == task.cpu
    assert "a = Assign(v, c)" in [stats.timeline_label for stats in device.node_stats]
    assert all(stats.all_start_micros > 0 for stats in device.node_stats)
    assert not task.call("Logging", fetch_step_id=[first]).step


def test_a_traced_step_has_its_nodes_and_what_it_received(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    for task in tasks:
        task.session()
    for task in tasks:
        task.call("Tracing", options=wire.TraceOpts(duration=60))
    ends = first.ends(second, "edge_1_c")
    taker = second.register(recv("r", FLOAT, ends), node("n", "Neg", "r", T=FLOAT))
    giver = sender(first, second, np.ones(1 << 17, np.float32), "edge_1_c")

    def run() -> int:
        step = next(steps)
        running = second.start_run(taker, step)
        first.run(giver, step)
        second.finish_run(running)
        return step

    step = run()
    for task in tasks:
        task.call("Tracing")
    assert not second.call("Logging", fetch_step_id=[run()]).step
    (sent,) = first.call("Logging", fetch_step_id=[step]).step
    assert any(stats.timeline_label.startswith("s = _Send(") for stats in sent.step_stats.dev_stats[0].node_stats)
    (entry,) = second.call("Logging", fetch_step_id=[step, step]).step
    (device,) = entry.step_stats.dev_stats
    by_name = {stats.node_name: stats for stats in device.node_stats}
    assert {"r", "n", "RecvTensor"} <= set(by_name)
    assert by_name["RecvTensor"].timeline_label.startswith("[0.5MB] [")
    (output,) = by_name["RecvTensor"].output
    assert output.tensor_description.allocation_description.requested_bytes == 1 << 19


def test_tracing_ends_by_itself_and_clearing_forgets(task: Task, steps: Iterator[int]) -> None:
    task.session()
    graph = task.register(const("c", 1.0))
    task.call("Tracing", options=wire.TraceOpts(duration=0.05))

    def run() -> int:
        step = next(steps)
        task.run(graph, step)
        return step

    until(lambda: not task.call("Logging", fetch_step_id=[run()]).step)
    task.call("Tracing", options=wire.TraceOpts(duration=60))
    traced = run()
    task.call("Logging", clear=True)
    assert not task.call("Logging", fetch_step_id=[traced]).step


def test_tracing_refuses_what_it_cannot_do(task: Task) -> None:
    for duration in (-1.0, float("nan"), float("inf"), 3601.0):
        with pytest.raises(InvalidArgument, match=r"^TraceOpts\.duration is .*: it must be 0 \(stop recording\) to 36"):
            task.call("Tracing", options=wire.TraceOpts(duration=duration))
    for field in ("use_gpu_profiler", "use_sample_profiler"):
        with pytest.raises(Unimplemented, match=rf"^Tracing: TraceOpts\.{field} asks for .*, which {task.name} does n"):
            task.call("Tracing", options=wire.TraceOpts(duration=1, **{field: True}))
        task.call("Tracing", options=wire.TraceOpts(duration=0.01, use_kernel_profiler=True, **{field: True}))


def test_61_a_failed_step_ends_what_others_await_of_it(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    for task in tasks:
        task.session()
    ends = first.ends(second, "never")
    graph = first.register(node("v", "VariableV2", dtype=FLOAT, shape=()), identity("i", "v"),
                           send("s", "i", FLOAT, ends))
    taker = second.register(recv("r", FLOAT, ends))
    step = next(steps)
    running = second.start_run(taker, step)
    first.until_wanted()
    began = time.monotonic()
    with pytest.raises(Exception, match=r"^Attempting to use uninitialized value v\n\t \[\[{{node i}}\]\]$"):
        first.run(graph, step)
    with pytest.raises(Exception, match="Attempting to use uninitialized value v"):
        second.finish_run(running)
    assert time.monotonic() - began < 5
    late = first.start("RecvTensor", step_id=step, rendezvous_key=first.key(second, "never"))
    with pytest.raises(Exception, match="uninitialized") as caught:
        first.finish("RecvTensor", late)
    assert any(b"DerivedStatus" in value for key, value in caught.value.trailers if key == "grpc-status-details-bin")


def test_a_cancelled_step_lets_go_of_everything(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    second.session()
    taker = second.register(recv("r", FLOAT, first.ends(second, "never")))
    step = next(steps)
    running = second.start_run(taker, step)
    first.until_wanted()
    running.cancel()
    parked = second.start("RecvTensor", step_id=step, rendezvous_key=second.key(first, "e"))
    with pytest.raises((Aborted, Cancelled), match=rf"Step {step} cancelled\.  Cancelling rendezvous\."):
        second.finish("RecvTensor", parked)


def test_deleting_a_session_ends_its_steps(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    second.session()
    running = second.start_run(second.register(recv("r", FLOAT, first.ends(second, "never"))), next(steps))
    first.until_wanted()
    second.call("DeleteWorkerSession", session_handle="s")
    with pytest.raises(Cancelled, match="worker session s was deleted"):
        second.finish_run(running)


def test_42_a_partial_run_goes_on_call_by_call(task: Task, steps: Iterator[int]) -> None:
    task.session()
    marks = {"client_terminated": True}
    graph = task.register(
        recv("x", FLOAT, {**task.ends(task, "x"), **marks}), recv("y", FLOAT, {**task.ends(task, "y"), **marks}),
        node("a", "Neg", "x", T=FLOAT), node("b", "Mul", "a", "y", T=FLOAT),
        send("sa", "a", FLOAT, {**task.ends(task, "a"), **marks}),
        send("sb", "b", FLOAT, {**task.ends(task, "b"), **marks}))
    step = next(steps)
    keys = {name: task.key(task, name) for name in "xyab"}
    (found,) = task.run(graph, step, send={keys["x"]: np.float32(3)}, receive=[keys["a"]], is_partial=True)
    assert found == -3
    (found,) = task.run(graph, step, send={keys["y"]: np.float32(2)}, receive=[keys["b"]], is_partial=True,
                        is_last_partial_run=True)
    assert found == -6
