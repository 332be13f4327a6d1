"""What the life and the coming of values depend on, in a graph with conditionals, loops and kernels that wait.

In frames, one variable of a loop goes round without those that come later, or never. A loop that runs as one kernel
waits for all of them, so it has to be sure that they live and come together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runtime.graph.graph import is_back_edge
from runtime.graph.node import Node
from runtime.step.units import End, Loop, Unit, sources

__all__ = ["ENTERS", "EXITS", "SWITCHES", "Lives"]

ENTERS = frozenset({"Enter", "RefEnter"})
EXITS = frozenset({"Exit", "RefExit"})
SWITCHES = frozenset({"Switch", "RefSwitch", "_SwitchN"})
_TRANSFERS = frozenset({"_Send", "_Recv", "_HostSend", "_HostRecv"})

_Tokens = frozenset[object]


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a conditional."""

    predicate: End
    choice: int


class Lives:
    """What the life and the coming of values depend on.

    It is told by tokens: sides of conditionals, Merges that do not close one, turns of loops, kernels that wait. All
    variables of a loop in frames are taken to live equally, until the end shows whether they do.

    Parameters
    ----------
    inside, outside : mapping of Node to (int or None)
        The frames that a node runs in, and that its outputs go to.
    waits : callable
        ``waits(node)`` tells whether the node's kernel may complete later.
    """

    def __init__(self, inside: Mapping[Node, int | None], outside: Mapping[Node, int | None],
                 waits: Callable[[Node], bool]) -> None:
        self._inside = inside
        self._outside = outside
        self._waits = waits
        self._tokens: dict[End, _Tokens] = {}  # by output; -1 for the node itself
        self._before: dict[Node, frozenset[int]] = {}  # loops that a node follows
        self._awaited: set[int] = set()  # loops that some waiting kernel follows
        self._entered: list[tuple[Loop, list[_Tokens]]] = []
        self._first: dict[int, set[_Tokens]] = {}  # frame -> tokens of what enters
        self._next: dict[int, set[_Tokens]] = {}  # frame -> tokens of what goes round
        self._regular = True

    def follow(self, unit: Unit) -> None:
        """Note a unit's tokens; those of its sources are known."""
        before: frozenset[int] = frozenset().union(*(self._before.get(node, ()) for node in sources(unit)))
        inputs = [self._of(source, slot) for source, slot in unit.inputs]
        if isinstance(unit, Loop):
            inputs.extend(self._of(source, -1) for source in unit.controls)
            self._entered.append((unit, inputs))
            for node in unit.exits:
                self._tokens[node, 0] = self._tokens[node, -1] = frozenset().union(*inputs)
                self._before[node] = before | {id(unit)}
            return
        if before:
            self._before[unit] = before
        frame = self._inside[unit] or 0
        inputs.extend(self._of(source, -1) for source in unit.control_inputs)
        tokens: _Tokens = frozenset().union(*inputs)
        if self._waits(unit):
            self._regular = self._regular and frame == 0
            self._awaited |= before
            tokens |= {unit}
            if unit.op in _TRANSFERS:
                tokens |= {("transfer", unit)}
        if unit.op == "Merge" or unit.op == "RefMerge":
            if any(is_back_edge(source, unit) for source, _ in unit.inputs):
                tokens = frozenset([("turn", frame)]).union(*self._first.get(frame, ()))
            else:
                tokens = _merged(inputs, unit)
        elif unit.op in ENTERS:
            entered = self._outside[unit] or 0
            if not unit.attr("is_constant"):
                self._first.setdefault(entered, set()).add(tokens)
        elif unit.op in EXITS:  # lives when the loop was entered
            tokens = next(iter(self._first.get(frame, ())), tokens)
        elif unit.op == "NextIteration":
            self._next.setdefault(frame, set()).add(tokens)
        self._tokens[unit, -1] = tokens
        for slot in range(len(unit.output_types)):
            self._tokens[unit, slot] = tokens | {_Side(unit.inputs[1], slot)} if unit.op in SWITCHES else tokens

    def _of(self, source: Node, slot: int) -> _Tokens:
        return self._tokens.get((source, slot), frozenset())

    def unequal(self) -> list[Loop]:
        """Return the loops that need frames."""
        regular = self._regular and all(
            len(tokens) == 1 for frame in (self._next, self._first) for tokens in frame.values()
        )
        return [
            loop for loop, inputs in self._entered
            if not regular or not _live_together(loop, inputs)
            or (id(loop) in self._awaited and len({_waiting(tokens) for tokens in inputs}) > 1)
        ]


def _live_together(loop: Loop, inputs: Sequence[_Tokens]) -> bool:
    """Tell whether a loop's variables live equally, and the rest whenever they do."""
    lives = [_deadness(tokens) for tokens in inputs]
    first = lives[0]
    return all(tokens == first if index < loop.num_variables else tokens <= first for index, tokens in enumerate(lives))


def _deadness(tokens: _Tokens) -> _Tokens:
    return frozenset(token for token in tokens if not isinstance(token, Node))


def _waiting(tokens: _Tokens) -> _Tokens:
    return frozenset(token for token in tokens if isinstance(token, Node))


def _merged(sides: Sequence[_Tokens], node: Node) -> _Tokens:
    """Return what a Merge's life depends on: nothing of the conditional that it closes."""
    if len(sides) == 2:
        common = sides[0] & sides[1]
        own = [side - common for side in sides]
        if all(len(side) == 1 for side in own):
            (left,), (right,) = own
            if isinstance(left, _Side) and isinstance(right, _Side) and left.predicate == right.predicate:
                return common
    return frozenset().union(*sides, [("merge", node)])
