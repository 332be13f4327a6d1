"""Steps over gRPC: this server beside TensorFlow's own, one TensorFlow client, one interleaved run.

``python -m runtime.bench.bench_steps [--seconds S] [--cases A,B] [--transport NAME] [--json FILE]`` starts both
servers in processes of their own and reports the time of a call as ours/TensorFlow's: below one is faster. The 10th
percentile is the figure to believe on a shared machine; the spread is that ratio's over the fifths of the run.
``chain`` and ``wide`` are of that many nodes, ``while`` of that many turns; ``first-run`` makes a session and runs the
first step of a chain. Beside large steps a third server runs that computes nothing (``canned_server``): its ratio
shows how much of such a step is the client's and the sockets'.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from runtime.bench.peers import BenchServers, client_rows
from runtime.bench.report import add_ratios, environment, print_table, spread, write_json

CASES = ("constant", "small", "callable", "small-8-threads", "chain[1]", "chain[100]", "chain[1000]", "chain[10000]",
         "wide[1000]", "wide[10000]", "while[1000]", "while[10000]", "first-run[10000]", "large[1MB]", "large[16MB]",
         "large[64MB]")
# Starting the client and building and first running the graphs of a case, on a busy machine.
SETUP_S = 60.0


def run(cases: list[str], seconds: float, transport: str) -> list[dict[str, Any]]:
    """Return one row per case: the servers' times and the ratio of their 10th percentiles and medians."""
    rows: list[dict[str, Any]] = []
    for has_floor in (False, True):
        chosen = [case for case in cases if case.startswith("large") is has_floor]
        if not chosen:
            continue
        with BenchServers("--transport", transport, canned=has_floor) as servers:
            spec = {"targets": servers.targets, "pids": servers.pids, "cases": chosen, "seconds": seconds}
            for row in client_rows("steps_tf.py", spec, SETUP_S + len(chosen) * (SETUP_S + 6 * seconds)):
                rows.append(add_ratios(row))
                print(f"  {row['case']:<18} {row['ratio_p10']:.2f}  ({spread(row)})", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time per case and server")
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated, out of: " + ", ".join(CASES))
    parser.add_argument("--transport", default="native", choices=("native", "grpc"), help="of our server")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    rows = run(options.cases.split(","), options.seconds, options.transport)
    print_table(
        "steps, TensorFlow client; times in us",
        ["case", "ours p10", "TensorFlow p10", "ratio p10", "spread", "floor p10", "ratio median", "server CPU"],
        [[row["case"], row["servers"]["ours"]["p10_us"], row["servers"]["tensorflow"]["p10_us"], row["ratio_p10"],
          spread(row), row.get("floor_p10", "-"), row["ratio_median"], row.get("ratio_cpu", "-")]
         for row in rows],
    )
    if options.json:
        write_json(options.json, {"benchmark": "steps", "transport": options.transport, "environment": environment(),
                                  "rows": rows})


if __name__ == "__main__":
    main()
