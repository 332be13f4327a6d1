"""The dataflow executor by itself: kernels that wait, the first error, cancelling, partial runs."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np
import pytest

from runtime._ext import dataflow_plan as kinds
from runtime._ext.errors import Aborted, Cancelled, Internal, InvalidArgument
from runtime._ext.executor import BoundKernel, Dataflow, DeadFetch, StepContext, StepTrace

F32 = np.dtype(np.float32).num


def kernel(name, call, num_inputs, num_outputs=1, needs_step=False):
    return BoundKernel(None, name, call, None, num_inputs, (F32,) * num_outputs, None, needs_step)


class Plan:
    """Collects nodes; values are handles returned by `add`."""

    def __init__(self, num_feeds=0):
        self.num_feeds = num_feeds
        self.kinds = [kinds.FEED] * num_feeds
        self.kernels = [None] * num_feeds
        self.inputs = [()] * num_feeds
        self.controls = [()] * num_feeds
        self.first = list(range(num_feeds))
        self.num_values = num_feeds

    def add(self, kind, bound, inputs=(), num_outputs=1, controls=()):
        """Add a node; return the number of its first value. Controls are node numbers."""
        self.kinds.append(kind)
        self.kernels.append(bound)
        self.inputs.append(tuple(inputs))
        self.controls.append(tuple(controls))
        self.first.append(self.num_values)
        self.num_values += num_outputs
        return self.num_values - num_outputs

    def run(self, name, call, inputs=(), controls=(), **options):
        return self.add(
            kinds.KERNEL, kernel(name, call, len(inputs), **options), inputs, options.get("num_outputs", 1), controls
        )

    def wait(self, name, call, inputs=(), controls=()):
        return self.add(kinds.ASYNC, kernel(name, call, len(inputs)), inputs, 1, controls)

    def flow(self, *fetches, constants=()):
        return Dataflow(
            self.kinds,
            self.kernels,
            self.inputs,
            self.controls,
            self.first,
            self.num_values,
            [0] * len(self.kinds),
            [-1],
            [],
            constants,
            [F32] * self.num_feeds,
            fetches,
            [None] * len(fetches),
        )


class Gate:
    """An asynchronous kernel that completes when it is told to, or when its step is cancelled."""

    def __init__(self):
        self.calls = []
        self.started = threading.Event()

    def __call__(self, step, done, *inputs):
        call = {"done": done, "inputs": inputs, "open": True}

        def cancelled():
            self.finish(call, None, Cancelled("the gate was cancelled"))

        self.calls.append(call)
        call["token"] = step.on_cancel(cancelled)
        self.started.set()

    def finish(self, call, result, error):
        if call.pop("open", False):
            call.pop("done")(result, error)

    def open(self, value, index=0):
        self.finish(self.calls[index], np.float32(value), None)

    def fail(self, error, index=0):
        self.finish(self.calls[index], None, error)


class Outcome:
    def __init__(self):
        self.answers = []
        self.event = threading.Event()

    def __call__(self, outputs, error):
        self.answers.append((outputs, error))
        self.event.set()

    @property
    def value(self):
        (answer,) = self.answers
        if answer[1] is not None:
            raise answer[1]
        return answer[0]


@pytest.fixture
def step():
    return StepContext(3, None)


def test_a_waiting_kernel_holds_no_thread_and_completes_from_another(step):
    gate = Gate()
    plan = Plan(1)
    waited = plan.wait("gate", gate, [0])
    flow = plan.flow(plan.run("add", np.add, [waited, 0]))
    outcome = Outcome()
    flow.start(step, [_value(1)], outcome)
    assert not outcome.answers
    thread = threading.Thread(target=gate.open, args=[5])
    thread.start()
    thread.join(10)
    assert outcome.value == [6]
    assert [value.item() for value in gate.calls[0]["inputs"]] == [1]


def test_a_kernel_may_complete_before_it_returns(step):
    def at_once(running, done, value):
        assert running is step
        done(value + 1, None)

    plan = Plan(1)
    value = 0
    for number in range(3000):  # far more than the interpreter's stack would hold
        value = plan.wait(f"n{number}", at_once, [value])
    outcome = Outcome()
    plan.flow(value).start(step, [np.zeros((), np.float32)], outcome)
    assert outcome.value == [3000]


def test_the_rest_of_a_step_is_handed_over():
    handed = []
    step = StepContext(1, None, hand_over=handed.append)
    gate = Gate()
    plan = Plan()
    flow = plan.flow(plan.run("neg", np.negative, [plan.wait("gate", gate)]))
    outcome = Outcome()
    flow.start(step, [], outcome)
    gate.open(2)
    assert not outcome.answers
    (rest,) = handed
    rest()
    assert outcome.value == [-2]


def test_a_step_ends_although_it_cannot_be_handed_over(caplog):
    def refuse(work):
        raise RuntimeError("the pool is closed")

    gate = Gate()
    plan = Plan()
    outcome = Outcome()
    plan.flow(plan.wait("gate", gate)).start(StepContext(1, None, hand_over=refuse), [], outcome)
    gate.open(2)
    assert outcome.value == [2]
    assert "could not be handed" in caplog.text


def test_the_first_error_wins_and_wakes_the_others(step):
    first, second = Gate(), Gate()
    ran = []
    plan = Plan()
    one = plan.wait("first", first)
    two = plan.wait("scope/second", second)
    outcome = Outcome()
    plan.flow(plan.run("after", lambda a, b: ran.append(1), [one, two])).start(step, [], outcome)
    second.fail(Aborted("it broke"))
    with pytest.raises(Aborted) as caught:
        outcome.value  # noqa: B018
    assert caught.value.message == "it broke\n\t [[{{node scope/second}}]]"
    assert not ran
    assert "open" not in first.calls[0]


def test_done_is_called_after_every_kernel_has_returned(step):
    """A kernel that does not listen to cancellation keeps the step alive until it completes."""
    deaf = []
    plan = Plan()
    waited = plan.wait("deaf", lambda running, done: deaf.append(done))
    outcome = Outcome()
    plan.flow(waited, plan.run("fail", lambda: 1 / 0, [])).start(step, [], outcome)
    assert step.cancelled
    assert not outcome.answers
    deaf[0](np.float32(1), None)
    with pytest.raises(Internal, match="ZeroDivisionError"):
        outcome.value  # noqa: B018


def test_cancelling_ends_a_waiting_step_with_that_error(step):
    plan = Plan()
    outcome = Outcome()
    plan.flow(plan.wait("gate", Gate())).start(step, [], outcome)
    step.cancel(Cancelled("the client left"))
    with pytest.raises(Cancelled) as caught:
        outcome.value  # noqa: B018
    assert caught.value.message == "the client left"


def test_cancelling_from_a_thread_races_with_completing():
    """Whatever comes first, there is exactly one answer."""
    for turn in range(300):
        step = StepContext(turn, None)
        gate = Gate()
        plan = Plan()
        outcome = Outcome()
        plan.flow(plan.run("neg", np.negative, [plan.wait("gate", gate)])).start(step, [], outcome)
        threads = [
            threading.Thread(target=step.cancel, args=[Cancelled("late")]),
            threading.Thread(target=gate.open, args=[1]),
        ]
        for thread in threads[:: 1 if turn % 2 else -1]:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert outcome.event.wait(10)
        assert len(outcome.answers) == 1


def test_a_step_that_is_cancelled_before_it_starts_runs_nothing(step):
    step.cancel(Cancelled("never"))
    ran = []
    plan = Plan()
    outcome = Outcome()
    plan.flow(plan.run("a", lambda: ran.append(1))).start(step, [], outcome)
    with pytest.raises(Cancelled, match="never"):
        outcome.value  # noqa: B018
    assert not ran


def test_completing_twice_is_refused_and_changes_nothing(step):
    dones = []
    plan = Plan()
    outcome = Outcome()
    plan.flow(plan.wait("k", lambda running, done: dones.append(done))).start(step, [], outcome)
    dones[0](np.float32(1), None)
    with pytest.raises(RuntimeError, match="second time"):
        dones[0](np.float32(2), None)
    assert outcome.value == [1]


@pytest.mark.parametrize("after", [False, True])
def test_an_asynchronous_kernel_that_raises_fails_the_step_unless_it_completed(step, after, caplog):
    def call(running, done):
        if after:
            done(np.float32(4), None)
        raise ValueError("in start")

    plan = Plan()
    outcome = Outcome()
    plan.flow(plan.wait("k", call)).start(step, [], outcome)
    if after:
        assert outcome.value == [4]
        assert "raised after it had completed" in caplog.text
    else:
        with pytest.raises(InvalidArgument, match=r"(?s)in start.*\{\{node k\}\}"):
            outcome.value  # noqa: B018


def test_a_wrong_result_of_an_asynchronous_kernel_names_it(step):
    plan = Plan()
    outcome = Outcome()
    plan.flow(plan.wait("k", lambda running, done: done(np.float64(1), None))).start(step, [], outcome)
    with pytest.raises(Internal, match=r"(?s)float64.*\{\{node k\}\}"):
        outcome.value  # noqa: B018


def test_a_callback_that_raises_is_logged(step, caplog):
    plan = Plan()

    def done(outputs, error):
        raise ValueError("callback")

    plan.flow(plan.run("a", lambda: np.float32(1))).start(step, [], done)
    assert "the callback of a step failed" in caplog.text


def test_run_refuses_a_step_that_waits(step):
    plan = Plan()
    with pytest.raises(Internal, match="waits for something"):
        plan.flow(plan.wait("gate", Gate())).run(step, [])


def test_control_edges_order_nodes(step):
    order = []
    plan = Plan()
    plan.run("c", lambda: order.append("c"), num_outputs=0, controls=[1])
    plan.run("b", lambda: order.append("b"), num_outputs=0, controls=[2])
    plan.run("a", lambda: order.append("a"), num_outputs=0)
    plan.flow().run(step, [])
    assert order == ["a", "b", "c"]


def test_a_node_that_waits_for_itself_never_becomes_ready(step):
    plan = Plan()
    value = plan.run("a", np.negative, [0], controls=[0])
    with pytest.raises(Internal, match="fetch 0 has no value"):
        plan.flow(value).run(step, [])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kinds": [kinds.KERNEL, 77]}, "kind 77"),
        ({"frames": [0, 4]}, "frame 4"),
        ({"inputs": [(), (9,)]}, "takes value 9, which nothing makes"),
        ({"inputs": [(), (-1,)]}, "takes value -1, which nothing makes"),
        ({"controls": [(), (5,)]}, "waits for node 5 of 2"),
        ({"first": [0, 0]}, "a second time"),
        ({"parents": [0]}, "parents come first"),
        ({"fetches": [3]}, "value 3 is fetched and nothing makes it"),
        ({"kinds": [kinds.KERNEL, kinds.ENTER]}, "leads nowhere"),
        ({"frames": [0, 1], "parents": [-1, 0], "inputs": [(), ()], "second": 0}, "so nothing starts it"),
    ],
)
def test_plans_that_cannot_run_are_refused(change, text):
    plan = {
        "kinds": [kinds.KERNEL, kinds.KERNEL],
        "inputs": [(), (0,)],
        "controls": [(), ()],
        "first": [0, 1],
        "frames": [0, 0],
        "parents": [-1],
        "fetches": [1],
        "second": 1,
    } | change
    bound = [kernel("a", lambda: 0, 0), kernel("b", np.negative, plan["second"])]
    with pytest.raises(ValueError, match=text):
        Dataflow(
            plan["kinds"],
            bound,
            plan["inputs"],
            plan["controls"],
            plan["first"],
            2,
            plan["frames"],
            plan["parents"],
            [],
            [],
            [],
            plan["fetches"],
            [None],
        )


def test_a_trace_tells_of_waiting_kernels_too():
    trace = StepTrace()
    step = StepContext(1, None, trace)
    gate = Gate()
    plan = Plan()
    outcome = Outcome()
    plan.flow(plan.run("neg", np.negative, [plan.wait("gate", gate)])).start(step, [], outcome)
    gate.open(1)
    assert outcome.value == [-1]
    assert len(trace.events) == 2
    assert all(start <= end for _, _, _, start, end, _, _ in trace.events)


# Partial runs.


@pytest.fixture
def partial():
    """fetches: a + 1, a * b, b, over feeds a and b."""
    plan = Plan(2)
    one = np.ones((), np.float32)
    return plan.flow(plan.run("inc", np.add, [0, -1]), plan.run("mul", np.multiply, [0, 1]), 1, constants=[one])


def _value(number):
    return np.full((), number, np.float32)


def test_fetches_are_answered_as_their_feeds_come(partial, step):
    run = partial.begin(step)
    inc, mul, rest, end = Outcome(), Outcome(), Outcome(), Outcome()
    run.fetch([1], mul)
    run.feed(0, _value(3))
    run.fetch([0], inc)
    assert inc.value == [4]
    assert not mul.answers
    run.feed(1, _value(5))
    run.fetch([2], rest)
    assert mul.value == [15]
    assert rest.value == [5]
    run.finish(end)
    assert end.answers == [(None, None)]
    again = Outcome()
    run.fetch([0, 1], again)
    assert again.value == [4, 15]


def test_a_feed_is_taken_once_and_checked(partial, step):
    run = partial.begin(step)
    run.feed(0, _value(3))
    with pytest.raises(ValueError, match="feed 0 has been given already"):
        run.feed(0, _value(3))
    with pytest.raises(ValueError, match="there is no feed 2"):
        run.feed(2, _value(3))
    with pytest.raises(ValueError, match="there is no fetch 3"):
        run.fetch([3], Outcome())
    with pytest.raises(TypeError):
        run.feed(1, np.zeros(1))


def test_the_end_waits_for_everything(partial, step):
    run = partial.begin(step)
    end = Outcome()
    run.feed(0, _value(3))
    run.finish(end)
    assert not end.answers
    run.feed(1, _value(3))
    last = Outcome()
    run.fetch([1], last)
    assert last.value == [9]
    assert end.answers == [(None, None)]


def test_an_error_ends_every_call_of_a_partial_run(step):
    plan = Plan(2)
    flow = plan.flow(plan.run("bad", lambda value: 1 / 0, [0]), plan.run("neg", np.negative, [1]))
    run = flow.begin(step)
    waiting, failing, later = Outcome(), Outcome(), Outcome()
    run.fetch([1], waiting)
    run.feed(0, _value(1))
    run.fetch([0], failing)
    run.fetch([1], later)
    for outcome in (waiting, failing, later):
        with pytest.raises(Internal, match="ZeroDivisionError"):
            outcome.value  # noqa: B018


def test_cancelling_ends_a_partial_run_that_has_nothing_to_do(partial, step):
    run = partial.begin(step)
    outcome = Outcome()
    run.fetch([0], outcome)
    step.cancel(Cancelled("session closed"))
    with pytest.raises(Cancelled, match="session closed"):
        outcome.value  # noqa: B018


def test_a_dead_fetch_of_a_partial_run_fails_that_call_only(step):
    plan = Plan(1)
    yes = np.array(True)
    switched = plan.add(kinds.SWITCH, kernel("switch", None, 2, 2), [0, -1], 2)
    run = plan.flow(switched, switched + 1, constants=[yes]).begin(step)
    dead, live = Outcome(), Outcome()
    run.feed(0, _value(2))
    run.fetch([0], dead)
    run.fetch([1], live)
    with pytest.raises(DeadFetch) as caught:
        dead.value  # noqa: B018
    assert caught.value.index == 0
    assert live.value == [2]


def test_ten_thousand_runs_leave_nothing_behind():
    def at_once(running, done, value):
        done(value, None) if value < 1 else done(None, InvalidArgument("large"))

    plan = Plan(1)
    constant = np.ones((), np.float32)
    waited = plan.wait("wait", at_once, [0])
    flow = plan.flow(plan.run("add", np.add, [waited, -1]), 0, -1, constants=[constant])
    good, bad = _value(0), _value(2)
    flow.start(StepContext(1, None), [good], lambda outputs, error: None)
    gc.collect()
    before = [sys.getrefcount(item) for item in (good, bad, constant)], len(gc.get_objects())
    answers = []
    for _ in range(5000):
        flow.start(StepContext(1, None), [good], lambda outputs, error: answers.append(outputs is None))
        flow.start(StepContext(1, None), [bad], lambda outputs, error: answers.append(outputs is None))
    assert answers == [False, True] * 5000
    gc.collect()
    assert [sys.getrefcount(item) for item in (good, bad, constant)] == before[0]
    assert len(gc.get_objects()) - before[1] < 50


def test_a_run_that_is_given_up_releases_what_it_holds(partial):
    value = _value(3)
    before = sys.getrefcount(value)
    step = StepContext(1, None)
    run = partial.begin(step)
    run.feed(0, value)
    outcome = Outcome()
    run.fetch([0], outcome)
    assert outcome.value == [4]
    step.close()
    del run, step, outcome
    gc.collect()
    assert sys.getrefcount(value) == before
