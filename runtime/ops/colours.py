"""Colours of images: hue, saturation and contrast, and the change between RGB and HSV.

Hue, saturation and value are all in [0, 1]. Half and bfloat16 are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext import pixels
from runtime._ext.errors import FailedPrecondition, InvalidArgument
from runtime.dtypes import base, to_numpy
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

_SAME = like_input()


def to_hsv(xp: Any, images: Any) -> tuple[Any, Any, Any]:
    """Return hue, saturation and value of images with the channels last."""
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    value = images.max(axis=-1)
    span = value - images.min(axis=-1)
    one = value.dtype.type(1)
    saturation = xp.where(value > 0, span / xp.where(value > 0, value, one), 0)
    sixth = one / value.dtype.type(6)
    norm = sixth / xp.where(span > 0, span, one)
    hue = xp.where(red == value, norm * (green - blue),
                   xp.where(green == value, norm * (blue - red) + sixth * 2, norm * (red - green) + sixth * 4))
    hue = xp.where(span > 0, hue, 0)
    return xp.where(hue < 0, hue + one, hue).astype(value.dtype), saturation.astype(value.dtype), value


def to_rgb(xp: Any, hue: Any, saturation: Any, value: Any) -> Any:
    """Return images with the channels last."""
    one = value.dtype.type(1)
    wheel = hue * value.dtype.type(6)
    parts = [xp.clip(distance, 0, 1) for distance in (xp.absolute(wheel - 3) - one, 2 - xp.absolute(wheel - 2),
                                                      2 - xp.absolute(wheel - 4))]
    return xp.stack([((one - saturation) + saturation * part) * value for part in parts], axis=-1).astype(value.dtype)


def _wide(node: Node, xp: Any) -> tuple[Any, Any]:
    """Return the type of the images and the one that they are computed in."""
    dtype = to_numpy(base(node.input_types[0]))
    return dtype, dtype if dtype.itemsize >= 4 else xp.dtype(xp.float32)


@kernel("RGBToHSV", "HSVToRGB", shape=_SAME)
def _convert(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype, wide = _wide(node, xp)
    compiled, to_colours = xp is np and wide == np.float32, node.op == "RGBToHSV"

    def run(images: Any) -> Any:
        if images.ndim < 1:
            raise InvalidArgument(f"input must be at least 1D{format_shape(images.shape)}")
        if images.shape[-1] != 3:
            raise FailedPrecondition(f"input must have 3 channels but input only has {images.shape[-1]} channels.")
        if not images.size:
            return images
        colours = images.astype(wide, copy=False)
        if compiled:
            return (pixels.to_hsv if to_colours else pixels.to_rgb)(colours).astype(dtype, copy=False)
        if to_colours:
            return xp.stack(to_hsv(xp, colours), axis=-1).astype(dtype, copy=False)
        return to_rgb(xp, colours[..., 0], colours[..., 1], colours[..., 2]).astype(dtype, copy=False)

    return run


def _check_adjusted(images: Any, amount: Any, name: str, channels: bool) -> None:
    if images.ndim < 3:
        raise InvalidArgument(f"input must be at least 3-D, got shape{format_shape(images.shape)}")
    if amount.ndim:
        raise InvalidArgument(f"{name} must be scalar: {format_shape(amount.shape)}")
    if channels and images.shape[-1] != 3:
        raise InvalidArgument(f"input must have 3 channels but instead has {images.shape[-1]} channels.")


@kernel("AdjustHue", "AdjustSaturation", shape=_SAME)
def _adjust_colour(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype, wide = _wide(node, xp)
    turns = node.op == "AdjustHue"

    def run(images: Any, amount: Any) -> Any:
        _check_adjusted(images, amount, "delta" if turns else "scale", channels=True)
        if not images.size:
            return images
        colours = images.astype(wide, copy=False)
        if xp is np:
            change = pixels.turn_hue if turns else pixels.scale_saturation
            return change(colours, float(amount)).astype(dtype, copy=False)
        hue, saturation, value = to_hsv(xp, colours)
        if turns:
            hue = hue + amount
            hue = hue - xp.floor(hue)
        else:
            saturation = xp.clip(saturation * amount, 0, 1)
        return to_rgb(xp, hue, saturation, value).astype(dtype, copy=False)

    return run


@kernel("AdjustContrastv2", shape=_SAME)
def _adjust_contrast(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype, wide = _wide(node, xp)

    def run(images: Any, factor: Any) -> Any:
        _check_adjusted(images, factor, "contrast_factor", channels=False)
        if not images.size:
            return images
        colours = images.astype(wide, copy=False)
        if xp is np:
            changed = pixels.scale_contrast(colours.reshape(-1, *images.shape[-3:]), float(factor))
            return changed.reshape(images.shape).astype(dtype, copy=False)
        mean = colours.mean(axis=(-3, -2), keepdims=True, dtype=xp.float64).astype(wide)
        return ((colours - mean) * factor + mean).astype(dtype, copy=False)

    return run
