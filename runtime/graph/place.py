"""A device for every node, when nodes enter a session's graph.

Nodes that must be together form groups: those that name each other in ``_class``, and the two ends of an edge that
carries a reference or a resource. A group's requests are merged, the devices that fit are its candidates, and the best
of them is taken: an accelerator before a CPU, the master's own task before others, then by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import REF_OFFSET, DataType
from runtime.graph.device_spec import DeviceSpec, parse
from runtime.graph.node import Node

__all__ = ["PlaceableDevice", "Placer"]

_COLOCATE = b"loc:@"

# A call gets resources as arguments; where its body uses them does not bind the call.
_CALLS = frozenset(
    {
        "PartitionedCall",
        "StatefulPartitionedCall",
        "If",
        "StatelessIf",
        "While",
        "StatelessWhile",
        "Case",
        "StatelessCase",
        "SymbolicGradient",
        "RemoteCall",
        "MakeIterator",
        "IteratorGetNext",
        "IteratorGetNextSync",
    }
)
# Ops that read no more of their input than its shape; they follow it.
_METADATA = frozenset({"Shape", "ShapeN", "Size", "Rank"})
_ACCELERATORS_FIRST = ("TPU", "GPU", "CPU")


@dataclass(frozen=True, slots=True)
class PlaceableDevice:
    """A device as the placer sees it: its full name, and which op types it runs."""

    name: str
    spec: DeviceSpec
    supports: Callable[[str], bool]


class Placer:
    """Choose devices for the nodes of one session.

    Parameters
    ----------
    devices : sequence of (str, callable)
        Full device names, each with ``supports(op) -> bool``.
    own_task : str
        ``/job:J/replica:0/task:T`` of the master.
    soft : bool
        The session's ``allow_soft_placement``: a request for a device type or id that is not there falls back to what
        its task has.
    """

    def __init__(self, devices: Sequence[tuple[str, Callable[[str], bool]]], own_task: str, *, soft: bool) -> None:
        self._soft = soft
        self._own = parse(own_task) or DeviceSpec()
        placeable = [PlaceableDevice(name, parse(name) or DeviceSpec(), supports) for name, supports in devices]
        self._devices = sorted(placeable, key=self._rank)
        self._candidates: dict[DeviceSpec, list[PlaceableDevice]] = {}

    def _rank(self, device: PlaceableDevice) -> tuple[int, bool, str]:
        kind = device.spec.device_type or ""
        order = _ACCELERATORS_FIRST.index(kind) if kind in _ACCELERATORS_FIRST else len(_ACCELERATORS_FIRST)
        return order, not self._own.intersects(device.spec.without_device()), device.name

    def place(self, nodes: Mapping[str, Node], existing: Mapping[str, Node]) -> None:
        """Set ``node.device`` of every new node to the full name of its device.

        Parameters
        ----------
        nodes : mapping of str to Node
            New nodes, with their requests in ``device``.
        existing : mapping of str to Node
            Nodes placed before; they stay where they are, and new nodes of their groups join them.

        Raises
        ------
        InvalidArgument
            If no device fits a request, or requests of nodes that must be together conflict.
        """
        if len(self._devices) == 1:
            self._place_on_only(nodes)
            return
        groups = _Groups(self._soft)
        for node in nodes.values():
            groups.add(node, self._parse(node))
        self._colocate(nodes, existing, groups)
        chosen: dict[Node, str] = {}
        later = []
        for node in nodes.values():
            root = groups.find(node)
            if self._may_follow(node, groups):
                later.append(node)
            elif root not in chosen:
                chosen[root] = self._choose(groups.members(root), groups.spec(root))
        for node in later:
            chosen[node] = self._follow(node, nodes, groups, chosen)
        for node in nodes.values():
            node.device = chosen[groups.find(node)]

    def _place_on_only(self, nodes: Mapping[str, Node]) -> None:
        """With one device there is nothing to choose and nothing to colocate, only requests to check."""
        name = self._devices[0].name
        for node in nodes.values():
            if node.device and node.device != name:
                self._choose([node], self._parse(node))
            node.device = name

    def _parse(self, node: Node) -> DeviceSpec:
        spec = parse(node.device)
        if spec is None:
            raise InvalidArgument(
                f"Malformed device specification '{node.device}' in node: {{{{node {node.name}}}}}; a "
                f"device is any part of /job:J/replica:R/task:T/device:TYPE:ID\n\t [[{node.name}]]"
            )
        return spec

    def _colocate(self, nodes: Mapping[str, Node], existing: Mapping[str, Node], groups: _Groups) -> None:
        for node in nodes.values():
            if "_class" in node.proto.attr:
                for entry in node.attr("_class"):
                    if entry.startswith(_COLOCATE):
                        target = entry[len(_COLOCATE) :].decode("utf-8", "replace")
                        groups.join_named(node, target, nodes.get(target) or self._known(existing.get(target), groups))
        for node in nodes.values():
            for index, (source, slot) in enumerate(node.inputs):
                kind = source.output_types[slot]
                by_reference = kind > REF_OFFSET and node.input_types[index] > REF_OFFSET
                by_resource = kind == DataType.RESOURCE and node.op not in _CALLS and source.op not in _CALLS
                if by_reference or by_resource:
                    if source.name in existing:
                        self._known(source, groups)
                    groups.join_edge(source, node)

    def _known(self, node: Node | None, groups: _Groups) -> Node | None:
        """Let a node that was placed before take part, fixed where it is."""
        if node is not None and node not in groups:
            groups.add(node, parse(node.device) or DeviceSpec(), fixed=True)
        return node

    def _matching(self, spec: DeviceSpec) -> list[PlaceableDevice]:
        found = self._candidates.get(spec)
        if found is None:
            found = [device for device in self._devices if spec.matches(device.spec)]
            if len(self._candidates) < 1024:
                self._candidates[spec] = found
        return found

    def _choose(self, members: Sequence[Node], spec: DeviceSpec) -> str:
        ops = {node.op for node in members}
        matching = self._matching(spec)
        for device in matching:
            if all(device.supports(op) for op in ops):
                return device.name
        if self._soft:
            for device in self._matching(spec.without_device()):
                if all(device.supports(op) for op in ops):
                    return device.name
        asking = next((node for node in members if node.device), members[0])
        if matching:
            self._refuse(
                asking,
                f"Could not satisfy explicit device specification '{asking.device}' because no "
                f"supported kernel for {spec.device_type or 'these'} devices is available.",
            )
        listed = ", ".join(sorted(device.name for device in self._devices))
        no_gpu = not any(device.spec.device_type == "GPU" for device in self._devices)
        hint = (
            " The requested device appears to be a GPU, but CUDA is not enabled."
            if (spec.device_type == "GPU" and no_gpu)
            else ""
        )
        self._refuse(
            asking,
            f"{{{{node {asking.name}}}}} was explicitly assigned to {asking.device or spec} but available "
            f"devices are [ {listed} ]. Make sure the device specification refers to a valid device."
            f"{hint}",
        )
        raise AssertionError("unreachable")

    @staticmethod
    def _refuse(node: Node, text: str) -> None:
        raise InvalidArgument(f"Cannot assign a device for operation {node.name}: {text}\n\t [[{node.name}]]")

    def _may_follow(self, node: Node, groups: _Groups) -> bool:
        """Tell whether a node is free to go where its consumers, or its input, are."""
        if node.device or len(groups.members(groups.find(node))) > 1:
            return False
        if node.op in _METADATA:
            return True
        return not node.inputs and len(node.output_types) == 1 and node.output_types[0] < REF_OFFSET

    def _follow(self, node: Node, nodes: Mapping[str, Node], groups: _Groups, chosen: Mapping[Node, str]) -> str:
        if node.op in _METADATA:
            source = node.inputs[0][0]
            wanted = {chosen.get(groups.find(source)) if source.name in nodes else source.device}
        else:
            wanted = {chosen.get(groups.find(consumer)) for consumer in groups.consumers(node, nodes)}
        default = self._choose([node], groups.spec(node))
        if len(wanted) == 1:
            name = wanted.pop()
            for device in self._devices:
                if device.name == name and device.supports(node.op):
                    return device.name
        return default


class _Groups:
    """Nodes that must share a device: a union-find whose roots carry the merged request."""

    def __init__(self, soft: bool) -> None:
        self._soft = soft
        self._parent: dict[Node, Node] = {}
        self._members: dict[Node, list[Node]] = {}
        self._spec: dict[Node, DeviceSpec] = {}
        self._fixed: set[Node] = set()
        self._by_name: dict[str, Node] = {}
        self._consumers: dict[Node, list[Node]] | None = None

    def __contains__(self, node: Node) -> bool:
        return node in self._parent

    def add(self, node: Node, spec: DeviceSpec, *, fixed: bool = False) -> None:
        self._parent[node] = node
        self._members[node] = [node]
        self._spec[node] = spec
        if fixed:
            self._fixed.add(node)

    def find(self, node: Node) -> Node:
        root = node
        while self._parent[root] is not root:
            root = self._parent[root]
        while self._parent[node] is not root:
            self._parent[node], node = root, self._parent[node]
        return root

    def members(self, root: Node) -> list[Node]:
        return self._members[root]

    def spec(self, node: Node) -> DeviceSpec:
        return self._spec[self.find(node)]

    def join_named(self, node: Node, target_name: str, target: Node | None) -> None:
        """Join the group of ``loc:@target_name``, which need not be a node."""
        if target is None:
            target = self._by_name.setdefault(target_name, node)
        one, other = self.find(node), self.find(target)
        if one is other:
            return
        try:
            merged = self._spec[other].merge(self._spec[one], soft=self._soft)
        except InvalidArgument as error:
            raise InvalidArgument(
                f"Cannot colocate nodes {{{{colocation_node {node.name}}}}} and "
                f"{{{{colocation_node {target.name}}}}}: {error.message}"
            ) from None
        self._unite(one, other, merged)

    def join_edge(self, source: Node, target: Node) -> None:
        """Join the ends of a reference or resource edge; where they conflict, the source decides."""
        one, other = self.find(source), self.find(target)
        if one is other:
            return
        try:
            merged = self._spec[one].merge(self._spec[other], soft=self._soft)
        except InvalidArgument:
            merged = self._spec[one]
        self._unite(other, one, merged)

    def _unite(self, child: Node, root: Node, spec: DeviceSpec) -> None:
        if child in self._fixed and root not in self._fixed:
            child, root = root, child
        if root in self._fixed:
            spec = self._spec[root]
        self._parent[child] = root
        self._members[root].extend(self._members.pop(child))
        self._spec[root] = spec

    def consumers(self, node: Node, nodes: Mapping[str, Node]) -> list[Node]:
        if self._consumers is None:
            self._consumers = {}
            for target in nodes.values():
                for source, _ in target.inputs:
                    self._consumers.setdefault(source, []).append(target)
        return self._consumers.get(node, [])
