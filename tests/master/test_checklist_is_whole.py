"""The 65 items of the checklist of TensorFlow's rules: each has tests that bear its number, ``test_NN_...``."""

from __future__ import annotations

import functools
import re

import pytest

from tests.peers import ROOT

ITEMS = range(1, 66)
_NAME = re.compile(r"^def test((?:_\d{1,2})+)_[a-z]", re.MULTILINE)


@functools.cache
def numbers(*folders: str) -> set[int]:
    """Return the numbers in the names of the tests in some folders."""
    return {int(number) for folder in folders for path in (ROOT / "tests" / folder).glob("test_*.py")
            for found in _NAME.findall(path.read_text()) for number in found.strip("_").split("_")}


@pytest.mark.parametrize("number", ITEMS)
def test_the_item_has_a_test(number: int) -> None:
    assert number in numbers("master", "worker", "interop")


def test_what_only_several_tasks_show_is_shown_on_the_wire_between_them() -> None:
    assert numbers("master", "worker") >= {8, 17, 20, 21, 23, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 48, 53, 61}
