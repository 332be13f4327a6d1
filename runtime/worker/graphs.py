"""Graphs that masters have registered: parsed, checked, compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument, NotFound
from runtime.graph.collection import collection_paused
from runtime.graph.defaults import fill_defaults
from runtime.graph.device_spec import parse
from runtime.graph.graph import Graph
from runtime.graph.prune import Selection, order
from runtime.graph.validate import check_node
from runtime.ops import registry
from runtime.step.compile import CompiledStep, compile_step
from runtime.worker.unfuse import unfused

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import SessionState

__all__ = ["RegisteredGraph"]


class RegisteredGraph:
    """One task's part of a step, to be run any number of times.

    Parameters
    ----------
    graph_def : wire.GraphDef
        Every node with its full device. Kept, and not to be changed afterwards.
    state : SessionState

    Attributes
    ----------
    graph : Graph
    selection : Selection
        All of its nodes; nothing is fed or fetched, for that is done by ``_Recv`` and ``_Send`` nodes.
    step : CompiledStep

    Raises
    ------
    InvalidArgument
        If a node has no device or one of no known form, or is wrong in another way.
    NotFound
        If there is no such op here, or no kernel for it.
    """

    def __init__(self, graph_def: Any, state: SessionState) -> None:
        with collection_paused(len(graph_def.node)):
            for proto in graph_def.node:
                spec = parse(proto.device)
                if spec is None or not spec.is_full:
                    raise InvalidArgument(f"Missing device name in: {{{{node {proto.name}}}}} = {proto.op}[]"
                                          f"(device {proto.device!r}): a worker's graph names a device for every node")
            self.graph = Graph.from_proto(unfused(graph_def), internal=True)
            for node in self.graph.nodes.values():
                check_node(node)
                _check_kernel(node)
            nodes = order(list(self.graph.nodes.values()))
            self.selection = Selection(nodes, [], [], list(self.graph.nodes.values()), frozenset())
            self.step: CompiledStep = compile_step(self.selection, self.graph.library, state)


    def told(self) -> Any:
        """Return the GraphDef that runs, for those who look: every node with all its attrs, defaults included."""
        made = self.graph.to_proto()
        for proto in made.node:
            fill_defaults(proto, self.graph.nodes[proto.name])
        return made


def _check_kernel(node: Node) -> None:
    if node.op_def is None:  # a call of a library function
        return
    try:
        registry.find(node.op)
    except InvalidArgument:
        kind = parse(node.device)
        raise NotFound(f"No registered '{node.op}' OpKernel for '{kind.device_type if kind else 'CPU'}' devices "
                       f"compatible with node {{{{node {node.name}}}}}") from None
