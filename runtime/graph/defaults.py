"""Attrs that a NodeDef leaves out: what its op says of them, written out for those who look at a graph."""

from __future__ import annotations

from typing import Any

from runtime.graph.node import Node
from runtime.ops.opdef import AttrDef

__all__ = ["fill_defaults"]


def fill_defaults(proto: Any, node: Node) -> None:
    """Set the attrs of a NodeDef that it leaves at their defaults."""
    if node.op_def is None:
        return
    for attr in node.op_def.attrs.values():
        if attr.has_default and attr.name not in proto.attr:
            _set_default(proto.attr[attr.name], attr)


def _set_default(value: Any, attr: AttrDef) -> None:
    default = attr.default
    kind = attr.kind
    if kind.startswith("list("):
        value.list.SetInParent()
        field = {"string": "s", "int": "i", "float": "f", "bool": "b"}.get(kind[5:-1], kind[5:-1])
        if field == "shape":
            for shape in default:
                _set_shape(value.list.shape.add(), shape)
        elif default:
            getattr(value.list, field).extend(default)
    elif kind == "shape":
        _set_shape(value.shape, default)
    elif kind == "func":
        value.func.name = default
    elif kind == "tensor":
        value.tensor.SetInParent()
    else:
        field = {"string": "s", "int": "i", "float": "f", "bool": "b"}.get(kind, kind)
        setattr(value, field, default)


def _set_shape(proto: Any, shape: tuple[int | None, ...] | None) -> None:
    proto.SetInParent()
    if shape is None:
        proto.unknown_rank = True
    else:
        for size in shape:
            proto.dim.add(size=-1 if size is None else size)
