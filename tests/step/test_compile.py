"""Compiling a step: folding, aliasing, binding, and what is checked of feeds and fetches."""

from __future__ import annotations

import gc
import sys
import time

import numpy as np
import pytest

from runtime._ext.errors import FailedPrecondition, Internal, InvalidArgument, NotFound
from runtime._ext.executor import Dataflow, Program
from runtime._ext.variable import ResourceHandle
from runtime.dtypes import DataType
from runtime.ops import registry
from tests.step.maker import GraphMaker, Runner

FLOAT = DataType.FLOAT
RESOURCE = DataType.RESOURCE


def _ops(runner: Runner, feeds: list[str], fetches: list[str], targets: list[str] | None = None) -> int:
    executor = runner.compile(feeds, fetches, targets or []).executor
    assert isinstance(executor, Program)
    return executor.num_instructions


@pytest.fixture
def constants() -> GraphMaker:
    maker = GraphMaker()
    maker.const("two", np.float32(2))
    maker.const("three", np.full(4, 3, np.float32))
    maker.op("Add", "five", "two", "three")
    maker.op("Identity", "same", "five")
    maker.op("Mul", "ten", "same", "two")
    return maker


def test_what_depends_on_constants_alone_is_folded(constants):
    runner = Runner(constants)
    assert _ops(runner, [], ["ten:0"]) == 0
    (value,) = runner.run(["ten:0"])
    np.testing.assert_array_equal(value, np.full(4, 10))
    assert not value.flags.writeable


def test_a_feed_replaces_what_would_be_folded(constants):
    runner = Runner(constants)
    np.testing.assert_array_equal(runner.run("ten:0", {"five:0": np.float32([7])}), [14])
    np.testing.assert_array_equal(runner.run("ten:0", {"two:0": np.float32(0)}), [0, 0, 0, 0])
    assert runner.run(["same:0", "ten:0"], {"same": np.float32(1), "two": np.float32(6)}) == [1, 6]


def test_a_folding_error_stays_with_the_node(constants):
    constants.const("shape", np.int32([7]))
    constants.call("Reshape", "bad", "three", "shape", T=FLOAT, Tshape=DataType.INT32)
    constants.op("Neg", "after", "bad")
    runner = Runner(constants)
    assert _ops(runner, [], ["after:0"]) == 2
    with pytest.raises(InvalidArgument, match=r"\[\[\{\{node bad\}\}\]\]"):
        runner.run("after:0")


def test_large_results_are_not_folded(constants):
    constants.const("shape", np.int32([1 << 22]))
    constants.call("Fill", "large", "shape", "two", T=FLOAT, index_type=DataType.INT32)
    runner = Runner(constants)
    assert _ops(runner, [], ["large:0"]) == 1
    assert runner.run("large:0").nbytes == 16 << 20


def test_stateful_ops_are_never_folded():
    maker = GraphMaker()
    maker.const("shape", np.int32([3]))
    maker.call("RandomUniform", "random", "shape", T=DataType.INT32, dtype=FLOAT)
    runner = Runner(maker)
    assert _ops(runner, [], ["random:0"]) == 1
    assert not np.array_equal(runner.run("random:0"), runner.run("random:0"))


def test_a_placeholder_is_no_constant():
    maker = GraphMaker()
    maker.call("Placeholder", "x", dtype=FLOAT, shape=(2,))
    maker.op("Neg", "neg", "x")
    runner = Runner(maker)
    with pytest.raises(
        InvalidArgument,
        match=r"You must feed a value for placeholder tensor 'x' with dtype float and "
        r"shape \[2\]\n\t \[\[\{\{node x\}\}\]\]",
    ):
        runner.run("neg:0")


def test_identities_cost_nothing(constants):
    constants.placeholder("x")
    value = "x"
    for number in range(5):
        value = constants.op("Identity", f"i{number}", value)
    constants.op("Neg", "neg", value)
    runner = Runner(constants)
    assert _ops(runner, ["x:0"], ["neg:0", "i4:0"]) == 1
    assert runner.run(["neg:0", "i4:0"], {"x:0": np.float32(4)}) == [-4, 4]


def test_control_edges_order_a_straight_line():
    maker = GraphMaker()
    maker.op("VariableV2", "v", shape=())
    maker.const("one", np.float32(1))
    maker.const("three", np.float32(3))
    maker.op("Assign", "init", "v", "one")
    maker.op("AssignAdd", "add", "v", "three", "^init")
    maker.op("Identity", "before", "v", "^init")
    maker.op("NoOp", "barrier", "^add", "^before")
    maker.const("late", np.float32(10), "barrier")
    maker.op("AssignAdd", "last", "v", "late")
    runner = Runner(maker)
    for run in (runner.run, runner.by_dataflow):
        assert run(["last:0"]) == [14]


