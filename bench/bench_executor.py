"""The executors by themselves: nanoseconds per node and per turn of a loop, beside numpy calls and TensorFlow.

``python -m runtime.bench.bench_executor [--seconds S] [--json FILE] [--without-tensorflow]``. Every node adds four
floats; the chain hands one value on, the wide graph has that many independent nodes. ``program`` is the straight-line
executor, of which a loop takes two, for the condition and the body; ``dataflow`` is the other one on the same graph;
``numpy`` is the same number of ``numpy.add`` calls in a loop of Python. TensorFlow runs the same GraphDefs in a session
in its own process, its graph optimizer left on for loops and off for chains, which it would shorten; its times hold
what a ``Session.run`` costs in Python.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime import wire
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
    if options.json:
        write_json(options.json, {"benchmark": "executor", "environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
