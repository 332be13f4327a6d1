"""Convolutions of images, by columns of patches and matrix products.

A chunk of the batch at a time is spread out as a matrix whose rows are the patches that the windows see; the filter is
the other factor. Chunks keep that matrix in the cache. 16-bit floats are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument, Unimplemented
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape
from runtime.ops.windows import Axis, Layout, Placement, all_offsets, layout_of, padded, place, slices, static_size

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["Convolution", "computed", "conv_shape", "explicit_paddings", "filter_gradient", "forward",
           "gradient_places", "input_gradient"]

Run = Callable[..., Any]

_CHUNK_BYTES = 2 << 20
"""Size of the matrix of patches: about what a core's second-level cache holds."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """What the attrs of a convolution say.

    Attributes
    ----------
    layout : Layout
    strides, dilations : tuple of int
        Along the spatial dimensions.
    padding : bytes
    explicit : tuple of (int, int)
        Padding before and after, along the spatial dimensions.
    """

    layout: Layout
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: bytes
    explicit: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, node: Node) -> Convolution:
        """Read and check a node's attrs.

        Raises
        ------
        InvalidArgument, Unimplemented
            In TensorFlow's words.
        """
        layout = layout_of(node)
        strides, dilations = node.attr("strides"), node.attr("dilations")
        rank = len(layout.spatial) + 2
        _check_per_dimension("Sliding window strides field", strides, rank)
        _check_per_dimension("Sliding window dilations field", dilations, rank)
        if strides[0] != 1 or strides[layout.channel] != 1:
            raise Unimplemented("Current implementation does not yet support strides in the batch and depth "
                                "dimensions.")
        if dilations[0] != 1 or dilations[layout.channel] != 1:
            raise Unimplemented("Current implementation does not yet support dilations in the batch and depth "
                                "dimensions.")
        spatial_strides, spatial_dilations = layout.spatial_of(strides), layout.spatial_of(dilations)
        if min(spatial_strides) <= 0:
            raise InvalidArgument(f"Stride must be > 0, but got {min(spatial_strides)}")
        if min(spatial_dilations) <= 0:
            raise InvalidArgument(f"Dilation rate must be >= 1, but got {min(spatial_dilations)}")
        padding = node.attr("padding")
        return cls(layout, spatial_strides, spatial_dilations, padding,
                   explicit_paddings(node.attr("explicit_paddings", []), padding, layout))

    def places(self, sizes: Sequence[int], window: Sequence[int]) -> tuple[Placement, ...]:
        """Return where the windows lie over an input of the given spatial sizes."""
        return tuple(place(size, Axis(cells, stride, dilation), self.padding, explicit) for
                     size, cells, stride, dilation, explicit in
                     zip(sizes, window, self.strides, self.dilations, self.explicit, strict=True))


def _check_per_dimension(what: str, entries: Sequence[int], rank: int) -> None:
    if len(entries) != rank:
        raise InvalidArgument(f"{what} must specify {rank} dimensions, got {len(entries)}")


def explicit_paddings(entries: Sequence[int], padding: bytes, layout: Layout) -> tuple[tuple[int, int], ...]:
    """Return the padding before and after along the spatial dimensions, from the attr ``explicit_paddings``.

    Raises
    ------
    InvalidArgument
        If there are entries without EXPLICIT padding, of the wrong number, negative, or of the batch or the depth.
    """
    rank = len(layout.spatial) + 2
    if padding != b"EXPLICIT":
        if entries:
            raise InvalidArgument("explicit_paddings attribute must be empty if the padding attribute is not EXPLICIT")
        return ((0, 0),) * len(layout.spatial)
    if len(entries) != 2 * rank:
        raise InvalidArgument(f"explicit_paddings attribute must contain {2 * rank} values, but got: {len(entries)}")
    if min(entries) < 0:
        raise InvalidArgument("All elements of explicit_paddings must be nonnegative")
    pairs = [(entries[2 * axis], entries[2 * axis + 1]) for axis in range(rank)]
    if any(pairs[0]) or any(pairs[layout.channel]):
        raise InvalidArgument("Nonzero explicit padding in the batch or depth dimensions is not supported")
    return tuple(pairs[axis] for axis in layout.spatial)


# Arithmetic on channels-last arrays


def computed(xp: Any, array: Any) -> Any:
    """Return 16-bit floats as float32."""
    return array.astype(xp.float32) if array.dtype.itemsize == 2 else array


def _patches(xp: Any, image: Any, places: Sequence[Placement]) -> Any:
    """Return a view (batch, *windows, *window, channels) of a padded image."""
    strides = image.strides
    spatial = strides[1:-1]
    shape = (image.shape[0], *(item.count for item in places), *(item.axis.window for item in places), image.shape[-1])
    steps = (strides[0], *(step * item.axis.stride for step, item in zip(spatial, places, strict=True)),
             *(step * item.axis.dilation for step, item in zip(spatial, places, strict=True)), strides[-1])
    return xp.lib.stride_tricks.as_strided(image, shape, steps)


def _chunks(batch: int, bytes_per_image: int) -> Iterator[slice]:
    size = max(1, _CHUNK_BYTES // max(bytes_per_image, 1))
    for start in range(0, batch, size):
        yield slice(start, min(start + size, batch))


def _columns(xp: Any, image: Any, places: Sequence[Placement], groups: int) -> Iterator[tuple[slice, Any]]:
    """Yield chunks of the batch and their patches as matrices.

    Yields
    ------
    chunk : slice
        Of the batch.
    columns : ndarray, (rows, patch) or, with groups, (groups, rows, patch)
        Overwritten by the next one.
    """
    windows = prod(item.count for item in places)
    channels = image.shape[-1]
    patch = prod(item.axis.window for item in places) * channels
    if groups == 1 and all(item.axis.window == 1 and item.axis.stride == 1 for item in places):
        yield slice(0, image.shape[0]), image.reshape(-1, channels)  # 1x1: the image is its own matrix of patches
        return
    view = _patches(xp, image, places)
    buffer = None
    for chunk in _chunks(image.shape[0], windows * patch * image.dtype.itemsize):
        part = view[chunk]
        if groups > 1:  # split the channels, bring the groups to the front
            part = part.reshape(*part.shape[:-1], groups, channels // groups) if part.flags.c_contiguous else \
                xp.lib.stride_tricks.as_strided(part, (*part.shape[:-1], groups, channels // groups),
                                                (*part.strides[:-1], part.strides[-1] * (channels // groups),
                                                 part.strides[-1]))
            part = xp.moveaxis(part, -2, 0)
        if buffer is None:
            buffer = xp.empty(part.shape, part.dtype)
        target = buffer if buffer.shape == part.shape else xp.empty(part.shape, part.dtype)
        target[...] = part
        count = chunk.stop - chunk.start
        yield chunk, target.reshape((groups, count * windows, patch // groups) if groups > 1 else
                                    (count * windows, patch))


def _grouped_filter(xp: Any, weights: Any, groups: int) -> Any:
    """Return a filter (*window, in, out) as a matrix (patch, out), or (groups, patch, out / groups)."""
    matrix = weights.reshape(-1, weights.shape[-1])
    if groups == 1:
        return matrix
    return xp.moveaxis(matrix.reshape(matrix.shape[0], groups, -1), 1, 0)


def forward(xp: Any, image: Any, weights: Any, places: Sequence[Placement], groups: int) -> Any:
    """Return the convolution of a channels-last image, in the type of the computation."""
    counts = tuple(item.count for item in places)
    depth = weights.shape[-1]
    result = xp.empty((image.shape[0], *counts, depth), image.dtype)
    if not result.size:
        return result
    image = padded(xp, image, places, image.dtype.type(0))
    matrix = _grouped_filter(xp, weights, groups)
    for chunk, columns in _columns(xp, image, places, groups):
        out = result[chunk].reshape(-1, depth)
        if groups == 1:
            xp.matmul(columns, matrix, out=out)
        else:
            out.reshape(-1, groups, depth // groups)[...] = xp.moveaxis(xp.matmul(columns, matrix), 0, 1)
    return result


def input_gradient(xp: Any, shape: Sequence[int], weights: Any, gradient: Any, places: Sequence[Placement],
                   groups: int) -> Any:
    """Return the gradient with respect to an image of a channels-last shape."""
    sizes = [item.before + item.size + item.after for item in places]
    inner = (slice(None), *(slice(item.before, item.before + item.size) for item in places))
    channels = shape[-1]
    whole = xp.zeros((shape[0], *sizes, channels), gradient.dtype)
    if not gradient.size or not whole.size:
        return whole[inner]
    window = [item.axis.window for item in places]
    counts = [item.count for item in places]
    matrix = _grouped_filter(xp, weights, groups)
    turned = matrix.T if groups == 1 else matrix.transpose(0, 2, 1)
    bytes_per_image = prod(counts) * prod(window) * channels * gradient.dtype.itemsize
    for chunk in _chunks(shape[0], bytes_per_image):
        rows = gradient[chunk].reshape(-1, gradient.shape[-1])
        if groups == 1:
            columns = xp.matmul(rows, turned).reshape(-1, *counts, *window, channels)
        else:
            split = xp.moveaxis(rows.reshape(rows.shape[0], groups, -1), 1, 0)
            parts = xp.matmul(split, turned).reshape(groups, -1, *counts, *window, channels // groups)
            columns = xp.moveaxis(parts, 0, -2).reshape(-1, *counts, *window, channels)
        target = whole[chunk]
        spread = (slice(None),) * (1 + len(counts))
        for offsets in all_offsets(places):
            target[slices(places, offsets)] += columns[(*spread, *offsets)]
    return whole[inner]


def filter_gradient(xp: Any, image: Any, shape: Sequence[int], gradient: Any, places: Sequence[Placement],
                    groups: int) -> Any:
    """Return the gradient with respect to a filter of the given shape."""
    depth = shape[-1]
    if not gradient.size or not image.size:
        return xp.zeros(shape, gradient.dtype)
    image = padded(xp, image, places, image.dtype.type(0))
    total: Any = None
    for chunk, columns in _columns(xp, image, places, groups):
        rows = gradient[chunk].reshape(-1, depth)
        if groups == 1:
            part = xp.matmul(columns.T, rows)
        else:
            part = xp.matmul(columns.transpose(0, 2, 1), xp.moveaxis(rows.reshape(rows.shape[0], groups, -1), 1, 0))
        total = part if total is None else xp.add(total, part, out=total)
    if groups > 1:
        total = xp.moveaxis(total, 0, 1)
    return total.reshape(shape)


# The ops


def _check_operands(image: Sequence[int], weights_shape: Sequence[int], layout: Layout, op: str) -> int:
    """Check ranks and depths of an image shape and a filter shape; return the number of groups."""
    rank = len(layout.spatial) + 2
    for name, shape in (("input", image), ("filter", weights_shape)):
        if len(shape) != rank:
            told = f"{name} must be {rank}-dimensional"
            raise InvalidArgument(f"{op}: {told}" if op else f"{told}: {format_shape(tuple(shape))}")
    if 0 in weights_shape[:-1]:
        raise InvalidArgument("filter must not have zero elements (i.e. all dimensions must be non-zero)")
    channels, inner, depth = image[layout.channel], weights_shape[-2], weights_shape[-1]
    if channels % inner:
        raise InvalidArgument(f"input depth must be evenly divisible by filter depth: {channels} vs {inner}")
    groups = channels // inner
    if groups == 0:
        raise InvalidArgument(f"input depth must be at least the filter depth: {channels} vs {inner}")
    if depth % groups:
        raise InvalidArgument(f"output depth must be evenly divisible by number of groups: {depth} vs {groups}")
    return int(groups)


def _conv2d_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return conv_shape(Convolution.of(node), shapes)


def conv_shape(attrs: Convolution, shapes: Sequence[Shape]) -> Sequence[Shape]:
    """Return the static shape of a convolution's output for those of its input and filter."""
    image, weights = shapes
    rank = len(attrs.layout.spatial) + 2
    if (image is not None and len(image) != rank) or (weights is not None and len(weights) != rank):
        return [None]
    image = (None,) * rank if image is None else image
    weights = (None,) * rank if weights is None else weights
    result: list[int | None] = [None] * rank
    result[0], result[attrs.layout.channel] = image[0], weights[-1]
    for place_, axis in enumerate(attrs.layout.spatial):
        result[axis] = static_size(image[axis], weights[place_], attrs.strides[place_], attrs.dilations[place_],
                                   attrs.padding, attrs.explicit[place_])
    return [tuple(result)]


