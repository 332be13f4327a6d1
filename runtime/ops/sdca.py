"""Stochastic dual coordinate ascent: one pass over a batch of examples of a linear model.

Each example has a dual variable. In turn, and in random order, every one is set to its best value while the others
stay, which moves the weights along the example's features: S. Shalev-Shwartz and T. Zhang, "Stochastic Dual Coordinate
Ascent Methods for Regularized Loss Minimization" (2013); with several partitions of the examples the steps are those of
C. Ma et al., "Adding vs. Averaging in Distributed Primal-Dual Optimization" (2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["LOSSES", "Loss"]

Array = np.ndarray[Any, Any]

_NEWTON_STEPS = 10
_LARGEST = float(np.finfo(np.float64).max)
_PICKED_AGAIN = 0.1
"""How likely an example is taken once more, for each time that it was taken."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss of one example, of prediction p and label y.

    Attributes
    ----------
    label : callable
        ``label(y)`` returns the label that the formulas use, or None for one that is not allowed.
    best : callable
        ``best(dual, p, y, norm)`` returns the best dual value; `norm` is the squared norm of the example's features
        times its weight and the number of partitions, over the strength of l2.
    primal, conjugate : callable
        ``primal(p, y)`` and ``conjugate(dual, y)``: the loss, and its conjugate at minus the dual value.
    slope : callable
        ``slope(p, y)``: the derivative of the loss by p.
    smoothness : float
        One over the largest curvature; 0 for a loss that has corners.
    allowed : str
        What is said of labels that are not allowed.
    """

    label: Callable[[float], float | None]
    best: Callable[[float, float, float, float], float]
    primal: Callable[[float, float], float]
    conjugate: Callable[[float, float], float]
    slope: Callable[[float, float], float]
    smoothness: float
    allowed: str


def _sign(label: float) -> float | None:
    return {0.0: -1.0, 1.0: 1.0}.get(label)


def _ratio(numerator: float, denominator: float) -> float:
    """Divide as C does."""
    return float(np.float64(numerator) / np.float64(denominator))


def _logistic_best(dual: float, p: float, y: float, norm: float) -> float:
    # Newton's method for x, where the dual value is (1 + tanh x) / 2y.
    x = 0.0
    for _ in range(_NEWTON_STEPS):
        slope = math.tanh(x)
        value = -2 * y * x - p - norm * (0.5 * (1 + slope) / y - dual)
        x -= _ratio(value, -2 * y - norm * (1 - slope * slope) * 0.5 / y)
    return 0.5 * (1 + math.tanh(x)) / y


def _logistic_conjugate(dual: float, y: float) -> float:
    share = dual * y
    return sum(part * math.log(part) for part in (share, 1 - share) if part > 0)


def _logistic_primal(p: float, y: float) -> float:
    margin = y * p
    return math.log1p(math.exp(-margin)) if margin > 0 else math.log1p(math.exp(margin)) - margin


def _logistic_slope(p: float, y: float) -> float:
    margin = y * p
    rest = math.exp(-margin) / (1 + math.exp(-margin)) if margin > 0 else 1 / (1 + math.exp(margin))
    return -rest * y


def _within(dual: float, y: float) -> float:
    """Return the nearest dual value that a hinge allows: from 0 to the label."""
    return 0.0 if y * dual < 0 else y if y * dual > 1 else dual


def _hinge_conjugate(smooth: float) -> Callable[[float, float], float]:
    def conjugate(dual: float, y: float) -> float:
        share = y * dual
        return -share + 0.5 * smooth * dual * dual if 0 <= share <= 1 else _LARGEST

    return conjugate


def _smooth_hinge_primal(p: float, y: float) -> float:
    margin = y * p
    return 0.0 if margin >= 1 else 0.5 - margin if margin <= 0 else (1 - margin) ** 2 / 2


def _poisson_best(dual: float, p: float, y: float, norm: float) -> float:
    # Newton's method for x, where the dual value is y - exp x.
    x = math.log(y - dual) if y > dual else 0.0
    for _ in range(_NEWTON_STEPS):
        grown = float(np.exp(x))
        x -= _ratio(x - p - norm * (y - dual - grown), 1 + norm * grown)
    return y - float(np.exp(x))


def _poisson_conjugate(dual: float, y: float) -> float:
    rest = y - dual
    return 0.0 if rest == 0 else rest * math.log(rest) - rest if rest > 0 else _LARGEST


_BINARY = "Only labels of 0.0 or 1.0 are supported right now. "

LOSSES: dict[str, Loss] = {
    "logistic_loss": Loss(_sign, _logistic_best, _logistic_primal, _logistic_conjugate, _logistic_slope, 4.0, _BINARY),
    "squared_loss": Loss(lambda y: y, lambda dual, p, y, norm: dual + (y - dual - p) / (1 + norm),
                         lambda p, y: 0.5 * (y - p) ** 2, lambda dual, y: dual * (0.5 * dual - y), lambda p, y: p - y,
                         1.0, ""),
    "hinge_loss": Loss(_sign, lambda dual, p, y, norm: _within(dual + _ratio(y - p, norm), y),
                       lambda p, y: max(0.0, 1 - y * p), _hinge_conjugate(0.0), lambda p, y: -y if y * p < 1 else 0.0,
                       0.0, _BINARY),
    "smooth_hinge_loss": Loss(_sign, lambda dual, p, y, norm: _within(dual + _ratio(y - p - dual, norm + 1), y),
                              _smooth_hinge_primal, _hinge_conjugate(1.0),
                              lambda p, y: 0.0 if y * p >= 1 else -y if y * p <= 0 else p - y, 1.0, _BINARY),
    "poisson_loss": Loss(lambda y: y if y >= 0 else None, _poisson_best, lambda p, y: float(np.exp(p)) - y * p,
                         _poisson_conjugate, lambda p, y: float(np.exp(p)) - y, 0.0,
                         "Only non-negative labels can be used with the Poisson log loss. "),
}
"""Name of a loss to its formulas."""


@dataclass(slots=True)
class _Group:
    """A group of features: which weights each example touches, by how much, and how the weights have moved."""

    places: list[Any]     # per example, an index of the weights
    values: list[Array]   # per example, float32
    weights: Array        # float32, flat
    moved: Array


@dataclass(slots=True)
class _Model:
    groups: list[_Group]
    l1: float
    l2: float
    partitions: int

    def predict(self, example: int, moved: bool) -> float:
        """Return the prediction for an example, with or without what the weights have moved by."""
        total = 0.0
        for group in self.groups:
            place = group.places[example]
            weights = group.weights[place].astype(np.float64)
            if moved:
                weights = weights + group.moved[place] * self.partitions
            if self.l1:
                weights = np.sign(weights) * np.maximum(np.abs(weights) - self.l1 / self.l2, 0)
            total += float(weights @ group.values[example])
        return total

    def move(self, example: int, amount: float) -> None:
        for group in self.groups:
            group.moved[group.places[example]] += (group.values[example] * amount).astype(np.float32)

    def squared_norm(self, example: int) -> float:
        return sum(float(np.square(group.values[example], dtype=np.float64).sum()) for group in self.groups)


def _shapes(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    sparse, dense = int(node.attr("num_sparse_features")), int(node.attr("num_dense_features"))
    return [shapes[-1], *shapes[len(shapes) - 1 - sparse - dense:-1]]


@kernel("SdcaOptimizer", shape=_shapes, needs_step=True)
def _sdca_optimizer(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    loss = LOSSES[node.attr("loss_type").decode()]
    adaptive = bool(node.attr("adaptative"))
    counts = [int(node.attr(name)) for name in ("num_sparse_features", "num_sparse_features_with_values",
                                                "num_dense_features")]
    if counts[0] + counts[2] <= 0:
        raise InvalidArgument("Requires at least one feature to train.")
    l1, l2, partitions = float(node.attr("l1")), float(node.attr("l2")), int(node.attr("num_loss_partitions"))
    random = np.random.default_rng()

    def run(step: StepContext, *inputs: Any) -> Any:
        arrays = [_host(xp, value) for value in inputs]
        lengths = (counts[0], counts[0], counts[1], counts[2], 1, 1, counts[0], counts[0], counts[2], 1)
        parts = []
        for length in lengths:
            parts.append(arrays[:length])
            arrays = arrays[length:]
        examples, features, values, dense, (weights,), (labels,) = parts[:6]
        indices, sparse_weights, dense_weights, (state,) = parts[6:]
        number = weights.size
        if labels.size != number:
            raise InvalidArgument(f"example_labels has {labels.size} elements, example_weights {number}")
        if state.shape != (number, 4):
            raise InvalidArgument(f"Expected shape [{number},4] for example_state_data, got "
                                  f"{format_shape(state.shape)}")
        groups = [_sparse_group(number, *group, values[i] if i < len(values) else None)
                  for i, group in enumerate(zip(examples, features, indices, sparse_weights, strict=True))]
        groups += [_dense_group(number, *group) for group in zip(dense, dense_weights, strict=True)]
        model = _Model(groups, l1, l2, partitions)
        result = state.copy()
        known = [_label(loss, float(label)) for label in labels.reshape(-1)]
        importance = weights.reshape(-1).astype(np.float64).tolist()
        order = random.permutation(number)
        if adaptive:
            order = _by_need(loss, model, result, known, importance, random)
        for example in order.tolist():
            step.check()
            _ascend(loss, model, result[example], example, known[example], importance[example])
        moved = [group.moved.reshape(value.shape)
                 for group, value in zip(groups, (*sparse_weights, *dense_weights), strict=True)]
        return [xp.asarray(part) for part in (result, *moved)]

    return run


def _host(xp: Any, value: Any) -> Any:
    return value if isinstance(value, np.ndarray) else xp.asnumpy(value)


def _label(loss: Loss, label: float) -> float:
    found = loss.label(label)
    if found is None:
        raise InvalidArgument(f"{loss.allowed}Found example with label: {label:g}")
    return found


def _ascend(loss: Loss, model: _Model, row: Array, example: int, label: float, weight: float) -> None:
    """Set the dual value of one example, and move the weights."""
    dual = float(row[0])
    norm = _ratio(model.squared_norm(example), model.l2) * weight * model.partitions
    best = loss.best(dual, model.predict(example, moved=True), label, norm)
    model.move(example, _ratio((best - dual) * weight, model.l2))
    row[0] = best
    row[1] = loss.primal(model.predict(example, moved=False), label) * weight
    row[2] = min(max(loss.conjugate(dual, label) * weight, -_LARGEST), _LARGEST)
    row[3] = weight


def _by_need(loss: Loss, model: _Model, state: Array, labels: Sequence[float], weights: Sequence[float],
             random: np.random.Generator) -> Array:
    """Return as many examples as there are, those far from their best dual value likelier and perhaps repeatedly."""
    need = np.array([
        weight * math.sqrt(model.squared_norm(i) + model.l2 * loss.smoothness)
        * abs(float(state[i, 0]) + loss.slope(model.predict(i, moved=True), label) * weight)
        for i, (label, weight) in enumerate(zip(labels, weights, strict=True))])
    number = need.size
    if not number or not np.isfinite(need).all() or need.sum() <= 0:
        return random.permutation(number)
    taken = np.zeros(number, np.int64)
    order: list[int] = []
    for example in random.choice(number, 2 * number, p=need / need.sum()).tolist():
        if len(order) < number and random.random() <= _PICKED_AGAIN ** int(taken[example]):
            taken[example] += 1
            order.append(example)
    waiting = [int(i) for i in np.argsort(-need, kind="stable") if not taken[i]]
    return np.array((order + waiting)[:number], np.int64)


def _sparse_group(number: int, examples: Any, features: Any, indices: Any, weights: Any, values: Any) -> _Group:
    """Return a group of features of which each example has some; those of an example stand together, in order."""
    if examples.shape != features.shape or examples.ndim != 1:
        raise InvalidArgument(f"Found mismatched example_indices and feature_indices {_listed(examples)} vs "
                              f"{_listed(features)}")
    if values is not None and values.shape != features.shape:
        raise InvalidArgument(f"Found mismatched feature_values and feature_indices {_listed(values)} vs "
                              f"{_listed(features)}")
    if indices.size != weights.size:
        raise InvalidArgument(f"Found {indices.size} sparse_indices for {weights.size} sparse_weights")
    order = np.argsort(indices, kind="stable")
    ordered = indices.reshape(-1)[order]
    where = np.minimum(np.searchsorted(ordered, features), max(ordered.size - 1, 0))
    known = ordered[where] == features if ordered.size else np.zeros(features.shape, bool)
    positions = order[where] if ordered.size else where
    amounts = np.ones(features.shape, np.float32) if values is None else values
    starts = np.searchsorted(examples, np.arange(number + 1)) if bool((np.diff(examples) >= 0).all()) else None
    places, parts, end = [], [], 0
    listed = examples.tolist() if starts is None else []
    for example in range(number):
        if starts is not None:
            start, end = int(starts[example]), int(starts[example + 1])
        else:  # what comes out of order takes no part
            start = end
            while end < len(listed) and listed[end] == example:
                end += 1
        if not known[start:end].all():
            wrong = features[start:end][~known[start:end]][0]
            raise InvalidArgument(f"Found sparse feature indices out of valid range: {int(wrong)}")
        if np.unique(features[start:end]).size != end - start:
            raise InvalidArgument("Duplicate index in sparse vector.")
        places.append(positions[start:end])
        parts.append(amounts[start:end])
    flat = weights.reshape(-1).astype(np.float32)
    return _Group(places, parts, flat, np.zeros_like(flat))


def _listed(value: Any) -> str:
    return "[" + " ".join(f"{item:g}" for item in value.reshape(-1).tolist()) + "]"


def _dense_group(number: int, features: Any, weights: Any) -> _Group:
    if features.ndim != 2 or features.shape[0] != number:
        raise InvalidArgument(f"dense_features must have one row for each of {number} examples, got shape "
                              f"{format_shape(features.shape)}")
    if features.shape[1] > weights.size:
        raise InvalidArgument(f"More dense features than we have parameters for: {features.shape[1]}")
    flat = weights.reshape(-1).astype(np.float32)
    return _Group([slice(0, features.shape[1])] * number, list(features), flat, np.zeros_like(flat))
