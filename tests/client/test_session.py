"""What a session does, the same in process, on this project's server and on TensorFlow's."""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections import OrderedDict, defaultdict, namedtuple
from typing import Any

import numpy as np
import pytest

import runtime
from runtime import wire
from runtime.errors import (
    Cancelled,
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
)
from tests.client.conftest import AS_WRITTEN, Open, endless_loop

Point = namedtuple("Point", ["x", "y"])


@dataclasses.dataclass
class Outcome:
    loss: Any
    step: Any


# -- fetches ------------------------------------------------------------------------------------------------------


def test_fetches_keep_their_form(opened: Open, graph: runtime.Graph) -> None:
    a, b, done = graph.constant(1.5, name="a"), graph.constant([1, 2], name="b"), graph.no_op("done")
    session = opened(graph)
    assert session.run(a) == np.float32(1.5)
    assert session.run("a:0") == 1.5
    assert session.run(done) is None
    assert session.run("done") is None
    assert session.run("a") is None  # the operation, as in TensorFlow
    nested = session.run({"list": [a, (b, done)], "point": Point(x=a, y={"deep": b}), "same": a})
    np.testing.assert_array_equal(nested["list"][1][0], [1, 2])
    assert nested["list"][0] == 1.5
    assert nested["list"][1][1] is None
    assert isinstance(nested["list"][1], tuple)
    assert isinstance(nested["point"], Point)
    np.testing.assert_array_equal(nested["point"].y["deep"], [1, 2])
    assert nested["same"] == 1.5
    ordered = session.run(OrderedDict([("z", a), ("a", done)]))
    assert type(ordered) is OrderedDict
    assert list(ordered.items()) == [("z", 1.5), ("a", None)]
    default = session.run(defaultdict(list, {"k": a}))
    assert isinstance(default, collections.defaultdict)
    assert default["missing"] == []
    assert session.run(Outcome(loss=a, step=[done])) == Outcome(loss=1.5, step=[None])
    assert session.run([]) == []
    assert session.run({}) == {}


def test_scalars_and_strings(opened: Open, graph: runtime.Graph) -> None:
    session = opened(graph)
    number, flag, text, texts = session.run([
        graph.constant(7, "int64"), graph.constant(True), graph.constant("äh"), graph.constant([["a", b"\xff"]])])
    assert number == 7
    assert isinstance(number, np.int64)
    assert isinstance(flag, np.bool_)
    assert text == "äh".encode()
    assert texts.tolist() == [[b"a", b"\xff"]]


def test_results_are_the_callers_to_change(opened: Open, graph: runtime.Graph, unique: str) -> None:
    constant = graph.constant(np.zeros(3, np.float32))
    variable = graph.variable(np.ones(4, np.float32), name=unique)
    session = opened(graph)
    session.run(variable.initializer)
    for _ in range(2):
        first, second, third = session.run([constant, variable, graph.identity(constant)])
        np.testing.assert_array_equal(first, [0, 0, 0])
        np.testing.assert_array_equal(second, [1, 1, 1, 1])
        for array in (first, second, third):
            array += 5
    np.testing.assert_array_equal(session.run(variable), [1, 1, 1, 1])


