"""What takes long is not done by the loop that serves everybody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from runtime import wire
from tests.graph.graphs import FLOAT, INT32, const, graph_def, node, placeholder
from tests.master.harness import Caller, serving, step_request

# Such work took the loop seconds. What is left for it takes some milliseconds; the rest is for a busy machine, where
# the threads that have the interpreter meanwhile may be kept from their processor.
LONGEST_S = 0.5


class Gaps:
    """How long the loop did nothing else, at most."""

    def __init__(self) -> None:
        self.longest_s = 0.0


def run_delay_s() -> float:
    """Return how long this thread has been ready to run without a processor so far: others took it."""
    with open("/proc/thread-self/schedstat") as counters:
        return int(counters.read().split()[1]) / 1e9


@contextmanager
def watched(master: Caller) -> Iterator[Gaps]:
    """Watch the loop for the time of a block."""
    gaps = Gaps()

    async def tick() -> None:
        last, delay = time.monotonic(), run_delay_s()
        while True:
            await asyncio.sleep(0.002)
            now, delayed = time.monotonic(), run_delay_s()
            gaps.longest_s = max(gaps.longest_s, now - last - (delayed - delay))
            last, delay = now, delayed

    task = asyncio.run_coroutine_threadsafe(tick(), master.loop)
    try:
        yield gaps
    finally:
        task.cancel()
    assert gaps.longest_s < LONGEST_S


@pytest.fixture
def master() -> Iterator[Caller]:
    with serving() as caller:
        handle = caller.session(const("warm", 1.0), node("up", "Neg", "warm", T=FLOAT))
        caller.run(handle, ["up:0"])
        yield caller


def huge_const(name: str, elements: int) -> Any:
    made = node(name, "Const", dtype=FLOAT)
    tensor = made.attr["value"].tensor
    tensor.dtype = int(FLOAT)
    tensor.tensor_shape.dim.add(size=elements)
    tensor.float_val.append(2.0)
    return made


def test_a_constant_that_expands_is_decoded_in_a_thread(master):
    handle = master.session(huge_const("large", 1 << 27), node("size", "Size", "large", T=FLOAT))
    with watched(master):
        assert master.run(handle, ["size:0"]) == [1 << 27]


def folded(side: int) -> list[Any]:
    """Products of constants, each of which keeps its elements as they are; their sum is `side`."""
    products = [
        node(f"product{number}", "MatMul", f"product{number - 1}" if number else "fill", "fill", T=FLOAT)
        for number in range(8)
    ]
    return [
        const("dims", [side, side]),
        const("share", 1.0 / side),
        node("fill", "Fill", "dims", "share", T=FLOAT, index_type=INT32),
        *products,
        node("sum", "Sum", "product7", "axes", T=FLOAT, Tidx=INT32),
        const("axes", [0, 1]),
    ]


def test_large_products_are_folded_in_a_thread(master):
    handle = master.session(*folded(1500))
    with watched(master):
        (total,) = master.run(handle, ["sum:0"])
    assert total == pytest.approx(1500.0, rel=1e-3)


def test_a_callable_and_a_partial_run_are_compiled_in_a_thread_when_that_takes_long(master):
    nodes = [*folded(1500), placeholder("x"), node("y", "AddV2", "x", "sum", T=FLOAT)]
    handle = master.session(*nodes)
    with watched(master):
        options = wire.CallableOptions(feed=["x:0"], fetch=["y:0"])
        master.call("MakeCallable", session_handle=handle, options=options)
    handle = master.session(*nodes)
    with watched(master):
        master.call("PartialRunSetup", session_handle=handle, feed=["x:0"], fetch=["y:0"])


def test_a_step_that_was_short_with_another_value_runs_in_a_thread(master):
    handle = master.session(
        placeholder("n", INT32),
        const("one", 1.0),
        node("fill", "Fill", "n", "one", T=FLOAT, index_type=INT32),
        node("size", "Size", "fill", T=FLOAT),
        node("sum", "Sum", "fill", "zero", T=FLOAT, Tidx=INT32),
        const("zero", [0]),
    )
    for _ in range(3):
        master.run(handle, ["sum:0"], feed={"n:0": np.array([10], np.int32)})
    with watched(master):
        (total,) = master.run(handle, ["sum:0"], feed={"n:0": np.array([1 << 28], np.int32)})
    assert total == 1 << 28


def test_a_large_graph_is_read_and_built_in_a_thread(master):
    nodes = [node(f"n{number}", "Neg", f"n{number - 1}" if number else "x", T=FLOAT) for number in range(30_000)]
    request = wire.CreateSessionRequest(graph_def=graph_def(placeholder("x"), *nodes)).SerializeToString()
    with watched(master):
        answer = master.send("CreateSession", request).result(60)
    handle = wire.CreateSessionResponse.FromString(answer).session_handle
    with watched(master):
        (last,) = master.run(handle, ["n29999:0"], feed={"x:0": 3.0})
    assert last == 3.0


def test_two_large_graphs_hold_up_no_small_one(master):
    nodes = [node(f"n{number}", "Neg", f"n{number - 1}" if number else "x", T=FLOAT) for number in range(30_000)]
    large = master.session(placeholder("x"), *nodes)
    calls = [
        master.send("RunStep", step_request(large, [f"n{number}:0"], feed={"x:0": 1.0}).SerializeToString())
        for number in (29_999, 29_998)
    ]
    started = time.monotonic()
    # large enough for a thread
    small = master.session(*(const(f"c{number}", 1.0) for number in range(300)))
    assert master.run(small, ["c299:0"]) == [1.0]
    waited = time.monotonic() - started
    unfinished = sum(not call.done() for call in calls)
    for call in calls:
        call.result(60)
    assert unfinished or waited < 1.0


def test_a_hurry_that_ends_leaves_no_trace(master):
    """The step compiled in a thread afterwards is the one that is kept."""
    handle = master.session(*folded(1500))
    for _ in range(2):
        master.run(handle, ["sum:0"])
    session = master.service.master.sessions[handle]
    assert len(session.steps) == 1
    assert len(session.steps.exact) == 1


def test_an_error_of_a_hurried_step_is_told(master):
    handle = master.session(const("a", [1.0, 2.0]), const("b", [1.0, 2.0, 3.0]), node("c", "AddV2", "a", "b", T=FLOAT))
    with pytest.raises(Exception, match="Incompatible shapes") as caught:
        master.run(handle, ["c:0"])
    assert "{{node c}}" in str(caught.value)
