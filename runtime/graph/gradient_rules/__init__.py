"""One rule per differentiable op type.

A rule gets the operation and the gradients by its outputs (None for an output that nothing depends on) and returns
the gradients by its inputs (None where there is none)::

    @gradient("Sin")
    def _sin(op, grads):
        return [dense(grads[0]) * op.graph.cos(op.inputs[0])]
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

from runtime.graph.indexed_slices import IndexedSlices, as_dense
from runtime.graph.tensor import Operation, Tensor

__all__ = ["FAMILIES", "Grads", "Rule", "dense", "filled", "find", "gradient", "no_gradient", "registered"]

Grads = Sequence[Tensor | IndexedSlices | None]
Rule = Callable[[Operation, Grads], Grads]

FAMILIES = ("arrays", "indexing", "elementwise", "reductions", "linalg", "nn", "segments", "variables")
"""Modules of this package that register rules."""

_RULES: dict[str, Rule] = {}
_loaded = False


def gradient(*ops: str) -> Callable[[Rule], Rule]:
    """Register the decorated rule for one or more op types.

    Raises
    ------
    ValueError
        If an op type has one already.
    """

    def register(rule: Rule) -> Rule:
        for op in ops:
            if op in _RULES:
                raise ValueError(f"op {op} has a gradient rule already, in {_RULES[op].__module__}")
            _RULES[op] = rule
        return rule

    return register


def no_gradient(*ops: str) -> None:
    """Register op types whose outputs do not change with their inputs, or by steps only."""
    gradient(*ops)(lambda op, grads: [None] * len(op.inputs))


def find(op: str) -> Rule | None:
    """Return the rule of an op type, None if there is none."""
    global _loaded
    if not _loaded:
        for family in FAMILIES:
            importlib.import_module(f"{__name__}.{family}")
        _loaded = True
    return _RULES.get(op)


def registered() -> list[str]:
    """Return the op types that have a rule, sorted."""
    find("")
    return sorted(_RULES)


def dense(grad: Tensor | IndexedSlices | None) -> Tensor:
    """Return the gradient by an operation's only output as one tensor."""
    if grad is None:
        raise AssertionError("a rule is called only when the gradient by an output is known")
    return as_dense(grad)


def filled(op: Operation, grads: Grads) -> list[Tensor]:
    """Return the gradients by all outputs, zeros for those that nothing depends on."""
    return [op.graph.zeros_like(output) if grad is None else as_dense(grad)
            for output, grad in zip(op.outputs, grads, strict=True)]
