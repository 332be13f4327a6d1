"""Barriers: components of tuples that come from different places, together again by their keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, base, to_numpy
from runtime.ops.handles import finder, make_handle, resource_place
from runtime.ops.objects import filled, kept
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.state.barrier import Barrier

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["BARRIER"]

BARRIER = "N10tensorflow7barrier7BarrierE"
"""Kind of barriers in the resource manager, as TensorFlow's messages have it."""

Run = Callable[..., Any]
Answer = Callable[[Any, "BaseException | None"], None]


def _finder(env: KernelEnv) -> Callable[[Any], Barrier]:
    return finder(env, Barrier, BARRIER, "a barrier")


def _labels(kinds: Sequence[int]) -> str:
    return ", ".join(base(kind).label for kind in kinds)


@kernel("Barrier", shape=lambda node, shapes: [(2,)])
def make_barrier(node: Node, env: KernelEnv) -> Run:
    types, shapes = [DataType(kind) for kind in node.attr("component_types")], list(node.attr("shapes"))
    if node.attr("capacity") != -1:
        raise InvalidArgument("Barrier only accepts capacity=-1.  Feed the inputs to your Barrier through a queue to "
                              "enforce a limited capacity.")
    if len(shapes) != len(types):
        raise InvalidArgument("All of the component shapes must be specified")
    for shape in shapes:
        if shape is None or None in shape:
            raise InvalidArgument("the shapes of a barrier's components must be fully known, got "
                                  f"{format_shape(shape)}")
    place = container, name = resource_place(node, env, BARRIER)
    found: Barrier = env.session.resources.lookup_or_create(
        container, BARRIER, name, lambda: Barrier(name, types, shapes))
    if found.component_types != tuple(types):
        raise InvalidArgument(f"Shared barrier '{name}' has component types {_labels(found.component_types)} but "
                              f"requested component types were {_labels(types)}")
    handle = make_handle(node, env, place, BARRIER, found)
    return lambda: handle


@kernel("BarrierInsertMany", asynchronous=True)
def barrier_insert(node: Node, env: KernelEnv) -> Run:
    find, component = _finder(env), int(node.attr("component_index"))
    kind = base(node.input_types[2])

    def run(step: StepContext, done: Answer, handle: Any, keys: Any, values: Any) -> None:
        barrier = find(handle)
        if not 0 <= component < len(barrier.component_types):
            raise InvalidArgument(f"The component ID is out of range {component} > num_components (= "
                                  f"{len(barrier.component_types)})")
        wanted = barrier.component_types[component]
        if wanted != kind:
            raise InvalidArgument(f"Signature mismatch, have: string_ref, string, {kind.label}-> expected: string_ref, "
                                  f"string, {wanted.label}->")
        shape = (keys.size, *(barrier.shapes[component] or ()))
        if values.shape != shape:
            raise InvalidArgument(f"Shape mismatch in values of component {component}. Expected {format_shape(shape)}, "
                                  f"got {format_shape(values.shape)}")
        barrier.insert(step, component, keys.reshape(-1).tolist(), kept(values), done)

    return run


def _taken_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None,), (None,), *[None] * (len(node.output_types) - 2)]


@kernel("BarrierTakeMany", asynchronous=True, shape=_taken_shape, host=(1,))
def barrier_take(node: Node, env: KernelEnv) -> Run:
    find, allow_fewer, xp = _finder(env), node.attr("allow_small_batch"), env.xp
    types = [base(kind) for kind in node.attr("component_types")]
    if node.attr("timeout_ms") != -1:
        raise InvalidArgument("Timeout not supported yet.")

    def run(step: StepContext, done: Answer, handle: Any, count: Any) -> None:
        barrier = find(handle)
        if count.ndim:
            raise InvalidArgument("num_elements must be a scalar.")
        if barrier.component_types != tuple(types):
            raise InvalidArgument(
                f"Signature mismatch, have: string_ref, int32->{_labels(node.output_types)} expected: string_ref, "
                f"int32->{_labels([DataType.INT64, DataType.STRING, *barrier.component_types])}")
        if count < 0:
            raise InvalidArgument(f"num_elements must not be negative, got {int(count)}")

        def finish(elements: Any, error: BaseException | None) -> None:
            if error is not None:
                done(None, error)
                return
            done([np.array([element[0] for element in elements], np.int64),
                  filled((len(elements),), [element[1].item() for element in elements]),
                  *(_stacked(xp, [element[2 + place] for element in elements], kind, barrier.shapes[place])
                    for place, kind in enumerate(types))], None)

        barrier.take(step, int(count), finish, allow_fewer=allow_fewer)

    return run


def _stacked(xp: Any, arrays: Sequence[Any], kind: DataType, shape: Shape) -> Any:
    return xp.stack(arrays) if arrays else xp.empty((0, *(shape or ())), to_numpy(kind))


@kernel("BarrierClose", asynchronous=True)
def barrier_close(node: Node, env: KernelEnv) -> Run:
    find, cancel = _finder(env), node.attr("cancel_pending_enqueues")
    return lambda step, done, handle: find(handle).shut(step, done, cancel_pending=cancel)


@kernel("BarrierReadySize", shape=scalar)
def barrier_ready_size(node: Node, env: KernelEnv) -> Run:
    find = _finder(env)
    return lambda handle: np.int32(find(handle).ready_size())


@kernel("BarrierIncompleteSize", shape=scalar)
def barrier_incomplete_size(node: Node, env: KernelEnv) -> Run:
    find = _finder(env)
    return lambda handle: np.int32(find(handle).incomplete_size())
