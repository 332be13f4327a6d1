"""``tensor-runtime ops``."""

from __future__ import annotations

import json

import pytest

from runtime.cli import main
from runtime.ops import opdef, registry


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main(["ops", "--json", *arguments]) == 0
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


def test_every_known_op_is_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys)
    assert [row["op"] for row in rows] == opdef.names()
    assert {row["op"] for row in rows if row["kernel"]} == set(registry.registered()) & set(opdef.names())


def test_every_kernel_has_a_definition() -> None:
    assert [op for op in registry.registered() if opdef.lookup(op) is None] == []


def test_missing_and_tier_narrow_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    everything = listed(capsys)
    for tier in (1, 4):
        expected = [row for row in everything if row["tier"] == tier]
        assert expected
        assert listed(capsys, "--tier", str(tier)) == expected
        assert listed(capsys, "--missing", "--tier", str(tier)) == [row for row in expected if not row["kernel"]]
    assert listed(capsys, "--missing") == [row for row in everything if not row["kernel"]]


def test_a_row_says_what_the_op_takes(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = listed(capsys, "ConcatV2")
    assert row == {
        "op": "ConcatV2", "tier": 1, "section": "Tier 1: Shapes and arrays", "stateful": False, "kernel": True,
        "signature": "(values: N*T, axis: Tidx) -> (output: T)", "inputs": {"values": "N*T", "axis": "Tidx"},
        "outputs": {"output": "T"}, "attrs": {"N": "int", "T": "type", "Tidx": "type"},
    }


def test_the_table_marks_kernels_and_state(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "Add", "VariableV2"]) == 0
    out = capsys.readouterr().out
    assert "  + Add " in out
    assert "  + VariableV2* " in out
    assert "2 of 2 have a kernel" in out


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "Addd"]) == 2
    assert "no op type is called 'Addd'" in capsys.readouterr().err
