"""Library functions as kernels call them: compiled once per place of call, straight-line where possible."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Internal, InvalidArgument
from runtime._ext.executor import Dataflow, Program
from runtime.graph.prune import order
from runtime.ops import registry
from runtime.step.branches import CONDITIONAL, Conditions, Irregular
from runtime.step.dataflow import DataflowLowering
from runtime.step.environment import GradientOf
from runtime.step.loops import find_loops
from runtime.step.lowering import Lowering, numpy_types
from runtime.step.plain_ops import CONTROL_FLOW
from runtime.step.straight import StraightLowering
from runtime.step.units import Loop, Unit

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.library import FunctionBody, FunctionLibrary
    from runtime.graph.node import Node
    from runtime.step.environment import SessionState

__all__ = ["Functions", "LibraryFunction", "lower"]

Done = Callable[["list[Any] | None", "BaseException | None"], None]

_Key = tuple[str, tuple[tuple[str, bytes], ...]]
"""A function's name and the attrs that it is called with."""


class LibraryFunction:
    """A library function at one place of call; see `runtime.step.environment.CompiledFunction`.

    It is compiled when it is first run, so that a branch that is never taken costs nothing and a function may call
    itself.
    """

    __slots__ = (
        "_body",
        "_chain",
        "_executor",
        "_functions",
        "_key",
        "_lock",
        "_path",
        "input_types",
        "is_asynchronous",
        "is_stateful",
        "output_types",
    )

    def __init__(self, functions: Functions, key: _Key, body: FunctionBody, path: str, chain: tuple[Any, ...]) -> None:
        self._functions = functions
        self._key = key
        self._body = body
        self._path = path
        self._chain = chain
        self._executor: Program | Dataflow | None = None
        self._lock = threading.RLock()
        self.is_asynchronous = functions.may_wait(body)
        self.is_stateful: bool = body.is_stateful
        self.input_types: Sequence[int] = body.input_types
        self.output_types: Sequence[int] = body.output_types

    def executor(self) -> Program | Dataflow:
        """Return what runs it, compiled on first use.

        Raises
        ------
        Error
            If something in it cannot be compiled; the node is named.
        """
        found = self._executor
        if found is None:
            with self._lock:
                found = self._executor
                if found is None:
                    found = self._executor = self._compile()
        return found

    def is_bounded(self) -> bool:
        """Tell whether arguments of equal sizes make a call take equally long; see `runtime.step.bounds`."""
        from runtime.step.bounds import is_bounded  # which itself needs what is here

        return is_bounded(list(self._body.graph.nodes.values()), (), self._functions.library)

    def instance(self, state: SessionState) -> LibraryFunction:
        """Return the same function with kernels of another state, such as a `SessionState.branch`."""
        functions = Functions.of(self._functions.library, state)
        return functions.add(LibraryFunction(functions, self._key, self._body, self._path, ()))

    def run(self, step: StepContext, args: Sequence[Any]) -> list[Any]:
        """Run to the end in the calling thread and return the outputs."""
        return (self._executor or self.executor()).call(step, args)

    def start(self, step: StepContext, args: Sequence[Any], done: Done) -> None:
        """Run, and call `done` once with the outputs or the error, perhaps from another thread."""
        try:
            executor = self._executor or self.executor()
            outputs = None if isinstance(executor, Dataflow) else executor.call(step, args)
        except Exception as error:
            done(None, error)
            return
        if outputs is None:
            assert isinstance(executor, Dataflow)
            executor.start_call(step, args, done)
        else:
            done(outputs, None)

    def _compile(self) -> Program | Dataflow:
        body = self._body
        feeds = [(node, 0) for node in body.inputs]
        fed = frozenset(feeds)
        args = {node for node, _ in feeds}
        effects = [node for node in body.graph.nodes.values() if node not in args and self._functions.has_effects(node)]
        roots = [*(node for node, _ in body.outputs if node not in args), *body.control_outputs, *effects]
        nodes = [node for node in order(roots, fed) if node not in args]
        feed_types = numpy_types(body.input_types)
        names = [self._path + node.name if node.output_types[slot] > 100 else None for node, slot in body.outputs]
        executor, _ = lower(
            self._functions,
            nodes,
            feeds,
            feed_types,
            body.outputs,
            names,
            None,
            self._path,
            (*self._chain, (self._key, self)),
        )
        return executor


