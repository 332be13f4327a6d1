"""The step_stats of a traced step, and TensorFlow's timeline module reading them."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from runtime import wire
from runtime._ext.executor import StepTrace
from runtime.dtypes import DataType
from runtime.step.stats import step_stats
from tests import peers
from tests.step.maker import GraphMaker, Runner, function

DEVICE = "/job:local/replica:0/task:0/device:CPU:0"


@pytest.fixture(scope="module")
def stats() -> wire.StepStats:
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("p", DataType.BOOL)
    maker.const("two", np.full((2, 3), 2, np.float32))
    maker.op("Add", "scope/add", "x", "two")
    maker.op("Switch", "switch", "scope/add", "p")
    maker.op("NoOp", "done", "^switch")
    body = maker.function("f", {"x": DataType.FLOAT}, {"y": ("neg:y:0", DataType.FLOAT)})
    body.op("Neg", "neg", "x")
    maker.call("PartitionedCall", "call", "switch:1", f=function("f"), Tin=[DataType.FLOAT], Tout=[DataType.FLOAT])
    runner = Runner(maker)
    trace = StepTrace()
    compiled = runner.compile(["x:0", "p:0"], ["call:0"], ["done"])
    compiled.run(runner.context(trace=trace), [np.ones((2, 3), np.float32), np.array(True)])
    return step_stats(trace, DEVICE)


def test_every_node_that_ran_has_an_entry(stats):
    (device,) = stats.dev_stats
    assert device.device == DEVICE
    entries = {entry.node_name: entry for entry in device.node_stats}
    assert set(entries) == {"scope/add", "switch", "done", "call", "call/neg"}
    assert entries["scope/add"].timeline_label == "scope/add = Add(x, two)"
    assert entries["done"].timeline_label == "done = NoOp(^switch)"
    inner, outer = entries["call/neg"], entries["call"]
    assert outer.all_start_nanos <= inner.all_start_nanos
    assert (inner.all_start_nanos + inner.all_end_rel_nanos) <= (outer.all_start_nanos + outer.all_end_rel_nanos)
    for entry in entries.values():
        assert entry.all_start_micros == entry.all_start_nanos // 1000 > 1_600_000_000_000_000
        assert 0 <= entry.op_start_rel_micros < entry.op_end_rel_micros <= entry.all_end_rel_micros
        assert entry.thread_id in device.thread_names


def test_outputs_are_described(stats):
    entries = {entry.node_name: entry for entry in stats.dev_stats[0].node_stats}
    (output,) = entries["scope/add"].output
    description = output.tensor_description
    assert description.dtype == DataType.FLOAT
    assert [dim.size for dim in description.shape.dim] == [2, 3]
    assert description.allocation_description.requested_bytes == 24
    assert entries["scope/add"].memory[0].total_bytes == 24
    assert [output.slot for output in entries["switch"].output] == [1]
    assert not entries["done"].output


def new_bytes(maker: GraphMaker, fetch: str, feeds: dict[str, np.ndarray]) -> dict[str, int]:
    """Return what every node of a step took new memory for."""
    runner = Runner(maker)
    trace = StepTrace()
    runner.compile(list(feeds), [fetch]).run(runner.context(trace=trace), list(feeds.values()))
    return {entry.node_name: entry.memory[0].total_bytes for entry in step_stats(trace, DEVICE).dev_stats[0].node_stats}


def test_memory_counts_what_a_node_made_and_no_views_or_reused_arrays():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.const("shape", np.array([6], np.int32))
    maker.op("Add", "made", "x", "x")
    maker.op("Neg", "in_place", "made")
    maker.op("Reshape", "view", "in_place", "shape")
    assert new_bytes(maker, "view:0", {"x:0": np.ones((2, 3), np.float32)}) == {"made": 24, "in_place": 0, "view": 0}


def test_same_memory_has_the_same_address():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.const("shape", np.array([3, 1], np.int32))
    maker.op("Add", "made", "x", "x")
    maker.op("Reshape", "same", "made", "shape")
    runner = Runner(maker)
    trace = StepTrace()
    runner.compile(["x:0"], ["same:0", "made:0"]).run(runner.context(trace=trace), [np.ones(3, np.float32)])
    entries = step_stats(trace, DEVICE).dev_stats[0].node_stats
    made, same = (entry.output[0].tensor_description.allocation_description for entry in entries)
    assert made.ptr == same.ptr != 0
    assert made.allocation_id == same.allocation_id


def test_a_chain_of_elementwise_nodes_is_told_node_by_node():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Mul", "mul", "x", "x")
    maker.op("Add", "add", "mul", "x")
    maker.op("Relu", "relu", "add")
    maker.op("Tanh", "tanh", "relu")
    assert list(new_bytes(maker, "tanh:0", {"x:0": np.ones((64, 64), np.float32)})) == ["mul", "add", "relu", "tanh"]


def test_threads_get_small_numbers():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Neg", "neg", "x")
    runner = Runner(maker)
    trace = StepTrace()
    compiled = runner.compile(["x:0"], ["neg:0"])

    def run() -> None:
        compiled.run(runner.context(trace=trace), [np.ones(1, np.float32)])

    run()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    device = step_stats(trace, DEVICE).dev_stats[0]
    assert dict(device.thread_names) == {0: threading.current_thread().name, 1: "step thread 1"}
    assert [entry.thread_id for entry in device.node_stats] == [0, 1]


_PEER = """
import sys
from tensorflow.core.framework import step_stats_pb2
from tensorflow.python.client import timeline
stats = step_stats_pb2.StepStats.FromString(open(sys.argv[1], "rb").read())
print(timeline.Timeline(stats).generate_chrome_trace_format(show_dataflow=True, show_memory=True))
"""


def test_tensorflows_timeline_reads_it(stats, tmp_path: Path):
    (tmp_path / "stats").write_bytes(stats.SerializeToString())
    text = peers.run_peer(_PEER, str(tmp_path / "stats")).stdout
    events = json.loads(text[text.index("{") :])["traceEvents"]
    ops = {event["name"] for event in events if event.get("cat") == "Op"}
    assert {"Add", "Switch", "NoOp", "PartitionedCall", "Neg"} <= ops
