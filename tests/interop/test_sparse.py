"""Sparse work with TensorFlow's client: the same numbers on both servers."""

from __future__ import annotations

from tests.interop.programs import Seen
from tests.interop.test_training import close

PROGRAM = "sparse_tf"


def test_sampled_losses_draw_the_same_classes(both: Seen) -> None:
    ours, theirs = both("sampled_losses", "LogUniformCandidateSampler", "ComputeAccidentalHits")
    assert close(ours, theirs, 1e-4), f"{ours}\n{theirs}"
