"""Staging areas, plain and by key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import to_numpy
from runtime.ops.handles import resource_place
from runtime.ops.objects import kept
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar, unknown
from runtime.ops.state.staging import StagingArea, StagingMap

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__: list[str] = []

_AREA, _MAP, _ORDERED_MAP = "StagingArea", "StagingMap", "OrderedStagingMap"

Run = Callable[..., Any]
Answer = Callable[[Any, "BaseException | None"], None]


def _bounds(node: Node) -> tuple[int, int]:
    return int(node.attr("capacity")), int(node.attr("memory_limit"))


def _area(node: Node, env: KernelEnv) -> Callable[[], StagingArea]:
    """Return a function that gives the node's area, made by the first op that runs with its name."""
    container, name = resource_place(node, env, _AREA, by_node_name=True)
    resources, bounds = env.session.resources, _bounds(node)
    return lambda: resources.lookup_or_create(container, _AREA, name, lambda: StagingArea(*bounds))


def _map(node: Node, env: KernelEnv) -> Callable[[], StagingMap]:
    is_ordered = node.op.startswith("Ordered")
    kind = _ORDERED_MAP if is_ordered else _MAP
    container, name = resource_place(node, env, kind, by_node_name=True)
    resources, bounds, width = env.session.resources, _bounds(node), len(node.attr("dtypes"))
    return lambda: resources.lookup_or_create(container, kind, name, lambda: StagingMap(width, *bounds, is_ordered))


def _outputs(done: Answer, node: Node, lead: int = 0) -> Answer:
    """Return a callback that hands on tensors which have the types of a node's outputs after the first `lead`."""
    dtypes = [to_numpy(kind) for kind in node.output_types[lead:]]

    def finish(found: Any, error: BaseException | None) -> None:
        if error is not None:
            done(None, error)
            return
        key, tensors = found if lead else (None, found)
        if len(tensors) != len(dtypes):
            done(None, InvalidArgument(f"Mismatch stage/unstage: {len(tensors)} vs. {len(dtypes)}"))
            return
        for number, (tensor, dtype) in enumerate(zip(tensors, dtypes, strict=True)):
            if tensor.dtype != dtype:
                done(None, InvalidArgument(f"tensor {number} was staged as {tensor.dtype}, but {node.op} "
                                           f"'{node.name}' gives {dtype}"))
                return
        outputs = [np.asarray(key), *tensors] if lead else list(tensors)
        done(outputs[0] if len(outputs) == 1 else outputs, None)

    return finish


def _nothing(done: Answer) -> Answer:
    return lambda _, error: done(None, error)


# Areas


@kernel("Stage", asynchronous=True)
def stage(node: Node, env: KernelEnv) -> Run:
    area = _area(node, env)
    return lambda step, done, *values: area().put(step, [kept(value) for value in values], _nothing(done))


@kernel("Unstage", asynchronous=True, shape=unknown)
def unstage(node: Node, env: KernelEnv) -> Run:
    area = _area(node, env)
    return lambda step, done: area().take(step, _outputs(done, node))


@kernel("StagePeek", asynchronous=True, shape=unknown, host=(0,))
def stage_peek(node: Node, env: KernelEnv) -> Run:
    area = _area(node, env)

    def run(step: StepContext, done: Answer, index: Any) -> None:
        if index.ndim:
            raise InvalidArgument(f"index must be scalar, got shape {format_shape(index.shape)}")
        if index < 0:
            raise InvalidArgument(f"index must not be negative, got {int(index)}")
        area().peek(step, int(index), _outputs(done, node))

    return run


@kernel("StageSize", shape=scalar)
def stage_size(node: Node, env: KernelEnv) -> Run:
    area = _area(node, env)
    return lambda: np.int32(area().size())


@kernel("StageClear")
def stage_clear(node: Node, env: KernelEnv) -> Run:
    area = _area(node, env)
    return lambda: area().clear()


# Maps


def _key(tensor: Any) -> int:
    if tensor.size != 1:
        raise InvalidArgument("key must not be empty" if not tensor.size else
                              f"key must be an int64 scalar, got tensor with shape: {format_shape(tensor.shape)}")
    return int(tensor.item())


def _indices(tensor: Any) -> list[int]:
    if tensor.ndim != 1:
        raise InvalidArgument(f"Expected indices to be a vector, but received shape: {format_shape(tensor.shape)}")
    found: list[int] = tensor.tolist()
    return found


def _two(name: str) -> tuple[str, str]:
    return f"Map{name}", f"OrderedMap{name}"


@kernel(*_two("Stage"), asynchronous=True, host=(0, 1))
def map_stage(node: Node, env: KernelEnv) -> Run:
    found, types = _map(node, env), [int(kind) for kind in node.attr("dtypes")]

    def run(step: StepContext, done: Answer, key: Any, indices: Any, *values: Any) -> None:
        number, places = _key(key), _indices(indices)
        if len(places) != len(values):
            raise InvalidArgument(f"{len(places)} indices were given for {len(values)} values")
        for place, kind in zip(places, node.input_types[2:], strict=True):
            if 0 <= place < len(types) and types[place] != kind:
                raise InvalidArgument(f"the value for index {place} of {node.op} '{node.name}' is of type "
                                      f"{to_numpy(kind)}, {to_numpy(types[place])} is declared")
        found().put(step, number, places, [kept(value) for value in values], _nothing(done))

    return run


@kernel(*_two("Unstage"), asynchronous=True, shape=unknown, host=(0, 1))
def map_unstage(node: Node, env: KernelEnv) -> Run:
    found = _map(node, env)
    return lambda step, done, key, indices: found().take(step, _key(key), _indices(indices), _outputs(done, node))


@kernel(*_two("Peek"), asynchronous=True, shape=unknown, host=(0, 1))
def map_peek(node: Node, env: KernelEnv) -> Run:
    found = _map(node, env)
    return lambda step, done, key, indices: found().peek(step, _key(key), _indices(indices), _outputs(done, node))


def _with_key(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(), *[None] * (len(node.output_types) - 1)]


@kernel(*_two("UnstageNoKey"), asynchronous=True, shape=_with_key, host=(0,))
def map_unstage_no_key(node: Node, env: KernelEnv) -> Run:
    found = _map(node, env)
    return lambda step, done, indices: found().take_any(step, _indices(indices), _outputs(done, node, lead=1))


@kernel(*_two("Size"), shape=scalar)
def map_size(node: Node, env: KernelEnv) -> Run:
    found = _map(node, env)
    return lambda: np.int32(found().size())


@kernel(*_two("IncompleteSize"), shape=scalar)
def map_incomplete_size(node: Node, env: KernelEnv) -> Run:
    found = _map(node, env)
    return lambda: np.int32(found().incomplete_size())


@kernel(*_two("Clear"))
def map_clear(node: Node, env: KernelEnv) -> Run:
    found = _map(node, env)
    return lambda: found().clear()
