"""Pictures of the results: ``draw(folder)`` makes PNG files of the JSON files beside them. Needs matplotlib."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.bench.goals import Reached, read_reached

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw"]

OURS, PEER, PLAIN, MUST = "#08519c", "#e6550d", "#969696", "#a50f15"
DOTS_PER_INCH = 120


def draw(folder: Path) -> list[Path]:
    """Draw what the results of a folder allow and return the paths of the pictures.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    made = []
    goals = [item for item in read_reached(folder) if item.goal.unit != "ns"]
    if goals:
        made.append(_save(_goals(goals), folder / "goals.png"))
    for subject, picture in (("codec", _codec), ("commands", _commands), ("executor", _executor),
                             ("training", _training), ("transport", _transport)):
        path = folder / f"{subject}.json"
        if path.exists():
            made.append(_save(picture(json.loads(path.read_text())), folder / f"{subject}.png"))
    return made


def _new(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    from matplotlib import pyplot

    return pyplot.subplots(1, columns, figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def _save(figure: Figure, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path)
    pyplot.close(figure)
    return path


def _goals(goals: list[Reached]) -> Figure:
    """The ratios with their spread, and a mark where each must end."""
    from matplotlib.ticker import FuncFormatter

    figure, axes = _new(10, 0.4 * len(goals) + 1.4)
    for place, item in enumerate(goals):
        colour = OURS if item.holds else PEER
        axes.plot([item.low, item.high], [place, place], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot(item.figure, place, color=colour, marker="o")
    must = [item.goal.must for item in goals]
    axes.scatter(must, range(len(goals)), marker="|", s=220, color=MUST, label="must", zorder=3)
    axes.axvline(1, color=PLAIN, linewidth=0.8, linestyle="--", label="TensorFlow's server")
    axes.set_yticks(range(len(goals)), [item.goal.label for item in goals])
    axes.invert_yaxis()
    # A third is as far from one as three.
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.grid(axis="x", alpha=0.25)
    axes.set(xlabel="ours/TensorFlow's, 10th percentile, and its spread", title="Time beside TensorFlow's server")
    axes.legend(loc="best")
    return figure


def _codec(result: dict[str, Any]) -> Figure:
    """Times of encoding and decoding over the size of the tensor."""
    figure, both = _new(11, 4.2, columns=2)
    colours = {"ours": OURS, "protobuf": PLAIN, "tensorflow": PEER, "memcpy": "black"}
    for axes, operation in zip(both, ("encode", "decode")):
        rows = [row for row in result["tensors"] if row["operation"] == operation]
        for who, colour in colours.items():
            points = [(row["nbytes"], row[who]["median_us"]) for row in rows if who in row]
            if points:
                axes.plot(*zip(*points), color=colour, marker="o", markersize=3, label=who)
        axes.set(xscale="log", yscale="log", xlabel="bytes", ylabel="median, us", title=f"{operation.title()} float32")
        if rows:
            axes.legend()
    return figure


def _commands(result: dict[str, Any]) -> Figure:
    """Submissions by more and more callers, and what shell commands take beside others."""
    figure, (left, right) = _new(11, 4.2, columns=2)
    rows = [row for row in result["rows"] if row["case"].startswith("submit[")]
    for place, row in enumerate(rows):
        left.bar(place, row["rate"], color=PEER if row["case"].endswith("grpc") else OURS)
        left.plot([place, place], [min(row["rates"]), max(row["rates"])], color="black", linewidth=1)
    left.set_xticks(range(len(rows)), [row["case"].replace(" ", "\n") for row in rows], fontsize="small")
    left.set(ylabel="commands a second", title="Submitted, each on disk before its answer")
    shells = [row for row in result["rows"] if row["case"].startswith("shell ")]
    for shift, (who, colour) in enumerate((("ours", OURS), ("ray", PEER), ("dask", "#fdae6b"), ("pool", PLAIN))):
        times = [row["servers"][who]["us"] / 1e3 for row in shells]
        right.bar([place + 0.2 * shift for place in range(len(shells))], times, 0.19, color=colour, label=who)
    right.set_xticks([place + 0.3 for place in range(len(shells))], [row["case"] for row in shells])
    right.set(yscale="log", ylabel="ms a command", title="Shell commands on two workers")
    if shells:
        right.legend()
    return figure


def _executor(result: dict[str, Any]) -> Figure:
    """Nanoseconds per node over the length of the graph."""
    figure, both = _new(11, 4.2, columns=2)
    kinds = {"program": OURS, "dataflow": "#6baed6", "numpy": PLAIN, "tensorflow": PEER}
    for axes, shape in zip(both, ("chain", "wide")):
        rows = [row for row in result["rows"] if row["case"].startswith(shape)]
        for kind, colour in kinds.items():
            points = [(row["count"], row[kind]) for row in rows if row.get(kind) is not None]
            if points:
                axes.plot(*zip(*points), color=colour, marker="o", markersize=3, label=kind)
        axes.set(xscale="log", yscale="log", xlabel="nodes", ylabel="ns per node", title=shape.title())
        if rows:
            axes.legend()
    return figure


def _training(result: dict[str, Any]) -> Figure:
    """Times of training steps, side by side."""
    figure, axes = _new(8, 4.2)
    rows = result["rows"]
    for shift, who, label, colour in ((-0.2, "ours", "ours", OURS), (0.2, "tensorflow", "TensorFlow", PEER)):
        for statistic, alpha in (("median_us", 0.35), ("p10_us", 1.0)):
            times = [row["servers"][who][statistic] / 1e3 for row in rows]
            axes.bar([place + shift for place in range(len(rows))], times, 0.38, color=colour, alpha=alpha,
                     label=label if alpha == 1.0 else f"{label}, median")
    axes.set_xticks(range(len(rows)), [row["case"] for row in rows])
    axes.set(ylabel="ms a step, p10", title="Training steps, TensorFlow client")
    axes.legend()
    return figure


def _transport(result: dict[str, Any]) -> Figure:
    """The time of an array over its size, for every road."""
    figure, axes = _new(9, 6)
    rows = [row for row in result["rows"] if "road" in row]
    ours = {"shared memory": "#08306b", "handed over": "#2171b5", "stream": "#08519c", "relayed stream": "#6baed6",
            "feed, shared": "#4292c6", "feed, stream": "#9ecae1"}
    theirs = iter(("#7f2704", "#a63603", "#d94801", "#f16913", "#fd8d3c", "#fdae6b"))
    for road in dict.fromkeys(row["road"] for row in rows):
        points = [(row["nbytes"], row["p10_us"]) for row in rows if row["road"] == road]
        colour = "black" if road == "memcpy" else ours.get(road) or next(theirs, PLAIN)
        axes.plot(*zip(*points), color=colour, marker="o", markersize=3, label=road,
                  linestyle="-" if road in ours else "--")
    for who, colour in (("ours", "#238b45"), ("tensorflow", "#a1d99b")):
        points = [(row["nbytes"], row["servers"][who]["p10_us"]) for row in result["rows"]
                  if row["case"].startswith("RecvTensor")]
        if points:
            axes.plot(*zip(*points), color=colour, marker="s", markersize=3, label=f"RecvTensor, {who}")
    axes.set(xscale="log", yscale="log", xlabel="bytes", ylabel="us, p10", title="One array to another process")
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small")
    return figure
