"""Cases of lists of tensors: chains of ops in one step, since lists themselves cannot be fetched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy
from tests.ops.case import Case, Run, bf16, graph_case, node
from tests.ops.cases.variables import fed, feeds
from tests.ops.values import values

F, D, N, V = DataType.FLOAT, DataType.DOUBLE, DataType.INT32, DataType.VARIANT
KINDS = (np.float32, np.float64, np.float16, bf16, np.int32, np.int64, np.uint8, np.int8, np.complex64, np.bool_,
         object)
PLAIN = ("EmptyTensorList", "AddN", "ZerosLike", "Pack", "Unpack", "Reshape")  # ops that are called so
ANY = np.array(-1, np.int32)
TWO = np.array([1, 2], np.float32)
THREE = np.array([1, 2, 3], np.float32)
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def ints(numbers: Any) -> np.ndarray:
    """Return numbers of 32 bits, as shapes and indices are given."""
    return np.array(numbers, np.int32)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in KINDS:
        yield from _of_type(kind)
    yield from _making()
    yield from _pushing()
    yield from _popping()
    yield from _items()
    yield from _wholes()
    yield from _stacking()
    yield from _gathering()
    yield from _scattering()
    yield from _splitting()
    yield from _concatenating()
    yield from _sums()


class Graph:
    """A chain of list ops; every method that makes a node returns its name."""

    def __init__(self, kind: DataType = F) -> None:
        self.kind = kind
        self.feeds: dict[str, np.ndarray] = {}
        self.nodes: list[Any] = []

    def put(self, value: Any, dtype: Any = None) -> str:
        """Feed a value."""
        name = f"x{len(self.feeds)}"
        self.feeds[name] = np.asarray(value, dtype)
        self.nodes += fed(**{name: self.feeds[name]})
        return name

    def op(self, what: str, *inputs: Any, **attrs: Any) -> str:
        """Add ``TensorList<what>``; arrays among the inputs are fed, names are connected."""
        op = what if what in PLAIN else f"TensorList{what}"
        names = [value if isinstance(value, str) else self.put(value) for value in inputs]
        if op.startswith(("Tensor", "Empty")):
            if what not in ("Length", "ElementShape", "Resize"):
                attrs.setdefault("element_dtype", self.kind)
            if what in ("Reserve", "EmptyTensorList", "FromTensor", "ScatterV2", "Scatter", "Split", "ConcatV2"):
                place = 0 if what in ("Reserve", "EmptyTensorList") else 2 if what.startswith("Scatter") else 1
                attrs.setdefault("shape_type", from_numpy(self.feeds[names[place]].dtype))
        else:
            attrs.setdefault("T", V)
        name = f"n{len(self.nodes)}"
        self.nodes.append(node(op, name, names, **attrs))
        return name

    def of(self, *elements: Any, shape: Any = ANY, unset: int = 0) -> str:
        """Make a list of these elements and some unset ones behind."""
        made = self.op("EmptyTensorList", shape, np.int32(-1))
        for element in elements:
            made = self.op("PushBack", made, element)
        return self.op("Resize", made, np.int32(len(elements) + unset)) if unset else made

    def hide(self, made: str) -> str:
        """Hide a list's type from shape functions, so that the kernel has to find out."""
        return self.op("Unpack", self.op("Pack", made, N=1), num=1)

    def seen(self, made: str) -> list[str]:
        """Return what to fetch to see a list: length, shape, and every element if all have one shape."""
        return [f"{self.op('Length', made)}:0", f"{self.op('ElementShape', made, shape_type=N)}:0"]

    def case(self, op: str, label: str, *fetches: str, targets: Sequence[str] = (), **options: Any) -> Case:
        """Return the case."""
        op = op if op in PLAIN else f"TensorList{op}"
        run = Run(feeds(**self.feeds), [name if ":" in name else f"{name}:0" for name in fetches], targets)
        return graph_case(op, label, self.nodes, run, **options)