def test_a_read_gives_the_new_value_to_those_behind_an_update_and_the_old_one_to_the_others():
    maker = GraphMaker()
    maker.op("VariableV2", "v", shape=(3,))
    maker.const("ones", np.ones(3, np.float32))
    maker.op("Assign", "init", "v", "ones")
    maker.op("Identity", "read", "v")
    maker.op("Identity", "again", "read")
    maker.op("AssignAdd", "add", "v", "ones", "^again")
    maker.op("Neg", "after", "read", "^add")
    maker.const("two", np.float32(2), "add")
    maker.op("Mul", "behind_a_constant", "read", "two")
    maker.op("Neg", "before", "read")
    maker.op("Neg", "of_a_copy", "again", "^add")
    runner = Runner(maker)
    runner.run([], targets=["init"])
    turn = 1
    for run in (runner.run, runner.by_dataflow) * 2:
        found = run(["after:0", "behind_a_constant:0", "before:0", "of_a_copy:0"])
        for value, expected in zip(found, (-turn - 1, 2 * turn + 2, -turn, -turn - 1)):
            np.testing.assert_array_equal(value, np.full(3, expected))
        turn += 1
    np.testing.assert_array_equal(runner.run("ones:0"), np.ones(3))


def test_reading_an_uninitialised_variable_names_who_reads():
    maker = GraphMaker()
    maker.op("VariableV2", "refv", shape=())
    maker.op("Identity", "read", "refv")
    runner = Runner(maker)
    for run in (runner.run, runner.by_dataflow):
        with pytest.raises(FailedPrecondition) as caught:
            run("refv:0")
        assert caught.value.message == "Attempting to use uninitialized value refv\n\t [[{{node _send_refv_0}}]]"
        with pytest.raises(FailedPrecondition) as caught:
            run("read:0")
        assert caught.value.message == "Attempting to use uninitialized value refv\n\t [[{{node read}}]]"


def test_a_fed_reference_is_a_value():
    maker = GraphMaker()
    maker.op("VariableV2", "v", shape=())
    maker.op("Neg", "neg", "v")
    assert Runner(maker).run("neg:0", {"v:0": np.float32(3)}) == -3


def test_a_feed_of_another_type_is_refused_in_tensorflows_words():
    maker = GraphMaker()
    maker.placeholder("scope/x")
    maker.op("Neg", "neg", "scope/x")
    runner = Runner(maker)
    for run in (runner.run, runner.by_dataflow):
        with pytest.raises(Internal) as caught:
            run("neg:0", {"scope/x:0": np.int32(3)})
        assert caught.value.message == (
            "Output 0 of type int32 does not match declared output type float for node {{node _recv_scope/x_0}}"
        )


def test_feeds_with_swapped_bytes_are_understood():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Neg", "neg", "x")
    runner = Runner(maker)
    np.testing.assert_array_equal(runner.run("neg:0", {"x:0": np.array([[1, 2]], ">f4")}), [[-1, -2]])
    assert runner.run("neg:0", {"x:0": np.array(1, ">f4")}).shape == ()


def test_feeds_are_never_changed():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Neg", "a", "x")
    maker.op("Exp", "b", "a")
    maker.op("Add", "c", "b", "x")
    runner = Runner(maker)
    x = np.ones(100, np.float32)
    step = runner.compile(["x:0"], ["c:0"])
    for _ in range(3):
        step.run(runner.context(), [x])
    np.testing.assert_array_equal(x, np.ones(100))


def test_handles_come_back_from_the_client_as_bytes():
    maker = GraphMaker()
    maker.call("VarHandleOp", "v", dtype=FLOAT, shape=(), shared_name="shared")
    maker.const("three", np.float32(3))
    maker.op("AssignVariableOp", "init", "v", "three", T=FLOAT)
    maker.op("Placeholder", "handle", T=RESOURCE)
    maker.op("ReadVariableOp", "read", "handle", T=FLOAT)
    runner = Runner(maker)
    runner.run([], targets=["init"])
    handle = runner.run("v:0")
    assert isinstance(handle.item(), ResourceHandle)
    sent = np.empty((), object)
    sent[()] = handle.item().to_wire()
    for value in (sent, handle):
        for run in (runner.run, runner.by_dataflow):
            assert run("read:0", {"handle:0": value}) == 3


def test_handles_that_are_not_ours_are_refused():
    maker = GraphMaker()
    maker.op("Placeholder", "handle", T=RESOURCE)
    maker.op("ReadVariableOp", "read", "handle", T=FLOAT)
    runner = Runner(maker)

    def read(data: object) -> None:
        value = np.empty((), object)
        value[()] = data
        runner.run("read:0", {"handle:0": value})

    elsewhere = ResourceHandle("/job:other/replica:0/task:0/device:CPU:0", "local", "v", "kind", None).to_wire()
    with pytest.raises(InvalidArgument, match="Trying to access resource v located in device /job:other"):
        read(elsewhere)
    here = ResourceHandle(runner.state.device.name, "local", "v", "kind", None).to_wire()
    with pytest.raises(NotFound, match="Resource local/v/kind does not exist"):
        read(here)
    for size in range(1, len(here)):
        with pytest.raises((InvalidArgument, NotFound)):
            read(here[:size])
    with pytest.raises(InvalidArgument, match="not int"):
        read(5)


