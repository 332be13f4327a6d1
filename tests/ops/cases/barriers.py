"""Cases of barriers where nothing waits; `tests/ops/test_staging.py` has the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy
from tests.ops.case import Case, Run, as_array, graph_case, node
from tests.ops.cases.variables import fed, feeds

F, N, S = DataType.FLOAT, DataType.INT32, DataType.STRING


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _lives()
    yield from _rules()
    yield from _making()


class Graph:
    """A barrier and the ops on it; every method adds a run."""

    def __init__(self, types: Sequence[DataType] = (F, N), shapes: Sequence[Any] = ((2,), ()), **attrs: Any) -> None:
        self.types = list(types)
        take = {"component_types": self.types}
        self.nodes: list[Any] = [
            node("Barrier", "b", component_types=self.types, shapes=list(shapes), shared_name="shared", **attrs),
            *fed(count=np.array(0, np.int32)), node("BarrierTakeMany", "take", ["b", "count"], **take),
            node("BarrierTakeMany", "few", ["b", "count"], allow_small_batch=True, **take),
            node("BarrierClose", "close", ["b"]), node("BarrierClose", "cancel", ["b"], cancel_pending_enqueues=True),
            node("BarrierReadySize", "ready", ["b"]), node("BarrierIncompleteSize", "incomplete", ["b"])]
        self.runs: list[Run] = []

    def insert(self, component: int, keys: Any, values: Any) -> None:
        number = len(self.runs)
        inputs = {f"keys{number}": as_array(keys) if keys else np.zeros(0, object), f"values{number}": as_array(values)}
        self.nodes += [*fed(**inputs), node("BarrierInsertMany", f"insert{number}", ["b", *inputs],
                                            T=from_numpy(inputs[f"values{number}"].dtype), component_index=component)]
        self.runs.append(Run(feeds(**inputs), [], [f"insert{number}"]))

    def take(self, count: int, name: str = "take") -> None:
        self.runs.append(Run({"count:0": np.array(count, np.int32)},
                             [f"{name}:{slot}" for slot in range(2 + len(self.types))]))

    def sizes(self) -> None:
        self.runs.append(Run({}, ["ready:0", "incomplete:0"]))

    def do(self, name: str) -> None:
        self.runs.append(Run({}, [], [name]))

    def case(self, op: str, name: str, **options: Any) -> Case:
        return graph_case(op, name, self.nodes, *self.runs, **options)


def rows(*numbers: int) -> np.ndarray:
    return np.array([[number, number + 0.5] for number in numbers], np.float32)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def _lives() -> Iterator[Case]:
    graph = Graph()
    graph.sizes()
    graph.insert(0, ["a", "b", "c"], rows(1, 2, 3))
    graph.insert(1, ["d", "c"], ints(4, 3))
    graph.sizes()
    graph.insert(1, ["b"], ints(2))
    graph.insert(0, ["d"], rows(4))
    graph.sizes()
    graph.take(2)
    graph.sizes()
    graph.insert(0, ["b"], rows(20))  # the key may come again
    graph.insert(1, ["a", "b"], ints(1, 20))
    graph.do("close")
    graph.sizes()
    graph.take(2, "few")
    graph.take(5, "few")
    graph.take(1, "few")
    graph.take(1)
    graph.do("close")  # TensorFlow hangs when an empty barrier is closed harder
    yield graph.case("BarrierTakeMany", "life")
    graph = Graph()
    graph.insert(0, ["a", "b"], rows(1, 2))
    graph.insert(1, ["a"], ints(1))
    graph.do("close")
    graph.take(3, "few")
    graph.take(3, "few")
    graph.insert(0, ["new"], rows(1))
    graph.insert(1, ["b"], ints(2))
    graph.sizes()
    graph.insert(1, ["b"], ints(2))
    graph.insert(1, [], ints())
    graph.take(2)
    graph.take(1)
    graph.take(1)
    yield graph.case("BarrierClose", "completed after closing")
    graph = Graph()
    graph.insert(0, ["a", "b"], rows(1, 2))
    graph.insert(1, ["a"], ints(1))
    graph.do("close")
    graph.do("close")
    graph.do("cancel")
    graph.sizes()
    graph.insert(1, ["b"], ints(2))
    graph.do("cancel")
    graph.take(2)
    graph.take(1)
    yield graph.case("BarrierClose", "cancelled after closing")
    graph = Graph([S], [()])
    graph.insert(0, ["x", "y", "z"], ["text", "", "more"])
    graph.take(2)
    graph.take(0)
    graph.insert(0, ["x"], ["again"])
    graph.take(2)
    yield graph.case("BarrierInsertMany", "strings")


def _rules() -> Iterator[Case]:
    graph = Graph()
    graph.insert(0, ["a", "a"], rows(1, 2))
    graph.sizes()
    graph.insert(2, ["a"], ints(1))
    graph.insert(1, ["a"], rows(1))
    graph.insert(0, [], rows().reshape(0, 2))
    graph.sizes()
    yield graph.case("BarrierInsertMany", "rules")
    graph = Graph([F], [(0,)])
    graph.insert(0, ["a"], np.zeros((1, 0), np.float32))
    graph.sizes()
    yield graph.case("BarrierInsertMany", "no elements")


def _making() -> Iterator[Case]:
    for name, attrs in (("capacity", {"capacity": 5}), ("no shapes", {"shapes": []}), ("few", {"shapes": [(2,)]})):
        graph = Graph(**attrs)
        graph.sizes()
        yield graph.case("Barrier", name)
    nodes = [*Graph().nodes[:1], node("BarrierReadySize", "first", ["b"]),
             node("Barrier", "c", component_types=[F, F], shapes=[(2,), ()], shared_name="shared"),
             node("BarrierReadySize", "second", ["c"])]
    yield graph_case("Barrier", "shared, other types", nodes, Run({}, ["first:0"]), Run({}, ["second:0"]))
