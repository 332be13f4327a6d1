"""What a step would compute more than once: nodes that are bound to give the same values, found while lowering.

Two nodes are the same when op, types, attrs, control inputs and the values that they take are the same, and the op does
nothing but compute its outputs from these. The second one then gets no kernel: its values are the first one's. A traced
step is lowered without this, so that a trace shows every node.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import copysign
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.dtypes import DataType
from runtime.graph.node import Node
from runtime.ops import opdef, registry
from runtime.step.fold import OF_FILES
from runtime.step.plain_ops import holds_values, is_plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Repeated", "constant_key"]

# Constants up to this size are compared by their content: numbers, shapes and axes. Those that are worth the memory of
# a second copy are few, and comparing them costs a pass over each.
_LARGEST_CONSTANT_BYTES = 256

# So many nodes of one op that take the same values with different attrs are compared: slices of one tensor, say.
_MOST_VARIANTS = 16

# A sum of numbers with infinities or NaNs may differ in bits when its inputs change places, one of integers may not.
_COMMUTATIVE = frozenset({"Add", "AddV2", "Mul", "Maximum", "Minimum", "BitwiseAnd", "BitwiseOr", "BitwiseXor"})
_COMMUTATIVE_FOR_ALL = frozenset({"Equal", "NotEqual", "LogicalAnd", "LogicalOr"})
_EXACT = frozenset({
    DataType.INT8, DataType.INT16, DataType.INT32, DataType.INT64,
    DataType.UINT8, DataType.UINT16, DataType.UINT32, DataType.UINT64, DataType.BOOL,
})  # fmt: skip

_Key = tuple[Any, ...]


class Repeated:
    """The nodes of one line or flow that have a kernel, by what they compute."""

    def __init__(self) -> None:
        self._first: dict[_Key, Node] = {}
        self._others: dict[_Key, list[Node]] = {}  # other attrs, or behind other nodes

    def find(self, node: Node, numbers: Sequence[int]) -> Node | None:
        """Return the node met before that computes the same; None, and remember this one, if there is none.

        Parameters
        ----------
        numbers : sequence of int
            Of the values that the node takes.
        """
        op = node.op
        if len(numbers) == 2 and numbers[0] > numbers[1] and _may_swap(op, node.input_types[0]):
            key: _Key = op, numbers[1], numbers[0]
        else:
            key = op, *numbers
        first = self._first.setdefault(key, node)
        if first is node or not _only_computes(op) or not holds_values(node.input_types, node.output_types):
            return None
        if _are_same(node, first):
            return first
        others = self._others.setdefault(key, [])
        found = next((other for other in others if _are_same(node, other)), None)
        if found is None and len(others) < _MOST_VARIANTS:
            others.append(node)
        return found


def constant_key(value: Any) -> _Key | None:
    """Return what is equal for constants with the same bits; None for those that are not compared."""
    if not isinstance(value, np.ndarray) or value.dtype.hasobject or value.nbytes > _LARGEST_CONSTANT_BYTES:
        return None
    array: NDArray[Any] = value
    return array.dtype.num, array.shape, array.tobytes()


def _may_swap(op: str, kind: int) -> bool:
    return op in _COMMUTATIVE_FOR_ALL or (op in _COMMUTATIVE and kind in _EXACT)


@lru_cache(maxsize=4096)
def _only_computes(op: str) -> bool:
    """Tell whether an op's outputs follow from its inputs and attrs, and nothing else comes of it."""
    if opdef.lookup(op) is None or not is_plain(op) or op in OF_FILES:
        return False
    kernel = registry.find(op)
    return not kernel.needs_step and not kernel.asynchronous


def _are_same(left: Node, right: Node) -> bool:
    if left.output_types != right.output_types or left.input_types != right.input_types:
        return False
    # What is computed again behind a control edge is meant to be, as to save memory in between.
    if (left.control_inputs or right.control_inputs) and set(left.control_inputs) != set(right.control_inputs):
        return False
    assert left.op_def is not None
    return all(_are_identical(left.attr(name, None), right.attr(name, None)) for name in left.op_def.attrs)


def _are_identical(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return left == right and copysign(1.0, left) == copysign(1.0, right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_are_identical, left, right))
    return bool(left == right)
