"""One node of a graph: its definition, its attrs as Python values, its typed inputs and outputs."""

from __future__ import annotations

from typing import Any

from runtime._ext.errors import InvalidArgument, NotFound
from runtime.dtypes import REF_OFFSET, DataType
from runtime.ops import opdef

__all__ = ["Node", "attr_value", "node_types", "require_op", "unknown_op"]

_MISSING = object()


def attr_value(value: Any, kind: str) -> Any:
    """Return an AttrValue message as a Python value.

    Parameters
    ----------
    value : wire.AttrValue
    kind : str
        Declared kind of the attr (``int``, ``list(type)``, ...); decides what an empty list means.

    Returns
    -------
    object
        int, float, bool, bytes, DataType, shape (tuple of int/None, or None for unknown rank), TensorProto message,
        NameAttrList message, or a list of one of these.
    """
    which = value.WhichOneof("value")
    if which == "type":
        return _datatype(value.type)
    if which == "shape":
        return shape_value(value.shape)
    if which == "list":
        element = kind[5:-1] if kind.startswith("list(") else None
        items = value.list
        if element is None:
            for field, _ in items.ListFields():
                element = {"s": "string", "i": "int", "f": "float", "b": "bool"}.get(field.name, field.name)
        if element == "type":
            return [_datatype(item) for item in items.type]
        if element == "shape":
            return [shape_value(item) for item in items.shape]
        field_name = {"string": "s", "int": "i", "float": "f", "bool": "b"}.get(element or "i", element or "i")
        return list(getattr(items, field_name))
    if which is None:
        return [] if kind.startswith("list(") else None
    return getattr(value, which)


def _datatype(number: int) -> Any:
    """Keep reference types as plain numbers; they have no DataType member."""
    return number if number > REF_OFFSET else DataType(number)


def shape_value(shape: Any) -> tuple[int | None, ...] | None:
    """Return a TensorShapeProto as a tuple (None for an unknown dimension), or None for an unknown rank."""
    if shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in shape.dim)


class Node:
    """A node whose op is known, with its data inputs connected.

    Attributes
    ----------
    name, op : str
    op_def : OpDef or None
        None for a call of a library function by name.
    proto : wire.NodeDef
        The message it came from, unknown fields included; never changed.
    inputs : list of (Node, int)
        Data inputs: producer and its output slot.
    control_inputs : list of Node
    device : str
        Requested device before placement, full name after.
    input_types, output_types : tuple of int
        DataType numbers; outputs that are references carry the reference offset (100).
    """

    __slots__ = ("_attrs", "control_inputs", "device", "inputs", "input_types", "name", "op", "op_def", "output_types",
                 "proto")

    def __init__(self, proto: Any, op_def: opdef.OpDef | None, input_types: tuple[int, ...],
                 output_types: tuple[int, ...]) -> None:
        self.name: str = proto.name
        self.op: str = proto.op
        self.op_def = op_def
        self.proto = proto
        self.inputs: list[tuple[Node, int]] = []
        self.control_inputs: list[Node] = []
        self.device: str = proto.device
        self.input_types = input_types
        self.output_types = output_types
        self._attrs: dict[str, Any] = {}

    @property
    def is_stateful(self) -> bool:
        """Tell whether the op's definition is stateful (function calls are decided by their bodies)."""
        return self.op_def is not None and self.op_def.is_stateful

    def attr(self, name: str, default: Any = _MISSING) -> Any:
        """Return an attr as a Python value (see `attr_value`); defaults come from the op's definition.

        Raises
        ------
        InvalidArgument
            If it is absent and has no default.
        """
        value = self._attrs.get(name, _MISSING)
        if value is not _MISSING:
            return value
        declared = self.op_def.attrs.get(name) if self.op_def is not None else None
        if name in self.proto.attr:
            value = attr_value(self.proto.attr[name], declared.kind if declared else "")
        elif declared is not None and declared.has_default:
            value = declared.default
        elif default is not _MISSING:
            value = default
        else:
            raise InvalidArgument(f"Node '{self.name}' (op {self.op}): attr '{name}' is missing and has no default")
        self._attrs[name] = value
        return value

    def __repr__(self) -> str:
        return f"<Node {self.name} = {self.op}>"


def node_types(proto: Any, op_def: opdef.OpDef) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the input and output types of a NodeDef from its attrs.

    Raises
    ------
    NotFound
        If an attr that decides a type or a count is missing.
    InvalidArgument
        If it is of the wrong kind or not allowed.
    """
    from runtime.graph.validate import Signature, signature_of  # which need this module

    known = signature_of(op_def.name)
    return (known if known is not None and known.op_def is op_def else Signature(op_def)).types(proto)


def require_op(op: str) -> opdef.OpDef:
    """Return the definition of an op type.

    Raises
    ------
    NotFound
        In TensorFlow's words, when no op of that name is known.
    """
    found = opdef.lookup(op)
    if found is None:
        raise unknown_op(op)
    return found


def unknown_op(op: str) -> NotFound:
    """Return the error, in TensorFlow's words, for an op type that nobody knows."""
    return NotFound(f"Op type not registered '{op}' in binary running on this server. Make sure the Op and Kernel "
                    "are registered in the binary running in this process.")
