"""How long tasks take, as far as that is known."""

from __future__ import annotations

__all__ = ["MeanDuration"]

# Tasks that nothing was known before, and the weight of each in the mean.
_FIRST_TASKS = 8
_FIRST_WEIGHT = 0.7


class MeanDuration:
    """The mean duration of tasks, in which the latest count most.

    Parameters
    ----------
    seconds : float
        What tasks are taken to last before any has ended. The first that have replace it soon: a handful that was quick
        is reason enough to expect more of them, since nothing waits for long behind a task that is not.
    weight : float
        Of the latest task in the mean.

    Attributes
    ----------
    seconds : float
    """

    def __init__(self, seconds: float, weight: float) -> None:
        self.seconds = seconds
        self._weight = weight
        self._num_first = _FIRST_TASKS

    def add(self, seconds: float, number: int = 1) -> None:
        """Take note of tasks that took so many seconds each, in the mean."""
        num_first = min(number, self._num_first)
        self._num_first -= num_first
        known = (1 - _FIRST_WEIGHT) ** num_first * (1 - self._weight) ** (number - num_first)
        self.seconds += (seconds - self.seconds) * (1 - known)
