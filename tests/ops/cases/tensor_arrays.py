"""Cases of stacks and tensor arrays: what ops in one step leave for each other, in the order of their flows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy
from tests.ops.case import Case, Run, bf16, graph_case, node
from tests.ops.cases.variables import fed, feeds
from tests.ops.values import values

F, D, N, S = DataType.FLOAT, DataType.DOUBLE, DataType.INT32, DataType.STRING
KINDS = (np.float32, np.float64, np.float16, bf16, np.int32, np.int64, np.uint8, np.int8, np.complex64, np.bool_,
         object)
COUNTED = re.compile(r"(?<=[a-z])_[0-9]+")  # the number behind a resource's name
TWO = np.array([1, 2], np.float32)
THREE = np.array([1, 2, 3], np.float32)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _stacks()
    for kind in KINDS:
        yield from _round_trips(kind)
    yield from _write_rules()
    yield from _read_rules()
    yield from _gather_rules()
    yield from _concat_rules()
    yield from _scatter_rules()
    yield from _split_rules()
    yield from _gradients()


class Graph:
    """Nodes made one after the other, each waiting for the one before.

    Parameters
    ----------
    op : str
        ``StackV2`` or ``TensorArrayV3``.
    size : array
        Of the array or stack.
    **attrs
        Of its node, which is called ``a``.
    """

    def __init__(self, op: str, size: Any, **attrs: Any) -> None:
        self.feeds: dict[str, np.ndarray] = {}
        self.nodes: list[Any] = []
        self.flows = {"a": "a:1"}
        self.last = ""
        self.nodes.append(node(op, "a", [self.put(np.asarray(size, np.int32))], **attrs))

    def put(self, value: Any) -> str:
        """Feed a value; return the name of its placeholder."""
        name = f"x{len(self.feeds)}"
        self.feeds[name] = np.asarray(value)
        self.nodes += fed(**{name: self.feeds[name]})
        return name

    def add(self, op: str, name: str, inputs: Sequence[str], **attrs: Any) -> str:
        """Add a node that runs after the one added before."""
        self.nodes.append(node(op, name, [*inputs, *([f"^{self.last}"] if self.last else [])], **attrs))
        self.last = name
        return name

    def do(self, what: str, name: str, *inputs: Any, on: str = "a", **attrs: Any) -> str:
        """Add ``TensorArray<what>V3`` on an array, with these values as its inputs between handle and flow."""
        names = [self.put(value) for value in inputs]
        flow = [self.flows[on]] if what != "Close" else []
        if what in ("Write", "Scatter", "Split"):
            attrs.setdefault("T", from_numpy(self.feeds[names[1 if what != "Split" else 0]].dtype))
            self.flows[on] = name
        elif what == "Grad":
            self.flows[name] = f"{name}:1"
        elif what in ("Read", "Gather", "Concat"):
            attrs.setdefault("dtype", F)
        return self.add(f"TensorArray{what}V3", name, [on, *names, *flow], **attrs)

    def case(self, op: str, label: str, *fetches: str, **options: Any) -> Case:
        """Return the case; the last node runs even when it is not fetched."""
        run = Run(feeds(**self.feeds), list(fetches), [self.last])
        return graph_case(op, label, self.nodes, run, run, text=COUNTED, **options)


def _stacks() -> Iterator[Case]:
    for kind in KINDS:
        graph = Graph("StackV2", -1, elem_type=from_numpy(np.dtype(kind)))
        given = [values(kind, shape, number) for number, shape in enumerate(((2,), (), (2, 3)))]
        pushed = [graph.add("StackPushV2", f"push{i}", ["a", graph.put(value)], T=from_numpy(value.dtype))
                  for i, value in enumerate(given)]
        popped = [graph.add("StackPopV2", f"pop{i}", ["a"], elem_type=from_numpy(np.dtype(kind))) for i in range(3)]
        graph.add("StackCloseV2", "close", ["a"])
        for op in ("StackV2", "StackPushV2", "StackPopV2", "StackCloseV2"):
            yield graph.case(op, np.dtype(kind).name, *(f"{name}:0" for name in (*pushed, *popped)))
    for size, count in ((2, 3), (0, 1), (2, 2)):
        graph = Graph("StackV2", size, elem_type=F)
        for i in range(count):
            graph.add("StackPushV2", f"push{i}", ["a", graph.put(TWO)], T=F)
        yield graph.case("StackPushV2", f"{count} in {size}")
    graph = Graph("StackV2", -1, elem_type=F)
    graph.add("StackPopV2", "pop", ["a"], elem_type=F)
    yield graph.case("StackPopV2", "empty", "pop:0")
    graph = Graph("StackV2", -1, elem_type=F)
    graph.add("StackPushV2", "push", ["a", graph.put(np.array(1, np.int32))], T=N)
    yield graph.case("StackPushV2", "another type", "push:0")
    graph = Graph("StackV2", [1, 2], elem_type=F)
    graph.add("StackPushV2", "push", ["a", graph.put(TWO)], T=F)
    yield graph.case("StackV2", "a vector as size", "push:0")
    for op, inputs, attrs in (("StackPushV2", [TWO], {"T": F}), ("StackPopV2", [], {"elem_type": F}),
                              ("StackCloseV2", [], {})):
        graph = Graph("StackV2", -1, elem_type=F)
        graph.add("StackCloseV2", "close", ["a"])
        graph.add(op, "op", ["a", *(graph.put(value) for value in inputs)], **attrs)
        yield graph.case(op, "closed")


def _round_trips(kind: Any) -> Iterator[Case]:
    label = np.dtype(kind).name
    data_type = from_numpy(np.dtype(kind))
    rows = values(kind, (4, 3), 1)
    graph = Graph("TensorArrayV3", 5, dtype=data_type)
    graph.do("Scatter", "scatter", np.array([3, 0, 1, 2], np.int32), rows)
    graph.do("Write", "write", np.int32(4), values(kind, (3,), 2))
    graph.do("Size", "size")
    graph.do("Gather", "gather", np.array([4, 1, 0], np.int32), dtype=data_type)
    graph.do("Read", "read", np.int32(3), dtype=data_type)
    graph.do("Close", "close")
    for op in ("TensorArrayV3", "TensorArrayScatterV3", "TensorArrayWriteV3", "TensorArrayGatherV3",
               "TensorArrayReadV3", "TensorArraySizeV3", "TensorArrayCloseV3"):
        yield graph.case(op, label, "size:0", "gather:0", "read:0", "a:1", "write:0")
    graph = Graph("TensorArrayV3", 3, dtype=data_type)
    graph.do("Split", "split", values(kind, (6, 2), 3), np.array([1, 0, 5], np.int64))
    graph.do("Concat", "concat", dtype=data_type)
    for op in ("TensorArraySplitV3", "TensorArrayConcatV3"):
        yield graph.case(op, label, "concat:0", "concat:1")


def _write_rules() -> Iterator[Case]:
    bad: dict[str, tuple[Any, dict[str, Any], list[tuple[Any, Any]]]] = {
        "twice": (2, {}, [(0, TWO), (0, TWO)]), "behind": (2, {}, [(2, TWO)]), "negative": (2, {}, [(-1, TWO)]),
        "negative in dynamic": (2, {"dynamic_size": True}, [(-1, TWO)]),
        "growing": (0, {"dynamic_size": True}, [(3, TWO), (1, TWO), (7, THREE)]),
        "shape": (2, {"element_shape": (3,)}, [(0, TWO)]), "partial": (2, {"element_shape": (None,)}, [(0, TWO)]),
        "rank": (2, {"element_shape": (None, None)}, [(0, TWO)]),
        "other shapes": (2, {}, [(0, TWO), (1, THREE)]),
        "identical": (2, {"identical_element_shapes": True}, [(0, TWO), (1, THREE)]),
        "type": (2, {}, [(0, TWO.astype(np.float64))]), "an index vector": (2, {}, [([0], TWO)]),
    }
    for label, (size, attrs, writes) in bad.items():
        graph = Graph("TensorArrayV3", size, dtype=F, tensor_array_name="named" if size else "", **attrs)
        for i, (index, value) in enumerate(writes):
            graph.do("Write", f"write{i}", np.asarray(index, np.int32), value)
        graph.do("Size", "size")
        yield graph.case("TensorArrayWriteV3", label, "size:0")
    graph = Graph("TensorArrayV3", 1, dtype=F, clear_after_read=False)
    graph.do("Write", "write", np.int32(0), TWO)
    graph.do("Read", "read", np.int32(0))
    graph.do("Write", "again", np.int32(0), TWO)
    yield graph.case("TensorArrayWriteV3", "read already")
    for size in (-1, [1, 2]):
        graph = Graph("TensorArrayV3", size, dtype=F)
        graph.do("Size", "size")
        yield graph.case("TensorArrayV3", f"size {size}", "size:0")
    for what, inputs in (("Write", [np.int32(0), TWO]), ("Read", [np.int32(0)]), ("Size", []), ("Close", []),
                         ("Gather", [np.zeros(1, np.int32)]), ("Concat", []), ("Grad", []),
                         ("Scatter", [np.zeros(1, np.int32), TWO[:1]]), ("Split", [TWO, np.array([2], np.int64)])):
        graph = Graph("TensorArrayV3", 1, dtype=F)
        graph.do("Close", "close")
        graph.do(what, "op", *inputs, **({"source": "g"} if what == "Grad" else {}))
        yield graph.case(f"TensorArray{what}V3", "closed")


def _read_rules() -> Iterator[Case]:
    for label, index in {"unwritten": 1, "behind": 2, "negative": -1, "a vector": [0]}.items():
        for shape in (None, (2,), (None,)):
            graph = Graph("TensorArrayV3", 2, dtype=F, element_shape=shape)
            graph.do("Write", "write", np.int32(0), TWO)
            graph.do("Read", "read", np.asarray(index, np.int32))
            yield graph.case("TensorArrayReadV3", f"{label} {shape}", "read:0")
    for clear in (True, False):
        graph = Graph("TensorArrayV3", 2, dtype=F, clear_after_read=clear)
        graph.do("Write", "write", np.int32(0), TWO)
        graph.do("Read", "read", np.int32(0))
        graph.do("Read", "again", np.int32(0))
        yield graph.case("TensorArrayReadV3", f"twice {clear}", "read:0", "again:0")
    graph = Graph("TensorArrayV3", 2, dtype=F)
    graph.do("Write", "write", np.int32(0), TWO)
    graph.do("Read", "read", np.int32(0), dtype=D)
    yield graph.case("TensorArrayReadV3", "another type", "read:0")
    graph = Graph("TensorArrayV3", 2, dtype=F, identical_element_shapes=True)
    graph.do("Write", "write", np.int32(0), TWO)
    graph.do("Read", "read", np.int32(1))
    yield graph.case("TensorArrayReadV3", "unwritten, of known shape by now", "read:0")


def _gather_rules() -> Iterator[Case]:
    two = np.array([0, 1], np.int32)
    for label, indices, attrs, array_attrs in (
            ("unwritten", [0, 2], {}, {}), ("unwritten known", [2, 0], {}, {"element_shape": (2,)}),
            ("behind", [0, 3], {}, {}), ("twice", [0, 0], {}, {}), ("kept", [0, 0], {}, {"clear_after_read": False}),
            ("matrix", [[0, 1]], {}, {}), ("scalar", 0, {}, {}),
            ("wrong shape", [0, 1], {"element_shape": (3,)}, {}), ("right shape", [0, 1], {"element_shape": (2,)}, {}),
            ("wrong shape of array", [0, 1], {"element_shape": (3,)}, {"element_shape": (None,)}),
            ("none", [], {}, {}), ("none known", [], {"element_shape": (2, 3)}, {}),
            ("none known to the array", [], {}, {"element_shape": (2,)}),
            ("none part known", [], {"element_shape": (None, 3)}, {}),
            ("none, shape by writes", [], {}, {"identical_element_shapes": True}),
            ("another type", [0], {"dtype": D}, {})):
        graph = Graph("TensorArrayV3", 3, dtype=F, **array_attrs)
        graph.do("Scatter", "scatter", two, np.stack([TWO, TWO * 2]))
        graph.do("Gather", "gather", np.asarray(indices, np.int32), **attrs)
        yield graph.case("TensorArrayGatherV3", label, "gather:0")
    graph = Graph("TensorArrayV3", 2, dtype=F)
    graph.do("Write", "first", np.int32(0), TWO)
    graph.do("Write", "second", np.int32(1), THREE)
    graph.do("Gather", "gather", two)
    yield graph.case("TensorArrayGatherV3", "different shapes", "gather:0")


def _concat_rules() -> Iterator[Case]:
    for label, elements, attrs, size in (
            ("lengths", [TWO, THREE, TWO], {}, 3), ("matrices", [np.ones((2, 3), np.float32)] * 2, {}, 2),
            ("different", [np.ones((2, 3), np.float32), np.ones((2, 2), np.float32)], {}, 2),
            ("ranks", [np.ones((2, 3), np.float32), TWO], {}, 2),
            ("scalars", [np.float32(1)], {}, 1), ("later scalar", [TWO, np.float32(1)], {}, 2),
            ("unwritten", [TWO], {}, 2), ("nothing", [], {}, 0),
            ("nothing known", [], {"element_shape_except0": (3,)}, 0),
            ("nothing part known", [], {"element_shape_except0": (None,)}, 0),
            ("known", [TWO, THREE], {"element_shape_except0": ()}, 2),
            ("known wrong", [TWO, THREE], {"element_shape_except0": (2,)}, 2),
            ("another type", [TWO], {"dtype": D}, 1), ("empty", [np.zeros((0, 2), np.float32)], {}, 1)):
        graph = Graph("TensorArrayV3", size, dtype=F)
        for i, value in enumerate(elements):
            graph.do("Write", f"write{i}", np.int32(i), value)
        graph.do("Concat", "concat", **attrs)
        yield graph.case("TensorArrayConcatV3", label, "concat:0", "concat:1")


def _scatter_rules() -> Iterator[Case]:
    rows = np.arange(4, dtype=np.float32).reshape(2, 2)
    for label, indices, value, attrs in (
            ("behind", [0, 3], rows, {}), ("negative", [0, -1], rows, {}), ("twice", [1, 1], rows, {}),
            ("growing", [6, 2], rows, {"dynamic_size": True}), ("few", [0], rows, {}), ("many", [0, 1, 2], rows, {}),
            ("scalar", [0], np.float32(1), {}), ("index matrix", [[0, 1]], rows, {}), ("index scalar", 0, rows, {}),
            ("numbers", [1, 0, 2], THREE, {}), ("none", [], np.zeros((0, 2), np.float32), {}),
            ("shape", [0, 1], rows, {"element_shape": (3,)}), ("another type", [0], np.zeros(1, np.float64), {})):
        graph = Graph("TensorArrayV3", 3, dtype=F, **attrs)
        graph.do("Scatter", "scatter", np.asarray(indices, np.int32), value)
        graph.do("Size", "size")
        graph.do("Read", "read", np.int32(0 if not attrs.get("dynamic_size") else 6))
        fetched = ["size:0"] if label == "none" else ["size:0", "read:0"]
        if label == "none":
            graph.nodes.pop()
            graph.last = "size"
        yield graph.case("TensorArrayScatterV3", label, *fetched)


def _split_rules() -> Iterator[Case]:
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    for label, value, lengths, size, attrs in (
            ("even", rows, [2, 2], 2, {}), ("sum", rows, [2, 1], 2, {}), ("few", rows, [4], 2, {}),
            ("many", rows, [1, 1, 2], 2, {}), ("growing", rows, [1, 1, 2], 1, {"dynamic_size": True}),
            ("scalar", np.float32(1), [1], 1, {}), ("length scalar", rows, 4, 1, {}),
            ("length matrix", rows, [[4]], 1, {}),
            ("nothing", np.zeros((0, 2), np.float32), [], 0, {}), ("another type", np.zeros(2), [2], 1, {}),
            ("zero lengths", np.zeros((0, 2), np.float32), [0, 0], 2, {})):
        graph = Graph("TensorArrayV3", size, dtype=F, **attrs)
        graph.do("Split", "split", value, np.asarray(lengths, np.int64))
        graph.do("Size", "size")
        fetched = ["size:0"]
        if size:
            graph.do("Read", "read", np.int32(0))
            fetched.append("read:0")
        yield graph.case("TensorArraySplitV3", label, *fetched)


def _gradients() -> Iterator[Case]:
    for kind in KINDS:
        if kind in (np.bool_, object):
            continue
        data_type = from_numpy(np.dtype(kind))
        row = values(kind, (2,), 1)
        graph = Graph("TensorArrayV3", 4, dtype=data_type)
        graph.do("Scatter", "scatter", np.arange(3, dtype=np.int32), np.stack([row, row, row]))
        graph.do("Grad", "g", source="gradients")
        for i, (index, seed) in enumerate(((0, 2), (1, 3), (0, 4), (0, 5))):
            graph.do("Write", f"write{i}", np.int32(index), values(kind, (2,), seed), on="g")
        graph.do("Grad", "again", source="gradients")
        graph.do("Grad", "other", source="other")
        graph.do("Gather", "sums", np.array([2, 0, 1], np.int32), on="again", dtype=data_type)
        graph.do("Read", "zero", np.int32(0), on="other", dtype=data_type)
        graph.do("Size", "size", on="other")
        yield graph.case("TensorArrayGradV3", np.dtype(kind).name, "sums:0", "zero:0", "size:0", "g:1")
    scalars = np.array([1, 2], np.float32)
    graph = Graph("TensorArrayV3", 2, dtype=F)
    graph.do("Scatter", "scatter", np.arange(2, dtype=np.int32), scalars)
    graph.do("Grad", "g", source="gradients")
    for i in range(3):
        graph.do("Scatter", f"scatter{i}", np.arange(2, dtype=np.int32), scalars * i, on="g")
    graph.do("Gather", "sums", np.array([0, 1], np.int32), on="g")
    yield graph.case("TensorArrayGradV3", "scalars", "sums:0")
    for prefix in ([3], []):
        graph = Graph("TensorArrayV3", 2, dtype=F)
        graph.do("Write", "write", np.int32(0), TWO)
        graph.flows["g"] = "g:1"
        graph.add("TensorArrayGradWithShape", "g", ["a", "write", graph.put(np.array(prefix, np.int32))], source="s")
        graph.do("Read", "zeros", np.int32(0), on="g")
        yield graph.case("TensorArrayGradWithShape", str(prefix), "zeros:0")
    # what a loss must not do
    for label in ("after the read", "another shape", "unwritten", "unwritten known", "behind", "of a sum",
                  "growing", "cleared", "behind known", "gradient of a gradient", "read twice", "empty"):
        graph = Graph("TensorArrayV3", 2, dtype=F, element_shape=(2,) if "known" in label else None,
                      dynamic_size=label == "growing")
        graph.do("Write", "write", np.int32(0), np.zeros((0,), np.float32) if label == "empty" else TWO)
        if label == "cleared":
            graph.do("Read", "clear", np.int32(0))
        graph.do("Grad", "g", source="gradients")
        fetches = ["op:0"]
        if label == "after the read":
            graph.do("Read", "first", np.int32(0), on="g")
            graph.do("Write", "op", np.int32(0), TWO, on="g")
        elif label == "another shape":
            graph.do("Write", "op", np.int32(0), THREE, on="g")
        elif label.startswith("unwritten"):
            graph.do("Read", "op", np.int32(1), on="g")
        elif label.startswith("behind"):
            graph.do("Read", "op", np.int32(5), on="g")
        elif label == "of a sum":
            for i in range(2):
                graph.do("Write", f"sum{i}", np.int32(0), TWO, on="g")
            graph.do("Grad", "h", on="g", source="gradients")
            graph.do("Read", "op", np.int32(0), on="h")
        elif label == "growing":
            graph.do("Write", "op", np.int32(2), TWO)
        elif label == "gradient of a gradient":
            graph.do("Write", "once", np.int32(0), TWO, on="g")
            graph.do("Grad", "h", on="g", source="gradients")
            graph.do("Read", "op", np.int32(0), on="h")
        elif label == "empty":
            for i in range(2):
                graph.do("Write", f"sum{i}", np.int32(0), np.zeros((0,), np.float32), on="g")
            graph.do("Read", "op", np.int32(0), on="g")
        else:
            graph.do("Read", "first", np.int32(0), on="g")
            graph.do("Read", "op", np.int32(0), on="g")
        yield graph.case("TensorArrayGradV3", label, *fetches)