class Functions:
    """Compiles the functions of one graph for one session.

    Safe from several threads.
    """

    def __init__(self, library: FunctionLibrary, state: SessionState) -> None:
        self.library = library
        self.state = state
        self._compiled: dict[tuple[_Key, str], LibraryFunction] = {}
        self._waiting: dict[str, bool] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, library: FunctionLibrary, state: SessionState) -> Functions:
        """Return the session's functions, made on first use."""
        known = state.functions
        if known is None or known.library is not library:
            known = state.functions = cls(library, state)
        return known

    def compiler(self, path: str, chain: tuple[Any, ...]) -> Callable[[Any], LibraryFunction]:
        """Return the `KernelEnv.compile_function` of a node whose calls get this path."""
        return lambda function: self.get(function, path, chain)

    def refuse(self, function: Any) -> Any:
        """Stand for `compile_function` where the op has no functions."""
        raise Internal(f"an op without function attrs asked for the function {function!r}")

    def get(self, function: Any, path: str, chain: tuple[Any, ...]) -> LibraryFunction:
        """Return a function for one place of call.

        Parameters
        ----------
        function : wire.NameAttrList, wire.NodeDef of a call by name, str, bytes, or GradientOf one of these
        path : str
            Names of the calls around it, its own included, each followed by ``/``.
        chain : tuple
            The functions being called; a function that calls itself is the one that is running.
        """
        is_gradient = isinstance(function, GradientOf)
        name, attrs = _name_and_attrs(function.function if is_gradient else function)
        key = _key(f"gradient of {name}" if is_gradient else name, attrs)
        for called, compiled in chain:
            if called == key:
                return compiled  # type: ignore[no-any-return]
        with self._lock:
            found = self._compiled.get((key, path))
        if found is None:
            body = self._gradient(name, attrs) if is_gradient else self.library.body(name, attrs)
            found = self.add(LibraryFunction(self, key, body, path, chain))
        return found

    def add(self, made: LibraryFunction) -> LibraryFunction:
        """Keep a function of this session, and return the one that was there before if there was."""
        with self._lock:
            return self._compiled.setdefault((made._key, made._path), made)

    def _gradient(self, name: str, attrs: Any) -> FunctionBody:
        from runtime.step.differentiate import gradient_body  # with the builder, which few graphs need

        return gradient_body(self.library, name, attrs)

    def kernel(self, node: Node, found: registry.Kernel) -> registry.Kernel:
        """Return the kernel of a node that calls functions: its waiting form when one of them may wait."""
        from runtime.ops.functional import WAITING

        waiting = WAITING.get(found.op)
        if waiting is None or not any(self._may_wait(name, attrs) for name, attrs in callees(node)):
            return found
        return replace(found, bind=waiting, asynchronous=True, needs_step=False)

    def may_wait(self, body: FunctionBody) -> bool:
        """Tell whether anything in a body, or in what it calls, is asynchronous."""
        known = self._waiting.get(body.name)
        if known is not None:
            return known
        seen = {body.name}
        pending = [body]
        while pending:
            for node in pending.pop().graph.nodes.values():
                if node.op_def is not None and _is_asynchronous(node.op):
                    self._waiting[body.name] = True
                    return True
                for name, attrs in callees(node):
                    if self._waiting.get(name):
                        self._waiting[body.name] = True
                        return True
                    if name not in seen and name not in self._waiting:
                        seen.add(name)
                        pending.append(self.library.body(name, attrs))
        self._waiting.update(dict.fromkeys(seen, False))
        return False

    def _may_wait(self, name: str, attrs: Any) -> bool:
        known = self._waiting.get(name)
        if known is None:
            known = self._waiting[name] = self.may_wait(self.library.body(name, attrs))
        return known

    def has_effects(self, node: Node) -> bool:
        """Tell whether a node of a body must run although no output needs it."""
        if node.op in _HARMLESS:
            return False
        if node.op_def is not None:
            return node.op_def.is_stateful
        return any(self.library.body(name, attrs).is_stateful for name, attrs in callees(node))


