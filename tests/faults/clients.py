"""A client that is killed: in a process of its own, with calls under way when it dies.

Usage: ``python -m tests.faults.clients TARGET WHAT``. It prints ``ready`` when its calls are under way, and waits.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from tests.graph.graphs import BOOL, FLOAT, INT32, const, function_def, identity, node, placeholder
from tests.interop.raw import Wire, connect
from tests.master.harness import step_request


def queue_nodes(shared_name: bytes) -> list[Any]:
    """Nodes of a queue that every session of the server can reach."""
    return [
        node("q", "FIFOQueueV2", component_types=[FLOAT], shared_name=shared_name),
        placeholder("value"),
        node("put", "QueueEnqueueV2", "q", "value", Tcomponents=[FLOAT]),
        node("take", "QueueDequeueV2", "q", component_types=[FLOAT]),
        node("size", "QueueSizeV2", "q"),
        node("close", "QueueCloseV2", "q"),
    ]


def endless_frames() -> list[Any]:
    """Nodes of a loop of frames that never ends; `end` is behind it."""
    return [
        const("zero", 0),
        node("enter", "Enter", "zero", T=INT32, frame_name=b"endless"),
        node("merge", "Merge", "enter", "next", N=2, T=INT32),
        const("true", np.bool_(True), "^merge"),
        node("cond", "LoopCond", "true"),
        node("switch", "Switch", "merge", "cond", T=INT32),
        const("one", 1, "^switch"),
        node("add", "AddV2", "switch:1", "one", T=INT32),
        node("next", "NextIteration", "add", T=INT32),
        node("exit", "Exit", "switch:0", T=INT32),
        identity("end", "exit", dtype=INT32),
    ]


def endless_function() -> tuple[list[Any], tuple[Any, ...]]:
    """Nodes and functions of a While that never ends; `end` is behind it."""
    cond = function_def("endless_cond", {"i": INT32}, {"more": (BOOL, "t:output:0")}, [const("t", np.bool_(True))])
    body = function_def(
        "endless_body",
        {"i": INT32},
        {"next": (INT32, "a:z:0")},
        [const("one", 1), node("a", "AddV2", "i", "one:output:0", T=INT32)],
    )
    nodes = [
        const("zero", 0),
        node("while", "While", "zero", T=[INT32], cond="endless_cond", body="endless_body"),
        identity("end", "while", dtype=INT32),
    ]
    return nodes, (cond, body)


def long_kernel() -> list[Any]:
    """Nodes of a step that takes its time in a few large kernels; `end` is behind them."""
    size = const("size", [1500, 1500])
    random = node("random", "RandomUniform", "size", T=INT32, dtype=FLOAT)
    chain = [identity("m0", "random")]
    chain += [node(f"m{number}", "MatMul", f"m{number - 1}", "random", T=FLOAT) for number in range(1, 40)]
    return [size, random, *chain, identity("end", "m39")]


def start(client: Wire, what: str) -> Any:
    """Start calls of a kind and return their futures."""
    if what == "blocked":
        handle = client.session(*queue_nodes(b"of_the_dead"))
        client.run(handle, ["size:0"])
        fetches, count = ["take:0"], 20
    else:
        nodes, functions = {
            "frames": lambda: (endless_frames(), ()),
            "function": endless_function,
            "kernels": lambda: (long_kernel(), ()),
        }[what]()
        handle, fetches, count = client.session(*nodes, functions=functions), ["end:0"], 1
    request = step_request(handle, fetches).SerializeToString()
    return [client.future("RunStep", request, 3600.0) for _ in range(count)]


def main() -> None:
    target, what = sys.argv[1:]
    with connect(target) as client:
        calls = start(client, what)
        time.sleep(0.3)
        for call in calls:
            assert not call.done(), call
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
