"""Start and memory: this server beside TensorFlow's own, in one interleaved run.

``python -m runtime.bench.bench_start [--rounds N] [--cycles N] [--json FILE]`` reports

- ``start``: from the start of the process to its ready line;
- ``idle memory``: resident bytes of the process a second after that;
- ``import``: ``import runtime`` and ``import tensorflow`` in a fresh interpreter, less the bare interpreter's time;
- ``cycles``: start and stop of ``runtime.Server`` in one process: time of one, and what is left behind after all.

Every figure is taken in fresh processes; ours and TensorFlow's take turns. Ours get an empty folder for their data:
once a server of this user has made its store, every later one opens it at its start, which would be measured, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.bench.peers import peer_python, start_ours, start_peer
from runtime.bench.report import environment, print_table, write_json

SETTLE_S = 1.0
MIB = 1 << 20

# What must hold on an idle machine.
MUST = {"start_s": 0.7, "idle_bytes": 100 * MIB, "import_s": 0.15}

CYCLES = """
import gc, json, os, sys, threading, time
import runtime

def state():
    gc.collect()
    time.sleep(0.2)
    return {
        "resident_bytes": int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "python_threads": threading.active_count(),
        "threads": len(os.listdir("/proc/self/task")),
    }

count = int(sys.argv[1])
for _ in range(max(20, count // 10)):
    runtime.Server().stop()
before = state()
start = time.perf_counter()
for _ in range(count):
    with runtime.Server():
        pass
elapsed = time.perf_counter() - start
print(json.dumps({"cycles": count, "cycle_ms": elapsed / count * 1e3, "before": before, "after": state()}))
"""


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} shows no resident memory")


def _start(starter: Callable[[], tuple[subprocess.Popen[str], str]]) -> tuple[float, int]:
    """Return seconds to the ready line and resident bytes a moment later."""
    began = time.perf_counter()
    process, _ = starter()
    elapsed = time.perf_counter() - began
    try:
        time.sleep(SETTLE_S)
        return elapsed, _resident_bytes(process.pid)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _interpreter_s(python: str, statement: str) -> float:
    began = time.perf_counter()
    subprocess.run([python, "-c", statement], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def _import_s(python: str, module: str) -> float:
    """Return what an import adds to the time of the interpreter."""
    return _interpreter_s(python, f"import {module}") - _interpreter_s(python, "pass")


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return one row per quantity with the samples of both servers and the ratio of their medians."""
    samples: dict[str, dict[str, list[float]]] = {
        name: {"ours": [], "tensorflow": []} for name in ("start_s", "idle_bytes", "import_s")
    }
    peer = peer_python()
    for number in range(rounds):
        for who, starter in (("ours", start_ours), ("tensorflow", start_peer)):
            seconds, nbytes = _start(starter)
            samples["start_s"][who].append(seconds)
            samples["idle_bytes"][who].append(float(nbytes))
            print(f"  round {number}: {who} ready after {seconds:.2f} s", file=sys.stderr, flush=True)
        samples["import_s"]["ours"].append(_import_s(sys.executable, "runtime"))
        samples["import_s"]["tensorflow"].append(_import_s(peer, "tensorflow"))
    rows = []
    for name, both in samples.items():
        ours, other = statistics.median(both["ours"]), statistics.median(both["tensorflow"])
        rows.append({"case": name, "samples": both, "ours": ours, "tensorflow": other, "ratio": ours / other,
                     "must": MUST[name], "holds": ours <= MUST[name]})
    return rows


def cycles(count: int) -> dict[str, Any]:
    """Return what ``count`` starts and stops of ``runtime.Server`` in one process take and leave behind."""
    done = subprocess.run([sys.executable, "-c", CYCLES, str(count)], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="starts of each server")
    parser.add_argument("--cycles", type=int, default=1000, help="starts and stops in one process; 0 for none")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_DATA_HOME"] = folder
        _report(options)


def _report(options: argparse.Namespace) -> None:
    rows = measure(options.rounds)
    units = {"start_s": ("start to ready, s", 1), "idle_bytes": ("idle memory, MiB", MIB), "import_s": ("import, s", 1)}
    table = []
    for row in rows:
        label, unit = units[row["case"]]
        table.append([label, row["ours"] / unit, row["tensorflow"] / unit, row["ratio"], row["must"] / unit])
    print_table(
        "start and memory, medians",
        ["quantity", "ours", "TensorFlow", "ratio", "must be below"],
        table,
    )
    result: dict[str, Any] = {"benchmark": "start", "environment": environment(), "rows": rows}
    if options.cycles:
        found = result["cycles"] = cycles(options.cycles)
        print_table(
            f"{found['cycles']} starts and stops of runtime.Server in one process, {found['cycle_ms']:.1f} ms each",
            ["what", "before", "after"],
            [[name, found["before"][name], found["after"][name]] for name in found["before"]],
        )
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