def _of_type(kind: Any) -> Iterator[Case]:
    label, data_type = np.dtype(kind).name, from_numpy(np.dtype(kind))
    first, second = values(kind, (2, 3), 1), values(kind, (2, 3), 2)
    shape = ints([2, 3])
    graph = Graph(data_type)
    made = graph.of(first, second, shape=shape, unset=1)
    last = graph.op("PopBack", made, shape)
    made = graph.op("SetItem", made, np.int32(0), second)
    item = graph.op("GetItem", made, np.int32(0), ANY)
    stack = graph.op("Stack", made, ANY)
    zeros = graph.op("ZerosLike", made)
    whole = graph.op("Stack", zeros, shape)
    some = graph.op("Gather", made, ints([2, 0]), ANY)
    flat = graph.op("ConcatV2", made, ANY, np.array([], np.int64))
    fetches = (f"{last}:1", item, stack, some, flat, f"{flat}:1")
    for op in ("EmptyTensorList", "PushBack", "PopBack", "SetItem", "GetItem", "Stack", "Gather", "ConcatV2", "Resize"):
        yield graph.case(op, label, *fetches)
    yield graph.case("ZerosLike", label, whole)
    rows = values(kind, (4, 3), 3)
    graph = Graph(data_type)
    made = graph.op("FromTensor", rows, np.array([3], np.int64))
    parts = graph.op("Split", rows, ints([-1, 3]), np.array([1, 0, 3], np.int64))
    spread = graph.op("ScatterV2", rows, ints([4, 0, 1, 2]), ANY, np.int32(6))
    into = graph.op("ScatterIntoExistingList", made, rows[:2], ints([1, 3]))
    both = graph.op("ConcatLists", graph.op("ScatterV2", rows, np.arange(4, dtype=np.int32), ANY, np.int32(4)), spread)
    fetches = tuple(graph.op("Stack", name, ANY) for name in (made, spread, into, both))
    flat = graph.op("ConcatV2", parts, ANY, np.array([], np.int64))
    for op in ("FromTensor", "Split", "ScatterV2", "ScatterIntoExistingList", "ConcatLists"):
        yield graph.case(op, label, *fetches, flat, f"{flat}:1")
    if kind not in (np.bool_, object):
        graph = Graph(data_type)
        left, right = graph.of(first, second, unset=2), graph.of(second, unset=3)
        right = graph.op("SetItem", right, np.int32(2), first)
        yield graph.case("AddN", label, graph.op("Stack", graph.op("AddN", left, right, left, N=3), ANY))


def _making() -> Iterator[Case]:
    for label, shape in {"unknown": -1, "scalar 0": 0, "scalar 3": 3, "scalar": [], "some": [-1, 2], "known": [4],
                         "below": [-2], "matrix": [[1, 2]]}.items():
        for dtype in (np.int32, np.int64):
            for op, inputs in (("EmptyTensorList", [np.array(shape, dtype), np.int32(3)]),
                               ("Reserve", [np.array(shape, dtype), np.int32(3)])):
                graph = Graph()
                yield graph.case(op, f"{label} {np.dtype(dtype).name}", *graph.seen(graph.op(op, *inputs)))
    for count in (-1, 0, [2], [1, 2]):
        for op in ("EmptyTensorList", "Reserve"):
            graph = Graph()
            yield graph.case(op, f"count {count}", *graph.seen(graph.op(op, ANY, ints(count))))
    for label, tensor, shape in (("scalar", np.float32(1), []), ("vector", THREE, []), ("wrong", ROWS, [3]),
                                 ("part", ROWS, [-1]), ("unknown", ROWS, -1), ("none", ROWS[:0], [2]),
                                 ("rank", ROWS, [2, 1])):
        graph = Graph()
        made = graph.op("FromTensor", tensor, ints(shape))
        yield graph.case("FromTensor", label, *graph.seen(made), graph.op("Stack", made, ints(tensor.shape[1:])))


