"""From a step's signature to something that runs: `compile_step` and the `CompiledStep` it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import Internal, InvalidArgument
from runtime._ext.executor import Dataflow, Program
from runtime._ext.variable import ResourceHandle
from runtime.dtypes import REF_OFFSET, DataType, from_numpy, to_numpy
from runtime.step.bounds import is_bounded
from runtime.step.functions import Functions, lower
from runtime.step.partial import PartialRun
from runtime.step.unread import unread

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.library import FunctionLibrary
    from runtime.graph.prune import Endpoint, Selection
    from runtime.step.environment import SessionState

__all__ = ["CompiledStep", "compile_step", "resolve_handles"]

Done = Callable[["list[Any] | None", "BaseException | None"], None]


class CompiledStep:
    """A step that can be run any number of times, also by several threads at once.

    Attributes
    ----------
    feed_types, fetch_types : tuple of DataType
        In the order of the signature.
    blocking : bool
        Whether something in it may wait; then only `start` may be used.
    bounded : bool
        Whether its time follows from the sizes of its feeds; see `runtime.step.bounds`.
    executor : Program or Dataflow
    run : callable
        ``run(step, feeds) -> list of ndarray`` runs to the end in the calling thread. Returned arrays may be feeds,
        constants or the current values of variables, and are not to be written.

    Notes
    -----
    An error of a kernel keeps its class and ends with the node's name in TensorFlow's form. A fetched value that is
    dead raises `runtime._ext.executor.DeadFetch`, which says which one.
    """

    __slots__ = (
        "_selection",
        "_state",
        "blocking",
        "bounded",
        "executor",
        "feed_types",
        "fetch_types",
        "run",
        "timing",
    )

    def __init__(
        self, executor: Program | Dataflow, blocking: bool, bounded: bool, selection: Selection, state: SessionState
    ) -> None:
        self.executor = executor
        self.blocking = blocking
        self.bounded = bounded
        self.feed_types: tuple[DataType, ...] = tuple(entry[3] for entry in selection.feeds)
        self.fetch_types: tuple[DataType, ...] = tuple(entry[3] for entry in selection.fetches)
        self.run: Callable[[StepContext, Sequence[Any]], list[Any]] = executor.run
        self.timing: dict[int, float] = {}
        self._selection = selection
        self._state = state

    def start(self, step: StepContext, feeds: Sequence[Any], done: Done) -> None:
        """Run; ``done(outputs, error)`` is called exactly once, after every kernel has returned.

        What can run at once runs in the calling thread; what comes after a wait goes through ``step.hand_over``.
        """
        executor = self.executor
        if isinstance(executor, Dataflow):
            executor.start(step, feeds, done)
            return
        try:
            outputs = executor.run(step, feeds)
        except BaseException as error:
            done(None, error)
        else:
            done(outputs, None)

    def begin_partial(self, step: StepContext) -> PartialRun:
        """Open a partial run; the step must have been compiled for it.

        Raises
        ------
        ValueError
            If it was compiled without ``partial=True``.
        """
        if not isinstance(self.executor, Dataflow):
            raise ValueError("the step was not compiled for partial runs; use compile_step(..., partial=True)")
        return PartialRun(self.executor.begin(step), step)


def compile_step(
    selection: Selection,
    library: FunctionLibrary,
    state: SessionState,
    *,
    partial: bool = False,
    keep_unread: bool = False,
) -> CompiledStep:
    """Compile the nodes of a step.

    Parameters
    ----------
    selection : Selection
        From `runtime.graph.prune.select`.
    library : FunctionLibrary
        The graph's.
    state : SessionState
    partial : bool
        Whether feeds come and fetches go one by one.
    keep_unread : bool
        Run those nodes, too, whose values nobody reads.

    Raises
    ------
    Error
        If a node's kernel is missing or cannot be bound; the node is named.
    """
    fed = {(node, slot) for _, node, slot, _ in selection.feeds}
    needs = {node for node, slot in fed if slot == 0 and node.op in _PLACEHOLDERS}
    nodes = [node for node in selection.nodes if node not in needs] if needs else selection.nodes
    names = [
        f"_send_{node.name}_{slot}" if node.output_types[slot] > REF_OFFSET and (node, slot) not in fed else None
        for _, node, slot, _ in selection.fetches
    ]
    executor, blocking = lower(
        Functions.of(library, state),
        nodes,
        [(node, slot) for _, node, slot, _ in selection.feeds],
        [_feed_number(kind) for _, _, _, kind in selection.feeds],
        [(node, slot) for _, node, slot, _ in selection.fetches],
        names,
        _adapter(selection.feeds, state),
        by_dataflow=partial,
        left_out=() if keep_unread else unread(nodes, {*(entry[1] for entry in selection.fetches), *selection.targets}),
    )
    bounded = is_bounded(selection.nodes, {node for node, _ in fed}, library)
    return CompiledStep(executor, blocking, bounded, selection, state)


_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2"})


def _feed_number(kind: DataType) -> int:
    """Return the numpy type number that needs no further look; handles always get one."""
    return -1 if kind is DataType.RESOURCE else to_numpy(kind).num


def _adapter(feeds: Sequence[Endpoint], state: SessionState) -> Callable[[int, Any], Any]:
    """Return what brings feeds into the right form: swapped bytes, handles, things that are no arrays."""

    def adapt(position: int, value: Any) -> Any:
        name, node, slot, kind = feeds[position]
        if not isinstance(value, np.ndarray):
            value = np.asarray(value)
        wanted = to_numpy(kind)
        if value.dtype != wanted and value.dtype.newbyteorder("=") != wanted:
            found = "an array of no tensor type" if value.dtype.kind in "mMV" else from_numpy(value.dtype).label
            raise Internal(
                f"Output 0 of type {found} does not match declared output type {kind.label} for node "
                f"{{{{node _recv_{node.name}_{slot}}}}}"
            )
        if kind is DataType.RESOURCE:
            return resolve_handles(value, name, state)
        return np.ascontiguousarray(value, dtype=wanted).reshape(value.shape)

    return adapt


def resolve_handles(value: Any, name: str, state: SessionState) -> Any:
    """Return resource handles in place of their serialised forms.

    Raises
    ------
    InvalidArgument
        If an element is no handle, or names a resource of another device.
    InvalidArgument
        If the resource does not exist.
    """
    resolved = np.empty(value.shape, dtype=object)
    for position in np.ndindex(value.shape):
        element = value[position]
        if not isinstance(element, ResourceHandle):
            element = _resolve_handle(element, name, state)
        resolved[position] = element
    return resolved


def _resolve_handle(data: Any, name: str, state: SessionState) -> ResourceHandle:
    device, container, resource, kind = _parse_handle(data, name)
    here = state.device.name
    if device and device != here:
        raise InvalidArgument(f"Trying to access resource {resource} located in device {device} from device {here}")
    found = state.resources.lookup(container, kind, resource)
    return ResourceHandle(here, container, resource, kind, found)


def _parse_handle(data: Any, name: str) -> tuple[str, str, str, str]:
    """Return device, container, name and type name of serialised ResourceHandleProto bytes (fields 1, 2, 3 and 5)."""
    if not isinstance(data, bytes):
        raise InvalidArgument(
            f"the feed '{name}' is of type resource: its elements must be handles, as fetched from "
            f"this server, not {type(data).__name__}"
        )
    texts = {1: "", 2: "", 3: "", 5: ""}
    try:
        place = 0
        while place < len(data):
            tag, place = _varint(data, place)
            if tag & 7 == 0:
                _, place = _varint(data, place)
            elif tag & 7 == 2:
                length, place = _varint(data, place)
                if place + length > len(data):
                    raise IndexError
                if tag >> 3 in texts:
                    texts[tag >> 3] = data[place : place + length].decode()
                place += length
            else:
                raise IndexError
    except (IndexError, UnicodeDecodeError):
        raise InvalidArgument(
            f"the feed '{name}' is of type resource, but its {len(data)} bytes are not a serialised ResourceHandleProto"
        ) from None
    return texts[1], texts[2], texts[3], texts[5]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise IndexError
