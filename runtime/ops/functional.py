"""Ops that call library functions: PartitionedCall, If, Case, While, For, and calls by a function's name.

Each has two forms. The plain one runs the function in the calling thread. The waiting one, in `WAITING`, is used when
something in a function may wait, a queue for example: it starts the function and goes on when that is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime._ext.executor import Program, run_while, truth
from runtime.dtypes import to_numpy
from runtime.graph.device_spec import DeviceSpec, parse
from runtime.ops.registry import Bind, Shape, kernel
from runtime.ops.shapes import unknown
from runtime.step.environment import GradientOf

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.step.environment import CompiledFunction, KernelEnv

__all__ = ["WAITING"]

Run = Callable[..., Any]
Done = Callable[[Any, "BaseException | None"], None]
Chooser = Callable[[Any], "CompiledFunction"]

WAITING: dict[str, Bind] = {}
"""Bind functions of the waiting forms, by op; what they return is called as any asynchronous kernel."""


def _result(outputs: Sequence[Any]) -> Any:
    """Return a function's outputs in the form that a kernel returns."""
    return outputs if outputs else None


def _waiting(*ops: str) -> Callable[[Bind], Bind]:
    def register(bind: Bind) -> Bind:
        WAITING.update(dict.fromkeys(ops, bind))
        return bind

    return register


