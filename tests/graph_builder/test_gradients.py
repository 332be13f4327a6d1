"""Gradients against finite differences in double precision, with static shapes known and unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import runtime
from runtime.errors import InvalidArgument, Unimplemented
from runtime.graph.gradient_rules import gradient, registered
from runtime.graph.indexed_slices import IndexedSlices, as_dense
from runtime.graph.tensor import Tensor
from tests.graph_builder.gradient_cases import CASES, SECOND_ORDER, STATIC_ONLY, Expression

# Central differences err by the square of the step times the third derivative, and by rounding over the step.
STEP = 1e-5
TOLERANCE = 1e-6

Arrays = list[np.ndarray[Any, Any]]


def _differences(session: runtime.Session, loss: Tensor, places: list[Tensor], values: Arrays) -> Arrays:
    """Return the derivatives of a scalar by every element fed, by central differences."""
    run = session.make_callable(loss, places)
    found = []
    for index, value in enumerate(values):
        result = np.zeros_like(value)
        for position in np.ndindex(value.shape):
            ends = []
            for sign in (1, -1):
                moved = [item.copy() for item in values]
                moved[index][position] += sign * STEP
                ends.append(run(*moved))
            result[position] = (ends[0] - ends[1]) / (2 * STEP)
        found.append(result)
    return found


def _weighted_sum(graph: runtime.Graph, y: Tensor) -> Tensor:
    """Return a scalar that weighs elements differently, so that mixed up elements show."""
    flat = graph.reshape(y, [-1])
    return graph.reduce_sum(flat * graph.cos(graph.cast(graph.range(0, graph.size(flat)), "float64")))


def _check(expression: Expression, values: Arrays, is_static: bool, second: bool = False) -> None:
    graph = runtime.Graph()
    places = [graph.placeholder("float64", value.shape if is_static else None) for value in values]
    loss = _weighted_sum(graph, expression(graph, *places))
    if second:
        first = [as_dense(grad) for grad in graph.gradients(loss, places) if grad is not None]
        loss = graph.add_n([_weighted_sum(graph, grad) for grad in first])
    grads = graph.gradients(loss, places)
    assert None not in grads
    for grad, value in zip(grads, values):
        if isinstance(grad, Tensor) and is_static:
            assert grad.shape is None or all(a in (None, b) for a, b in zip(grad.shape, value.shape))
    with runtime.Session(graph=graph) as session:
        found = session.run([as_dense(grad) for grad in grads if grad is not None], dict(zip(places, values)))
        expected = _differences(session, loss, places, values)
    for place, got, wanted in zip(places, found, expected):
        np.testing.assert_allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE, err_msg=place.name)


@pytest.mark.parametrize("is_static", [True, False], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_finite_difference(name: str, is_static: bool) -> None:
    _check(*CASES[name], is_static)


@pytest.mark.parametrize("name", STATIC_ONLY)
def test_gradient_with_known_rank(name: str) -> None:
    _check(*STATIC_ONLY[name], True)


@pytest.mark.parametrize("is_static", [True, False], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_derivative_equals_finite_difference(name: str, is_static: bool) -> None:
    _check(*SECOND_ORDER[name], is_static, second=True)


def test_every_path_counts() -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float64", [3])
    y = x * x + graph.exp(x) * x
    (grad,) = graph.gradients(y, x)
    value = np.array([0.5, -1.0, 2.0])
    with runtime.Session(graph=graph) as session:
        found = session.run(grad, {x: value})
    np.testing.assert_allclose(found, 2 * value + np.exp(value) * (1 + value), rtol=1e-12)


def test_a_source_between_gets_its_own_gradient() -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float64", [])
    middle = graph.square(x)
    by_x, by_middle = graph.gradients(middle * 3.0, [x, middle])
    with runtime.Session(graph=graph) as session:
        assert session.run([by_x, by_middle], {x: 5.0}) == [30.0, 3.0]


def test_unreachable_is_none() -> None:
    graph = runtime.Graph()
    x, other = graph.placeholder("float32", [2]), graph.placeholder("float32", [2])
    assert graph.gradients(graph.square(x), [other, graph.argmax(x)]) == [None, None]


def test_stopped_paths_do_not_count() -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float64", [])
    y = x * graph.stop_gradient(x)
    z = graph.square(x)
    (by_x,) = graph.gradients(y, x)
    with runtime.Session(graph=graph) as session:
        assert session.run(by_x, {x: 7.0}) == 7.0
    assert graph.gradients(z * 2.0, [x], stop_gradients=[z]) == [None]


def test_grad_ys_weigh_the_outputs() -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float64", [2])
    (grad,) = graph.gradients([x * 2.0, graph.square(x)], x, grad_ys=[[1.0, 10.0], None])
    with runtime.Session(graph=graph) as session:
        np.testing.assert_array_equal(session.run(grad, {x: [3.0, 4.0]}), [2.0 + 6.0, 20.0 + 8.0])


def test_all_reads_of_a_variable_count() -> None:
    graph = runtime.Graph()
    w = graph.variable([1.0, 2.0], name="w", dtype="float64")
    loss = graph.reduce_sum(graph.square(w)) + graph.reduce_sum(w * 3.0)
    (grad,) = graph.gradients(loss, w)
    with runtime.Session(graph=graph) as session:
        session.run(graph.global_variables_initializer())
        np.testing.assert_array_equal(session.run(grad), [5.0, 7.0])


def test_gathered_rows_give_slices() -> None:
    graph = runtime.Graph()
    table = graph.variable(np.ones((4, 2)), name="table")
    loss = graph.reduce_sum(table.gather([1, 3, 1]) * 2.0)
    (grad,) = graph.gradients(loss, table)
    assert isinstance(grad, IndexedSlices)
    with runtime.Session(graph=graph) as session:
        session.run(graph.global_variables_initializer())
        values, indices, shape = session.run(grad)
        dense = session.run(as_dense(grad))
    np.testing.assert_array_equal(values, np.full((3, 2), 2.0))
    np.testing.assert_array_equal(indices, [1, 3, 1])
    np.testing.assert_array_equal(shape, [4, 2])
    np.testing.assert_array_equal(dense, [[0, 0], [4, 4], [0, 0], [2, 2]])


def test_slices_and_tensors_add_up() -> None:
    graph = runtime.Graph()
    table = graph.variable(np.ones((3, 2)), name="table")
    loss = graph.reduce_sum(table.gather([1])) + graph.reduce_sum(table.gather(np.array([2], np.int64)))
    (both,) = graph.gradients(loss, table)
    (mixed,) = graph.gradients(loss + graph.reduce_sum(table), table)
    assert isinstance(both, IndexedSlices)
    assert isinstance(mixed, Tensor)
    with runtime.Session(graph=graph) as session:
        session.run(graph.global_variables_initializer())
        np.testing.assert_array_equal(session.run(as_dense(both)), [[0, 0], [1, 1], [1, 1]])
        np.testing.assert_array_equal(session.run(mixed), [[1, 1], [2, 2], [2, 2]])


def test_maximum_shares_between_equals() -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float64", [4])
    (grad,) = graph.gradients(graph.reduce_max(x), x)
    with runtime.Session(graph=graph) as session:
        np.testing.assert_array_equal(session.run(grad, {x: [1.0, 3.0, 3.0, 2.0]}), [0, 0.5, 0.5, 0])


def test_op_without_rule_is_named() -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [2, 2])
    y = graph.op("Qr", x, name="factors")[0]
    with pytest.raises(Unimplemented, match=r"No gradient defined for op Qr \(node 'factors'\)"):
        graph.gradients(y, x)


def test_op_without_rule_beside_the_path_does_not_matter() -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [2, 2])
    other = graph.op("Qr", graph.placeholder("float32", [2, 2]))[0]
    assert graph.gradients(x * other, x) != [None]


def test_integers_have_no_derivative() -> None:
    graph = runtime.Graph()
    x = graph.placeholder("int32", [2], name="x")
    with pytest.raises(InvalidArgument, match="'x:0' is int32; only floating and complex"):
        graph.gradients(x, x)


def test_number_of_grad_ys_must_agree() -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [2])
    with pytest.raises(InvalidArgument, match="1 ys but 2 grad_ys"):
        graph.gradients(x, x, grad_ys=[1.0, 2.0])


def test_a_rule_is_registered_once() -> None:
    assert "MatMul" in registered()
    with pytest.raises(ValueError, match="op MatMul has a gradient rule already"):
        gradient("MatMul")(lambda op, grads: [])


def test_prevented_gradient_tells_the_reason() -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [2])
    y = graph.op("PreventGradient", x, message="not differentiable twice", name="guard")
    with pytest.raises(InvalidArgument, match="node 'guard'.*not differentiable twice"):
        graph.gradients(y, x)