@pytest.mark.parametrize(
    ("fetches", "message"),
    [(3, "cannot fetch int 3"), ([None], "cannot fetch NoneType None"), ("x:y", "names are NODE:INDEX"),
     ("^x", "a control input has no value"), (object, "cannot fetch type")],
)
def test_what_cannot_be_fetched(opened: Open, fetches: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        opened().run(fetches)


def test_unknown_names_are_the_servers_error(opened: Open, graph: runtime.Graph) -> None:
    graph.constant(1.0, name="c")
    session = opened(graph)
    with pytest.raises(NotFound, match="FetchOutputs node zz:0: not found"):
        session.run("zz:0")
    with pytest.raises(InvalidArgument, match="FetchOutputs c:1: output index too large, must be < 1"):
        session.run("c:1")
    with pytest.raises(NotFound, match="Some target nodes not found: zz"):
        session.run("zz")
    with pytest.raises(NotFound, match="unable to find feed output zz:0"):
        session.run("c:0", {"zz:0": np.float32(1)})


# -- feeds --------------------------------------------------------------------------------------------------------


def test_feeds_are_cast(opened: Open, graph: runtime.Graph) -> None:
    x, n = graph.placeholder("float32", [None, 2]), graph.placeholder("int32", [])
    text = graph.placeholder("string", [None])
    session = opened(graph)
    np.testing.assert_array_equal(session.run(x + 1.0, {x: [[1, 2], [3, 4]]}), [[2, 3], [4, 5]])
    assert session.run(x * 2.0, {x: np.ones((1, 2))}).dtype == np.float32
    assert session.run(graph.identity(n), {n: 3.7}) == 3  # as numpy casts, toward zero
    assert session.run(graph.identity(n), {n: np.int64(5)}) == 5
    assert session.run(graph.identity(text), {text: ["a", "ü", b"\x00"]}).tolist() == [b"a", "ü".encode(), b"\x00"]
    np.testing.assert_array_equal(session.run(x + 0.0, {x: np.arange(8).reshape(2, 4)[:, ::2]}), [[0, 2], [4, 6]])


@pytest.mark.parametrize("dtype", [
    "float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64", "bool", "complex64", "complex128"])
def test_every_type_goes_there_and_back(opened: Open, graph: runtime.Graph, dtype: str) -> None:
    x = graph.placeholder(dtype, None)
    session = opened(graph)
    for value in (np.array([[1, 0], [1, 1]]), np.array(1), np.zeros((0, 3))):
        found = session.run(graph.identity(x), {x: value})
        assert found.shape == value.shape
        np.testing.assert_array_equal(np.asarray(found, np.complex128), value)


def test_anything_may_be_fed(opened: Open, graph: runtime.Graph) -> None:
    constant, x = graph.constant(1.0, name="c"), graph.placeholder("float32", [])
    middle = graph.add(x, constant, name="middle")
    last = middle * 10.0
    session = opened(graph)
    assert session.run(last, {constant: 5.0, x: 1.0}) == 60
    assert session.run(last, {"middle:0": 3.0}) == 30
    assert session.run(last, {"middle": 4.0}) == 40
    assert session.run([constant, last], {constant: 5.0, x: 1.0}) == [5, 60]
    assert session.run(constant, {constant: 7.0}) == 7  # answered without a step


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.zeros((3, 3)), r"Cannot feed tensor 'x:0' \(dtype float, shape \[\?,2\]\): the value has shape \[3,3\]"),
     ("text", r"Cannot feed tensor 'x:0' \(dtype float, shape \[\?,2\]\): str 'text' cannot be a float tensor"),
     ([[1, 2], [3]], r"Cannot feed tensor 'x:0' .*cannot be a float tensor"),
     (np.ones((1, 2)) * 1j, r"Cannot feed tensor 'x:0' .*cannot be a float tensor"),
     (None, r"Cannot feed tensor 'x:0' .*")],
)
def test_feeds_that_do_not_fit(opened: Open, graph: runtime.Graph, value: Any, message: str) -> None:
    x = graph.placeholder("float32", [None, 2], name="x")
    with pytest.raises(InvalidArgument, match=message):
        opened(graph).run(x + 1.0, {x: value})


