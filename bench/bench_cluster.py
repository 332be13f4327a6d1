"""Steps over the tasks of a cluster: every mix of our processes and TensorFlow's, one client, one interleaved run.

``python -m runtime.bench.bench_cluster [--seconds S] [--cases A,B] [--clusters A,B] [--json FILE]`` starts clusters of
two workers and a parameter server. A cluster is called after whose the workers, which are the masters, and whose the
parameter server is: ``ours-tensorflow``. Cases:

- ``small``: 16 bytes from a worker to the parameter server and back;
- ``pull[1MB]`` and so on: a variable of that size from the parameter server to a worker;
- ``mlp``: both workers at a time pull the weights of a 784-512-512-10 perceptron and push changes of all.

A ratio is that cluster's time over the time of TensorFlow's alone: below one is faster. The 10th percentile is the
figure to believe on a shared machine; the spread is that ratio's over the fifths of the run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Self

from runtime.bench.peers import client_rows, free_port, start_ours, start_peer
from runtime.bench.report import add_ratios, environment, print_table, spread, write_json

CASES = ("small", "pull[1MB]", "pull[16MB]", "pull[64MB]", "mlp")
CLUSTERS = ("ours-ours", "ours-tensorflow", "tensorflow-ours", "tensorflow-tensorflow")
THEIRS = CLUSTERS[-1]
# Starting the client, and building and first running a case's graph on all clusters, on a busy machine.
SETUP_S = 60.0


class Clusters:
    """Clusters of three processes each, started on entry and killed on exit.

    Attributes
    ----------
    targets : dict of str to list of str
        Of both workers, by the cluster's name.
    """

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._processes: list[Any] = []
        self.targets: dict[str, list[str]] = {}
        self.pids: dict[str, int] = {}

    def __enter__(self) -> Self:
        try:
            for name in self._names:
                self._start(name)
        except BaseException:
            self._stop()
            raise
        return self

    def _start(self, name: str) -> None:
        workers, servers = name.split("-")
        cluster = {"worker": [f"127.0.0.1:{free_port()}" for _ in range(2)], "ps": [f"127.0.0.1:{free_port()}"]}
        for job, whose in (("ps", servers), ("worker", workers)):
            for task, address in enumerate(cluster[job]):
                if whose == "ours":
                    process, _ = start_ours("--cluster", json.dumps(cluster), "--job", job, "--task", str(task),
                                            listen=address)
                else:
                    process, _ = start_peer({"cluster": cluster, "job": job, "task": task})
                self._processes.append(process)
                if job == "worker":
                    self.targets.setdefault(name, []).append(f"grpc://{address}")
                    self.pids.setdefault(name, process.pid)

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def _stop(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            process.stdout.close()


def run(cases: list[str], clusters: list[str], seconds: float) -> list[dict[str, Any]]:
    """Return one row per case and cluster, ``CASE CLUSTER``, with TensorFlow's own times beside it."""
    rows: list[dict[str, Any]] = []
    names = [name for name in CLUSTERS if name in clusters or name == THEIRS]
    with Clusters(names) as started:
        spec = {"targets": started.targets, "pids": started.pids, "cases": cases, "seconds": seconds}
        for found in client_rows("cluster_tf.py", spec, SETUP_S + len(cases) * (SETUP_S + 8 * seconds)):
            for name in names[:-1]:
                servers = {"ours": found["clusters"][name], "tensorflow": found["clusters"][THEIRS]}
                row = add_ratios({"case": f"{found['case']} {name}", "servers": servers})
                rows.append(row)
                print(f"  {row['case']:<28} {row['ratio_p10']:.2f}  ({spread(row)})", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="measured time per case and cluster")
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated, out of: " + ", ".join(CASES))
    parser.add_argument("--clusters", default=",".join(CLUSTERS[:-1]), help="comma-separated, beside TensorFlow's own")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    rows = run(options.cases.split(","), options.clusters.split(","), options.seconds)
    print_table(
        "steps over tasks, TensorFlow client; times in ms; cluster: the masters' kind, the parameter server's",
        ["case and cluster", "p10", "TensorFlow p10", "ratio p10", "spread", "ratio median", "master CPU"],
        [[row["case"], *(row["servers"][who]["p10_us"] / 1e3 for who in ("ours", "tensorflow")), row["ratio_p10"],
          spread(row), row["ratio_median"], row.get("ratio_cpu", "-")]
         for row in rows],
    )
    if options.json:
        write_json(options.json, {"benchmark": "cluster", "environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
