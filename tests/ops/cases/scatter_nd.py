"""Cases of scatters by coordinates, and of updates of slices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.dtypes import from_numpy
from tests.ops.case import COMPLEX, FLOATS, INDEX, INTEGERS, Case, Run, bf16, graph_case, node, op_case
from tests.ops.cases.variables import fed, feeds, reference, resource, set_up
from tests.ops.values import values

ONE = np.float32
REAL = (*FLOATS, *INTEGERS)
EVERY = (*REAL, *COMPLEX, np.bool_, object)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _tensors()
    yield from _shapes()
    yield from _variables()
    yield from _slices()
    yield from _rows()


def _tensors() -> Iterator[Case]:
    index = np.array([[4, 0], [1, 2], [4, 0], [0, 1]], np.int32)
    rows = np.array([[3], [0], [3]], np.int64)
    for name in ("Update", "Add", "Sub", "Min", "Max"):
        op = f"TensorScatter{name}"
        kinds = EVERY if name == "Update" else (*REAL, *COMPLEX) if name in ("Add", "Sub") else REAL
        for kind in kinds:
            yield op_case(op, values(kind, (5, 3)), index, values(kind, (4,), 1))
            yield op_case(op, values(kind, (5, 3)), rows, values(kind, (3, 3), 1))
        yield op_case(op, values(ONE, (5, 3)), index.reshape(2, 2, 2), values(ONE, (2, 2), 1))
        yield op_case(op, values(ONE, (5, 3)), np.array([2], np.int32), values(ONE, (3,), 1))
        yield op_case(op, values(ONE, (5, 3)), np.array([2, 3], np.int32), values(ONE, (2, 3), 1))
    for kind in (*REAL, *COMPLEX, np.bool_):
        yield op_case("ScatterNdNonAliasingAdd", values(kind, (5, 3)), index, values(kind, (4,), 1))
    for policy in ("", "DEFAULT", "ERROR", "IGNORE"):
        bad = np.array([[4, 3], [1, 2], [-1, 0], [0, 1]], np.int32)
        yield op_case("TensorScatterAdd", values(ONE, (5, 3)), bad, values(ONE, (4,), 1), bad_indices_policy=policy)
        yield op_case("ScatterNd", bad, values(ONE, (4,), 1), np.array([5, 3], np.int32), bad_indices_policy=policy)


def _shapes() -> Iterator[Case]:
    """What fits and what does not, for each kind of target."""
    for shape, indices, updates in (
        ((5, 3), (0, 1), (0, 3)), ((5, 3), (2, 1), (2, 2)), ((5, 3), (2, 1), (3, 3)), ((5, 3), (2, 3), (2,)),
        ((5, 3), (2, 2), (2, 1)), ((0, 3), (0, 1), (0, 3)), ((0, 3), (2, 1), (2, 3)), ((), (1, 0), (1,)),
        ((5, 3), (), (3,)), ((5, 3), (1,), ()), ((5, 3), (2, 0), (2, 5, 3)), ((5, 0), (2, 1), (2, 0)),
        ((5, 3), (2, 1), (3,)), ((5, 3), (2, 2, 1), (2, 3, 3)),
    ):
        start, index, change = values(ONE, shape), np.zeros(indices, np.int32), values(ONE, updates, 1)
        label = f"{shape} {indices} {updates}"
        for op in ("TensorScatterUpdate", "TensorScatterMax"):
            yield op_case(op, start, index, change, name=label)
        yield op_case("ScatterNdNonAliasingAdd", start, index, change, name=label,
                      text=indices != () and updates != ())
        yield op_case("ScatterNd", index, change, np.array(shape, np.int32), name=label)
        # TensorFlow prints a dimension that a scalar does not have.
        yield from _variable("Add", label, start, index, change, text=indices != () and updates != ())
    for op in ("TensorScatterAdd", "ScatterNdNonAliasingAdd"):
        yield op_case(op, values(ONE, (3,)), np.array([3], np.int32), np.array(1, ONE),
                      text=op != "ScatterNdNonAliasingAdd")
        yield op_case(op, values(ONE, (3,)), np.array([[0], [3]], np.int32), np.array([1, 2], ONE))
        yield op_case(op, values(ONE, (3, 2)), np.array([[[0, 1]], [[1, -1]]], np.int32), np.array([[1], [2]], ONE))


def _variables() -> Iterator[Case]:
    index = np.array([[4, 0], [1, 2], [4, 0], [0, 1]])
    for name in ("Update", "Add", "Sub", "Min", "Max"):
        for kind in (np.float32, np.float64, np.float16, bf16, np.int32, np.int64, np.uint8, np.complex64):
            if kind is np.complex64 and name in ("Min", "Max"):
                continue
            for which in INDEX if kind is ONE else (np.int32,):
                yield from _variable(name, f"{np.dtype(kind).name} {np.dtype(which).name}", values(kind, (5, 3)),
                                     index.astype(which), values(kind, (4,), 1))
        yield from _variable(name, "rows", values(ONE, (5, 3)), np.array([[3], [3]], np.int32),
                             values(ONE, (2, 3), 1))
        yield from _variable(name, "outside", values(ONE, (5, 3)), np.array([[3], [5]], np.int32),
                             values(ONE, (2, 3), 1))
        yield from _variable(name, "outside, ignored", values(ONE, (5, 3)), np.array([[3], [5]], np.int32),
                             values(ONE, (2, 3), 1), bad_indices_policy="IGNORE")
    for kind in (np.bool_, object):
        yield from _variable("Update", np.dtype(kind).name, values(kind, (5, 3)), index.astype(np.int32),
                             values(kind, (4,), 1))


def _variable(name: str, label: str, start: np.ndarray, index: np.ndarray, change: np.ndarray,
              text: bool = True, **attrs: Any) -> Iterator[Case]:
    kind, index_kind = from_numpy(start.dtype), from_numpy(index.dtype)
    nodes = [*reference("v", start), *fed(i=index, u=change),
             node(f"ScatterNd{name}", "op", ["v", "i", "u"], T=kind, Tindices=index_kind, **attrs)]
    change_run = feeds(i=index, u=change)
    # TensorFlow makes the changes before the one that is outside.
    after = [] if label == "outside" else [Run({}, ["v:0"])]
    yield graph_case(f"ScatterNd{name}", label, nodes, Run(change_run, ["op:0"]), set_up(v=start),
                     Run(change_run, ["op:0"]), *after, text=text)
    after = [] if label == "outside" else [Run({}, ["v_read:0"])]
    nodes = [*resource("v", start), *fed(i=index, u=change),
             node(f"ResourceScatterNd{name}", "op", ["v", "i", "u"], T=kind, Tindices=index_kind, **attrs)]
    yield graph_case(f"ResourceScatterNd{name}", label, nodes, set_up(v=start),
                     Run(change_run, [], ["op"]), *after, text=text)


SLICES: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], dict[str, int]], ...] = (
    ((0, 1), (2, 3), (1, 1), (2, 2), {}),
    ((4, 0), (0, 3), (-2, 2), (2, 2), {}),
    ((1,), (2,), (1,), (3,), {"shrink_axis_mask": 1}),
    ((1, 2), (2, 3), (1, 1), (), {"shrink_axis_mask": 3}),
    ((0, 0, 1), (0, 0, 2), (1, 1, 1), (1, 5, 1), {"new_axis_mask": 1, "begin_mask": 2, "end_mask": 2}),
    ((0, 1), (0, 2), (1, 1), (5, 1), {"ellipsis_mask": 1}),
    ((3, 0), (3, 3), (1, 1), (0, 3), {}),
    ((0, 0), (2, 3), (1, 1), (2, 1), {}),
    ((0, 0), (2, 3), (1, 1), (), {}),
    ((0, 0), (2, 3), (1, 1), (1,), {}),
    ((0, 0), (2, 3), (1, 1), (3,), {}),
    ((0, 0), (2, 3), (1, 1), (2,), {}),
    ((0, 0), (2, 3), (1, 1), (1, 2, 3), {}),
    ((0, 0), (2, 3), (1, 1), (3, 2), {}),
    ((1,), (2,), (1,), (1,), {"shrink_axis_mask": 1}),
    ((1, 2), (2, 3), (1, 1), (1,), {"shrink_axis_mask": 3}),
    ((1, 2), (2, 3), (1, 1), (2,), {"shrink_axis_mask": 3}),
    ((0, 0, 1), (0, 0, 2), (1, 1, 1), (5, 1), {"new_axis_mask": 1, "begin_mask": 2, "end_mask": 2}),
    ((3, 0), (3, 3), (1, 1), (1, 1), {}),
    ((3, 0), (3, 3), (1, 1), (2, 3), {}),
    ((0, 0), (2, 3), (0, 1), (2, 3), {}),
    ((7,), (8,), (1,), (3,), {"shrink_axis_mask": 1}),
    ((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1), {}),
)


def _slices() -> Iterator[Case]:
    for begin, end, strides, shape, masks in SLICES:
        yield from _slice(ONE, np.int32, begin, end, strides, shape, masks)
    for kind in (np.float64, np.float16, np.int64, np.uint8, np.bool_, np.complex64, object):
        yield from _slice(kind, np.int64, *SLICES[0])


def _slice(kind: Any, which: Any, begin: Any, end: Any, strides: Any, shape: Any, masks: Any) -> Iterator[Case]:
    start, value = values(kind, (5, 3)), values(kind, shape, 1)
    index = [np.array(part, which) for part in (begin, end, strides)]
    label = f"{np.dtype(kind).name} {begin} {end} {strides} {shape}"
    yield op_case("TensorStridedSliceUpdate", start, *index, value, name=label, **masks)
    attrs = {"T": from_numpy(start.dtype), "Index": which, **masks}
    inputs = {"b": index[0], "e": index[1], "s": index[2], "x": value}
    nodes = [*reference("v", start), *fed(**inputs),
             node("StridedSliceAssign", "op", ["v", "b", "e", "s", "x"], **attrs)]
    yield graph_case("StridedSliceAssign", label, nodes, Run(feeds(**inputs), ["op:0"]), set_up(v=start),
                     Run(feeds(**inputs), ["op:0"]), Run({}, ["v:0"]))
    nodes = [*resource("v", start), *fed(**inputs),
             node("ResourceStridedSliceAssign", "op", ["v", "b", "e", "s", "x"], **attrs)]
    yield graph_case("ResourceStridedSliceAssign", label, nodes, set_up(v=start),
                     Run(feeds(**inputs), [], ["op"]), Run({}, ["v_read:0"]))


def _rows() -> Iterator[Case]:
    which = np.array([3, 0, -1], np.int32)
    for op in ("InplaceUpdate", "InplaceAdd", "InplaceSub"):
        for kind in EVERY if op == "InplaceUpdate" else (*REAL, *COMPLEX):
            yield op_case(op, values(kind, (5, 2)), which, values(kind, (3, 2), 1))
        yield op_case(op, values(ONE, (5,)), np.array([1, 1, 7], np.int32), values(ONE, (3,), 1))
        yield op_case(op, values(ONE, (5, 2)), np.array([], np.int32), values(ONE, (0, 2), 1))
    for x, i, v in (((5, 2), [0], (1, 3)), ((5, 2), [0], (2, 2)), ((5, 2), [[0]], (1, 2)), ((), [0], ()),
                    ((5, 2), [0], (1, 2, 1)), ((5, 2), [0], (2,))):
        yield op_case("InplaceUpdate", values(ONE, x), np.array(i, np.int32), values(ONE, v, 1), name=f"{x} {i} {v}")
    yield op_case("InplaceAdd", values(ONE, (5, 2)), np.array(2, np.int32), values(ONE, (2,), 1))
