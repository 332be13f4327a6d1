"""Queues: kernels that may wait, and never in a thread."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime._ext.variable import ResourceHandle
from runtime.dtypes import DataType, to_numpy
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.state.queue import Queue
from runtime.ops.state.stores import Element, FifoStore, PriorityStore, ShuffleStore, Store
from runtime.ops.variables import handle_array

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["QUEUE", "queue_of"]

QUEUE = "N10tensorflow14QueueInterfaceE"
"""Kind of queues in the resource manager, as TensorFlow's handles have it."""

Run = Callable[..., Any]
Answer = Callable[[Any, BaseException | None], None]

_OPS = ("FIFOQueueV2", "PaddingFIFOQueueV2", "PriorityQueueV2", "RandomShuffleQueueV2")


def queue_of(handle: Any) -> Queue:
    """Return the queue that a resource tensor names.

    Raises
    ------
    InvalidArgument
        If the handle names something else.
    """
    found = getattr(handle.item(), "resource", None)
    if not isinstance(found, Queue):
        raise InvalidArgument(f"the resource handle {handle.item()!r} does not name a queue; connect the output of a "
                              "queue op")
    return found


# Making queues


def _components(node: Node) -> tuple[list[DataType], list[Shape] | None]:
    """Return the types and shapes of a queue node's components; no shapes when it declares none."""
    types, shapes = list(node.attr("component_types")), list(node.attr("shapes"))
    if node.op == "PriorityQueueV2":
        return [DataType.INT64, *types], [(), *shapes] if shapes or not types else None
    return types, shapes or None


@kernel(*_OPS, shape=scalar)
def make_queue(node: Node, env: KernelEnv) -> Run:
    types, shapes = _components(node)
    if shapes is not None and len(shapes) != len(types):
        raise InvalidArgument(f"Different number of component types.  Types: {_types(types)}, Shapes: "
                              f"{_shapes(shapes)}")
    capacity, behind = node.attr("capacity"), _min_after_dequeue(node)
    session = env.session
    container = session.resources.container_of(node.attr("container").decode())
    shared = node.attr("shared_name").decode()
    if shared.startswith("_"):
        raise InvalidArgument(f"shared_name cannot start with '_':{shared}")
    kind = node.op.removesuffix("V2")

    def private_name() -> str:
        made = session.private_name(node.name)
        session.own(container, QUEUE, made)
        return made

    name = shared or session.kernel_state(env.path + node.name, node.op, private_name)
    queue = session.resources.lookup_or_create(
        container, QUEUE, name, lambda: Queue(kind, name, types, shapes, capacity, _store(node), behind))
    _check_same(queue, node, types, shapes, behind)
    handle = handle_array(ResourceHandle(env.device.name, container, name, QUEUE, queue))
    return lambda: handle


def _min_after_dequeue(node: Node) -> int:
    if node.op != "RandomShuffleQueueV2":
        return 0
    capacity, behind = node.attr("capacity"), node.attr("min_after_dequeue")
    if behind < 0:
        raise InvalidArgument(f"min_after_dequeue {behind} must be >= 0")
    if 0 <= capacity <= behind:
        raise InvalidArgument(f"min_after_dequeue {behind} must be < capacity {capacity}")
    return int(behind)


def _store(node: Node) -> Store:
    if node.op == "PriorityQueueV2":
        return PriorityStore()
    if node.op == "RandomShuffleQueueV2":
        seed, seed2 = node.attr("seed"), node.attr("seed2")
        if not seed and not seed2:
            seed, seed2 = secrets.randbits(64), secrets.randbits(64)
        return ShuffleStore(seed, seed2)
    return FifoStore()


