"""What the speed of this server is held to, and the one table that says how far it has come.

Ratios are ours/TensorFlow's, or another peer's, of the 10th percentiles; ``must`` has to hold, ``stretch`` is what the
machine leaves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.bench.report import print_table

__all__ = ["GOALS", "Goal", "Reached", "print_reached", "read_reached"]


@dataclass(frozen=True)
class Goal:
    """One figure and its bounds.

    Attributes
    ----------
    label : str
        What is measured.
    subject, case : str
        The benchmark, and its row.
    read : callable
        From the row to (ours, TensorFlow's, the figure, its least and its greatest value).
    unit : str
        Of ours and TensorFlow's.
    must, stretch : float
        Upper bounds of the figure.
    """

    label: str
    subject: str
    case: str
    read: Callable[[dict[str, Any]], tuple[float, float, float, float, float]]
    unit: str
    must: float
    stretch: float


@dataclass(frozen=True)
class Reached:
    """A goal and what a run measured for it; low and high are the figure's spread."""

    goal: Goal
    ours: float
    peer: float
    figure: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        return self.figure <= self.goal.must


def _ratio(scale: float = 1.0) -> Callable[[dict[str, Any]], tuple[float, float, float, float, float]]:
    def read(row: dict[str, Any]) -> tuple[float, float, float, float, float]:
        times = [row["servers"][who]["p10_us"] / scale for who in ("ours", "tensorflow")]
        return (*times, row["ratio_p10"], row["ratio_low"], row["ratio_high"])  # type: ignore[return-value]

    return read


def _slow_down(row: dict[str, Any]) -> tuple[float, float, float, float, float]:
    quiet = row["ratio_p10"] / row["slow_down_p10"]
    times = [row["servers"][who]["p10_us"] / 1e3 for who in ("ours", "tensorflow")]
    return (*times, row["slow_down_p10"], row["ratio_low"] / quiet, row["ratio_high"] / quiet)  # type: ignore[return-value]


def _nanoseconds(row: dict[str, Any]) -> tuple[float, float, float, float, float]:
    parts = row["program_parts"]
    return row["program"], row.get("tensorflow", float("nan")), row["program"], min(parts), max(parts)


def _cancellation(row: dict[str, Any]) -> tuple[float, float, float, float, float]:
    worst = [entry["worst_ms"] for entry in row["steps"].values()]
    return row["worst_ms"], float("nan"), row["worst_ms"], min(worst), max(worst)


def _time_of_road(row: dict[str, Any]) -> tuple[float, float, float, float, float]:
    parts = [part / 1e3 for part in row["p10_parts_us"]]
    return row["p10_us"] / 1e3, float("nan"), row["p10_us"] / 1e3, min(parts), max(parts)


def _time_of_submission(row: dict[str, Any]) -> tuple[float, float, float, float, float]:
    times = [1e6 / rate for rate in row["rates"]]
    return 1e6 / row["rate"], float("nan"), 1e6 / row["rate"], min(times), max(times)


def _latest_arrival(row: dict[str, Any]) -> tuple[float, float, float, float, float]:
    return row["p99_ms"], float("nan"), row["p99_ms"], row["p50_ms"], row["p99_ms"]


def _codec_time(row: dict[str, Any]) -> tuple[float, float, float, float, float]:
    ours, theirs = row["ours"], row.get("tensorflow", {"best_us": float("nan")})
    return ours["best_us"], theirs["best_us"], ours["best_us"], ours["best_us"], ours["median_us"]


def _codec_copies(row: dict[str, Any]) -> tuple[float, float, float, float, float]:
    ratios = [row["ours"][which] / row["memcpy"][which] for which in ("best_us", "median_us")]
    return row["ours"]["best_us"], row["memcpy"]["best_us"], ratios[0], min(ratios), max(ratios)


GOALS = (
    Goal("small step", "steps", "small", _ratio(), "us", 0.95, 0.85),
    Goal("small step, 8 client threads", "steps", "small-8-threads", _ratio(), "us", 1.15, 1.0),
    Goal("node of a chain of 1,000, ns in the server", "executor", "chain[1000]", _nanoseconds, "ns", 60, 25),
    Goal("node of 1,000 side by side, ns in the server", "executor", "wide[1000]", _nanoseconds, "ns", 60, 25),
    Goal("a cancelled step ends, ms", "executor", "cancel", _cancellation, "ms", 100, 10),
    Goal("chain of 10,000 nodes", "steps", "chain[10000]", _ratio(), "us", 0.45, 0.25),
    Goal("10,000 nodes side by side", "steps", "wide[10000]", _ratio(), "us", 0.15, 0.06),
    Goal("while_loop, one turn", "steps", "while[10000]", _ratio(10_000), "us", 0.25, 0.08),
    Goal("first run of 10,000 nodes", "steps", "first-run[10000]", _ratio(1e3), "ms", 0.5, 0.2),
    Goal("16 MB feed and fetch", "steps", "large[16MB]", _ratio(1e3), "ms", 0.6, 0.4),
    Goal("64 MB feed and fetch", "steps", "large[64MB]", _ratio(1e3), "ms", 0.8, 0.55),
    Goal("MLP training step", "training", "mlp", _ratio(1e3), "ms", 0.75, 0.5),
    Goal("CNN training step", "training", "cnn", _ratio(1e3), "ms", 0.9, 0.6),
    Goal("LSTM training step", "training", "lstm", _ratio(1e3), "ms", 0.7, 0.35),
    Goal("16 bytes to another task and back", "cluster", "small ours-ours", _ratio(), "us", 1.0, 0.6),
    Goal("16 MB from a task", "cluster", "pull[16MB] ours-ours", _ratio(1e3), "ms", 1.0, 0.5),
    Goal("64 MB from a task of TensorFlow", "cluster", "pull[64MB] ours-tensorflow", _ratio(1e3), "ms", 1.05, 0.7),
    Goal("64 MB to a master of TensorFlow", "cluster", "pull[64MB] tensorflow-ours", _ratio(1e3), "ms", 1.05, 0.9),
    Goal("weights to two workers and back", "cluster", "mlp ours-ours", _ratio(1e3), "ms", 1.0, 0.6),
    Goal("64 MiB in chunks, ms", "transport", "64 MiB stream", _time_of_road, "ms", 33.6, 26.8),
    Goal("64 MiB in chunks, beside Arrow Flight's", "transport", "64 MiB stream, flight", _ratio(1e3), "ms", 0.5, 0.4),
    Goal("64 MiB by RecvTensor", "transport", "RecvTensor[64 MiB]", _ratio(1e3), "ms", 0.125, 0.04),
    Goal("encode 1 KiB, us", "codec", "encode[1 KiB]", _codec_time, "us", 0.6, 0.3),
    Goal("decode 1 MiB, us", "codec", "decode[1 MiB]", _codec_time, "us", 0.7, 0.4),
    Goal("encode 1 MiB, beside a copy", "codec", "encode[1 MiB]", _codec_copies, "us", 1.15, 1.03),
    Goal("encode 64 MiB, beside a copy", "codec", "encode[64 MiB]", _codec_copies, "us", 1.15, 1.03),
    Goal("submit a command, 128 callers, us", "commands", "submit[128]", _time_of_submission, "us", 200, 100),
    Goal("command to an idle worker, p99, ms", "commands", "assign", _latest_arrival, "ms", 25, 10),
    Goal("MLP slow-down beside two busy processes", "training", "mlp-busy", _slow_down, "ms", 1.3, 1.0),
)


def read_reached(folder: Path) -> list[Reached]:
    """Return the goals for which the JSON files of a folder hold a measurement."""
    found = []
    for goal in GOALS:
        path = folder / f"{goal.subject}.json"
        if not path.exists():
            continue
        rows = json.loads(path.read_text())["rows"]
        row = next((row for row in rows if row["case"] == goal.case), None)
        # The slow-down needs the quiet case of the same run.
        if row is not None and (goal.read is not _slow_down or "slow_down_p10" in row):
            found.append(Reached(goal, *goal.read(row)))
    return found


def print_reached(reached: list[Reached]) -> None:
    """Print the table of the goals."""
    print_table(
        "all goals, p10; the figure is ours/TensorFlow's unless it says otherwise",
        ["what", "ours", "TensorFlow", "unit", "figure", "spread", "must", "stretch", ""],
        [[item.goal.label, item.ours, item.peer, item.goal.unit, item.figure, f"{item.low:.2f} - {item.high:.2f}",
          item.goal.must, item.goal.stretch, "" if item.holds else "missed"] for item in reached],
    )
