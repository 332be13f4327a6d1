"""Run every benchmark, each in a process of its own: ``python -m runtime.bench [SUBJECT...] [--results FOLDER]``.

A subject is the name of a module without ``bench_``: ``steps``, ``start``, ``codec`` and so on. Each prints its table;
its JSON goes to the folder, by default ``bench/results`` where the command runs. At the end come a table of all goals
and, where matplotlib is installed, pictures beside the JSON. The exit status is 1 when a benchmark failed or took
longer than ``--limit`` seconds; the others still run. A missed goal is no failure: machines differ.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from runtime.bench.figures import draw
from runtime.bench.goals import print_reached, read_reached

FOLDER = Path(__file__).resolve().parent
PREFIX = "bench_"
LIMIT_S = 900.0


def subjects() -> list[str]:
    """Return the names of all benchmarks."""
    return sorted(path.stem.removeprefix(PREFIX) for path in FOLDER.glob(f"{PREFIX}*.py"))


def run(subject: str, json_path: Path, limit_s: float) -> bool:
    """Run a benchmark and return whether it ended well; when its time is up, end it and what it started."""
    json_path.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"runtime.bench.{PREFIX}{subject}", "--json", str(json_path)]
    # A group of its own, because a benchmark starts servers, clients and busy processes.
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            return process.wait(limit_s) == 0
        except subprocess.TimeoutExpired:
            print(f"{subject} took longer than {limit_s:g} s", file=sys.stderr)
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def main() -> int:
    """Run the benchmarks that the command line names and return the exit status."""
    known = subjects()
    parser = argparse.ArgumentParser(prog="python -m runtime.bench", description="Run the benchmarks.")
    parser.add_argument("subject", nargs="*", help="out of: " + ", ".join(known) + "; all when none is named")
    parser.add_argument("--results", type=Path, default=Path("bench/results"), help="folder for JSON and pictures")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds that each may take")
    options = parser.parse_args()
    unknown = sorted(set(options.subject) - set(known))
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(known)}")
    options.results.mkdir(parents=True, exist_ok=True)
    failed = []
    for subject in options.subject or known:
        print(f"\n== {subject}", flush=True)
        if not run(subject, options.results / f"{subject}.json", options.limit):
            failed.append(subject)
    reached = read_reached(options.results)
    if reached:
        print_reached(reached)
    try:
        print("\nwritten:", *draw(options.results))
    except ImportError as error:
        print(f"\nno pictures: {error}; pip install 'tensor-runtime[bench]'", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
