"""A short form of the soak: some hundred steps with faults leave nothing behind; see `tests.faults.soak`.

``TENSOR_RUNTIME_SOAK_STEPS=10000`` runs as many, ``TENSOR_RUNTIME_SOAK_SEED`` chooses another run.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.soak import soak

STEPS = int(os.environ.get("TENSOR_RUNTIME_SOAK_STEPS", "240"))
SEED = int(os.environ.get("TENSOR_RUNTIME_SOAK_SEED", "4"))


@pytest.mark.timeout(300 + STEPS)
def test_faults_of_every_kind_leave_nothing_behind(tmp_path: Path) -> None:
    outcome = soak(tmp_path, STEPS, SEED)
    told = outcome.report()
    print(told)
    assert not outcome.problems, told
    assert sum(outcome.steps.values()) > STEPS * 3 / 4, told  # and some sessions could not be opened
    assert len(outcome.survivors) == 3
    assert sum(outcome.faults.values()) >= STEPS // 60, told
    assert sum(count for (_, how), count in outcome.steps.items() if how == "ok") > STEPS / 4, told
