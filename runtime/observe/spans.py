"""The nodes of a traced step as spans of time: read from StepStats, nested, and laid out in lanes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.dtypes import REF_OFFSET, DataType

__all__ = ["Span", "by_thread", "lanes", "read_spans"]

# "name = Op(input, ...)", as TensorFlow's servers and ours label what they ran.
_LABEL = re.compile(r".* = (?P<op>[^(\s]+)\((?P<inputs>.*)\)", re.DOTALL)


@dataclass(slots=True)
class Span:
    """One node that ran once.

    Attributes
    ----------
    node : str
        Its name; nodes of functions have the names of the calls before them, joined by ``/``.
    op : str
    inputs : str
        Names of its inputs, separated by ``, ``.
    device : str
    thread : int
        Number of the thread, within the device.
    scheduled_ns, start_ns, end_ns : int
        Unix times in nanoseconds: when the node could run, when it began, when it had ended.
    outputs : list of str
        Type, shape and bytes of every output, such as ``float32[2,3] 24 B``.
    output_bytes, allocated_bytes : int
        Bytes of all outputs, and of those the node took new memory for.
    inside_ns : int
        How much of its time spans inside it took; set by `lanes`.
    """

    node: str
    op: str
    inputs: str
    device: str
    thread: int
    scheduled_ns: int
    start_ns: int
    end_ns: int
    outputs: list[str] = field(default_factory=list)
    output_bytes: int = 0
    allocated_bytes: int = 0
    inside_ns: int = 0

    @property
    def self_ns(self) -> int:
        """Nanoseconds that were the node's own."""
        return max(0, self.end_ns - self.start_ns - self.inside_ns)


def read_spans(step_stats: Any) -> list[Span]:
    """Return the spans of a StepStats message, in the order of their beginnings.

    Parameters
    ----------
    step_stats : StepStats
        This project's or TensorFlow's own. Where it has no nanoseconds, microseconds are read.
    """
    found = []
    for device in step_stats.dev_stats:
        for entry in device.node_stats:
            begin, start, end = _times_ns(entry)
            label = _LABEL.fullmatch(entry.timeline_label)
            span = Span(entry.node_name, label["op"] if label else entry.node_name, label["inputs"] if label else "",
                        device.device, entry.thread_id, begin, start, max(start, end))
            for output in entry.output:
                described = output.tensor_description
                nbytes = described.allocation_description.requested_bytes
                span.outputs.append(f"{_type_name(described.dtype)}{_shape_text(described.shape)} {nbytes} B")
                span.output_bytes += nbytes
            span.allocated_bytes = sum(memory.total_bytes for memory in entry.memory)
            found.append(span)
    found.sort(key=_beginning)
    return found


def lanes(spans: Iterable[Span]) -> list[list[Span]]:
    """Spread spans of one thread so that, within a lane, two of them either follow or contain each other.

    A node that waited ends in a thread that did other things meanwhile; such a one gets a lane of its own.

    Parameters
    ----------
    spans : iterable of Span
        Their `inside_ns` is set.

    Returns
    -------
    list of list of Span
        In the order of their beginnings.
    """
    made: list[list[Span]] = []
    open_spans: list[list[Span]] = []
    for span in sorted(spans, key=_beginning):
        span.inside_ns = 0
        for lane, stack in zip(made, open_spans, strict=True):  # noqa: B007 - used after the loop
            while stack and stack[-1].end_ns <= span.start_ns:
                stack.pop()
            if not stack or span.end_ns <= stack[-1].end_ns:
                break
        else:
            lane, stack = [], []
            made.append(lane)
            open_spans.append(stack)
        if stack:
            stack[-1].inside_ns += span.end_ns - span.start_ns
        lane.append(span)
        stack.append(span)
    return made


def _beginning(span: Span) -> tuple[int, int]:
    return span.start_ns, -span.end_ns


def _times_ns(entry: Any) -> tuple[int, int, int]:
    if entry.all_start_nanos:
        begin, start, end = entry.all_start_nanos, entry.op_start_rel_nanos, entry.op_end_rel_nanos
    else:
        begin, start, end = (1000 * micros for micros in (
            entry.all_start_micros, entry.op_start_rel_micros, entry.op_end_rel_micros))
    return begin, begin + start, begin + end


def _type_name(number: int) -> str:
    try:
        return DataType(number if number < REF_OFFSET else number - REF_OFFSET).label
    except ValueError:
        return f"type {number}"


def _shape_text(shape: Any) -> str:
    return "[?]" if shape.unknown_rank else f"[{','.join(str(dim.size) for dim in shape.dim)}]"


def by_thread(spans: Sequence[Span]) -> dict[tuple[str, int], list[Span]]:
    """Return the spans of every (device, thread)."""
    found: dict[tuple[str, int], list[Span]] = {}
    for span in spans:
        found.setdefault((span.device, span.thread), []).append(span)
    return found
