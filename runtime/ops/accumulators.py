"""Gradient accumulators: what synchronous training of several workers stands on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, base, is_ref
from runtime.ops.handles import finder, make_handle, resource_place
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.state.accumulator import Accumulator, DenseAccumulator, SparseAccumulator

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["ACCUMULATOR"]

ACCUMULATOR = "N10tensorflow26ConditionalAccumulatorBaseE"
"""Kind of accumulators in the resource manager, as TensorFlow's handles have it."""

Run = Callable[..., Any]
Answer = Callable[[Any, "BaseException | None"], None]


def _finder(env: KernelEnv) -> Callable[[Any], Accumulator]:
    return finder(env, Accumulator, ACCUMULATOR, "an accumulator")


def _handle_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(2,) if is_ref(node.output_types[0]) else ()]


@kernel("ConditionalAccumulator", "ResourceConditionalAccumulator", "SparseConditionalAccumulator",
        shape=_handle_shape)
def make_accumulator(node: Node, env: KernelEnv) -> Run:
    dtype, shape = DataType(node.attr("dtype")), node.attr("shape")
    is_mean = node.attr("reduction_type") == b"MEAN"
    kind = SparseAccumulator if node.op.startswith("Sparse") else DenseAccumulator
    place = container, name = resource_place(node, env, ACCUMULATOR)
    found: Accumulator = env.session.resources.lookup_or_create(
        container, ACCUMULATOR, name, lambda: kind(name, dtype, shape, is_mean))
    handle = make_handle(node, env, place, ACCUMULATOR, found)
    return lambda: handle


def _number(tensor: Any, what: str) -> int:
    if tensor.ndim:
        raise InvalidArgument(f"Argument {what} must be scalar, but had bad shape {format_shape(tensor.shape)}")
    return int(tensor)


def _check_kind(node: Node, found: Accumulator) -> None:
    """Check that a gradient has the accumulator's type, and that both are dense or both sparse."""
    is_sparse = node.op.startswith("Sparse")
    if isinstance(found, SparseAccumulator) != is_sparse:
        raise InvalidArgument(f"{node.op} '{node.name}' cannot be used with {found!r}")
    have_in, have_out = [base(kind) for kind in node.input_types[1:]], [base(kind) for kind in node.output_types]
    number = DataType.INT64
    if node.output_types:
        want_in, want_out = have_in, [number, found.dtype, number] if is_sparse else [found.dtype]
    else:
        want_in, want_out = [number, number, found.dtype, number] if is_sparse else [number, found.dtype], []
    if have_in != want_in or have_out != want_out:
        handle = "string_ref" if is_ref(node.input_types[0]) else "resource"
        have, want = (f"{', '.join([handle, *(kind.label for kind in kinds)])}->"
                      f"{', '.join(kind.label for kind in outputs)}"
                      for kinds, outputs in ((have_in, have_out), (want_in, want_out)))
        raise InvalidArgument(f"Signature mismatch, have: {have} expected: {want}")


@kernel("AccumulatorApplyGradient", "ResourceAccumulatorApplyGradient")
def apply_gradient(node: Node, env: KernelEnv) -> Run:
    find = _finder(env)

    def run(handle: Any, local_step: Any, gradient: Any) -> None:
        found = find(handle)
        _check_kind(node, found)
        assert isinstance(found, DenseAccumulator)
        found.apply(_number(local_step, "local_step"), gradient)

    return run


@kernel("SparseAccumulatorApplyGradient")
def apply_sparse_gradient(node: Node, env: KernelEnv) -> Run:
    find, has_known_shape = _finder(env), node.attr("has_known_shape")

    def run(handle: Any, local_step: Any, indices: Any, values: Any, shape: Any) -> None:
        found = find(handle)
        _check_kind(node, found)
        assert isinstance(found, SparseAccumulator)
        found.apply(_number(local_step, "local_step"), indices, values, shape, has_known_shape)

    return run


def _gradient_shapes(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [None] * len(node.output_types)


@kernel("AccumulatorTakeGradient", "ResourceAccumulatorTakeGradient", "SparseAccumulatorTakeGradient",
        asynchronous=True, shape=_gradient_shapes)
def take_gradient(node: Node, env: KernelEnv) -> Run:
    find = _finder(env)

    def run(step: StepContext, done: Answer, handle: Any, num_required: Any) -> None:
        found = find(handle)
        _check_kind(node, found)
        found.take(step, _number(num_required, "num_required"), done)

    return run


@kernel("AccumulatorNumAccumulated", "ResourceAccumulatorNumAccumulated", shape=scalar)
def num_accumulated(node: Node, env: KernelEnv) -> Run:
    find = _finder(env)
    return lambda handle: np.int32(find(handle).count)


@kernel("AccumulatorSetGlobalStep", "ResourceAccumulatorSetGlobalStep")
def set_global_step(node: Node, env: KernelEnv) -> Run:
    find = _finder(env)
    return lambda handle, step: find(handle).set_global_step(_number(step, "new_global_step"))
