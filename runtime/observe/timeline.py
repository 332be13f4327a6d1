"""Timelines of traced steps in the Trace Event Format, which Perfetto (ui.perfetto.dev) and Chrome's viewer read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.observe.spans import Span, by_thread, lanes, read_spans

__all__ = ["chrome_trace"]

_STEPS_PID = 0


def chrome_trace(steps: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the timeline of some steps, ready for ``json.dump``.

    Parameters
    ----------
    steps : sequence of (str, StepStats)
        What to call each step, and what it reported.

    Returns
    -------
    dict
        In ``traceEvents`` one complete event (``X``) per node that ran, named by its op, with node, inputs, outputs and
        bytes in ``args``; every device is a process in it, every thread a thread, and one process more shows the steps.
        Times are microseconds since the first event, whose Unix time is in ``otherData``.
    """
    read = [(label, stats, read_spans(stats)) for label, stats in steps]
    beginnings = [span.start_ns for _, _, spans in read for span in spans]
    zero_ns = min(beginnings, default=0)
    events: list[dict[str, Any]] = []
    names = _thread_names([stats for _, stats, _ in read])
    together = by_thread([span for _, _, spans in read for span in spans])
    devices = sorted({device for device, _ in together})
    if read:
        _add_steps(events, [(label, spans) for label, _, spans in read], zero_ns)
    for pid, device in enumerate(devices, _STEPS_PID + 1):
        _name(events, "process_name", pid, 0, device)
        tid = 0
        for thread in sorted(thread for where, thread in together if where == device):
            for lane, spans in enumerate(lanes(together[device, thread])):
                name = names.get((device, thread), f"thread {thread}")
                _name(events, "thread_name", pid, tid, f"{name}, waiting" if lane else name)
                events.extend(_event(span, pid, tid, zero_ns) for span in spans)
                tid += 1
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"start_unix_us": zero_ns // 1000}}


def _add_steps(events: list[dict[str, Any]], steps: list[tuple[str, list[Span]]], zero_ns: int) -> None:
    _name(events, "process_name", _STEPS_PID, 0, "steps")
    whole = []
    for label, spans in steps:
        if spans:
            start_ns, end_ns = spans[0].start_ns, max(span.end_ns for span in spans)
            whole.append(Span(label, label, "", "", 0, start_ns, start_ns, end_ns))
    for tid, lane in enumerate(lanes(whole)):
        _name(events, "thread_name", _STEPS_PID, tid, "steps")
        for span in lane:
            events.append({"ph": "X", "cat": "Step", "name": span.op, "pid": _STEPS_PID, "tid": tid,
                           **_when(span, zero_ns)})


def _event(span: Span, pid: int, tid: int, zero_ns: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {"node": span.node, "inputs": span.inputs, "outputs": span.outputs,
                                 "output_bytes": span.output_bytes, "allocated_bytes": span.allocated_bytes}
    if span.start_ns > span.scheduled_ns:
        arguments["queued_us"] = (span.start_ns - span.scheduled_ns) / 1000
    return {"ph": "X", "cat": "Op", "name": span.op, "pid": pid, "tid": tid, **_when(span, zero_ns),
            "args": arguments}


def _when(span: Span, zero_ns: int) -> dict[str, float]:
    return {"ts": (span.start_ns - zero_ns) / 1000, "dur": (span.end_ns - span.start_ns) / 1000}


def _name(events: list[dict[str, Any]], kind: str, pid: int, tid: int, name: str) -> None:
    events.append({"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}})


def _thread_names(stats: list[Any]) -> dict[tuple[str, int], str]:
    return {(device.device, number): name for message in stats for device in message.dev_stats
            for number, name in device.thread_names.items()}
