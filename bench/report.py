"""Tables and JSON of the benchmarks, with what must be known to read them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["add_ratios", "environment", "print_table", "spread", "write_json"]


def environment() -> dict[str, Any]:
    """Return the machine and the versions that a measurement depends on."""
    versions = {}
    for name in ("grpcio", "protobuf", "numpy", "ml-dtypes", "uvloop"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "versions": versions,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under a title as an aligned table; floats with three significant digits."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(column), *(len(row[index]) for row in cells)) if cells else len(column)
              for index, column in enumerate(columns)]
    print(f"\n{title}")
    print("  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True)))
    print("  ".join("-" * width for width in widths))
    for row in cells:
        print("  ".join(cell.ljust(width) if index == 0 else cell.rjust(width)
                        for index, (cell, width) in enumerate(zip(row, widths, strict=True))))


def add_ratios(row: dict[str, Any]) -> dict[str, Any]:
    """Add ours/TensorFlow's to a row that holds both ``servers``, and return it.

    ``ratio_p10`` and ``ratio_median`` are of the whole run, ``ratio_low`` and ``ratio_high`` the least and the greatest
    ratio of 10th percentiles over its fifths, ``ratio_cpu`` of the servers' processor time where it was measured.
    ``floor_p10`` is what a server would reach that computes nothing, where one was measured beside them.
    """
    ours, peer = row["servers"]["ours"], row["servers"]["tensorflow"]
    parts = [mine / other for mine, other in zip(ours["p10_parts_us"], peer["p10_parts_us"])]
    row.update(ratio_p10=ours["p10_us"] / peer["p10_us"], ratio_median=ours["median_us"] / peer["median_us"],
               ratio_low=min(parts), ratio_high=max(parts))
    if peer.get("cpu_us"):
        row["ratio_cpu"] = ours["cpu_us"] / peer["cpu_us"]
    if "canned" in row["servers"]:
        row["floor_p10"] = row["servers"]["canned"]["p10_us"] / peer["p10_us"]
    return row


def spread(row: dict[str, Any]) -> str:
    """Return the least and the greatest ratio of a row as text."""
    return f"{row['ratio_low']:.2f} - {row['ratio_high']:.2f}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write a result, making the folder when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
