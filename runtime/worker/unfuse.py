"""Ops that a master's optimizer has fused, taken apart again.

A TensorFlow master puts one node in place of a convolution or product and what follows it: a bias, batch normalisation,
an activation. Here the parts have kernels of their own, and what is worth fusing is found again when the graph is
compiled. The last part keeps the fused node's name, so that whoever refers to it finds its value there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from runtime import wire
from runtime._ext.errors import InvalidArgument, Unimplemented

__all__ = ["unfused"]

_BASES = {
    "_FusedConv2D": "Conv2D",
    "_FusedConv3D": "Conv3D",
    "_FusedDepthwiseConv2dNative": "DepthwiseConv2dNative",
    "_FusedMatMul": "MatMul",
}
_BASE_ATTRS = ("T", "strides", "padding", "explicit_paddings", "data_format", "dilations", "transpose_a",
               "transpose_b")
_NORM = "_FusedBatchNormEx"
_ALPHA = 0.2
_PLAIN = frozenset({"Relu", "Relu6", "Elu", "Selu", "Tanh", "Sigmoid"})


def unfused(graph_def: Any) -> Any:
    """Return a GraphDef without fused ops: the given one when it has none.

    Raises
    ------
    InvalidArgument
        If a fused node has not the inputs that its parts need.
    Unimplemented
        If it has a part that is not known here; the error says how to have the master fuse nothing.
    """
    if not any(node.op in _BASES or node.op == _NORM for node in graph_def.node):
        return graph_def
    made = wire.GraphDef()
    made.versions.CopyFrom(graph_def.versions)
    made.library.CopyFrom(graph_def.library)
    moved: dict[str, str] = {}
    for node in graph_def.node:
        if node.op in _BASES:
            _Parts(made, node).take_apart()
        elif node.op == _NORM:
            _take_norm_apart(made, node)
            moved[node.name] = f"{node.name}/norm"
        else:
            made.node.append(node)
    if moved:  # outputs other than the first belong to the normalisation itself
        for node in made.node:
            for index, source in enumerate(node.input):
                name, _, slot = source.partition(":")
                if slot and slot != "0" and name in moved:
                    node.input[index] = f"{moved[name]}:{slot}"
    return made


class _Parts:
    """The parts of one fused node, as they are added to a graph."""

    def __init__(self, graph: Any, node: Any) -> None:
        self._graph = graph
        self._node = node
        self._controls = [source for source in node.input if source.startswith("^")]
        self._inputs = [source for source in node.input if not source.startswith("^")]
        self._args = self._inputs[2:]
        self._ops = [op.decode() for op in node.attr["fused_ops"].list.s]
        self._kind = node.attr["T"].type
        self._value = ""

    def take_apart(self) -> None:
        """Add the product, and then one part after the other."""
        base = _BASES[self._node.op]
        proto = self._add(base, self._inputs[:2], is_last=not self._ops)
        proto.input.extend(self._controls)
        for name in _BASE_ATTRS:
            if name in self._node.attr:
                proto.attr[name].CopyFrom(self._node.attr[name])
        for index, op in enumerate(self._ops):
            self._add_part(op, is_last=index == len(self._ops) - 1)

    def _add(self, op: str, inputs: list[str], *, is_last: bool, label: str = "") -> Any:
        name = self._node.name if is_last else f"{self._node.name}/{label or op}"
        proto = self._graph.node.add(name=name, op=op, device=self._node.device)
        proto.input.extend(inputs)
        if op not in ("MatMul", "Conv2D", "Conv3D", "DepthwiseConv2dNative"):
            proto.attr["T"].type = self._kind
        self._value = name
        return proto

    def _take(self, op: str, count: int) -> list[str]:
        if len(self._args) < count:
            raise InvalidArgument(f"{{{{node {self._node.name}}}}}: {self._node.op} with fused_ops {self._ops} has "
                                  f"{len(self._inputs)} inputs, and {op} needs {count - len(self._args)} more")
        taken, self._args = self._args[:count], self._args[count:]
        return taken

    def _layout(self, proto: Any) -> None:
        if "data_format" in self._node.attr:
            proto.attr["data_format"].CopyFrom(self._node.attr["data_format"])

    def _add_part(self, op: str, *, is_last: bool) -> None:
        value = self._value
        if op == "BiasAdd":
            proto = self._add(op, [value, *self._take(op, 1)], is_last=is_last)
            layout = self._node.attr["data_format"].s if "data_format" in self._node.attr else b""
            if layout in (b"NCHW", b"NCDHW"):
                proto.attr["data_format"].s = b"NCHW"
        elif op in ("Add", "AddV2"):
            self._add("AddV2", [value, *self._take(op, 1)], is_last=is_last)
        elif op == "FusedBatchNorm":
            proto = self._add("FusedBatchNormV3", [value, *self._take(op, 4)], is_last=is_last)
            proto.attr["U"].type = wire.DT_FLOAT
            proto.attr["is_training"].b = False
            if "epsilon" in self._node.attr:
                proto.attr["epsilon"].CopyFrom(self._node.attr["epsilon"])
            self._layout(proto)
        elif op == "LeakyRelu":
            proto = self._add(op, [value], is_last=is_last)
            alpha = self._node.attr.get("leakyrelu_alpha")
            proto.attr["alpha"].f = _ALPHA if alpha is None else alpha.f  # masters leave defaults out
        elif op in _PLAIN:
            self._add(op, [value], is_last=is_last)
        elif op == "_FusedHardSwish":
            self._scaled("Relu6", value, 3.0, 1 / 6, is_last)
        elif op in ("GeluExact", "GeluApproximate"):
            self._gelu(value, op == "GeluApproximate", is_last)
        else:
            raise Unimplemented(f"{{{{node {self._node.name}}}}}: {self._node.op} fuses {op!r}, which is not known "
                                "here; have the master fuse nothing with "
                                "ConfigProto.graph_options.rewrite_options.disable_meta_optimizer")

    def _constant(self, label: str, value: float) -> str:
        proto = self._graph.node.add(name=f"{self._node.name}/{label}", op="Const", device=self._node.device)
        proto.attr["dtype"].type = self._kind
        tensor = proto.attr["value"].tensor
        tensor.dtype = wire.DT_FLOAT
        tensor.tensor_shape.SetInParent()
        tensor.float_val.append(value)
        if self._kind == wire.DT_FLOAT:
            return str(proto.name)
        proto.attr["dtype"].type = wire.DT_FLOAT
        cast = self._graph.node.add(name=f"{proto.name}/cast", op="Cast", device=self._node.device, input=[proto.name])
        cast.attr["SrcT"].type = wire.DT_FLOAT
        cast.attr["DstT"].type = self._kind
        return str(cast.name)

    def _chain(self) -> Callable[..., str]:
        """Return what adds one inner node: ``add(label, op, *inputs)`` returns its name."""

        def add(label: str, op: str, *inputs: str) -> str:
            self._add(op, list(inputs), is_last=False, label=label)
            return self._value

        return add

    def _scaled(self, op: str, value: str, offset: float, factor: float, is_last: bool) -> None:
        """Add ``value * op(value + offset) * factor``."""
        add = self._chain()
        gate = add("gate", op, add("moved", "AddV2", value, self._constant("offset", offset)))
        part = add("part", "Mul", gate, self._constant("factor", factor))
        self._add("Mul", [value, part], is_last=is_last, label="scaled")

    def _gelu(self, value: str, approximate: bool, is_last: bool) -> None:
        """Add ``x / 2 * (1 + erf(x / sqrt 2))``, or its form with the hyperbolic tangent."""
        add = self._chain()
        if approximate:
            cube = add("cube", "Mul", add("square", "Mul", value, value), value)
            inner = add("inner", "AddV2", value, add("bent", "Mul", cube, self._constant("bend", 0.044715)))
            bell = add("bell", "Tanh", add("scaled", "Mul", inner, self._constant("scale", math.sqrt(2 / math.pi))))
        else:
            bell = add("bell", "Erf", add("scaled", "Mul", value, self._constant("scale", math.sqrt(0.5))))
        gate = add("gate", "AddV2", bell, self._constant("one", 1.0))
        half = add("half", "Mul", value, self._constant("half_of", 0.5))
        self._add("Mul", [half, gate], is_last=is_last, label="gelu")


def _take_norm_apart(graph: Any, node: Any) -> None:
    controls = [source for source in node.input if source.startswith("^")]
    inputs = [source for source in node.input if not source.startswith("^")]
    norm = graph.node.add(name=f"{node.name}/norm", op="FusedBatchNormV3", device=node.device)
    norm.input.extend([*inputs[:5], *controls])
    for name in ("T", "U", "epsilon", "exponential_avg_factor", "data_format", "is_training"):
        if name in node.attr:
            norm.attr[name].CopyFrom(node.attr[name])
    value = norm.name
    if len(inputs) > 5:
        side = graph.node.add(name=f"{node.name}/side", op="AddV2", device=node.device, input=[value, inputs[5]])
        side.attr["T"].CopyFrom(node.attr["T"])
        value = side.name
    mode = node.attr["activation_mode"].s.decode() or "Identity"
    if mode not in ("Identity", "Relu"):
        raise Unimplemented(f"{{{{node {node.name}}}}}: {node.op} has the activation_mode {mode!r}; Identity and Relu "
                            "are known here")
    last = graph.node.add(name=node.name, op=mode, device=node.device, input=[value])
    last.attr["T"].CopyFrom(node.attr["T"])
