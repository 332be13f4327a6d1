"""Compute once, when a step is compiled, what does not depend on the step."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from runtime._ext.executor import BoundKernel
    from runtime.graph.node import Node
    from runtime.ops.registry import Kernel

__all__ = ["Folding", "freeze"]

logger = logging.getLogger(__name__)

# TensorFlow's own bound for a folded constant.
_MAX_VALUE_BYTES = 10 << 20
# Together, so that a graph of many small folded tensors does not fill the memory of a session either.
_MAX_TOTAL_BYTES = 64 << 20
# A client waits for its first step meanwhile; what is left unfolded is computed in every step, and right all the same.
_MAX_SECONDS = 2.0

# No input, and yet not a constant.
_NEVER = frozenset({"Placeholder", "PlaceholderV2", "_Arg", "FakeParam"})
# What they say of files may change.
_OF_FILES = frozenset({"ReadFile", "MatchingFiles", "GenerateVocabRemapping"})


class Folding:
    """Evaluates nodes at compile time, within limits for size and time."""

    def __init__(self) -> None:
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
            and node.op not in _OF_FILES
            and self._seconds_left > 0
            and self._bytes_left > 0
        )

    def evaluate(self, bound: BoundKernel, inputs: Sequence[Any]) -> list[Any] | None:
        """Return a node's outputs, read-only, or None when it is better left to the step.

        An error leaves the node to the step as well, where it belongs to whoever runs that node.
        """
        started = time.perf_counter()
        try:
            outputs = bound.evaluate(inputs)
        except Exception as error:
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