def _pushing() -> Iterator[Case]:
    for label, shape, limit, elements in (
            ("wrong", [3], -1, [TWO]), ("part", [-1], -1, [TWO]), ("rank", [-1, -1], -1, [TWO]),
            ("full", -1, 1, [TWO, TWO]), ("no room", -1, 0, [TWO]), ("room", -1, 2, [TWO, TWO])):
        graph = Graph()
        made = graph.op("EmptyTensorList", ints(shape), np.int32(limit))
        for element in elements:
            made = graph.op("PushBack", made, element)
        yield graph.case("PushBack", label, *graph.seen(made))
    graph = Graph()
    made = graph.hide(graph.of(TWO))
    graph.kind = D
    yield graph.case("PushBack", "another type", *graph.seen(graph.op("PushBack", made, TWO.astype(np.float64))))
    graph = Graph()
    base = graph.of(TWO)
    left, right = graph.op("PushBack", base, TWO * 2), graph.op("PushBack", base, TWO * 3)
    yield graph.case("PushBack", "two from one", *(graph.op("Stack", name, ANY) for name in (base, left, right)))
    for label, tensor, shape in (("rows", ROWS[:2], -1), ("few", ROWS[:1], -1), ("many", ROWS, -1),
                                 ("shape", ROWS[:2], [3]), ("scalar", np.float32(1), -1), ("numbers", TWO, -1)):
        graph = Graph()
        lists = graph.op("Pack", graph.of(shape=ints(shape)), graph.of(shape=ints(shape)),
                         N=2)
        pushed = graph.op("PushBackBatch", lists, tensor)
        parts = graph.op("Unpack", pushed, num=2)
        again = graph.op("PushBackBatch", pushed, tensor)
        more = graph.op("Unpack", again, num=2)
        yield graph.case("PushBackBatch", label, *(graph.op("Stack", name, ANY) for name in (
            parts, f"{parts}:1", more, f"{more}:1")))
    graph = Graph()
    lists = graph.op("Pack", graph.hide(graph.of()), graph.hide(graph.of()), N=2)
    graph.kind = D
    pushed = graph.op("Unpack", graph.op("PushBackBatch", lists, np.zeros(2)), num=2)
    yield graph.case("PushBackBatch", "another type", graph.op("Length", pushed))


def _popping() -> Iterator[Case]:
    for label, elements, unset, list_shape, shape in (
            ("empty", [], 0, -1, -1), ("empty known", [], 0, [2], [2]), ("unset", [], 1, -1, -1),
            ("unset known", [], 1, -1, [3]), ("unset known to the list", [], 1, [3], -1),
            ("unset part", [], 1, [-1, 3], [2, -1]), ("unset mismatch", [], 1, [3], [2]),
            ("unset rank", [], 1, [3], [2, 3]), ("unset, known by others", [TWO], 1, -1, -1),
            ("wrong shape", [TWO], 0, -1, [3]), ("right shape", [TWO], 0, -1, [2])):
        graph = Graph()
        made = graph.of(*elements, shape=ints(list_shape), unset=unset)
        popped = graph.op("PopBack", made, ints(shape))
        yield graph.case("PopBack", label, *graph.seen(popped), f"{popped}:1")
    graph = Graph()
    made = graph.hide(graph.of(TWO))
    graph.kind = D
    yield graph.case("PopBack", "another type", f"{graph.op('PopBack', made, ANY)}:1")
    graph = Graph()
    made = graph.of(*(np.float32(i) for i in range(130)))
    popped = made
    for _ in range(3):
        popped = graph.op("PopBack", popped, ANY)
    pushed = graph.op("PushBack", popped, np.float32(-1))
    yield graph.case("PopBack", "many", *(graph.op("Stack", name, ANY) for name in (made, popped, pushed)))


