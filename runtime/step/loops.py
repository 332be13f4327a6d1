"""Loops in frames that need no frames: recognised, and handed to the executors as one kernel each.

A loop as clients write it has one LoopCond; what enters goes round through Merge, Switch and NextIteration; what its
nodes do depends on nothing else. Then every node belongs to the condition, which runs in all turns, or to the body,
which runs while the condition holds, and both are straight lines, conditionals included. Loops that are not of this
form run in frames: those with a fetch or a feed inside, with kernels that wait, with values of one turn only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from runtime.dtypes import REF_OFFSET
from runtime.graph.graph import is_back_edge
from runtime.graph.node import Node
from runtime.step.branches import Conditions, Irregular
from runtime.step.fold import Hurry
from runtime.step.lives import ENTERS, EXITS, SWITCHES, Lives
from runtime.step.units import End, Loop, Region, Unit, in_order, sources

__all__ = ["find_loops"]

# Part of the session rather than of any frame.
_FREE = frozenset({"Const", "VarHandleOp", "VariableV2", "Variable"})
_OF_REFERENCES = frozenset({"RefEnter", "RefExit", "RefMerge", "RefSwitch", "RefNextIteration"})

# When a node of a loop runs: in every turn, the last one too, in which the condition is false; in the others; in that.
_ALWAYS, _BODY, _LAST = 0, 1, 2


class _Unfit(Exception):
    """The loop, or the whole graph, has to run in frames."""


def find_loops(nodes: Sequence[Node], fed: Collection[End], fetches: Iterable[End],
               waits: Callable[[Node], bool]) -> list[Unit] | None:
    """Return the nodes with the loops that need no frames in place of theirs, producers first; None if there is none.

    Parameters
    ----------
    nodes : sequence of Node
        Producers before consumers, back edges excepted.
    fed, fetches : collection of (Node, int)
    waits : callable
        ``waits(node)`` tells whether the node's kernel may complete later.
    """
    barred: set[int] = set()
    try:
        frames = _Frames(nodes, fed)
        frames.bar(fed, fetches)
        while True:
            units = frames.units(waits, barred)
            if units is None:
                return None
            if not any(isinstance(unit, Node) and (unit.op in SWITCHES or waits(unit)) for unit in units):
                return units
            lives = Lives(frames.inside, frames.outside, waits)
            for unit in units:
                lives.follow(unit)
                _check_time()
            unequal = lives.unequal()
            if not unequal:
                return units
            barred.update(frames.of_loop[id(loop)] for loop in unequal)
    except (_Unfit, KeyError, ValueError):
        return None


class _Frames:
    """The frames of a graph and what is in them; frame 0 is the outermost."""

    def __init__(self, nodes: Sequence[Node], fed: Collection[End]) -> None:
        self.nodes = nodes
        self.parents = [-1]
        self.members: list[list[Node]] = [[]]
        self.enters: list[list[Node]] = [[]]
        self.inside: dict[Node, int | None] = {}  # where a node runs; None: anywhere
        self.outside: dict[Node, int | None] = {}  # where its outputs go
        self.unfit: set[int] = set()
        self.of_loop: dict[int, int] = {}  # id of a Loop -> its frame
        ids: dict[tuple[int, object], int] = {}
        for node in nodes:
            _check_time()
            place = self._place(node, fed)
            self.inside[node] = self.outside[node] = place
            if place is None:
                continue
            self.members[place].append(node)
            op = node.op
            if op in _OF_REFERENCES:
                self.unfit.add(place)
            if op in ENTERS:
                key = (place, node.attr("frame_name"))
                child = ids.setdefault(key, len(self.parents))
                if child == len(self.parents):
                    self.parents.append(place)
                    self.members.append([])
                    self.enters.append([])
                self.enters[child].append(node)
                self.outside[node] = child
                if op in _OF_REFERENCES:
                    self.unfit.add(child)
            elif op in EXITS:
                if place == 0:
                    raise _Unfit
                self.outside[node] = self.parents[place]

    def _place(self, node: Node, fed: Collection[End]) -> int | None:
        places: set[int] = set()
        for source, slot in node.inputs:
            if (source, slot) in fed:
                places.add(0)
            elif not is_back_edge(source, node):
                place = self.outside[source]
                if place is not None:
                    places.add(place)
        for source in node.control_inputs:
            place = self.outside.get(source)  # None: a fed placeholder
            if place is not None:
                places.add(place)
        if len(places) > 1:
            raise _Unfit
        if places:
            return places.pop()
        return None if node.op in _FREE else 0

    def bar(self, fed: Iterable[End], fetches: Iterable[End]) -> None:
        """Keep in frames what is fed or fetched inside of a loop; what an Exit gives lies outside."""
        for node, _ in (*fed, *fetches):
            place = self.outside.get(node)
            if place:
                self.unfit.add(place)

    def units(self, waits: Callable[[Node], bool], barred: Collection[int]) -> list[Unit] | None:
        """Return what stands for the nodes, or None when no loop is without frames."""
        loops: dict[int, Loop] = {}
        self.of_loop = {}
        for frame in range(len(self.parents) - 1, 0, -1):
            _check_time()
            children = [child for child, parent in enumerate(self.parents) if parent == frame]
            if frame in self.unfit or frame in barred or any(child not in loops for child in children):
                continue
            try:
                loop = _Recognition(self, frame, self._with_loops(frame, children, loops), waits).loop()
            except (_Unfit, ValueError):
                continue
            loops[frame] = loop
            self.of_loop[id(loop)] = frame
        if not loops:
            return None
        outermost = [frame for frame in loops if self.parents[frame] not in loops]
        hidden = {node for frame in outermost for node in self.enters[frame]}
        result: list[Unit] = [
            node for node in self.nodes if self.inside[node] not in loops and node not in hidden
        ]
        result.extend(loops[frame] for frame in reversed(outermost))
        return in_order(result)

    def _with_loops(self, frame: int, children: Sequence[int], loops: dict[int, Loop]) -> list[Unit]:
        hidden = {node for child in children for node in self.enters[child]}
        return [*(node for node in self.members[frame] if node not in hidden), *(loops[child] for child in children)]


class _Recognition:
    """One frame, looked at: every node of it belongs to the condition or to the body, or the frame is unfit."""

    def __init__(self, frames: _Frames, frame: int, units: Sequence[Unit], waits: Callable[[Node], bool]) -> None:
        self._frames = frames
        self._frame = frame
        self._enters = set(frames.enters[frame])
        self._waits = waits
        self._when: dict[Node, int] = {}
        self._triggers: set[Node] = set()
        self._conditions = [unit for unit in units if isinstance(unit, Node) and unit.op == "LoopCond"]
        _require(len(self._conditions) == 1)
        self._heads: list[Node] = []
        self._next: dict[Node, Node] = {}  # Merge -> NextIteration
        self._first: dict[Node, Node] = {}  # Merge -> Enter
        self._exits: list[Node] = []
        self._switches: dict[Node, None] = {}
        self._always: list[Unit] = []
        self._body: list[Unit] = []
        for unit in in_order(units):
            self._look_at(unit)
        _require(bool(self._switches) and bool(self._heads) and all(node in self._when for node in self._next.values()))
        self._constants = [node for node in frames.enters[frame] if node.attr("is_constant")]

    def _look_at(self, unit: Unit) -> None:
        if isinstance(unit, Loop):
            when = self._joint(unit)
            self._when.update(dict.fromkeys(unit.exits, when))
            (self._body if when else self._always).append(unit)
            return
        op = unit.op
        _require(not self._waits(unit))
        if op == "Merge" and any(is_back_edge(source, unit) for source, _ in unit.inputs):
            self._look_at_head(unit)
        elif op in SWITCHES and unit.inputs[1][0] is self._conditions[0]:
            _require(op == "Switch" and self._joint(unit) == _ALWAYS)
            _require(not _takes_references(unit))
            self._when[unit] = _ALWAYS
            self._switches[unit] = None
        elif op == "Exit":
            source, slot = unit.inputs[0]
            _require(source in self._switches and slot == 0 and not unit.control_inputs)
            self._exits.append(unit)
        elif op == "NextIteration":
            _require(self._joint(unit) == _BODY and not _takes_references(unit))
            self._when[unit] = _BODY
        else:
            when = self._when[unit] = self._joint(unit)
            if op == "ControlTrigger":
                # live in the last turn, too: whoever waits for it must not be, or it would run once more
                self._triggers.add(unit)
            _require(op != "LoopCond" or when == _ALWAYS)
            if op == "Merge":  # it lives with any of them
                _require(all(self._when_made(source, slot) == when for source, slot in unit.inputs))
            (self._body if when else self._always).append(unit)

    def _look_at_head(self, node: Node) -> None:
        _require(len(node.inputs) == 2 and not node.control_inputs and not _takes_references(node))
        for source, _ in node.inputs:
            if is_back_edge(source, node):
                self._next[node] = source
            elif source in self._enters and not source.attr("is_constant"):
                self._first[node] = source
        _require(node in self._next and node in self._first)
        self._heads.append(node)
        self._when[node] = _ALWAYS

    def _joint(self, unit: Unit) -> int:
        """Return when a unit runs that takes, and waits for, all of these."""
        found = _ALWAYS
        awaited = _ALWAYS  # by way of triggers
        for source, slot in unit.inputs:
            found = _both(found, self._when_made(source, slot))
        for source in unit.controls if isinstance(unit, Loop) else unit.control_inputs:
            if source in self._triggers:
                awaited = max(awaited, self._when[source])
            elif source in self._frames.inside:  # else a fed placeholder
                found = _both(found, self._when_made(source, -1))
        _require(found != _LAST and awaited <= found)
        return found

    def _when_made(self, source: Node, slot: int) -> int:
        if self._frames.inside[source] is None:
            return _ALWAYS
        if source in self._enters:
            _require(bool(source.attr("is_constant")))
            return _ALWAYS
        if source in self._next:
            _require(slot <= 0)
        elif source in self._switches and slot >= 0:
            return _BODY if slot else _LAST
        when = self._when.get(source)
        _require(when is not None)
        assert when is not None
        return when

    def loop(self) -> Loop:
        """Return the loop in its parts."""
        heads, constants = self._heads, self._constants
        given: dict[End, int] = {(node, 0): index for index, node in enumerate([*heads, *constants])}
        verdict = self._conditions[0].inputs[0]
        condition = Region(list(self._always), list(given), [verdict])
        body = Region(list(self._body), [], [self._next[node].inputs[0] for node in heads])
        body_args: list[int] = []

        def origin(end: End) -> int:
            """Return where a value of the condition is found."""
            if end not in given:
                given[end] = len(given)
                _require(end[0].output_types[end[1]] <= REF_OFFSET)
                condition.fetches.append(end)
            return given[end]

        made = {node for unit in self._body for node in (unit.exits if isinstance(unit, Loop) else [unit])}
        known: set[End] = set()
        for end in [*(end for unit in self._body for end in unit.inputs), *body.fetches]:
            if end in known or end[0] in made or self._frames.inside[end[0]] is None:
                continue
            known.add(end)
            body.feeds.append(end)
            body_args.append(origin(end[0].inputs[0] if end[0] in self._switches else end))
        exit_values = [origin(exit_.inputs[0][0].inputs[0]) for exit_ in self._exits]
        self._bring_free(condition)
        self._bring_free(body)
        self._tell_conditions(condition, body)
        entering = [*(self._first[node] for node in heads), *constants]
        controls = dict.fromkeys(
            source for enter in self._frames.enters[self._frame] for source in enter.control_inputs
        )
        switch = next(iter(self._switches))
        return Loop(switch, [enter.inputs[0] for enter in entering], list(controls), len(heads), condition, body,
                    body_args, self._exits, exit_values)

    def _bring_free(self, region: Region) -> None:
        """Put what belongs to no frame into a region that uses it."""
        inside = self._frames.inside
        used = [*(source for unit in region.units for source in sources(unit)), *(node for node, _ in region.fetches)]
        region.units[:0] = list(dict.fromkeys(node for node in used if node in inside and inside[node] is None))

    def _tell_conditions(self, condition: Region, body: Region) -> None:
        """Note what depends on conditionals within the loop; the loop must not, nor the body on the condition's."""
        for region in (condition, body):
            try:
                found = region.conditions = Conditions.find(region.units, set(region.feeds))
            except Irregular:
                raise _Unfit from None
            if found is None:
                continue
            _require(not any(found.of_end(node, slot) for node, slot in region.fetches))
            for node in (*self._next.values(), *self._switches, *self._conditions):
                _require(not any(found.of(source) for source in node.control_inputs))
        if condition.conditions is not None:
            awaited = (unit.controls if isinstance(unit, Loop) else unit.control_inputs for unit in body.units)
            _require(not any(condition.conditions.of(source) for waited in awaited for source in waited))


def _check_time() -> None:
    hurry = Hurry.current()
    if hurry is not None:
        hurry.check()


def _require(condition: bool) -> None:
    if not condition:
        raise _Unfit


def _both(left: int, right: int) -> int:
    _require(not left or not right or left == right)
    return left or right


def _takes_references(node: Node) -> bool:
    return any(source.output_types[slot] > REF_OFFSET for source, slot in node.inputs)
