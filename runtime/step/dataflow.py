"""Steps with control flow, or with kernels that wait, as nodes, edges and frames for the dataflow executor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext import dataflow_plan as kinds
from runtime._ext.errors import Internal, InvalidArgument
from runtime._ext.executor import BoundKernel, Dataflow
from runtime.graph.graph import is_back_edge
from runtime.step.late_reads import late_reads
from runtime.step.lowering import PLUMBING, Feed, Lowering, derefs, native, numpy_types
from runtime.step.units import Loop, Unit

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Kernel

__all__ = ["DataflowLowering"]

_KINDS = {
    "Switch": kinds.SWITCH,
    "RefSwitch": kinds.SWITCH,
    "_SwitchN": kinds.SWITCH,
    "Merge": kinds.MERGE,
    "RefMerge": kinds.MERGE,
    "Enter": kinds.ENTER,
    "RefEnter": kinds.ENTER,
    "Exit": kinds.EXIT,
    "RefExit": kinds.EXIT,
    "NextIteration": kinds.NEXT_ITERATION,
    "RefNextIteration": kinds.NEXT_ITERATION,
    "ControlTrigger": kinds.TRIGGER,
    "NoOp": kinds.PASS,
}

_MOST_PARALLEL = (1 << 31) - 1
"""Turns of a loop at once: a C integer."""
_LOOP_ENDS = frozenset({kinds.NEXT_ITERATION, kinds.EXIT, kinds.ENTER})

_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2"})


def _kind_of(kernel: Kernel) -> int:
    if kernel.transfer:
        return kinds.TRANSFER
    return kinds.ASYNC if kernel.asynchronous else kinds.KERNEL


class DataflowLowering(Lowering):
    """Makes a `Dataflow`.

    Constants that wait for nothing are put into their consumers' cells. A constant with control inputs (those in loops
    and conditionals have one) stays a node, because it is dead when they are; so does what is folded from such.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._kinds: list[int] = []
        self._bound: list[BoundKernel | None] = []
        self._inputs: list[Sequence[int]] = []
        self._controls: list[Sequence[int]] = []
        self._first: list[int] = []
        self._frames: list[int] = []
        self._out_frames: list[int] = []  # per node, where its outputs go
        self._parents = [-1]
        self._frame_names = [b""]
        self._frame_ids: dict[tuple[int, Any], int] = {}
        self._enters: list[tuple[int, int, bool, int]] = []
        self._feed_names: list[str] = []
        self._owners: list[int] = []  # value -> node; -1 while the node, a NextIteration, is still to come
        self._index: dict[Node, int] = {}
        self._gates: dict[Node, list[int]] = {}  # constant nodes that have not been made nodes: what they wait for
        self._reserved: dict[Node, int] = {}  # NextIteration met at its Merge -> number of its value

    @property
    def has_asynchronous(self) -> bool:
        """Tell whether some kernel may complete later."""
        return kinds.ASYNC in self._kinds or kinds.TRANSFER in self._kinds

    def flow(
        self,
        units: Sequence[Unit],
        feeds: Sequence[Feed],
        feed_types: Sequence[int],
        fetches: Sequence[Feed],
        fetch_names: Sequence[str | None],
        adapt_feed: Callable[[int, Any], Any] | None,
        left_out: Collection[Node] = (),
    ) -> Dataflow:
        """Return the dataflow of these nodes; parameters as for `StraightLowering.program`.

        What is left out is left out of the loops alone that run without frames.

        Raises
        ------
        InvalidArgument
            If a node's inputs come from different loops.
        """
        self.add_feeds(feeds)
        self.late = late_reads(units, self.values)
        for index, (node, slot) in enumerate(feeds):
            self._emit(kinds.FEED, None, (), (), (index,), 0)
            self._feed_names.append(node.name)
            if slot == 0 and node.op in _PLACEHOLDERS:
                self._index[node] = index  # who waits for the placeholder waits for its feed
        control_sources = {
            source for unit in units for source in (unit.controls if isinstance(unit, Loop) else unit.control_inputs)
        }
        for unit in units:
            if isinstance(unit, Loop):
                self._lower_loop(unit, left_out)
            else:
                self._lower(unit, unit in control_sources)
        if self._reserved:
            raise Internal(f"the loop input {next(iter(self._reserved)).name} is not among the nodes of the step")
        wanted = [self._number(node, slot) for node, slot in fetches]
        return Dataflow(
            self._kinds,
            self._bound,
            self._inputs,
            self._controls,
            self._first,
            self.num_values,
            self._frames,
            self._parents,
            self._enters,
            self.constants,
            feed_types,
            [self.use(number) for number in wanted],
            fetch_names,
            adapt_feed,
            self.path,
            self._frame_names,
        )

    def _lower(self, node: Node, is_control_source: bool) -> None:
        op = node.op
        kind = _KINDS.get(op, kinds.KERNEL)
        if kind == kinds.MERGE:
            numbers = [self._merge_input(node, source, slot) for source, slot in node.inputs]
        else:
            numbers = [self._value(source, slot) for source, slot in self.sources(node)]
        if kind == kinds.KERNEL:
            if op in PLUMBING:
                kind = kinds.PASS
                if (
                    not node.control_inputs
                    and not is_control_source
                    and derefs(node, self.sources(node)) is None
                    and (not self._has_gates(node))
                ):
                    self.define(node, numbers)
                    return
            kernel = None if op == "Const" else self.kernel(node)
            known, bound = self.known_outputs(node, kernel, numbers)
            if known is not None:
                self.define(node, known)
                gates = self._gates_of(node)
                if gates:
                    self._gates[node] = gates
                return
            if kind == kinds.KERNEL:
                assert kernel is not None
                kind = _kind_of(kernel)
                if kind != kinds.KERNEL:
                    bound = bound or self.bind(node, kernel, numbers)
        elif kind == kinds.PASS and not node.control_inputs:  # a NoOp that waits for nothing
            self.define(node, ())
            return
        else:
            bound = None
        controls = self._control_edges(node.control_inputs)
        known_numbers = numbers
        numbers = [
            self._made(source, slot, number) for (source, slot), number in zip(self.sources(node), numbers, strict=True)
        ]
        if kind == kinds.KERNEL:
            repeated = self.find_repeated(node, numbers)
            if repeated is not None:
                self._index[node] = self._owners[repeated[0]]
                self.define(node, repeated)
                return
            assert kernel is not None
            bound = bound or self.bind(node, kernel, known_numbers)
        if bound is None:
            bound = BoundKernel(
                node,
                self.path + node.name,
                native,
                None,
                len(numbers),
                numpy_types(node.output_types),
                derefs(node, self.sources(node)),
                False,
            )
        frame = self._frame_of(node, numbers, controls)
        made: Sequence[int] = (
            (self._reserved.pop(node),) if node in self._reserved else self.new_values(len(node.output_types))
        )
        index = self._emit(kind, bound, [self.use(number) for number in numbers], controls, made, frame)
        self._index[node] = index
        if kind in _LOOP_ENDS:
            self._note_loop_end(node, kind, index, frame)
        self.define(node, made)

    def _lower_loop(self, loop: Loop, left_out: Collection[Node]) -> None:
        bound = self.bind_loop(loop, left_out)
        controls = self._control_edges(loop.controls)
        numbers = [self._number(source, slot) for source, slot in loop.inputs]
        frame = self._frame_of(loop.switch, numbers, controls)
        made = self.new_values(len(loop.exits))
        index = self._emit(kinds.KERNEL, bound, [self.use(number) for number in numbers], controls, made, frame)
        for node, number in zip(loop.exits, made, strict=True):
            self._index[node] = index
            self.define(node, (number,))

    def _emit(
        self,
        kind: int,
        bound: BoundKernel | None,
        inputs: Sequence[int],
        controls: Sequence[int],
        made: Sequence[int],
        frame: int,
    ) -> int:
        """Add a node and return its number."""
        index = len(self._kinds)
        self._kinds.append(kind)
        self._bound.append(bound)
        self._inputs.append(inputs)
        self._controls.append(controls)
        self._first.append(made[0] if made else 0)
        self._frames.append(frame)
        self._out_frames.append(frame)
        self._owners.extend([-1] * (self.num_values - len(self._owners)))
        for number in made:
            self._owners[number] = index
        return index

    # Values, and constants that wait for something.

    def _value(self, source: Node, slot: int) -> int:
        try:
            return self.values[source][slot]  # type: ignore[return-value]
        except KeyError:
            raise Internal(f"node {source.name} comes after its consumer") from None

    def _merge_input(self, node: Node, source: Node, slot: int) -> int:
        """Return an input of a Merge: by then nothing may be known of a loop's NextIteration but that it will come."""
        if source not in self.values and is_back_edge(source, node):
            if source not in self._reserved:
                self._reserved[source] = self.new_values(1)[0]
                self._owners.append(-1)
            return self._reserved[source]
        number = self._value(source, slot)
        if number < 0 and source not in self._gates:  # a Merge takes nothing from its cells, so a node must bring it
            self._gates[source] = []
        return self._made(source, slot, number)

    def _made(self, source: Node, slot: int, number: int) -> int:
        """Return a value's number; a constant that waits for something becomes a node first."""
        if number < 0 and source in self._gates:
            self._make_constant(source)
            return self._value(source, slot)
        return number

    def _make_constant(self, node: Node) -> int:
        """Make a node of a constant, live when what it waits for has run."""
        gates = self._gates.pop(node)
        values = self.values[node]
        # what is fed of the node is not made by it: those numbers stay
        numbers = [number for number in values if number is not None and number < 0]
        frame = self._common_frame(node, [(self._out_frames[gate], gate) for gate in gates])
        bound = BoundKernel(node, self.path + node.name, native, None, len(numbers), [-1] * len(numbers), None, False)
        made = iter(self.new_values(len(numbers)))
        index = self._emit(
            kinds.PASS,
            bound,
            [self.use(number) for number in numbers],
            gates,
            range(self.num_values - len(numbers), self.num_values),
            frame,
        )
        self._index[node] = index
        self.values[node] = [next(made) if number is not None and number < 0 else number for number in values]
        return index

    def _has_gates(self, node: Node) -> bool:
        return any(source in self._gates for source, _ in self.sources(node))

    def _gates_of(self, node: Node) -> list[int]:
        """Return what a constant node waits for: its control inputs and what its constant inputs wait for."""
        gates = dict.fromkeys(self._control_edges(node.control_inputs))
        for source, _ in self.sources(node):
            if source in self._gates:
                gates.update(dict.fromkeys(self._gates[source]))
        return list(gates)

    def _control_edges(self, sources: Iterable[Node]) -> list[int]:
        edges: dict[int, None] = {}
        for source in sources:
            if source in self._gates and source not in self._index:
                edges[self._make_constant(source)] = None
            elif source in self._index:
                edges[self._index[source]] = None
            # else it is constant and waits for nothing, or a fed placeholder: there from the start
        return list(edges)

    def _number(self, node: Node, slot: int) -> int:
        return self._made(node, slot, self._value(node, slot))

    # Frames.

    def _frame_of(self, node: Node, numbers: Iterable[int], controls: Iterable[int]) -> int:
        sources = [self._owners[number] for number in numbers if number >= 0]
        return self._common_frame(
            node, [(self._out_frames[index], index) for index in (*sources, *controls) if index >= 0]
        )

    def _common_frame(self, node: Node, origins: Sequence[tuple[int, int]]) -> int:
        if not origins:
            return 0
        frame, first = origins[0]
        for other, index in origins:
            if other != frame:
                raise InvalidArgument(
                    f"{{{{node {self.path}{node.name}}}}} has inputs from different frames. The input "
                    f"{{{{node {self._mention(first)}}}}} is in frame '{self._frame_text(frame)}'. The input "
                    f"{{{{node {self._mention(index)}}}}} is in frame '{self._frame_text(other)}'."
                )
        return frame

    def _frame_text(self, frame: int) -> str:
        return self._frame_names[frame].decode("utf-8", "replace")

    def _mention(self, index: int) -> str:
        bound = self._bound[index]
        return self._feed_names[index] if bound is None else bound.name

    def _note_loop_end(self, node: Node, kind: int, index: int, frame: int) -> None:
        """Note where the outputs of Enter and Exit go."""
        if kind == kinds.ENTER:
            name = node.attr("frame_name")
            child = self._frame_ids.get((frame, name))
            if child is None:
                child = self._frame_ids[(frame, name)] = len(self._parents)
                self._parents.append(frame)
                self._frame_names.append(name)
            parallel = min(int(node.attr("parallel_iterations")), _MOST_PARALLEL)
            self._enters.append((index, child, bool(node.attr("is_constant")), parallel))
            self._out_frames[index] = child
        elif frame == 0 and kind == kinds.NEXT_ITERATION:
            raise InvalidArgument(
                f"{{{{node {self.path}{node.name}}}}} is a NextIteration outside of any loop: nothing that it takes "
                "comes from an Enter"
            )
        elif kind == kinds.EXIT:
            if frame == 0:
                raise InvalidArgument("Invalid Exit op: Cannot find a corresponding Enter op.")
            self._out_frames[index] = self._parents[frame]
