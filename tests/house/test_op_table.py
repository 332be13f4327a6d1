"""Every op with a kernel stands in the table that is compared with TensorFlow, or in the list of those that cannot."""

from __future__ import annotations

import re

from runtime.ops import registry
from tests.ops import retyping
from tests.peers import ROOT

LEFT_OUT = ROOT / "tests" / "ops" / "ops_left_out.txt"


def reasons() -> dict[str, str]:
    """Return why an op is in no case."""
    found = {}
    for line in LEFT_OUT.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            op, colon, reason = line.partition(": ")
            assert colon, f"no reason in {line!r}"
            assert op not in found, f"{op} is listed twice"
            found[op] = reason
    return found


def checked() -> set[str]:
    """Return the ops that a case is about, or that its runs reach."""
    cases = [case for family in retyping.FAMILIES if family != "retyped" for case in retyping.family_cases(family)]
    return {case.op for case in cases}.union(*(case.reached() for case in cases))


def test_every_kernel_is_in_the_table_or_has_a_reason() -> None:
    without = set(registry.registered()) - checked() - set(reasons())
    assert not without, f"neither in a table of tests/ops/cases nor in {LEFT_OUT.name}"


def test_no_reason_is_out_of_date() -> None:
    listed = reasons()
    assert not set(listed) - set(registry.registered()), "no kernel of ours"
    assert not set(listed) & checked(), "in a table after all"
    for op, reason in listed.items():
        for path in re.findall(r"tests/[\w/.]+", reason):
            assert (ROOT / path).exists(), f"{op}: {path} is not there"
