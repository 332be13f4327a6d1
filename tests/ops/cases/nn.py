"""Cases of activations, biases, softmax and the cross entropies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import COMPLEX, FLOATS, INTEGERS, Case, bf16, op_case
from tests.ops.values import SHAPES, edge_values, values

REAL = (*FLOATS, *INTEGERS)
ACTIVATIONS: dict[str, tuple[Any, ...]] = {
    "Relu": REAL, "Relu6": REAL, "LeakyRelu": FLOATS, "Elu": FLOATS, "Selu": FLOATS, "Softplus": FLOATS,
    "Softsign": FLOATS,
}
MATRICES = ((3, 4), (1, 1), (0, 3), (17, 10), (64, 33))
INF, NAN = np.inf, np.nan


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _activations()
    yield from _biases()
    yield from _softmax()
    yield from _cross_entropy()
    yield from _sparse_cross_entropy()


def _loose(kind: Any) -> tuple[float, float]:
    """Return tolerances for sums of exponentials: relative, and relative to the largest value."""
    return {np.float16: (4e-3, 2e-3), bf16: (3e-2, 2e-2), np.float32: (4e-6, 1e-6)}.get(kind, (1e-11, 1e-12))


def _activations() -> Iterator[Case]:
    for op, kinds in ACTIVATIONS.items():
        for kind in kinds:
            relative, absolute = _loose(kind)
            options: dict[str, Any] = {} if kind in INTEGERS else {"relative": relative, "absolute": absolute}
            for shape in SHAPES:
                yield op_case(op, values(kind, shape, 1), **options)
                yield op_case(f"{op}Grad", values(kind, shape, 1), values(kind, shape, 2), **options)
            if kind in FLOATS:
                yield op_case(op, edge_values(kind), name="edges", **options)
                yield op_case(op, np.linspace(-30, 30, 121).astype(kind), name="wide", **options)
                yield op_case(f"{op}Grad", np.ones(13, kind), edge_values(kind), name="edges", **options)
        kind = np.float32
        yield op_case(f"{op}Grad", values(kind, (2,)), values(kind, (3,)))
    for op in ("ReluGrad", "Relu6Grad"):
        yield op_case(op, np.array([INF, NAN, INF, 2], np.float32), np.array([-1, -1, 3, NAN], np.float32))
    for alpha in (0.0, 0.3, 1.0, 2.0, -0.5):
        yield op_case("LeakyRelu", values(np.float32, (9,)), alpha=alpha)
        yield op_case("LeakyReluGrad", values(np.float32, (9,), 1), values(np.float32, (9,), 2), alpha=alpha)


def _biases() -> Iterator[Case]:
    for kind in (*REAL, *COMPLEX):
        for shape in ((2, 3), (2, 4, 3), (2, 2, 3, 3), (0, 3), (2, 1, 2, 2, 3)):
            yield op_case("BiasAdd", values(kind, shape, 1), values(kind, shape[-1:], 2))
            yield op_case("BiasAddGrad", values(kind, shape), relative=_loose(kind)[0], absolute=_loose(kind)[1])
    for shape in ((2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 2)):
        yield op_case("BiasAdd", values(np.float32, shape, 1), values(np.float32, (3,), 2), data_format="NCHW")
        yield op_case("BiasAddGrad", values(np.float32, shape), relative=1e-5, absolute=1e-6, data_format="NCHW")
    yield op_case("BiasAdd", values(np.float32, (2,)), values(np.float32, (2,)))
    yield op_case("BiasAdd", values(np.float32, (2, 2)), values(np.float32, (1, 2)))
    yield op_case("BiasAdd", values(np.float32, (2, 2)), values(np.float32, (3,)))
    yield op_case("BiasAddGrad", values(np.float32, (2,)))
    yield op_case("BiasAddGrad", np.full((4096, 2), 1.0, np.float16), name="long sum")
    yield op_case("BiasAddV1", values(np.float32, (2, 3)), values(np.float32, (3,)))


def _softmax() -> Iterator[Case]:
    for op in ("Softmax", "LogSoftmax"):
        for kind in FLOATS:
            relative, absolute = _loose(kind)
            for shape in ((3,), (2, 3), (2, 3, 4), (0, 3), (2, 0), (1, 1), (17, 100)):
                yield op_case(op, values(kind, shape), relative=relative, absolute=absolute)
        for row in ([-INF, -INF], [INF, 0], [-INF, 0], [NAN, 0], [1000, 999], [-1000, 0]):
            yield op_case(op, np.array([row], np.float32), name=str(row))
        yield op_case(op, np.array(1.0, np.float32))


def _cross_entropy() -> Iterator[Case]:
    op = "SoftmaxCrossEntropyWithLogits"
    for kind in FLOATS:
        relative, absolute = _loose(kind)
        options: dict[str, Any] = {"relative": relative * 2, "absolute": absolute}
        for shape in MATRICES:
            labels = np.abs(values(kind, shape, 2)) / np.array(4 * max(shape[1], 1), kind)
            yield op_case(op, values(kind, shape, 1), labels.astype(kind), **options)
        yield op_case(op, values(kind, (3, 4), 1), values(kind, (1, 4), 2), **options)
        yield op_case(op, values(kind, (4,), 1), values(kind, (3, 4), 2), **options)
        yield op_case(op, values(kind, (3, 4), 1), values(kind, (3, 1), 2), **options)
    logits = np.array([[-INF, 2], [-INF, 2], [INF, 1], [NAN, 1]], np.float32)
    yield op_case(op, logits, np.array([[0, 1], [1, 0], [0, 1], [0, 1]], np.float32), name="edges")
    one = np.float32
    yield op_case(op, values(one, (2, 0)), values(one, (2, 0)))
    yield op_case(op, values(one, (2, 2)), values(one, (1, 3)))
    yield op_case(op, values(one, (2,)), values(one, (2,)))
    yield op_case(op, values(one, (1, 1, 2)), values(one, (1, 1, 2)))


def _sparse_cross_entropy() -> Iterator[Case]:
    op = "SparseSoftmaxCrossEntropyWithLogits"
    for kind in FLOATS:
        relative, absolute = _loose(kind)
        for index in (np.int32, np.int64):
            for rows, columns in MATRICES:
                labels = (np.arange(rows) * 7 % max(columns, 1)).astype(index)
                yield op_case(op, values(kind, (rows, columns)), labels, relative=relative * 2, absolute=absolute)
    logits = np.array([[-INF, 2], [-INF, 2], [INF, 1], [NAN, 1]], np.float32)
    yield op_case(op, logits, np.array([0, 1, 1, 0]), name="edges")
    two = values(np.float32, (2, 2))
    yield op_case(op, two, np.array([0, 2]), name="label too large")
    yield op_case(op, two, np.array([-1, 2], np.int32), name="label negative")
    yield op_case(op, two, np.array([0]))
    yield op_case(op, values(np.float32, (2,)), np.array([0, 1]))
    yield op_case(op, values(np.float32, (1, 2)), np.array([[0]]))
    yield op_case(op, values(np.float32, (2, 0)), np.array([0, 1]))
