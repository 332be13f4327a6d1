"""Training steps: this server beside TensorFlow's own, one TensorFlow client, one interleaved run.

``python -m runtime.bench.bench_training [--seconds S] [--cases A,B] [--json FILE]`` trains with Adam:

- ``mlp``: a 784-512-512-10 classifier, batch 128;
- ``cnn``: two 5x5 convolutions (1, 32, 64 channels) with pooling and two dense layers, 28x28 images, batch 64;
- ``lstm``: 128 units over 50 steps by a dynamic loop in frames, batch 32; ``lstm-functions`` by a While op;
- ``mlp-busy``: the first beside two spinning processes. Its last column is the slow-down, ours over TensorFlow's.

Times are of a step as the client sees it; a ratio is ours/TensorFlow's: below one is faster. The 10th percentile is the
figure to believe on a shared machine; the spread is that ratio's over the fifths of the run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from runtime.bench.peers import BenchServers, client_rows
from runtime.bench.report import add_ratios, environment, print_table, spread, write_json

CASES = ("mlp", "cnn", "lstm", "lstm-functions", "mlp-busy")
# Starting the client, and building and first running a case's graph on both servers, on a busy machine.
SETUP_S = 60.0


def run(cases: list[str], seconds: float) -> list[dict[str, Any]]:
    """Return one row per case, with the slow-down beside busy processes where the quiet case was measured, too."""
    rows: list[dict[str, Any]] = []
    with BenchServers() as servers:
        spec = {"targets": servers.targets, "pids": servers.pids, "cases": cases, "seconds": seconds}
        for row in client_rows("training_tf.py", spec, SETUP_S + len(cases) * (SETUP_S + 4 * seconds)):
            rows.append(add_ratios(row))
            quiet = next((other for other in rows if row["case"] == f"{other['case']}-busy"), None)
            if quiet is not None:
                for kind in ("p10", "median"):
                    row[f"slow_down_{kind}"] = row[f"ratio_{kind}"] / quiet[f"ratio_{kind}"]
            print(f"  {row['case']:<18} {row['ratio_p10']:.2f}  ({spread(row)})", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="measured time per case and server")
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated, out of: " + ", ".join(CASES))
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    rows = run(options.cases.split(","), options.seconds)
    print_table(
        "training steps, TensorFlow client; times in ms",
        ["case", "ours p10", "TensorFlow p10", "ratio p10", "spread", "ratio median", "server CPU", "first ours",
         "first TensorFlow", "slow-down"],
        [[row["case"], *(row["servers"][who]["p10_us"] / 1e3 for who in ("ours", "tensorflow")), row["ratio_p10"],
          spread(row), row["ratio_median"], row.get("ratio_cpu", "-"),
          *(row["servers"][who]["first_ms"] for who in ("ours", "tensorflow")),
          row.get("slow_down_p10", "-")]
         for row in rows],
    )
    if options.json:
        write_json(options.json, {"benchmark": "training", "environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
