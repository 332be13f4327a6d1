"""Every case that is compared with TensorFlow, in a whole step with compiled kernels and without.

For the sanitizers, under which TensorFlow does not run: what both give is compared in ``tests/ops``, more strictly.
"""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import pytest

from runtime._ext import kernels as compiled_kernels
from runtime.errors import Error
from tests.ops import retyping
from tests.ops.case import RELATIVE, Case
from tests.ops.step_runner import CaseInSteps

pytestmark = pytest.mark.skipif("libasan" not in os.environ.get("LD_PRELOAD", ""), reason="for make sanitize")


def outcomes(case: Case) -> list[Any]:
    """Return what each run of a case gives: arrays, or an error's code and text."""
    try:
        runner = CaseInSteps(case)
    except Error as error:
        return [(error.code, error.message)]
    found: list[Any] = []
    for run in case.runs:
        try:
            found.append(runner.run(run))
        except Error as error:
            # names of step resources and datasets end with a number that is counted for the process
            found.append((error.code, re.sub(r"([_:])\d+", r"\1", error.message)))
    runner.close()
    return found


def differs(ours: Any, theirs: Any, case: Case) -> str | None:
    if isinstance(ours, tuple) or isinstance(theirs, tuple):
        return None if ours == theirs else f"{ours} instead of {theirs}"
    for index, (value, expected) in enumerate(zip(ours, theirs, strict=True)):
        if value.dtype != expected.dtype or value.shape != expected.shape:
            return (f"output {index} is {value.dtype}{list(value.shape)} instead of {expected.dtype}"
                    f"{list(expected.shape)}")
        if value.dtype.kind in "OSUMmbiu":
            if not np.array_equal(value, expected):
                return f"output {index} is {value} instead of {expected}"
            continue
        relative = max(case.relative or 0.0, RELATIVE.get(value.dtype, 1e-6))
        wide = np.complex128 if value.dtype.kind == "c" else np.float64
        left, right = value.astype(wide), expected.astype(wide)
        sizes = np.abs(right[np.isfinite(right)])
        absolute = max(case.absolute, relative) * (sizes.max() if sizes.size else 1.0)
        if not np.allclose(left, right, relative, absolute, equal_nan=True):
            return f"output {index} is {value} instead of {expected}"
    return None


@pytest.mark.parametrize("family", retyping.FAMILIES)
def test_compiled_kernels_change_no_answer(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case for case in retyping.family_cases(family) if case.compare is None]
    with_kernels = [outcomes(case) for case in cases]
    monkeypatch.setattr(compiled_kernels, "select", lambda *args: None)
    problems = []
    for case, ours in zip(cases, with_kernels, strict=True):
        for one, other in zip(ours, outcomes(case), strict=True):
            problem = differs(one, other, case)
            if problem is not None:
                problems.append(f"{case.name}: {problem}")
    assert not problems, f"{len(problems)} problems in {len(cases)} cases:\n" + "\n".join(problems[:50])
