"""Sparse and ragged work with TensorFlow's client: the same numbers on both servers."""

from __future__ import annotations

import pytest

from tests.interop.programs import Seen
from tests.interop.test_training import close

PROGRAM = "sparse_tf"


@pytest.mark.parametrize("name", ["sampled_losses", "bags_of_words", "drawn", "scattered", "sparse_algebra", "examples",
                                  "ragged_and_texts"])
def test_both_servers_give_the_same(both: Seen, name: str) -> None:
    ours, theirs = both(name)
    assert close(ours, theirs, 1e-4), f"{ours}\n{theirs}"
