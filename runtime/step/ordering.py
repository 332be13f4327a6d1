"""The order of a straight line: what changes a variable comes after what reads it, where the graph leaves that open.

A variable that is written while somebody still holds the value read before must be copied first. Backward passes read
weights until the end (the gradient of a layer's input needs the layer's weights), so an update that runs as soon as its
gradient is there would cost a copy of the weights in every step. The price of waiting is that gradients live a little
longer.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from functools import lru_cache

from runtime.dtypes import REF_OFFSET, DataType
from runtime.graph.node import Node

__all__ = ["writers_last"]


def writers_last(nodes: Sequence[Node]) -> Sequence[Node]:
    """Return the nodes of a graph without cycles, still producers first, with writers of variables as late as possible.

    All other nodes keep their order; so do the writers among each other.
    """
    if not any(_writes(node) for node in nodes):
        return nodes
    position = {node: index for index, node in enumerate(nodes)}
    waiting = [0] * len(nodes)
    followers: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        sources = {source for source, _ in node.inputs}
        sources.update(node.control_inputs)
        for source in sources:
            before = position.get(source, index)
            if before < index:  # an edge to an earlier node; the others are fed and order nothing
                followers[before].append(index)
                waiting[index] += 1
    ready: list[int] = []
    writers: list[int] = []
    for index, count in enumerate(waiting):
        if count == 0:
            (writers if _writes(nodes[index]) else ready).append(index)
    result = []
    while ready or writers:  # both lists begin sorted, which makes them heaps
        index = heapq.heappop(ready if ready else writers)
        result.append(nodes[index])
        for follower in followers[index]:
            waiting[follower] -= 1
            if waiting[follower] == 0:
                heapq.heappush(writers if _writes(nodes[follower]) else ready, follower)
    return result


def _writes(node: Node) -> bool:
    """Tell whether a node takes a variable and hands on nothing but that variable."""
    return _writes_of(node.input_types, node.output_types)


@lru_cache(maxsize=4096)
def _writes_of(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> bool:
    return any(kind == DataType.RESOURCE or kind > REF_OFFSET for kind in inputs) and all(
        kind > REF_OFFSET for kind in outputs
    )
