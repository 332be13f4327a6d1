"""Nested fetches: what a caller names becomes a flat list, and the flat results take the caller's form again."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runtime._ext.errors import InvalidArgument
from runtime.graph.indexed_slices import IndexedSlices
from runtime.graph.tensor import Operation, Tensor
from runtime.graph.variables import Variable

__all__ = ["FetchPlan", "IndexedSlicesValue", "element_name"]

IndexedSlicesValue = namedtuple("IndexedSlicesValue", ["values", "indices", "dense_shape"])
"""What fetching an `IndexedSlices` gives: three arrays."""

Build = Callable[[Sequence[Any]], Any]


def element_name(item: Any) -> str | None:
    """Return the name of a graph element: ``NODE:INDEX`` for a tensor, ``NODE`` for an operation; else None.

    Knows names themselves, tensors, operations and variables of our builder, and those of TensorFlow by the
    attributes they have.
    """
    if isinstance(item, str):
        return item
    if isinstance(item, Variable):
        return item.read().name
    if isinstance(item, (Tensor, Operation)):
        return item.name
    convert = getattr(item, "_as_graph_element", None)  # TensorFlow's variables and other stand-ins for a tensor
    if callable(convert):
        converted = convert()
        item = converted if converted is not None else item
    name = getattr(item, "name", None)
    if isinstance(name, str) and hasattr(item, "graph") and hasattr(item, "op" if ":" in name else "outputs"):
        return name
    return None


class FetchPlan:
    """The flat form of nested fetches.

    Parameters
    ----------
    fetches : object
        A tensor, an operation, a variable or a name, or lists, tuples, named tuples, dicts and dataclasses of these,
        nested.

    Attributes
    ----------
    tensors : list of str
        Names to fetch, ``NODE:INDEX``, each once.
    operations : list of str
        Names to run; their place in the result is None.

    Raises
    ------
    InvalidArgument
        For anything that cannot be fetched.
    """

    __slots__ = ("_build", "_positions", "operations", "tensors")

    def __init__(self, fetches: Any) -> None:
        self._positions: dict[str, int] = {}
        self.operations: list[str] = []
        self._build = self._plan(fetches)
        self.tensors = list(self._positions)

    def build(self, values: Sequence[Any]) -> Any:
        """Return results, one per entry of `tensors`, in the caller's form."""
        return self._build(values)

    def _plan(self, item: Any) -> Build:
        name = element_name(item)
        if name is not None:
            return self._element(name)
        if isinstance(item, IndexedSlices):
            parts = [self._plan(part) for part in (item.values, item.indices, item.dense_shape)]
            return lambda values: IndexedSlicesValue(*(part(values) for part in parts))
        if isinstance(item, (list, tuple)):
            parts = [self._plan(part) for part in item]
            kind = type(item)
            if hasattr(kind, "_fields"):  # a named tuple
                return lambda values: kind(*(part(values) for part in parts))
            return lambda values: kind([part(values) for part in parts])
        if isinstance(item, Mapping):
            entries = {key: self._plan(part) for key, part in item.items()}
            return lambda values: _like_mapping(item, {key: part(values) for key, part in entries.items()})
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            entries = {field.name: self._plan(getattr(item, field.name)) for field in dataclasses.fields(item)}
            return lambda values: type(item)(**{key: part(values) for key, part in entries.items()})
        raise InvalidArgument(f"cannot fetch {type(item).__name__} {item!r}: fetches are tensors, operations, "
                              "variables or names, and lists, tuples, dicts and dataclasses of these")

    def _element(self, name: str) -> Build:
        if name.startswith("^"):
            raise InvalidArgument(f"cannot fetch '{name}': a control input has no value; fetch '{name[1:]}' to run it")
        node, colon, index = name.rpartition(":")
        if not colon:
            self.operations.append(name)
            return _nothing
        if not node or not index.isdigit():
            raise InvalidArgument(f"cannot fetch '{name}': names are NODE:INDEX for a tensor, NODE for an operation")
        position = self._positions.setdefault(name, len(self._positions))
        return lambda values: values[position]


def _nothing(values: Sequence[Any]) -> None:
    return None


def _like_mapping(original: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    if type(original) is dict:
        return values
    default = getattr(original, "default_factory", None)
    if default is not None:
        return type(original)(default, values)  # type: ignore[call-arg]
    return type(original)(values)  # type: ignore[call-arg]