def _check(node: Node, function: CompiledFunction, label: str, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Check that a function takes and gives what its caller has.

    Raises
    ------
    InvalidArgument
        If the number of arguments or of results, or a type, differs.
    """
    for what, have, want in (("arguments", inputs, function.input_types), ("results", outputs, function.output_types)):
        if [kind % 100 for kind in have] != [kind % 100 for kind in want]:
            raise InvalidArgument(
                f"{node.op} '{node.name}': {label} has {what} of types {_labels(want)}, but {_labels(have)} are needed"
            )


def _labels(types: Sequence[int]) -> str:
    from runtime.dtypes import base

    return "[" + ", ".join(base(kind).label for kind in types) + "]"


# Calls.


def _callee(node: Node, env: KernelEnv) -> CompiledFunction:
    function = env.compile_function(node.attr("f") if node.op_def is not None else node.proto)
    _check(node, function, "its function", node.input_types[node.op == "RemoteCall":], node.output_types)
    return function


def _shapes_attr(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    declared = node.attr("output_shapes", None)
    if declared and len(declared) == len(node.output_types):
        return list(declared)
    return [None] * len(node.output_types)


@kernel("PartitionedCall", "StatefulPartitionedCall", shape=unknown, needs_step=True)
def _call(node: Node, env: KernelEnv) -> Run:
    function = _callee(node, env)

    def run(step: StepContext, *args: Any) -> Any:
        return _result(function.run(step, args))

    return run


@_waiting("PartitionedCall", "StatefulPartitionedCall")
def _start_call(node: Node, env: KernelEnv) -> Run:
    function = _callee(node, env)

    def run(step: StepContext, done: Done, *args: Any) -> None:
        function.start(step, args, _forward(done))

    return run


def _forward(done: Done) -> Done:
    """Return a callback that hands a function's outputs to a kernel's `done`."""
    return lambda outputs, error: done(None if error is not None else _result(outputs), error)


def _filled(spec: DeviceSpec, default: DeviceSpec) -> DeviceSpec:
    """Return a device specification with what it leaves open taken from another."""
    found = {field.name: getattr(spec, field.name) for field in fields(DeviceSpec)}
    return DeviceSpec(**{name: getattr(default, name) if value is None else value for name, value in found.items()})


def _remote_callee(node: Node, env: KernelEnv) -> tuple[CompiledFunction, Callable[[Any], None]]:
    """Return the function of a RemoteCall, and what checks that its target is this device."""
    function = _callee(node, env)
    here = parse(env.device.name)
    assert here is not None

    def check(target: Any) -> None:
        if target.ndim:
            raise InvalidArgument(f"target must be a scalar, but it has the shape {list(target.shape)}")
        text = target.item().decode("utf-8", "replace")
        wanted = parse(text)
        if wanted is None:
            raise InvalidArgument(f"Could not parse {text} into a device specification.")
        full = _filled(wanted, here)
        if full.without_device() != here.without_device():
            raise InvalidArgument(f"Could not find worker with target: {full} Available workers: "
                                  f"{here.without_device()}")
        if not wanted.matches(here):
            raise InvalidArgument(f"{full} unknown device.")

    return function, check


@kernel("RemoteCall", shape=unknown, host=(0,), needs_step=True)
def _remote_call(node: Node, env: KernelEnv) -> Run:
    """Call a function on a device of this task."""
    function, check = _remote_callee(node, env)

    def run(step: StepContext, target: Any, *args: Any) -> Any:
        check(target)
        return _result(function.run(step, args))

    return run


@_waiting("RemoteCall")
def _start_remote_call(node: Node, env: KernelEnv) -> Run:
    function, check = _remote_callee(node, env)

    def run(step: StepContext, done: Done, target: Any, *args: Any) -> None:
        check(target)
        function.start(step, args, _forward(done))

    return run


def _gradient(node: Node, env: KernelEnv) -> CompiledFunction:
    function = env.compile_function(GradientOf(node.attr("f")))
    _check(node, function, "the gradient of its function", node.input_types, node.output_types)
    return function


@kernel("SymbolicGradient", shape=unknown, needs_step=True)
def _symbolic_gradient(node: Node, env: KernelEnv) -> Run:
    function = _gradient(node, env)

    def run(step: StepContext, *args: Any) -> Any:
        return _result(function.run(step, args))

    return run


@_waiting("SymbolicGradient")
def _start_symbolic_gradient(node: Node, env: KernelEnv) -> Run:
    function = _gradient(node, env)

    def run(step: StepContext, done: Done, *args: Any) -> None:
        function.start(step, args, _forward(done))

    return run


# Branches.


def _if_chooser(node: Node, env: KernelEnv) -> Chooser:
    taken = env.compile_function(node.attr("then_branch"))
    other = env.compile_function(node.attr("else_branch"))
    _check(node, taken, "then_branch", node.input_types[1:], node.output_types)
    _check(node, other, "else_branch", node.input_types[1:], node.output_types)
    return lambda condition: taken if truth(condition) else other


def _case_chooser(node: Node, env: KernelEnv) -> Chooser:
    branches = [env.compile_function(branch) for branch in node.attr("branches")]
    if not branches:
        raise InvalidArgument(f"Case '{node.name}' has no branches")
    for position, branch in enumerate(branches):
        _check(node, branch, f"branch {position}", node.input_types[1:], node.output_types)

    def choose(index: Any) -> CompiledFunction:
        if index.ndim:
            raise InvalidArgument(f"branch_index must be scalar, but it has the shape {list(index.shape)}")
        number = int(index)
        return branches[number] if 0 <= number < len(branches) else branches[-1]

    return choose


def _register_branches(ops: tuple[str, ...], chooser: Callable[[Node, KernelEnv], Chooser]) -> None:
    @kernel(*ops, shape=_shapes_attr, host=(0,), needs_step=True)
    def bind(node: Node, env: KernelEnv) -> Run:
        choose = chooser(node, env)

        def run(step: StepContext, selector: Any, *args: Any) -> Any:
            return _result(choose(selector).run(step, args))

        return run

    @_waiting(*ops)
    def bind_waiting(node: Node, env: KernelEnv) -> Run:
        choose = chooser(node, env)

        def run(step: StepContext, done: Done, selector: Any, *args: Any) -> None:
            choose(selector).start(step, args, _forward(done))

        return run


_register_branches(("If", "StatelessIf"), _if_chooser)
_register_branches(("Case", "StatelessCase"), _case_chooser)


# Loops.


def _loop_functions(node: Node, env: KernelEnv) -> tuple[Any, Any]:
    condition = env.compile_function(node.attr("cond"))
    body = env.compile_function(node.attr("body"))
    _check(node, body, "body", node.input_types, node.output_types)
    _check(node, condition, "cond", node.input_types, condition.output_types)
    if len(condition.output_types) != 1:
        raise InvalidArgument(f"{node.op} '{node.name}': cond returns {len(condition.output_types)} values, not one")
    return condition, body


@kernel("While", "StatelessWhile", shape=_shapes_attr, needs_step=True)
def _while(node: Node, env: KernelEnv) -> Run:
    condition, body = _loop_functions(node, env)

    def run(step: StepContext, *args: Any) -> Any:
        verdict_of, next_of = condition.executor(), body.executor()
        if type(verdict_of) is Program and type(next_of) is Program:
            return _result(run_while(verdict_of, next_of, step, args))
        values: Sequence[Any] = args
        while truth(verdict_of.call(step, values)[0]):
            step.check()
            values = next_of.call(step, values)
        return _result(list(values))

    return run


class _Loop:
    """A loop whose functions may wait, as a chain of callbacks that does not grow the stack.

    `turn` gets the outputs of the function that has ended and returns the next function with its arguments, or None
    and the loop's result.
    """

    def __init__(
        self,
        step: StepContext,
        done: Done,
        turn: Callable[[list[Any] | None], tuple[CompiledFunction | None, Sequence[Any]]],
    ) -> None:
        self._step = step
        self._done = done
        self._turn = turn
        self._lock = threading.Lock()
        self._running = False
        self._arrived: tuple[list[Any] | None, BaseException | None] | None = None

    def go(self, outputs: list[Any] | None, error: BaseException | None) -> None:
        """Take the end of one function; also what starts the loop, with None and None."""
        with self._lock:
            self._arrived = (outputs, error)
            if self._running:  # the function ended before its start returned: the loop below goes on
                return
            self._running = True
        while True:
            with self._lock:
                arrived, self._arrived = self._arrived, None
                if arrived is None:
                    self._running = False
                    return
            outputs, error = arrived
            try:
                if error is not None:
                    raise error
                self._step.check()
                function, args = self._turn(outputs)
            except Exception as problem:
                self._done(None, problem)
                return
            if function is None:
                self._done(_result(args), None)
                return
            function.start(self._step, args, self.go)


@_waiting("While", "StatelessWhile")
def _start_while(node: Node, env: KernelEnv) -> Run:
    condition, body = _loop_functions(node, env)

    def run(step: StepContext, done: Done, *args: Any) -> None:
        values: Sequence[Any] = args
        asked = False

        def turn(outputs: list[Any] | None) -> tuple[CompiledFunction | None, Sequence[Any]]:
            nonlocal values, asked
            if asked:
                assert outputs is not None
                asked = False
                return (body, values) if truth(outputs[0]) else (None, list(values))
            if outputs is not None:
                values = outputs
            asked = True
            return condition, values

        _Loop(step, done, turn).go(None, None)

    return run


def _for_range(start: Any, limit: Any, delta: Any) -> range:
    for name, value in (("start", start), ("limit", limit), ("delta", delta)):
        if value.ndim:
            raise InvalidArgument(f"{name} must be a scalar, but it has the shape {list(value.shape)}")
    first, end, stride = int(start), int(limit), int(delta)
    if first == end:
        return range(0)
    if stride == 0 or (stride > 0) != (first < end):
        raise InvalidArgument(f"a For from {first} to {end} by {stride} does not end")
    return range(first, end, stride)


def _for_body(node: Node, env: KernelEnv) -> Any:
    body = env.compile_function(node.attr("body"))
    _check(node, body, "body", (node.input_types[0], *node.input_types[3:]), node.output_types)
    return body


@kernel("For", shape=unknown, host=(0, 1, 2), needs_step=True)
def _for(node: Node, env: KernelEnv) -> Run:
    body = _for_body(node, env)

    def run(step: StepContext, start: Any, limit: Any, delta: Any, *args: Any) -> Any:
        values: Sequence[Any] = args
        for number in _for_range(start, limit, delta):
            step.check()
            values = body.run(step, (np.array(number, np.int32), *values))
        return _result(list(values))

    return run


@_waiting("For")
def _start_for(node: Node, env: KernelEnv) -> Run:
    body = _for_body(node, env)

    def run(step: StepContext, done: Done, start: Any, limit: Any, delta: Any, *args: Any) -> None:
        numbers = iter(_for_range(start, limit, delta))
        values: Sequence[Any] = args

        def turn(outputs: list[Any] | None) -> tuple[CompiledFunction | None, Sequence[Any]]:
            nonlocal values
            if outputs is not None:
                values = outputs
            number = next(numbers, None)
            if number is None:
                return None, list(values)
            return body, (np.array(number, np.int32), *values)

        _Loop(step, done, turn).go(None, None)

    return run


@kernel("FakeParam", shape=lambda node, shapes: [node.attr("shape")])
def _fake_param(node: Node, env: KernelEnv) -> Run:
    """Stand for a value that the other branch of a conditional makes; nobody reads it."""
    shape = node.attr("shape") or ()
    dtype = to_numpy(node.output_types[0])
    if dtype.kind == "O":
        value = env.xp.full((), b"", dtype=object)
    else:
        value = env.xp.zeros(tuple(dim or 0 for dim in shape), dtype)
    return lambda: value
