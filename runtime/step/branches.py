"""Conditionals as clients write them with Switch and Merge, when they need no dead values to be carried around.

What lives depends on the sides that predicates choose. Where that can be told for every node before anything runs, the
nodes are one straight line, in which those of a side that is not taken are skipped (`_ext/branches`). Graphs of which
it cannot be told run by dataflow: those with a Merge to which two living values may come, or with a loop of which only
a part is entered.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from runtime.dtypes import REF_OFFSET
from runtime.graph.graph import is_back_edge
from runtime.graph.node import Node
from runtime.step.units import End, Loop, Unit, dependencies

__all__ = ["CONDITIONAL", "LIVE", "NEVER", "Condition", "Conditions", "Guard", "Irregular", "Side", "guards"]

_SWITCHES = frozenset({"Switch", "RefSwitch", "_SwitchN"})
_MERGES = frozenset({"Merge", "RefMerge"})
CONDITIONAL = _SWITCHES | _MERGES
"""Ops of conditionals."""

# They hand on the value of a predicate.
_ALIASES = frozenset({"Identity", "StopGradient", "Snapshot", "PreventGradient"})

# What depends on more sides at once than anybody writes, or comes from more, is left to dataflow: the work here
# grows with their product.
_MOST_SIDES = 64

LIVE = -1
"""In place of a side: the value, of a Merge, lives."""


class Irregular(Exception):
    """What lives cannot be told by the sides of conditionals."""


class Side(NamedTuple):
    """One thing that must be true for a node to live: `predicate` chooses `choice` of `num_sides`."""

    predicate: End
    choice: int
    num_sides: int


Condition = frozenset[Side]
"""What must be true all at once; nothing for what always lives."""

_ALWAYS: Condition = frozenset()
NEVER: Condition = frozenset({Side((None, 0), 0, 0)})  # type: ignore[arg-type]
"""The condition of what is dead in every run: it needs both sides of a conditional."""


class Conditions:
    """Which nodes live when.

    Parameters
    ----------
    units : sequence of (Node or Loop)
        Producers before consumers.
    fed : collection of (Node, int)
        What is there from the start.

    Raises
    ------
    Irregular
        If it cannot be told.
    """

    def __init__(self, units: Sequence[Unit], fed: Collection[End]) -> None:
        self._fed = fed
        self._conditions: dict[End, Condition] = {}  # -1 for the node itself; those that always live are not there
        self._of_loops: dict[int, Condition] = {}
        self._origins: dict[End, End] = {}  # predicates that are handed on -> where they come from
        self._switches: dict[End, Node] = {}  # the first one of each predicate, in order of their coming
        self._ranks: dict[End, int] = {}
        for unit in units:
            if isinstance(unit, Loop):
                self._follow_loop(unit)
            else:
                self._follow(unit)

    @classmethod
    def find(cls, units: Sequence[Unit], fed: Collection[End]) -> Conditions | None:
        """Return the conditions, or None where nothing depends on any."""
        if not any(isinstance(unit, Node) and unit.op in CONDITIONAL for unit in units):
            return None
        return cls(units, fed)

    def of(self, node: Node, slot: int = -1) -> Condition:
        """Return the condition of one of a node's outputs, or of the node itself, whatever is fed."""
        return self._conditions.get((node, slot), _ALWAYS)

    def of_end(self, node: Node, slot: int) -> Condition:
        """Return the condition of a value: one that is fed always lives."""
        return _ALWAYS if (node, slot) in self._fed else self.of(node, slot)

    def of_unit(self, unit: Unit) -> Condition:
        """Return the condition under which a node or a loop runs."""
        if isinstance(unit, Loop):
            return self._of_loops.get(id(unit), _ALWAYS)
        return self.of(unit)

    def path(self, condition: Condition) -> list[Side]:
        """Return a condition's sides in such an order that each predicate lives when the sides before it are taken."""
        return sorted(condition, key=lambda side: self._ranks[side.predicate])

    def switch(self, predicate: End) -> Node:
        """Return the node that an error of a predicate's value names."""
        return self._switches[predicate]

    # Following the graph.

    def _follow_loop(self, loop: Loop) -> None:
        inputs = [self.of_end(source, slot) for source, slot in loop.inputs]
        condition = inputs[0]
        for index, other in enumerate(inputs):
            if other != condition if index < loop.num_variables else not other <= condition:
                raise Irregular
        if not all(self.of_end(source, -1) <= condition for source in loop.controls):
            raise Irregular
        if condition:
            self._of_loops[id(loop)] = condition
            for node in loop.exits:
                self._conditions[node, 0] = self._conditions[node, -1] = condition

    def _follow(self, node: Node) -> None:
        op = node.op
        if op == "ControlTrigger":
            return
        inputs = [self.of_end(source, slot) for source, slot in node.inputs]
        if op in _MERGES:
            condition = self._merged(node, inputs)
        else:
            condition = _all_of([*inputs, *(self.of_end(source, -1) for source in node.control_inputs)])
        if op in _SWITCHES:
            self._follow_switch(node, condition)
        elif op in _ALIASES and node.inputs[0][0].output_types[node.inputs[0][1]] <= REF_OFFSET:
            self._origins[node, 0] = self._origin(node.inputs[0])
        if condition:
            self._conditions[node, -1] = condition
            for slot in range(len(node.output_types)) if op not in _SWITCHES else ():
                self._conditions[node, slot] = condition

    def _follow_switch(self, node: Node, condition: Condition) -> None:
        source, slot = node.inputs[1]
        if source.output_types[slot] > REF_OFFSET:
            raise Irregular
        predicate = self._origin((source, slot))
        self._switches.setdefault(predicate, node)
        self._ranks.setdefault(predicate, len(self._ranks))
        count = len(node.output_types)
        for side in range(count):
            self._conditions[node, side] = _all_of([condition, frozenset({Side(predicate, side, count)})])

    def _origin(self, end: End) -> End:
        return end if end in self._fed else self._origins.get(end, end)

    def _merged(self, node: Node, inputs: Sequence[Condition]) -> Condition:
        """Return when a Merge lives, to which one value may come at most."""
        for (source, slot), kind in zip(node.inputs, node.input_types, strict=True):
            if is_back_edge(source, node) or (source.output_types[slot] > REF_OFFSET) != (kind > REF_OFFSET):
                raise Irregular
        possible = [condition for condition in inputs if condition is not NEVER]
        if len(possible) < 2:
            return possible[0] if possible else NEVER
        if len(possible) > _MOST_SIDES:
            raise Irregular
        for index, left in enumerate(possible):
            if not all(_all_of([left, right]) is NEVER for right in possible[:index]):
                raise Irregular
        common = frozenset.intersection(*possible)
        own = [condition - common for condition in possible]
        if all(len(sides) == 1 for sides in own):
            chosen = [side for sides in own for side in sides]
            if len({side.predicate for side in chosen}) == 1 and len(chosen) == chosen[0].num_sides:
                return common
        self._ranks[node, 0] = len(self._ranks)
        return common | {Side((node, 0), LIVE, 1)}

    # Order.

    def in_order(self, units: Sequence[Unit], late: Callable[[Unit], bool]) -> list[Unit]:
        """Return units with producers first and those of equal conditions together, as far as the graph lets them be.

        Parameters
        ----------
        late : callable
            ``late(unit)`` tells whether a unit goes behind all others that can come before it.
        """
        waiting, followers = dependencies(units)
        # two of each: for the units that are not late, and for those that are
        roots = (_Place(), _Place())
        places = list(roots)

        def add(index: int) -> None:
            condition = self.of_unit(units[index])
            path = () if condition is NEVER else self.path(condition)
            roots[late(units[index])].add(path, index)

        for index, count in enumerate(waiting):
            if count == 0:
                add(index)
        result: list[Unit] = []
        while True:
            kind = 0 if roots[0].is_busy() else 1
            if not roots[kind].is_busy():
                break
            place = places[kind] = places[kind].next()
            index = place.take()
            result.append(units[index])
            for follower in followers[index]:
                waiting[follower] -= 1
                if waiting[follower] == 0:
                    add(follower)
        if len(result) < len(units):
            raise ValueError("the nodes make a cycle")
        return result


