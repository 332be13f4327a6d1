"""The order of a straight line: what changes a variable comes after what reads it, where the graph leaves that open.

A variable that is written while somebody still holds the value read before must be copied first. Backward passes read
weights until the end (the gradient of a layer's input needs the layer's weights), so an update that runs as soon as its
gradient is there would cost a copy of the weights in every step. The price of waiting is that gradients live a little
longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from runtime.dtypes import REF_OFFSET, DataType
from runtime.step.branches import Conditions
from runtime.step.units import Loop, Unit, in_order

__all__ = ["writers_last"]


def writers_last(units: Sequence[Unit], conditions: Conditions | None = None) -> Sequence[Unit]:
    """Return the units of a graph without cycles, still producers first, with writers of variables as late as possible.

    All other units keep their order, and so do the writers among each other, unless there are conditionals: then those
    of the same side come together.
    """
    if conditions is not None:
        return conditions.in_order(units, _writes)
    return in_order(units, _writes) if any(_writes(unit) for unit in units) else units


def _writes(unit: Unit) -> bool:
    """Tell whether a node takes a variable and hands on nothing but that variable."""
    return not isinstance(unit, Loop) and _writes_of(unit.input_types, unit.output_types)


@lru_cache(maxsize=4096)
def _writes_of(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> bool:
    return any(kind == DataType.RESOURCE or kind > REF_OFFSET for kind in inputs) and all(
        kind > REF_OFFSET for kind in outputs
    )
