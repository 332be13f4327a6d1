"""Pooling over windows, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from runtime._ext.errors import InvalidArgument, Unimplemented
from runtime.ops.convolution import explicit_paddings
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input
from runtime.ops.windows import Axis, Layout, Placement, all_offsets, layout_of, padded, place, slices, static_size

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["Pooling", "average", "average_gradient", "check_gradients", "check_spatial", "first_maximum", "lowest",
           "maximum", "pooled_shape", "taken_at"]

Run = Callable[..., Any]
_finfo: Callable[[Any], Any] = ml_dtypes.finfo


@dataclass(frozen=True, slots=True)
class Pooling:
    """What the attrs of a pooling say.

    Attributes
    ----------
    layout : Layout
    window, strides : tuple of int
        Along the spatial dimensions.
    depth_window : int
        Channels that are pooled into one; 1 for ordinary pooling.
    """

    layout: Layout
    window: tuple[int, ...]
    strides: tuple[int, ...]
    depth_window: int
    padding: bytes
    explicit: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, node: Node, gradient: str = "") -> Pooling:
        """Read and check a node's attrs."""
        ksize = node.attr("ksize")
        if ksize and min(ksize) <= 0:
            raise InvalidArgument(f"Sliding window ksize must be positive. The specified or default ksize has "
                                  f"{min(ksize)}")
        return cls.with_sizes(node, ksize, node.attr("strides"), gradient=gradient)

    @classmethod
    def with_sizes(cls, node: Node, ksize: Sequence[int], strides: Sequence[int], called: str = "stride",
                   gradient: str = "") -> Pooling:
        """Check a window and strides, per dimension, and the node's other attrs.

        Parameters
        ----------
        called : str
            What errors call the strides.
        gradient : str
            What errors call the op if it is a gradient, which has no windows over channels.
        """
        has_layout = node.op_def is not None and "data_format" in node.op_def.attrs
        layout = layout_of(node) if has_layout else Layout((1, 2), 3)
        rank = len(layout.spatial) + 2
        if len(ksize) != rank:
            raise InvalidArgument(f"Sliding window ksize field must specify {rank} dimensions")
        if len(strides) != rank:
            raise InvalidArgument(f"Sliding window {called} field must specify {rank} dimensions")
        if min(ksize) <= 0:
            raise InvalidArgument("Sliding window ksize must be positive.")
        if min(strides) <= 0:
            raise InvalidArgument(f"Stride must be > 0, but got {min(strides)}")
        if ksize[0] != 1 or strides[0] != 1:
            raise Unimplemented("Pooling is not yet supported on the batch dimension.")
        window, depth = layout.spatial_of(ksize), ksize[layout.channel]
        if gradient and (depth > 1 or strides[layout.channel] != 1):
            raise Unimplemented(f"{gradient} is not yet supported on the depth dimension.")
        if depth > 1 and max(window) > 1:
            raise Unimplemented("MaxPooling supports exactly one of pooling across depth or pooling across "
                                "width/height.")
        if depth != strides[layout.channel]:
            raise Unimplemented("Depthwise max pooling requires the depth window to equal the depth stride.")
        padding = node.attr("padding")
        explicit = explicit_paddings(node.attr("explicit_paddings", []), padding, layout)
        for name, pair, cells in zip((("Top", "Bottom"), ("Left", "Right"), ("Front", "Back")), explicit, window,
                                     strict=False):
            for side, size in zip(name, pair, strict=True):
                if size >= cells and size:
                    raise InvalidArgument(f"{side} padding {size} needs to be smaller than the window size {cells}")
        return cls(layout, window, layout.spatial_of(strides), depth, padding, explicit)

    def places(self, sizes: Sequence[int]) -> tuple[Placement, ...]:
        """Return where the windows lie over an input of the given spatial sizes."""
        return tuple(place(size, Axis(cells, stride), self.padding, explicit) for size, cells, stride, explicit in
                     zip(sizes, self.window, self.strides, self.explicit, strict=True))

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the output for an input's shape, both in the node's layout."""
        result = list(shape)
        for axis, item in zip(self.layout.spatial, self.places(self.layout.spatial_of(shape)), strict=True):
            result[axis] = item.count
        result[self.layout.channel] //= self.depth_window
        return tuple(result)


def lowest(dtype: np.dtype[Any]) -> Any:
    """Return the lowest finite value of a type."""
    return dtype.type(np.iinfo(dtype).min if dtype.kind in "iu" else _finfo(dtype).min)


def _pool_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [pooled_shape(Pooling.of(node), shapes[0])]


def pooled_shape(attrs: Pooling, shape: Shape) -> Shape:
    """Return the static shape of a pooling's output for that of its input."""
    rank = len(attrs.layout.spatial) + 2
    if shape is None:
        return (None,) * rank
    if len(shape) != rank:
        return None
    result = list(shape)
    channels = shape[attrs.layout.channel]
    result[attrs.layout.channel] = None if channels is None else channels // attrs.depth_window
    for number, axis in enumerate(attrs.layout.spatial):
        result[axis] = static_size(shape[axis], attrs.window[number], attrs.strides[number], 1, attrs.padding,
                                   attrs.explicit[number])
    return tuple(result)


