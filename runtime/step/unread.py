"""Nodes of a step that only hold others back: nobody reads what they make.

Backward passes are full of them. The gradient of a layer's input is made together with that of its weights, and for the
first layer, whose input is the data, nothing but a control edge asks for it: in a small network a fifth of all work.
TensorFlow's optimizer leaves such nodes out, too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from runtime.graph.node import Node
from runtime.step.plain_ops import holds_values, is_plain

__all__ = ["unread"]


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
    return node.op_def is not None and is_plain(node.op) and holds_values(node.input_types, node.output_types)
