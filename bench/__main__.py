"""Run every benchmark, each in a process of its own: ``python -m runtime.bench [SUBJECT...] [--results FOLDER]``.

A subject is the name of a module without ``bench_``: ``steps``, ``start``, ``codec`` and so on. Each prints its table;
its JSON goes to the folder, by default ``bench/results`` where the command runs. The exit status is 1 when one of them
failed; the others still run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PREFIX = "bench_"


def subjects() -> list[str]:
    """Return the names of all benchmarks."""
    return sorted(path.stem.removeprefix(PREFIX) for path in FOLDER.glob(f"{PREFIX}*.py"))


def main() -> int:
    """Run the benchmarks that the command line names and return the exit status."""
    known = subjects()
    parser = argparse.ArgumentParser(prog="python -m runtime.bench", description="Run the benchmarks.")
    parser.add_argument("subject", nargs="*", help="out of: " + ", ".join(known) + "; all when none is named")
    parser.add_argument("--results", type=Path, default=Path("bench/results"), help="folder for the JSON files")
    options = parser.parse_args()
    unknown = sorted(set(options.subject) - set(known))
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(known)}")
    options.results.mkdir(parents=True, exist_ok=True)
    failed = []
    for subject in options.subject or known:
        print(f"\n== {subject}", flush=True)
        json_path = options.results / f"{subject}.json"
        command = [sys.executable, "-m", f"runtime.bench.{PREFIX}{subject}", "--json", str(json_path)]
        if subprocess.run(command, check=False).returncode != 0:
            failed.append(subject)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