def _check_same(queue: Queue, node: Node, types: Sequence[DataType], shapes: Sequence[Shape] | None,
                behind: int) -> None:
    """Check that a queue another node has made is what this one declares."""
    if node.op.removesuffix("V2") != queue.kind:
        raise InvalidArgument(f"Expected {queue.kind}, found {node.op}")
    capacity = node.attr("capacity")
    shared = f"Shared queue '{queue.name}' has"
    if queue.capacity != capacity and (queue.capacity >= 0 or capacity >= 0):
        raise InvalidArgument(f"{shared} capacity {queue.capacity} but requested capacity was {capacity}")
    if queue.component_types != tuple(types):
        raise InvalidArgument(f"{shared} component types {_types(queue.component_types)} but requested component types "
                              f"were {_types(types)}")
    if (queue.shapes or ()) != tuple(shapes or ()):
        raise InvalidArgument(f"{shared} component shapes {_shapes(queue.shapes)} but requested component shapes were "
                              f"{_shapes(shapes)}")
    if queue.min_after_dequeue != behind:
        raise InvalidArgument(f"{shared} min_after_dequeue {queue.min_after_dequeue} but requested min_after_dequeue "
                              f"was {behind}.")


def _types(types: Sequence[int]) -> str:
    return ", ".join(DataType(kind).label for kind in types)


def _shapes(shapes: Sequence[Shape] | None) -> str:
    return "[" + ", ".join(format_shape(shape) for shape in shapes or ()) + "]"


# Enqueueing


def _fits(declared: Shape, shape: tuple[int, ...], queue: Queue) -> bool:
    if declared is None:
        return True
    return len(declared) == len(shape) and all(want is None or want == got
                                               for want, got in zip(declared, shape, strict=True))


def _check_enqueue(queue: Queue, components: Sequence[Any], types: Sequence[int], many: bool) -> None:
    if tuple(types) != queue.component_types:
        raise InvalidArgument(f"Signature mismatch, have: {_types([DataType.RESOURCE, *types])}-> expected: "
                              f"{_types([DataType.RESOURCE, *queue.component_types])}->")
    batch: int | None = None
    if many:
        for number, component in enumerate(components):
            if not component.ndim:
                raise InvalidArgument(f"Component {number} of an enqueue of many is a scalar; it needs a dimension "
                                      "whose entries are the elements")
            batch = component.shape[0] if batch is None else batch
            if component.shape[0] != batch:
                raise InvalidArgument("All input tensors must have the same size in the 0th dimension. Component "
                                      f"{number} has {component.shape[0]}, and should have {batch}")
    for number, (component, declared) in enumerate(zip(components, queue.shapes or (), strict=False)):
        expected = (batch, *declared) if many and declared is not None else declared
        if not _fits(expected, component.shape, queue):
            raise InvalidArgument(f"Shape mismatch in tuple component {number}. Expected {format_shape(expected)}, got "
                                  f"{format_shape(component.shape)}")


def _kept(array: Any) -> Any:
    """Return an array that may wait in a queue: one that views foreign bytes, such as a request's, is copied."""
    return array if array.flags.owndata else array.copy()


def _no_timeout(node: Node) -> None:
    if node.attr("timeout_ms") != -1:
        raise InvalidArgument("Timeout not supported yet.")


@kernel("QueueEnqueueV2", "QueueEnqueueManyV2", asynchronous=True)
def enqueue(node: Node, env: KernelEnv) -> Run:
    _no_timeout(node)
    types = [int(kind) for kind in node.attr("Tcomponents")]
    many = node.op == "QueueEnqueueManyV2"

    def run(step: StepContext, done: Answer, handle: Any, *components: Any) -> None:
        queue = queue_of(handle)
        _check_enqueue(queue, components, types, many)
        kept = [_kept(component) for component in components]
        elements: list[Element]
        if many:
            elements = [tuple(component[row, ...] for component in kept) for row in range(kept[0].shape[0])]
        else:
            elements = [tuple(kept)]
        queue.enqueue(step, elements, lambda _, error: done(None, error))

    return run


# Dequeueing


def _dequeue_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    source = node.inputs[0][0] if node.inputs else None
    if source is None or source.op not in _OPS:
        return [None] * len(node.output_types)
    declared = _components(source)[1]
    if declared is None or len(declared) != len(node.output_types):
        return [None] * len(node.output_types)
    if node.op == "QueueDequeueV2":
        return declared
    return [None if shape is None else (None, *shape) for shape in declared]