def _unknown_sizes(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    if shape is not None and len(shape) != 4:
        return [None]
    return [(shape[0] if shape else None, None, None, None)]


def check_spatial(array: Any, attrs: Pooling) -> None:
    if array.ndim != len(attrs.layout.spatial) + 2:
        raise InvalidArgument(f"tensor_in_shape must have {len(attrs.layout.spatial)} spatial dimensions. "
                              f"{array.ndim} {max(array.ndim - 3, 0)}")


# Maximum


@kernel("MaxPool", shape=_pool_shape)
def max_pool(node: Node, env: KernelEnv) -> Run:
    attrs, xp = Pooling.of(node), env.xp

    def run(image: Any) -> Any:
        check_spatial(image, attrs)
        return attrs.layout.back(maximum(xp, attrs.layout.last(image), attrs))

    return run


def _sizes_of(node: Node, ksize: Any, strides: Any, called: str = "stride", gradient: str = "") -> Pooling:
    """Return the pooling whose window and strides are inputs."""
    return Pooling.with_sizes(node, ksize.reshape(-1).tolist(), strides.reshape(-1).tolist(), called, gradient)


@kernel("MaxPoolV2", shape=_unknown_sizes, host=(1, 2))
def max_pool_v2(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(image: Any, ksize: Any, strides: Any) -> Any:
        attrs = _sizes_of(node, ksize, strides)
        check_spatial(image, attrs)
        return attrs.layout.back(maximum(xp, attrs.layout.last(image), attrs))

    return run


def maximum(xp: Any, image: Any, attrs: Pooling) -> Any:
    """Return the maxima over the windows of a channels-last image; padding cells and NaN never win."""
    if attrs.depth_window > 1:
        channels = image.shape[-1]
        if channels % attrs.depth_window:
            raise Unimplemented("Depthwise max pooling requires the depth window to evenly divide the input depth")
        return xp.max(image.reshape(*image.shape[:-1], -1, attrs.depth_window), axis=-1)
    places = attrs.places(image.shape[1:-1])
    bottom = lowest(image.dtype)
    result = xp.full((image.shape[0], *(item.count for item in places), image.shape[-1]), bottom, image.dtype)
    if result.size:
        whole = padded(xp, image, places, bottom)
        larger = xp.maximum if image.dtype.kind in "iu" else xp.fmax
        for offsets in all_offsets(places):
            larger(result, whole[slices(places, offsets)], out=result)
    return result


@kernel("MaxPoolGrad", shape=like_input())
def max_pool_grad(node: Node, env: KernelEnv) -> Run:
    attrs, xp = Pooling.of(node, gradient="MaxPoolingGrad"), env.xp

    def run(image: Any, output: Any, gradient: Any) -> Any:
        return _maximum_gradient(xp, image, output, gradient, attrs)

    return run


@kernel("MaxPoolGradV2", shape=like_input(), host=(3, 4))
def max_pool_grad_v2(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(image: Any, output: Any, gradient: Any, ksize: Any, strides: Any) -> Any:
        attrs = _sizes_of(node, ksize, strides, "strides", "MaxPoolingGrad")
        return _maximum_gradient(xp, image, output, gradient, attrs)

    return run


def check_gradients(image: Any, output: Any, gradient: Any, attrs: Pooling, of_input: bool = False) -> None:
    """Check the shapes of an image, its pooling, and the gradient of the pooling or, for second ones, of the image.

    Raises
    ------
    InvalidArgument
        In TensorFlow's words.
    """
    rank = len(attrs.layout.spatial) + 2
    back = "out_grad_backprop" if of_input else "out_backprop"
    for name, array in (("tensor_in", image), ("tensor_out", output), (back, gradient)):
        if array.ndim != rank:
            raise InvalidArgument(f"{name} must be {rank}-dimensional")
    expected = attrs.output_shape(image.shape)
    for name, array, shape in (("orig_output", output, expected),
                               ("grad", gradient, image.shape if of_input else expected)):
        if array.shape != shape:
            raise InvalidArgument(f"Expected {name} shape to be {format_shape(shape)}, but got "
                                  f"{format_shape(array.shape)}")


def _maximum_gradient(xp: Any, image: Any, output: Any, gradient: Any, attrs: Pooling) -> Any:
    """Give each window's gradient to its first maximum, reading the window row by row."""
    check_gradients(image, output, gradient, attrs)
    image, gradient = attrs.layout.last(image), attrs.layout.last(gradient)
    places = attrs.places(image.shape[1:-1])
    sizes = [item.before + item.size + item.after for item in places]
    inner = (slice(None), *(slice(item.before, item.before + item.size) for item in places))
    whole = xp.zeros((image.shape[0], *sizes, image.shape[-1]), gradient.dtype)
    if gradient.size:
        _, winner = first_maximum(xp, image, places)
        for number, offsets in enumerate(all_offsets(places)):
            target = whole[slices(places, offsets)]
            xp.add(target, gradient, out=target, where=winner == number)
    return attrs.layout.back(whole[inner])


@kernel("MaxPoolGradGrad", shape=_pool_shape)
def max_pool_grad_grad(node: Node, env: KernelEnv) -> Run:
    attrs, xp = Pooling.of(node, gradient="MaxPoolingGradGrad"), env.xp

    def run(image: Any, output: Any, gradient: Any) -> Any:
        check_gradients(image, output, gradient, attrs, of_input=True)
        layout = attrs.layout
        return layout.back(taken_at(xp, layout.last(image), layout.last(output), layout.last(gradient), attrs))

    return run


@kernel("MaxPoolGradGradV2", shape=_unknown_sizes, host=(3, 4))
def max_pool_grad_grad_v2(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(image: Any, output: Any, gradient: Any, ksize: Any, strides: Any) -> Any:
        attrs = _sizes_of(node, ksize, strides, "strides", "MaxPoolingGrad")
        check_gradients(image, output, gradient, attrs, of_input=True)
        layout = attrs.layout
        return layout.back(taken_at(xp, layout.last(image), layout.last(output), layout.last(gradient), attrs))

    return run


def taken_at(xp: Any, image: Any, output: Any, gradient: Any, attrs: Pooling) -> Any:
    """Return for each window the gradient at the first cell that equals its output; zero where none does."""
    places = attrs.places(image.shape[1:-1])
    result = xp.zeros(output.shape, gradient.dtype)
    if result.size:
        found = xp.zeros(output.shape, bool)
        inside = _inside(xp, places)
        image, gradient = (padded(xp, array, places, array.dtype.type(0)) for array in (image, gradient))
        for offsets in all_offsets(places):
            cell = slices(places, offsets)
            here = (image[cell] == output) & inside[cell] & ~found
            xp.copyto(result, gradient[cell], where=here)
            found |= here
    return result


def first_maximum(xp: Any, image: Any, places: Sequence[Placement]) -> tuple[Any, Any]:
    """Return for each window its maximum and the number of the first cell that holds it.

    A NaN counts as the maximum where it stands first.
    """
    has_padding = any(item.before or item.after for item in places)
    whole = padded(xp, image, places, lowest(image.dtype))
    inside = _inside(xp, places) if has_padding else None
    best: Any = None
    for number, offsets in enumerate(all_offsets(places)):
        cells = whole[slices(places, offsets)]
        valid = None if inside is None else inside[slices(places, offsets)]
        if best is None:
            best = cells.copy()
            winner = xp.full(cells.shape, number if valid is None else -1, xp.int32)
            if valid is not None:
                xp.copyto(winner, number, where=valid)
            continue
        better = cells > best
        if valid is not None:
            better = (better | (winner < 0)) & valid
        xp.copyto(best, cells, where=better)
        xp.copyto(winner, number, where=better)
    return best, winner


def _inside(xp: Any, places: Sequence[Placement]) -> Any:
    """Return, for one image of one channel, which cells of the padded image are not padding."""
    sizes = [item.before + item.size + item.after for item in places]
    result = xp.zeros((1, *sizes, 1), bool)
    result[(slice(None), *(slice(item.before, item.before + item.size) for item in places))] = True
    return result


# Average


def cell_counts(xp: Any, places: Sequence[Placement], dtype: Any) -> Any:
    """Return for each window how many of its cells lie inside the input, (1, *windows, 1)."""
    result = xp.ones((1,) * (len(places) + 2), xp.int64)
    for number, item in enumerate(places):
        start = xp.arange(item.count) * item.axis.stride - item.before
        inside = xp.minimum(start + item.axis.window, item.size) - xp.maximum(start, 0)
        shape = [1] * (len(places) + 2)
        shape[number + 1] = item.count
        result = result * inside.reshape(shape)
    return result.astype(dtype)


def _check_average(attrs: Pooling) -> None:
    if attrs.depth_window > 1:
        raise Unimplemented("Pooling is not yet supported on the depth dimension.")


@kernel("AvgPool", shape=_pool_shape)
def avg_pool(node: Node, env: KernelEnv) -> Run:
    attrs, xp = Pooling.of(node), env.xp
    _check_average(attrs)

    def run(image: Any) -> Any:
        check_spatial(image, attrs)
        return average(xp, image, attrs)

    return run


def average(xp: Any, image: Any, attrs: Pooling) -> Any:
    """Return the means of the cells of each window that lie in the image."""
    last = attrs.layout.last(image)
    places = attrs.places(last.shape[1:-1])
    kind = xp.float32 if image.dtype.itemsize == 2 else image.dtype
    result = xp.zeros((last.shape[0], *(item.count for item in places), last.shape[-1]), kind)
    if result.size:
        whole = padded(xp, last, places, last.dtype.type(0))
        for offsets in all_offsets(places):
            xp.add(result, whole[slices(places, offsets)], out=result)
        xp.divide(result, cell_counts(xp, places, kind), out=result)
    return attrs.layout.back(result).astype(image.dtype, copy=False)


def average_gradient(xp: Any, shape: Sequence[int], gradient: Any, attrs: Pooling) -> Any:
    """Return the gradient with respect to an image of a shape, each cell's shares of its windows' gradients."""
    layout = attrs.layout
    places = attrs.places(layout.spatial_of(shape))
    kind = xp.float32 if gradient.dtype.itemsize == 2 else gradient.dtype
    sizes = [item.before + item.size + item.after for item in places]
    whole = xp.zeros((shape[0], *sizes, shape[layout.channel]), kind)
    if prod(gradient.shape):
        share = layout.last(gradient).astype(kind, copy=False) / cell_counts(xp, places, kind)
        for offsets in all_offsets(places):
            whole[slices(places, offsets)] += share
    inner = (slice(None), *(slice(item.before, item.before + item.size) for item in places))
    return layout.back(whole[inner]).astype(gradient.dtype, copy=False)


def _average_gradient_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None,) * 4]


@kernel("AvgPoolGrad", shape=_average_gradient_shape, host=(0,))
def avg_pool_grad(node: Node, env: KernelEnv) -> Run:
    attrs, xp = Pooling.of(node), env.xp
    _check_average(attrs)

    def run(input_shape: Any, gradient: Any) -> Any:
        if input_shape.shape != (4,):
            raise InvalidArgument("out_backprop must be 1-dimensional and 4 elements long: "
                                  f"{format_shape(input_shape.shape)}")
        shape = tuple(int(size) for size in input_shape.tolist())
        if min(shape) < 0:
            raise InvalidArgument(f"Expected a non-negative size, got {min(shape)}")
        check_spatial(gradient, attrs)
        expected = attrs.output_shape(shape)
        if gradient.shape != expected:
            raise InvalidArgument(f"Expected grad shape to be {format_shape(expected)}, but got "
                                  f"{format_shape(gradient.shape)}")
        return average_gradient(xp, shape, gradient, attrs)

    return run
