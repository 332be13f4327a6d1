"""Steps without loops in frames and without kernels that wait: one instruction after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.branches import MERGE, PASS
from runtime._ext.errors import Internal
from runtime._ext.executor import BoundKernel, Program
from runtime.step.branches import NEVER, Condition, Conditions, Guard, guards
from runtime.step.fusion import fuse
from runtime.step.late_reads import late_reads
from runtime.step.lowering import PLUMBING, Feed, Lowering, derefs, native, numpy_types
from runtime.step.ordering import writers_last
from runtime.step.sums import Instructions
from runtime.step.units import Loop, Unit

if TYPE_CHECKING:
    from runtime.graph.node import Node

__all__ = ["StraightLowering"]

_ALWAYS: Condition = frozenset()
_INT32 = 3
_MERGES = frozenset({"Merge", "RefMerge"})
_SWITCHES = frozenset({"Switch", "RefSwitch", "_SwitchN"})


class StraightLowering(Lowering):
    """Makes a `Program`: every node once, writers of variables as late as the graph lets them.

    Where conditions say that a node may be dead, its instruction is guarded. A Switch needs no instruction then: its
    outputs are its input, for those who live on the right side. What must be known to be dead by itself, because a
    Merge takes it or because it is fetched, gets a value of its own that is missing when it is dead.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._conditions: Conditions | None = None
        self._bounds: list[BoundKernel] = []
        self._inputs: list[Sequence[int]] = []
        self._outputs: list[Sequence[int]] = []
        self._guards: dict[Condition, tuple[Guard, ...]] = {}
        self._guarded: dict[int, tuple[Guard, ...]] = {}  # by the first value made, else by id of the kernel
        self._lives: dict[int, Condition] = {}  # when there is a value; always for those that are not here
        self._own: dict[tuple[int, Condition], int] = {}  # values that are missing when dead

    def program(
        self,
        units: Sequence[Unit],
        feeds: Sequence[Feed],
        feed_types: Sequence[int],
        fetches: Sequence[Feed],
        fetch_names: Sequence[str | None],
        adapt_feed: Callable[[int, Any], Any] | None,
        left_out: Collection[Node] = (),
        conditions: Conditions | None = None,
    ) -> Program:
        """Return the program of these nodes.

        Parameters
        ----------
        units : sequence of (Node or Loop)
            Producers before consumers.
        feed_types : sequence of int
            numpy type number per feed.
        fetch_names : sequence of (str or None)
            The name for errors of fetches that are references.
        left_out : collection of Node
            They order others, but do not run.
        conditions : Conditions, optional
            Of these units and feeds; when there are conditionals.
        """
        self.add_feeds(feeds)
        self.late = late_reads(units, self.values)
        self._conditions = conditions
        for unit in writers_last(units, conditions):
            if isinstance(unit, Loop):
                self._lower_loop(unit, left_out)
            elif unit not in left_out:
                self._lower(unit)
        wanted = [
            self.use(self._unread() if node in left_out else self._fetched(node, slot)) for node, slot in fetches
        ]

        def program(bounds: Sequence[BoundKernel], inputs: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]],
                    num_values: int) -> Program:
            return Program(bounds, inputs, outputs, num_values, self.constants, feed_types, wanted, fetch_names,
                           adapt_feed, self.path, self._guards_of_line(bounds, outputs))

        whole: Instructions = (self._bounds, list(self._inputs), list(self._outputs), self.num_values)
        kept = [*wanted, *(guard[0] for found in self._guards.values() for guard in found)]
        conditioned = self._guards_of_line(self._bounds, self._outputs)
        fused = fuse(whole, kept, self.path, conditioned) if self._on_host else None
        made = program(*(whole if fused is None else fused))
        if self.has_repeated:
            every = type(self)(self.functions, self.state, self.path, self.chain, True)
            made.traced = partial(every.program, units, feeds, feed_types, fetches, fetch_names, adapt_feed, left_out,
                                  conditions)
        elif fused is not None:
            made.traced = partial(program, *whole)
        return made

    def _lower(self, node: Node) -> None:
        op = node.op
        conditions = self._conditions
        condition = _ALWAYS
        if conditions is not None:
            condition = conditions.of(node)
            if condition is NEVER:
                self.define(node, [self._dead()] * len(node.output_types))
                return
            if op in _MERGES:
                self._lower_merge(node, condition)
                return
        values = self.values
        try:
            numbers: list[int] = [values[source][slot] for source, slot in self.sources(node)]  # type: ignore[misc]
        except KeyError as error:
            raise Internal(f"node {error.args[0].name} comes after its consumer {node.name}") from None
        if op == "NoOp" or op == "ControlTrigger":
            return
        if conditions is not None and op in _SWITCHES:
            number = numbers[0]
            if derefs(node, node.inputs) is not None:
                number = self._passed(node, number, condition, b"\x01")
            self.define(node, [number] * len(node.output_types))
            return
        if op in PLUMBING and derefs(node, self.sources(node)) is None:
            self.define(node, numbers)
            return
        kernel = None if op == "Const" else self.kernel(node)
        known, bound = self.known_outputs(node, kernel, numbers)
        if known is not None:
            self.define(node, known)
            return
        repeated = self.find_repeated(node, numbers)
        if repeated is not None and self._lives.get(repeated[0], _ALWAYS) == condition:
            self.define(node, repeated)
            return
        assert kernel is not None
        made = self._emit(bound or self.bind(node, kernel, numbers), numbers, len(node.output_types), condition)
        self.define(node, made)

    def _lower_loop(self, loop: Loop, left_out: Collection[Node]) -> None:
        condition = _ALWAYS if self._conditions is None else self._conditions.of_unit(loop)
        if condition is NEVER:
            made: Sequence[int] = [self._dead()] * len(loop.exits)
        else:
            numbers: list[int] = [self.values[source][slot] for source, slot in loop.inputs]  # type: ignore[misc]
            made = self._emit(self.bind_loop(loop, left_out), numbers, len(loop.exits), condition)
        for exit_, number in zip(loop.exits, made, strict=True):
            self.define(exit_, (number,))

    def _emit(self, bound: BoundKernel, numbers: Sequence[int], count: int, condition: Condition) -> range:
        """Add an instruction, and return the numbers of what it makes."""
        self._bounds.append(bound)
        self._inputs.append([self.use(number) for number in numbers] if numbers and min(numbers) < 0 else numbers)
        made = self.new_values(count)
        self._outputs.append(made)
        if condition:
            self._lives.update(dict.fromkeys(made, condition))
            self._guarded[made[0] if made else -1 - id(bound)] = self._guards_of(condition)
        return made

    # Conditionals.

    def _guards_of_line(
        self, bounds: Sequence[BoundKernel], outputs: Sequence[Sequence[int]]
    ) -> list[tuple[Guard, ...]] | None:
        """Return for each kernel under which conditions it runs; None in a line without conditionals."""
        if not self._guarded:
            return None
        return [
            self._guarded.get(made[0] if made else -1 - id(bound), ())
            for bound, made in zip(bounds, outputs, strict=True)
        ]

    def _guards_of(self, condition: Condition) -> tuple[Guard, ...]:
        found = self._guards.get(condition)
        if found is None:
            assert self._conditions is not None
            found = self._guards[condition] = guards(self._conditions, condition, self._predicate, self.path)
        return found

    def _predicate(self, node: Node, slot: int) -> int:
        return self.use(self.values[node][slot])  # type: ignore[arg-type]

    def _lower_merge(self, node: Node, condition: Condition) -> None:
        assert self._conditions is not None
        numbers = [self._missing_when_dead(source, slot) for source, slot in node.inputs]
        names = len(numbers), numpy_types((*node.output_types[:1], _INT32))
        bound = BoundKernel(node, self.path + node.name, native, MERGE, *names, None, False)
        own = (node, 0)
        made = self._emit(bound, numbers, 2, frozenset(side for side in condition if side.predicate != own))
        self._lives.update(dict.fromkeys(made, condition))
        self.define(node, made)

    def _fetched(self, node: Node, slot: int) -> int:
        number: int = self.values[node][slot]  # type: ignore[assignment]
        return number if self._conditions is None else self._missing_when_dead(node, slot)

    def _missing_when_dead(self, node: Node, slot: int) -> int:
        """Return a value that is there exactly when an output lives."""
        conditions = self._conditions
        assert conditions is not None
        number: int = self.values[node][slot]  # type: ignore[assignment]
        condition = conditions.of_end(node, slot)
        if condition is NEVER:
            return self._dead()
        if self._lives.get(number, _ALWAYS) == condition:
            return number
        return self._passed(node, number, condition, None, slot)

    def _passed(self, node: Node, number: int, condition: Condition, marks: bytes | None, slot: int = 0) -> int:
        """Return a value of its own that is another one, or what a reference is to, and lives under a condition."""
        key = (number, condition)
        if marks is None and key in self._own:
            return self._own[key]
        types = [-1] if marks is not None else numpy_types((node.output_types[slot],))
        bound = BoundKernel(node, self.path + node.name, native, PASS, 1, types, marks, False)
        made: int = self._emit(bound, [number], 1, condition)[0]
        if marks is None:
            self._own[key] = made
        return made

    def _unread(self) -> int:
        """Return what stands for a value of a loop's condition that only nodes take which are left out."""
        return self.add_constants([np.zeros((), np.int32)])[0]

    def _dead(self) -> int:
        """Return a value that is never there."""
        key = (0, NEVER)
        if key not in self._own:
            bound = BoundKernel(None, "", native, MERGE, 0, [-1], None, False)
            self._own[key] = self._emit(bound, (), 1, _ALWAYS)[0]
        return self._own[key]
