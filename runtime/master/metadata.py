"""What RunMetadata says of a step: its timeline, and the graph that ran."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.devices.device import signed
from runtime.graph.defaults import fill_defaults
from runtime.graph.node import Node
from runtime.graph.prune import Selection
from runtime.master.parts_run import PartsRun
from runtime.master.steps import StepOptions
from runtime.observe.profile import PEAK_BYTES
from runtime.step.stats import step_stats

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.devices.device import Device
    from runtime.graph.graph import Graph
    from runtime.master.session import MasterSession

__all__ = ["PEAK_BYTES", "partition_graph", "step_metadata"]

logger = logging.getLogger(__name__)


def step_metadata(session: MasterSession, selection: Selection, options: StepOptions, step: StepContext) -> Any:
    """Return the RunMetadata that a step's options ask for, or None when they ask for nothing."""
    if not options.wants_metadata:
        return None
    metadata = wire.RunMetadata()
    device = session.task.devices[0]
    if isinstance(step.exchange, PartsRun):
        if options.trace:
            metadata.step_stats.CopyFrom(merged(step.exchange.stats))
        if options.partition_graphs:
            metadata.partition_graphs.extend(step.exchange.graphs)
        return metadata
    if options.trace and step.trace is not None:
        metadata.step_stats.CopyFrom(step_stats(step.trace, device.name))
        peak = step.peak_bytes
        metadata.cost_graph.cost.add(cost=peak, dimension=PEAK_BYTES)
        logger.info("step traced", extra={"step": step.step_id, "nodes": len(step.trace.events), PEAK_BYTES: peak})
    if options.partition_graphs:
        metadata.partition_graphs.append(partition_graph(session.graph, selection, device))
    return metadata


def merged(parts: Iterable[Any]) -> Any:
    """Return what several tasks tell of one step as one StepStats: an entry a device, its nodes by their beginnings."""
    devices: dict[str, Any] = {}
    for part in parts:
        for told in part.dev_stats:
            found = devices.get(told.device)
            if found is None:
                devices[told.device] = found = wire.DeviceStepStats()
            found.MergeFrom(told)
    stats = wire.StepStats()
    for name in sorted(devices):
        devices[name].node_stats.sort(key=lambda entry: entry.all_start_nanos or 1000 * entry.all_start_micros)
        stats.dev_stats.append(devices[name])
    return stats


def partition_graph(graph: Graph, selection: Selection, device: Device) -> Any:
    """Return the GraphDef of a step on its device, with feeds as ``_Recv`` and fetches as ``_Send`` nodes.

    Every node carries its device and all attrs, defaults included.
    """
    made = wire.GraphDef()
    made.versions.CopyFrom(graph.versions)
    made.library.SetInParent()
    if len(graph.library):
        made.library.CopyFrom(graph.library.to_proto())
    received = {}
    for name, node, slot, kind in selection.feeds:
        proto = made.node.add(name=f"_recv_{node.name}_{slot}", op="_Recv", device=device.name)
        proto.attr["tensor_type"].type = int(kind)  # type: ignore[assignment]
        _set_ends(proto, name, device)
        received[node, slot] = proto.name
    chosen = set(selection.nodes)
    for node in selection.nodes:
        proto = made.node.add()
        proto.CopyFrom(node.proto)
        proto.device = node.device
        fill_defaults(proto, node)
        data = [received.get(edge) or _spelled(edge) for edge in node.inputs]
        # A fed placeholder hands its control edges to what stands in for it.
        controls = [f"^{source.name if source in chosen else received[source, 0]}" for source in node.control_inputs]
        proto.ClearField("input")
        proto.input.extend([*data, *controls])
    for name, node, slot, kind in selection.fetches:
        proto = made.node.add(name=f"_send_{node.name}_{slot}", op="_Send", device=device.name)
        proto.input.append(received.get((node, slot)) or _spelled((node, slot)))
        proto.attr["T"].type = int(kind)  # type: ignore[assignment]
        _set_ends(proto, name, device)
    return made


def _spelled(edge: tuple[Node, int]) -> str:
    node, slot = edge
    return node.name if slot == 0 else f"{node.name}:{slot}"


def _set_ends(proto: Any, tensor_name: str, device: Device) -> None:
    proto.attr["tensor_name"].s = tensor_name.encode()
    proto.attr["send_device"].s = proto.attr["recv_device"].s = device.name.encode()
    proto.attr["send_device_incarnation"].i = signed(device.incarnation)
    proto.attr["client_terminated"].b = True
