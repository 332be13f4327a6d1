"""The status of tasks as aligned text, for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["aligned", "duration", "size", "status_table"]

# Of what a step fetches and runs.
_NAMES = 3
# A rendezvous key: sending device, its incarnation, receiving device, edge, frame and iteration.
_KEY = re.compile(r"/job:([^/;]+)/replica:\d+/task:(\d+)/device:([^;]+);[0-9a-f]{16};"
                  r"/job:([^/;]+)/replica:\d+/task:(\d+)/device:([^;]+);([^;]+);(\d+:\d+)")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def status_table(response: Any) -> str:
    """Return the text for a StatusResponse: one line a task, then what each of them has and waits for."""
    head = ("TASK", "ADDRESS", "PID", "UP", "RSS", "ARRAYS", "SESSIONS", "STEPS", "STATE")
    sections = [aligned([head, *map(_task_row, response.task)])]
    for task in response.task:
        parts = list(_parts(task))
        if parts:
            sections.append("\n\n".join([task.task, *parts]))
    return "\n\n".join(sections)


def _task_row(task: Any) -> tuple[str, ...]:
    if task.error:
        return (task.task, task.address, "-", "-", "-", "-", "-", "-", task.error)
    steps = sum(session.num_steps for session in (*task.session, *task.worker_session))
    return (task.task, task.address, str(task.pid), duration(task.seconds), size(task.rss_bytes), size(task.step_bytes),
            str(len(task.session)), str(steps), "serving")


def _parts(task: Any) -> Iterable[str]:
    if task.error and task.device:
        yield _section("devices", [(device.name, device.device_type) for device in task.device])
    if task.opening:
        rows: list[tuple[str, ...]] = [("CALL", "AGE", "TARGET", "WAITS FOR")]
        for opening in task.opening:
            rows += _spread((opening.what, duration(opening.seconds), opening.target or "-"), opening.wait)
        yield _section("waiting for tasks", rows)
    if task.session:
        yield _section("sessions", [
            ("SESSION", "AGE", "TARGET", "STATE", "VERSION", "NODES", "COMPILED", "STEPS", "OTHER TASKS"),
            *((session.handle, duration(session.seconds), session.target or "-",
               "isolated" if session.is_isolated else "shared", str(session.graph_version), str(session.num_nodes),
               str(session.num_compiled), str(session.num_steps), ", ".join(session.task) or "-")
              for session in task.session)])
    if task.worker_session:
        yield _section("worker sessions", [
            ("SESSION", "AGE", "MASTER", "STATE", "GRAPHS", "NODES", "STEPS"),
            *((session.handle or "(shared)", duration(session.seconds), session.master or "-",
               "isolated" if session.is_isolated else "shared", str(len(session.graph)),
               str(sum(graph.num_nodes for graph in session.graph)), str(session.num_steps))
              for session in task.worker_session)])
    rows = [("STEP", "SESSION", "AGE", "ARRAYS", "RUNS", "WAITS FOR")]
    for session in (*task.session, *task.worker_session):
        for step in session.step:
            state = "(being cancelled)" if step.is_cancelled else "(runs)"
            rows += _spread((str(step.step_id), session.handle or "(shared)", duration(step.seconds),
                             size(step.held_bytes), _what_runs(step)), step.wait, state)
        rows += _hidden(session.num_steps - len(session.step), 6)
    if len(rows) > 1:
        yield _section("steps", rows)
    if task.call:
        yield _section("calls to other tasks", [
            ("TASK", "ADDRESS", "AGE", "AWAITED", "STATE"),
            *((call.task, call.address, duration(call.seconds), _short(call.what),
               f"silent for {duration(call.silent_seconds)}" if call.silent_seconds >= 1 else "open")
              for call in task.call),
            *_hidden(task.num_calls - len(task.call), 5)])
    if task.wanted:
        yield _section("tensors that others wait for here", [
            ("AGE", "TENSOR"), *((duration(wait.seconds), _short(wait.what)) for wait in task.wanted),
            *_hidden(task.num_wanted - len(task.wanted), 2)])
    if task.road:
        yield _transfers(task.road)
    held = task.held
    if held.num_lent or held.num_borrowed or held.used_bytes or held.idle_bytes:
        yield _section("shared memory", [
            ("LENT", "BORROWED", "IN USE", "KEPT"),
            (str(held.num_lent), str(held.num_borrowed), size(held.used_bytes), size(held.idle_bytes))])


def _transfers(roads: Sequence[Any]) -> str:
    return _section("tensors moved", [
        ("WAY", "ROAD", "TENSORS", "BYTES", "TIME", "COPIES"),
        *((road.direction, road.road, str(road.transfers), size(road.bytes), duration(road.seconds), str(road.copies))
          for road in roads)])


def _hidden(number: int, num_columns: int) -> list[tuple[str, ...]]:
    """Return the row for what is not told."""
    return [(f"and {number} younger", *("",) * (num_columns - 1))] if number > 0 else []


def _spread(first: tuple[str, ...], waits: Sequence[Any], nothing: str = "-") -> list[tuple[str, ...]]:
    """Return a row for every wait, the first of them with what stands before."""
    texts = [f"{_short(wait.what)}{f' by node {wait.node}' if wait.node else ''}, for {duration(wait.seconds)}"
             for wait in waits] or [nothing]
    blank = ("",) * len(first)
    return [(*(blank if index else first), text) for index, text in enumerate(texts)]


def _short(text: str) -> str:
    """Return a text with the keys of tensors in fewer words."""
    return _KEY.sub(r"\7 (\1/\2 \3 to \4/\5 \6)", text)


def _what_runs(step: Any) -> str:
    if step.graph_handle:
        return f"graph {step.graph_handle.lstrip('0') or '0'}"
    wanted = [*step.fetch, *step.target]
    return ", ".join(wanted[:_NAMES]) + (", ..." if len(wanted) > _NAMES else "") or "a partial run"


def _section(title: str, rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"  {line}" for line in (f"{title}:", *aligned(rows).splitlines()))


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows of texts as lines with their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)


def duration(seconds: float) -> str:
    """Return a time span in a few characters: ``0.4s``, ``12s``, ``3m05s``, ``2h10m``, ``5d03h``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def size(nbytes: float) -> str:
    """Return a number of bytes with three digits: ``12.3 MiB``."""
    value, unit = float(nbytes), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"
