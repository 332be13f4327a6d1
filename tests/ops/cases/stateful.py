"""Cases of ops of few words: copies, old references, mutexes, groups of one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy
from tests.ops.case import COMPLEX, FLOATS, INTEGERS, Case, Run, graph_case, node, op_case
from tests.ops.cases.variables import fed, feeds, reference, set_up
from tests.ops.values import values

F, N, V = DataType.FLOAT, DataType.INT32, DataType.VARIANT


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in (*FLOATS, *INTEGERS, *COMPLEX, np.bool_):
        yield op_case("DeepCopy", values(kind, (2, 3)))
    yield op_case("DeepCopy", np.zeros((0, 2), np.float32))
    yield graph_case("Timestamp", "", [node("Timestamp", "now")], Run({}, ["now:0"]), compare=_about_now)
    yield from _placeholders()
    yield from _selections()
    yield from _stacks()
    for kind in (np.float32, np.float64, np.int32, np.int64):
        yield op_case("CollectiveReduce", values(kind, (3,)), group_size=1, group_key=1, instance_key=1,
                      merge_op="Add", final_op="Id", subdiv_offsets=[0])
    yield graph_case("MutexLock", "two steps", [
        node("MutexV2", "mutex", shared_name="m"), node("MutexLock", "lock", ["mutex"]),
        node("ConsumeMutexLock", "use", ["lock"])], *[Run({}, [], ["use"])] * 2)


def _about_now(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    now = time.time()
    return "" if all(now - 600 < float(found[0]) <= now for found in (ours, theirs)) else f"{ours} and {theirs}"


def _placeholders() -> Iterator[Case]:
    for shape in ((2, 3), (), None, (None, 2)):
        made = node("PlaceholderV2", "op", dtype=F, shape=shape)
        value = np.ones([dim or 4 for dim in shape or ()], np.float32)
        yield Case("PlaceholderV2", f"PlaceholderV2({shape})", [made, node("Identity", "copy", ["op"], T=F)],
                   [Run({}, ["copy:0"]), Run({"op:0": value}, ["copy:0"])], producer=22)


def _selections() -> Iterator[Case]:
    first, second = np.ones(2, np.float32), np.array([3, 4], np.float32)
    nodes = [*reference("a", first), *reference("b", second), *fed(index=np.array(0, np.int32), x=first),
             node("RefSelect", "chosen", ["index", "a", "b"], T=F, N=2),
             node("AssignAdd", "add", ["chosen", "x"], T=F)]
    runs = [set_up(a=first, b=second)]
    for index in (0, 1, 1, 2, -1):
        runs.append(Run(feeds(index=np.array(index, np.int32), x=first), ["add:0"]))
    runs += [Run({}, ["a:0", "b:0"]), Run(feeds(index=np.array([0], np.int32), x=first), ["add:0"])]
    yield graph_case("RefSelect", "", nodes, *runs)


def _stacks() -> Iterator[Case]:
    for kind in (np.float32, np.int64, np.bool_):
        a, b = (np.array(value).astype(kind) for value in ([1, 2], [[0, 3]]))
        dtype = from_numpy(a.dtype)
        types: dict[str, Any] = {"T": dtype}
        nodes = [*fed(a=a, b=b), node("Stack", "stack", elem_type=dtype),
                 node("StackPush", "push_a", ["stack", "a"], **types),
                 node("StackPush", "push_b", ["stack", "b", "^push_a"], **types),
                 node("StackPop", "pop_b", ["stack", "^push_b"], elem_type=dtype),
                 node("StackPop", "pop_a", ["stack", "^pop_b"], elem_type=dtype),
                 node("StackPop", "pop_none", ["stack", "^pop_a"], elem_type=dtype),
                 node("StackClose", "close", ["stack", "^pop_a"]),
                 node("StackPush", "late", ["stack", "a", "^close"], **types)]
        fed_values = feeds(a=a, b=b)
        op = {np.float32: "StackPop", np.int64: "StackPush", np.bool_: "Stack"}[kind]
        yield graph_case(op, kind.__name__, nodes, Run(fed_values, ["pop_b:0", "pop_a:0", "push_a:0"], ["close"]))
    yield graph_case("StackClose", "empty", nodes, Run(fed_values, ["pop_none:0"]), text=False)
    yield graph_case("StackClose", "closed", nodes, Run(fed_values, ["late:0"]), text=False)