def test_a_missing_kernel_is_named_when_the_step_is_compiled(monkeypatch):
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Neg", "scope/neg", "x")
    registry.load()
    monkeypatch.delitem(registry._KERNELS, "Neg")
    with pytest.raises(InvalidArgument, match=r"(?s)No OpKernel.*'Neg'.*\{\{node scope/neg\}\}"):
        Runner(maker).compile(["x:0"], ["scope/neg:0"])


def test_a_bind_error_names_its_node():
    maker = GraphMaker()
    maker.call("VariableV2", "v", dtype=FLOAT, shape=(), shared_name="_private")
    with pytest.raises(InvalidArgument, match=r"(?s)shared_name cannot start.*\{\{node v\}\}"):
        Runner(maker).compile([], ["v:0"])


def test_fetches_may_be_feeds_under_another_name_and_duplicates():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Neg", "neg", "x")
    runner = Runner(maker)
    for run in (runner.run, runner.by_dataflow):
        assert run(["x", "neg:0", "neg"], {"x:0": np.float32(2)}) == [2, -2, -2]


def test_targets_run_without_being_fetched():
    maker = GraphMaker()
    maker.op("VarHandleOp", "v", shape=())
    maker.const("three", np.float32(3))
    maker.op("AssignVariableOp", "init", "v", "three")
    maker.op("ReadVariableOp", "read", "v", "^init")
    runner = Runner(maker)
    assert runner.run([], targets=["init"]) == []
    assert runner.run("read:0") == 3


def test_constants_are_decoded_once_per_session(constants):
    runner = Runner(constants)
    first = runner.run("three:0")
    assert runner.run(["three:0", "two:0"])[0] is first


def test_a_step_runs_by_dataflow_only_where_it_must(constants):
    constants.placeholder("p", DataType.BOOL)
    constants.op("Switch", "switch", "ten", "p")
    constants.op("Merge", "either", "switch:1", "ten", N=2)
    runner = Runner(constants)
    compiled = runner.compile(["p:0"], ["either:0"])
    assert isinstance(compiled.executor, Dataflow)
    assert not compiled.blocking
    assert isinstance(runner.compile([], ["ten:0"]).executor, Program)
    assert isinstance(runner.compile(["p:0"], ["switch:1"]).executor, Program)


def test_compiled_steps_tell_their_types(constants):
    constants.placeholder("x")
    compiled = Runner(constants).compile(["x:0"], ["x", "ten:0"])
    assert compiled.feed_types == (FLOAT,)
    assert compiled.fetch_types == (FLOAT, FLOAT)


def test_runs_leave_nothing_behind(constants):
    constants.placeholder("x")
    constants.op("Mul", "y", "x", "ten")
    constants.op("VarHandleOp", "v", shape=(4,))
    constants.op("AssignVariableOp", "assign", "v", "y")
    constants.op("ReadVariableOp", "read", "v", "^assign")
    runner = Runner(constants)
    compiled = runner.compile(["x:0"], ["read:0", "ten:0"])
    x = np.float32([1, 2, 3, 4])
    ten = compiled.run(runner.context(), [x])[1]
    gc.collect()
    before = sys.getrefcount(x), sys.getrefcount(ten), len(gc.get_objects())
    for _ in range(10_000):
        compiled.run(runner.context(), [x])
    gc.collect()
    assert (sys.getrefcount(x), sys.getrefcount(ten)) == before[:2]
    assert len(gc.get_objects()) - before[2] < 50


def test_a_large_graph_compiles_in_time():
    """A bound far above what it takes, to notice a compiler that is no longer linear."""
    maker = GraphMaker()
    maker.placeholder("x")
    value = "x"
    for number in range(10_000):
        value = maker.op("Add", f"n{number}", value, "x")
    runner = Runner(maker)
    started = time.perf_counter()
    compiled = runner.compile(["x:0"], [f"{value}:0"])
    assert time.perf_counter() - started < 2
    assert compiled.run(runner.context(), [np.float32(1) * np.ones((), np.float32)]) == [10_001]


@pytest.mark.parametrize("by", ["run", "by_dataflow"])
def test_divisions_by_zero_are_silent(by):
    """Every warning is an error in these tests."""
    maker = GraphMaker()
    maker.placeholder("x")
    maker.const("zero", np.float32(0))
    maker.op("RealDiv", "folded", "zero", "zero")
    maker.op("RealDiv", "div", "x", "zero")
    maker.op("Add", "both", "div", "folded")
    runner = Runner(maker)
    before = np.geterr()
    assert np.isnan(getattr(runner, by)("both:0", {"x:0": np.float32(1)}))
    assert np.isinf(getattr(runner, by)("div:0", {"x:0": np.float32(1)}))
    assert np.geterr() == before