@kernel("Conv2D", shape=_conv2d_shape)
def conv2d(node: Node, env: KernelEnv) -> Run:
    attrs, xp = Convolution.of(node), env.xp

    def run(image: Any, weights: Any) -> Any:
        groups = _check_operands(image.shape, weights.shape, attrs.layout, "")
        last = attrs.layout.last(image)
        places = attrs.places(last.shape[1:-1], weights.shape[:-2])
        result = forward(xp, computed(xp, last), computed(xp, weights), places, groups)
        return attrs.layout.back(result).astype(image.dtype, copy=False)

    return run


def gradient_places(attrs: Convolution, image_shape: Sequence[int], weights_shape: Sequence[int], gradient: Any,
                    op: str) -> tuple[Placement, ...]:
    """Return where the windows lie and check that a gradient has the shape of the convolution's output."""
    layout = attrs.layout
    places = attrs.places(layout.spatial_of(image_shape), weights_shape[:-2])
    if gradient.ndim != len(image_shape):
        raise InvalidArgument(f"{op}: out_backprop must be {len(image_shape)}-dimensional, not "
                              f"{format_shape(gradient.shape)}")
    if gradient.shape[0] != image_shape[0]:
        raise InvalidArgument(f"{op}: input and out_backprop must have the same batch size. Input batch: "
                              f"{image_shape[0]}, outbackprop batch: {gradient.shape[0]}, batch_dim: 0")
    if gradient.shape[layout.channel] != weights_shape[-1]:
        raise InvalidArgument(f"{op}: filter and out_backprop must have the same out_depth")
    for item, axis in zip(places, layout.spatial, strict=True):
        if gradient.shape[axis] != item.count:
            raise InvalidArgument(f"{op}: Size of out_backprop doesn't match computed: actual = "
                                  f"{gradient.shape[axis]}, computed = {item.count} spatial_dim: {axis} input: "
                                  f"{item.size} filter: {item.axis.window} output: {gradient.shape[axis]} stride: "
                                  f"{item.axis.stride} dilation: {item.axis.dilation}")
    return places


