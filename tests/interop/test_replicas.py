"""Synchronous training with accumulators and token queues ends where it ends on TensorFlow's own server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interop.programs import Seen

PROGRAM = "replicas_tf"


def about(expected: Any) -> Any:
    """Return nested lists of numbers that are equal within float32's rounding."""
    if isinstance(expected, list):
        return [about(item) for item in expected]
    return pytest.approx(expected, rel=2e-5, abs=2e-6) if isinstance(expected, float) else expected


@pytest.mark.parametrize("gradients", ["dense_gradients", "sparse_gradients"])
def test_replicas_train_together(both: Seen, gradients: str) -> None:
    ours, theirs = both(gradients)
    assert ours["losses"] == theirs["losses"] == [5, 5]
    assert ours["values"][0] == 5, "as many steps as rounds, each of two gradients"
    assert ours["values"] == about(theirs["values"])