def _items() -> Iterator[Case]:
    for label, index, unset, list_shape, shape in (
            ("behind", 2, 0, -1, -1), ("negative", -1, 0, -1, -1), ("unset", 2, 1, -1, -1),
            ("unset alone", 0, 1, -1, -1), ("unset alone known", 0, 1, -1, [3]),
            ("unset alone known to the list", 0, 1, [3], -1), ("unset part", 0, 1, [-1], -1),
            ("unset mismatch", 0, 1, [3], [2]), ("wrong shape", 0, 0, -1, [3]), ("last", 1, 0, [-1], -1),
            ("a vector", [0], 0, -1, -1)):
        graph = Graph()
        elements = [] if "alone" in label or label in ("unset part", "unset mismatch") else [TWO, TWO * 2]
        made = graph.of(*elements, shape=ints(list_shape), unset=unset)
        yield graph.case("GetItem", label, graph.op("GetItem", made, ints(index), ints(shape)))
    graph = Graph()
    made = graph.of(TWO, THREE, unset=1)
    yield graph.case("GetItem", "unset between shapes", graph.op("GetItem", made, np.int32(2), ANY))
    graph = Graph()
    yield graph.case("GetItem", "shape of 64 bits", graph.op("GetItem", graph.of(unset=1), np.int32(0),
                                                            np.array([2], np.int64), Tshape=np.int64))
    graph = Graph()
    made = graph.hide(graph.of(TWO))
    graph.kind = D
    yield graph.case("GetItem", "another type", graph.op("GetItem", made, np.int32(0), ANY))
    for label, index, resizes in (("first", 0, False), ("behind", 2, False), ("negative", -1, False),
                                  ("growing", 4, True), ("not growing", 1, True),
                                  ("a vector", [0], False)):
        graph = Graph()
        base = graph.of(TWO, TWO * 2)
        made = graph.op("SetItem", base, ints(index), TWO * 9, resize_if_index_out_of_bounds=resizes)
        yield graph.case("SetItem", label, *(graph.op("Stack", name, ANY) for name in (base, made)))
    graph = Graph()
    yield graph.case("SetItem", "shape", *graph.seen(graph.op("SetItem", graph.of(unset=1, shape=ints([3])),
                                                             np.int32(0), TWO)))
    graph = Graph()
    made = graph.hide(graph.of(TWO))
    graph.kind = D
    yield graph.case("SetItem", "another type", *graph.seen(graph.op("SetItem", made, np.int32(0), np.zeros(2))))
    graph = Graph()
    base = made = graph.op("Reserve", ints([]), np.int32(200))
    for i in (0, 63, 64, 127, 128, 199, 64):
        made = graph.op("SetItem", made, np.int32(i), np.float32(i + 1))
    yield graph.case("SetItem", "many", *(graph.op("Stack", name, ANY) for name in (base, made)))


def _wholes() -> Iterator[Case]:
    for size in (-1, 0, 1, 2, 5, [2], [1, 2]):
        graph = Graph()
        made = graph.op("Resize", graph.of(TWO, TWO * 2), ints(size))
        yield graph.case("Resize", str(size), *graph.seen(made), graph.op("Stack", made, ints([2])))
    for start, steps in ((100, (64, 130, 63, 128)), (0, (65, 64, 200, 0, 1))):
        graph = Graph()
        made = graph.op("Reserve", ints([]), np.int32(start))
        fetches = []
        for size in steps:
            made = graph.op("Resize", made, np.int32(size))
            fetches += [*graph.seen(made), graph.op("Stack", made, ANY)]
            made = graph.op("PushBack", made, np.float32(size))
            fetches += [graph.op("Stack", made, ANY)]
        yield graph.case("Resize", f"from {start}", *fetches)
    for dtype in (np.int32, np.int64):
        for shape in (-1, [-1, 3], [2, 3], []):
            graph = Graph()
            made = graph.of(shape=ints(shape))
            yield graph.case("ElementShape", f"{shape} {np.dtype(dtype).name}",
                             graph.op("ElementShape", made, shape_type=dtype))
    graph = Graph()
    yield graph.case("Length", "of several", graph.op("Length", graph.op("Pack", graph.of(), graph.of(), N=2)))
    graph = Graph()
    yield graph.case("Length", "of 3", graph.op("Length", graph.of(TWO, TWO, unset=1)))
    for label, left, right in (("known and not", [2], -1), ("same", [2], [2]), ("other", [2], [3]),
                               ("part", [-1], [2])):
        graph = Graph()
        made = graph.op("ConcatLists", graph.of(shape=ints(left), unset=1),
                        graph.of(shape=ints(right), unset=2))
        yield graph.case("ConcatLists", label, *graph.seen(made))
    graph = Graph()
    pairs = [graph.op("Pack", graph.of(TWO), graph.of(TWO * 2, TWO * 3), N=2) for _ in range(2)]
    both = graph.op("Unpack", graph.op("ConcatLists", *pairs), num=2)
    yield graph.case("ConcatLists", "several", graph.op("Stack", both, ANY), graph.op("Stack", f"{both}:1", ANY))
    graph = Graph()
    pair, hidden = graph.op("Pack", graph.of(), graph.of(), N=2), graph.put(ints([-1]))
    pair = graph.op("Reshape", pair, hidden)
    both = graph.op("ConcatLists", pair, graph.op("Reshape", graph.of(), hidden))
    yield graph.case("ConcatLists", "other shapes", graph.op("Length", graph.op("Unpack", both, num=2)))
    for other in "ab":
        graph = Graph()
        left = graph.hide(graph.of(TWO))
        graph.kind = D
        right = graph.hide(graph.of(np.zeros(2)))
        graph.kind = D if other == "a" else F
        yield graph.case("ConcatLists", f"another type in {other}", *graph.seen(graph.op("ConcatLists", left, right)))


