"""Groups of element-wise kernels of which several values are needed later: those that a backward pass will read.

A group runs at one place of the line: behind all that its kernels take, before all that read what it makes. That place
is where its last kernel stands, or an earlier one.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from runtime._ext.kernels import fused

__all__ = ["Line", "WideGroup", "grow_wide"]

# A value with more readers than this is no intermediate result of a formula.
_MOST_READERS = 16


@dataclass(slots=True)
class Line:
    """What there is to know of the kernels of a line, by their numbers.

    Attributes
    ----------
    types : sequence of int
        What `fused.element_type` says of each.
    inputs, outputs : sequence of sequence of int
        The values that each takes and makes.
    made_by : dict of int to int
        For each value the kernel that makes it; feeds and constants are not there.
    readers : dict of int to list of int
        For each value of an element-wise kernel who takes it.
    wanted : collection of int
        Values that are needed when the line has ended.
    writes : sequence of int
        How many kernels before each may write to variables.
    places : list of float
        Where each runs, as far as it is known: in the order of these numbers.
    conditions : sequence, or None
        Under which conditions each runs, in a line with conditionals: then none is moved forward.
    """

    types: Sequence[int]
    inputs: Sequence[Sequence[int]]
    outputs: Sequence[Sequence[int]]
    made_by: Mapping[int, int]
    readers: Mapping[int, Sequence[int]]
    wanted: Collection[int]
    writes: Sequence[int]
    places: list[float]
    conditions: Sequence[object] | None


@dataclass(slots=True)
class WideGroup:
    """Kernels that run together at a place, and which of them make values for others."""

    members: set[int]
    outputs: list[int]
    place: float


def grow_wide(root: int, line: Line, inside: Collection[int]) -> WideGroup | None:
    """Return the kernels that can run together with the one at `root`; None when there are none.

    Parameters
    ----------
    inside : collection of int
        Kernels that belong to groups already; their places are known.
    """
    found = WideGroup({root}, [root], float(root))
    taken = set(line.inputs[root])
    candidates = [-line.made_by[value] for value in taken if value in line.readers]
    heapq.heapify(candidates)
    seen = {root}
    while candidates and len(found.members) < fused.MAX_STEPS:
        index = -heapq.heappop(candidates)
        if index in seen:
            continue
        seen.add(index)
        if index in inside or not _fits(index, root, line):
            continue
        grown = {*found.members, index}
        outside = (taken - {line.outputs[index][0]}) | {
            value for value in line.inputs[index] if line.made_by.get(value) not in found.members
        }
        if len(outside) > fused.MAX_INPUTS:
            continue
        placed = _placed(grown, outside, root, line)
        if placed is None:
            continue
        found, taken = placed, outside
        for value in line.inputs[index]:
            if value in line.readers:
                heapq.heappush(candidates, -line.made_by[value])
    return found if len(found.members) > 1 else None


def _fits(index: int, root: int, line: Line) -> bool:
    return (
        line.types[index] == line.types[root]
        and line.writes[index] == line.writes[root]
        and len(line.readers[line.outputs[index][0]]) <= _MOST_READERS
        and (line.conditions is None or line.conditions[index] == line.conditions[root])
    )


def _placed(members: set[int], outside: Collection[int], root: int, line: Line) -> WideGroup | None:
    """Return a group with its outputs and its place, or None when there is no place for it."""
    places = line.places
    behind = max((places[line.made_by[value]] for value in outside if value in line.made_by), default=-1.0)
    before = float("inf")
    outputs = []
    for index in sorted(members):
        value = line.outputs[index][0]
        others = [places[reader] for reader in line.readers[value] if reader not in members]
        if others:
            before = min(before, *others)
        if others or value in line.wanted or index == root:
            outputs.append(index)
    if len(outputs) > fused.MAX_OUTPUTS or before <= behind:
        return None
    if before > root:
        return WideGroup(members, outputs, float(root))
    if line.conditions is not None:
        return None
    return WideGroup(members, outputs, (behind + before) / 2)
