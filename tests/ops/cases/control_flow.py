"""Cases of what decides what runs, in frames and outside; more graphs are in `tests/step/test_control_flow.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.dtypes import DataType, to_numpy
from tests.ops.case import Case, Run, const, graph_case, node, op_case
from tests.ops.cases.variables import fed, feeds
from tests.ops.values import TYPES, values

F, N, B = DataType.FLOAT, DataType.INT32, DataType.BOOL


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for names in (["CPU", "GPU"], ["GPU", "CPU"], ["GPU"], ["CPU", "CPU"], ["cpu", "TPU_REPLICATED_CORE"]):
        yield op_case("DeviceIndex", device_names=names)
    for kind in TYPES:
        yield from _of_type(kind)
    yield from _conditions()
    yield from _of_several()
    yield from _nested()
    yield from _references()


def _of_type(kind: DataType) -> Iterator[Case]:
    value = values(to_numpy(kind), (2, 3), 1)
    nodes = [*fed(x=value, p=np.bool_(True)), node("Switch", "switch", ["x", "p"], T=kind),
             node("Identity", "no", ["switch:0"], T=kind), node("Identity", "yes", ["switch:1"], T=kind),
             node("Merge", "merge", ["no", "yes"], T=kind, N=2)]
    runs = [Run(feeds(x=value, p=np.bool_(truth)), ["merge:0", "merge:1"]) for truth in (True, False)]
    yield graph_case("Switch", kind.label, nodes, *runs)
    yield graph_case("Merge", kind.label, nodes, *runs)
    nodes = [*fed(x=value), *_counting(3),
             node("Enter", "enter", ["x"], T=kind, frame_name="loop"),
             node("Merge", "merge", ["enter", "onwards"], T=kind, N=2),
             node("Switch", "switch", ["merge", "go"], T=kind), node("Identity", "body", ["switch:1"], T=kind),
             node("NextIteration", "onwards", ["body"], T=kind), node("Exit", "exit", ["switch"], T=kind),
             node("Enter", "same", ["x"], T=kind, frame_name="loop", is_constant=True),
             node("Switch", "never", ["same", "go"], T=kind), node("Exit", "other", ["never"], T=kind)]
    for op in ("Enter", "Exit", "NextIteration"):
        yield graph_case(op, kind.label, nodes, Run(feeds(x=value), ["exit:0", "count:0", "other:0"]))


def _counting(limit: int, frame: str = "loop", prefix: str = "") -> list[Any]:
    """Return the nodes of a loop's counter; ``go`` is its condition, ``count`` what it has come to."""
    p = prefix
    return [const(f"{p}zero", np.int32(0)), const(f"{p}limit", np.int32(limit)),
            node("Enter", f"{p}i", [f"{p}zero"], T=N, frame_name=frame),
            node("Enter", f"{p}bound", [f"{p}limit"], T=N, frame_name=frame, is_constant=True),
            node("Merge", f"{p}now", [f"{p}i", f"{p}later"], T=N, N=2),
            node("Less", f"{p}less", [f"{p}now", f"{p}bound"], T=N), node("LoopCond", f"{p}go", [f"{p}less"]),
            node("Switch", f"{p}turn", [f"{p}now", f"{p}go"], T=N),
            node("Identity", f"{p}inside", [f"{p}turn:1"], T=N),
            const(f"{p}one", np.int32(1), f"^{p}inside"),
            node("AddV2", f"{p}more", [f"{p}inside", f"{p}one"], T=N),
            node("NextIteration", f"{p}later", [f"{p}more"], T=N), node("Exit", f"{p}count", [f"{p}turn"], T=N)]


def _conditions() -> Iterator[Case]:
    x = np.array([1, 2], np.float32)
    for condition in (np.array([True, False]), np.zeros(0, np.bool_)):
        nodes = [*fed(x=x, p=condition), node("Switch", "switch", ["x", "p"], T=F),
                 node("Merge", "merge", ["switch:0", "switch:1"], T=F, N=2)]
        yield graph_case("Switch", f"a condition of {condition.size}", nodes,
                         Run(feeds(x=x, p=condition), ["merge:0"]), text=False)


