"""Which ops do nothing but compute their outputs, so that a step may do without a node of theirs."""

from __future__ import annotations

from functools import lru_cache

from runtime.dtypes import REF_OFFSET, DataType
from runtime.ops import opdef

__all__ = ["CONTROL_FLOW", "holds_values", "is_plain"]

CONTROL_FLOW = frozenset({
    "Enter", "Exit", "Merge", "NextIteration", "RefEnter", "RefExit", "RefMerge", "RefNextIteration", "RefSwitch",
    "Switch", "_SwitchN",
})  # fmt: skip
"""Ops that need the dataflow executor."""

# They are there for the error that they may raise, or stand for what comes from outside.
_KEPT = frozenset({
    "Assert", "CheckNumerics", "EnsureShape", "Placeholder", "PlaceholderV2", "PlaceholderWithDefault",
    "PyFuncStateless", "_Arg", "_Retval",
})  # fmt: skip
# What names state, and is no plain value.
_NAMES = (DataType.RESOURCE, DataType.VARIANT)


@lru_cache(maxsize=4096)
def is_plain(op: str) -> bool:
    """Tell whether an op does nothing but compute its outputs."""
    definition = opdef.lookup(op)
    return (
        definition is not None
        and not definition.is_stateful
        and op not in _KEPT
        and op not in CONTROL_FLOW
        # The older ones name their array by a string.
        and not op.startswith("TensorArray")
        # The body of a function may have effects.
        and not any(attr.kind in ("func", "list(func)") for attr in definition.attrs.values())
    )


@lru_cache(maxsize=4096)
def holds_values(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> bool:
    """Tell whether a node of these types makes something, and all of them are plain values."""
    return bool(outputs) and not any(kind > REF_OFFSET or kind in _NAMES for kind in (*inputs, *outputs))
