"""From a FunctionDef to the graph of its body.

Inside a FunctionDef an input is an argument's name, ``argument:index``, ``node:output_arg:index`` or a control input;
an output argument may stand for several tensors, and then ``node:output_arg`` means all of them. Attrs may be
placeholders, filled in from the call. Here all of that becomes plain NodeDefs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.errors import Error, InvalidArgument, NotFound
from runtime.dtypes import REF_OFFSET, base
from runtime.graph.graph import Graph
from runtime.graph.library import FunctionBody
from runtime.graph.node import Node, unknown_op
from runtime.graph.validate import Signature, signature_of, type_label
from runtime.ops.opdef import ArgDef

if TYPE_CHECKING:
    from runtime.graph.library import FunctionLibrary

__all__ = ["instantiate"]

Endpoint = tuple[str, int]
"""Node name and output slot."""


def instantiate(function: Any, attrs: Mapping[str, Any], library: FunctionLibrary) -> FunctionBody:
    """Return the body of a FunctionDef for the attrs of a call.

    Parameters
    ----------
    function : wire.FunctionDef
    attrs : mapping of str to AttrValue message
        Values for all placeholders.
    library : FunctionLibrary
        Where the functions it calls are looked up.

    Raises
    ------
    NotFound
        If an attr, an op or a called function is missing.
    InvalidArgument
        If the body is no valid graph.
    """
    name = function.signature.name
    signature = library.signature(name)
    if signature is None:
        raise NotFound(f"Function {name} is not defined.")
    try:
        return _Instantiation(function, signature, attrs, library).body()
    except Error as error:
        raise type(error)(f"In function {name}: {error.message}") from error


class _Instantiation:
    def __init__(self, function: Any, signature: Signature, attrs: Mapping[str, Any], library: FunctionLibrary) -> None:
        self._function = function
        self._signature = signature
        self._name = function.signature.name
        self._attrs = attrs
        self._library = library
        self._graph = wire.GraphDef()
        self._taken = {node.name for node in function.node_def}
        # What an input text may say: an argument or "node:output_arg", and the endpoints it stands for.
        self._items: dict[str, list[Endpoint]] = {}
        self._control: dict[str, str] = {}

    def body(self) -> FunctionBody:
        signature = self._signature
        call = wire.NodeDef(name=self._name, op=self._name)
        for name, value in self._attrs.items():
            call.attr[name].CopyFrom(value)
        input_types, output_types = signature.types(call)
        arg_names = self._add_args(signature, call, input_types)
        filled = [self._fill(proto) for proto in self._function.node_def]
        for proto in filled:
            self._add_outputs(proto)
        for proto in filled:
            self._rewrite_inputs(proto)
        graph = Graph.from_proto(self._graph, self._library, internal=True)
        outputs = self._outputs(signature, call, graph, output_types)
        controls = []
        for name in self._function.control_ret.values():
            if name not in graph.nodes:
                raise InvalidArgument(f"control output names the node '{name}', which is not in the body")
            controls.append(graph.nodes[name])
        stateful = signature.op_def.is_stateful or any(
            node.is_stateful for node in graph.nodes.values() if node.op != "_Arg"
        )
        return FunctionBody(
            self._name,
            graph,
            [graph.nodes[name] for name in arg_names],
            outputs,
            controls,
            input_types,
            output_types,
            stateful,
        )

    def _add_args(self, signature: Signature, call: Any, types: tuple[int, ...]) -> list[str]:
        arg_names: list[str] = []
        for position, arg in enumerate(signature.op_def.inputs):
            count = _count(arg, call)
            made = []
            for index in range(count):
                name = (
                    arg.name
                    if count == 1 and arg.number_attr is None and arg.list_attr is None
                    else (f"{arg.name}_{index}")
                )
                while name in self._taken:
                    name = f"{name}_"
                self._taken.add(name)
                proto = self._graph.node.add(name=name, op="_Arg")
                kind = types[len(arg_names)]
                proto.attr["T"].type = int(base(kind))  # type: ignore[assignment]
                proto.attr["index"].i = len(arg_names)
                if position in self._function.arg_attr:
                    for attr, value in self._function.arg_attr[position].attr.items():
                        if attr not in ("T", "index"):
                            proto.attr[attr].CopyFrom(value)
                arg_names.append(name)
                made.append((name, 0))
            self._items[arg.name] = made
            if made:
                self._control[arg.name] = made[0][0]
        return arg_names

    def _fill(self, proto: Any) -> Any:
        """Add a copy of a body node with its placeholders filled in."""
        copy = self._graph.node.add()
        copy.CopyFrom(proto)
        for name in copy.attr:
            self._fill_attr(copy.attr[name], proto.name)
        self._control[copy.name] = copy.name
        return copy

    def _fill_attr(self, value: Any, node: str) -> None:
        which = value.WhichOneof("value")
        if which == "placeholder":
            given = self._attrs.get(value.placeholder)
            if given is None:
                raise NotFound(
                    f"node {node}: the attr '{value.placeholder}' is neither given by the call nor has it a default"
                )
            value.CopyFrom(given)
        elif which == "func":
            for name in value.func.attr:
                self._fill_attr(value.func.attr[name], node)
        elif which == "list":
            for func in value.list.func:
                for name in func.attr:
                    self._fill_attr(func.attr[name], node)

    def _add_outputs(self, proto: Any) -> None:
        signature = signature_of(proto.op) or self._library.signature(proto.op)
        if signature is None:
            raise unknown_op(proto.op)
        slot = 0
        for arg in signature.op_def.outputs:
            count = _count(arg, proto)
            self._items[f"{proto.name}:{arg.name}"] = [(proto.name, slot + index) for index in range(count)]
            slot += count

    def _resolve(self, text: str) -> list[Endpoint]:
        """Return the endpoints that a data input or a return value stands for."""
        found = self._items.get(text)
        if found is not None:
            return found
        item, colon, digits = text.rpartition(":")
        endpoints = self._items.get(item) if colon and digits.isascii() and digits.isdigit() else None
        if endpoints is None:
            raise InvalidArgument(f"input {text} is not found")
        if int(digits) >= len(endpoints):
            raise InvalidArgument(f"input {text} is out of range: {item} stands for {len(endpoints)} tensors")
        return [endpoints[int(digits)]]

    def _rewrite_inputs(self, proto: Any) -> None:
        inputs = []
        for text in proto.input:
            if text.startswith("^"):
                name = self._control.get(text[1:])
                if name is None:
                    raise InvalidArgument(f"node {proto.name}: control input {text} is not found")
                inputs.append(f"^{name}")
            else:
                inputs.extend(name if slot == 0 else f"{name}:{slot}" for name, slot in self._resolve(text))
        proto.ClearField("input")
        proto.input.extend(inputs)

    def _outputs(self, signature: Signature, call: Any, graph: Graph, types: tuple[int, ...]) -> list[tuple[Node, int]]:
        outputs: list[tuple[Node, int]] = []
        for arg in signature.op_def.outputs:
            text = self._function.ret.get(arg.name)
            if text is None:
                raise InvalidArgument(f"Return value for output argument '{arg.name}' is missing.")
            endpoints = self._resolve(text)
            if len(endpoints) != _count(arg, call):
                raise InvalidArgument(
                    f"output argument '{arg.name}' stands for {_count(arg, call)} tensors, its return "
                    f"value {text} for {len(endpoints)}"
                )
            outputs.extend((graph.nodes[name], slot) for name, slot in endpoints)
        for (node, slot), expected in zip(outputs, types, strict=True):
            kind = node.output_types[slot]
            if kind not in (expected, expected + REF_OFFSET):
                raise InvalidArgument(
                    f"return value {node.name}:{slot} is {type_label(kind)}, the signature says {type_label(expected)}"
                )
        return outputs


def _count(arg: ArgDef, call: Any) -> int:
    """Return how many tensors an argument stands for; attrs have been checked by `Signature.types` or will be."""
    if arg.list_attr is not None:
        value = call.attr.get(arg.list_attr)
        return len(value.list.type) if value is not None else 0
    if arg.number_attr is not None:
        value = call.attr.get(arg.number_attr)
        return value.i if value is not None else 0
    return 1
