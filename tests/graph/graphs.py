"""Graphs for tests, in a few words per node."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime import wire
from runtime.dtypes import DataType, from_numpy
from runtime.graph.node import Node


def node(name: str, op: str, *inputs: str, device: str = "", **attrs: Any) -> Any:
    """Return a NodeDef. A DataType becomes a type attr, a list of them a list(type), an array a tensor, and so on."""
    proto = wire.NodeDef(name=name, op=op, device=device)
    proto.input.extend(inputs)
    for key, value in attrs.items():
        set_attr(proto.attr[key], value)
    return proto


def set_attr(attr: Any, value: Any) -> None:
    """Set an AttrValue from a Python value."""
    if isinstance(value, DataType):
        attr.type = value
    elif isinstance(value, bool):
        attr.b = value
    elif isinstance(value, int):
        attr.i = value
    elif isinstance(value, float):
        attr.f = value
    elif isinstance(value, bytes):
        attr.s = value
    elif isinstance(value, str):
        attr.func.name = value
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        attr.tensor.dtype = from_numpy(array.dtype)
        attr.tensor.tensor_shape.SetInParent()
        for size in array.shape:
            attr.tensor.tensor_shape.dim.add(size=size)
        if array.dtype == object:
            attr.tensor.string_val.extend(array.ravel().tolist())
        else:
            attr.tensor.tensor_content = array.tobytes()
    elif isinstance(value, tuple):
        attr.shape.SetInParent()
        for size in value:
            attr.shape.dim.add(size=-1 if size is None else size)
    elif isinstance(value, list):
        attr.list.SetInParent()
        for item in value:
            if isinstance(item, DataType):
                attr.list.type.append(item)
            elif isinstance(item, int):
                attr.list.i.append(item)
            else:
                attr.list.s.append(item)
    else:
        raise TypeError(value)


FLOAT, INT32, INT64, BOOL, STRING = (DataType.FLOAT, DataType.INT32, DataType.INT64, DataType.BOOL, DataType.STRING)


def const(name: str, value: Any, *controls: str, device: str = "") -> Any:
    """Return a Const node; Python floats become float32, ints int32."""
    array = np.asarray(value)
    if array.dtype == np.float64 and not isinstance(value, (np.ndarray, np.generic)):
        array = array.astype(np.float32)
    if array.dtype == np.int64 and not isinstance(value, (np.ndarray, np.generic)):
        array = array.astype(np.int32)
    if array.dtype.kind == "S":
        array = array.astype(object)
    return node(name, "Const", *controls, dtype=from_numpy(array.dtype), value=array, device=device)


def placeholder(name: str, dtype: DataType = FLOAT, *controls: str) -> Any:
    """Return a Placeholder node of unknown shape."""
    return node(name, "Placeholder", *controls, dtype=dtype)


def identity(name: str, *inputs: str, dtype: DataType = FLOAT, device: str = "") -> Any:
    """Return an Identity node."""
    return node(name, "Identity", *inputs, T=dtype, device=device)


def graph_def(*nodes: Any, functions: tuple[Any, ...] = (), producer: int = 2474) -> Any:
    """Return a GraphDef."""
    made = wire.GraphDef()
    made.versions.producer = producer
    made.node.extend(nodes)
    made.library.function.extend(functions)
    return made


def function_def(
    name: str,
    inputs: dict[str, Any],
    outputs: dict[str, tuple[Any, str]],
    nodes: list[Any],
    controls: dict[str, str] | None = None,
    attrs: dict[str, str] | None = None,
) -> Any:
    """Return a FunctionDef. Types are DataTypes, or names of type attrs given in `attrs` with their kinds."""
    made = wire.FunctionDef()
    made.signature.name = name
    for attr, kind in (attrs or {}).items():
        made.signature.attr.add(name=attr, type=kind)
    for arg, kind in inputs.items():
        _arg(made.signature.input_arg.add(name=arg), kind)
    for arg, (kind, source) in outputs.items():
        _arg(made.signature.output_arg.add(name=arg), kind)
        made.ret[arg] = source
    made.node_def.extend(nodes)
    for key, value in (controls or {}).items():
        made.control_ret[key] = value
        made.signature.control_output.append(key)
    return made


def _arg(arg: Any, kind: Any) -> None:
    if isinstance(kind, DataType):
        arg.type = kind
    elif isinstance(kind, tuple):
        arg.number_attr, arg.type_attr = kind
    elif kind.endswith("..."):
        arg.type_list_attr = kind.removesuffix("...")
    else:
        arg.type_attr = kind


def names_of(nodes: list[Node]) -> list[str]:
    """Return the names of nodes."""
    return [item.name for item in nodes]
