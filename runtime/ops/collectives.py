"""Collectives of graphs: sums, gathers and broadcasts among the members of a group, each on a device of its own.

How members find each other and what travels between them is the business of `runtime.worker.collectives`; a group of
one needs nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import Error, FailedPrecondition, Internal, InvalidArgument
from runtime._ext.executor import DEAD_VALUE
from runtime.dtypes import DataType, base
from runtime.ops.registry import kernel
from runtime.ops.shapes import unknown

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__: list[str] = []

Done = Callable[[Any, "BaseException | None"], None]
Run = Callable[..., None]
_REDUCE, _BROADCAST, _GATHER = 0, 1, 2


def _start(node: Node, env: KernelEnv, step: StepContext, done: Done, where: str, kind: int, value: Any,
           keys: tuple[int, int, int], shape: tuple[int, ...], **options: Any) -> None:
    """Run one collective; `keys` are the group's size and key and the instance's."""
    size, group_key, instance_key = keys
    if size < 1:
        raise InvalidArgument(f"group_size must be positive integer got {size}")
    if size == 1:
        if value is None:
            raise Internal(f"{node.op} '{node.name}' is the only member of its group: nobody sends")
        if kind != _BROADCAST and value.ndim == 0 and kind == _GATHER:
            raise InvalidArgument("input should have rank > 0")
        done(value, None)
        return
    service = env.session.collectives
    if service is None:
        raise FailedPrecondition(f"{node.op} '{node.name}' is for a group of {size} members; this server is no task of "
                                 "a cluster, so nobody can join it")
    from runtime.worker.collectives.session import CollectiveCall

    call = CollectiveCall(kind, node.name, node.device or env.device.name, group_key, size, instance_key,
                          DataType(base(node.output_types[0])), shape, where,
                          timeout_s=float(node.attr("timeout_seconds")), **options)
    service.start(step, call, value, done)


def _guarded(work: Callable[..., None]) -> Run:
    """Return the form that the executor calls: dead inputs make a dead result, errors go to `done`."""

    def run(step: StepContext, done: Done, where: str, is_dead: bool, *inputs: Any) -> None:
        if is_dead:
            done(DEAD_VALUE, None)
            return
        try:
            work(step, done, where, *inputs)
        except Error as error:
            done(None, error)

    return run


def _keys_of(node: Node) -> tuple[int, int, int]:
    return int(node.attr("group_size")), int(node.attr("group_key")), int(node.attr("instance_key"))


def _keys_among(inputs: Sequence[Any], node: Node) -> tuple[int, int, int]:
    """Return the keys that come as inputs."""
    for name, value in zip(("group_size", "group_key", "instance_key"), inputs):
        if np.ndim(value) != 0:
            raise InvalidArgument(f"Unexpected dimensions on input {name} of {node.name}: {np.ndim(value)}; it must be "
                                  "a scalar")
    return int(inputs[0]), int(inputs[1]), int(inputs[2])


def _own_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[0]]


@kernel("CollectiveReduce", shape=_own_shape, transfer=True)
def reduce(node: Node, env: KernelEnv) -> Run:
    keys = _keys_of(node)
    options = {"merge": node.attr("merge_op").decode(), "final": node.attr("final_op").decode(),
               "offsets": tuple(int(offset) for offset in node.attr("subdiv_offsets"))}

    def work(step: StepContext, done: Done, where: str, value: Any) -> None:
        _start(node, env, step, done, where, _REDUCE, value, keys, value.shape, **options)

    return _guarded(work)


@kernel("CollectiveReduceV2", shape=_own_shape, transfer=True)
def reduce_with_keys(node: Node, env: KernelEnv) -> Run:
    options = {"merge": node.attr("merge_op").decode(), "final": node.attr("final_op").decode(),
               "most_subdivisions": int(node.attr("max_subdivs_per_device"))}

    def work(step: StepContext, done: Done, where: str, value: Any, *keys: Any) -> None:
        _start(node, env, step, done, where, _REDUCE, value, _keys_among(keys, node), value.shape,
               is_of_step=True, **options)

    return _guarded(work)


def _gathered_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [node.attr("shape")]


@kernel("CollectiveGather", shape=_gathered_shape, transfer=True)
def gather(node: Node, env: KernelEnv) -> Run:
    keys = _keys_of(node)

    def work(step: StepContext, done: Done, where: str, value: Any) -> None:
        _check_rank(node, value)
        _start(node, env, step, done, where, _GATHER, value, keys, value.shape)

    return _guarded(work)


@kernel("CollectiveGatherV2", shape=unknown, transfer=True)
def gather_with_keys(node: Node, env: KernelEnv) -> Run:
    def work(step: StepContext, done: Done, where: str, value: Any, *keys: Any) -> None:
        _check_rank(node, value)
        _start(node, env, step, done, where, _GATHER, value, _keys_among(keys, node), value.shape,
               is_of_step=True)

    return _guarded(work)


def _check_rank(node: Node, value: Any) -> None:
    if value.ndim == 0:
        raise InvalidArgument(f"input of {node.op} '{node.name}' is a scalar: there is no dimension to gather along")


@kernel("CollectiveBcastSend", shape=_own_shape, transfer=True)
def send(node: Node, env: KernelEnv) -> Run:
    keys = _keys_of(node)
    shape = node.attr("shape")
    if shape is None or None in shape:
        raise InvalidArgument(f"the shape of CollectiveBcastSend '{node.name}' must be known")

    def work(step: StepContext, done: Done, where: str, value: Any) -> None:
        if value.shape != tuple(shape):
            raise InvalidArgument(f"Declared shape of op {node.name} does not match shape of input: "
                                  f"{list(shape)} and {list(value.shape)}")
        _start(node, env, step, done, where, _BROADCAST, value, keys, value.shape, is_source=True)

    return _guarded(work)


@kernel("CollectiveBcastSendV2", shape=_own_shape, transfer=True)
def send_with_keys(node: Node, env: KernelEnv) -> Run:
    def work(step: StepContext, done: Done, where: str, value: Any, *keys: Any) -> None:
        _start(node, env, step, done, where, _BROADCAST, value, _keys_among(keys, node), value.shape,
               is_of_step=True, is_source=True)

    return _guarded(work)


@kernel("CollectiveBcastRecv", shape=_gathered_shape, transfer=True)
def receive(node: Node, env: KernelEnv) -> Run:
    keys = _keys_of(node)
    shape = node.attr("shape")
    if shape is None or None in shape:
        raise InvalidArgument(f"the shape of CollectiveBcastRecv '{node.name}' must be known")

    def work(step: StepContext, done: Done, where: str) -> None:
        _start(node, env, step, done, where, _BROADCAST, None, keys, tuple(shape))

    return _guarded(work)


@kernel("CollectiveBcastRecvV2", shape=unknown, transfer=True)
def receive_with_keys(node: Node, env: KernelEnv) -> Run:
    def work(step: StepContext, done: Done, where: str, *inputs: Any) -> None:
        shape = np.asarray(inputs[3])
        if shape.ndim != 1 or (shape < 0).any() or int(np.prod(shape.astype(object))) >= 1 << 40:
            raise InvalidArgument(f"input shape of {node.name} is {shape.tolist()}: it must be a list of sizes")
        _start(node, env, step, done, where, _BROADCAST, None, _keys_among(inputs, node),
               tuple(map(int, shape)), is_of_step=True)

    return _guarded(work)
