"""What lowerings make instructions of: the nodes of a graph, and loops that stand for many of them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime.graph.graph import is_back_edge
from runtime.graph.node import Node

if TYPE_CHECKING:
    from runtime.step.branches import Conditions

__all__ = ["End", "Loop", "Region", "Unit", "dependencies", "in_order", "sources"]

End = tuple[Node, int]
"""A node and one of its outputs."""


@dataclass(eq=False, slots=True)
class Region:
    """A part of a loop: what runs, under which conditions, what it is given, and what is wanted of it."""

    units: list[Unit] = field(default_factory=list)
    feeds: list[End] = field(default_factory=list)
    fetches: list[End] = field(default_factory=list)
    conditions: Conditions | None = None


@dataclass(eq=False, slots=True)
class Loop:
    """A loop that runs as ``while condition: variables = body``.

    Attributes
    ----------
    switch : Node
        The one that an error of the condition's value names.
    inputs : list of (Node, int)
        What enters: first values of the variables, then what stays the same.
    controls : list of Node
        What must have run before.
    num_variables : int
    condition : Region
        Is given the variables and what stays the same; its first fetch is the verdict, others are for the body.
    body : Region
        Its fetches are the variables of the next turn.
    body_args : list of int
        For each feed of the body where it comes from: a number below ``len(inputs)`` for what the condition is given,
        else, less that, one of the condition's further fetches.
    exits : list of Node
    exit_values : list of int
        For each exit, likewise.
    """

    switch: Node
    inputs: list[End]
    controls: list[Node]
    num_variables: int
    condition: Region
    body: Region
    body_args: list[int]
    exits: list[Node]
    exit_values: list[int]


Unit = Node | Loop
"""What a lowering makes an instruction or a node of."""


def sources(unit: Unit) -> list[Node]:
    """Return the nodes whose values a unit takes, or which it waits for."""
    if isinstance(unit, Loop):
        return [*(source for source, _ in unit.inputs), *unit.controls]
    return [*(source for source, _ in unit.inputs), *unit.control_inputs]


def dependencies(units: Sequence[Unit]) -> tuple[list[int], list[list[int]]]:
    """Return for each unit how many of the others it comes behind, and the places of those that come behind it."""
    position: dict[Node, int] = {}
    for index, unit in enumerate(units):
        if isinstance(unit, Loop):
            position.update(dict.fromkeys(unit.exits, index))
        else:
            position[unit] = index
    waiting = [0] * len(units)
    followers: list[list[int]] = [[] for _ in units]
    for index, unit in enumerate(units):
        before = set()
        for source in sources(unit):
            place = position.get(source)  # None: fed, or made elsewhere
            if place is not None and (isinstance(unit, Loop) or not is_back_edge(source, unit)):
                before.add(place)
        for place in before:
            followers[place].append(index)
        waiting[index] = len(before)
    return waiting, followers


def in_order(units: Sequence[Unit], late: Callable[[Unit], bool] | None = None) -> list[Unit]:
    """Return units with producers first, otherwise in their order, back edges of loops left out of account.

    Parameters
    ----------
    late : callable, optional
        ``late(unit)`` tells whether a unit goes behind all others that can come before it.

    Raises
    ------
    ValueError
        If they make a cycle.
    """
    waiting, followers = dependencies(units)
    ready: list[int] = []
    last: list[int] = []
    for index, count in enumerate(waiting):
        if count == 0:
            (last if late is not None and late(units[index]) else ready).append(index)
    result = []
    while ready or last:  # both lists begin sorted, which makes them heaps
        index = heapq.heappop(ready or last)
        result.append(units[index])
        for follower in followers[index]:
            waiting[follower] -= 1
            if waiting[follower] == 0:
                heapq.heappush(last if late is not None and late(units[follower]) else ready, follower)
    if len(result) < len(units):
        raise ValueError("the nodes make a cycle")
    return result
