"""The first tasks that have ended say most of what was not known; a few quick ones do not hide what lasts."""

from __future__ import annotations

import pytest

from runtime.tasks.agents.durations import MeanDuration


def test_a_handful_of_tasks_replaces_the_guess() -> None:
    mean = MeanDuration(1.0, 0.1)
    mean.add(1e-4)
    assert 0.1 < mean.seconds < 1.0, "one task is no reason to expect others like it"
    for _ in range(7):
        mean.add(1e-4)
    assert mean.seconds == pytest.approx(1e-4, rel=1)


def test_later_tasks_count_as_much_as_they_were_given() -> None:
    mean = MeanDuration(1.0, 0.1)
    mean.add(0.0, 1000)
    mean.add(1.0)
    assert mean.seconds == pytest.approx(0.1)
    mean.add(1.0)
    assert mean.seconds == pytest.approx(0.19)


@pytest.mark.parametrize("weight", [0.1, 0.3])
def test_tasks_that_are_told_together_count_like_single_ones(weight: float) -> None:
    together, single = MeanDuration(1.0, weight), MeanDuration(1.0, weight)
    for number in (3, 1, 9, 20):
        together.add(0.01 * number, number)
        for _ in range(number):
            single.add(0.01 * number)
        assert together.seconds == pytest.approx(single.seconds)
