"""Cases of dual coordinate ascent. Examples are visited in random order, so that none shares features with another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.ops.sdca import LOSSES
from tests.ops.case import Case, op_case
from tests.ops.values import values


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for loss in LOSSES:
        labels = [0.0, 2.0, 5.0] if loss == "poisson_loss" else [0.0, 1.0, 1.0]
        for settings in ({}, {"l1": 0.2}, {"l2": 3.0}, {"num_loss_partitions": 4}):
            for state in (0.0, 0.3):
                yield _separate(loss, labels, state, **settings)
        yield _one_example(loss, 1.0)
        yield _one_example(loss, 0.0, adaptative=True)
        yield _separate(loss, [0.0, -2.0, 1.0], 0.0)
    yield from _wrong()


def _case(sparse: list[tuple[Any, ...]], dense: list[tuple[Any, ...]], weights: Any, labels: Any, state: Any,
          **settings: Any) -> Case:
    """Return a case; `sparse` holds examples, features, values, indices, weights; `dense` features and weights."""
    options = {"loss_type": "squared_loss", "l1": 0.0, "l2": 1.0, "num_loss_partitions": 1, "num_inner_iterations": 1,
               "num_sparse_features": len(sparse), "num_dense_features": len(dense),
               "num_sparse_features_with_values": sum(group[2] is not None for group in sparse), **settings}
    arrays = [np.asarray(group[place], np.int64) for place in (0, 1) for group in sparse]
    arrays += [np.asarray(group[2], np.float32) for group in sparse if group[2] is not None]
    arrays += [np.asarray(group[0], np.float32) for group in dense]
    arrays += [np.asarray(weights, np.float32), np.asarray(labels, np.float32)]
    arrays += [np.asarray(group[3], np.int64) for group in sparse]
    arrays += [np.asarray(group[4], np.float32) for group in sparse]
    arrays += [np.asarray(group[1], np.float32) for group in dense]
    arrays.append(np.asarray(state, np.float32))
    return op_case("SdcaOptimizer", *arrays, name=f"{settings} {labels}", relative=2e-5, absolute=2e-6, **options)


def _separate(loss: str, labels: list[float], state: float, **settings: Any) -> Case:
    """Return the case of three examples with features of their own, with and without values."""
    signs = [1.0 if label or loss in ("squared_loss", "poisson_loss") else -1.0 for label in labels]
    if loss == "poisson_loss":
        signs[0] = -1.0
    rows = np.zeros((3, 4), np.float32)
    rows[:, 3] = state * np.array(signs)
    duals = np.stack([state * np.array(signs), *np.zeros((3, 3))], axis=1)
    sparse = [([0, 0, 1, 2], [7, 2, 3, 9], [0.5, -1.5, 2.0, 0.25], [2, 3, 7, 9], [0.1, -0.4, 0.3, 0.8]),
              ([0, 1], [1, 4], None, [1, 4, 5], [0.5, -0.25, 1.0])]
    dense = [(np.diag([1.5, -0.5, 2.0]), [0.2, -0.7, 0.9])]
    return _case(sparse, dense, [1.0, 0.5, 2.0], labels, duals, loss_type=loss, **settings)


def _one_example(loss: str, label: float, **settings: Any) -> Case:
    dense = [(values(np.float32, (1, 5), 1), values(np.float32, (5,), 2, -1, 1)),
             (values(np.float32, (1, 2), 3), values(np.float32, (2,), 4, -1, 1))]
    return _case([], dense, [0.7], [label], np.zeros((1, 4)), loss_type=loss, l1=0.05, **settings)


def _wrong() -> Iterator[Case]:
    dense = [(np.ones((2, 3)), np.ones(3))]
    state = np.zeros((2, 4))
    yield _case([], dense, [1, 1], [0, 1], state[:, :3])
    yield _case([], [(np.ones((2, 3)), np.ones(2))], [1, 1], [0, 1], state)
    yield _case([], [], [1, 1], [0, 1], state)
    group = ([0, 1, 1], [2, 5, 4], None, [2, 4, 5], [0.5, 0.25, 1])
    for place, value in ((1, [2, 5, 7]), (1, [2, 5, 5]), (1, [2, 5])):
        wrong = list(group)
        wrong[place] = value
        yield _case([tuple(wrong)], [], [1, 1], [0, 1], state)
    yield _case([([1, 0, 1], *group[1:])], [], [1, 1], [0, 1], state)
