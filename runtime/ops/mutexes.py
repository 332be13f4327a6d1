"""Mutexes, which critical sections of several steps lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.ops.handles import finder, make_handle, resource_place
from runtime.ops.objects import object_scalar
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.state.mutex import Mutex, MutexLock

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["MUTEX"]

MUTEX = "N10tensorflow12_GLOBAL__N_15MutexE"
"""Kind of mutexes in the resource manager."""

Run = Callable[..., Any]
Answer = Callable[[Any, "BaseException | None"], None]


@kernel("MutexV2", shape=scalar)
def make_mutex(node: Node, env: KernelEnv) -> Run:
    place = container, name = resource_place(node, env, MUTEX, by_node_name=True)
    found = env.session.resources.lookup_or_create(container, MUTEX, name, lambda: Mutex(name))
    handle = make_handle(node, env, place, MUTEX, found)
    return lambda: handle


@kernel("MutexLock", asynchronous=True, shape=scalar)
def lock_mutex(node: Node, env: KernelEnv) -> Run:
    find = finder(env, Mutex, MUTEX, "a mutex")

    def run(step: StepContext, done: Answer, handle: Any) -> None:
        find(handle).acquire(step, lambda lock, error: done(None if error is not None else object_scalar(lock), error))

    return run


@kernel("ConsumeMutexLock")
def consume_mutex_lock(node: Node, env: KernelEnv) -> Run:
    """Use a lock, so that it is held until here; it ends with its last reference."""

    def run(lock: Any) -> None:
        if lock.ndim:
            raise InvalidArgument(f"Expected input to be a scalar, but saw shape: {format_shape(lock.shape)}")
        if not isinstance(lock.item(), MutexLock):
            raise InvalidArgument("Expected input to be a scalar containing a mutex lock")

    return run
