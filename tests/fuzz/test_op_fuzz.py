"""A few graphs of every op with inputs and attrs that seldom go together, in a process that a crash may end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.peers import ROOT

TIMEOUT_S = 300.0  # some 10 s on an idle machine


@pytest.mark.timeout(TIMEOUT_S + 30)
def test_every_op_answers_bad_inputs_with_a_clear_error() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.fuzz.op_target", "--cases", "3"], cwd=ROOT, capture_output=True,
                          timeout=TIMEOUT_S)
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    assert done.returncode == 0, f"it ended with {done.returncode} at {lines[-1:]}: {done.stderr[-2000:]!r}"
    assert lines[-1].endswith("0 findings"), "\n".join(line for line in lines if line.startswith("FOUND"))
