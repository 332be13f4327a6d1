"""A graph: nodes from GraphDef messages, checked and connected, with the library of its functions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from runtime import wire
from runtime._ext.errors import InvalidArgument
from runtime.dtypes import REF_OFFSET
from runtime.graph import names
from runtime.graph.collection import collection_paused
from runtime.graph.library import FunctionLibrary
from runtime.graph.node import Node, unknown_op
from runtime.graph.validate import Signature, check_versions, describe, signature_of, type_label

__all__ = ["Graph", "is_back_edge"]

_MAX_SHOWN = 10  # nodes of a cycle that a message names

_MERGES = frozenset({"Merge", "RefMerge"})
_NEXT_ITERATIONS = frozenset({"NextIteration", "RefNextIteration"})


def is_back_edge(source: Node, target: Node) -> bool:
    """Tell whether an edge leads back to the head of a loop: the one kind of edge that may close a cycle."""
    return source.op in _NEXT_ITERATIONS and target.op in _MERGES


class Graph:
    """Nodes by name, connected.

    Nodes are added, never changed or removed, so whoever holds a `Node` may go on using it while the graph grows.
    Reading needs no lock; extensions exclude each other.

    Attributes
    ----------
    nodes : dict of str to Node
    library : FunctionLibrary
    versions : wire.VersionDef
    """

    def __init__(self, library: FunctionLibrary | None = None, *, internal: bool = False) -> None:
        self.nodes: dict[str, Node] = {}
        self.library = FunctionLibrary() if library is None else library
        self.versions: Any = wire.VersionDef()
        self._internal = internal
        self._sources: list[Any] = []
        self._lock = threading.Lock()

    @classmethod
    def from_proto(
        cls,
        graph_def: Any,
        library: FunctionLibrary | None = None,
        *,
        internal: bool = False,
        accept: Callable[[dict[str, Node]], None] | None = None,
    ) -> Graph:
        """Return the graph of a GraphDef message, which is kept and must not be changed afterwards.

        Parameters
        ----------
        graph_def : wire.GraphDef
        library : FunctionLibrary, optional
            To use and extend in place of a new one.
        internal : bool
            Whether node names may begin with an underscore: yes for graphs that a runtime made, no for a client's.
        accept : callable, optional
            Gets the new nodes by name before they become part of the graph; what it raises keeps them out.

        Raises
        ------
        InvalidArgument
            For a malformed name or input, a duplicate node, an input that does not exist or is of another type, a
            cycle, an attr that is missing or wrong, a function that differs from one of the library.
        NotFound
            For an unknown op.
        """
        graph = cls(library, internal=internal)
        check_versions(graph_def.versions)
        graph.versions = graph_def.versions
        graph._add(graph_def, accept)
        return graph

    def extend(self, graph_def: Any, accept: Callable[[dict[str, Node]], None] | None = None) -> list[Node]:
        """Add the nodes and functions of a GraphDef: all of them, or none and an error.

        Parameters
        ----------
        graph_def : wire.GraphDef
            Kept, and must not be changed afterwards.
        accept : callable, optional
            As for `from_proto`.

        Returns
        -------
        list of Node
            The new nodes.

        Raises
        ------
        InvalidArgument
            As `from_proto`, and when a node exists already or the producers differ.
        NotFound
            For an unknown op.
        """
        with self._lock:
            for proto in graph_def.node:
                if proto.name in self.nodes:
                    raise InvalidArgument(
                        f"GraphDef argument to Extend includes node '{proto.name}', which was created by a previous "
                        "call to Create or Extend in this session."
                    )
            mine = self.versions.producer
            if self.nodes and graph_def.node and graph_def.versions.producer != mine:
                raise InvalidArgument(
                    f"Can't extend GraphDef at version {mine} with graph at version {graph_def.versions.producer}"
                )
            check_versions(graph_def.versions)
            was_empty = not self.nodes
            added = self._add(graph_def, accept)
            if was_empty:
                self.versions = graph_def.versions
            return added

    def to_proto(self) -> Any:
        """Return the whole graph as one GraphDef message, unknown fields included."""
        merged = wire.GraphDef()
        for source in self._sources:
            merged.MergeFrom(source)
        merged.versions.CopyFrom(self.versions)
        merged.ClearField("library")
        if len(self.library):
            merged.library.CopyFrom(self.library.to_proto())
        return merged

    def _add(self, graph_def: Any, accept: Callable[[dict[str, Node]], None] | None) -> list[Node]:
        fresh_functions = self.library.check(graph_def.library)
        functions = {function.signature.name: function for function in fresh_functions}
        library = self.library
        if functions:  # nodes may call the functions that come with them
            library = FunctionLibrary(graph_def.library)
        with collection_paused(len(graph_def.node)):
            added = _Builder(self.nodes, (self.library, library), self._internal).build(graph_def.node)
            if accept is not None:
                accept(added)
        self.library.add(graph_def.library)
        self.nodes.update(added)
        self._sources.append(graph_def)
        return list(added.values())


class _Builder:
    """Make connected nodes of NodeDefs, beside nodes that exist."""

    def __init__(self, existing: dict[str, Node], libraries: tuple[FunctionLibrary, ...], internal: bool) -> None:
        self._existing = existing
        self._libraries = libraries
        self._internal = internal
        self._added: dict[str, Node] = {}
        self._signatures: dict[str, Signature] = {}

    def build(self, protos: Iterable[Any]) -> dict[str, Node]:
        """Return the new nodes by name."""
        added = self._added
        existing = self._existing
        valid_name = names.INTERNAL_NODE if self._internal else names.EXTERNAL_NODE
        signatures = self._signatures
        pending: list[tuple[Node, list[str]]] = []
        for proto in protos:
            name = proto.name
            if valid_name(name) is None:
                raise InvalidArgument(f"Illegal op name '{name}'\n\t [[{{{{node {name}}}}}]]")
            if name in added or name in existing:
                raise InvalidArgument(f"Node '{name}' is not unique")
            op = proto.op
            signature = signatures.get(op) or self._signature(op)
            input_types, output_types = signature.types(proto)
            op_def = signature.op_def if signature.is_registered else None
            node = Node(proto, op_def, input_types, output_types)
            texts = proto.input
            # Nearly every graph lists producers first: then one pass connects it and proves that it has no cycle.
            if (texts or input_types) and not self._connect_quickly(node, texts):
                pending.append((node, list(texts)))
            added[name] = node
        if pending:
            for node, texts in pending:
                self._connect(node, texts)
            self._refuse_cycles()
        return added

    def _signature(self, op: str) -> Signature:
        found = signature_of(op)
        if found is None:
            for library in self._libraries:
                found = library.signature(op)
                if found is not None:
                    break
            else:
                raise unknown_op(op)
        self._signatures[op] = found
        return found

    def _connect_quickly(self, node: Node, texts: Any) -> bool:
        """Connect a node whose inputs are all known and right; leave it alone and return False otherwise."""
        added = self._added
        existing = self._existing
        input_types = node.input_types
        inputs = node.inputs
        controls: dict[Node, None] = {}
        count = 0
        expected = len(input_types)
        for text in texts:
            source = added.get(text)
            slot = 0
            if source is None:
                if text[:1] == "^":
                    source = added.get(text[1:]) or existing.get(text[1:])
                    if source is None or count != expected:
                        break
                    controls[source] = None
                    continue
                name, colon, digits = text.rpartition(":")
                if (
                    colon
                    and digits.isascii()
                    and digits.isdigit()
                    and (digits == "0" or (digits[0] != "0" and len(digits) < 9))
                ):
                    source = added.get(name) or existing.get(name)
                    slot = int(digits)
                else:
                    source = existing.get(text)
                if source is None:
                    break
            if controls or count == expected or slot >= len(source.output_types):
                break
            kind = source.output_types[slot]
            wanted = input_types[count]
            if kind != wanted and kind != wanted + REF_OFFSET:
                break
            inputs.append((source, slot))
            count += 1
        else:
            if count == expected:
                node.control_inputs.extend(controls)
                return True
        inputs.clear()
        return False

    def _connect(self, node: Node, texts: list[str]) -> None:
        """Connect a node with every check, in TensorFlow's order: syntax, existence, types."""
        suffix = f"\n\t [[{{{{node {node.name}}}}}]]"
        in_control = False
        for text in texts:
            is_control = names.control_input(text, internal=self._internal)
            if not is_control and not names.data_input(text, internal=self._internal):
                raise InvalidArgument(f"Illegal op input name '{text}'{suffix}")
            if in_control and not is_control:
                raise InvalidArgument(f"All control inputs must follow all data inputs{suffix}")
            in_control = is_control
        controls: dict[Node, None] = {}
        for text in texts:
            name, slot = names.split_tensor(text)
            source = self._added.get(name) or self._existing.get(name)
            if source is None:
                raise InvalidArgument(f"Node '{node.name}': Unknown input node '{text}'")
            if slot == names.CONTROL_SLOT:
                controls[source] = None
            elif slot >= len(source.output_types):
                raise InvalidArgument(
                    f"Node '{node.name}': Connecting to invalid output {slot} of source node {name} "
                    f"which has {len(source.output_types)} outputs."
                )
            else:
                node.inputs.append((source, slot))
        node.control_inputs.extend(controls)
        self._check_inputs(node)

    def _check_inputs(self, node: Node) -> None:
        expected = node.input_types
        for index, (source, slot) in enumerate(node.inputs):
            if index >= len(expected):
                raise InvalidArgument(
                    f"Input {index} of node {node.name} does not exist. Node only has {len(expected)} inputs."
                )
            kind = source.output_types[slot]
            if kind != expected[index] and kind != expected[index] + REF_OFFSET:
                raise InvalidArgument(
                    f"Input {index} of node {node.name} was passed {type_label(kind)} from "
                    f"{source.name}:{slot} incompatible with expected {type_label(expected[index])}."
                )
        if len(node.inputs) < len(expected):
            wanted = ", ".join(type_label(kind) for kind in expected)
            op_def = node.op_def or self._signatures[node.op].op_def
            raise InvalidArgument(
                f"NodeDef expected inputs '{wanted}' do not match {len(node.inputs)} inputs "
                f"specified; {describe(op_def)}; NodeDef: {{{{node {node.name}}}}}"
            )

    def _refuse_cycles(self) -> None:
        """Raise unless every cycle of the new nodes goes through an edge from NextIteration to Merge."""
        waiting: dict[Node, int] = {}
        consumers: dict[Node, list[Node]] = {}
        ready = []
        for node in self._added.values():
            count = 0
            for source, _ in node.inputs:
                if source.name in self._added and not is_back_edge(source, node):
                    consumers.setdefault(source, []).append(node)
                    count += 1
            for source in node.control_inputs:
                if source.name in self._added:
                    consumers.setdefault(source, []).append(node)
                    count += 1
            if count:
                waiting[node] = count
            else:
                ready.append(node)
        while ready:
            for consumer in consumers.get(ready.pop(), ()):
                waiting[consumer] -= 1
                if not waiting[consumer]:
                    del waiting[consumer]
                    ready.append(consumer)
        if waiting:
            shown = ", ".join(node.name for node in list(waiting)[:_MAX_SHOWN])
            more = ", ..." if len(waiting) > _MAX_SHOWN else ""
            raise InvalidArgument(f"{len(waiting)} nodes in a cycle: {shown}{more}")
