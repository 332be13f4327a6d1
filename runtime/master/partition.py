"""A step cut into one graph per task: edges between tasks become pairs of ``_Send`` and ``_Recv``.

The graphs are what TensorFlow's workers take, so whoever runs a part need not be one of ours. A loop that lies on
several tasks gets, on every task that receives tensors inside of it, a small loop of its own that is driven by the same
condition, so that what is received is received once in each turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime import wire
from runtime._ext.errors import InvalidArgument
from runtime.devices.device import Device, signed
from runtime.dtypes import REF_OFFSET, DataType, base
from runtime.graph.device_spec import parse
from runtime.graph.graph import Graph, is_back_edge
from runtime.graph.node import Node
from runtime.graph.prune import Selection

__all__ = ["Parts", "cut", "task_of"]

_ENTERS = frozenset({"Enter", "RefEnter"})
_EXITS = frozenset({"Exit", "RefExit"})
_NEXTS = frozenset({"NextIteration", "RefNextIteration"})
_SWITCHES = frozenset({"Switch", "RefSwitch"})
_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2"})
_ROOT = 0


def task_of(device: str) -> str:
    """Return the task in a device's name.

    Raises
    ------
    InvalidArgument
        If it has none.
    """
    spec = parse(device)
    if spec is None or spec.job is None or spec.task is None:
        raise InvalidArgument(f"{device!r} is no device of a task")
    return spec.task_name


@dataclass(slots=True)
class Parts:
    """A step in parts.

    Attributes
    ----------
    graphs : dict of str to wire.GraphDef
        By task; the master's own is always there.
    feed_keys, fetch_keys : list of str
        Rendezvous keys on the master's task, in the order of the selection's feeds and fetches.
    """

    graphs: dict[str, Any] = field(default_factory=dict)
    feed_keys: list[str] = field(default_factory=list)
    fetch_keys: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Source:
    """A node of some part whose values others may want."""

    name: str
    device: str
    frame: int
    signals: bool = False  # whether its end, not a value, is meant


@dataclass(slots=True)
class _Frame:
    parent: int
    name: bytes
    parallel_iterations: int
    condition: Node | None = None


def cut(selection: Selection, graph: Graph, client: Device, incarnations: Mapping[str, int],
        numbers: Iterable[int], sends_bfloat16: bool = False) -> Parts:
    """Cut a step.

    Parameters
    ----------
    selection : Selection
        Its nodes have their devices.
    graph : Graph
        Where versions and functions come from.
    client : Device
        Where fed values arrive and fetched ones leave; of the master's own task.
    incarnations : mapping of str to int
        Of every device that a node may be on.
    numbers : iterable of int
        Endless, and the same for all steps of a session: names of nodes that are added never repeat in one, since
        workers keep kernels by name.
    sends_bfloat16 : bool
        Send values of type float as bfloat16, cut off and not rounded, as ``GraphOptions.enable_bfloat16_sendrecv``
        asks for.

    Raises
    ------
    InvalidArgument
        If a loop over several tasks has no condition.
    """
    return _Cutter(selection, graph, client, incarnations, numbers, sends_bfloat16).cut()


class _Cutter:
    def __init__(self, selection: Selection, graph: Graph, client: Device, incarnations: Mapping[str, int],
                 numbers: Iterable[int], sends_bfloat16: bool) -> None:
        self._sends_bfloat16 = sends_bfloat16
        self._selection = selection
        self._graph = graph
        self._client = client
        self._incarnations = incarnations
        self._numbers = iter(numbers)
        self._parts = Parts()
        self._frames = [_Frame(-1, b"", 1)]
        self._frame_ids: dict[tuple[int, bytes], int] = {}
        self._inside: dict[Node, int] = {}  # the frame in which a node's inputs arrive
        self._outside: dict[Node, int] = {}  # the frame in which its outputs are
        self._devices: dict[Node, str] = {}
        self._fed: dict[tuple[Node, int], _Source] = {}
        self._values: dict[tuple[str, int, str], str] = {}  # (source, slot, task) -> input that has it there
        self._ends: dict[tuple[str, str], str] = {}
        self._pulses: dict[tuple[int, str], str] = {}  # (frame, task) -> Merge that comes once a turn

    def cut(self) -> Parts:
        needless = {node for node, slot in self._selection.fed if slot == 0 and node.op in _PLACEHOLDERS}
        nodes = [node for node in self._selection.nodes if node not in needless]
        self._find_frames(nodes)
        self._find_devices(nodes)
        self._part(self._client.name)
        for name, node, slot, kind in self._selection.feeds:
            self._add_feed(name, node, slot, kind)
        for node in nodes:
            self._add_node(node)
        for name, node, slot, kind in self._selection.fetches:
            self._add_fetch(name, node, slot, kind)
        for made in self._parts.graphs.values():
            made.versions.CopyFrom(self._graph.versions)
            made.library.SetInParent()
            if len(self._graph.library):
                made.library.CopyFrom(self._graph.library.to_proto())
        return self._parts

    # Frames and devices

    def _find_frames(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            frame = _ROOT
            for source, slot in node.inputs:
                if (source, slot) not in self._selection.fed and not is_back_edge(source, node):
                    frame = max(frame, self._outside.get(source, _ROOT))
            for source in node.control_inputs:
                frame = max(frame, self._outside.get(source, _ROOT))
            self._inside[node] = self._outside[node] = frame
            if node.op in _ENTERS:
                self._outside[node] = self._child(frame, node)
            elif node.op in _EXITS and frame != _ROOT:
                self._outside[node] = self._frames[frame].parent
            elif node.op == "LoopCond":
                self._frames[frame].condition = node

    def _child(self, frame: int, enter: Node) -> int:
        name = enter.attr("frame_name")
        found = self._frame_ids.get((frame, name))
        if found is None:
            found = self._frame_ids[frame, name] = len(self._frames)
            self._frames.append(_Frame(frame, name, int(enter.attr("parallel_iterations"))))
        return found

    def _find_devices(self, nodes: Iterable[Node]) -> None:
        """Bring the ends of loops and branches to what they belong to: they cannot be apart from it."""
        nodes = list(nodes)
        first_consumer: dict[Node, Node] = {}
        for node in nodes:
            self._devices[node] = node.device
            for source, _ in node.inputs:
                first_consumer.setdefault(source, node)
        for node in nodes:
            if node.op in _SWITCHES and node.inputs and node.inputs[0] not in self._selection.fed:
                self._devices[node] = self._devices.get(node.inputs[0][0], node.device)
        for node in nodes:
            if node.op in _EXITS:
                self._devices[node] = self._devices.get(node.inputs[0][0], node.device)
            elif node.op in ("Enter", *_NEXTS) and node in first_consumer:
                self._devices[node] = self._devices[first_consumer[node]]

    # Nodes

    def _part(self, device: str) -> Any:
        task = task_of(device)
        found = self._parts.graphs.get(task)
        if found is None:
            found = self._parts.graphs[task] = wire.GraphDef()
        return found

    def _add(self, name: str, op: str, device: str, inputs: Iterable[str] = (), **types: int) -> Any:
        proto = self._part(device).node.add(name=name, op=op, device=device, input=inputs)
        for attr, kind in types.items():
            proto.attr[attr].type = kind
        return proto

    def _add_node(self, node: Node) -> None:
        device = self._devices[node]
        proto = self._part(device).node.add()
        proto.CopyFrom(node.proto)
        proto.device = device
        proto.ClearField("input")
        task = task_of(device)
        inputs = []
        for position, (source, slot) in enumerate(node.inputs):
            kind = base(node.input_types[position])
            found = self._source(source, slot)
            if (source, slot) in self._fed:
                inputs.append(self._value(found, 0, kind, task, device))
            elif source.output_types[slot] > REF_OFFSET and task_of(found.device) != task:
                # A variable's value is of the moment when it is read: behind what the reader waits for.
                inputs.append(self._pair(found, slot, kind, task, device, node.control_inputs))
            else:
                inputs.append(self._value(found, slot, kind, task, device))
        controls = dict.fromkeys(self._end(source, task, device) for source in node.control_inputs)
        proto.input.extend([*inputs, *controls])

    def _source(self, node: Node, slot: int) -> _Source:
        fed = self._fed.get((node, slot))
        if fed is not None:
            return fed
        return _Source(node.name, self._devices.get(node, node.device), self._outside.get(node, _ROOT))

    def _add_feed(self, name: str, node: Node, slot: int, kind: DataType) -> None:
        device = self._client.name
        proto = self._add(f"_recv_{node.name}_{slot}", "_Recv", device, tensor_type=int(kind))
        self._set_ends(proto, name, device, device, client_terminated=True)
        self._fed[node, slot] = _Source(proto.name, device, _ROOT)
        self._parts.feed_keys.append(self._client_key(name))

    def _add_fetch(self, name: str, node: Node, slot: int, kind: DataType) -> None:
        device = self._client.name
        is_fed = (node, slot) in self._fed
        value = self._value(self._source(node, slot), 0 if is_fed else slot, kind, task_of(device), device)
        proto = self._add(f"_send_{node.name}_{slot}", "_Send", device, [value], T=int(kind))
        self._set_ends(proto, name, device, device, client_terminated=True)
        self._parts.fetch_keys.append(self._client_key(name))

    def _client_key(self, name: str) -> str:
        return f"{self._client.name};{self._client.incarnation:016x};{self._client.name};{name};0:0"

    def _set_ends(self, proto: Any, edge: str, sender: str, receiver: str, *, client_terminated: bool = False) -> None:
        proto.attr["tensor_name"].s = edge.encode()
        proto.attr["send_device"].s = sender.encode()
        proto.attr["recv_device"].s = receiver.encode()
        proto.attr["send_device_incarnation"].i = signed(self._incarnations[sender])
        proto.attr["client_terminated"].b = client_terminated

    # Edges

    def _value(self, source: _Source, slot: int, kind: DataType, task: str, device: str) -> str:
        """Return what to write as an input of a node on `task` that wants a value."""
        if task_of(source.device) == task:
            return source.name if slot == 0 else f"{source.name}:{slot}"
        key = (source.name, slot, task)
        found = self._values.get(key)
        if found is None:
            found = self._values[key] = self._pair(source, slot, kind, task, device)
        return found

    def _pair(self, source: _Source, slot: int, kind: DataType, task: str, device: str, behind: Iterable[Node] = ()
              ) -> str:
        """Add the two ends of an edge to another task and return the name of the one there.

        The value is sent behind the nodes in `behind`.
        """
        number = next(self._numbers)
        edge = f"edge_{number}_{source.name}"
        value = source.name if slot == 0 else f"{source.name}:{slot}"
        given = [value, *dict.fromkeys(self._end(node, task_of(source.device), source.device) for node in behind)]
        carried = kind
        if self._sends_bfloat16 and kind is DataType.FLOAT and not source.signals:
            carried = DataType.BFLOAT16
            given = [self._cast(source.name, source.device, given, kind, carried)]
        sent = self._add(f"{source.name}_S{number}", "_Send", source.device, given, T=int(carried))
        name = f"{source.name}_S{next(self._numbers)}"
        pulse = [] if source.frame == _ROOT else [f"^{self._pulse(source.frame, task, device)}"]
        got = self._add(name, "_Recv", device, pulse, tensor_type=int(carried))
        for proto in (sent, got):
            self._set_ends(proto, edge, source.device, device)
        return name if carried is kind else self._cast(source.name, device, [name], carried, kind)

    def _cast(self, about: str, device: str, inputs: Iterable[str], old: DataType, new: DataType) -> str:
        """Add a cast of what an edge carries and return its name."""
        proto = self._add(f"{about}_S{next(self._numbers)}", "Cast", device, inputs, SrcT=int(old), DstT=int(new))
        proto.attr["Truncate"].b = new is DataType.BFLOAT16
        return str(proto.name)

    def _end(self, node: Node, task: str, device: str) -> str:
        """Return what to write as a control input of a node on `task` that waits for another one."""
        if (node, 0) in self._fed and node.op in _PLACEHOLDERS:
            source = self._fed[node, 0]
        else:
            source = _Source(node.name, self._devices.get(node, node.device), self._outside.get(node, _ROOT))
        if task_of(source.device) == task:
            return f"^{source.name}"
        key = (source.name, task)
        found = self._ends.get(key)
        if found is None:
            signal = self._empty(f"{source.name}/ctrl_S{next(self._numbers)}", source.device, [f"^{source.name}"])
            got = self._pair(_Source(signal, source.device, source.frame, signals=True), 0, DataType.FLOAT, task,
                             device)
            name = f"{source.name}/ctrl_S{next(self._numbers)}"
            self._add(name, "Identity", device, [got], T=int(DataType.FLOAT))
            found = self._ends[key] = f"^{name}"
        return found

    def _empty(self, name: str, device: str, inputs: Iterable[str] = ()) -> str:
        """Add a constant that holds nothing: what is sent, or turned round in a loop, for its timing alone."""
        proto = self._add(name, "Const", device, inputs, dtype=int(DataType.FLOAT))
        proto.attr["value"].tensor.dtype = int(DataType.FLOAT)
        proto.attr["value"].tensor.tensor_shape.dim.add(size=0)
        return str(proto.name)

    def _pulse(self, frame: int, task: str, device: str) -> str:
        """Return the Merge of a loop on `task` that turns as the frame does, added on first use."""
        found = self._pulses.get((frame, task))
        if found is not None:
            return found
        about = self._frames[frame]
        if about.condition is None:
            name = about.name.decode(errors="replace")
            raise InvalidArgument(f"A cross-device loop must have a pivot predicate: {name}")
        number = next(self._numbers)
        merge, following = f"_cloop_merge_{number}", f"_cloop_next_{number}"
        self._pulses[frame, task] = merge
        kind = int(DataType.FLOAT)
        around = (self._empty(f"_cloop_start_{number}", device) if about.parent == _ROOT
                  else self._pulse(about.parent, task, device))
        enter = self._add(f"_cloop_enter_{number}", "Enter", device, [around], T=kind)
        enter.attr["frame_name"].s = about.name
        enter.attr["parallel_iterations"].i = about.parallel_iterations
        enter.attr["is_constant"].b = False
        made = self._add(merge, "Merge", device, [enter.name, following], T=kind)
        made.attr["N"].i = 2
        condition = about.condition
        chosen = self._value(self._source(condition, 0), 0, DataType.BOOL, task, device)
        switch = self._add(f"_cloop_switch_{number}", "Switch", device, [merge, chosen], T=kind)
        self._add(following, "NextIteration", device, [f"{switch.name}:1"], T=kind)
        return merge