def _check_dequeue(queue: Queue, types: Sequence[int]) -> None:
    if tuple(types) != queue.component_types:
        raise InvalidArgument(f"Signature mismatch, have: resource->{_types(types)} expected: "
                              f"resource->{_types(queue.component_types)}")


def _outputs(components: Sequence[Any]) -> Any:
    """Return components as a kernel returns its outputs."""
    return components[0] if len(components) == 1 else list(components)


@kernel("QueueDequeueV2", asynchronous=True, shape=_dequeue_shape)
def dequeue(node: Node, env: KernelEnv) -> Run:
    _no_timeout(node)
    types = [int(kind) for kind in node.attr("component_types")]

    def run(step: StepContext, done: Answer, handle: Any) -> None:
        queue = queue_of(handle)
        _check_dequeue(queue, types)
        queue.dequeue(step, 1, lambda elements, error: done(_outputs(elements[0]) if elements else None, error))

    return run


@kernel("QueueDequeueManyV2", "QueueDequeueUpToV2", asynchronous=True, shape=_dequeue_shape, host=(1,))
def dequeue_many(node: Node, env: KernelEnv) -> Run:
    _no_timeout(node)
    types = [int(kind) for kind in node.attr("component_types")]
    up_to, xp = node.op == "QueueDequeueUpToV2", env.xp
    name = "DequeueUpToOp" if up_to else "DequeueManyOp"

    def run(step: StepContext, done: Answer, handle: Any, count: Any) -> None:
        queue = queue_of(handle)
        if count.ndim:
            raise InvalidArgument(f"n must be a scalar, got shape {format_shape(count.shape)}")
        wanted = int(count)
        if wanted < 0:
            raise InvalidArgument(f"{name} requested {wanted} < 0 elements")
        _check_dequeue(queue, types)
        if queue.shapes is None or any(shape is None for shape in queue.shapes):
            raise InvalidArgument(f"{queue.kind}'s DequeueMany and DequeueUpTo require the components to have "
                                  "specified shapes.")
        if not wanted:
            done(_outputs(_batch(xp, queue, [], pad=False)), None)
            return

        def finish(elements: list[Element] | None, error: BaseException | None) -> None:
            if elements is None:
                done(None, error)
                return
            try:
                result = _outputs(_batch(xp, queue, elements, pad=queue.kind == "PaddingFIFOQueue"))
            except Exception as failure:
                done(None, failure)
                return
            done(result, None)

        queue.dequeue(step, wanted, finish, allow_fewer=up_to)

    return run


def _batch(xp: Any, queue: Queue, elements: Sequence[Element], pad: bool) -> list[Any]:
    """Return elements as one array per component, stacked along a new first dimension.

    With `pad`, components of different shapes are filled up behind with zeros (empty strings) to the largest.
    """
    result = []
    for number, (kind, declared) in enumerate(zip(queue.component_types, queue.shapes or (), strict=True)):
        arrays = [element[number] for element in elements]
        if not arrays:
            result.append(xp.empty((0, *(dim or 0 for dim in declared or ())), to_numpy(kind)))
            continue
        shape = tuple(max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True))
        if pad and any(array.shape != shape for array in arrays):
            filled = np.full((len(arrays), *shape), b"" if kind == DataType.STRING else 0, to_numpy(kind))
            for row, array in enumerate(arrays):
                filled[row][tuple(slice(size) for size in array.shape)] = array
            result.append(xp.asarray(filled))
        else:
            result.append(xp.stack(arrays))
    return result


# The rest


@kernel("QueueSizeV2", shape=scalar)
def queue_size(node: Node, env: KernelEnv) -> Run:
    return lambda handle: np.int32(queue_of(handle).size())


@kernel("QueueIsClosedV2", shape=scalar)
def queue_is_closed(node: Node, env: KernelEnv) -> Run:
    return lambda handle: np.bool_(queue_of(handle).closed)


@kernel("QueueCloseV2", asynchronous=True)
def queue_close(node: Node, env: KernelEnv) -> Run:
    cancel = node.attr("cancel_pending_enqueues")

    def run(step: StepContext, done: Answer, handle: Any) -> None:
        queue_of(handle).shut(step, lambda _, error: done(None, error), cancel_pending_enqueues=cancel)

    return run
