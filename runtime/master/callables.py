"""Callables: signatures that a client compiles once and then runs by number, with feeds and fetches by position."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.errors import InvalidArgument, Unimplemented
from runtime._ext.step_codec import ResponsePlan
from runtime.graph.graph import Graph
from runtime.graph.names import split_tensor
from runtime.graph.node import Node
from runtime.graph.prune import feed_endpoint, order, select
from runtime.master.steps import Compiled, PreparedStep, StepOptions, key_of, release

if TYPE_CHECKING:
    from runtime.master.session import MasterSession

__all__ = ["CallableTable", "connect"]


class CallableTable:
    """The callables of a session, numbered from 0.

    Safe from several threads.
    """

    def __init__(self, session: MasterSession) -> None:
        self._owner = weakref.ref(session)  # or a closed session would live until the next garbage collection
        self._callables: dict[int, PreparedStep] = {}
        self._next = 0
        self._lock = threading.Lock()

    @property
    def _session(self) -> MasterSession:
        session = self._owner()
        assert session is not None  # whoever calls a method holds the session
        return session

    def make(self, options: Any) -> int:
        """Compile a callable and return its handle.

        Parameters
        ----------
        options : wire.CallableOptions

        Raises
        ------
        Unimplemented
            If it wants tensors to stay on a device.
        InvalidArgument
            For a connection from nowhere, or one that would close a cycle.
        Error
            What is wrong with its signature.
        """
        if options.feed_devices or options.fetch_devices:
            raise Unimplemented(
                "CallableOptions::feed_devices and CallableOptions::fetch_devices to configure feeding/fetching "
                "tensors to/from device memory is not yet supported when using a remote session."
            )
        run_options = StepOptions.from_proto(options.run_options)
        feeds, fetches = tuple(options.feed), tuple(options.fetch)
        session = self._session
        graph = session.graph
        if options.tensor_connection:
            graph = connect(graph, options.tensor_connection, feeds, fetches, tuple(options.target))
        distinct = tuple(dict.fromkeys(fetches))
        selection, step = session.compile(select(graph, feeds, distinct, options.target))
        position = {name: index for index, name in enumerate(distinct)}
        entry = Compiled()
        entry.future.set_result((selection, step))
        prepared = PreparedStep(
            step,
            feeds,
            [int(kind) for kind in step.feed_types],
            None,
            None if distinct == fetches else [position[name] for name in fetches],
            ResponsePlan(fetches, [int(step.fetch_types[position[name]]) for name in fetches]),
            run_options,
            selection,
            entry,
            key_of(step, selection, run_options),
        )
        with self._lock:
            handle = self._next
            self._next += 1
            self._callables[handle] = prepared
        return handle

    def find(self, handle: int) -> PreparedStep:
        """Return a callable.

        Raises
        ------
        InvalidArgument
            If there is none of that number, or it was released.
        """
        found = self._callables.get(handle)
        if found is None:
            if 0 <= handle < self._next:
                raise InvalidArgument(f"Attempted to run callable after handle was released: {handle}")
            raise InvalidArgument(f"No such callable handle: {handle}")
        return found

    def release(self, handle: int) -> None:
        """Forget a callable; one that does not exist is fine."""
        found = self._callables.pop(handle, None)
        if found is not None:
            release(found.entry)

    def clear(self) -> None:
        """Forget all of them."""
        self._callables.clear()


def connect(
    graph: Graph, connections: Iterable[Any], feeds: tuple[str, ...], fetches: tuple[str, ...], targets: tuple[str, ...]
) -> Graph:
    """Return a copy of a graph in which consumers of some tensors read others instead.

    Parameters
    ----------
    graph : Graph
    connections : iterable of wire.TensorConnection
        Consumers of ``to_tensor`` read from ``from_tensor``, through an Identity.
    feeds, fetches, targets : tuple of str
        The callable's; a connected tensor counts as one more feed when these are checked.

    Raises
    ------
    InvalidArgument, NotFound
        As `prune.select`; also when ``from_tensor`` does not exist or the connection would close a cycle.
    """
    pairs = [(one.from_tensor, one.to_tensor) for one in connections]
    select(graph, [*feeds, *(to for _, to in pairs)], fetches, targets)
    sources: dict[tuple[Node, int], str] = {}
    copy = wire.GraphDef()
    copy.versions.CopyFrom(graph.versions)
    for index, (from_text, to_text) in enumerate(pairs):
        name, slot = split_tensor(from_text)
        source = graph.nodes.get(name)
        if source is None:
            raise InvalidArgument(f'Requested tensor connection from unknown node: "{to_text}".')
        if not 0 <= slot < len(source.output_types):
            raise InvalidArgument(
                f'Requested tensor connection from unknown edge: "{to_text}" (actual number of outputs '
                f"= {len(source.output_types)})."
            )
        _, target, target_slot, kind = feed_endpoint(graph, to_text)
        if any((target, target_slot) in node.inputs for node in order([source])):
            raise InvalidArgument(
                f'Requested Tensor connection between nodes "{target.name}" and "{source.name}" would create a cycle.'
            )
        bridge = copy.node.add(
            name=f"_connect_{index}_{target.name}_{target_slot}", op="Identity", device=source.device
        )
        bridge.input.append(f"{name}:{slot}")
        bridge.attr["T"].type = int(kind)  # type: ignore[assignment]
        sources[target, target_slot] = bridge.name
    for node in list(graph.nodes.values()):
        proto = copy.node.add()
        proto.CopyFrom(node.proto)
        proto.device = node.device
        for position, edge in enumerate(node.inputs):
            if edge in sources:
                proto.input[position] = sources[edge]
    return Graph.from_proto(copy, graph.library, internal=True)
