"""The examples of tasks, run as a user runs them: a server and two workers of their own."""

from __future__ import annotations

import re

import pytest

from tests.examples.test_digits import run


def test_prices_an_option_by_simulation() -> None:
    done = run("option_pricing.py", "--paths", "1e6", "--tasks", "8")
    assert re.fullmatch(r"1,000,000 paths: \d\.\d{4} \+- 0\.\d{4}, exact 7\.1281\n", done.stdout)
    assert "9/9" in done.stderr  # eight that draw, one that adds up


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["option_pricing.py", "--tasks", "0"], "--tasks must be at least 1, got 0"),
        (["option_pricing.py", "--workers", "0"], "--workers must be at least 1, got 0"),
        (["option_pricing.py", "--paths", "20"], "--paths must be from 2 for each task (32) to 1e12, got 20"),
        (["option_pricing.py", "--paths", "nan"], "--paths must be from 2 for each task (32) to 1e12, got nan"),
        (["parameter_sweep.py", "--tasks", "201"], "--tasks must be from 1 to 200, got 201"),
        (["parameter_sweep.py", "--workers", "0"], "--workers must be at least 1, got 0"),
    ],
)
def test_what_no_example_can_do_is_said(words: list[str], text: str) -> None:
    assert text in run(*words, code=2).stderr


def test_sweeps_two_hundred_settings() -> None:
    pytest.importorskip("sklearn")
    done = run("parameter_sweep.py")
    assert re.fullmatch(r"best of 200: learning rate \S+, batch \d+, seed \d: 0\.\d{3} recognised .*\n", done.stdout)
    assert "201/201" in done.stderr
    assert "failed" not in done.stderr
