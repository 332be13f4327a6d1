"""Queues: kernels that may wait, and never in a thread."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, is_ref, to_numpy
from runtime.ops.handles import finder, make_handle, resource_place
from runtime.ops.objects import kept
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.state.queue import Queue
from runtime.ops.state.stores import Element, FifoStore, PriorityStore, ShuffleStore, Store

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["QUEUE", "queue_finder"]

QUEUE = "N10tensorflow14QueueInterfaceE"
"""Kind of queues in the resource manager, as TensorFlow's handles have it."""

Run = Callable[..., Any]
Answer = Callable[[Any, BaseException | None], None]

_KINDS = ("FIFOQueue", "PaddingFIFOQueue", "PriorityQueue", "RandomShuffleQueue")
_OPS = (*_KINDS, *(f"{kind}V2" for kind in _KINDS))


def queue_finder(env: KernelEnv) -> Callable[[Any], Queue]:
    """Return a function that gives the queue which a handle names."""
    return finder(env, Queue, QUEUE, "a queue")


# Making queues


def _components(node: Node) -> tuple[list[DataType], list[Shape] | None]:
    """Return the types and shapes of a queue node's components; no shapes when it declares none."""
    types, shapes = list(node.attr("component_types")), list(node.attr("shapes"))
    if node.op.startswith("PriorityQueue"):
        return [DataType.INT64, *types], [(), *shapes] if shapes or not types else None
    return types, shapes or None


@kernel(*_OPS, shape=lambda node, shapes: [(2,) if is_ref(node.output_types[0]) else ()])
def make_queue(node: Node, env: KernelEnv) -> Run:
    types, shapes = _components(node)
    if shapes is not None and len(shapes) != len(types):
        raise InvalidArgument(f"Different number of component types.  Types: {_types(types)}, Shapes: "
                              f"{_shapes(shapes)}")
    capacity, behind = node.attr("capacity"), _min_after_dequeue(node)
    place = container, name = resource_place(node, env, QUEUE)
    kind = node.op.removesuffix("V2")
    queue = env.session.resources.lookup_or_create(
        container, QUEUE, name, lambda: Queue(kind, name, types, shapes, capacity, _store(node), behind))
    _check_same(queue, node, types, shapes, behind)
    handle = make_handle(node, env, place, QUEUE, queue)
    return lambda: handle


def _min_after_dequeue(node: Node) -> int:
    if not node.op.startswith("RandomShuffleQueue"):
        return 0
    capacity, behind = node.attr("capacity"), node.attr("min_after_dequeue")
    if behind < 0:
        raise InvalidArgument(f"min_after_dequeue {behind} must be >= 0")
    if 0 <= capacity <= behind:
        raise InvalidArgument(f"min_after_dequeue {behind} must be < capacity {capacity}")
    return int(behind)


def _store(node: Node) -> Store:
    if node.op.startswith("PriorityQueue"):
        return PriorityStore()
    if node.op.startswith("RandomShuffleQueue"):
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


def _check_enqueue(queue: Queue, components: Sequence[Any], node: Node, many: bool) -> None:
    types = node.input_types[1:]
    if tuple(types) != queue.component_types:
        handle = _handle_label(node)
        raise InvalidArgument(f"Signature mismatch, have: {', '.join([handle, _types(types)])}-> expected: "
                              f"{', '.join([handle, _types(queue.component_types)])}->")
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


def _handle_label(node: Node) -> str:
    return "string_ref" if is_ref(node.input_types[0]) else "resource"


def _no_timeout(node: Node) -> None:
    if node.attr("timeout_ms") != -1:
        raise InvalidArgument("Timeout not supported yet.")


@kernel("QueueEnqueue", "QueueEnqueueV2", "QueueEnqueueMany", "QueueEnqueueManyV2", asynchronous=True)
def enqueue(node: Node, env: KernelEnv) -> Run:
    _no_timeout(node)
    many, queue_of = node.op.startswith("QueueEnqueueMany"), queue_finder(env)

    def run(step: StepContext, done: Answer, handle: Any, *components: Any) -> None:
        queue = queue_of(handle)
        _check_enqueue(queue, components, node, many)
        arrays = [kept(component) for component in components]
        elements: list[Element]
        if many:
            elements = [tuple(component[row, ...] for component in arrays) for row in range(arrays[0].shape[0])]
        else:
            elements = [tuple(arrays)]
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
    if node.op in ("QueueDequeue", "QueueDequeueV2"):
        return declared
    return [None if shape is None else (None, *shape) for shape in declared]


def _check_dequeue(queue: Queue, node: Node) -> None:
    if node.output_types != queue.component_types:
        handle = _handle_label(node)
        raise InvalidArgument(f"Signature mismatch, have: {handle}->{_types(node.output_types)} expected: "
                              f"{handle}->{_types(queue.component_types)}")


def _outputs(components: Sequence[Any]) -> Any:
    """Return components as a kernel returns its outputs."""
    return components[0] if len(components) == 1 else list(components)


@kernel("QueueDequeue", "QueueDequeueV2", asynchronous=True, shape=_dequeue_shape)
def dequeue(node: Node, env: KernelEnv) -> Run:
    _no_timeout(node)
    queue_of = queue_finder(env)

    def run(step: StepContext, done: Answer, handle: Any) -> None:
        queue = queue_of(handle)
        _check_dequeue(queue, node)
        queue.dequeue(step, 1, lambda elements, error: done(_outputs(elements[0]) if elements else None, error))

    return run


@kernel("QueueDequeueMany", "QueueDequeueManyV2", "QueueDequeueUpTo", "QueueDequeueUpToV2", asynchronous=True,
        shape=_dequeue_shape, host=(1,))
def dequeue_many(node: Node, env: KernelEnv) -> Run:
    _no_timeout(node)
    up_to, xp, queue_of = node.op.startswith("QueueDequeueUpTo"), env.xp, queue_finder(env)
    name = "DequeueUpToOp" if up_to else "DequeueManyOp"

    def run(step: StepContext, done: Answer, handle: Any, count: Any) -> None:
        queue = queue_of(handle)
        if count.ndim:
            raise InvalidArgument(f"n must be a scalar, got shape {format_shape(count.shape)}")
        wanted = int(count)
        if wanted < 0:
            raise InvalidArgument(f"{name} requested {wanted} < 0 elements")
        _check_dequeue(queue, node)
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


@kernel("QueueSize", "QueueSizeV2", shape=scalar)
def queue_size(node: Node, env: KernelEnv) -> Run:
    queue_of = queue_finder(env)
    return lambda handle: np.int32(queue_of(handle).size())


@kernel("QueueIsClosed", "QueueIsClosedV2", shape=scalar)
def queue_is_closed(node: Node, env: KernelEnv) -> Run:
    queue_of = queue_finder(env)
    return lambda handle: np.bool_(queue_of(handle).closed)


@kernel("QueueClose", "QueueCloseV2", asynchronous=True)
def queue_close(node: Node, env: KernelEnv) -> Run:
    cancel, queue_of = node.attr("cancel_pending_enqueues"), queue_finder(env)

    def run(step: StepContext, done: Answer, handle: Any) -> None:
        queue_of(handle).shut(step, lambda _, error: done(None, error), cancel_pending_enqueues=cancel)

    return run
