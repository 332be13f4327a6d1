"""Timelines hold what Perfetto and Chrome's viewer need: complete events that nest, in named processes and threads."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

import runtime
from runtime import wire
from runtime._ext.executor import StepTrace
from runtime.dtypes import DataType
from runtime.observe.timeline import chrome_trace
from runtime.step.stats import step_stats
from tests.observe.test_spans import DEVICE, entry
from tests.step.maker import GraphMaker, Runner, function


def check_format(trace: dict[str, Any]) -> None:
    """Check a trace against the Trace Event Format: its JSON object form, metadata and complete events."""
    trace = json.loads(json.dumps(trace, allow_nan=False))
    assert isinstance(trace["traceEvents"], list)
    assert trace["displayTimeUnit"] in ("ms", "ns")
    named = defaultdict(set)
    by_thread = defaultdict(list)
    for event in trace["traceEvents"]:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
            where = event["pid"] if event["name"] == "process_name" else (event["pid"], event["tid"])
            assert where not in named[event["name"]], "named twice"
            named[event["name"]].add(where)
        else:
            assert event["ph"] == "X"
            assert isinstance(event["name"], str)
            assert isinstance(event["cat"], str)
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            by_thread[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for (pid, tid), spans in by_thread.items():
        assert pid in named["process_name"]
        assert (pid, tid) in named["thread_name"]
        # A viewer draws complete events of one thread as a stack: they follow or contain each other.
        stack: list[float] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while stack and stack[-1] <= start + 1e-6:
                stack.pop()
            assert not stack or end <= stack[-1] + 1e-6
            stack.append(end)


def operations(trace: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in trace["traceEvents"] if event.get("cat") == "Op"]


def traced(session: runtime.Session, fetches: Any, feeds: Any = None) -> Any:
    metadata = wire.RunMetadata()
    session.run(fetches, feeds, {"trace_level": wire.RunOptions.FULL_TRACE}, metadata)
    return metadata.step_stats


def test_a_step_becomes_events_with_node_bytes_and_thread() -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [None, 3], name="x")
    total = graph.reduce_sum(graph.square(x + 1.0, name="square"), name="total")
    with runtime.Session(graph=graph) as session:
        stats = traced(session, total, {x: np.ones((2, 3), np.float32)})
    trace = chrome_trace([("one", stats)])
    check_format(trace)
    events = {event["args"]["node"]: event for event in operations(trace)}
    assert events["square"]["name"] == "Square"
    assert events["square"]["args"]["outputs"] == ["float[2,3] 24 B"]
    assert events["square"]["args"]["output_bytes"] == 24
    assert events["total"]["args"]["inputs"].startswith("square")
    assert trace["otherData"]["start_unix_us"] > 1_600_000_000_000_000
    names = {event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"}
    assert {"steps", "MainThread", "/job:local/replica:0/task:0/device:CPU:0"} <= names


def test_body_of_a_function_lies_inside_the_call() -> None:
    maker = GraphMaker()
    maker.placeholder("x")
    body = maker.function("f", {"x": DataType.FLOAT}, {"y": ("neg:y:0", DataType.FLOAT)})
    body.op("Neg", "neg", "x")
    maker.call("PartitionedCall", "call", "x", f=function("f"), Tin=[DataType.FLOAT], Tout=[DataType.FLOAT])
    runner = Runner(maker)
    record = StepTrace()
    runner.compile(["x:0"], ["call:0"]).run(runner.context(trace=record), [np.ones(2, np.float32)])
    trace = chrome_trace([("call", step_stats(record, DEVICE))])
    check_format(trace)
    inside, call = sorted(operations(trace), key=lambda event: event["dur"])
    assert (inside["args"]["node"], call["args"]["node"]) == ("call/neg", "call")
    assert inside["tid"] == call["tid"]
    assert call["ts"] <= inside["ts"] <= inside["ts"] + inside["dur"] <= call["ts"] + call["dur"]


def test_waiting_nodes_get_a_thread_of_their_own() -> None:
    stats = wire.StepStats()
    entry(stats, "first", 0, 50)
    entry(stats, "waited", 20, 80, op="QueueDequeueV2")
    entry(stats, "last", 60, 70)
    stats.dev_stats[0].thread_names[0] = "step-0"
    trace = chrome_trace([("one", stats)])
    check_format(trace)
    threads = {event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "thread_name"}
    assert threads == {"steps", "step-0", "step-0, waiting"}
    lanes = {event["args"]["node"]: event["tid"] for event in operations(trace)}
    assert lanes["first"] == lanes["last"] != lanes["waited"]


def test_steps_share_one_clock_and_one_process_for_each_device() -> None:
    stats = []
    for start_us in (1_000_000, 1_000_300):
        one = wire.StepStats()
        entry(one, "n", start_us, start_us + 200)
        stats.append(one)
    stats[1].dev_stats.add(device="/device:GPU:0").node_stats.add(node_name="g", all_start_micros=1_000_350,
                                                                  op_end_rel_micros=10)
    trace = chrome_trace([("a", stats[0]), ("b", stats[1])])
    check_format(trace)
    assert trace["otherData"] == {"start_unix_us": 1_000_000}
    steps = [(event["name"], event["ts"], event["dur"]) for event in trace["traceEvents"] if event.get("cat") == "Step"]
    assert steps == [("a", 0.0, 200.0), ("b", 300.0, 200.0)]
    processes = {event["pid"]: event["args"]["name"] for event in trace["traceEvents"]
                 if event["name"] == "process_name"}
    assert processes == {0: "steps", 1: "/device:GPU:0", 2: DEVICE}
    assert [(event["pid"], event["ts"]) for event in operations(trace)] == [(1, 350.0), (2, 0.0), (2, 300.0)]


def test_queued_time_is_told() -> None:
    stats = wire.StepStats()
    one = entry(stats, "n", 10, 60)
    one.op_start_rel_micros = 20
    (event,) = operations(chrome_trace([("one", stats)]))
    assert (event["dur"], event["args"]["queued_us"]) == (30.0, 20.0)


@pytest.mark.parametrize("steps", [[], [("nothing", wire.StepStats())]])
def test_no_event_is_a_valid_trace(steps: Any) -> None:
    trace = chrome_trace(steps)
    check_format(trace)
    assert operations(trace) == []


def test_odd_characters_in_names_keep_a_trace_valid() -> None:
    stats = wire.StepStats()
    entry(stats, "näme/⟨x⟩\n", 0, 1)
    check_format(chrome_trace([("quote \" and \\", stats)]))
