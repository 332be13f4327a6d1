"""Where a traced step spent its time: its nodes, the most expensive first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runtime.observe.spans import Span, by_thread, lanes, read_spans

__all__ = ["PEAK_BYTES", "NodeCost", "Profile", "peak_bytes"]

PEAK_BYTES = "peak_bytes"
"""Dimension of the cost in ``RunMetadata.cost_graph`` that tells the most that a traced step's arrays held."""

TOP = 12


@dataclass(slots=True)
class NodeCost:
    """What all runs of a node cost together.

    Attributes
    ----------
    node, op, device : str
    calls : int
    self_ns : int
        Nanoseconds, without those of nodes that ran inside it (the body of a function).
    output_bytes, allocated_bytes : int
    """

    node: str
    op: str
    device: str
    calls: int = 0
    self_ns: int = 0
    output_bytes: int = 0
    allocated_bytes: int = 0


class Profile:
    """The costs of steps by node.

    Parameters
    ----------
    steps : iterable of StepStats
        Of any server.
    peak_bytes : int
        The most that the arrays of a step held at once; 0 where that is not known.

    Attributes
    ----------
    costs : list of NodeCost
        The most expensive first.
    num_runs : int
        How often a node ran, all nodes together.
    num_threads, peak_bytes : int
    wall_ns : int
        From the first beginning to the last end, summed over the steps.
    busy_ns : int
        Time in nodes, summed over the threads.
    """

    def __init__(self, steps: Iterable[Any], peak_bytes: int = 0) -> None:
        self.peak_bytes = peak_bytes
        costs: dict[tuple[str, str], NodeCost] = {}
        threads = set()
        self.wall_ns = self.num_runs = 0
        for step_stats in steps:
            spans = read_spans(step_stats)
            self.num_runs += len(spans)
            if spans:
                self.wall_ns += max(span.end_ns for span in spans) - spans[0].start_ns
            for thread, its_spans in by_thread(spans).items():
                threads.add(thread)
                lanes(its_spans)
            for span in spans:
                _count(costs.setdefault((span.device, span.node), NodeCost(span.node, span.op, span.device)), span)
        self.num_threads = len(threads)
        self.costs = sorted(costs.values(), key=lambda cost: (-cost.self_ns, cost.node))
        self.busy_ns = sum(cost.self_ns for cost in self.costs)

    def table(self, top: int = TOP) -> str:
        """Return the costs as text: a line on all of them, then the most expensive nodes, one a line.

        Parameters
        ----------
        top : int
            How many nodes to list.
        """
        if not self.costs:
            return "no node ran"
        peak = f", peak {_size(self.peak_bytes)}" if self.peak_bytes else ""
        lines = [f"{self.num_runs} node runs, {_time(self.wall_ns)} from first to last, {_time(self.busy_ns)} in "
                 f"nodes, {self.num_threads} thread{'s' if self.num_threads > 1 else ''}{peak}"]
        shown = self.costs[:top]
        rows = [("time", "share", "calls", "output", "new", "op", "node")]
        for cost in shown:
            share = 100 * cost.self_ns / max(1, self.busy_ns)
            rows.append((_time(cost.self_ns), f"{share:.1f}%", str(cost.calls), _size(cost.output_bytes),
                         _size(cost.allocated_bytes), cost.op, cost.node))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            numbers = "  ".join(cell.rjust(width) for cell, width in zip(row[:5], widths, strict=False))
            lines.append(f"{numbers}  {row[5]:<{widths[5]}}  {row[6]}")
        if len(self.costs) > len(shown):
            rest = self.costs[len(shown):]
            lines.append(f"and {len(rest)} more nodes with {_time(sum(cost.self_ns for cost in rest))}")
        return "\n".join(lines)


def peak_bytes(metadata: Any) -> int:
    """Return the peak that a RunMetadata message tells, 0 when it tells none, as TensorFlow's servers do."""
    return max((int(cost.cost) for cost in metadata.cost_graph.cost if cost.dimension == PEAK_BYTES), default=0)


def _count(cost: NodeCost, span: Span) -> None:
    cost.calls += 1
    cost.self_ns += span.self_ns
    cost.output_bytes += span.output_bytes
    cost.allocated_bytes += span.allocated_bytes


def _time(nanoseconds: int) -> str:
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1e3:.1f} us"
    return f"{nanoseconds / 1e6:.2f} ms" if nanoseconds < 1_000_000_000 else f"{nanoseconds / 1e9:.2f} s"


def _size(nbytes: int) -> str:
    amount = float(nbytes)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} GiB"