_HARMLESS = frozenset({"VarHandleOp", "VariableV2", "Variable", "GuaranteeConst", "_Arg"})
"""Stateful by definition, but of no effect unless something uses them."""


def _is_asynchronous(op: str) -> bool:
    try:
        return registry.find(op).asynchronous
    except InvalidArgument:  # said when the body is compiled, if that node is needed
        return False


def callees(node: Node) -> list[tuple[str, Any]]:
    """Return (name, attrs) of every function that a node calls."""
    if node.op_def is None:
        return [(node.op, node.proto.attr)]
    found = []
    for attr in node.op_def.attrs.values():
        if attr.kind == "func":
            found.append(_name_and_attrs(node.attr(attr.name)))
        elif attr.kind == "list(func)":
            found.extend(_name_and_attrs(item) for item in node.attr(attr.name))
    return found


def _name_and_attrs(function: Any) -> tuple[str, Any]:
    if isinstance(function, bytes):
        return function.decode(), {}
    if isinstance(function, str):
        return function, {}
    name = getattr(function, "op", None) or function.name
    return name, function.attr


def _key(name: str, attrs: Any) -> _Key:
    return name, tuple(sorted((attr, value.SerializeToString(deterministic=True)) for attr, value in attrs.items()))


def lower(
    functions: Functions,
    nodes: Sequence[Node],
    feeds: Sequence[tuple[Node, int]],
    feed_types: Sequence[int],
    fetches: Sequence[tuple[Node, int]],
    fetch_names: Sequence[str | None],
    adapt_feed: Callable[[int, Any], Any] | None,
    path: str = "",
    chain: tuple[Any, ...] = (),
    by_dataflow: bool = False,
    left_out: Collection[Node] = (),
) -> tuple[Program | Dataflow, bool]:
    """Return what runs some nodes, and whether it may wait.

    Parameters
    ----------
    nodes : sequence of Node
        Producers before consumers, loop back edges excepted; without those nodes that only stand for feeds.
    by_dataflow : bool
        Use the dataflow executor even where a straight line would do: partial runs need it.
    left_out : collection of Node
        Nodes that a straight line may do without; see `runtime.step.unread`.
    """
    state = functions.state
    probe = Lowering(functions, state, path, chain)

    def flow(units: Sequence[Unit], shows_all: bool = False) -> tuple[Dataflow, bool]:
        flowing = DataflowLowering(functions, state, path, chain, shows_all)
        made = flowing.flow(units, feeds, feed_types, fetches, fetch_names, adapt_feed, left_out)
        if flowing.has_repeated:
            made.traced = every_node
        return made, flowing.has_asynchronous

    def every_node() -> Dataflow:  # a trace shows what the graph has
        return flow(nodes, shows_all=True)[0]

    def straight(units: Sequence[Unit], conditions: Conditions | None = None) -> Program:
        line = StraightLowering(functions, state, path, chain)
        return line.program(units, feeds, feed_types, fetches, fetch_names, adapt_feed, left_out, conditions)

    if by_dataflow:
        return flow(nodes)
    if not _needs_dataflow(probe, nodes):
        return straight(nodes), False
    fed = set(feeds)
    loops = find_loops(nodes, fed, fetches, partial(_waits, probe))
    units = nodes if loops is None else loops
    executor: Program | Dataflow | None = None
    blocking = False
    if not _needs_dataflow(probe, units, CONTROL_FLOW - CONDITIONAL):
        with suppress(Irregular):
            executor = straight(units, Conditions.find(units, fed))
    if executor is None:
        executor, blocking = flow(units)
        if loops is None:
            return executor, blocking
    executor.traced = every_node
    return executor, blocking


def _waits(probe: Lowering, node: Node) -> bool:
    return node.op not in CONTROL_FLOW and probe.kernel(node).asynchronous


def _needs_dataflow(probe: Lowering, units: Sequence[Unit], ops: Collection[str] = CONTROL_FLOW) -> bool:
    """Tell whether any unit is of one of these ops, or may wait."""
    plain: set[str] = set()
    for node in units:
        if isinstance(node, Loop):
            continue
        op = node.op
        if op in plain:
            continue
        if op in ops or _waits(probe, node):
            return True
        if not probe.takes_functions(node):
            plain.add(op)
    return False
