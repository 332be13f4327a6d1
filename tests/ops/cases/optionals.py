"""Cases of optionals: chains of ops in one step, since variants cannot be fetched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy
from tests.ops.case import COMPLEX, FLOATS, INTEGERS, Case, Run, as_array, graph_case, node
from tests.ops.cases.variables import fed, feeds

F, N, S, V = DataType.FLOAT, DataType.INT32, DataType.STRING, DataType.VARIANT
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)
ONE = np.array(1, np.int32)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in (*FLOATS, *INTEGERS, *COMPLEX, np.bool_, object):
        value = as_array(["a", "", "ccc"]) if kind is object else np.array([0, 1, 3]).astype(kind)
        yield _round_trip(f"{kind.__name__}", value)
    yield _round_trip("two", ROWS, ONE)
    yield _round_trip("empty", np.zeros((0, 3), np.float32))
    yield from _rules()
    yield from _sums()


def _from(name: str, *values: np.ndarray) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Return the nodes that make an optional of fed values, and the feeds."""
    inputs = {f"{name}_{number}": value for number, value in enumerate(values)}
    made = node("OptionalFromValue", name, list(inputs), Toutput_types=[from_numpy(value.dtype) for value in values])
    return [*fed(**inputs), made], feeds(**inputs)


def _get(name: str, source: str, *values: np.ndarray, **attrs: Any) -> Any:
    """Return the node that takes values like these out of an optional."""
    attrs.setdefault("output_shapes", [value.shape for value in values])
    attrs.setdefault("output_types", [from_numpy(value.dtype) for value in values])
    return node("OptionalGetValue", name, [source], **attrs)


def _round_trip(name: str, *values: np.ndarray) -> Case:
    nodes, fed_values = _from("from", *values)
    nodes += [_get("get", "from", *values), node("OptionalHasValue", "has", ["from"]), node("OptionalNone", "none"),
              node("OptionalHasValue", "has_not", ["none"])]
    return graph_case("OptionalFromValue", name, nodes,
                      Run(fed_values, [*(f"get:{slot}" for slot in range(len(values))), "has:0", "has_not:0"]))


def _rules() -> Iterator[Case]:
    yield graph_case("OptionalGetValue", "none",
                     [node("OptionalNone", "none"), _get("get", "none", ROWS)], Run({}, ["get:0"]))
    nodes, fed_values = _from("from", ROWS, ONE)
    wrong = {"number": _get("get", "from", ROWS),
             "type": _get("get", "from", ROWS, ONE, output_types=[F, F]),
             "shape": _get("get", "from", ROWS, ONE, output_shapes=[(3, 3), ()]),
             "rank": _get("get", "from", ROWS, ONE, output_shapes=[(3, 2), (1,)])}
    for name, get in wrong.items():
        yield graph_case("OptionalGetValue", name, [*nodes, get], Run(fed_values, ["get:0"]))
    partly = _get("get", "from", ROWS, ONE, output_shapes=[(None, 2), None])
    yield graph_case("OptionalGetValue", "unknown dimensions", [*nodes, partly], Run(fed_values, ["get:0", "get:1"]))
    several = [*nodes, *fed(shape=np.array([2], np.int32)), node("Pack", "pack", ["from", "from"], N=2, T=V),
               node("Reshape", "reshape", ["pack", "shape"], T=V, Tshape=N),
               node("OptionalHasValue", "has", ["reshape"])]
    yield graph_case("OptionalHasValue", "no scalar", several,
                     Run({**fed_values, "shape:0": np.array([2], np.int32)}, ["has:0"]))
    other = [node("EmptyTensorList", "list", ["shape", "limit"], element_dtype=F, shape_type=N),
             *fed(shape=np.array([], np.int32), limit=ONE), node("OptionalHasValue", "has", ["list"]),
             _get("get", "list", ROWS)]
    other = other[1:3] + other[:1] + other[3:]
    list_feeds = feeds(shape=np.array([], np.int32), limit=ONE)
    yield graph_case("OptionalHasValue", "a list", other, Run(list_feeds, ["has:0"]), Run(list_feeds, ["get:0"]))
    yield _none()


def _none() -> Case:
    return graph_case("OptionalNone", "", [node("OptionalNone", "none"), node("OptionalHasValue", "has", ["none"])],
                      Run({}, ["has:0"]))


def _sums() -> Iterator[Case]:
    for kind in (np.float32, np.int64, np.complex64):
        a, b = np.array([1, 2, 3]).astype(kind), np.array([10, 20, 30]).astype(kind)
        left, left_feeds = _from("a", a, ROWS)
        right, right_feeds = _from("b", b, ROWS)
        nodes = [*left, *right, node("AddN", "sum", ["a", "b", "a"], N=3, T=V), node("ZerosLike", "zeros", ["a"], T=V),
                 _get("of_sum", "sum", a, ROWS), _get("of_zeros", "zeros", a, ROWS)]
        yield graph_case("OptionalGetValue", f"sums {kind.__name__}", nodes, Run(
            {**left_feeds, **right_feeds}, ["of_sum:0", "of_sum:1", "of_zeros:0", "of_zeros:1"]))
    nothing = [node("OptionalNone", "none"), node("AddN", "sum", ["none", "none"], N=2, T=V),
               node("ZerosLike", "zeros", ["none"], T=V), node("OptionalHasValue", "has", ["sum"]),
               node("OptionalHasValue", "zeros_has", ["zeros"])]
    yield graph_case("OptionalHasValue", "sum of nothing", nothing, Run({}, ["has:0", "zeros_has:0"]))
    one, one_feeds = _from("one", ROWS)
    other, other_feeds = _from("other", ROWS[:2])
    text, text_feeds = _from("text", as_array(["a"]))
    for name, second, more, more_feeds in (("none", "none", [node("OptionalNone", "none")], {}),
                                           ("another shape", "other", other, other_feeds)):
        yield graph_case("OptionalHasValue", f"sum with {name}",
                         [*one, *more, node("AddN", "sum", ["one", second], N=2, T=V),
                          node("OptionalHasValue", "has", ["sum"])], Run({**one_feeds, **more_feeds}, ["has:0"]))
    yield graph_case("OptionalHasValue", "zeros of strings",
                     [*text, node("ZerosLike", "zeros", ["text"], T=V), node("OptionalHasValue", "has", ["zeros"])],
                     Run(text_feeds, ["has:0"]))
