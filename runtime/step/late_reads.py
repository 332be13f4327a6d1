"""Reads of old variables that see what a step has changed meanwhile.

A variable of the old kind is read by an ``Identity``, which in TensorFlow copies nothing: those who take its output
look into the variable's own buffer when they run. Whoever comes after an update of the variable therefore sees the new
value, even if the ``Identity`` was there long before. Programs rely on it: ``SyncReplicasOptimizer`` hands out the
global step as it is after the update, from a read that nothing orders behind the update.

Here an ``Identity`` takes a snapshot, which is what those get whom the graph does not order behind an update. Those
whom it does order so are given the variable itself, to read it when they run.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from runtime.dtypes import REF_OFFSET

if TYPE_CHECKING:
    from runtime.graph.node import Node

__all__ = ["late_reads"]

_VARIABLES = frozenset({"VariableV2", "Variable"})
# They pass values between frames or branches and read nothing.
_CONTROL_FLOW = frozenset({"Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"})


def late_reads(nodes: Sequence[Node], fed: Container[Node]) -> dict[Node, list[tuple[Node, int]]]:
    """Return the sources of those nodes that read a variable behind an update of it, with the variable in its place.

    Parameters
    ----------
    nodes : sequence of Node
        Producers before consumers, back edges of loops excepted.
    fed : container of Node
        Nodes of which an output is fed.
    """
    reads: dict[Node, Node] = {}  # and whose value they hand on
    for node in nodes:
        if node.op == "Identity" and node not in fed:
            source = node.inputs[0][0]
            variable = source if source.op in _VARIABLES and source not in fed else reads.get(source)
            if variable is not None:
                reads[node] = variable
    if not reads:
        return {}
    bits = {variable: 1 << index for index, variable in enumerate(dict.fromkeys(reads.values()))}
    behind: dict[Node, int] = {}  # of which variables an update comes before a node, or is the node itself
    found = {}
    for node in nodes:
        before = 0
        for source, _ in node.inputs:
            before |= behind.get(source, 0)
        for source in node.control_inputs:
            before |= behind.get(source, 0)
        if before and node.op not in _CONTROL_FLOW:
            sources = [(reads[source], 0) if source in reads and before & bits[reads[source]] & ~behind.get(source, 0)
                       else (source, slot) for source, slot in node.inputs]
            if sources != node.inputs:
                found[node] = sources
        for (source, _), kind in zip(node.inputs, node.input_types):
            if kind > REF_OFFSET and source in bits and any(made > REF_OFFSET for made in node.output_types):
                before |= bits[source]
        if before:
            behind[node] = before
    return found