class _Place:
    """A condition as a path from the sides that depend on nothing, with the units of it that can run."""

    __slots__ = ("busy", "children", "key", "parent", "ready")

    def __init__(self, parent: _Place | None = None, key: Side | None = None) -> None:
        self.parent = parent
        self.key = key
        self.ready: list[int] = []
        self.children: dict[Side, _Place] = {}
        self.busy: dict[Side, _Place] = {}  # those in which, or below which, something can run

    def is_busy(self) -> bool:
        """Tell whether something can run here or further in."""
        return bool(self.ready or self.busy)

    def add(self, path: Iterable[Side], index: int) -> None:
        """Note that a unit can run; only for the outermost place."""
        place = self
        for side in path:
            place = place.children.setdefault(side, _Place(place, side))
        heapq.heappush(place.ready, index)
        while place.parent is not None and place.key not in place.parent.busy:
            place.parent.busy[place.key] = place  # type: ignore[index]
            place = place.parent

    def next(self) -> _Place:
        """Return where to go on from here: here, further in, or further out, in this order."""
        place = self
        while not place.ready:
            if place.busy:
                place = next(iter(place.busy.values()))
            else:
                assert place.parent is not None
                place = place.parent
        return place

    def take(self) -> int:
        """Return the first of the units that can run here."""
        index = heapq.heappop(self.ready)
        place = self
        while place.parent is not None and not place.ready and not place.busy:
            del place.parent.busy[place.key]  # type: ignore[arg-type]
            place = place.parent
        return index


def _all_of(conditions: Iterable[Condition]) -> Condition:
    """Return the condition under which all of these hold; `NEVER` when they cannot."""
    found: set[Side] = set()
    for condition in conditions:
        found |= condition
    if not found:
        return _ALWAYS
    chosen: dict[End, int] = {}
    for side in found:
        if chosen.setdefault(side.predicate, side.choice) != side.choice or side in NEVER:
            return NEVER
    if len(found) > _MOST_SIDES:
        raise Irregular
    return frozenset(found)


Guard = tuple[int, int, int, str]
"""What a program checks before it goes into a side: the number of a predicate, which of how many, a name for errors."""


def guards(conditions: Conditions, condition: Condition, number: Callable[[Node, int], int],
           path: str) -> tuple[Guard, ...]:
    """Return a condition in the form that `Program` takes.

    Parameters
    ----------
    number : callable
        ``number(node, slot)`` returns the number of a predicate's value.
    path : str
        Names of the calls around the nodes.
    """
    found = []
    for side in conditions.path(condition):
        name = "" if side.choice == LIVE else path + conditions.switch(side.predicate).name
        found.append((number(*side.predicate), side.choice, side.num_sides, name))
    return tuple(found)
