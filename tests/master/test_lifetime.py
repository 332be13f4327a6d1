"""What sessions leave behind: nothing; and that a fault of one client is that client's alone."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import numpy as np
import pytest

from runtime import wire
from runtime.devices.device import cpu_device
from runtime.errors import Error, FailedPrecondition, Internal, InvalidArgument
from runtime.graph.prune import select
from runtime.master.master import Master
from runtime.master.metadata import partition_graph
from runtime.master.task import Task
from tests.graph.graphs import FLOAT, const, function_def, graph_def, identity, node, placeholder
from tests.master.harness import Caller, serving


def test_a_closed_session_goes_without_the_garbage_collector() -> None:
    with Master() as master:
        gc.collect()
        gc.disable()
        try:
            handle, _ = master.create_session(
                graph_def(
                    placeholder("x"), const("big", np.zeros(1000, np.float32)), node("y", "AddV2", "x", "big", T=FLOAT)
                )
            )
            session = master.session(handle)
            session.run({"x:0": np.float32(1)}, ["y:0"])
            session.callables.make(wire.CallableOptions(feed=["x:0"], fetch=["y:0"]))
            run = session.partial_runs.setup(("x:0",), ("y:0",), ())
            session.run_partial(run, {"x:0": np.float32(1)}, ["y:0"])
            watched = weakref.ref(session)
            master.close_session(handle).result(10)
            del session
            assert watched() is None
        finally:
            gc.enable()


@pytest.mark.usefixtures("no_leaks")
def test_a_served_master_leaves_no_thread_behind() -> None:
    with serving() as master:
        handle = master.session(placeholder("x"), *[identity(f"n{index}", "x") for index in range(500)])
        assert master.run(handle, ["n7:0"], feed={"x:0": 3.0}) == [3.0]


def test_a_closed_master_takes_no_session_and_closes_again() -> None:
    master = Master()
    master.close()
    with pytest.raises(FailedPrecondition, match="stopping"):
        master.create_session(graph_def())
    master.close()


def test_closing_twice_gives_the_same_end() -> None:
    with Master() as master:
        handle, _ = master.create_session(graph_def(const("c", 1.0)))
        session = master.session(handle)
        assert session.close() is session.close()
        session.abandon()
        assert session.close().done()


def test_a_step_that_ignores_its_cancellation_does_not_hold_the_session() -> None:
    with Master() as master:
        handle, _ = master.create_session(graph_def(const("c", 1.0)))
        session = master.session(handle)
        step = session.begin()
        closing = master.close_session(handle)
        assert not closing.done()
        session.abandon()
        assert closing.done()
        session.end(step)


def test_the_rest_of_a_session_waits_for_its_last_step() -> None:
    with Master() as master:
        handle, _ = master.create_session(graph_def(const("c", 1.0)))
        session = master.session(handle)
        first, second = session.begin(), session.begin()
        closing = session.close()
        assert first.cancelled and second.cancelled
        session.end(first)
        assert not closing.done()
        session.end(second)
        assert closing.done()
        with pytest.raises(FailedPrecondition):
            session.begin()


def test_an_error_of_the_wrong_kind_becomes_internal(master: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = master.session(const("c", 1.0), const("d", 1.0))
    session = master.service.master.session(handle)
    assert master.run(handle, ["c:0"]) == [1.0]

    def broken(*args: object) -> None:
        raise KeyError("a fault")

    prepared = next(iter(session.steps.exact.values()))
    monkeypatch.setattr(prepared.step, "run", broken)
    with pytest.raises(Internal, match="KeyError: 'a fault'"):
        master.run(handle, ["c:0"])
    monkeypatch.setattr(session.steps, "prepare", broken)
    response = master.step(handle, ["d:0"], store_errors_in_response_body=True)
    assert (response.status_code, response.status_error_message) == (13, "KeyError: 'a fault'")
    monkeypatch.undo()
    assert master.run(handle, ["c:0", "d:0"]) == [1.0, 1.0]


def test_one_sessions_faults_leave_others_alone(master: Caller) -> None:
    good = master.session(placeholder("x"), identity("y", "x"))
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            number = 0
            while not stop.is_set():
                number += 1
                assert master.run(good, ["y:0"], feed={"x:0": float(number)}) == [number]
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(20):
            for request in (b"\xff", b"\x0a\x00\x12\x05\x0a\x03abc"):
                with pytest.raises(Error):
                    master.send("RunStep", request).result(10)
            with pytest.raises(Error):
                master.session(identity("a", "a"))
            bad = master.session(placeholder("x"), const("shape", [3]), node("r", "Reshape", "x", "shape", T=FLOAT))
            with pytest.raises(InvalidArgument):
                master.run(bad, ["r:0"], feed={"x:0": np.zeros(4, np.float32)})
            master.call("CloseSession", session_handle=bad)
    finally:
        stop.set()
        thread.join(20)
    assert not failures
    assert list(master.service.master.sessions) == [good]


def test_a_large_session_is_made_beside_the_loop(master: Caller) -> None:
    request = wire.CreateSessionRequest(
        graph_def=graph_def(
            placeholder("x"),
            identity("n0", "x"),
            *(identity(f"n{index}", f"n{index - 1}") for index in range(1, 20_000)),
        )
    )
    started = master.send("CreateSession", request.SerializeToString())
    worst = 0.0
    while not started.done():
        begin = time.monotonic()
        master.call("ListDevices")
        worst = max(worst, time.monotonic() - begin)
    handle = wire.CreateSessionResponse.FromString(started.result(10)).session_handle
    assert len(master.service.master.session(handle).graph.nodes) == 20_001
    assert worst < 1.0


def test_a_renamed_task_keeps_incarnations_and_resources() -> None:
    task = Task("local", 0, num_cpus=2)
    renamed = task.renamed("w", 3)
    assert renamed.name == "/job:w/replica:0/task:3"
    for old, new in zip(task.devices, renamed.devices, strict=True):
        assert new.name == old.name.replace("/job:local/replica:0/task:0", renamed.name)
        assert new.incarnation == old.incarnation
        assert new.resources is old.resources


def test_clearing_containers_empties_the_named_or_the_default_ones() -> None:
    task = Task("local", 0)
    resources = task.devices[0].resources
    for container in ("local", "c"):
        resources.lookup_or_create(container, "kind", "name", object)
    task.clear(["nowhere"])
    assert len(resources.listing()) == 2
    task.clear()
    assert resources.listing() == [("c", "kind", "name")]
    task.clear(["c"])
    assert resources.listing() == []


def test_a_partition_graph_has_feeds_fetches_functions_and_defaults() -> None:
    from runtime.graph.graph import Graph

    function = function_def("f", {"x": FLOAT}, {"y": (FLOAT, "x")}, [])
    graph = Graph.from_proto(
        graph_def(
            placeholder("p"),
            const("c", 1.0, "^p"),
            node("call", "f", "c"),
            node("parts", "Split", "axis", "call", num_split=2, T=FLOAT),
            const("axis", 0),
            node("join", "ConcatV2", "parts:1", "parts", "axis", N=2, T=FLOAT),
            functions=(function,),
        )
    )
    made = partition_graph(graph, select(graph, ["p:0"], ["join:0"], []), cpu_device("w", 1))
    inputs = {item.name: list(item.input) for item in made.node}
    assert inputs["_recv_p_0"] == []
    assert inputs["c"] == ["^_recv_p_0"]
    assert inputs["join"] == ["parts:1", "parts", "axis"]
    assert inputs["_send_join_0"] == ["join"]
    join = next(item for item in made.node if item.name == "join")
    assert join.attr["Tidx"].type == 3
    assert [item.signature.name for item in made.library.function] == ["f"]
    assert Graph.from_proto(made, internal=True).nodes["join"].output_types == (1,)


def test_a_step_that_cannot_even_begin_is_over(master: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = master.session(const("c", 1.0))
    session = master.service.master.session(handle)

    def broken(*args: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(session.runner, "start", broken)
    found: list[object] = []
    prepared = session.prepare((), ("c:0",), ())
    session.start(prepared, session.begin(prepared), (), lambda outputs, error: found.append(error))
    assert isinstance(found[0], Internal)
    assert "ZeroDivisionError: a fault of ours" in str(found[0])
    assert session.close().result(5) is None
