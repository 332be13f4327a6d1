"""Where a window stands: strides, dilations and padding of convolutions and poolings.

Arrays are handled with the channels last; with the channels first they are transposed, as views, on the way in and out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument, Unimplemented

if TYPE_CHECKING:
    from runtime.graph.node import Node

__all__ = ["Axis", "Layout", "Placement", "all_offsets", "layout_of", "padded", "place", "slices", "static_size"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Which dimensions are spatial, and which holds the channels."""

    spatial: tuple[int, ...]
    channel: int

    def last(self, array: Any) -> Any:
        """Return a view with the channels last."""
        return array if self.channel == array.ndim - 1 else array.transpose(0, *self.spatial, self.channel)

    def back(self, array: Any) -> Any:
        """Return a view of a channels-last array in this layout."""
        if self.channel == array.ndim - 1:
            return array
        return array.transpose(0, array.ndim - 1, *range(1, array.ndim - 1))

    def spatial_of(self, values: Sequence[int]) -> tuple[int, ...]:
        """Return the entries of a per-dimension list that belong to the spatial dimensions."""
        return tuple(values[axis] for axis in self.spatial)


def layout_of(node: Node) -> Layout:
    """Return the layout that the attr ``data_format`` names."""
    name: bytes = node.attr("data_format")
    if name in (b"NHWC", b"NDHWC"):
        return Layout(tuple(range(1, len(name) - 1)), len(name) - 1)
    if name in (b"NCHW", b"NCDHW"):
        return Layout(tuple(range(2, len(name))), 1)
    raise Unimplemented(f"data_format {name.decode()} of {node.op} does not run here; use NHWC or NCHW")


@dataclass(frozen=True, slots=True)
class Axis:
    """A window along one spatial dimension: sizes in cells."""

    window: int
    stride: int
    dilation: int = 1

    @property
    def extent(self) -> int:
        """Cells from the first to the last that the window touches."""
        return (self.window - 1) * self.dilation + 1


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the windows along one dimension lie.

    Attributes
    ----------
    axis : Axis
    size : int
        Cells of the input.
    count : int
        Windows, that is cells of the output.
    before, after : int
        Cells of padding.
    """

    axis: Axis
    size: int
    count: int
    before: int
    after: int

    @property
    def touched(self) -> int:
        """Cells of the padded input that windows reach; cells behind them take no part."""
        return (self.count - 1) * self.axis.stride + self.axis.extent if self.count else 0


def place(size: int, axis: Axis, padding: bytes, explicit: tuple[int, int] = (0, 0)) -> Placement:
    """Return where the windows lie along a dimension of `size` cells.

    Parameters
    ----------
    padding : bytes
        ``SAME``, ``VALID`` or ``EXPLICIT``.
    explicit : tuple of int
        Cells before and after, for ``EXPLICIT``.

    Raises
    ------
    InvalidArgument
        If the window is larger than the padded input by more than one stride.
    """
    if padding == b"SAME":
        count = -(-size // axis.stride)
        total = max((count - 1) * axis.stride + axis.extent - size, 0)
        return Placement(axis, size, count, total // 2, total - total // 2)
    before, after = explicit if padding == b"EXPLICIT" else (0, 0)
    count = (size + before + after - axis.extent + axis.stride) // axis.stride
    if count < 0:
        raise InvalidArgument(f"Computed output size would be negative: {count} [input_size: {size + before + after}, "
                              f"effective_filter_size: {axis.extent}, stride: {axis.stride}]")
    return Placement(axis, size, count, before, after)


def static_size(size: int | None, window: int | None, stride: int, dilation: int, padding: bytes,
                explicit: tuple[int, int]) -> int | None:
    """Return how many windows there are along a dimension, or None when that is not known."""
    if size is None or (window is None and padding != b"SAME"):
        return None
    return place(size, Axis(window or 1, stride, dilation), padding, explicit).count


def padded(xp: Any, array: Any, places: Sequence[Placement], fill: Any) -> Any:
    """Return a channels-last array with its padding cells around it; itself when there are none."""
    if not any(item.before or item.after for item in places):
        return array
    sizes = [item.before + item.size + item.after for item in places]
    result = xp.full((array.shape[0], *sizes, array.shape[-1]), fill, array.dtype)
    inner = tuple(slice(item.before, item.before + item.size) for item in places)
    result[(slice(None), *inner)] = array
    return result


def slices(places: Sequence[Placement], offsets: Sequence[int]) -> tuple[slice, ...]:
    """Return the index of a padded channels-last array that gives, per window, the cell at `offsets` in it."""
    parts = []
    for item, offset in zip(places, offsets, strict=True):
        start = offset * item.axis.dilation
        parts.append(slice(start, start + max(item.count - 1, 0) * item.axis.stride + (1 if item.count else 0),
                           item.axis.stride))
    return (slice(None), *parts)


def all_offsets(places: Sequence[Placement]) -> Iterator[tuple[int, ...]]:
    """Return the offsets of a window's cells, row by row."""
    return product(*(range(item.axis.window) for item in places))
