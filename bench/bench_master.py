"""The master alone: what a call costs between the bytes that come in and the bytes that go out, without a network.

``python -m runtime.bench.bench_master [--seconds S] [--json FILE]`` calls the service's handlers directly and reports

- ``step[...]``: a RunStep with a compiled signature: handler, codec, session, executor and kernel together;
- ``callable``: the same by RunCallable;
- ``create[10000]``, ``prepare[10000]``: a graph of that many nodes made from its bytes, and a step of all of them
  compiled; per node.

Best of repeats, in microseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from runtime import wire
from runtime.bench.report import environment, print_table, write_json
from runtime.master.master import Master
from runtime.master.service import MasterService

CHAIN = 10_000
# The handler's share of a small step that keeps the server within 30 us of a canned answer.
GOAL_US = 15.0


def small_graph() -> Any:
    """Return x -> Neg -> y, and a constant c."""
    graph = wire.GraphDef()
    graph.versions.producer = 2474
    graph.node.add(name="x", op="Placeholder").attr["dtype"].type = wire.DT_FLOAT
    negative = graph.node.add(name="y", op="Neg", input=["x"])
    negative.attr["T"].type = wire.DT_FLOAT
    _constant(graph, "c")
    return graph


def chain_graph(length: int) -> Any:
    """Return a placeholder x followed by `length` additions of constants; 2 * length + 1 nodes."""
    graph = wire.GraphDef()
    graph.versions.producer = 2474
    graph.node.add(name="x", op="Placeholder").attr["dtype"].type = wire.DT_FLOAT
    previous = "x"
    for index in range(length):
        _constant(graph, f"c{index}")
        node = graph.node.add(name=f"a{index}", op="AddV2", input=[previous, f"c{index}"])
        node.attr["T"].type = wire.DT_FLOAT
        previous = node.name
    return graph


def _constant(graph: Any, name: str) -> None:
    node = graph.node.add(name=name, op="Const")
    node.attr["dtype"].type = wire.DT_FLOAT
    tensor = node.attr["value"].tensor
    tensor.dtype = wire.DT_FLOAT
    tensor.tensor_shape.SetInParent()
    tensor.float_val.append(1.0)


def step_request(handle: str, fetch: str, feed_floats: int) -> bytes:
    """Return a RunStepRequest that fetches one tensor and feeds x, if it feeds anything."""
    request = wire.RunStepRequest(session_handle=handle, fetch=[fetch], store_errors_in_response_body=True)
    if feed_floats:
        feed = request.feed.add(name="x:0")
        feed.tensor.dtype = wire.DT_FLOAT
        feed.tensor.tensor_shape.dim.add(size=feed_floats)
        feed.tensor.tensor_content = bytes(4 * feed_floats)
    return request.SerializeToString()


async def time_handler(call: Callable[[], Awaitable[bytes]], seconds: float) -> float:
    """Return the best time of one call in microseconds."""
    for _ in range(300):
        await call()
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        for _ in range(200):
            await call()
        best = min(best, time.perf_counter() - started)
    return best / 200 * 1e6


async def time_steps(seconds: float) -> list[dict[str, Any]]:
    """Measure the handlers of repeated steps."""
    rows = []
    with Master() as master:
        service = MasterService(master)
        handlers = service.services()["tensorflow.MasterService"]
        handle, _ = master.create_session(small_graph())
        options = wire.CallableOptions(feed=["x:0"], fetch=["y:0"])
        number = master.session(handle).callables.make(options)
        request = wire.RunCallableRequest(session_handle=handle, handle=number)
        request.feed.add().CopyFrom(wire.RunStepRequest.FromString(step_request(handle, "y:0", 4)).feed[0].tensor)
        for case, method, data in (
            ("step[constant]", "RunStep", step_request(handle, "c:0", 0)),
            ("step[4-floats]", "RunStep", step_request(handle, "y:0", 4)),
            ("callable[4-floats]", "RunCallable", request.SerializeToString()),
        ):
            handler: Any = handlers[method]
            rows.append({"case": case, "us": await time_handler(lambda h=handler, d=data: h(d, None), seconds)})
        await service.stop(0.0)
    return rows


def time_graphs() -> list[dict[str, Any]]:
    """Measure making and compiling a large graph, per node."""
    data = chain_graph(CHAIN // 2).SerializeToString()
    create = prepare = float("inf")
    for _ in range(5):
        with Master() as master:
            started = time.perf_counter()
            handle, _ = master.create_session(wire.GraphDef.FromString(data))
            made = time.perf_counter()
            master.session(handle).prepare(("x:0",), (f"a{CHAIN // 2 - 1}:0",), ())
            create, prepare = min(create, made - started), min(prepare, time.perf_counter() - made)
    return [{"case": f"create[{CHAIN}]", "us": create / CHAIN * 1e6},
            {"case": f"prepare[{CHAIN}]", "us": prepare / CHAIN * 1e6}]


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time per case")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    rows = [*asyncio.run(time_steps(options.seconds)), *time_graphs()]
    print_table("the master without a network; us a call, or a node", ["case", "us"],
                [[row["case"], row["us"]] for row in rows])
    slow = [row["case"] for row in rows if row["case"].startswith("step") and row["us"] > GOAL_US]
    if slow:
        print(f"above the goal of {GOAL_US:g} us: {', '.join(slow)}")
    if options.json:
        write_json(options.json, {"benchmark": "master", "environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
