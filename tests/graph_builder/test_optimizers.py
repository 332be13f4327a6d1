"""Optimizers: what they emit and compute, beside TensorFlow's own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.errors import InvalidArgument
from runtime.graph import optimizers
from tests import peers

W = [[1.0, -2.0], [0.5, 4.0]]
TABLE = [[1.0, 1.0], [2.0, -2.0], [3.0, 0.5], [-1.0, 2.0]]
ROWS = [1, 3, 1]
STEPS = 5
# Single precision, five steps.
TOLERANCE = 2e-6

PAIRS: dict[str, tuple[str, dict[str, Any], Any, dict[str, Any]]] = {
    "gradient descent": ("GradientDescentOptimizer", {"learning_rate": 0.1}, optimizers.SGD, {"learning_rate": 0.1}),
    "momentum": ("MomentumOptimizer", {"learning_rate": 0.1, "momentum": 0.9},
                 optimizers.Momentum, {"learning_rate": 0.1, "momentum": 0.9}),
    "nesterov": ("MomentumOptimizer", {"learning_rate": 0.1, "momentum": 0.9, "use_nesterov": True},
                 optimizers.Momentum, {"learning_rate": 0.1, "momentum": 0.9, "use_nesterov": True}),
    "adam": ("AdamOptimizer", {"learning_rate": 0.05}, optimizers.Adam, {"learning_rate": 0.05}),
    "adagrad": ("AdagradOptimizer", {"learning_rate": 0.1}, optimizers.Adagrad, {"learning_rate": 0.1}),
    "rmsprop": ("RMSPropOptimizer", {"learning_rate": 0.01, "decay": 0.8, "momentum": 0.5},
                optimizers.RMSProp, {"learning_rate": 0.01, "decay": 0.8, "momentum": 0.5}),
}


@pytest.fixture(scope="module")
def theirs() -> dict[str, dict[str, Any]]:
    cases = [{"class": kind, "arguments": arguments, "w": W, "table": TABLE, "rows": ROWS, "steps": STEPS}
             for kind, arguments, _, _ in PAIRS.values()]
    script = Path(__file__).with_name("peer_optimizers.py")
    done = subprocess.run([str(peers.peer_python()), str(script)], input=json.dumps(cases), capture_output=True,
                          env=peers.peer_environment(), text=True, timeout=peers.SCRIPT_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return dict(zip(PAIRS, map(json.loads, done.stdout.splitlines())))


def _problem() -> tuple[runtime.Graph, Any, Any, Any]:
    graph = runtime.Graph()
    w = graph.variable(W, name="w")
    table = graph.variable(TABLE, name="table")
    loss = graph.reduce_sum(graph.square(w)) + graph.reduce_sum(graph.square(table.gather(ROWS)))
    return graph, w, table, loss


@pytest.mark.parametrize("name", PAIRS)
def test_same_updates_slots_and_values_as_tensorflow(name: str, theirs: dict[str, dict[str, Any]]) -> None:
    _, _, kind, arguments = PAIRS[name]
    graph, w, table, loss = _problem()
    before = graph.version
    train = kind(**arguments).minimize(loss)
    made = graph.operations[before:]
    wanted = theirs[name]
    assert sorted(op.type for op in made if op.type.startswith("Resource") and "Apply" in op.type) == wanted["updates"]
    assert sorted(op.name for op in made if op.type == "VarHandleOp") == wanted["slots"]
    with runtime.Session(graph=graph) as session:
        session.run(graph.global_variables_initializer())
        for step, values in enumerate(wanted["values"]):
            assert session.run(train) is None
            for variable, value in zip((w, table), values):
                np.testing.assert_allclose(session.run(variable), value, rtol=TOLERANCE, atol=TOLERANCE,
                                           err_msg=f"{variable.name} after step {step}")


def test_adam_powers_are_assigned_after_all_updates() -> None:
    graph, _, _, loss = _problem()
    adam = optimizers.Adam(0.1)
    adam.minimize(loss)
    updates = {op.name for op in graph.operations if op.type == "ResourceApplyAdam"}
    assigns = [op for op in graph.operations if op.type == "AssignVariableOp" and op.name.startswith("Adam/Assign")]
    assert [op.name for op in assigns] == ["Adam/AssignVariableOp", "Adam/AssignVariableOp_1"]
    assert adam.powers is not None
    assert [op.inputs[0] for op in assigns] == [power.handle for power in adam.powers]
    reads = [op.inputs[1].op.inputs[0].op for op in assigns]
    for op in reads:
        assert updates <= {before.name for before in op.control_inputs}


def test_step_is_counted_after_the_update() -> None:
    graph, w, _, loss = _problem()
    count = graph.variable(np.int64(0), name="global_step", trainable=False)
    train = optimizers.SGD(0.1).minimize(loss, global_step=count)
    with runtime.Session(graph=graph) as session:
        session.run(graph.global_variables_initializer())
        session.run(train)
        session.run(train)
        assert session.run(count) == 2


def _computed_rate(graph: runtime.Graph) -> Any:
    return graph.constant(0.2) * 0.5


def test_rate_may_be_a_tensor_a_variable_or_a_function() -> None:
    for make in (lambda g: g.constant(0.1), lambda g: g.variable(0.1, name="rate", trainable=False),
                 lambda g: _computed_rate):
        graph, w, _, loss = _problem()
        train = optimizers.SGD(make(graph)).minimize(loss, [w])
        with runtime.Session(graph=graph) as session:
            session.run(graph.global_variables_initializer())
            session.run(train)
            np.testing.assert_allclose(session.run(w), 0.8 * np.array(W), rtol=1e-6)


def test_gradients_may_be_changed_between() -> None:
    graph, w, _, loss = _problem()
    sgd = optimizers.SGD(1.0)
    ((grad, variable),) = sgd.compute_gradients(loss, [w])
    train = sgd.apply_gradients([(graph.clip_by_value(grad, -1.0, 1.0), variable)])
    with runtime.Session(graph=graph) as session:
        session.run(graph.global_variables_initializer())
        session.run(train)
        np.testing.assert_array_equal(session.run(w), np.array(W) - np.sign(W))


def test_double_precision_variables() -> None:
    graph = runtime.Graph()
    w = graph.variable(np.array([1.0, 2.0]), name="w")
    train = optimizers.Adam(0.1).minimize(graph.reduce_sum(graph.square(w)))
    with runtime.Session(graph=graph) as session:
        session.run(graph.global_variables_initializer())
        session.run(train)
        value = session.run(w)
    assert value.dtype == np.float64
    np.testing.assert_allclose(value, [0.9, 1.9], rtol=1e-6)


def test_a_loss_without_variables_is_told() -> None:
    graph, w, _, _ = _problem()
    with pytest.raises(InvalidArgument, match=r"the loss depends on none of \['w', 'table'\]"):
        optimizers.SGD(0.1).minimize(graph.constant(1.0))
    with pytest.raises(InvalidArgument, match="there are no variables to optimize"):
        optimizers.SGD(0.1).minimize(runtime.Graph().constant(1.0))
