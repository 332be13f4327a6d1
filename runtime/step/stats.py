"""What a traced step tells its client: the step_stats of RunMetadata."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.dtypes import REF_OFFSET, base

if TYPE_CHECKING:
    from runtime._ext.executor import StepTrace
    from runtime.graph.node import Node

__all__ = ["step_stats"]

logger = logging.getLogger(__name__)

_ALLOCATOR = "cpu"
# They hand out an array that the graph's state keeps.
_READERS = frozenset({"ReadVariableOp", "Variable", "VariableV2", "TemporaryVariable"})


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
        in ``thread_names``), and every output's type, shape, bytes and address. ``memory`` counts the outputs that the
        node took new memory for: neither a view, nor an input's array used again, nor a variable's or constant's. Nodes
        without work of their own, such as constants, have no entry.
    """
    stats = wire.StepStats()
    entry = stats.dev_stats.add(device=device)
    threads: dict[int, int] = {}
    made: dict[tuple[str, Node, int], int] = {}
    for event in sorted(trace.events, key=_beginning):
        number = threads.setdefault(event[5], len(threads))
        _add_node(entry, event, number, made)
    alive = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, number in threads.items():
        entry.thread_names[number] = alive.get(ident, f"step thread {number}")
    if trace.dropped:
        logger.warning("a traced step ran more nodes than a trace holds",
                       extra={"kept": len(trace.events), "dropped": trace.dropped})
    return stats


def _beginning(event: tuple[Any, ...]) -> int:
    return event[2]  # type: ignore[no-any-return]


def _add_node(entry: Any, event: tuple[Any, ...], thread: int, made: dict[tuple[str, Node, int], int]) -> None:
    """Add what one event tells; `made` holds the address of every output so far."""
    path, node, scheduled_ns, started_ns, ended_ns, _, outputs = event
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
    taken = {made.get((path, source, slot)) for source, slot in node.inputs}
    reads = node.op in _READERS
    new_bytes = 0
    for slot, described in enumerate(outputs):
        if described is None:
            continue
        _, shape, nbytes, address, owns = described
        description = message.output.add(slot=slot).tensor_description
        kind = node.output_types[slot]
        description.dtype = int(kind if kind > REF_OFFSET else base(kind))
        for size in shape:
            description.shape.dim.add(size=size)
        allocation = description.allocation_description
        allocation.requested_bytes = nbytes
        allocation.allocated_bytes = nbytes
        allocation.allocator_name = _ALLOCATOR
        allocation.ptr = address
        # Equal for the same memory, so that a reader can follow an array from node to node.
        allocation.allocation_id = address or len(made) + 1
        made[path, node, slot] = address
        if owns and not reads and not (address and address in taken):
            new_bytes += nbytes
    message.memory.add(allocator_name=_ALLOCATOR, total_bytes=new_bytes, peak_bytes=new_bytes)
    message.memory_stats.SetInParent()
