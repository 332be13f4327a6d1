"""Dual coordinate ascent over examples that share features: its passes end at the best weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import runtime


def train(loss: str, features: np.ndarray, labels: np.ndarray, passes: int, l2: float,
          **settings: Any) -> tuple[Any, Any]:
    """Return the weights, and the state of the examples, after so many passes."""
    number, size = features.shape
    graph = runtime.Graph()
    state_in = graph.placeholder("float32", [number, 4], name="state")
    weights_in = graph.placeholder("float32", [size], name="weights")
    state_out, _, moved = graph.op(
        "SdcaOptimizer", [], [], [], [graph.constant(features)], graph.constant(np.ones(number, np.float32)),
        graph.constant(labels), [], [], [weights_in], state_in, loss_type=loss, l1=0.0, l2=l2, num_loss_partitions=1,
        num_inner_iterations=1, num_sparse_features=0, num_sparse_features_with_values=0, num_dense_features=1,
        **settings)
    state, weights = np.zeros((number, 4), np.float32), np.zeros(size, np.float32)
    with runtime.Session(graph=graph) as session:
        for _ in range(passes):
            state, change = session.run([state_out, moved[0]], {state_in: state, weights_in: weights})
            weights = weights + change
    return weights, state


@pytest.mark.parametrize("adaptative", [False, True])
def test_squared_loss_ends_at_ridge_regression(adaptative: bool) -> None:
    random = np.random.default_rng(1)
    features, labels = random.standard_normal((30, 4)).astype(np.float32), random.standard_normal(30).astype(np.float32)
    weights, _ = train("squared_loss", features, labels, 60, 2.0, adaptative=adaptative)
    best = np.linalg.solve(features.T @ features + 2 * np.eye(4), features.T @ labels)
    np.testing.assert_allclose(weights, best, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("loss", ["logistic_loss", "smooth_hinge_loss", "hinge_loss"])
def test_the_gap_between_primal_and_dual_closes(loss: str) -> None:
    random = np.random.default_rng(2)
    features = random.standard_normal((40, 3)).astype(np.float32)
    labels = (features @ [1.0, -2.0, 0.5] + random.standard_normal(40) > 0).astype(np.float32)
    weights, state = train(loss, features, labels, 80, 1.0)
    primal, conjugate = state[:, 1].sum(), state[:, 2].sum()
    gap = primal + conjugate + np.dot(weights, weights)
    assert abs(gap) < 2e-2 * primal