def test_feeds_that_are_no_feeds(opened: Open, graph: runtime.Graph) -> None:
    x, n = graph.placeholder("float32", None, name="x"), graph.placeholder("int8", [], name="n")
    session = opened(graph)
    with pytest.raises(InvalidArgument, match=r"cannot feed tensor 'x:0' with <Tensor 'Const:0'.*it is a tensor"):
        session.run(x, {x: graph.constant(1.0)})
    with pytest.raises(InvalidArgument, match=r"Cannot feed tensor 'n:0' .*(300|out of bounds)"):
        session.run(n + 1, {n: 300})
    with pytest.raises(InvalidArgument, match="cannot feed int 3"):
        session.run(x, {3: 1.0})
    with pytest.raises(InvalidArgument, match="cannot feed 'go': it is an operation|cannot feed Operation"):
        session.run(x, {graph.no_op("go"): 1.0})
    with pytest.raises(InvalidArgument, match="tensor 'x:0' is fed twice"):
        session.run(x + 1.0, {x: 1.0, "x:0": 2.0})
    with pytest.raises(InvalidArgument, match="feed_dict must be a mapping"):
        session.run(x, [(x, 1.0)])  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="You must feed a value for placeholder tensor 'x' with dtype float"):
        session.run(x + 1.0)


# -- steps --------------------------------------------------------------------------------------------------------


def test_graph_grows_between_runs(opened: Open) -> None:
    session = opened()
    a = session.graph.constant(2.0)
    assert session.run(a) == 2
    for factor in (3.0, 4.0):
        assert session.run(a * factor) == 2 * factor


def test_node_that_the_server_refuses_is_sent_again(opened: Open, graph: runtime.Graph) -> None:
    session = opened(graph)
    session.run(graph.constant(1.0))
    with graph.device("/job:nowhere/task:7"):
        bad = graph.constant(1.0, name="bad")
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="Cannot assign a device for operation bad"):
            session.run(bad)


def test_variables_train(opened: Open, graph: runtime.Graph, unique: str) -> None:
    x, y = graph.placeholder("float32", [None, 1]), graph.placeholder("float32", [None, 1])
    w = graph.variable(np.zeros((1, 1), np.float32), name=f"{unique}w")
    b = graph.variable(np.zeros(1, np.float32), name=f"{unique}b")
    loss = graph.reduce_mean(graph.squared_difference(x @ w + b, y))
    from runtime.graph.optimizers import Momentum

    train = Momentum(0.1, 0.9).minimize(loss)
    session = opened(graph)
    session.run(graph.global_variables_initializer())
    inputs = np.linspace(-1, 1, 32).reshape(-1, 1)
    for _ in range(150):
        session.run(train, {x: inputs, y: 3 * inputs - 2})
    slope, offset = session.run([w, b])
    np.testing.assert_allclose((slope[0, 0], offset[0]), (3, -2), rtol=1e-2)


def test_targets_run_without_a_place_in_the_result(opened: Open, graph: runtime.Graph, unique: str) -> None:
    v = graph.variable(1.0, name=unique)
    session = opened(graph)
    session.run([], targets=v.initializer)
    more = v.assign_add(2.0)
    assert session.run(graph.constant(5.0), targets=[more]) == 5
    assert session.run((), targets=[more.name]) == ()
    assert session.run(v) == 5
    with pytest.raises(InvalidArgument, match="target 3 is neither an operation nor a name"):
        session.run(v, targets=[3])


def test_kernel_errors_name_the_node(opened: Open, graph: runtime.Graph) -> None:
    index = graph.placeholder("int32", [])
    picked = graph.gather(graph.constant([1.0, 2.0]), index, name="picked")
    session = opened(graph)
    assert session.run(picked, {index: 1}) == 2
    with pytest.raises(InvalidArgument, match=r"is not in \[0, 2\)[\s\S]*\[\[\{\{node picked\}\}\]\]$"):
        session.run(picked, {index: 5})
    assert session.run(picked, {index: 0}) == 1


