"""What a traced step tells its client: the step_stats of RunMetadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.dtypes import REF_OFFSET, base

if TYPE_CHECKING:
    from runtime._ext.executor import StepTrace

__all__ = ["step_stats"]

_ALLOCATOR = "cpu"


def step_stats(trace: StepTrace, device: str) -> Any:
    """Return a trace as a StepStats message, in the form that TensorFlow's timeline module reads.

    Parameters
    ----------
    trace : StepTrace
        Of a step that has ended.
    device : str
        Full name of the device.

    Returns
    -------
    wire.StepStats
        One device with one entry per node that ran, in the order of their beginnings: absolute start in microseconds
        and nanoseconds, times relative to it, a label ``name = Op(input, ...)``, the thread (small numbers, named
        in ``thread_names``), and every output's type, shape and bytes. Nodes without work of their own, such as
        constants, have no entry.
    """
    stats = wire.StepStats()
    entry = stats.dev_stats.add(device=device)
    threads: dict[int, int] = {}
    allocations = 0
    for path, node, scheduled_ns, started_ns, ended_ns, thread, outputs in sorted(trace.events, key=_beginning):
        number = threads.setdefault(thread, len(threads))
        allocations = _add_node(entry, path, node, (scheduled_ns, started_ns, ended_ns), number, outputs, allocations)
    for number in threads.values():
        entry.thread_names[number] = f"step thread {number}"
    return stats


def _beginning(event: tuple[Any, ...]) -> int:
    return event[2]  # type: ignore[no-any-return]


def _add_node(
    entry: Any, path: str, node: Any, times_ns: tuple[int, int, int], thread: int, outputs: list[Any], allocations: int
) -> int:
    scheduled_ns, started_ns, ended_ns = times_ns
    name = path + node.name
    # What lasts less than a microsecond would have no width in a timeline.
    end_micros = max((ended_ns - scheduled_ns) // 1000, (started_ns - scheduled_ns) // 1000 + 1)
    message = entry.node_stats.add(
        node_name=name,
        timeline_label=f"{name} = {node.op}({', '.join(node.proto.input)})",
        thread_id=thread,
        scheduled_micros=scheduled_ns // 1000,
        scheduled_nanos=scheduled_ns,
        all_start_micros=scheduled_ns // 1000,
        all_start_nanos=scheduled_ns,
        op_start_rel_micros=(started_ns - scheduled_ns) // 1000,
        op_start_rel_nanos=started_ns - scheduled_ns,
        op_end_rel_micros=end_micros,
        op_end_rel_nanos=ended_ns - scheduled_ns,
        all_end_rel_micros=end_micros,
        all_end_rel_nanos=ended_ns - scheduled_ns,
    )
    total = 0
    for slot, described in enumerate(outputs):
        if described is None:
            continue
        _, shape, nbytes = described
        allocations += 1
        total += nbytes
        description = message.output.add(slot=slot).tensor_description
        kind = node.output_types[slot]
        description.dtype = int(kind if kind > REF_OFFSET else base(kind))
        for size in shape:
            description.shape.dim.add(size=size)
        allocation = description.allocation_description
        allocation.requested_bytes = nbytes
        allocation.allocated_bytes = nbytes
        allocation.allocator_name = _ALLOCATOR
        allocation.allocation_id = allocations
    message.memory.add(allocator_name=_ALLOCATOR, total_bytes=total, peak_bytes=total)
    message.memory_stats.SetInParent()
    return allocations