def _input_gradient_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None,) * 4]


@kernel("Conv2DBackpropInput", shape=_input_gradient_shape, host=(0,))
def conv2d_backprop_input(node: Node, env: KernelEnv) -> Run:
    attrs, xp = Convolution.of(node), env.xp
    layout = attrs.layout

    def run(input_sizes: Any, weights: Any, gradient: Any) -> Any:
        shape = _input_shape(input_sizes, weights, gradient, layout)
        groups = _check_operands(shape, weights.shape, layout, "Conv2DCustomBackpropInput")
        places = gradient_places(attrs, shape, weights.shape, gradient, "Conv2DCustomBackpropInput")
        last_shape = (shape[0], *layout.spatial_of(shape), shape[layout.channel])
        result = input_gradient(xp, last_shape, computed(xp, weights), computed(xp, layout.last(gradient)), places,
                                groups)
        return layout.back(result).astype(gradient.dtype, copy=False)

    return run


def _input_shape(input_sizes: Any, weights: Any, gradient: Any, layout: Layout) -> tuple[int, ...]:
    """Return the shape that ``input_sizes`` gives: all dimensions, or only height and width."""
    sizes = [int(size) for size in input_sizes.tolist()] if input_sizes.ndim == 1 else []
    if len(sizes) == 4:
        if min(sizes) < 0:
            raise InvalidArgument(f"Conv2DBackpropInput: input_sizes must not be negative: {sizes}")
        return tuple(sizes)
    if len(sizes) == 2 and weights.ndim == 4 and gradient.ndim == 4:
        result = [0] * 4
        result[0], result[layout.channel] = gradient.shape[0], weights.shape[2]
        for axis, size in zip(layout.spatial, sizes, strict=True):
            result[axis] = size
        return tuple(result)
    raise InvalidArgument("Conv2DBackpropInput requires input_sizes to contain 4 values or 2 values, but got: "
                          f"{input_sizes.size}")


def _filter_gradient_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None,) * 4]


@kernel("Conv2DBackpropFilter", shape=_filter_gradient_shape, host=(1,))
def conv2d_backprop_filter(node: Node, env: KernelEnv) -> Run:
    attrs, xp = Convolution.of(node), env.xp
    layout = attrs.layout

    def run(image: Any, filter_sizes: Any, gradient: Any) -> Any:
        if filter_sizes.ndim != 1:
            raise InvalidArgument("Conv2DBackpropFilter: filter_sizes input must be 1-dim, not "
                                  f"{filter_sizes.ndim}")
        shape = tuple(int(size) for size in filter_sizes.tolist())
        groups = _check_operands(image.shape, shape, layout, "Conv2DCustomBackpropFilter")
        places = gradient_places(attrs, image.shape, shape, gradient, "Conv2DCustomBackpropFilter")
        result = filter_gradient(xp, computed(xp, layout.last(image)), shape, computed(xp, layout.last(gradient)),
                                  places, groups)
        return result.astype(gradient.dtype, copy=False)

    return run