def test_steps_of_several_threads_run_side_by_side(opened: Open, graph: runtime.Graph) -> None:
    x = graph.placeholder("float32", [])
    y = graph.square(x)
    session = opened(graph)
    wrong: list[Any] = []

    def work(number: int) -> None:
        for _ in range(50):
            if session.run(y, {x: number}) != number * number:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_options_and_metadata(opened: Open, graph: runtime.Graph) -> None:
    x = graph.placeholder("float32", [2])
    y = graph.relu(x, name="y")
    session = opened(graph)
    metadata = wire.RunMetadata()
    session.run(y, {x: [1, 2]}, {"trace_level": "FULL_TRACE"}, metadata)
    names = {stats.node_name for device in metadata.step_stats.dev_stats for stats in device.node_stats}
    assert "y" in names
    session.run(y, {x: [1, 2]}, wire.RunOptions(output_partition_graphs=True), metadata)
    assert not metadata.HasField("step_stats")
    assert any(node.name == "y" for part in metadata.partition_graphs for node in part.node)
    with pytest.raises(InvalidArgument, match='has no "timeout" field.; its fields: trace_level, timeout_in_ms'):
        session.run(y, {x: [1, 2]}, {"timeout": 3})
    with pytest.raises(InvalidArgument, match="options must be a RunOptions message"):
        session.run(y, {x: [1, 2]}, 3)


def test_a_step_ends_when_its_time_is_up(opened: Open) -> None:
    session = opened(endless_loop(), AS_WRITTEN)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        session.run("never:0", options={"timeout_in_ms": 300})
    assert 0.25 < time.monotonic() - started < 5
    assert session.run("start:0") == 1


def test_the_sessions_own_time_limit(opened: Open) -> None:
    session = opened(endless_loop(), {**AS_WRITTEN, "operation_timeout_in_ms": 1500})
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        session.run("never:0")
    assert 1.2 < time.monotonic() - started < 8


def test_closing_ends_a_running_step(opened: Open) -> None:
    session = opened(endless_loop(), AS_WRITTEN)
    session.run("start:0")
    ended: list[BaseException] = []

    def run() -> None:
        try:
            session.run("never:0")
        except Error as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.3)  # the step must be running when the session is closed; too early would pass as well
    session.close()
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(ended[0], Cancelled | FailedPrecondition)


def test_a_closed_session_is_closed(opened: Open, graph: runtime.Graph) -> None:
    a = graph.constant(1.0)
    session = opened(graph)
    with session:
        session.run(a)
    session.close()
    assert "closed" in repr(session)
    for attempt in (lambda: session.run(a), lambda: session.make_callable(a), session.list_devices,
                    lambda: session.partial_run_setup(a)):
        with pytest.raises(FailedPrecondition, match="Attempted to use a closed Session"):
            attempt()


def test_a_session_may_be_closed_before_anything_ran(opened: Open) -> None:
    opened().close()


# -- callables ----------------------------------------------------------------------------------------------------


def test_callables_take_values_by_position(opened: Open, graph: runtime.Graph, unique: str) -> None:
    x, y = graph.placeholder("float32", [2], name="x"), graph.placeholder("int32", [], name="y")
    v = graph.variable(0.0, name=unique)
    session = opened(graph)
    session.run(v.initializer)
    total = graph.reduce_sum(x) * graph.cast(y, "float32")
    with session.make_callable({"total": total, "count": v.assign_add(1.0), "again": [total]}, [x, "y:0"]) as run:
        assert run([1, 2], 3) == {"total": 9, "count": None, "again": [9]}
        assert run(np.ones(2), 2)["total"] == 4
        with pytest.raises(InvalidArgument, match=r"takes 2 values \(x:0, y:0\), got 1"):
            run(1)
        with pytest.raises(InvalidArgument, match=r"Cannot feed tensor 'x:0' \(dtype float, shape \[2\]\)"):
            run([1, 2, 3], 1)
    assert session.run(v) == 2
    with pytest.raises(FailedPrecondition, match="this callable is closed"):
        run([1, 2], 3)
    with pytest.raises(InvalidArgument, match="'x:0' is both fed and fetched"):
        session.make_callable(x, [x])


def test_callables_know_nodes_made_later(opened: Open, graph: runtime.Graph) -> None:
    x = graph.placeholder("float32", [])
    session = opened(graph)
    double = session.make_callable(x * 2.0, [x])
    triple = session.make_callable(x * 3.0, [x])
    assert (double(2), triple(2)) == (4, 6)


