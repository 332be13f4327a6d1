"""Compute once, when a step is compiled, what does not depend on the step."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.running_step import MemoryBound

if TYPE_CHECKING:
    from runtime._ext.executor import BoundKernel
    from runtime.graph.node import Node
    from runtime.ops.registry import Kernel

__all__ = ["OF_FILES", "Folding", "Hurry", "TooLong", "freeze"]

logger = logging.getLogger(__name__)

# TensorFlow's own bound for a folded constant.
_MAX_VALUE_BYTES = 10 << 20
# Together, so that a graph of many small folded tensors does not fill the memory of a session either.
_MAX_TOTAL_BYTES = 64 << 20
# A client waits for its first step meanwhile; what is left unfolded is computed in every step, and right all the same.
_MAX_SECONDS = 2.0

# What one evaluation may take: temporary arrays come on top of its outputs.
_MAX_WORK_BYTES = 8 * _MAX_VALUE_BYTES

# Inputs up to this size are computed with by a thread that has no time.
_HURRIED_INPUT_BYTES = 64 << 10

# No input, and yet not a constant.
_NEVER = frozenset({"Placeholder", "PlaceholderV2", "_Arg", "FakeParam"})
OF_FILES = frozenset({"ReadFile", "MatchingFiles", "GenerateVocabRemapping"})
"""What these ops say of files may change."""


class TooLong(Exception):
    """A thread that has no time must leave its work to one that has."""


class Hurry:
    """Bounds what is compiled by a thread that has no time, within a ``with`` block.

    Parameters
    ----------
    seconds : float
    nbytes : int
        What all arrays may take together that are made: decoded constants, folded values.

    Notes
    -----
    The work looks at the clock between nodes and raises `TooLong` when the time is up, or when the next thing to do
    might take long by itself. What was done is lost then.
    """

    _current = threading.local()

    def __init__(self, seconds: float, nbytes: int) -> None:
        self._seconds = seconds
        self._until = 0.0
        self._bound = MemoryBound(nbytes)

    @classmethod
    def current(cls) -> Hurry | None:
        """Return the one that holds for this thread, or None."""
        return getattr(cls._current, "hurry", None)

    def __enter__(self) -> Hurry:
        self._until = time.perf_counter() + self._seconds
        self._bound.__enter__()
        self._current.hurry = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._current.hurry = None
        self._bound.__exit__(kind, error, trace)

    def check(self) -> None:
        """Raise `TooLong` when the time is up, or memory was refused."""
        if time.perf_counter() > self._until or self._bound.refused:
            raise TooLong


class Folding:
    """Evaluates nodes at compile time, within limits for size and time."""

    def __init__(self) -> None:
        self.hurry = Hurry.current()
        self._bytes_left = _MAX_TOTAL_BYTES
        self._seconds_left = _MAX_SECONDS

    def allows(self, node: Node, kernel: Kernel) -> bool:
        """Tell whether a node whose inputs are all constant may be computed now."""
        return (
            not kernel.asynchronous
            and not kernel.needs_step
            and node.op_def is not None
            and not node.op_def.is_stateful
            and node.op not in _NEVER
            and node.op not in OF_FILES
            and self._seconds_left > 0
            and self._bytes_left > 0
        )

    def evaluate(self, bound: BoundKernel, inputs: Sequence[Any]) -> list[Any] | None:
        """Return a node's outputs, read-only, or None when it is better left to the step.

        An error leaves the node to the step as well, where it belongs to whoever runs that node.

        Raises
        ------
        TooLong
            If the thread has no time for it.
        """
        hurry = self.hurry
        if hurry is not None:
            hurry.check()
            if sum(value.nbytes for value in inputs) > _HURRIED_INPUT_BYTES:
                raise TooLong
        started = time.perf_counter()
        try:
            if hurry is not None:
                outputs = bound.evaluate(inputs)
            else:
                with MemoryBound(_MAX_WORK_BYTES):
                    outputs = bound.evaluate(inputs)
        except Exception as error:
            if hurry is not None:
                hurry.check()
            logger.debug("node %s is not folded: %s", bound.name, error)
            return None
        finally:
            self._seconds_left -= time.perf_counter() - started
        size = 0
        for value in outputs:
            if not isinstance(value, np.ndarray):
                return None
            size += value.nbytes
        if size > _MAX_VALUE_BYTES or size > self._bytes_left:
            return None
        self._bytes_left -= size
        for value in outputs:
            freeze(value)
        return outputs


def freeze(value: Any) -> None:
    """Make an array read-only: it stands for every run of the step."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
