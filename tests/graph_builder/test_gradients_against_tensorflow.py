"""Gradients against TensorFlow's own: its rules on our forward graph, and our gradient nodes run by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.graph.indexed_slices import as_dense
from runtime.graph.tensor import Tensor
from runtime.graph.variables import Variable
from tests import peers
from tests.graph_builder.gradient_cases import CASES, PEER_ONLY, STATIC_ONLY

# Double precision: both sides order their sums differently, no more.
TOLERANCE = 1e-9
SINGLE_TOLERANCE = 2e-5
RNG_SEED = 11

Feeds = dict[Tensor, np.ndarray[Any, Any]]


class Case:
    """A graph, a scalar of it, and the inputs to differentiate by."""

    def __init__(self, graph: runtime.Graph, loss: Tensor, inputs: list[Any], feeds: Feeds, tolerance: float) -> None:
        self.graph = graph
        self.feeds = feeds
        self.tolerance = tolerance
        self.loss = loss
        self.inputs = [item.handle if isinstance(item, Variable) else item for item in inputs]
        self.initializer = graph.global_variables_initializer() if graph.variables else None
        self.forward = graph.as_graph_def()
        self.gradients = [as_dense(grad) for grad in graph.gradients(loss, inputs) if grad is not None]

    def write(self, folder: Path, number: int) -> dict[str, Any]:
        (folder / f"{number}.forward.pb").write_bytes(self.forward.SerializeToString())
        (folder / f"{number}.full.pb").write_bytes(self.graph.as_graph_def().SerializeToString())
        names = {f"feed_{i}": place.name for i, place in enumerate(self.feeds)}
        np.savez(folder / f"{number}.feeds.npz", **dict(zip(names, self.feeds.values())))
        return {"loss": self.loss.name, "inputs": [item.name for item in self.inputs], "feeds": names,
                "gradients": [grad.name for grad in self.gradients],
                "initializer": self.initializer.name if self.initializer else None}


def _expression(name: str) -> Case:
    expression, values = {**CASES, **STATIC_ONLY, **PEER_ONLY}[name]
    graph = runtime.Graph()
    places = [graph.placeholder("float64", value.shape) for value in values]
    loss = graph.reduce_sum(graph.sin(graph.reshape(expression(graph, *places), [-1])))
    return Case(graph, loss, list(places), dict(zip(places, values)), TOLERANCE)


def _perceptron(name: str) -> Case:
    rng = np.random.default_rng(RNG_SEED)
    graph = runtime.Graph()
    x, labels = graph.placeholder("float32", [None, 12]), graph.placeholder("int64", [None])
    w1 = graph.variable(rng.normal(size=(12, 9)).astype(np.float32), name="w1")
    b1 = graph.variable(np.zeros(9, np.float32), name="b1")
    w2 = graph.variable(rng.normal(size=(9, 4)).astype(np.float32), name="w2")
    hidden = graph.relu(graph.bias_add(x @ w1, b1))
    loss = graph.reduce_mean(graph.sparse_softmax_cross_entropy(labels, hidden @ w2)) + 0.01 * graph.l2_loss(w1)
    feeds = {x: rng.normal(size=(7, 12)).astype(np.float32), labels: rng.integers(0, 4, 7)}
    return Case(graph, loss, [w1, b1, w2, x], feeds, SINGLE_TOLERANCE)


def _convolutional(name: str) -> Case:
    rng = np.random.default_rng(RNG_SEED)
    graph = runtime.Graph()
    images, labels = graph.placeholder("float32", [None, 8, 8, 1]), graph.placeholder("float32", [None, 3])
    filters = graph.variable(rng.normal(size=(3, 3, 1, 4)).astype(np.float32), name="filters")
    bias = graph.variable(np.full(4, 0.1, np.float32), name="bias")
    scale = graph.variable(np.ones(4, np.float32), name="scale")
    offset = graph.variable(np.zeros(4, np.float32), name="offset")
    value = graph.bias_add(graph.conv2d(images, filters), bias)
    value, _, _ = graph.batch_norm(value, scale, offset)
    value = graph.max_pool(graph.relu(value), 2, 2)
    value = graph.avg_pool(value, 2, 2)
    weights = graph.variable(rng.normal(size=(16, 3)).astype(np.float32), name="weights")
    logits = graph.matmul(graph.reshape(value, [-1, 16]), weights)
    loss = graph.reduce_mean(graph.softmax_cross_entropy(labels, logits))
    feeds = {images: rng.normal(size=(5, 8, 8, 1)).astype(np.float32),
             labels: rng.dirichlet([1.0, 1.0, 1.0], 5).astype(np.float32)}
    return Case(graph, loss, [filters, bias, scale, offset, weights, images], feeds, SINGLE_TOLERANCE)


def _frozen_batch_norm(name: str) -> Case:
    rng = np.random.default_rng(RNG_SEED)
    graph = runtime.Graph()
    x = graph.placeholder("float32", [2, 3, 3, 2])
    scale, offset = graph.placeholder("float32", [2]), graph.placeholder("float32", [2])
    y, _, _ = graph.batch_norm(x, scale, offset, np.array([0.1, -0.2], np.float32), np.array([1.5, 0.7], np.float32),
                               is_training=False)
    feeds = {x: rng.normal(size=(2, 3, 3, 2)).astype(np.float32), scale: np.array([1.2, 0.8], np.float32),
             offset: np.array([0.1, 0.2], np.float32)}
    return Case(graph, graph.reduce_sum(graph.sin(y)), [x, scale, offset], feeds, SINGLE_TOLERANCE)


def _embedding(name: str) -> Case:
    rng = np.random.default_rng(RNG_SEED)
    graph = runtime.Graph()
    table = graph.variable(rng.normal(size=(6, 3)).astype(np.float32), name="table")
    ids = graph.placeholder("int64", [None, 2])
    loss = graph.reduce_sum(graph.square(graph.reduce_mean(table.gather(ids), axis=1)))
    return Case(graph, loss, [table], {ids: np.array([[0, 5], [5, 2]])}, SINGLE_TOLERANCE)


def _local_response(name: str) -> Case:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [1, 2, 2, 6])
    y = graph.op("LRN", x, depth_radius=2, alpha=0.5)
    value = np.random.default_rng(RNG_SEED).normal(size=(1, 2, 2, 6)).astype(np.float32)
    return Case(graph, graph.reduce_sum(graph.sin(y)), [x], {x: value}, SINGLE_TOLERANCE)


MODELS: dict[str, Callable[[str], Case]] = {
    "perceptron": _perceptron, "convolutional network": _convolutional, "frozen batch norm": _frozen_batch_norm,
    "embedding": _embedding, "local response normalisation": _local_response,
}
# TensorFlow has no rule for it.
OURS_ALONE = {"Snapshot"}
EXPRESSIONS = [name for name in (*CASES, *STATIC_ONLY, *PEER_ONLY) if name not in OURS_ALONE]
MAKERS: dict[str, Callable[[str], Case]] = {**dict.fromkeys(EXPRESSIONS, _expression), **MODELS}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Case, dict[str, np.ndarray[Any, Any]]]]:
    """Every case with TensorFlow's answers, from one process."""
    folder = tmp_path_factory.mktemp("gradients")
    cases = {name: make(name) for name, make in MAKERS.items()}
    described = [case.write(folder, number) for number, case in enumerate(cases.values())]
    (folder / "cases.json").write_text(json.dumps(described))
    peers.run_peer(Path(__file__).with_name("peer_gradients.py"), str(folder))
    found = {}
    for number, (name, case) in enumerate(cases.items()):
        with np.load(folder / f"{number}.answers.npz") as file:
            found[name] = case, dict(file)
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_gradient_nodes_give_what_tensorflow_derives(name: str, answers: dict[str, Any]) -> None:
    case, found = answers[name]
    assert "error" not in found, found["error"]
    assert len(case.gradients) == len(case.inputs)
    for index, item in enumerate(case.inputs):
        np.testing.assert_allclose(found[f"ours_{index}"], found[f"theirs_{index}"], rtol=case.tolerance,
                                   atol=case.tolerance, err_msg=item.name)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_computed_here_equal_tensorflows(name: str, answers: dict[str, Any]) -> None:
    case, found = answers[name]
    with runtime.Session(graph=case.graph) as session:
        if case.initializer is not None:
            session.run(case.initializer)
        computed = session.run(case.gradients, case.feeds)
    for index, value in enumerate(computed):
        np.testing.assert_allclose(value, found[f"theirs_{index}"], rtol=case.tolerance, atol=case.tolerance,
                                   err_msg=case.inputs[index].name)
