"""From the nodes of a step to what an executor takes: values with numbers, constants apart, kernels bound.

`Lowering` has what the straight line and the dataflow form have in common; the two subclasses (`straight`, `dataflow`)
differ in what they do about order. In a straight line control edges are served by the order alone, and nodes that hand
on their input vanish; by dataflow every edge counts, because it may carry death.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext import kernels as compiled_kernels
from runtime._ext.errors import Error, Internal
from runtime._ext.executor import BoundKernel, FrameLoop, Program, name_error
from runtime.dtypes import REF_OFFSET, to_numpy
from runtime.ops import registry
from runtime.step.environment import KernelEnv, SessionState
from runtime.step.fold import Folding, freeze
from runtime.step.long_ops import cost_of
from runtime.step.repeated import Repeated, constant_key
from runtime.step.units import Loop, Region

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.functions import Functions

__all__ = ["CONSTANT_OF_SESSION", "PLUMBING", "Feed", "Lowering", "derefs", "native", "numpy_types"]

Feed = tuple["Node", int]
"""A fed endpoint: node and output slot."""

PLUMBING = frozenset(
    {
        "Identity",
        "StopGradient",
        "PreventGradient",
        "Snapshot",
        "GuaranteeConst",
        "PlaceholderWithDefault",
        "IdentityN",
        "RefIdentity",
        "LoopCond",
    }
)
"""Ops whose outputs are their inputs."""

CONSTANT_OF_SESSION = frozenset({"VariableV2", "Variable", "VarHandleOp"})
"""Stateful ops without inputs that give the same variable in every step of a session."""

# The first index of a constant is -1, the next -2, and so on.
_FIRST_CONSTANT = -1


@lru_cache(maxsize=4096)
def numpy_types(types: tuple[int, ...]) -> array[int]:
    """Return the numpy type number expected of each output, -1 for references; shared, not to be changed."""
    return array("i", [-1 if kind > REF_OFFSET else to_numpy(kind).num for kind in types])


class Lowering:
    """Turns nodes into bound kernels and numbered values.

    Parameters
    ----------
    functions : Functions
        What calls of library functions are compiled with.
    state : SessionState
    path : str
        Names of the calls around these nodes, each followed by ``/``.
    chain : tuple of (str, object)
        The functions being called on the way here, for recursion.
    shows_all : bool
        Give every node a kernel of its own, also where an earlier one computes the same: for traced steps.
    """

    def __init__(self, functions: Functions, state: SessionState, path: str = "", chain: tuple[Any, ...] = (),
                 shows_all: bool = False) -> None:
        self.functions = functions
        self.state = state
        self.path = path
        self.chain = chain
        self.folding = Folding()
        self.values: dict[Node, list[int | None]] = {}
        self.num_values = 0
        self.pool: list[Any] = []  # every constant met
        self.used: dict[int, int] = {}  # its number there -> its number in the executor's table
        self.constants: list[Any] = []  # the executor's table
        self.late: dict[Node, list[tuple[Node, int]]] = {}  # other sources than the graph's, see `late_reads`
        self.has_repeated = False  # whether there are nodes without a kernel because others compute the same
        self._repeated = None if shows_all or state.keeps_repeated else Repeated()
        self._equal_constants: dict[tuple[Any, ...], int] = {}
        self._fed: set[Node] = set()
        self._kernels: dict[str, registry.Kernel] = {}
        self._takes_functions: dict[str, bool] = {}
        self._on_host = state.device.xp is np
        # shared by all nodes about which nothing particular is to be said: most of a large graph
        self._plain_env = KernelEnv(state.device, state, functions.refuse, path)

    def sources(self, node: Node) -> Sequence[tuple[Node, int]]:
        """Return what a node's inputs come from."""
        return self.late.get(node) or node.inputs

    # Values and constants.

    def add_feeds(self, feeds: Sequence[Feed]) -> None:
        """Give the fed endpoints the first numbers."""
        self._fed.update(node for node, _ in feeds)
        for node, slot in feeds:
            known = self.values.get(node)
            if known is None:
                known = self.values[node] = [None] * len(node.output_types)
            known[slot] = self.num_values
            self.num_values += 1

    def define(self, node: Node, numbers: Sequence[int]) -> None:
        """Note the numbers of a node's outputs; what is fed stays fed."""
        fed = self.values.get(node)
        if fed is None:
            self.values[node] = list(numbers)
        else:
            for slot, number in enumerate(numbers):
                if fed[slot] is None:
                    fed[slot] = number

    def new_values(self, count: int) -> range:
        """Return fresh numbers for a node's outputs."""
        first = self.num_values
        self.num_values += count
        return range(first, first + count)

    def add_constants(self, values: Sequence[Any]) -> list[int]:
        """Return the numbers of constants; small ones that are equal have one number."""
        return [self._add_constant(value) for value in values]

    def _add_constant(self, value: Any) -> int:
        fresh = _FIRST_CONSTANT - len(self.pool)
        key = constant_key(value)
        number = fresh if key is None else self._equal_constants.setdefault(key, fresh)
        if number == fresh:
            self.pool.append(value)
        return number

    def constant(self, number: int) -> Any:
        """Return the constant of a (negative) number."""
        return self.pool[_FIRST_CONSTANT - number]

    def use(self, number: int) -> int:
        """Return the number that a value has in the executor; only constants that are used get one."""
        if number >= 0:
            return number
        placed = self.used.get(number)
        if placed is None:
            placed = self.used[number] = _FIRST_CONSTANT - len(self.constants)
            self.constants.append(self.constant(number))
        return placed

    # Nodes that compute the same.

    def find_repeated(self, node: Node, numbers: Sequence[int]) -> list[int] | None:
        """Return the values of an earlier node that computes the same; see `runtime.step.repeated`."""
        if self._repeated is None:
            return None
        first = self._repeated.find(node, numbers)
        if first is None:
            return None
        values = self.values.get(first)
        # An output that is fed is not what the kernel makes; a reference is read when the node runs.
        if values is None or not self._fed.isdisjoint((first, node)) or derefs(node, self.sources(node)) is not None:
            return None
        self.has_repeated = True
        return values  # type: ignore[return-value]

    # Kernels.

    def kernel(self, node: Node) -> registry.Kernel:
        """Return what runs a node; a call of a function by its name included.

        Raises
        ------
        InvalidArgument
            If nothing does; the node is named.
        """
        found = self._kernels.get(node.op)
        if found is None:
            try:
                found = registry.find(node.op if node.op_def is not None else "PartitionedCall")
            except Error as error:
                raise name_error(error, self.path + node.name) from None
            self._kernels[node.op] = found
        if self.takes_functions(node):
            try:
                return self.functions.kernel(node, found)
            except Error as error:
                raise name_error(error, self.path + node.name) from None
        return found

    def takes_functions(self, node: Node) -> bool:
        """Tell whether a node calls library functions."""
        known = self._takes_functions.get(node.op)
        if known is None:
            known = node.op_def is None or any(
                attr.kind in ("func", "list(func)") for attr in node.op_def.attrs.values()
            )
            self._takes_functions[node.op] = known
        return known

    def bind(self, node: Node, kernel: registry.Kernel, numbers: Sequence[int]) -> BoundKernel:
        """Return a node's kernel, ready to be called.

        Raises
        ------
        Error
            What the bind function raises, with the node named.
        """
        name = self.path + node.name
        state = self.state
        env = self._plain_env
        if self.folding.hurry is not None:
            self.folding.hurry.check()
        takes_functions = self.takes_functions(node)
        marks = derefs(node, self.sources(node))
        if takes_functions or (numbers and min(numbers) < 0):
            known = {index: self.constant(number) for index, number in enumerate(numbers)
                     if number < 0 and not (marks and marks[index])}
            compile_function = env.compile_function
            if takes_functions:
                compile_function = self.functions.compiler(f"{name}/", self.chain)
            env = KernelEnv(state.device, state, compile_function, self.path, known)
        try:
            call = kernel.bind(node, env)
            compiled = None
            if self._on_host and not kernel.asynchronous:
                compiled = compiled_kernels.select(node.op, node.input_types, node.output_types, node.attr)
            elif not self._on_host and kernel.host:
                call = _with_host_inputs(call, kernel, len(numbers))
        except Exception as error:
            if self.folding.hurry is not None:
                self.folding.hurry.check()
            raise name_error(error, name) from error
        cost, counts = cost_of(node) if self._on_host else (None, 0)
        return BoundKernel(
            node, name, call, compiled, len(numbers), numpy_types(node.output_types), marks, kernel.needs_step, cost,
            counts,
        )  # fmt: skip

    def bind_loop(self, loop: Loop, left_out: Collection[Node] = ()) -> BoundKernel:
        """Return the kernel of a loop that needs no frames; it takes what enters and makes what leaves.

        Raises
        ------
        Error
            If something in it cannot be bound; the node is named.
        """
        kernel = FrameLoop(
            self._region(loop.condition, left_out), self._region(loop.body, left_out), loop.num_variables,
            len(loop.inputs) - loop.num_variables, loop.body_args, loop.exit_values,
        )  # fmt: skip
        marks = bytes(source.output_types[slot] > REF_OFFSET for source, slot in loop.inputs)
        types = numpy_types(tuple(node.output_types[0] for node in loop.exits))
        return BoundKernel(loop.switch, self.path + loop.switch.name, kernel, None, len(loop.inputs), types,
                           marks if any(marks) else None, True)

    def _region(self, region: Region, left_out: Collection[Node]) -> Program:
        names = [
            self.path + node.name if node.output_types[slot] > REF_OFFSET else None for node, slot in region.fetches
        ]
        types = [-1] * len(region.feeds)
        from runtime.step.straight import StraightLowering  # which itself needs what is here

        inner = StraightLowering(self.functions, self.state, self.path, self.chain)
        return inner.program(
            region.units, region.feeds, types, region.fetches, names, None, left_out, region.conditions
        )

    def known_outputs(
        self,
        node: Node,
        kernel: registry.Kernel | None,
        numbers: Sequence[int],
    ) -> tuple[list[int] | None, BoundKernel | None]:
        """Return the numbers of a node's outputs if they are constant, and its kernel if that was bound for it.

        The outputs are None when the node has to run in the step.
        """
        op = node.op
        if op == "Const":
            return self.add_constants([self._decoded(node)]), None
        if kernel is None:
            kernel = self.kernel(node)
        if op in CONSTANT_OF_SESSION:
            bound = self.bind(node, kernel, numbers)
            try:
                return self.add_constants(bound.evaluate(())), bound
            except Error:
                return None, bound  # it belongs to the step that runs the node
        for number in numbers:
            if number >= 0:
                return None, None
        if not node.output_types or not self.folding.allows(node, kernel):
            return None, None
        inputs = [self.constant(number) for number in numbers]
        if not all(isinstance(value, np.ndarray) for value in inputs):
            return None, None
        if any(kind in (_RESOURCE, _VARIANT) for kind in node.input_types):
            return None, None  # what such a value names may change
        bound = self.bind(node, kernel, numbers)
        outputs = self.folding.evaluate(bound, inputs)
        return (None if outputs is None else self.add_constants(outputs)), bound

    def _decoded(self, node: Node) -> Any:
        """Return the value of a Const node, decoded once per session."""
        cache = self.state.constants
        value = cache.get(node)
        if value is None:
            name = self.path + node.name
            try:
                value = registry.find("Const").bind(node, self._plain_env)()
            except Exception as error:
                if self.folding.hurry is not None:
                    self.folding.hurry.check()
                raise name_error(error, name) from error
            freeze(value)
            cache[node] = value
        return value


_RESOURCE, _VARIANT = 20, 21


def native(*values: Any) -> Any:
    """Stand for what the executors do themselves."""
    raise Internal("a control flow op was called as a function")


def derefs(node: Node, sources: Sequence[tuple[Node, int]]) -> bytes | None:
    """Return one byte per input, 1 where a reference arrives and a value is wanted; None when there is none."""
    for source, slot in sources:
        if source.output_types[slot] > REF_OFFSET:
            break
    else:
        return None
    marks = bytes(source.output_types[slot] > REF_OFFSET and kind <= REF_OFFSET
                  for (source, slot), kind in zip(sources, node.input_types))
    return marks if any(marks) else None


def _with_host_inputs(call: Callable[..., Any], kernel: registry.Kernel, num_inputs: int) -> Callable[..., Any]:
    """Return a callable that brings the host inputs of a kernel from the device."""
    positions = frozenset(index % num_inputs for index in kernel.host if -num_inputs <= index < num_inputs)
    lead = 2 if kernel.asynchronous else int(kernel.needs_step)

    def run(*args: Any) -> Any:
        return call(
            *args[:lead],
            *(
                value.get() if index in positions and hasattr(value, "get") else value
                for index, value in enumerate(args[lead:])
            ),
        )

    return run
