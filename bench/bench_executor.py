"""The executors by themselves: nanoseconds per node and per turn of a loop, beside numpy calls and TensorFlow.

``python -m runtime.bench.bench_executor [--seconds S] [--json FILE] [--without-tensorflow]``. Every node adds four
floats; the chain hands one value on, the wide graph has that many independent nodes. ``program`` is the straight-line
executor, of which a loop takes two, for the condition and the body; ``dataflow`` is the other one on the same graph;
``numpy`` is the same number of ``numpy.add`` calls in a loop of Python. TensorFlow runs the same GraphDefs in a session
in its own process, its graph optimizer left on for loops and off for chains, which it would shorten; its times hold
what a ``Session.run`` costs in Python.

``cancel`` is how long a step goes on that is cancelled in the middle of a long kernel or of a loop without an end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime import wire
from runtime._ext.errors import Cancelled
from runtime._ext.executor import StepContext
from runtime.bench.peers import peer_python
from runtime.bench.report import environment, print_table, write_json
from runtime.devices.device import cpu_device
from runtime.dtypes import DataType
from runtime.graph.graph import Graph
from runtime.graph.prune import select
from runtime.step.compile import compile_step
from runtime.step.environment import SessionState
from runtime.step.files import FileAccess

CLIENT = Path(__file__).parent / "clients" / "executor_tf.py"
LENGTHS = (1, 100, 1_000, 10_000)
TURNS = 10_000
# The best time is taken of each part of a run, so that the parts tell its spread.
PARTS = 5
CANCEL = "cancel"
CANCELLATIONS = 15
# A cancelled step has been at work for so long.
AT_WORK_S = 0.05


def _node(graph: Any, op: str, name: str, *inputs: str, kind: DataType = DataType.FLOAT, **attrs: Any) -> str:
    node = graph.node.add(name=name, op=op)
    node.input.extend(inputs)
    if op not in ("NoOp", "LoopCond", "Const"):
        node.attr["dtype" if op == "Placeholder" else "T"].type = int(kind)
    for attr, value in attrs.items():
        if isinstance(value, bytes):
            node.attr[attr].s = value
        elif isinstance(value, bool):
            node.attr[attr].b = value
        else:
            node.attr[attr].i = value
    return name


def _const(graph: Any, name: str, value: int, *controls: str) -> str:
    node = graph.node.add(name=name, op="Const")
    node.input.extend(f"^{control}" for control in controls)
    node.attr["dtype"].type = int(DataType.INT32)
    tensor = node.attr["value"].tensor
    tensor.dtype = int(DataType.INT32)
    tensor.tensor_shape.SetInParent()
    tensor.int_val.append(value)
    return name


def chain_graph(length: int) -> Any:
    """Return ``x + x``, and `length` - 1 further additions of x, one after the other."""
    graph = wire.GraphDef()
    value = _node(graph, "Placeholder", "x")
    for number in range(length):
        value = _node(graph, "Add", f"n{number}", value, "x")
    _node(graph, "NoOp", "all", f"^{value}")
    return graph


def wide_graph(width: int) -> Any:
    """Return `width` times ``x + x``, and a node that waits for all of them."""
    graph = wire.GraphDef()
    _node(graph, "Placeholder", "x")
    names = [_node(graph, "Add", f"n{number}", "x", "x") for number in range(width)]
    _node(graph, "NoOp", "all", *(f"^{name}" for name in names))
    return graph


def loop_graph(turns: int) -> Any:
    """Return ``i = 0; while i < turns: i += 1`` in frames, as TensorFlow's ``while_loop`` writes it."""
    graph = wire.GraphDef()
    frame = {"frame_name": b"w", "parallel_iterations": 10, "kind": DataType.INT32}
    whole = {"kind": DataType.INT32}
    _const(graph, "zero", 0)
    _node(graph, "Enter", "enter", "zero", is_constant=False, **frame)
    _node(graph, "Merge", "merge", "enter", "next", N=2, **whole)
    _const(graph, "limit", turns, "merge")
    _node(graph, "Less", "less", "merge", "limit", **whole)
    _node(graph, "LoopCond", "cond", "less")
    _node(graph, "Switch", "switch", "merge", "cond", **whole)
    _node(graph, "Identity", "body", "switch:1", **whole)
    _const(graph, "one", 1, "body")
    _node(graph, "Add", "add", "body", "one", **whole)
    _node(graph, "NextIteration", "next", "add", **whole)
    _node(graph, "Exit", "exit", "switch", **whole)
    _node(graph, "NoOp", "all", "^exit")
    return graph


