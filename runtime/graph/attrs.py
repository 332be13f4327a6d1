"""Python values as attrs of a node, checked against the op's definition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from runtime import wire
from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, as_datatype
from runtime.graph.values import constant_array, tensor_proto
from runtime.ops.opdef import AttrDef
from runtime.ops.registry import Shape

__all__ = ["as_shape", "attr_matches_default", "set_attr", "to_python"]


def as_shape(value: Any) -> Shape:
    """Return a shape given as a sequence, an int (a vector), None, or an object with ``as_list`` or ``dim``.

    Raises
    ------
    InvalidArgument
        If it is none of these.
    """
    if value is None:
        return None
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return (int(value),)
    if isinstance(value, wire.TensorShapeProto) or hasattr(value, "unknown_rank"):
        if getattr(value, "unknown_rank", False) is True:
            return None
        return tuple(None if dim.size < 0 else int(dim.size) for dim in value.dim)
    if hasattr(value, "as_list"):  # TensorFlow's TensorShape
        if getattr(value, "rank", 0) is None:
            return None
        value = value.as_list()
    try:
        dims = tuple(None if dim is None or dim == -1 else int(dim) for dim in value)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{value!r} is not a shape: give a sequence of sizes, None for unknown ones") from error
    if any(dim is not None and dim < 0 for dim in dims):
        raise InvalidArgument(f"{value!r} is not a shape: sizes cannot be negative (-1 or None means unknown)")
    return dims


def to_python(value: Any, declared: AttrDef, where: str) -> Any:
    """Return a value in the form attrs have in `runtime.graph.node.attr_value`, checked against its declaration.

    Parameters
    ----------
    where : str
        What the message names: op and node.

    Raises
    ------
    InvalidArgument
        If the value is of another kind, below the minimum, or not among the allowed values.
    """
    kind = declared.kind
    result: Any
    if kind.startswith("list("):
        if isinstance(value, (str, bytes)) or not isinstance(value, (Iterable, np.ndarray)):
            raise InvalidArgument(f"{where}: attr '{declared.name}' is a {kind}, got {type(value).__name__} {value!r}")
        result = [_element(item, kind[5:-1], declared, where) for item in value]
        if declared.minimum is not None and len(result) < declared.minimum:
            raise InvalidArgument(f"{where}: attr '{declared.name}' needs at least {declared.minimum} elements, "
                                  f"got {len(result)}: {value!r}")
        items = result
    else:
        result = _element(value, kind, declared, where)
        if declared.minimum is not None and result < declared.minimum:
            raise InvalidArgument(f"{where}: attr '{declared.name}' must be at least {declared.minimum}, got {result}")
        items = [result]
    if declared.allowed is not None:
        for item in items:
            if item not in declared.allowed:
                names = sorted(_label(choice) for choice in declared.allowed)
                raise InvalidArgument(f"{where}: attr '{declared.name}' cannot be {_label(item)}; allowed: "
                                      f"{', '.join(names)}")
    return result


def _label(item: Any) -> str:
    if isinstance(item, DataType):
        return item.label
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)


def _element(value: Any, kind: str, declared: AttrDef, where: str) -> Any:
    try:
        if kind == "int" and isinstance(value, (int, np.integer)) and not isinstance(value, bool):
            return int(value)
        if kind == "float" and isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
            return float(value)
        if kind == "bool" and isinstance(value, (bool, np.bool_)):
            return bool(value)
        if kind == "string" and isinstance(value, (bytes, str)):
            return value.encode() if isinstance(value, str) else value
        if kind == "type":
            return as_datatype(value)
        if kind == "shape":
            return as_shape(value)
        if kind == "tensor":
            return value if hasattr(value, "tensor_content") else tensor_proto(*constant_array(value))
        if kind == "func":
            return wire.NameAttrList(name=value) if isinstance(value, str) else value
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"{where}: attr '{declared.name}' is a {declared.kind}, got {type(value).__name__} "
                              f"{value!r}: {error}") from error
    raise InvalidArgument(f"{where}: attr '{declared.name}' is a {declared.kind}, got {type(value).__name__} {value!r}")


def attr_matches_default(value: Any, declared: AttrDef) -> bool:
    """Tell whether a value is the declared default, which is left out of the node as TensorFlow's clients do."""
    return declared.has_default and declared.kind not in ("tensor", "func") and bool(value == declared.default)


def set_attr(target: Any, value: Any, kind: str) -> None:
    """Write a Python value (see `to_python`) into an AttrValue message."""
    if kind.startswith("list("):
        target.list.SetInParent()
        element = kind[5:-1]
        for item in value:
            if element == "shape":
                _set_shape(target.list.shape.add(), item)
            elif element == "tensor":
                target.list.tensor.add().CopyFrom(item)
            elif element == "func":
                target.list.func.add().CopyFrom(item)
            else:
                field = {"string": "s", "int": "i", "float": "f", "bool": "b", "type": "type"}[element]
                getattr(target.list, field).append(int(item) if element == "type" else item)
    elif kind == "shape":
        target.shape.SetInParent()
        _set_shape(target.shape, value)
    elif kind == "tensor":
        target.tensor.CopyFrom(value)
    elif kind == "func":
        target.func.CopyFrom(value)
    else:
        field = {"string": "s", "int": "i", "float": "f", "bool": "b", "type": "type"}[kind]
        setattr(target, field, int(value) if kind == "type" else value)


def _set_shape(target: Any, shape: Shape) -> None:
    if shape is None:
        target.unknown_rank = True
    else:
        for dim in shape:
            target.dim.add(size=-1 if dim is None else dim)