def _of_several() -> Iterator[Case]:
    for kind in TYPES:
        value = values(to_numpy(kind), (2,), 1)
        nodes = [*fed(x=value, i=np.int32(0)), node("_SwitchN", "switch", ["x", "i"], T=kind, num_outs=3),
                 *[node("Identity", f"way{place}", [f"switch:{place}"], T=kind) for place in range(3)],
                 node("Merge", "merge", ["way0", "way1", "way2"], T=kind, N=3)]
        runs = [Run(feeds(x=value, i=np.int32(place)), ["merge:0", "merge:1"]) for place in (0, 1, 2, 7, -1)]
        yield graph_case("_SwitchN", kind.label, nodes, *runs)


def _nested() -> Iterator[Case]:
    """A loop in a loop: the inner one runs as often as the outer one has turned."""
    nodes = [*_counting(3), const("none", np.int32(0)),
             node("Enter", "sum", ["none"], T=N, frame_name="loop"),
             node("Merge", "total", ["sum", "onwards"], T=N, N=2), node("Switch", "split", ["total", "go"], T=N),
             node("Identity", "start", ["split:1"], T=N),
             node("Enter", "in_start", ["start"], T=N, frame_name="inner"),
             node("Enter", "in_limit", ["more"], T=N, frame_name="inner", is_constant=True),
             const("in_zero", np.int32(0), "^start"), node("Enter", "in_i", ["in_zero"], T=N, frame_name="inner"),
             node("Merge", "in_now", ["in_i", "in_later"], T=N, N=2),
             node("Merge", "in_total", ["in_start", "in_next"], T=N, N=2),
             node("Less", "in_less", ["in_now", "in_limit"], T=N), node("LoopCond", "in_go", ["in_less"]),
             node("Switch", "in_turn", ["in_now", "in_go"], T=N),
             node("Switch", "in_split", ["in_total", "in_go"], T=N),
             const("in_one", np.int32(1), "^in_turn"), node("AddV2", "in_more", ["in_turn:1", "in_one"], T=N),
             node("AddV2", "in_sum", ["in_split:1", "in_more"], T=N),
             node("NextIteration", "in_later", ["in_more"], T=N), node("NextIteration", "in_next", ["in_sum"], T=N),
             node("Exit", "in_exit", ["in_split"], T=N), node("NextIteration", "onwards", ["in_exit"], T=N),
             node("Exit", "exit", ["split"], T=N)]
    yield graph_case("LoopCond", "a loop in a loop", nodes, Run({}, ["exit:0", "count:0"]))


def _references() -> Iterator[Case]:
    for kind in TYPES:
        value = values(to_numpy(kind), (2,), 1)
        nodes = [*fed(x=value, p=np.bool_(True)), node("VariableV2", "v", dtype=kind, shape=(2,)),
                 node("VariableV2", "w", dtype=kind, shape=(2,)),
                 node("Assign", "set", ["v", "x"], T=kind), node("Assign", "clear", ["w", "x"], T=kind),
                 node("RefIdentity", "same", ["v"], T=kind), node("RefSwitch", "switch", ["same", "p"], T=kind),
                 node("RefMerge", "merge", ["switch:0", "switch:1"], T=kind, N=2),
                 node("Identity", "read", ["merge"], T=kind)]
        runs = [Run(feeds(x=value), [], ["set", "clear"]), *[Run(feeds(p=np.bool_(truth)), ["read:0", "merge:1"])
                                                           for truth in (True, False)]]
        yield graph_case("RefMerge", kind.label, nodes, *runs)
        nodes = [*nodes, *_counting(2),
                 node("RefEnter", "enter", ["v"], T=kind, frame_name="loop"),
                 node("RefMerge", "turns", ["enter", "onwards"], T=kind, N=2),
                 node("RefSwitch", "way", ["turns", "go"], T=kind),
                 node("RefIdentity", "body", ["way:1"], T=kind), node("RefNextIteration", "onwards", ["body"], T=kind),
                 node("RefExit", "exit", ["way"], T=kind), node("Identity", "seen", ["exit"], T=kind)]
        yield graph_case("RefEnter", kind.label, nodes, runs[0], Run({}, ["seen:0", "count:0"]))
