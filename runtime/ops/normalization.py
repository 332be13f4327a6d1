"""Batch normalisation and local response normalisation, with their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input
from runtime.ops.windows import layout_of

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]


def _wide(xp: Any, array: Any) -> Any:
    """Return 16-bit floats as float32; moments of many values need the precision."""
    return array.astype(xp.float32) if array.dtype.itemsize == 2 else array


def _check_vector(name: str, vector: Any, channels: int, prefix: str = "") -> None:
    if vector.ndim != 1:
        raise InvalidArgument(f"{name} must be 1-dimensional{format_shape(vector.shape)}")
    if vector.shape[0] != channels:
        raise InvalidArgument(f"{prefix}{name} must have the same number of elements as the channels of x, got "
                              f"{vector.shape[0]} and {channels}")


def _check_image(x: Any, rank: int) -> None:
    if x.ndim != rank:
        raise InvalidArgument(f"input must be 4 or 5-dimensional{format_shape(x.shape)}")


def _moments_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    channels = shape[layout_of(node).channel] if shape is not None else None
    return [shape, *([(channels,)] * 4), None]


@kernel("FusedBatchNormV3", shape=_moments_shape)
def fused_batch_norm(node: Node, env: KernelEnv) -> Run:
    xp, layout = env.xp, layout_of(node)
    epsilon, factor = node.attr("epsilon"), node.attr("exponential_avg_factor", 1.0)
    training = node.attr("is_training")
    of = xp.float32

    def run(x: Any, scale: Any, offset: Any, mean: Any, variance: Any) -> tuple[Any, ...]:
        _check_image(x, len(layout.spatial) + 2)
        channels = x.shape[layout.channel]
        kind = scale.dtype
        _check_vector("scale", scale, channels)
        _check_vector("offset", offset, channels)
        if not training or factor != 1:
            reason = "When exponential_avg_factor != 1, " if training else "When is_training=false, "
            _check_vector("mean", mean, channels, reason)
            _check_vector("variance", variance, channels, reason)
        unused = xp.zeros((), kind)
        if not x.size:
            nothing, unknown = xp.zeros(channels, kind), xp.full(channels, float("nan"), kind)
            return xp.empty(x.shape, x.dtype), unknown, unknown, nothing, nothing, unused
        values = _wide(xp, layout.last(x)).reshape(-1, channels)
        wide_scale, wide_offset = _wide(xp, scale), _wide(xp, offset)
        if training:
            count = values.shape[0]
            here = xp.mean(values, axis=0)
            centred = values - here
            biased = xp.mean(xp.square(centred), axis=0)
            unbiased = biased * of(count / max(count - 1, 1))
            spread = biased
            averages = here, unbiased
            if factor != 1:
                keep, take = of(1 - factor), of(factor)
                averages = (keep * _wide(xp, mean) + take * here, keep * _wide(xp, variance) + take * unbiased)
            saved = here, biased
        else:
            centred = values - _wide(xp, mean)
            spread = _wide(xp, variance)
            averages = saved = mean, variance
        centred *= wide_scale / xp.sqrt(spread + of(epsilon))
        centred += wide_offset
        shaped = centred.reshape(x.shape[0], *layout.spatial_of(x.shape), channels)
        return (layout.back(shaped).astype(x.dtype, copy=False),
                *(item.astype(kind, copy=False) for item in (*averages, *saved)), unused)

    return run


@kernel("FusedBatchNorm", "FusedBatchNormV2",
        shape=lambda node, shapes: _moments_shape(node, shapes)[:5])
def fused_batch_norm_older(node: Node, env: KernelEnv) -> Run:
    """Bind the versions without a third reserve space."""
    run = fused_batch_norm(node, env)
    return lambda *inputs: run(*inputs)[:5]


def _gradient_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[1]
    channels = shape[layout_of(node).channel] if shape is not None else None
    return [shape, (channels,), (channels,), None, None]


@kernel("FusedBatchNormGradV3", shape=_gradient_shape)
def fused_batch_norm_grad(node: Node, env: KernelEnv) -> Run:
    xp, layout = env.xp, layout_of(node)
    epsilon, training = node.attr("epsilon"), node.attr("is_training")
    of = xp.float32

    def run(gradient: Any, x: Any, scale: Any, mean: Any, variance: Any, _unused: Any) -> tuple[Any, ...]:
        _check_gradient_inputs(gradient, x, len(layout.spatial) + 2)
        channels, kind = x.shape[layout.channel], scale.dtype
        for name, vector in (("scale", scale), ("reserve_space_1", mean), ("reserve_space_2", variance)):
            _check_vector(name, vector, channels)
        unused = xp.zeros(0, kind)
        if not x.size:
            nothing = xp.zeros(channels, kind)
            return xp.empty(x.shape, x.dtype), nothing, nothing, unused, unused
        dy = _wide(xp, layout.last(gradient)).reshape(-1, channels)
        centred = _wide(xp, layout.last(x)).reshape(-1, channels) - mean
        slope = of(1) / xp.sqrt(variance + of(epsilon))
        offset_gradient = xp.sum(dy, axis=0)
        projection = xp.sum(dy * centred, axis=0)
        if training:
            count = of(dy.shape[0])
            centred *= slope * slope * (projection / count)
            result = xp.subtract(dy, centred, out=centred)
            result -= offset_gradient / count
            result *= scale * slope
        else:
            result = dy * (scale * slope)
        shaped = result.reshape(x.shape[0], *layout.spatial_of(x.shape), channels)
        return (layout.back(shaped).astype(x.dtype, copy=False), (projection * slope).astype(kind, copy=False),
                offset_gradient.astype(kind, copy=False), unused, unused)

    return run


@kernel("FusedBatchNormGrad", "FusedBatchNormGradV2", shape=_gradient_shape)
def fused_batch_norm_grad_older(node: Node, env: KernelEnv) -> Run:
    """Bind the versions without a third reserve space."""
    run = fused_batch_norm_grad(node, env)
    return lambda *inputs: run(*inputs, None)


def _check_gradient_inputs(gradient: Any, x: Any, rank: int) -> None:
    _check_image(gradient, rank)
    _check_image(x, rank)
    if gradient.shape != x.shape:
        raise InvalidArgument(f"x and y_backprop must have same shape, but x has shape {format_shape(x.shape)} and "
                              f"y_backprop has shape {format_shape(gradient.shape)}")


# Local response


def _window_sum(xp: Any, array: Any, radius: int) -> Any:
    """Return the sums over `radius` neighbours on both sides along the last dimension."""
    depth = array.shape[-1]
    result = array.copy()
    for distance in range(1, min(radius, depth - 1) + 1):
        result[..., distance:] += array[..., :-distance]
        result[..., :-distance] += array[..., distance:]
    return result


@kernel("LRN", shape=like_input())
def local_response_norm(node: Node, env: KernelEnv) -> Run:
    xp, radius = env.xp, node.attr("depth_radius")
    bias, alpha, beta = (env.xp.float32(node.attr(name)) for name in ("bias", "alpha", "beta"))

    def run(image: Any) -> Any:
        if image.ndim != 4:
            raise InvalidArgument("in must be 4-dimensional")
        x = _wide(xp, image)
        norm = bias + alpha * _window_sum(xp, xp.square(x), radius)
        return (x * norm**-beta).astype(image.dtype, copy=False)

    return run


@kernel("LRNGrad", shape=like_input())
def local_response_norm_grad(node: Node, env: KernelEnv) -> Run:
    xp, radius = env.xp, node.attr("depth_radius")
    bias, alpha, beta = (env.xp.float32(node.attr(name)) for name in ("bias", "alpha", "beta"))
    two = env.xp.float32(2)

    def run(gradient: Any, image: Any, output: Any) -> Any:
        if gradient.ndim != 4 or image.ndim != 4:
            raise InvalidArgument("inputs must be 4-dimensional")
        if not gradient.shape == image.shape == output.shape:
            raise InvalidArgument("input_grads, input_image, and out_image should have the same shape")
        dy, x, y = (_wide(xp, array) for array in (gradient, image, output))
        norm = bias + alpha * _window_sum(xp, xp.square(x), radius)
        result = dy * norm**-beta - two * alpha * beta * x * _window_sum(xp, dy * y / norm, radius)
        return result.astype(image.dtype, copy=False)

    return run


# --- the old form: statistics as inputs, one number per channel -------------------------------------------------------


def _check_global(node: Node, x: Any, vectors: dict[str, Any]) -> None:
    if x.ndim != 4:
        raise InvalidArgument(f"input must be 4-dimensional{format_shape(x.shape)}")
    for name, vector in vectors.items():
        if vector.ndim != 1:
            raise InvalidArgument(f"{name} must be 1-dimensional{format_shape(vector.shape)}")
        if vector.shape[0] != x.shape[3]:
            raise InvalidArgument(f"{name} has {vector.shape[0]} elements, the input {x.shape[3]} channels")


@kernel("BatchNormWithGlobalNormalization", shape=like_input())
def batch_norm_with_global_normalization(node: Node, env: KernelEnv) -> Run:
    xp = env.xp
    epsilon, scales = node.attr("variance_epsilon"), node.attr("scale_after_normalization")

    def run(x: Any, mean: Any, variance: Any, beta: Any, gamma: Any) -> Any:
        _check_global(node, x, {"mean": mean, "var": variance, "beta": beta, "gamma": gamma})
        wide = _wide(xp, x)
        factor = 1 / xp.sqrt(variance.astype(wide.dtype) + wide.dtype.type(epsilon))
        factor = factor * gamma if scales else factor
        return ((wide - mean) * factor + beta).astype(x.dtype, copy=False)

    return run


def _global_grad_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[0], *[shapes[1]] * 4]


@kernel("BatchNormWithGlobalNormalizationGrad", shape=_global_grad_shape)
def batch_norm_with_global_normalization_grad(node: Node, env: KernelEnv) -> Run:
    xp = env.xp
    epsilon, scales = node.attr("variance_epsilon"), node.attr("scale_after_normalization")

    def run(x: Any, mean: Any, variance: Any, gamma: Any, grad: Any) -> tuple[Any, ...]:
        _check_global(node, x, {"mean": mean, "var": variance, "gamma": gamma})
        if grad.shape != x.shape:
            raise InvalidArgument(f"backprop has the shape {format_shape(grad.shape)}, the input "
                                  f"{format_shape(x.shape)}")
        wide, slope = _wide(xp, x), _wide(xp, grad)
        factor = 1 / xp.sqrt(variance.astype(wide.dtype) + wide.dtype.type(epsilon))
        weight = factor * gamma if scales else factor
        centred = wide - mean
        total, product = slope.sum(axis=(0, 1, 2)), (slope * centred).sum(axis=(0, 1, 2))
        of_variance = product * weight * factor * factor * wide.dtype.type(-0.5)
        of_gamma = product * factor if scales else xp.zeros_like(product)
        results = (slope * weight, -total * weight, of_variance, total, of_gamma)
        return tuple(result.astype(x.dtype, copy=False) for result in results)

    return run
