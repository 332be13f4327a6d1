"""Make small graphs as messages, and run steps of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime import wire
from runtime._ext.executor import Dataflow, StepContext
from runtime.devices.device import cpu_device
from runtime.dtypes import DataType, from_numpy
from runtime.graph.graph import Graph
from runtime.graph.prune import select
from runtime.step.compile import CompiledStep, compile_step
from runtime.step.environment import SessionState
from runtime.step.files import FileAccess

TYPE_ATTRS = {
    "Cast": ("SrcT", "DstT"),
    "Placeholder": ("dtype",),
    "PlaceholderWithDefault": ("dtype",),
    "VariableV2": ("dtype",),
    "VarHandleOp": ("dtype",),
    "ReadVariableOp": ("dtype",),
    "AssignVariableOp": ("dtype",),
    "AssignAddVariableOp": ("dtype",),
    "NoOp": (),
    "ControlTrigger": (),
    "LoopCond": (),
    "LogicalAnd": (),
    "LogicalNot": (),
}
"""Names of the type attrs of ops where it is not ``T``."""


def session_state() -> SessionState:
    """Return the state of a fresh session on a device of its own."""
    return SessionState(cpu_device("local", 0), FileAccess([]))


def set_attr(attrs: Any, name: str, value: Any) -> None:
    """Set an attr of a NodeDef from a Python value."""
    target = attrs[name]
    if isinstance(value, DataType):
        target.type = int(value)
    elif isinstance(value, bool):
        target.b = value
    elif isinstance(value, int):
        target.i = value
    elif isinstance(value, float):
        target.f = value
    elif isinstance(value, str):
        target.s = value.encode()
    elif isinstance(value, tuple):
        target.shape.SetInParent()
        for size in value:
            target.shape.dim.add(size=size)
    elif isinstance(value, list) and value and isinstance(value[0], DataType):
        target.list.type.extend(int(kind) for kind in value)
    elif isinstance(value, list) and all(type(item) is int for item in value):
        target.list.SetInParent()
        target.list.i.extend(value)
    elif isinstance(value, np.ndarray):
        fill_tensor(target.tensor, value)
    else:
        target.func.CopyFrom(value)


def fill_tensor(tensor: Any, value: np.ndarray[Any, Any]) -> None:
    tensor.dtype = int(from_numpy(value.dtype))
    tensor.tensor_shape.SetInParent()
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    if value.dtype == object:
        tensor.string_val.extend(value.ravel().tolist())
    else:
        tensor.tensor_content = value.tobytes()


def function(name: str) -> Any:
    """Return what a func attr holds."""
    return wire.NameAttrList(name=name)


class GraphMaker:
    """Adds nodes to a GraphDef, or to a FunctionDef's body."""

    def __init__(self, nodes: Any = None) -> None:
        self.proto = wire.GraphDef()
        self.proto.versions.producer = 1882
        self._nodes = self.proto.node if nodes is None else nodes

    def op(self, op: str, name: str, *inputs: str, T: DataType = DataType.FLOAT, **attrs: Any) -> str:
        """Add a node; inputs that begin with ``^`` come last. The type goes to the op's type attrs."""
        node = self._nodes.add(name=name, op=op)
        node.input.extend(inputs)
        for attr in TYPE_ATTRS.get(op, ("T",)):
            set_attr(node.attr, attr, T)
        for attr, value in attrs.items():
            set_attr(node.attr, attr, value)
        return name

    def call(self, op: str, name: str, *inputs: str, **attrs: Any) -> str:
        """Add a node with exactly these attrs."""
        node = self._nodes.add(name=name, op=op)
        node.input.extend(inputs)
        for attr, value in attrs.items():
            set_attr(node.attr, attr, value)
        return name

    def const(self, name: str, value: Any, *controls: str) -> str:
        array = np.asarray(value)
        node = self._nodes.add(name=name, op="Const")
        set_attr(node.attr, "dtype", from_numpy(array.dtype))
        set_attr(node.attr, "value", array)
        node.input.extend(f"^{control}" for control in controls)
        return name

    def placeholder(self, name: str, kind: DataType = DataType.FLOAT) -> str:
        return self.op("Placeholder", name, T=kind)

    def function(
        self,
        name: str,
        inputs: dict[str, DataType],
        outputs: dict[str, tuple[str, DataType]],
        control_outputs: Sequence[str] = (),
    ) -> GraphMaker:
        """Add a library function and return the maker of its body; inputs are written ``x`` or ``node:arg:0``."""
        made = self.proto.library.function.add()
        made.signature.name = name
        for arg, kind in inputs.items():
            made.signature.input_arg.add(name=arg, type=int(kind))
        for arg, (source, kind) in outputs.items():
            made.signature.output_arg.add(name=arg, type=int(kind))
            made.ret[arg] = source
        for node in control_outputs:
            made.signature.control_output.append(node)
            made.control_ret[node] = node
        return GraphMaker(made.node_def)

    def loop(self, name: str, start: str, limit: str, kind: DataType = DataType.INT32, parallel: int = 10) -> str:
        """Add ``while i < limit: i += 1`` in frames; return the Exit."""
        self.op("Enter", f"{name}/enter", start, T=kind, frame_name=name, parallel_iterations=parallel)
        self.op(
            "Enter", f"{name}/limit", limit, T=kind, frame_name=name, is_constant=True, parallel_iterations=parallel
        )
        self.op("Merge", f"{name}/merge", f"{name}/enter", f"{name}/next", T=kind, N=2)
        self.op("Less", f"{name}/less", f"{name}/merge", f"{name}/limit", T=kind)
        self.op("LoopCond", f"{name}/cond", f"{name}/less")
        self.op("Switch", f"{name}/switch", f"{name}/merge", f"{name}/cond", T=kind)
        self.op("Identity", f"{name}/body", f"{name}/switch:1", T=kind)
        self.const(f"{name}/one", np.int32(1) if kind is DataType.INT32 else np.float32(1), f"{name}/body")
        self.op("Add", f"{name}/add", f"{name}/body", f"{name}/one", T=kind)
        self.op("NextIteration", f"{name}/next", f"{name}/add", T=kind)
        return self.op("Exit", f"{name}/exit", f"{name}/switch", T=kind)

    def graph(self) -> Graph:
        return Graph.from_proto(self.proto)


