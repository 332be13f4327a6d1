"""The command that runs the benchmarks, and what it relies on in each of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from runtime.bench.__main__ import PREFIX, subjects
from tests.peers import ROOT

TIMEOUT_S = 60


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.mark.parametrize("subject", subjects())
def test_every_benchmark_writes_json_when_asked(subject: str) -> None:
    done = run(f"runtime.bench.{PREFIX}{subject}", "--help")
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout


def test_unknown_benchmark_is_refused_with_those_there_are() -> None:
    done = run("runtime.bench", "stepss")
    assert done.returncode == 2
    assert "no benchmark is called stepss; there are: codec" in done.stderr


def test_importing_a_benchmark_does_nothing() -> None:
    modules = ", ".join(f"runtime.bench.{PREFIX}{subject}" for subject in subjects())
    done = run("timeit", "-n", "1", "-r", "1", "-s", f"import {modules}", "pass")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
