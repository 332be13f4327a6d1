"""The straight-line executor by itself, with kernels made here."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

from runtime._ext.errors import Cancelled, FailedPrecondition, Internal, InvalidArgument, ResourceExhausted
from runtime._ext.executor import BoundKernel, Program, StepContext, StepTrace, name_error, run_while, truth
from runtime._ext.variable import Variable

F32 = np.dtype(np.float32).num
BOOL = np.dtype(bool).num
OBJECT = np.dtype(object).num


def kernel(name, call, num_inputs, output_types=(F32,), derefs=None, needs_step=False):
    return BoundKernel(None, name, call, None, num_inputs, output_types, derefs, needs_step)


def program(kernels, inputs, outputs, num_feeds=1, constants=(), fetches=(), names=None, num_values=None):
    made = [number for group in outputs for number in group]
    count = num_values if num_values is not None else max([num_feeds - 1, *made]) + 1
    return Program(
        kernels, inputs, outputs, count, constants, [F32] * num_feeds, fetches, names or [None] * len(fetches)
    )


@pytest.fixture
def step():
    return StepContext(7, None)


@pytest.fixture
def x():
    return np.array([1, 2, 3], np.float32)


def test_values_flow_from_feeds_and_constants_to_fetches(step, x):
    two = np.full(3, 2, np.float32)
    made = program(
        [kernel("add", np.add, 2), kernel("mul", np.multiply, 2)],
        [(0, -1), (1, 0)],
        [(1,), (2,)],
        constants=[two],
        fetches=[2, 1, 0, -1, 2],
    )
    outputs = made.run(step, [x])
    np.testing.assert_array_equal(outputs[0], (x + 2) * x)
    np.testing.assert_array_equal(outputs[1], x + 2)
    assert outputs[2] is x
    assert outputs[3] is two
    assert outputs[4] is outputs[0]


@pytest.mark.parametrize(
    ("inputs", "outputs", "fetches", "text"),
    [
        ([(1,), (0,)], [(2,), (1,)], [2], "takes value 1, which nothing before it makes"),
        ([(0,), (9,)], [(1,), (2,)], [2], "value 9 is outside"),
        ([(0,), (0,)], [(1,), (1,)], [1], "a second time"),
        ([(0,), (0,)], [(1,), (0,)], [1], "a second time, or out of range"),
        ([(0,), (-2,)], [(1,), (2,)], [1], "takes constant 1 of 1"),
        ([(0,), (0,)], [(1,), (2,)], [-2], "takes constant 1 of 1"),
        ([(0,), (0, 0)], [(1,), (2,)], [1], "wired"),
    ],
)
def test_wiring_that_cannot_run_is_refused(inputs, outputs, fetches, text):
    with pytest.raises(ValueError, match=text):
        program(
            [kernel("a", np.negative, 1), kernel("b", np.negative, 1)],
            inputs,
            outputs,
            constants=[np.zeros(())],
            fetches=fetches,
            num_values=3,
        )


def test_a_fetch_that_nothing_makes_is_refused():
    with pytest.raises(ValueError, match="fetch 0 takes value 2, which nothing makes"):
        program([kernel("a", np.negative, 1)], [(0,)], [(1,)], fetches=[2], num_values=3)


def test_the_number_of_feeds_must_be_right(step, x):
    made = program([], [], [], fetches=[0])
    with pytest.raises(ValueError, match="2 feeds given where the step has 1"):
        made.run(step, [x, x])


def test_feeds_of_another_type_go_through_the_adapter(step):
    seen = []

    def adapt(position, value):
        seen.append((position, value.dtype))
        return value.astype(np.float32)

    made = Program([], [], [], 1, [], [F32], [0], [None], adapt)
    assert made.run(step, [np.array([1], ">f4")])[0].dtype == np.float32
    assert made.run(step, [np.array([1], np.int32)])[0].dtype == np.float32
    assert seen == [(0, np.dtype(">f4")), (0, np.dtype(np.int32))]


@pytest.mark.parametrize(
    ("result", "types", "expected"),
    [
        (np.float32(4), (F32,), [4.0]),
        ([np.float32(4)], (F32,), [4.0]),
        ((np.array([1.0], np.float32), np.float32(2)), (F32, F32), [[1.0], 2.0]),
        (b"text", (OBJECT,), [b"text"]),
        (np.bool_(True), (BOOL,), [True]),
    ],
)
def test_results_of_every_allowed_form_become_arrays(step, x, result, types, expected):
    numbers = tuple(range(1, 1 + len(types)))
    made = program([kernel("k", lambda value: result, 1, types)], [(0,)], [numbers], fetches=numbers)
    outputs = made.run(step, [x])
    assert all(type(value) is np.ndarray for value in outputs)
    assert [value.tolist() for value in outputs] == expected


@pytest.mark.parametrize(
    ("result", "types", "text"),
    [
        (np.zeros(2), (F32,), "returned float64 for output 0, which is declared as float32"),
        (None, (F32,), "returned a NoneType"),
        (4.0, (F32,), "returned a float"),
        ([np.zeros(1, np.float32)], (F32, F32), "returned 1 outputs where the node has 2"),
        (np.zeros(2, np.float32), (F32, F32), "where a sequence of 2 outputs was due"),
    ],
)
def test_results_of_another_form_are_internal_errors(step, x, result, types, text):
    numbers = tuple(range(1, 1 + len(types)))
    made = program([kernel("scope/k", lambda value: result, 1, types)], [(0,)], [numbers], fetches=[0])
    with pytest.raises(Internal, match=text) as caught:
        made.run(step, [x])
    assert caught.value.message.endswith("\n\t [[{{node scope/k}}]]")


def test_a_node_without_outputs_may_return_anything(step, x):
    made = program([kernel("k", lambda value: "nothing", 1, ())], [(0,)], [()], fetches=[0])
    assert made.run(step, [x])[0] is x


def test_errors_keep_their_class_and_name_the_node_once(step, x):
    shared = InvalidArgument("bad value")

    def fail(value):
        raise shared

    made = program([kernel("n", fail, 1)], [(0,)], [(1,)], fetches=[1])
    for _ in range(2):
        with pytest.raises(InvalidArgument) as caught:
            made.run(step, [x])
        assert caught.value.message == "bad value\n\t [[{{node n}}]]"
        assert str(caught.value) == caught.value.message
    assert shared.message == "bad value"


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ValueError("v"), InvalidArgument),
        (MemoryError("m"), ResourceExhausted),
        (ZeroDivisionError("z"), Internal),
        (RecursionError("r"), ResourceExhausted),
    ],
)
def test_errors_from_elsewhere_become_ours(raised, kind):
    named = name_error(raised, "n")
    assert type(named) is kind
    assert named.__cause__ is raised
    assert named.message.endswith("[[{{node n}}]]")


def test_an_interrupt_stays_an_interrupt(step, x):
    def interrupt(value):
        raise KeyboardInterrupt

    made = program([kernel("n", interrupt, 1)], [(0,)], [(1,)], fetches=[1])
    with pytest.raises(KeyboardInterrupt):
        made.run(step, [x])


def test_references_are_read_when_their_consumer_runs(step):
    variable = Variable("v", "", 1)
    make = kernel("v", lambda: variable, 0, (-1,))

    def assign(ref):
        ref.value = np.array(5, np.float32)
        return ref

    made = program(
        [make, kernel("assign", assign, 1, (-1,)), kernel("neg", np.negative, 1, derefs=b"\1")],
        [(), (0,), (1,)],
        [(0,), (1,), (2,)],
        num_feeds=0,
        fetches=[2, 0],
        names=[None, "_send_v_0"],
    )
    before = sys.getrefcount(variable)
    assert [value.tolist() for value in made.run(step, [])] == [-5, 5]
    assert sys.getrefcount(variable) == before


def test_reading_an_uninitialised_reference_names_who_reads(step):
    variable = Variable("v", "", 1)
    make = kernel("v", lambda: variable, 0, (-1,))
    read = program(
        [make, kernel("neg", np.negative, 1, derefs=b"\1")], [(), (0,)], [(0,), (1,)], num_feeds=0, fetches=[1]
    )
    with pytest.raises(FailedPrecondition) as caught:
        read.run(step, [])
    assert caught.value.message == "Attempting to use uninitialized value v\n\t [[{{node neg}}]]"
    fetch = program([make], [()], [(0,)], num_feeds=0, fetches=[0], names=["_send_v_0"])
    with pytest.raises(FailedPrecondition) as caught:
        fetch.run(step, [])
    assert caught.value.message == "Attempting to use uninitialized value v\n\t [[{{node _send_v_0}}]]"


def test_values_die_at_their_last_use(step):
    alive = []

    class Array(np.ndarray):
        pass

    def make(value):
        made = np.zeros(3, np.float32).view(Array)
        alive.append(weakref.ref(made))
        return made

    seen = []

    def look(value):
        gc.collect()
        seen.append([ref() is not None for ref in alive])
        return value

    nodes = [kernel("a", make, 1), kernel("b", make, 1), kernel("c", look, 1), kernel("d", look, 1)]
    made = program(nodes, [(0,), (1,), (0,), (2,)], [(1,), (2,), (3,), (4,)], fetches=[4])
    outputs = made.run(step, [np.zeros(1, np.float32)])
    # a's array died with b, its only reader; b's is still to be read by d
    assert seen == [[False, True], [False, True]]
    assert outputs[0] is alive[1]()


def test_a_cancelled_step_ends_before_its_next_node_with_that_error(x):
    step = StepContext(1, None)
    ran = []

    def cancel(value):
        ran.append("first")
        step.cancel(Cancelled("stop"))
        return value

    made = program([kernel("a", cancel, 1), kernel("b", ran.append, 1)], [(0,), (1,)], [(1,), (2,)], fetches=[2])
    with pytest.raises(Cancelled) as caught:
        made.run(step, [x])
    assert caught.value.message == "stop"
    assert ran == ["first"]


def test_a_kernel_may_take_the_step(step, x):
    made = program(
        [kernel("k", lambda running, value: value * running.step_id, 1, needs_step=True)], [(0,)], [(1,)], fetches=[1]
    )
    np.testing.assert_array_equal(made.run(step, [x])[0], x * 7)


def test_a_trace_tells_of_every_node(x):
    trace = StepTrace()
    made = program(
        [kernel("a", np.negative, 1), kernel("b", lambda value: None, 1, ())], [(0,), (1,)], [(1,), ()], fetches=[1]
    )
    made.run(StepContext(1, None, trace), [x])
    path, _, scheduled, started, ended, thread, outputs = trace.events[0]
    assert path == ""
    assert scheduled <= started <= ended
    assert thread == threading.get_ident()
    ((dtype, shape, nbytes, address, owns),) = outputs
    assert (dtype, shape, nbytes, owns) == (np.float32, (3,), 12, True)
    assert address
    assert trace.events[1][6] == []


def test_one_program_runs_in_several_threads_at_once(x):
    barrier = threading.Barrier(4, timeout=20)

    def meet(value):
        barrier.wait()
        return value + 1

    made = program(
        [kernel("meet", meet, 1), kernel("double", lambda v: v * 2, 1)], [(0,), (1,)], [(1,), (2,)], fetches=[2]
    )
    results = {}

    def run(number):
        results[number] = made.run(StepContext(number, None), [x * number])[0]

    threads = [threading.Thread(target=run, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for number in range(4):
        np.testing.assert_array_equal(results[number], (x * number + 1) * 2)


def test_a_program_may_run_inside_its_own_kernel(step, x):
    def again(running, value):
        return made.run(running, [value - 1])[0] if value[0] > 0 else value

    made = program(
        [kernel("again", again, 1, needs_step=True), kernel("neg", np.negative, 1)],
        [(0,), (1,)],
        [(1,), (2,)],
        fetches=[2],
    )
    np.testing.assert_array_equal(made.run(step, [x]), [[0, 1, 2]])


def test_loops_hand_their_values_on(step):
    ten = np.array(10, np.float32)
    one = np.array(1, np.float32)
    condition = program(
        [kernel("less", np.less, 2, (BOOL,))], [(0, -1)], [(2,)], num_feeds=2, constants=[ten], fetches=[2]
    )
    body = program(
        [kernel("add", np.add, 2), kernel("sum", np.add, 2)],
        [(0, -1), (1, 2)],
        [(2,), (3,)],
        num_feeds=2,
        constants=[one],
        fetches=[2, 3],
    )
    start = np.array(0, np.float32)
    before = sys.getrefcount(start)
    assert [value.tolist() for value in run_while(condition, body, step, [start, start])] == [10, 55]
    assert start == 0
    assert sys.getrefcount(start) == before


def test_a_failing_loop_body_releases_the_values(step):
    condition = program([], [], [], constants=[np.array(True)], fetches=[-1])
    held = []

    def fail(value):
        held.append(sys.getrefcount(value))
        raise ValueError("no")

    body = program([kernel("fail", fail, 1)], [(0,)], [(1,)], fetches=[1])
    start = np.array(0, np.float32)
    before = sys.getrefcount(start)
    with pytest.raises(InvalidArgument):
        run_while(condition, body, step, [start])
    assert held
    gc.collect()
    assert sys.getrefcount(start) == before


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array(True), True),
        (np.array(False), False),
        (np.array(-2), True),
        (np.array(0.0), False),
        (np.array(b"", dtype=object), False),
        (np.array(b"a", dtype=object), True),
        (np.zeros(1), True),
        (np.zeros((0, 3)), False),
        (np.array(np.nan), True),
    ],
)
def test_truth(value, expected):
    assert truth(value) is expected


def test_ten_thousand_runs_leave_nothing_behind(x):
    variable = Variable("v", "", 1)
    variable.value = np.ones(3, np.float32)
    constant = np.ones(3, np.float32)

    def sometimes(value):
        if value[0] > 1:
            raise ValueError("large")
        return [value, value]

    made = program(
        [
            kernel("v", lambda: variable, 0, (-1,)),
            kernel("add", np.add, 2, derefs=b"\0\1"),
            kernel("pair", sometimes, 1, (F32, F32)),
            kernel("mul", np.multiply, 2),
        ],
        [(), (0, 1), (0,), (3, -1)],
        [(1,), (2,), (3, 4), (5,)],
        constants=[constant],
        fetches=[5, 2, 1],
        names=[None, None, "_send_v_0"],
    )
    good, bad = np.zeros(3, np.float32), np.full(3, 2, np.float32)
    made.run(StepContext(1, None), [good])
    objects = (good, bad, constant, variable, variable.value)
    gc.collect()
    before = [sys.getrefcount(item) for item in objects], len(gc.get_objects())
    for _ in range(5000):
        made.run(StepContext(1, None), [good])
        with pytest.raises(InvalidArgument):
            made.run(StepContext(1, None), [bad])
    gc.collect()
    assert [sys.getrefcount(item) for item in objects] == before[0]
    assert len(gc.get_objects()) - before[1] < 50