class Runner:
    """Compiles and runs steps of one graph in one session."""

    def __init__(self, maker: GraphMaker | Graph) -> None:
        self.graph = maker.graph() if isinstance(maker, GraphMaker) else maker
        self.state = session_state()
        self._next_step = 0

    def context(self, **options: Any) -> StepContext:
        self._next_step += 1
        return StepContext(self._next_step, self.state, **options)

    def compile(
        self, feeds: Sequence[str], fetches: Sequence[str], targets: Sequence[str] = (), partial: bool = False
    ) -> CompiledStep:
        return compile_step(
            select(self.graph, feeds, fetches, targets), self.graph.library, self.state, partial=partial
        )

    def run(
        self,
        fetches: str | Sequence[str],
        feeds: dict[str, Any] | None = None,
        targets: Sequence[str] = (),
        partial: bool = False,
    ) -> Any:
        """Run to the end; one fetch gives its value, several give a list."""
        feeds = feeds or {}
        names = [fetches] if isinstance(fetches, str) else list(fetches)
        step = self.compile(list(feeds), names, targets, partial)
        values = step.run(self.context(), [np.asarray(value) for value in feeds.values()])
        return values[0] if isinstance(fetches, str) else values

    def by_dataflow(
        self, fetches: str | Sequence[str], feeds: dict[str, Any] | None = None, targets: Sequence[str] = ()
    ) -> Any:
        """Run by the dataflow executor, whatever the step."""
        feeds = feeds or {}
        names = [fetches] if isinstance(fetches, str) else list(fetches)
        step = self.compile(list(feeds), names, targets, partial=True)
        assert isinstance(step.executor, Dataflow)
        values = step.run(self.context(), [np.asarray(value) for value in feeds.values()])
        return values[0] if isinstance(fetches, str) else values
