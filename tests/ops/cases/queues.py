"""Cases of queues where nothing waits; `tests/ops/test_queues.py` has the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy
from tests.ops.case import Case, Run, graph_case, node
from tests.ops.cases.variables import fed, feeds

ONE = np.float32
F, N, L, S = DataType.FLOAT, DataType.INT32, DataType.INT64, DataType.STRING


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for case in (*_fifo(), *_rules(), *_padding(), *_priority(), *_shuffle()):
        yield case
        yield _older(case)
    yield from _sharing()


def _older(case: Case) -> Case:
    """Return a case with the ops that hand on a queue as a reference to two strings."""
    nodes = []
    for newer in case.nodes:
        older = type(newer).FromString(newer.SerializeToString())
        if "Queue" in older.op:
            older.op = older.op.removesuffix("V2")
        nodes.append(older)
    op = case.op.removesuffix("V2")
    return replace(case, op=op, name=case.name.replace(case.op, op), nodes=nodes)


class Graph:
    """A queue node and the ops on it.

    Parameters
    ----------
    op : str
    types : list of DataType
        What comes out.
    **attrs
        Of the queue; it is shared, so that its name in messages is the same on both sides.
    """

    def __init__(self, op: str, types: Sequence[DataType], **attrs: Any) -> None:
        attrs.setdefault("component_types", list(types))
        self.types = list(types)
        self.nodes: list[Any] = [
            node(op, "q", shared_name="shared", **attrs), *fed(n=np.array(0, np.int32)),
            node("QueueDequeueV2", "dequeue", ["q"], component_types=list(types)),
            node("QueueDequeueManyV2", "many", ["q", "n"], component_types=list(types)),
            node("QueueDequeueUpToV2", "up_to", ["q", "n"], component_types=list(types)),
            node("QueueSizeV2", "size", ["q"]), node("QueueIsClosedV2", "closed", ["q"]),
            node("QueueCloseV2", "close", ["q"]),
            node("QueueCloseV2", "cancel", ["q"], cancel_pending_enqueues=True)]
        self.runs: list[Run] = []
        self._made = 0

    def put(self, *components: Any, many: bool = False) -> None:
        """Enqueue one element, or the rows of the components."""
        arrays = [np.asarray(value) for value in components]
        arrays = [array.astype(object) if array.dtype.kind == "S" else array for array in arrays]
        self._made += 1
        names = [f"x{self._made}_{number}" for number in range(len(arrays))]
        inputs = dict(zip(names, arrays, strict=True))
        op = "QueueEnqueueManyV2" if many else "QueueEnqueueV2"
        self.nodes += [*fed(**inputs), node(op, f"put{self._made}", ["q", *names],
                                            Tcomponents=[from_numpy(array.dtype) for array in arrays])]
        self.runs.append(Run(feeds(**inputs), [], [f"put{self._made}"]))

    def get(self, name: str = "dequeue", count: int | None = None) -> None:
        """Fetch the outputs of a node: all components of a dequeue, or size or closed."""
        outputs = 1 if name in ("size", "closed") else len(self.types)
        fed_count = {} if count is None else {"n:0": np.array(count, np.int32)}
        self.runs.append(Run(fed_count, [f"{name}:{slot}" for slot in range(outputs)]))

    def do(self, name: str) -> None:
        """Run a close."""
        self.runs.append(Run({}, [], [name]))

    def case(self, op: str, name: str, **options: Any) -> Case:
        """Return the case."""
        return graph_case(op, name, self.nodes, *self.runs, **options)


def _fifo() -> Iterator[Case]:
    graph = Graph("FIFOQueueV2", [F, N], shapes=[(), (2,)], capacity=10)
    graph.put(ONE(1), np.array([1, 2], np.int32))
    graph.put(np.arange(4, dtype=ONE), np.arange(8, dtype=np.int32).reshape(4, 2), many=True)
    graph.get("size")
    graph.get()
    graph.get("many", 3)
    graph.get("many", 0)
    graph.get("many", -1)
    graph.get("closed")
    graph.do("close")
    graph.get("closed")
    graph.do("close")
    graph.put(ONE(1), np.array([1, 2], np.int32))
    graph.get("many", 2)
    graph.get("size")
    graph.get("up_to", 2)
    graph.get("up_to", 2)
    graph.get()
    graph.get("up_to", 0)
    yield graph.case("FIFOQueueV2", "life")
    graph = Graph("FIFOQueueV2", [F], capacity=2)
    graph.put(np.ones(3, ONE))
    graph.put(np.ones((2, 2), ONE))
    graph.get()
    graph.do("cancel")
    graph.get()
    graph.get()
    graph.do("cancel")
    yield graph.case("FIFOQueueV2", "any shapes")
    graph = Graph("FIFOQueueV2", [S], shapes=[(2,)])
    graph.put(np.array([[b"a", b"bc"], [b"", b"d"]], object), many=True)
    graph.get("many", 2)
    yield graph.case("QueueDequeueManyV2", "strings")


def _rules() -> Iterator[Case]:
    graph = Graph("FIFOQueueV2", [F, N])
    graph.put(ONE(1))
    graph.put(ONE(1), ONE(1))
    graph.get("many", 1)
    graph.put(np.zeros(2, ONE), np.zeros(3, np.int32), many=True)
    graph.put(np.zeros(0, ONE), np.zeros(0, np.int32), many=True)
    graph.get("size")
    graph.nodes.append(node("QueueDequeueV2", "other", ["q"], component_types=[F, F]))
    graph.get("other")
    yield graph.case("QueueEnqueueV2", "signatures")
    graph = Graph("FIFOQueueV2", [F], shapes=[(2,)])
    graph.put(np.zeros(3, ONE))
    graph.put(np.zeros((1, 3), ONE), many=True)
    graph.put(np.zeros((1, 2, 1), ONE), many=True)
    yield graph.case("QueueEnqueueManyV2", "shapes")
    graph = Graph("FIFOQueueV2", [F, N], shapes=[(2,)])
    graph.get("size")
    yield graph.case("FIFOQueueV2", "too few shapes")


def _padding() -> Iterator[Case]:
    graph = Graph("PaddingFIFOQueueV2", [F, S], shapes=[(None, 2), (None,)])
    for rows in (1, 3, 2):
        graph.put(np.full((rows, 2), rows, ONE), np.array([b"x"] * rows, object))
    graph.put(np.zeros((1, 3), ONE), np.array([b"x"], object))
    graph.get("many", 2)
    graph.get("many", 0)
    graph.do("close")
    graph.get("up_to", 2)
    graph.get("up_to", 2)
    yield graph.case("PaddingFIFOQueueV2", "life")


def _priority() -> Iterator[Case]:
    graph = Graph("PriorityQueueV2", [L, S], component_types=[S], shapes=[()])
    for priority in (5, 1, 3):
        graph.put(np.int64(priority), np.array(b"%d" % priority, object))
    graph.put(np.array([0, 9]), np.array([b"a", b"b"], object), many=True)
    graph.get()
    graph.get("many", 3)
    graph.put(np.int32(1), np.array(b"x", object))
    graph.put(np.array([1]), np.array(b"x", object))
    graph.do("close")
    graph.get("many", 3)  # TensorFlow's queue loses the two that are left; ours does not, so nothing follows
    yield graph.case("PriorityQueueV2", "life")


def _shuffle() -> Iterator[Case]:
    for seed, seed2 in ((5, 7), (0, 1)):
        graph = Graph("RandomShuffleQueueV2", [N], shapes=[()], capacity=30, min_after_dequeue=3, seed=seed,
                      seed2=seed2)
        graph.put(np.arange(20, dtype=np.int32), many=True)
        for _ in range(6):
            graph.get()
        graph.get("many", 8)
        graph.put(np.arange(20, 25, dtype=np.int32), many=True)
        graph.get("many", 7)
        graph.do("close")
        graph.get()
        graph.get("up_to", 5)
        graph.get()
        yield graph.case("RandomShuffleQueueV2", f"seeds {seed} {seed2}")
    for capacity, behind in ((5, 5), (5, -1), (0, 0)):
        graph = Graph("RandomShuffleQueueV2", [N], capacity=capacity, min_after_dequeue=behind)
        graph.get("size")
        yield graph.case("RandomShuffleQueueV2", f"capacity {capacity} min {behind}")


def _sharing() -> Iterator[Case]:
    good: dict[str, Any] = {"component_types": [F], "shapes": [(2,)], "capacity": 5}
    wrong = {"types": {"component_types": [N]}, "shapes": {"shapes": [(3,)]}, "capacity": {"capacity": 6},
             "no shapes": {"shapes": []}, "none": {}}
    for label, change in wrong.items():
        nodes = [node("FIFOQueueV2", "q", shared_name="s", **good), node("QueueSizeV2", "first", ["q"]),
                 node("FIFOQueueV2", "r", shared_name="s", **{**good, **change}), node("QueueSizeV2", "op", ["r"])]
        yield graph_case("FIFOQueueV2", f"shared, other {label}", nodes, Run({}, ["first:0"]), Run({}, ["op:0"]))
    nodes = [node("FIFOQueueV2", "q", shared_name="s", **good), node("QueueSizeV2", "first", ["q"]),
             node("PriorityQueueV2", "r", shared_name="s", **good), node("QueueSizeV2", "op", ["r"])]
    yield graph_case("PriorityQueueV2", "shared, other kind", nodes, Run({}, ["first:0"]), Run({}, ["op:0"]))
    nodes = [node("FIFOQueueV2", "q", shared_name="_s", **good), node("QueueSizeV2", "op", ["q"])]
    yield graph_case("FIFOQueueV2", "bad name", nodes, Run({}, ["op:0"]))