def _stacking() -> Iterator[Case]:
    for label, elements, unset, list_shape, shape, count in (
            ("count", [TWO], 0, -1, -1, 1), ("wrong count", [TWO], 0, -1, -1, 2), ("empty", [], 0, -1, -1, -1),
            ("empty known", [], 0, -1, [2], -1), ("empty part", [], 0, [-1, 2], [-1, -1], -1),
            ("unset", [], 2, -1, -1, -1), ("unset known", [], 2, -1, [2], -1), ("unset part", [], 2, [-1], -1, -1),
            ("shapes", [TWO, THREE], 0, -1, -1, -1), ("shapes part", [TWO, THREE], 0, [-1], -1, -1),
            ("shapes in part", [TWO, THREE], 0, -1, [-1], -1), ("wrong shape", [TWO], 0, -1, [3], -1),
            ("wrong shape of list", [TWO], 0, [2], [3], -1), ("rank", [TWO, np.float32(1)], 0, -1, -1, -1),
            ("scalars", [np.float32(1), np.float32(2)], 1, -1, -1, -1),
            ("no elements", [np.zeros((0, 2), np.float32)], 1, -1, -1, -1), ("scalar shape", [TWO], 0, -1, 2, -1)):
        graph = Graph()
        made = graph.of(*elements, shape=ints(list_shape), unset=unset)
        yield graph.case("Stack", label, graph.op("Stack", made, ints(shape), num_elements=count))
    graph = Graph()
    made = graph.hide(graph.of(TWO))
    graph.kind = D
    yield graph.case("Stack", "another type", graph.op("Stack", made, ANY))


def _gathering() -> Iterator[Case]:
    for label, elements, unset, indices, shape in (
            ("behind", [TWO], 0, [0, 1], -1), ("negative", [TWO], 0, [-1], -1), ("none", [TWO], 0, [], -1),
            ("none known", [TWO], 0, [], [2]), ("matrix", [TWO, TWO * 2], 0, [[0, 1], [1, 0]], -1),
            ("scalar", [TWO], 0, 0, -1), ("unset", [], 2, [0, 1], -1), ("unset known", [], 2, [0, 1], [3]),
            ("unset of set", [TWO], 1, [1], -1), ("shapes", [TWO, THREE], 0, [0, 1], -1),
            ("one of the shapes", [TWO, THREE], 0, [1, 1], -1), ("wrong shape", [TWO], 0, [0], [3]),
            ("wrong shape, scalar", [TWO], 0, [0], 3)):
        graph = Graph()
        made = graph.of(*elements, unset=unset)
        yield graph.case("Gather", label, graph.op("Gather", made, ints(indices), ints(shape)))
    graph = Graph()
    made = graph.hide(graph.of(TWO))
    graph.kind = D
    yield graph.case("Gather", "another type", graph.op("Gather", made, np.zeros(1, np.int32), ANY))


