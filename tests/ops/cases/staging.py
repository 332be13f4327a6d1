"""Cases of staging areas where nothing waits; `tests/ops/test_staging.py` has the others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy
from tests.ops.case import Case, Run, as_array, graph_case, node
from tests.ops.cases.variables import fed, feeds

HINT = re.compile(r"\nHint: .*", re.DOTALL)  # what TensorFlow adds where memory runs out
F, N, S = DataType.FLOAT, DataType.INT32, DataType.STRING


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _areas()
    for prefix in ("", "Ordered"):
        yield from _maps(prefix)
    yield from _order()


class Graph:
    """A staging area and the ops on it; every method adds a run."""

    def __init__(self, prefix: str, types: Sequence[DataType] = (F, S), **attrs: Any) -> None:
        self.prefix = prefix
        self.attrs = {"dtypes": list(types), "shared_name": "shared", **attrs}
        self.nodes: list[Any] = []
        self.runs: list[Run] = []

    def call(self, op: str, arrays: dict[str, Any], outputs: int, **attrs: Any) -> None:
        number = len(self.runs)
        inputs = {f"{name}{number}": as_array(value) for name, value in arrays.items()}
        self.nodes += [*fed(**inputs),
                       node(f"{self.prefix}{op}", f"run{number}", list(inputs), **{**self.attrs, **attrs})]
        fetches = [f"run{number}:{slot}" for slot in range(outputs)]
        self.runs.append(Run(feeds(**inputs), fetches, [] if outputs else [f"run{number}"]))

    def put(self, *values: Any) -> None:
        arrays = [as_array(value) for value in values]
        self.call("Stage", {f"value{number}_": value for number, value in enumerate(arrays)}, 0,
                  dtypes=[from_numpy(value.dtype) for value in arrays])

    def map_put(self, key: Any, indices: Sequence[int], *values: Any) -> None:
        arrays = [as_array(value) for value in values]
        self.call("Stage", {"key": np.array(key, np.int64), "indices": np.array(indices, np.int32),
                            **{f"value{number}_": value for number, value in enumerate(arrays)}}, 0,
                  fake_dtypes=[from_numpy(value.dtype) for value in arrays])

    def map_get(self, op: str, key: Any, indices: Sequence[int]) -> None:
        types = [self.attrs["dtypes"][index % 3] for index in indices]
        arrays = {"key": np.array(key)} if key is not None else {}
        self.call(op, {**arrays, "indices": np.array(indices, np.int32)}, len(types) + (key is None), dtypes=types)

    def case(self, op: str, name: str, **options: Any) -> Case:
        return graph_case(f"{self.prefix}{op}", name, self.nodes, *self.runs, **options)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def _areas() -> Iterator[Case]:
    graph = Graph("")
    graph.call("StageSize", {}, 1)
    for text in ("a", "b", "c"):
        graph.put(number(len(graph.runs)), text)
    graph.call("StageSize", {}, 1)
    graph.call("StagePeek", {"index": np.array(2, np.int32)}, 2)
    graph.call("Unstage", {}, 2)
    graph.call("StagePeek", {"index": np.array(0, np.int32)}, 2)
    graph.call("StageClear", {}, 0)
    graph.call("StageSize", {}, 1)
    graph.put(np.ones((2, 2), np.float32), ["x", "y"])
    graph.call("Unstage", {}, 2)
    yield graph.case("Unstage", "life")
    graph = Graph("", [F, F])
    graph.put(number(1), number(2))
    graph.call("Unstage", {}, 1, dtypes=[F])
    graph.call("StageSize", {}, 1)
    yield graph.case("Unstage", "mismatch")
    graph = Graph("", [F], memory_limit=16)
    graph.put(np.zeros(5, np.float32))
    graph.put(np.zeros(2, np.float32))
    graph.put(np.zeros(2, np.float32))
    graph.call("StageSize", {}, 1)
    yield graph.case("Stage", "memory limit", text=HINT)


def _maps(prefix: str) -> Iterator[Case]:
    graph = Graph(f"{prefix}Map", [F, S, N])
    three = np.array(3, np.int32)
    graph.call("Size", {}, 1)
    graph.map_put(5, [0, 1, 2], number(1), "one", three)
    graph.map_put(7, [0, 2], number(2), three)
    graph.call("Size", {}, 1)
    graph.call("IncompleteSize", {}, 1)
    graph.map_put(7, [1], "two")
    graph.call("Size", {}, 1)
    graph.call("IncompleteSize", {}, 1)
    graph.map_get("Peek", 7, [0, 1, 2])
    graph.map_get("Unstage", 7, [1])
    graph.map_get("Unstage", 7, [1])
    graph.map_get("Peek", 7, [0, 2])
    graph.map_get("Unstage", 7, [0, 2])
    graph.call("Size", {}, 1)
    graph.map_get("UnstageNoKey", None, [0, 2])
    graph.map_get("UnstageNoKey", None, [1])
    graph.call("Size", {}, 1)
    graph.map_put(1, [0], number(1))
    graph.map_put(2, [0, 1, 2], number(1), "one", three)
    graph.call("Clear", {}, 0)
    graph.call("Size", {}, 1)
    graph.call("IncompleteSize", {}, 1)
    yield graph.case("Unstage", "life")
    graph = Graph(f"{prefix}Map", [F, S, N])
    graph.map_put(1, [0], number(1))
    graph.map_put(1, [0], number(1))
    graph.map_put(1, [2, 1], three, "one")
    graph.map_put(1, [1, 1], "one", "one")
    graph.map_put(1, [3], number(1))
    graph.map_put([1, 2], [1], "one")
    graph.map_put([], [1], "one")
    graph.map_put([1], [1, 2], "one", three)
    graph.map_get("Unstage", 1, [1, 0])
    graph.map_get("Unstage", 1, [5])
    graph.call("Size", {}, 1)
    graph.call("IncompleteSize", {}, 1)
    yield graph.case("Stage", "rules")
    graph = Graph(f"{prefix}Map", [F], memory_limit=16)
    graph.map_put(1, [0], np.zeros(5, np.float32))
    graph.map_put(1, [0], np.zeros(2, np.float32))
    graph.map_put(1, [0], np.ones(1, np.float32))
    graph.map_get("Unstage", 1, [0])
    graph.call("Size", {}, 1)
    yield graph.case("Stage", "memory limit, and a key twice", text=HINT)


def _order() -> Iterator[Case]:
    graph = Graph("OrderedMap", [F])
    for key in (5, -3, 9, 0, 7):
        graph.map_put(key, [0], number(key))
    graph.map_get("Unstage", 0, [0])
    for _ in range(4):
        graph.map_get("UnstageNoKey", None, [0])
    yield graph.case("UnstageNoKey", "smallest key first")
