"""Cases of gradient accumulators where nothing waits; `tests/ops/test_accumulators.py` has the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy
from tests.ops.case import Case, Run, graph_case, node
from tests.ops.cases.variables import fed, feeds

F, D, H = DataType.FLOAT, DataType.DOUBLE, DataType.HALF
KINDS = (np.float32, np.float64, np.float16)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in KINDS:
        for prefix in ("", "Resource"):
            for reduction in ("MEAN", "SUM"):
                yield from _dense(kind, prefix, reduction)
        for reduction in ("MEAN", "SUM"):
            yield from _sparse(kind, reduction)
    yield from _dense_rules()
    yield from _sparse_rules()
    yield from _sharing()


class Graph:
    """An accumulator and the ops on it; every method adds a run."""

    def __init__(self, kind: Any, shape: Any, prefix: str = "", **attrs: Any) -> None:
        self.dtype = from_numpy(np.dtype(kind))
        self.prefix = prefix
        self.simple = "" if prefix == "Sparse" else prefix
        self.nodes: list[Any] = [
            node(f"{prefix}ConditionalAccumulator", "a", dtype=self.dtype, shape=shape, shared_name="shared", **attrs),
            *fed(number=np.array(0, np.int32), step=np.array(0)),
            node(f"{self.simple}AccumulatorNumAccumulated", "count", ["a"]),
            node(f"{self.simple}AccumulatorSetGlobalStep", "set_step", ["a", "step"]),
            node(f"{prefix}AccumulatorTakeGradient", "take", ["a", "number"], dtype=self.dtype)]
        self.runs: list[Run] = []

    def _apply(self, op: str, arrays: dict[str, np.ndarray], **attrs: Any) -> None:
        number = len(self.runs)
        inputs = {f"{name}{number}": value for name, value in arrays.items()}
        self.nodes += [*fed(**inputs), node(op, f"apply{number}", ["a", *inputs], **attrs)]
        self.runs.append(Run(feeds(**inputs), [], [f"apply{number}"]))

    def apply(self, step: int, gradient: Any) -> None:
        gradient = np.asarray(gradient)
        self._apply(f"{self.prefix}AccumulatorApplyGradient", {"local": np.array(step), "gradient": gradient},
                    dtype=from_numpy(gradient.dtype))

    def apply_rows(self, step: int, indices: Any, values: Any, shape: Any = None) -> None:
        values = np.asarray(values)
        known = np.array([] if shape is None else shape, np.int64)
        self._apply("SparseAccumulatorApplyGradient",
                    {"local": np.array(step), "indices": np.array(indices, np.int64), "values": values, "shape": known},
                    dtype=from_numpy(values.dtype), has_known_shape=shape is not None)

    def take(self, required: int) -> None:
        outputs = 3 if self.prefix == "Sparse" else 1
        self.runs.append(Run({"number:0": np.array(required, np.int32)}, [f"take:{slot}" for slot in range(outputs)]))

    def count(self) -> None:
        self.runs.append(Run({}, ["count:0"]))

    def set_step(self, step: int) -> None:
        self.runs.append(Run({"step:0": np.array(step)}, [], ["set_step"]))

    def case(self, name: str, op: str = "TakeGradient") -> Case:
        prefix = self.simple if op in ("NumAccumulated", "SetGlobalStep") else self.prefix
        return graph_case(f"{prefix}Accumulator{op}", name, self.nodes, *self.runs)


def _dense(kind: Any, prefix: str, reduction: str) -> Iterator[Case]:
    graph = Graph(kind, (2, None), prefix, reduction_type=reduction)
    first, second, third = (np.array([[1, 2.5, 3], [0.1, -7, number]]).astype(kind) for number in (1, 2, np.inf))
    graph.count()
    graph.apply(0, first)
    graph.take(1)
    graph.apply(0, first)  # too old
    graph.count()
    graph.apply(1, first)
    graph.apply(5, second)
    graph.apply(1, third)
    graph.count()
    graph.take(2)
    graph.count()
    graph.set_step(7)
    graph.apply(6, first)
    graph.apply(7, second)
    graph.apply(7, second)
    graph.take(2)
    graph.apply(7, first)
    graph.count()
    graph.set_step(1)
    graph.apply(1, first[:, :0])
    graph.take(1)
    yield graph.case(f"{kind.__name__} {reduction}")


def _sparse(kind: Any, reduction: str) -> Iterator[Case]:
    graph = Graph(kind, (9, None), "Sparse", reduction_type=reduction)
    rows = np.array([[1, 2], [3, 4], [5, 6]]).astype(kind)
    graph.apply_rows(0, [0, 4, 5], rows, [9, 2])
    graph.take(1)
    graph.apply_rows(0, [0, 1, 2], rows)
    graph.apply_rows(1, [1, 4, 8], rows * 2)
    graph.apply_rows(1, [0, 4, 5], rows)
    graph.apply_rows(1, [4], rows[:1])
    graph.count()
    graph.take(3)
    graph.apply_rows(2, [5, 1, 1], rows)  # in no order, and twice
    graph.apply_rows(2, [2, 5, 0], rows)
    graph.apply_rows(2, [0, 1, 5], rows)
    graph.take(3)
    graph.apply_rows(3, np.zeros(0), rows[:0])
    graph.apply_rows(3, [3], rows[:1])
    graph.take(2)
    yield graph.case(f"{kind.__name__} {reduction}")
    graph = Graph(kind, None, "Sparse", reduction_type=reduction)
    graph.apply_rows(0, [70, 71], rows[:2].reshape(2, 1, 2))
    graph.take(1)
    yield graph.case(f"{kind.__name__} {reduction}, unknown shape")


def _dense_rules() -> Iterator[Case]:
    for prefix in ("", "Resource"):
        graph = Graph(np.float32, (2, None), prefix)
        graph.take(0)
        graph.take(-3)
        graph.apply(0, np.ones((3, 2), np.float32))
        graph.apply(0, np.ones(2, np.float32))
        graph.apply(-1, np.ones((3, 2), np.float32))
        graph.apply(0, np.ones((2, 2), np.float32))
        graph.apply(0, np.ones((2, 3), np.float32))
        graph.count()
        yield graph.case("rules", "ApplyGradient")
    graph = Graph(np.float32, None)
    graph.set_step(3)
    graph.apply(3, np.float32(4))
    graph.set_step(2)
    graph.apply(2, np.float32(6))
    graph.take(2)
    yield graph.case("any shape", "SetGlobalStep")


def _sparse_rules() -> Iterator[Case]:
    rows = np.ones((2, 3), np.float32)
    graph = Graph(np.float32, (5, 3), "Sparse")
    graph.apply_rows(0, [[0, 1]], rows)
    graph.apply_rows(0, [0], np.float32(1))
    graph.apply_rows(0, [0], rows)
    graph.apply_rows(0, [0, 1], rows, [5])
    graph.apply_rows(0, [0, 1], rows, [5, 4])
    graph.apply_rows(0, [0, 1], rows, [4, 3])
    graph.apply_rows(0, [0, 5], rows)
    graph.apply_rows(0, [0, 1], rows[:, :2])
    graph.apply_rows(0, [0, 1], rows[:, 0])
    graph.count()
    graph.apply_rows(0, [0, 1], rows.reshape(2, 3, 1))
    graph.apply_rows(0, [0, 1], rows)
    graph.apply_rows(0, [0, 1], np.ones((2, 3, 2), np.float32))
    graph.count()
    graph.take(1)
    yield graph.case("rules", "ApplyGradient")


def _sharing() -> Iterator[Case]:
    good = {"dtype": F, "shape": (2, None)}
    for name, change in (("type", {"dtype": D}), ("shape", {"shape": (2, 3)}), ("unknown shape", {"shape": None}),
                         ("reduction", {"reduction_type": "SUM"}), ("nothing", {})):
        nodes = [node("ConditionalAccumulator", "a", shared_name="s", **good),
                 node("AccumulatorNumAccumulated", "first", ["a"]),
                 node("ConditionalAccumulator", "b", shared_name="s", **{**good, **change}),
                 node("AccumulatorNumAccumulated", "second", ["b"])]
        yield graph_case("ConditionalAccumulator", f"shared, other {name}", nodes, Run({}, ["first:0"]),
                         Run({}, ["second:0"]))
