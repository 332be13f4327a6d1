"""The tables of this folder for every level of vector instructions that this machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime._ext.kernels import simd
from tests.peers import ROOT

TABLES = sorted(path.name for path in Path(__file__).parent.glob("test_*.py") if path.name != Path(__file__).name)


# A minute on an idle machine; the sanitizers take a few times as long.
TIMEOUT_S = 1600 if "libasan" in os.environ.get("LD_PRELOAD", "") else 400


def run(level: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env={**os.environ, simd.VARIABLE: level},
                          capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.mark.timeout(TIMEOUT_S + 50)
@pytest.mark.parametrize("level", [name for name in simd.levels() if name != simd.level_name()])
def test_tables_hold_at_the_other_levels(level: str) -> None:
    files = [*(str(Path(__file__).with_name(name)) for name in TABLES), str(ROOT / "tests/step/test_fusion.py")]
    done = run(level, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize("level", simd.levels())
def test_level_can_be_chosen(level: str) -> None:
    done = run(level, "-c", "from runtime._ext.kernels import simd; print(simd.level_name())")
    assert done.stdout.strip() == level, done.stderr


def test_unknown_level_is_refused_with_those_that_are_there() -> None:
    done = run("v9", "-c", "import runtime._ext.kernels.simd")
    assert done.returncode
    assert f"TENSOR_RUNTIME_SIMD is 'v9': this machine has {', '.join(simd.levels())}; unset it" in done.stderr
