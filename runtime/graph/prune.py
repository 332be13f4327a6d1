"""What a step needs: the checks of its signature, and the nodes between its feeds and its fetches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime._ext.errors import InvalidArgument, NotFound
from runtime.dtypes import DataType, base
from runtime.graph import names
from runtime.graph.graph import Graph, is_back_edge
from runtime.graph.node import Node

__all__ = ["Endpoint", "Selection", "feed_endpoint", "fetch_endpoint", "order", "select"]

Endpoint = tuple[str, Node, int, DataType]
"""Name as the client spelled it, node, output slot, type without its reference mark."""

_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2"})


@dataclass(frozen=True, slots=True)
class Selection:
    """What must run for a signature.

    Attributes
    ----------
    nodes : list of Node
        In an order where every node follows its inputs, loop back edges excepted. Inputs that are fed, and control
        inputs from a fed placeholder, lead out of this list: they are there from the start.
    feeds, fetches : list of (str, Node, int, DataType)
        In the order of the request. A fetch may name an endpoint that is fed under another spelling; its value is what
        is fed.
    targets : list of Node
    fed : frozenset of (Node, int)
        The endpoints of `feeds`.
    """

    nodes: list[Node]
    feeds: list[Endpoint]
    fetches: list[Endpoint]
    targets: list[Node]
    fed: frozenset[tuple[Node, int]]


def select(graph: Graph, feeds: Sequence[str], fetches: Sequence[str], targets: Sequence[str]) -> Selection:
    """Check a step's signature and return what it needs.

    The checks, their order and their texts are those of TensorFlow 2.21.

    Raises
    ------
    InvalidArgument
        If nothing is asked for, a feed is given twice or fetched too, or a slot does not exist.
    NotFound
        If a feed, fetch or target names no node.
    """
    if not fetches and not targets:
        raise InvalidArgument("Must specify at least one target to fetch or execute.")
    fed_names = set()
    for name in feeds:
        if name in fed_names:
            raise InvalidArgument(f'Endpoint "{name}" fed more than once.')
        fed_names.add(name)
    for name in fetches:
        if name in fed_names:
            raise InvalidArgument(f"{name} is both fed and fetched.")
    feed_ends = [feed_endpoint(graph, name) for name in feeds]
    fed: set[tuple[Node, int]] = set()
    for name, node, slot, _ in feed_ends:
        if (node, slot) in fed:
            raise InvalidArgument(f'Endpoint "{name}" fed more than once.')
        fed.add((node, slot))
    fetch_ends = [fetch_endpoint(graph, name) for name in fetches]
    target_nodes = _targets(graph, targets)
    roots = [node for _, node, slot, _ in fetch_ends if (node, slot) not in fed]
    return Selection(order([*roots, *target_nodes], fed), feed_ends, fetch_ends, target_nodes, frozenset(fed))


def feed_endpoint(graph: Graph, text: str) -> Endpoint:
    """Return what a feed's name stands for; raise as `select` does when it stands for nothing."""
    name, slot = names.split_tensor(text)
    node = graph.nodes.get(name)
    if node is None:
        raise NotFound(f"FeedInputs: unable to find feed output {text}")
    if slot < 0 or slot >= len(node.output_types):
        raise InvalidArgument(f"FeedInputs: {text} should have output index < {len(node.output_types)}")
    return text, node, slot, base(node.output_types[slot])


def fetch_endpoint(graph: Graph, text: str) -> Endpoint:
    """Return what a fetch's name stands for; raise as `select` does when it stands for nothing."""
    name, slot = names.split_tensor(text)
    node = graph.nodes.get(name)
    if node is None:
        raise NotFound(f"FetchOutputs node {text}: not found")
    count = len(node.output_types)
    if not count:
        raise InvalidArgument(
            f"Tried to fetch data for '{text}', which produces no output.  To run to a node but not "
            f"fetch any data, pass '{text}' as an argument to the 'target_node_names' argument of the "
            "Session::Run API."
        )
    if slot < 0:
        raise InvalidArgument(
            f"Attempt to add output -1 of {name} not in range [0, {count}) to node with type _Send. "
            f"Node: {{{{node {name}}}}}"
        )
    if slot >= count:
        raise InvalidArgument(f"FetchOutputs {text}: output index too large, must be < {count}")
    return text, node, slot, base(node.output_types[slot])


def _targets(graph: Graph, texts: Sequence[str]) -> list[Node]:
    found: dict[Node, None] = {}
    missing = []
    for text in texts:
        node = graph.nodes.get(names.split_tensor(text)[0])
        if node is None:
            missing.append(text)
        else:
            found[node] = None
    if missing:
        raise NotFound("PruneForTargets: Some target nodes not found: " + "".join(f"{text} " for text in missing))
    return list(found)


def order(roots: Sequence[Node], fed: set[tuple[Node, int]] | frozenset[tuple[Node, int]] = frozenset()) -> list[Node]:
    """Return all nodes that lead to `roots`, producers first.

    Edges out of fed endpoints are not followed; back edges of loops are followed, but do not order.
    """
    covered = {node for node, slot in fed if slot == 0 and node.op in _PLACEHOLDERS}
    seen: set[Node] = set()
    done: set[Node] = set()
    result: list[Node] = []
    pending = list(reversed(roots))
    later: list[Node] = []
    while pending or later:
        if not pending:
            pending.append(later.pop())
        node = pending.pop()
        if node in seen:
            # Second visit: everything it needs is in the result. Other entries may lie deeper in the stack.
            if node not in done:
                done.add(node)
                result.append(node)
            continue
        seen.add(node)
        pending.append(node)
        for edge in node.inputs:
            source = edge[0]
            if source not in seen and edge not in fed:
                if is_back_edge(source, node):
                    later.append(source)
                else:
                    pending.append(source)
        for source in node.control_inputs:
            if source not in seen and source not in covered:
                pending.append(source)
    return result
