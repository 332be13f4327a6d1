"""The graph of a session, wherever it comes from, and what is known of its tensors."""

from __future__ import annotations

import os
from typing import Any, Protocol

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext.errors import Error, InvalidArgument
from runtime.dtypes import DataType, base
from runtime.graph.builder import Graph
from runtime.graph.node import attr_value, node_types
from runtime.ops import opdef
from runtime.ops.registry import Shape

__all__ = ["GraphSource", "Growing", "TensorInfo", "open_graph"]

TensorInfo = tuple[DataType | None, Shape]
"""Type and static shape of a tensor; None where not known here."""


class Growing(Protocol):
    """A graph that may still grow: our builder's, or TensorFlow's ``tf.Graph``."""

    @property
    def version(self) -> int:
        """A number that grows with every operation."""

    def as_graph_def(self, from_version: int = 0) -> Any:
        """Return the operations made since a version."""


class GraphSource:
    """What a session sends, piece by piece, and knows of the nodes it has sent.

    Parameters
    ----------
    growing : Growing, optional
    fixed : wire.GraphDef, optional
        In place of a graph that grows.
    """

    def __init__(self, growing: Growing | None, fixed: Any = None) -> None:
        self.growing = growing
        self._fixed = fixed
        self._sent_version = 0
        self._nodes: dict[str, Any] = {}
        self._infos: dict[str, TensorInfo] = {}

    @property
    def has_news(self) -> bool:
        """Tell whether there may be nodes that were not sent."""
        return self._fixed is not None or (self.growing is not None and self.growing.version != self._sent_version)

    def news(self) -> tuple[Any, int]:
        """Return the nodes that were not sent, as a GraphDef of ours, and the version to pass to `sent`."""
        if self._fixed is not None:
            return self._fixed, 0
        assert self.growing is not None
        version = self.growing.version  # read first: what is added meanwhile comes twice and is dropped below
        found = self.growing.as_graph_def(from_version=self._sent_version)
        graph_def = found if isinstance(found, wire.GraphDef) else wire.GraphDef.FromString(found.SerializeToString())
        if any(node.name in self._nodes for node in graph_def.node):
            fresh = [node for node in graph_def.node if node.name not in self._nodes]
            del graph_def.node[:]
            graph_def.node.extend(fresh)
        return graph_def, version

    def sent(self, graph_def: Any, version: int) -> None:
        """Note that the server has these nodes."""
        self._nodes.update((node.name, node) for node in graph_def.node)
        self._sent_version = version
        self._fixed = None

    def info(self, name: str) -> TensorInfo:
        """Return type and static shape of the tensor ``NODE:INDEX``, as far as known here."""
        found = self._infos.get(name)
        if found is None:
            found = self._infos[name] = self._look_up(name)
        return found

    def _look_up(self, name: str) -> TensorInfo:
        node_name, _, index = name.rpartition(":")
        if isinstance(self.growing, Graph):
            try:
                tensor = self.growing.tensor(name)
            except Error:  # the server says what is wrong with the name
                return None, None
            return tensor.dtype, tensor.shape
        node = self._nodes.get(node_name)
        op_def = None if node is None else opdef.lookup(node.op)
        if node is None or op_def is None:
            return None, None
        try:
            outputs = node_types(node, op_def)[1]
        except Error:
            return None, None
        if int(index) >= len(outputs):
            return None, None
        shape = attr_value(node.attr["shape"], "shape") if node.op in _PLACEHOLDERS and "shape" in node.attr else None
        if node.op == "Placeholder" and shape == ():  # old clients write a scalar shape where they mean any
            shape = None
        return base(outputs[int(index)]), shape


_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})


def open_graph(graph: Any) -> GraphSource:
    """Return the source for what a caller gave as a session's graph.

    Parameters
    ----------
    graph : Graph, GraphDef, bytes, path or None
        Our builder's graph, a ``tf.Graph``, a GraphDef message of any package, its bytes, or the path of a file that
        holds one (binary; text if it ends in ``.pbtxt``). None for a new graph of our builder.

    Raises
    ------
    InvalidArgument
        If it is none of these or cannot be read as a graph.
    FileNotFoundError, PermissionError
        As for any file.
    """
    if graph is None:
        return GraphSource(Graph())
    if isinstance(graph, Graph):
        return GraphSource(graph)
    if isinstance(graph, (str, os.PathLike)):
        with open(graph, "rb") as file:
            data = file.read()
        if os.fspath(graph).endswith(".pbtxt"):
            return GraphSource(None, _parse_text(data, os.fspath(graph)))
        return GraphSource(None, _parse(data, f"file '{os.fspath(graph)}'"))
    if isinstance(graph, (bytes, bytearray, memoryview)):
        return GraphSource(None, _parse(bytes(graph), "the bytes given as graph"))
    if isinstance(graph, wire.GraphDef):
        copy = wire.GraphDef()
        copy.CopyFrom(graph)
        return GraphSource(None, copy)
    if hasattr(graph, "as_graph_def") and hasattr(graph, "version"):
        return GraphSource(graph)
    if hasattr(graph, "SerializeToString"):
        return GraphSource(None, _parse(graph.SerializeToString(), f"the {type(graph).__name__} given as graph"))
    raise InvalidArgument(f"graph must be a runtime.Graph, a GraphDef message, its bytes, a path or a tf.Graph, got "
                          f"{type(graph).__name__}")


def _parse(data: bytes, what: str) -> Any:
    try:
        return wire.GraphDef.FromString(data)
    except DecodeError as error:
        raise InvalidArgument(f"{what} is no GraphDef ({len(data)} bytes): {error}") from error


def _parse_text(data: bytes, path: str) -> Any:
    try:
        return text_format.Parse(data.decode("utf-8"), wire.GraphDef())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"file '{path}' is no GraphDef in text form: {error}") from error
