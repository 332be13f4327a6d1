"""What is fed: names from whatever stands for a tensor, arrays from whatever stands for its value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from runtime._ext.errors import InvalidArgument
from runtime.client.fetches import element_name
from runtime.client.graphs import GraphSource
from runtime.client.transport import Array
from runtime.graph.tensor import Operation, Tensor
from runtime.graph.values import constant_array, feed_array

__all__ = ["Feeds", "feed_name"]


def feed_name(key: Any) -> str:
    """Return ``NODE:INDEX`` for a key of a feed dictionary: a tensor or a name (``NODE`` means output 0).

    Raises
    ------
    InvalidArgument
        If it is neither.
    """
    name = None if isinstance(key, Operation) else element_name(key)
    if name is None:
        raise InvalidArgument(f"cannot feed {type(key).__name__} {key!r}: keys of a feed dictionary are tensors or "
                              "their names")
    node, colon, index = name.rpartition(":")
    if not colon:
        if not isinstance(key, str):
            raise InvalidArgument(f"cannot feed '{name}': it is an operation; feed one of its outputs, '{name}:0'")
        return f"{name}:0"
    if not node or not index.isdigit():
        raise InvalidArgument(f"cannot feed '{name}': names of tensors are NODE:INDEX")
    return name


class Feeds:
    """Names, arrays and types of one step's feeds.

    Attributes
    ----------
    names : tuple of str
    values : list of ndarray
    types : tuple of int
        DataType numbers.
    """

    __slots__ = ("names", "types", "values")

    def __init__(self, source: GraphSource, items: Iterable[tuple[Any, Any]]) -> None:
        names: dict[str, None] = {}
        self.values: list[Array] = []
        types: list[int] = []
        for key, value in items:
            name = feed_name(key)
            if name in names:
                raise InvalidArgument(f"tensor '{name}' is fed twice")
            names[name] = None
            array, kind = feed_value(source, name, value)
            self.values.append(array)
            types.append(kind)
        self.names = tuple(names)
        self.types = tuple(types)

    @classmethod
    def of(cls, source: GraphSource, feed_dict: Mapping[Any, Any] | None) -> Feeds:
        """Return the feeds of a dictionary.

        Raises
        ------
        InvalidArgument
            For a key that is no tensor, or a value that cannot be one of its type and shape.
        """
        if feed_dict is not None and not isinstance(feed_dict, Mapping):
            raise InvalidArgument(f"feed_dict must be a mapping of tensors to values, got {type(feed_dict).__name__}")
        return cls(source, feed_dict.items() if feed_dict else ())


def feed_value(source: GraphSource, name: str, value: Any) -> tuple[Array, int]:
    """Return an array and its DataType number for a value fed to a tensor; see `runtime.graph.values.feed_array`."""
    if isinstance(value, Tensor) or (hasattr(value, "op") and hasattr(value, "graph")):
        raise InvalidArgument(f"cannot feed tensor '{name}' with {value!r}: it is a tensor of a graph, not a value; "
                              "run it first, or build the graph with it")
    dtype, shape = source.info(name)
    if dtype is None:  # not known here: the server compares types
        array, kind = constant_array(value)
        return array, int(kind)
    return feed_array(value, dtype, name, shape), int(dtype)