# -- partial runs -------------------------------------------------------------------------------------------------


def test_partial_run_in_two_calls(opened: Open, graph: runtime.Graph) -> None:
    a, b = graph.placeholder("float32", [], name="a"), graph.placeholder("float32", [], name="b")
    first = graph.add(a, 1.0, name="first")
    second = graph.multiply(first, b, name="second")
    session = opened(graph)
    handle = session.partial_run_setup([first, second], [a, b])
    found = session.partial_run(handle, first, {a: 2.0})
    assert found == 3
    assert session.partial_run(handle, {"second": second}, {b: found * 10}) == {"second": 90}
    with pytest.raises(InvalidArgument, match="Must run PartialRunSetup before performing partial runs"):
        session.partial_run(handle, first)


def test_partial_run_checks_feeds_and_fetches(opened: Open, graph: runtime.Graph) -> None:
    a, b = graph.placeholder("float32", [], name="a"), graph.placeholder("float32", [], name="b")
    first = graph.add(a, 1.0, name="first")
    second = graph.multiply(first, b, name="second")
    session = opened(graph)
    handle = session.partial_run_setup([first, second], [a, b])
    with pytest.raises(InvalidArgument, match="can't be computed from the feeds that have been fed so far"):
        session.partial_run(handle, second, {a: 1.0})
    with pytest.raises(InvalidArgument, match="cannot fetch operation 'go'"):
        session.partial_run(handle, graph.no_op("go"))
    handle = session.partial_run_setup([first], [a])
    with pytest.raises(InvalidArgument, match="The fetch second:0 was not specified in partial_run_setup"):
        session.partial_run(handle, second, {a: 1.0})


# -- devices ------------------------------------------------------------------------------------------------------


def test_devices_are_listed(opened: Open) -> None:
    (device,) = opened().list_devices()
    assert device.name.endswith("/replica:0/task:0/device:CPU:0")
    assert device.device_type == "CPU"
    assert device.memory_limit_bytes == 268435456
    assert 0 < device.incarnation < 2**64


def test_out_of_range_is_an_index_error(opened: Open, graph: runtime.Graph, unique: str) -> None:
    v = graph.op("VariableV2", shape=[], dtype="int32", shared_name=unique)
    session = opened(graph)
    session.run(graph.op("Assign", v, 0).op)
    count = graph.op("CountUpTo", v, limit=1)
    assert session.run(count) == 0
    with pytest.raises(IndexError, match="Reached limit of 1") as caught:
        session.run(count)
    assert isinstance(caught.value, OutOfRange)


def test_config_forms(opened: Open, graph: runtime.Graph) -> None:
    a = graph.constant(1.0)
    message = wire.ConfigProto(operation_timeout_in_ms=20000)
    for config in (message, message.SerializeToString(), {"operation_timeout_in_ms": 20000}, None):
        assert opened(graph, config).run(a) == 1
    with pytest.raises(InvalidArgument, match="config is not a valid ConfigProto"):
        opened(graph, {"no_such_option": 1})
    with pytest.raises(InvalidArgument, match="config must be a ConfigProto message"):
        opened(graph, "fast")


def test_a_session_whose_constructor_raised_can_be_shown() -> None:
    with pytest.raises(InvalidArgument) as caught:
        runtime.Session("grpc://127.0.0.1:9", peer_timeout_s=-1.0)
    (frame,) = [entry.frame for entry in caught.traceback if entry.name == "__init__"]
    assert repr(frame.f_locals["self"]) == "<runtime.Session grpc://127.0.0.1:9, never opened>"
    with pytest.raises(InvalidArgument) as caught:
        runtime.Session("nonsense")
    (frame,) = [entry.frame for entry in caught.traceback if entry.name == "__init__"]
    assert repr(frame.f_locals["self"]) == "<runtime.Session in process, never opened>"