def best_s(call: Callable[[], Any], seconds: float) -> float:
    """Return the shortest time of a call, in seconds, over blocks of calls that last about a millisecond."""
    call()
    start = time.perf_counter()
    call()
    repeats = max(1, int(1e-3 / max(time.perf_counter() - start, 1e-7)))
    best = float("inf")
    end = time.perf_counter() + seconds
    rounds = 0
    while time.perf_counter() < end or rounds < 3:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        best = min(best, (time.perf_counter() - start) / repeats)
        rounds += 1
    return best


def _numpy_calls(count: int) -> Callable[[], None]:
    x = np.ones(4, np.float32)
    add = np.add

    def run() -> None:
        value = x
        for _ in range(count):
            value = add(value, x)

    return run


def cases() -> list[tuple[str, Any, int, bool]]:
    """Return (name, GraphDef, nodes or turns, whether x is fed) of every case."""
    found: list[tuple[str, Any, int, bool]] = []
    for length in LENGTHS:
        found.append((f"chain[{length}]", chain_graph(length), length, True))
    for width in LENGTHS[1:]:
        found.append((f"wide[{width}]", wide_graph(width), width, True))
    found.append((f"while_loop[{TURNS}]", loop_graph(TURNS), TURNS, False))
    return found


def measure(seconds: float) -> list[dict[str, Any]]:
    """Measure our executors; times in nanoseconds per node or turn, compile time in microseconds per node."""
    rows = []
    x = np.ones(4, np.float32)
    for name, proto, count, fed in cases():
        graph = Graph.from_proto(proto)
        state = SessionState(cpu_device("local", 0), FileAccess([]))
        state.keeps_repeated = True  # the wide graph has the same node many times
        step = StepContext(1, state)
        feeds = [x] if fed else []
        selection = select(graph, ["x:0"] if fed else [], [], ["all"])
        row: dict[str, Any] = {"case": name, "count": count}
        for kind, partial in (("program", False), ("dataflow", True)):
            compiled = compile_step(selection, graph.library, state, partial=partial, keep_unread=True)
            parts = [best_s(lambda: compiled.run(step, feeds), seconds / PARTS) for _ in range(PARTS)]  # noqa: B023
            row[kind] = min(parts) / count * 1e9
            row[f"{kind}_parts"] = [part / count * 1e9 for part in parts]
        compile_s = best_s(lambda: compile_step(selection, graph.library, state, keep_unread=True), seconds)  # noqa: B023
        row["compile"] = compile_s / len(selection.nodes) * 1e6
        row["numpy"] = best_s(_numpy_calls(count), seconds) / count * 1e9 if fed else None
        rows.append(row)
    return rows


def _kernel_graph(op: str, inputs: dict[str, DataType], **attrs: Any) -> Any:
    graph = wire.GraphDef()
    for name, kind in inputs.items():
        _node(graph, "Placeholder", name, kind=kind)
    _node(graph, op, "end", *inputs)
    for attr, value in attrs.items():
        if isinstance(value, list):
            graph.node[-1].attr[attr].list.i.extend(value)
        else:
            graph.node[-1].attr[attr].s = value
    return graph


def _fused_graph() -> Any:
    graph = wire.GraphDef()
    value = _node(graph, "Placeholder", "x")
    for number, op in enumerate(("Neg", "Exp", "Tanh")):
        value = _node(graph, op, f"part{number}", value)
    _node(graph, "Square", "end", value)
    return graph


def _function_loop_graph() -> Any:
    """Return ``while True: i += 1`` by functions, as TensorFlow 2 writes it."""
    graph = wire.GraphDef()
    _const(graph, "zero", 0)
    for name, op, kind in (("always", "Equal", DataType.BOOL), ("turn", "Add", DataType.INT32)):
        function = graph.library.function.add()
        function.signature.name = name
        function.signature.input_arg.add(name="i", type=int(DataType.INT32))
        function.signature.output_arg.add(name="o", type=int(kind))
        body = wire.GraphDef()
        _const(body, "one", 1)
        if op == "Equal":
            _node(body, op, "made", "i", "i", kind=DataType.INT32)
        else:
            _node(body, op, "made", "i", "one:output:0", kind=DataType.INT32)
        function.node_def.extend(body.node)
        function.ret["o"] = "made:z:0"
    node = graph.node.add(name="end", op="StatelessWhile")
    node.input.append("zero")
    node.attr["T"].list.type.append(int(DataType.INT32))
    node.attr["cond"].func.name, node.attr["body"].func.name = "always", "turn"
    return graph


