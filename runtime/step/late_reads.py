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

from runtime.dtypes import REF_OFFSET
from runtime.graph.node import Node
from runtime.step.units import Loop, Unit, sources

__all__ = ["late_reads"]

_VARIABLES = frozenset({"VariableV2", "Variable"})
# They pass values between frames or branches and read nothing.
_CONTROL_FLOW = frozenset({"Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"})


def late_reads(units: Sequence[Unit], fed: Container[Node]) -> dict[Node, list[tuple[Node, int]]]:
    """Return the sources of those nodes that read a variable behind an update of it, with the variable in its place.

    Parameters
    ----------
    units : sequence of (Node or Loop)
        Producers before consumers, back edges of loops excepted.
    fed : container of Node
        Nodes of which an output is fed.
    """
    reads: dict[Node, Node] = {}  # and whose value they hand on
    for node in units:
        if isinstance(node, Node) and node.op == "Identity" and node not in fed:
            source = node.inputs[0][0]
            variable = source if source.op in _VARIABLES and source not in fed else reads.get(source)
            if variable is not None:
                reads[node] = variable
    if not reads:
        return {}
    bits = {variable: 1 << index for index, variable in enumerate(dict.fromkeys(reads.values()))}
    behind: dict[Node, int] = {}  # of which variables an update comes before a node, or is the node itself
    found = {}
    for node in units:
        before = 0
        for source in sources(node):
            before |= behind.get(source, 0)
        if isinstance(node, Loop):  # takes no references: nothing in it updates such a variable
            behind.update(dict.fromkeys(node.exits, before))
            continue
        if before and node.op not in _CONTROL_FLOW:
            taken = [(reads[source], 0) if source in reads and before & bits[reads[source]] & ~behind.get(source, 0)
                     else (source, slot) for source, slot in node.inputs]
            if taken != node.inputs:
                found[node] = taken
        for (source, _), kind in zip(node.inputs, node.input_types):
            if kind > REF_OFFSET and source in bits and any(made > REF_OFFSET for made in node.output_types):
                before |= bits[source]
        if before:
            behind[node] = before
    return found