def _scattering() -> Iterator[Case]:
    for label, tensor, indices, shape, count in (
            ("as many", ROWS, [0, 2, 1], -1, 3), ("more", ROWS, [0, 2, 1], [2], 5), ("fewer", ROWS, [0, 3, 1], -1, 3),
            ("open", ROWS, [0, 4, 1], -1, -1), ("below", ROWS, [0, 2, 1], -1, -2),
            ("negative", ROWS, [0, -1, 1], -1, 3),
            ("twice", ROWS, [1, 1, 1], -1, 3), ("few", ROWS, [0, 1], -1, 3), ("many", ROWS, [0, 1, 2, 3], -1, 4),
            ("shape", ROWS, [0, 1, 2], [3], 3), ("scalar", np.float32(1), [0], -1, 1), ("none", ROWS[:0], [], [2], 2),
            ("numbers", THREE, [2, 1, 0], [], 3), ("matrix", ROWS, [[0, 1, 2]], -1, 3),
            ("none open", ROWS[:0], [], [2], -1)):
        for op in ("ScatterV2", "Scatter"):
            graph = Graph()
            more = [np.int32(count)] if op == "ScatterV2" else []
            made = graph.op(op, tensor, ints(indices), ints(shape), *more)
            yield graph.case(op, label, *graph.seen(made), graph.op("Stack", made, ints(tensor.shape[1:])))
        if label != "negative":  # TensorFlow's server ends there
            graph = Graph()
            base = graph.op("Resize", graph.of(*[TWO] * (label not in ("shape", "numbers")),
                                               shape=ints(shape)), np.int32(5))
            made = graph.op("ScatterIntoExistingList", base, tensor, ints(indices))
            yield graph.case("ScatterIntoExistingList", label, *graph.seen(made), *(
                graph.op("Stack", name, ANY if name == base else ints(tensor.shape[1:]))
                for name in (base, made)[label in ("shape", "numbers", "scalar"):]))
    graph = Graph()
    made = graph.hide(graph.of(TWO))
    graph.kind = D
    yield graph.case("ScatterIntoExistingList", "another type", *graph.seen(
        graph.op("ScatterIntoExistingList", made, np.zeros((1, 2)), np.zeros(1, np.int32))))


def _splitting() -> Iterator[Case]:
    for label, tensor, shape, lengths in (
            ("even", ROWS, [1, 2], [1, 1, 1]), ("uneven", ROWS, [-1, 2], [2, 0, 1]), ("unknown", ROWS, -1, [3]),
            ("unused", ROWS, -1, [1]), ("too long", ROWS, -1, [2, 2]), ("negative", ROWS, -1, [4, -1]),
            ("scalar", np.float32(1), -1, [1]), ("scalar lengths", ROWS, -1, 3), ("matrix", ROWS, -1, [[3]]),
            ("shape", ROWS, [-1, 3], [3]), ("scalar shape", ROWS, [], [3]), ("none", ROWS[:0], -1, []),
            ("first wrong", ROWS, [2, 2], [3]), ("rank", ROWS, [-1], [3])):
        graph = Graph()
        made = graph.op("Split", tensor, ints(shape), np.array(lengths, np.int64))
        fetches = [*graph.seen(made)]
        if label == "uneven":
            flat = graph.op("ConcatV2", made, ANY, np.array([], np.int64))
            fetches += [flat, f"{flat}:1"]
        yield graph.case("Split", label, *fetches)


