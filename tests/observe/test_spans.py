"""Reading StepStats, and laying spans out in lanes."""

from __future__ import annotations

from typing import Any

from runtime import wire
from runtime.observe.profile import Profile, peak_bytes
from runtime.observe.spans import Span, lanes, read_spans

DEVICE = "/job:local/replica:0/task:0/device:CPU:0"


def span(start_ns: int, end_ns: int, node: str = "n") -> Span:
    return Span(node, "Op", "", DEVICE, 0, start_ns, start_ns, end_ns)


def entry(stats: Any, name: str, start_us: int, end_us: int, thread: int = 0, op: str = "Op") -> Any:
    if not stats.dev_stats:
        stats.dev_stats.add(device=DEVICE)
    return stats.dev_stats[0].node_stats.add(
        node_name=name, timeline_label=f"{name} = {op}(a, b:1)", thread_id=thread, all_start_micros=start_us,
        op_start_rel_micros=0, op_end_rel_micros=end_us - start_us, all_end_rel_micros=end_us - start_us)


def test_microseconds_are_read_where_there_are_no_nanoseconds() -> None:
    stats = wire.StepStats()
    entry(stats, "n", 100, 130, op="MatMul")
    (found,) = read_spans(stats)
    assert (found.start_ns, found.end_ns) == (100_000, 130_000)
    assert (found.op, found.inputs) == ("MatMul", "a, b:1")


def test_label_of_another_form_leaves_the_name_of_the_node() -> None:
    stats = wire.StepStats()
    entry(stats, "RecvTensor", 1, 2).timeline_label = "[8B] [0.25Mb/s] edge_1_x from a to b"
    (found,) = read_spans(stats)
    assert (found.op, found.inputs) == ("RecvTensor", "")


def test_outputs_are_told_with_type_shape_and_bytes() -> None:
    stats = wire.StepStats()
    one = entry(stats, "n", 1, 2)
    for dtype, shape, nbytes in ((wire.DT_FLOAT, [2, 3], 24), (wire.DT_INT32_REF, [], 4), (99, [1], 8)):
        description = one.output.add().tensor_description
        description.dtype = dtype
        for size in shape:
            description.shape.dim.add(size=size)
        description.allocation_description.requested_bytes = nbytes
    one.memory.add(total_bytes=24)
    (found,) = read_spans(stats)
    assert found.outputs == ["float[2,3] 24 B", "int32[] 4 B", "type 99[1] 8 B"]
    assert (found.output_bytes, found.allocated_bytes) == (36, 24)


def test_spans_that_follow_or_contain_each_other_share_a_lane() -> None:
    call, inner, after = span(0, 100), span(10, 40), span(100, 110)
    assert lanes([after, inner, call]) == [[call, inner, after]]
    assert (call.inside_ns, call.self_ns, inner.self_ns) == (30, 70, 30)


def test_a_span_inside_two_others_counts_for_the_inner_one() -> None:
    outer, middle, inner = span(0, 100), span(10, 50), span(20, 30)
    lanes([outer, middle, inner])
    assert (outer.self_ns, middle.self_ns, inner.self_ns) == (60, 30, 10)


def test_a_span_that_waited_through_others_gets_a_lane_of_its_own() -> None:
    first, waited, last = span(0, 50), span(20, 80), span(60, 70)
    assert lanes([first, waited, last]) == [[first, last], [waited]]
    assert waited.self_ns == 60


def test_profile_lists_the_most_expensive_nodes_first() -> None:
    stats = wire.StepStats()
    entry(stats, "cheap", 0, 10)
    entry(stats, "loop/body", 10, 40)
    entry(stats, "loop/body", 40, 70)
    entry(stats, "other", 0, 50, thread=1)
    profile = Profile([stats])
    assert [(cost.node, cost.calls, cost.self_ns) for cost in profile.costs] == [
        ("loop/body", 2, 60_000), ("other", 1, 50_000), ("cheap", 1, 10_000)]
    assert (profile.num_runs, profile.num_threads) == (4, 2)
    assert (profile.wall_ns, profile.busy_ns) == (70_000, 120_000)
    lines = profile.table(top=2).splitlines()
    assert lines[0] == "4 node runs, 70.0 us from first to last, 120.0 us in nodes, 2 threads"
    assert lines[1].split() == ["time", "share", "calls", "output", "new", "op", "node"]
    assert lines[2].split() == ["60.0", "us", "50.0%", "2", "0", "B", "0", "B", "Op", "loop/body"]
    assert lines[3].split()[-1] == "other"
    assert lines[4] == "and 1 more nodes with 10.0 us"


def test_peak_is_read_and_told() -> None:
    metadata = wire.RunMetadata()
    assert peak_bytes(metadata) == 0
    metadata.cost_graph.cost.add(dimension="other", cost=9)
    metadata.cost_graph.cost.add(dimension="peak_bytes", cost=3 << 20)
    entry(metadata.step_stats, "n", 0, 1)
    table = Profile([metadata.step_stats], peak_bytes(metadata)).table()
    assert table.splitlines()[0].endswith("1 thread, peak 3 MiB")


def test_profile_of_nothing_says_so() -> None:
    assert Profile([]).table() == "no node ran"


def test_profile_adds_steps_up() -> None:
    first, second = wire.StepStats(), wire.StepStats()
    entry(first, "n", 0, 10)
    entry(second, "n", 1000, 1020)
    profile = Profile([first, second])
    assert [(cost.calls, cost.self_ns) for cost in profile.costs] == [(2, 30_000)]
    assert profile.wall_ns == 30_000