def endless_cases() -> list[tuple[str, Any, list[np.ndarray[Any, Any]], str]]:
    """Return (name, GraphDef, feeds in the order of the placeholders, fetch) of steps that take seconds, or for ever.

    The feeds are zeros that take no memory of their own.
    """
    real, whole = DataType.FLOAT, DataType.INT32

    def zeros(*shape: int) -> np.ndarray[Any, Any]:
        return np.zeros(shape, np.float32)

    windows = {"strides": [1, 1, 1, 1], "padding": b"SAME"}
    images, filters = zeros(256, 64, 64, 256), zeros(5, 5, 256, 256)
    shapes = [np.array(array.shape, np.int32) for array in (images, filters)]
    return [
        ("MatMul", _kernel_graph("MatMul", {"x": real, "y": real}), [zeros(8192, 8192)] * 2, "end:0"),
        ("Conv2D", _kernel_graph("Conv2D", {"x": real, "f": real}, **windows), [images, filters], "end:0"),
        ("Conv2DBackpropInput", _kernel_graph("Conv2DBackpropInput", {"s": whole, "f": real, "g": real}, **windows),
         [shapes[0], filters, images], "end:0"),
        ("Conv2DBackpropFilter", _kernel_graph("Conv2DBackpropFilter", {"x": real, "s": whole, "g": real}, **windows),
         [images, shapes[1], images], "end:0"),
        ("element-wise, fused", _fused_graph(), [zeros(1 << 29)], "end:0"),
        ("while_loop in frames", loop_graph(2**31 - 1), [], "exit:0"),
        ("While of functions", _function_loop_graph(), [], "end:0"),
    ]


def measure_cancelling(times: int = CANCELLATIONS) -> dict[str, Any]:
    """Return the row ``cancel``: for every endless case the median and the greatest time of an end, in milliseconds."""
    found: dict[str, dict[str, float]] = {}
    for name, proto, feeds, fetch in endless_cases():
        graph = Graph.from_proto(proto)
        state = SessionState(cpu_device("local", 0), FileAccess([]))
        placeholders = [f"{node.name}:0" for node in proto.node if node.op == "Placeholder"]
        compiled = compile_step(select(graph, placeholders, [fetch], []), graph.library, state)
        taken = []
        for _ in range(times):
            step = StepContext(1, state)
            ended: list[float] = []

            def run(step: StepContext = step, ended: list[float] = ended) -> None:
                try:
                    compiled.run(step, feeds)  # noqa: B023
                except Cancelled:
                    ended.append(time.perf_counter())

            thread = threading.Thread(target=run)
            thread.start()
            time.sleep(AT_WORK_S)
            cancelled = time.perf_counter()
            step.cancel(Cancelled("measured"))
            thread.join()
            if not ended:
                raise SystemExit(f"{name} ended by itself within {AT_WORK_S} s: nothing was cancelled")
            taken.append((ended[0] - cancelled) * 1e3)
        found[name] = {"median_ms": statistics.median(taken), "worst_ms": max(taken)}
    worst = [entry["worst_ms"] for entry in found.values()]
    return {"case": CANCEL, "count": times, "worst_ms": max(worst),
            "median_ms": max(entry["median_ms"] for entry in found.values()), "steps": found}


def add_tensorflow(rows: Sequence[dict[str, Any]], seconds: float) -> None:
    """Run the same graphs in TensorFlow's interpreter and add its times to the rows."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    with tempfile.TemporaryDirectory() as folder:
        spec = []
        for number, (name, proto, count, fed) in enumerate(cases()):
            path = Path(folder, str(number))
            path.write_bytes(proto.SerializeToString())
            spec.append({"case": name, "graph": str(path), "count": count, "fed": fed})
        done = subprocess.run([peer_python(), str(CLIENT), json.dumps({"cases": spec, "seconds": seconds})], env=quiet,
                              stdout=subprocess.PIPE, text=True, check=True)
    found = {entry["case"]: entry for entry in map(json.loads, filter(lambda line: line.startswith("{"),
                                                                      done.stdout.splitlines()))}
    for row in rows:
        row["tensorflow"] = found[row["case"]]["best_ns"]


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3, help="measured time per case and implementation")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--without-tensorflow", action="store_true", help="leave TensorFlow out")
    options = parser.parse_args()
    rows = measure(options.seconds)
    if not options.without_tensorflow:
        add_tensorflow(rows, options.seconds)

    def cell(row: dict[str, Any], who: str) -> float | str:
        value = row.get(who)
        return "-" if value is None else value

    print_table(
        "best times: ns per node or turn; compiling in us per node",
        ["case", "program", "dataflow", "numpy", "TensorFlow", "compile"],
        [[row["case"], *(cell(row, who) for who in ("program", "dataflow", "numpy", "tensorflow", "compile"))]
         for row in rows],
    )
    cancelled = measure_cancelling()
    print_table(
        f"from the cancellation of a step to its end, ms; {cancelled['count']} times each",
        ["step", "median", "worst"],
        [[name, entry["median_ms"], entry["worst_ms"]] for name, entry in cancelled["steps"].items()],
    )
    rows.append(cancelled)
    if options.json:
        write_json(options.json, {"benchmark": "executor", "environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