def _concatenating() -> Iterator[Case]:
    for label, elements, unset, list_shape, shape, leading in (
            ("lengths", [TWO, THREE], 0, -1, -1, []), ("matrices", [ROWS, ROWS[:1]], 0, -1, -1, []),
            ("scalars", [np.float32(1)], 0, -1, -1, []), ("scalar shape", [], 1, -1, [], []),
            ("later scalar", [TWO, np.float32(1)], 0, -1, -1, []), ("ranks", [TWO, ROWS], 0, -1, -1, []),
            ("rest", [ROWS, ROWS[:, :1]], 0, -1, -1, []), ("empty", [], 0, -1, -1, []),
            ("empty known", [], 0, -1, [-1, 2], []), ("empty vectors", [], 0, [-1], -1, []),
            ("unset same", [TWO, TWO], 1, -1, -1, []), ("unset different", [TWO, THREE], 1, -1, -1, []),
            ("unset leading", [TWO, THREE], 1, -1, -1, [0, 0, 4]),
            ("unset short leading", [TWO, THREE], 1, -1, -1, [2]),
            ("unset same leading", [TWO, TWO], 1, -1, -1, [2, 2, 1]), ("unset alone", [], 2, -1, -1, []),
            ("unset alone known", [], 2, -1, [3, 2], []), ("unset alone leading", [], 2, -1, [-1, 2], [1, 2]),
            ("unset first known to the list", [], 2, [3], -1, []), ("first wrong", [TWO], 0, -1, [3], []),
            ("first right", [TWO], 0, -1, [2], []), ("rest wrong", [ROWS], 0, -1, [-1, 3], []),
            ("list and input", [TWO], 0, [2], [3], []), ("known list", [TWO, TWO], 1, [2], -1, [])):
        graph = Graph()
        made = graph.of(*elements, shape=ints(list_shape), unset=unset)
        flat = graph.op("ConcatV2", made, ints(shape), np.array(leading, np.int64))
        yield graph.case("ConcatV2", label, flat, f"{flat}:1")
        if not leading:
            graph = Graph()
            made = graph.of(*elements, shape=ints(list_shape), unset=unset)
            wanted = None if shape == -1 else tuple(None if dim == -1 else dim for dim in shape)
            flat = graph.op("Concat", made, element_shape=wanted)
            yield graph.case("Concat", label, flat, f"{flat}:1")
    graph = Graph()
    made = graph.hide(graph.of(TWO))
    graph.kind = D
    yield graph.case("ConcatV2", "another type", graph.op("ConcatV2", made, ANY, np.array([], np.int64)))


def _sums() -> Iterator[Case]:
    for label, left, right in (
            ("lengths", ([TWO], 0, -1), ([TWO, TWO], 0, -1)), ("shapes", ([TWO], 0, -1), ([THREE], 0, -1)),
            ("list shapes", ([], 1, [2]), ([], 1, [3])), ("part", ([TWO], 1, [-1]), ([TWO], 1, [2])),
            ("unset", ([TWO], 2, -1), ([], 3, -1)), ("nothing", ([], 0, [2]), ([], 0, -1))):
        graph = Graph()
        lists = [graph.of(*elements, unset=unset, shape=ints(shape))
                 for elements, unset, shape in (left, right)]
        total = graph.op("AddN", *lists, N=2)
        yield graph.case("AddN", label, *graph.seen(total), graph.op("Stack", total, ints([2])))
    graph = Graph()
    left = graph.hide(graph.of(TWO))
    graph.kind = D
    right = graph.hide(graph.of(np.zeros(2)))
    yield graph.case("AddN", "types", *graph.seen(graph.op("AddN", left, right, N=2)))
    graph = Graph()
    zeros = graph.op("ZerosLike", graph.of(TWO, THREE, unset=1))
    yield graph.case("ZerosLike", "shapes", *graph.seen(zeros), *(
        graph.op("GetItem", zeros, np.int32(i), ints([1 + i if i else 2])) for i in range(3)))
    graph = Graph(V)
    pair = [graph.op("EmptyTensorList", ANY, np.int32(-1), element_dtype=F) for _ in range(2)]
    pair[0] = graph.op("PushBack", pair[0], TWO, element_dtype=F)
    nested = graph.op("EmptyTensorList", ANY, np.int32(-1))
    for inner in pair:
        nested = graph.op("PushBack", nested, inner)
    twice = graph.op("AddN", nested, graph.op("ZerosLike", nested), nested, N=3)
    first = graph.op("GetItem", twice, np.int32(0), ANY)
    yield graph.case("AddN", "lists of lists", graph.op("Stack", first, ANY, element_dtype=F),
                     graph.op("Length", graph.op("GetItem", twice, np.int32(1), ANY)))
