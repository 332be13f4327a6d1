"""Checklist 36 to 45: steps, partial runs, callables, metadata."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime.errors import Aborted, Cancelled, Error, Internal, InvalidArgument, NotFound, Unimplemented
from tests.graph.graphs import BOOL, FLOAT, const, graph_def, identity, node, placeholder
from tests.master.harness import Caller, array, fill, needs_queues

FROM = "From /job:local/replica:0/task:0:\n"
CPU = "/job:local/replica:0/task:0/device:CPU:0"


def test_36_a_signature_is_compiled_once_however_it_is_spelled(master: Caller) -> None:
    handle = master.session(placeholder("x"), placeholder("w"), node("s", "Sub", "x", "w", T=FLOAT), identity("t", "s"))
    session = master.service.master.session(handle)
    for names in (["x:0", "w:0"], ["w:0", "x:0"]):
        values = {"x:0": 5.0, "w:0": 3.0}
        for fetches in (["s:0", "t:0"], ["t:0", "s:0"]):
            response = master.step(handle, fetches, feed={name: values[name] for name in names})
            assert [(entry.name, float(array(entry.tensor))) for entry in response.tensor] == [
                (name, 2.0) for name in fetches
            ]
    assert len(session.steps) == 1
    assert len(session.steps.exact) == 4


def test_36_extending_the_graph_keeps_compiled_steps(master: Caller) -> None:
    handle = master.session(const("c", 1.0))
    assert master.run(handle, ["c:0"]) == [1.0]
    compiled = list(master.service.master.session(handle).steps.exact.values())
    master.extend(handle, 0, identity("d", "c"))
    assert master.run(handle, ["c:0"]) == [1.0]
    assert list(master.service.master.session(handle).steps.exact.values()) == compiled


def test_37_step_ids_differ_and_leave_the_top_bits_free(master: Caller) -> None:
    handle = master.session(const("c", 1.0))
    session = master.service.master.session(handle)
    seen = set()
    for _ in range(100):
        step = session.begin()
        assert 0 <= step.step_id < 1 << 57
        seen.add(step.step_id)
        session.end(step)
    assert len(seen) == 100


def test_40_fetching_a_dead_value_is_internal(master: Caller) -> None:
    handle = master.session(
        const("c", 1.0),
        const("t", np.bool_(True)),
        node("s", "Switch", "c", "t", T=FLOAT),
        identity("d", "s:0"),
        identity("live", "s:1"),
    )
    assert master.run(handle, ["live:0"], ["d"]) == [1.0]
    for fetch in ("d:0", "s:0"):
        with pytest.raises(Internal) as caught:
            master.run(handle, ["live:0", fetch])
        assert str(caught.value).startswith(f"{FROM}Failed to fetch outputs for step ")
        incarnation = master.service.master.task.devices[0].incarnation
        assert str(caught.value).endswith(
            f"(Original error message: The tensor returned for {CPU};{incarnation:016x};{CPU};{fetch};0:0 was not "
            "valid.)"
        )


def partial_session(master: Caller) -> str:
    return master.session(
        placeholder("x"), placeholder("w"), identity("y", "x"), node("s", "AddV2", "y", "w", T=FLOAT), const("c", 1.0)
    )


def setup(master: Caller, handle: str, feeds: list[str], fetches: list[str], targets: list[str] | None = None) -> str:
    return str(
        master.call(
            "PartialRunSetup", session_handle=handle, feed=feeds, fetch=fetches, target=targets or []
        ).partial_run_handle
    )


def refused(master: Caller, *args: Any, **fields: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        master.step(*args, **fields)
    return str(caught.value)


def test_42_a_partial_run_goes_on_from_call_to_call(master: Caller) -> None:
    handle = partial_session(master)
    run = setup(master, handle, ["x:0", "w:0"], ["y:0", "s:0"])
    assert run == "0"
    first = master.step(handle, ["y:0"], feed={"x:0": 1.0}, partial_run_handle=run)
    assert [float(array(entry.tensor)) for entry in first.tensor] == [1.0]
    assert not first.HasField("metadata")
    assert not master.step(handle, partial_run_handle=run).tensor
    last = master.step(handle, ["s:0"], feed={"w:0": 2.0}, partial_run_handle=run)
    assert [float(array(entry.tensor)) for entry in last.tensor] == [3.0]
    assert last.HasField("metadata")
    assert refused(master, handle, ["s:0"], partial_run_handle=run) == (
        "Must run PartialRunSetup before performing partial runs"
    )


def test_42_each_text_of_a_partial_run(master: Caller) -> None:
    handle = partial_session(master)
    run = setup(master, handle, ["x:0", "w:0"], ["y:0", "s:0"])
    for args, text in [
        ((["y:0"], (), {}, "77"), "Must run PartialRunSetup before performing partial runs"),
        (((), (), {"c:0": 1.0}, run), "The feed c:0 was not specified in partial_run_setup."),
        ((["c:0"], (), {}, run), "The fetch c:0 was not specified in partial_run_setup."),
        ((["y:0"], (), {}, run), "Fetch x:0 can't be computed from the feeds that have been fed so far."),
        ((["s:0"], (), {"x:0": 1.0}, run), "Fetch w:0 can't be computed from the feeds that have been fed so far."),
    ]:
        fetch, target, feed, name = args
        assert refused(master, handle, fetch, target, feed, partial_run_handle=name) == text
    assert master.run(handle, ["y:0"], feed={"x:0": 1.0}, partial_run_handle=run) == [1.0]
    assert refused(master, handle, (), (), {"x:0": 1.0}, partial_run_handle=run) == "The feed x:0 has already been fed."
    assert refused(master, handle, ["y:0"], partial_run_handle=run) == "The fetch y:0 has already been fetched."
    assert master.run(handle, ["s:0"], feed={"w:0": 1.0}, partial_run_handle=run) == [2.0]


def test_42_a_setup_is_checked_like_a_step_and_counts_all_the_same(master: Caller) -> None:
    handle = partial_session(master)
    with pytest.raises(NotFound, match="^FetchOutputs node nono:0: not found$"):
        setup(master, handle, ["x:0"], ["nono:0"])
    with pytest.raises(InvalidArgument, match="^Must specify at least one target to fetch or execute.$"):
        setup(master, handle, ["x:0"], [])
    with pytest.raises(InvalidArgument, match='^Endpoint "x:0" fed more than once.$'):
        setup(master, handle, ["x:0", "x:0"], ["y:0"])
    with pytest.raises(Aborted, match="^Session gone is not found.$"):
        setup(master, "gone", [], ["y:0"])
    assert setup(master, handle, ["x:0"], ["y:0"]) == "3"


def test_42_a_wrong_type_ends_the_run(master: Caller) -> None:
    handle = partial_session(master)
    run = setup(master, handle, ["x:0", "w:0"], ["y:0", "s:0"])
    with pytest.raises(Internal) as caught:
        master.step(handle, ["y:0"], feed={"x:0": np.int32(1)}, partial_run_handle=run)
    assert str(caught.value) == (
        f"{FROM}Output 0 of type int32 does not match declared output type float for node {{{{node _recv_x_0}}}}"
    )
    assert "Must run PartialRunSetup" in refused(master, handle, ["y:0"], partial_run_handle=run)
    assert not master.service.master.session(handle)._running


def test_42_a_failing_kernel_ends_the_run_and_names_itself(master: Caller) -> None:
    handle = master.session(placeholder("x"), const("shape", [3]), node("r", "Reshape", "x", "shape", T=FLOAT))
    run = setup(master, handle, ["x:0"], ["r:0"])
    with pytest.raises(InvalidArgument) as caught:
        master.step(handle, ["r:0"], feed={"x:0": np.zeros(4, np.float32)}, partial_run_handle=run)
    assert str(caught.value).startswith(FROM)
    assert str(caught.value).endswith("\n\t [[{{node r}}]]")
    assert not master.service.master.session(handle)._running


def test_42_targets_of_the_setup_run_and_state_is_kept(master: Caller) -> None:
    handle = master.session(
        placeholder("x"),
        node("v", "VariableV2", dtype=FLOAT, shape=()),
        node("a", "Assign", "v", "x", T=FLOAT),
        identity("y", "x"),
        identity("read", "v"),
    )
    run = setup(master, handle, ["x:0"], ["y:0"], ["a"])
    assert master.run(handle, ["y:0"], feed={"x:0": 8.0}, partial_run_handle=run) == [8.0]
    assert master.run(handle, ["read:0"]) == [8.0]


def test_42_closing_the_session_ends_partial_runs(master: Caller) -> None:
    handle = partial_session(master)
    run = setup(master, handle, ["x:0", "w:0"], ["y:0", "s:0"])
    assert master.run(handle, ["y:0"], feed={"x:0": 1.0}, partial_run_handle=run) == [1.0]
    setup(master, handle, ["x:0", "w:0"], ["y:0", "s:0"])
    started = time.monotonic()
    master.call("CloseSession", session_handle=handle)
    assert time.monotonic() - started < 5


def make(master: Caller, handle: str, **options: Any) -> int:
    return int(master.call("MakeCallable", session_handle=handle, options=wire.CallableOptions(**options)).handle)


def call(master: Caller, handle: str, number: int, *values: Any) -> list[Any]:
    request = wire.RunCallableRequest(session_handle=handle, handle=number)
    for value in values:
        fill(request.feed.add(), value)
    return [array(tensor) for tensor in master.call("RunCallable", request).fetch]


def test_43_callables_go_by_position(master: Caller) -> None:
    handle = partial_session(master)
    assert make(master, handle, feed=["w:0", "x:0"], fetch=["s:0", "y:0", "s:0"]) == 0
    assert make(master, handle, target=["c"]) == 1
    assert call(master, handle, 0, 2.0, 5.0) == [7.0, 5.0, 7.0]
    assert call(master, handle, 1) == []


def test_43_a_callable_that_is_gone_or_never_was_gives_the_text(master: Caller) -> None:
    handle = partial_session(master)
    number = make(master, handle, fetch=["c:0"])
    for unknown in (1, 5, -1):
        with pytest.raises(InvalidArgument, match=f"^No such callable handle: {unknown}$"):
            call(master, handle, unknown)
    master.call("ReleaseCallable", session_handle=handle, handle=number)
    with pytest.raises(InvalidArgument, match="^Attempted to run callable after handle was released: 0$"):
        call(master, handle, number)
    master.call("ReleaseCallable", session_handle=handle, handle=44)
    assert make(master, handle, fetch=["c:0"]) == 1


def test_43_feeds_of_the_wrong_number_or_type_are_refused(master: Caller) -> None:
    handle = partial_session(master)
    number = make(master, handle, feed=["x:0"], fetch=["y:0"])
    with pytest.raises(InvalidArgument, match="^0 feeds given where the step has 1$"):
        call(master, handle, number)
    with pytest.raises(InvalidArgument, match="^2 feeds given where the step has 1$"):
        call(master, handle, number, 1.0, 1.0)
    with pytest.raises(Internal, match="Output 0 of type int32 does not match declared output type float for node"):
        call(master, handle, number, 1)
    assert call(master, handle, number, 3.0) == [3.0]


def test_43_what_a_remote_callable_cannot_do_is_refused(master: Caller) -> None:
    handle = partial_session(master)
    with pytest.raises(
        Unimplemented, match="^CallableOptions::feed_devices and CallableOptions::fetch_devices to config"
    ):
        make(master, handle, feed=["x:0"], fetch=["y:0"], feed_devices={"x:0": "/cpu:0"})
    with pytest.raises(InvalidArgument, match="^Must specify at least one target to fetch or execute.$"):
        make(master, handle, feed=["x:0"])


def connection(source: str, target: str) -> Any:
    return wire.TensorConnection(from_tensor=source, to_tensor=target)


def test_43_connected_tensors_replace_what_consumers_read(master: Caller) -> None:
    handle = partial_session(master)
    number = make(master, handle, feed=["w:0"], fetch=["s:0", "y:0"], tensor_connection=[connection("c:0", "x:0")])
    assert call(master, handle, number, 5.0) == [6.0, 1.0]
    assert master.run(handle, ["y:0"], feed={"x:0": 9.0}) == [9.0]


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (
            {"tensor_connection": [connection("zz:0", "x:0")]},
            InvalidArgument,
            'Requested tensor connection from unknown node: "x:0".',
        ),
        (
            {"tensor_connection": [connection("c:3", "x:0")]},
            InvalidArgument,
            'Requested tensor connection from unknown edge: "x:0" (actual number of outputs = 1).',
        ),
        ({"tensor_connection": [connection("c:0", "zz:0")]}, NotFound, "FeedInputs: unable to find feed output zz:0"),
        (
            {"tensor_connection": [connection("c:0", "x:2")]},
            InvalidArgument,
            "FeedInputs: x:2 should have output index < 1",
        ),
        (
            {"tensor_connection": [connection("y:0", "x:0")]},
            InvalidArgument,
            'Requested Tensor connection between nodes "x" and "y" would create a cycle.',
        ),
        (
            {"tensor_connection": [connection("c:0", "x:0")], "feed": ["x:0"]},
            InvalidArgument,
            'Endpoint "x:0" fed more than once.',
        ),
        ({"tensor_connection": [connection("c:0", "x:0")] * 2}, InvalidArgument, 'Endpoint "x:0" fed more than once.'),
        (
            {"tensor_connection": [connection("c:0", "x:0")], "fetch": ["x:0"]},
            InvalidArgument,
            "x:0 is both fed and fetched.",
        ),
    ],
)
def test_43_connections_that_cannot_be_are_refused(
    master: Caller, options: dict[str, Any], kind: type[Error], text: str
) -> None:
    handle = partial_session(master)
    with pytest.raises(kind) as caught:
        make(master, handle, **{"fetch": ["y:0"], **options})
    assert str(caught.value) == text


def test_44_a_full_trace_tells_what_ran_where(master: Caller) -> None:
    handle = master.session(placeholder("x"), node("y", "Neg", "x", T=FLOAT))
    options = wire.RunOptions(trace_level=wire.RunOptions.FULL_TRACE)
    response = master.step(handle, ["y:0"], feed={"x:0": np.zeros((2, 3), np.float32)}, options=options)
    (stats,) = response.metadata.step_stats.dev_stats
    assert stats.device == CPU
    entry = next(entry for entry in stats.node_stats if entry.node_name == "y")
    assert entry.timeline_label == "y = Neg(x)"
    assert abs(entry.all_start_micros - time.time() * 1e6) < 60e6
    assert 0 <= entry.op_start_rel_micros <= entry.op_end_rel_micros <= entry.all_end_rel_micros
    assert [dim.size for dim in entry.output[0].tensor_description.shape.dim] == [2, 3]
    assert not response.metadata.partition_graphs
    assert not master.step(handle, ["y:0"], feed={"x:0": 1.0}).metadata.step_stats.dev_stats


def test_44_the_graph_that_ran_comes_back_with_every_attr(master: Caller) -> None:
    handle = master.session(
        placeholder("x"),
        const("m", np.zeros((2, 2), np.float32)),
        node("y", "MatMul", "x", "m", T=FLOAT),
        identity("unneeded", "m"),
    )
    options = wire.RunOptions(output_partition_graphs=True)
    response = master.step(handle, ["y:0"], feed={"x:0": np.eye(2, dtype=np.float32)}, options=options)
    (graph,) = response.metadata.partition_graphs
    nodes = {item.name: item for item in graph.node}
    assert set(nodes) == {"_recv_x_0", "m", "y", "_send_y_0"}
    assert {item.device for item in nodes.values()} == {CPU}
    assert list(nodes["y"].input) == ["_recv_x_0", "m"]
    assert nodes["y"].attr["transpose_a"].WhichOneof("value") == "b"
    assert nodes["_recv_x_0"].attr["tensor_name"].s == b"x:0"
    assert nodes["_send_y_0"].input == ["y"]
    incarnation = master.call("ListDevices").local_device[0].incarnation
    assert nodes["_send_y_0"].attr["send_device_incarnation"].i % (1 << 64) == incarnation
    assert graph.versions.producer == 2474


@needs_queues
def test_steps_and_extensions_of_one_session_run_at_the_same_time(master: Caller) -> None:
    handle = master.session(
        node("q", "FIFOQueueV2", component_types=[FLOAT]),
        placeholder("value"),
        node("put", "QueueEnqueueV2", "q", "value", Tcomponents=[FLOAT]),
        node("take", "QueueDequeueV2", "q", component_types=[FLOAT]),
    )
    waiting = [master.start_step(handle, ["take:0"]) for _ in range(10)]
    for version in range(10):
        assert master.extend(handle, version, const(f"c{version}", float(version))) == version + 1
        assert master.run(handle, [f"c{version}:0"]) == [float(version)]
    for number in range(10):
        master.step(handle, target=["put"], feed={"value:0": float(number)})
    answers = [wire.RunStepResponse.FromString(step.result(10)) for step in waiting]
    assert sorted(float(array(answer.tensor[0].tensor)) for answer in answers) == [float(n) for n in range(10)]


def test_a_large_graph_compiles_beside_the_loop_and_once(master: Caller) -> None:
    handle = master.session(
        placeholder("x"), identity("n0", "x"), *(identity(f"n{index}", f"n{index - 1}") for index in range(1, 3000))
    )
    session = master.service.master.session(handle)
    compiled = []
    original = session.steps._compile
    go_on = threading.Event()

    def compile_slowly(signature: Any) -> Any:
        compiled.append((signature, threading.current_thread().name))
        assert go_on.wait(20)
        return original(signature)

    session.steps._compile = compile_slowly
    waiting = [master.start_step(handle, ["n2999:0"], feed={"x:0": 1.0}) for _ in range(4)]
    master.call("ListDevices")
    assert not any(step.done() for step in waiting)
    go_on.set()
    for step in waiting:
        assert float(array(wire.RunStepResponse.FromString(step.result(20)).tensor[0].tensor)) == 1.0
    assert len(compiled) == 1
    assert compiled[0][1] != "test-loop"


def test_in_process_callers_run_from_many_threads(master: Caller) -> None:
    core = master.service.master
    handle, version = core.create_session(
        graph_def(
            placeholder("x"), node("y", "Neg", "x", T=FLOAT), node("n", "LogicalNot", "b"), placeholder("b", BOOL)
        )
    )
    assert version == 0
    session = core.session(handle)
    failures = []

    def work(number: int) -> None:
        try:
            for index in range(100):
                value = np.float32(number * 1000 + index)
                outputs, metadata = session.run({"x:0": value}, ["y:0", "y:0", "y"])
                assert [float(output) for output in outputs] == [-value] * 3
                assert metadata is None
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert len(session.steps) == 1
    assert session.endpoint_type("b:0") == BOOL
    with pytest.raises(Internal, match="Output 0 of type double does not match declared output type float"):
        session.run({"x:0": np.float64(1)}, ["y:0"])
    with pytest.raises(InvalidArgument, match="numpy dtype datetime64"):
        session.run({"x:0": np.datetime64("2020-01-01")}, ["y:0"])


def test_in_process_callables_and_partial_runs(master: Caller) -> None:
    core = master.service.master
    session = core.session(partial_session(master))
    number = session.callables.make(wire.CallableOptions(feed=["x:0", "w:0"], fetch=["s:0"]))
    outputs, _ = session.run_callable(number, [np.float32(1), np.float32(2)])
    assert outputs == [3.0]
    run = session.partial_runs.setup(("x:0", "w:0"), ("y:0", "s:0"), ())
    assert session.run_partial(run, {"x:0": np.float32(1)}, ["y:0", "y:0"]) == [1.0, 1.0]
    assert session.run_partial(run, {"w:0": np.float32(2)}, ["s:0"]) == [3.0]


@needs_queues
def test_in_process_timeouts_and_closing_end_waiting_steps(master: Caller) -> None:
    core = master.service.master
    handle, _ = core.create_session(
        graph_def(
            node("q", "FIFOQueueV2", component_types=[FLOAT]),
            node("take", "QueueDequeueV2", "q", component_types=[FLOAT]),
        )
    )
    session = core.session(handle)
    with pytest.raises(Error) as caught:
        session.run({}, ["take:0"], options=wire.RunOptions(timeout_in_ms=100))
    assert caught.value.code == 4
    results = []

    def wait() -> None:
        try:
            session.run({}, ["take:0"])
        except Error as error:
            results.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while not session._running:
        time.sleep(0.005)
    core.close_session(handle).result(10)
    thread.join(10)
    assert isinstance(results[0], Cancelled)
    assert str(results[0]) == "Step was cancelled by an explicit call to `Session::Close()`."
