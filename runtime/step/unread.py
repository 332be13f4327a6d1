"""Nodes of a step that only hold others back: nobody reads what they make.

Backward passes are full of them. The gradient of a layer's input is made together with that of its weights, and for the
first layer, whose input is the data, nothing but a control edge asks for it: in a small network a fifth of all work.
TensorFlow's optimizer leaves such nodes out, too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

from runtime.dtypes import REF_OFFSET, DataType
from runtime.graph.node import Node
from runtime.ops import opdef
from runtime.step.dataflow import CONTROL_FLOW

__all__ = ["unread"]

# They are there for the error that they may raise, or stand for what comes from outside.
_KEPT = frozenset({
    "Assert", "CheckNumerics", "EnsureShape", "Placeholder", "PlaceholderV2", "PlaceholderWithDefault",
    "PyFuncStateless", "_Arg", "_Retval",
})
# What names state, and is no plain value.
_NAMES = (DataType.RESOURCE, DataType.VARIANT)


def unread(nodes: Sequence[Node], wanted: Collection[Node]) -> set[Node]:
    """Return the nodes that can be left out: without effect, and without a reader that stays.

    What waits for such a node by a control edge must still wait for what that node waits for.

    Parameters
    ----------
    nodes : sequence of Node
        Producers before consumers.
    wanted : collection of Node
        Those that are fetched, or run because the client asks for them.
    """
    read = set(wanted)
    left_out = set()
    for node in reversed(nodes):
        if node not in read and _has_no_effect(node):
            left_out.add(node)
        else:
            read.update([source for source, _ in node.inputs])
    return left_out


def _has_no_effect(node: Node) -> bool:
    return (
        node.op_def is not None and _is_plain(node.op) and _holds_values(node.input_types, node.output_types)
    )


@lru_cache(maxsize=4096)
def _is_plain(op: str) -> bool:
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
def _holds_values(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> bool:
    """Tell whether a node of these types makes something, and all of them are plain values."""
    return bool(outputs) and not any(kind > REF_OFFSET or kind in _NAMES for kind in (*inputs, *outputs))
