"""Inputs of a new operation: constants and variables become tensors, and types are inferred and checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType
from runtime.graph.tensor import Operation, Tensor
from runtime.graph.values import constant_array, natural_type
from runtime.graph.variables import Variable

if TYPE_CHECKING:
    from runtime.graph.builder import Graph
    from runtime.ops.opdef import ArgDef, OpDef

__all__ = ["as_tensor", "convert", "need_scope"]


def need_scope(op_def: OpDef, inputs: Sequence[Any]) -> bool:
    """Tell whether operations will be made for the inputs, so that they get a name scope of their own."""
    for arg, given in zip(op_def.inputs, inputs, strict=False):
        items = given if _is_list(arg) and isinstance(given, (list, tuple)) else (given,)
        for item in items:
            if isinstance(item, Variable) and arg.dtype is DataType.RESOURCE:
                continue
            if not isinstance(item, Tensor):
                return True
    return False


def _is_list(arg: ArgDef) -> bool:
    return arg.number_attr is not None or arg.list_attr is not None


def convert(graph: Graph, op_def: OpDef, inputs: Sequence[Any], attrs: dict[str, Any], where: str) -> list[Tensor]:
    """Return the inputs as tensors of the graph, and fill in the attrs that they decide.

    Parameters
    ----------
    inputs : sequence
        One entry per argument of the definition, lists for arguments that are lists.
    attrs : dict
        Attrs that are given; those of types and counts are added.
    where : str
        What messages name: op and node.

    Raises
    ------
    InvalidArgument
        Naming the input, what the definition expects and what was given.
    """
    if len(inputs) != len(op_def.inputs):
        names = ", ".join(arg.name for arg in op_def.inputs) or "none"
        raise InvalidArgument(f"{where} takes {len(op_def.inputs)} inputs ({names}), got {len(inputs)}")
    lists: list[list[Any]] = []
    for arg, given in zip(op_def.inputs, inputs, strict=True):
        if not _is_list(arg):
            lists.append([given])
            continue
        if not isinstance(given, (list, tuple)):
            raise InvalidArgument(f"{where}: input '{arg.name}' is a list of tensors, got {_describe(given)}")
        lists.append(list(given))
        if arg.number_attr is not None:
            _count(op_def, arg, len(given), attrs, where)
    deciders = _infer_types(op_def, lists, attrs, where)
    tensors: list[Tensor] = []
    for arg, items in zip(op_def.inputs, lists, strict=True):
        if arg.list_attr is not None:
            made = _list_input(graph, arg, items, attrs, where)
        else:
            kind = arg.dtype if arg.dtype is not None else attrs[arg.type_attr or ""]
            reason = deciders.get(arg.type_attr or "", "")
            labels = [f"input '{arg.name}'" + (f"[{index}]" if _is_list(arg) else "") for index in range(len(items))]
            made = [as_tensor(graph, item, kind, arg.name, f"{where}: {label}", reason)
                    for item, label in zip(items, labels, strict=True)]
        if arg.is_ref:
            for tensor in made:
                if not tensor.is_ref:
                    raise InvalidArgument(f"{where}: input '{arg.name}' must be a reference to a variable, got "
                                          f"tensor '{tensor.name}', which is a value")
        tensors.extend(made)
    return tensors


def _count(op_def: OpDef, arg: ArgDef, count: int, attrs: dict[str, Any], where: str) -> None:
    attr = arg.number_attr or ""
    if attrs.setdefault(attr, count) != count:
        raise InvalidArgument(f"{where}: input '{arg.name}' has {count} tensors, but attr '{attr}' is {attrs[attr]}")
    minimum = op_def.attrs[attr].minimum
    if count < (1 if minimum is None else minimum):
        raise InvalidArgument(f"{where}: input '{arg.name}' needs at least {minimum or 1} tensors, got {count}")


def _typed_items(op_def: OpDef, lists: list[list[Any]]) -> Iterator[tuple[str, ArgDef, Any]]:
    for arg, items in zip(op_def.inputs, lists, strict=True):
        if arg.type_attr is not None:
            for item in items:
                yield arg.type_attr, arg, item


def _infer_types(op_def: OpDef, lists: list[list[Any]], attrs: dict[str, Any], where: str) -> dict[str, str]:
    """Decide type attrs, tensors first, and return for each what decided it."""
    deciders: dict[str, str] = {name: f"attr '{name}'" for name in attrs}
    for attr, arg, item in _typed_items(op_def, lists):
        known = _known_type(item)
        if known is not None and attr not in attrs:
            attrs[attr] = known
            deciders[attr] = f"input '{arg.name}'"
            _check_allowed(op_def, attr, arg, known, where)
    for attr, arg, item in _typed_items(op_def, lists):
        if attr not in attrs:
            try:
                found = natural_type(item)
            except InvalidArgument as error:
                raise InvalidArgument(f"{where}: input '{arg.name}': {error.message}") from error
            declared = op_def.attrs[attr]
            if declared.allowed is not None and found not in declared.allowed:
                if not np.size(item):  # [] has no type of its own
                    found = declared.default if declared.has_default else min(declared.allowed)
                elif declared.has_default and _fits(item, declared.default):
                    found = declared.default
            attrs[attr] = found
            deciders[attr] = f"input '{arg.name}'"
            _check_allowed(op_def, attr, arg, found, where)
    return deciders


def _known_type(item: Any) -> DataType | None:
    if isinstance(item, (Tensor, Variable)):
        return item.dtype
    if isinstance(item, (list, tuple)):
        for part in item:
            found = _known_type(part)
            if found is not None:
                return found
    return None


def _fits(value: Any, dtype: DataType) -> bool:
    try:
        constant_array(value, dtype)
    except InvalidArgument:
        return False
    return True


def _check_allowed(op_def: OpDef, attr: str, arg: ArgDef, kind: DataType, where: str) -> None:
    allowed = op_def.attrs[attr].allowed
    if allowed is not None and kind not in allowed:
        names = ", ".join(sorted(choice.label for choice in allowed))
        raise InvalidArgument(f"{where}: input '{arg.name}' cannot be {kind.label}; expected one of: {names}")


def _list_input(graph: Graph, arg: ArgDef, items: list[Any], attrs: dict[str, Any], where: str) -> list[Tensor]:
    attr = arg.list_attr or ""
    given = attrs.get(attr)
    if given is not None and len(given) != len(items):
        raise InvalidArgument(f"{where}: input '{arg.name}' has {len(items)} tensors, but attr '{attr}' names "
                              f"{len(given)} types")
    kinds = given if given is not None else [None] * len(items)
    made = [as_tensor(graph, item, kind, arg.name, f"{where}: input '{arg.name}'[{index}]")
            for index, (item, kind) in enumerate(zip(items, kinds, strict=True))]
    attrs[attr] = [tensor.dtype for tensor in made]
    return made


def as_tensor(graph: Graph, value: Any, dtype: DataType | None, name: str, where: str, reason: str = "") -> Tensor:
    """Return a value as a tensor of a graph.

    Parameters
    ----------
    value
        A tensor, a variable, or whatever a constant can be made of; a list may mix constants and scalar tensors.
    dtype : DataType or None
        The type that it must have.
    name : str
        For the constant that may be made.
    where, reason : str
        What messages name: who asks, and what decided the type.
    """
    if isinstance(value, Variable):
        if value.graph is not graph:
            raise InvalidArgument(f"{where}: variable '{value.name}' belongs to another graph")
        value = value.handle if dtype is DataType.RESOURCE else value.value()
    if isinstance(value, Tensor):
        if value.graph is not graph:
            raise InvalidArgument(f"{where}: tensor '{value.name}' belongs to another graph")
        if dtype is not None and value.dtype is not dtype:
            expected = dtype.label + (f" (as {reason} is)" if reason else "")
            raise InvalidArgument(f"{where} must be {expected}, got tensor '{value.name}' of type "
                                  f"{value.dtype.label}; Graph.cast converts")
        return value
    if value is None or isinstance(value, Operation):
        raise InvalidArgument(f"{where} must be a tensor or a constant, got {_describe(value)}")
    if isinstance(value, (list, tuple)) and _known_type(value) is not None:
        kind = dtype if dtype is not None else _known_type(value)
        parts = [as_tensor(graph, item, kind, name, f"{where}[{index}]") for index, item in enumerate(value)]
        packed: Tensor = graph.op("Pack", parts, name=name)
        return packed
    try:
        array, kind = constant_array(value, dtype)
    except InvalidArgument as error:
        expected = "" if dtype is None else f" must be {dtype.label}" + (f" (as {reason} is)" if reason else "")
        raise InvalidArgument(f"{where}{expected}: {error.message}") from error
    return graph.constant(array, kind, name=name)


def _describe(value: Any) -> str:
    if isinstance(value, Operation):
        return f"operation '{value.name}' (op {value.type}), which is not a value"
    if isinstance(value, (Tensor, Variable)):
        return repr(value)
    return f"{type(value).__name__} {value!r}"


