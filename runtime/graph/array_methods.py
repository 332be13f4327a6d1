"""Builder methods for placeholders, shapes and the arrangement of elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, as_datatype, to_numpy
from runtime.graph.attrs import as_shape
from runtime.graph.op_maker import OpMaker
from runtime.graph.tensor import Tensor

__all__ = ["ArrayMethods"]

# Up to this many elements zeros and ones are written into the graph; above, a Fill makes them when the step runs.
_MAX_CONSTANT_ELEMENTS = 1000


class ArrayMethods(OpMaker):
    """Mixin of `runtime.graph.builder.Graph`.

    Wherever a tensor is expected, a variable or a constant will do.
    """

    def placeholder(self, dtype: Any, shape: Any = None, name: str = "Placeholder") -> Tensor:
        """Add a tensor that must be fed.

        Parameters
        ----------
        dtype : dtype
        shape : shape, optional
            None for unknown dimensions, or altogether for an unknown rank; checked when a value is fed.
        """
        result: Tensor = self.op("Placeholder", dtype=dtype, shape=as_shape(shape), name=name)
        result.set_shape(as_shape(shape))
        return result

    def placeholder_with_default(self, value: Any, shape: Any, name: str = "PlaceholderWithDefault") -> Tensor:
        """Add a tensor that has a value unless it is fed."""
        result: Tensor = self.op("PlaceholderWithDefault", value, shape=as_shape(shape), name=name)
        result.set_shape(as_shape(shape))
        return result

    def identity(self, x: Any, name: str = "Identity") -> Tensor:
        """Return the value under a name of its own."""
        return self._one("Identity", x, name=name)

    def stop_gradient(self, x: Any, name: str = "StopGradient") -> Tensor:
        """Return the value; `gradients` does not look behind it."""
        return self._one("StopGradient", x, name=name)

    def cast(self, x: Any, dtype: Any, name: str = "Cast") -> Tensor:
        """Convert elements; returns `x` itself if it has the type already."""
        tensor = self.convert(x)
        kind = as_datatype(dtype)
        return tensor if tensor.dtype is kind else self._one("Cast", tensor, DstT=kind, name=name)

    def shape(self, x: Any, dtype: Any = DataType.INT32, name: str = "Shape") -> Tensor:
        """Return the shape as a vector, as it is when the step runs."""
        return self._one("Shape", x, out_type=dtype, name=name)

    def size(self, x: Any, dtype: Any = DataType.INT32, name: str = "Size") -> Tensor:
        """Return the number of elements."""
        return self._one("Size", x, out_type=dtype, name=name)

    def rank(self, x: Any, name: str = "Rank") -> Tensor:
        """Return the number of dimensions."""
        return self._one("Rank", x, name=name)

    def reshape(self, x: Any, shape: Any, name: str = "Reshape") -> Tensor:
        """Return the elements in another shape; one size may be -1."""
        return self._one("Reshape", x, shape, name=name)

    def expand_dims(self, x: Any, axis: Any, name: str = "ExpandDims") -> Tensor:
        """Insert a dimension of size 1."""
        return self._one("ExpandDims", x, axis, name=name)

    def squeeze(self, x: Any, axis: int | Sequence[int] | None = None, name: str = "Squeeze") -> Tensor:
        """Drop dimensions of size 1: those named, or all."""
        dims = [] if axis is None else [axis] if isinstance(axis, int) else list(axis)
        return self._one("Squeeze", x, squeeze_dims=dims, name=name)

    def fill(self, shape: Any, value: Any, name: str = "Fill") -> Tensor:
        """Return a tensor of one repeated scalar."""
        return self._one("Fill", shape, value, name=name)

    def zeros(self, shape: Any, dtype: Any = DataType.FLOAT, name: str = "zeros") -> Tensor:
        """Return zeros (False, or empty strings)."""
        return self._filled(shape, as_datatype(dtype), 0, name)

    def ones(self, shape: Any, dtype: Any = DataType.FLOAT, name: str = "ones") -> Tensor:
        """Return ones (True)."""
        return self._filled(shape, as_datatype(dtype), 1, name)

    def _filled(self, shape: Any, dtype: DataType, number: int, name: str) -> Tensor:
        value = b"" if dtype is DataType.STRING else np.array(number, dtype=to_numpy(dtype))
        if not isinstance(shape, Tensor) and not any(isinstance(dim, Tensor) for dim in np.atleast_1d(shape)):
            sizes = as_shape(shape)
            if sizes is not None and None not in sizes and _product(sizes) <= _MAX_CONSTANT_ELEMENTS:
                return self.constant(value, dtype, shape=sizes, name=name)
            shape = list(sizes) if sizes is not None else shape
        with self.name_scope(name) as scope:
            return self._one("Fill", shape, self.constant(value, dtype), name=scope)

    def zeros_like(self, x: Any, name: str = "zeros_like") -> Tensor:
        """Return zeros in the shape and type of `x`."""
        return self._one("ZerosLike", x, name=name)

    def ones_like(self, x: Any, name: str = "ones_like") -> Tensor:
        """Return ones in the shape and type of `x`."""
        return self._one("OnesLike", x, name=name)

    def stack(self, values: Sequence[Any], axis: int = 0, name: str = "stack") -> Tensor:
        """Join tensors of one shape along a new dimension."""
        return self._one("Pack", list(values), axis=axis, name=name)

    def unstack(self, x: Any, num: int | None = None, axis: int = 0, name: str = "unstack") -> list[Tensor]:
        """Split along a dimension and drop it.

        Parameters
        ----------
        num : int, optional
            Size of the dimension; needed when it is not known statically.
        """
        tensor = self.convert(x)
        if num is None:
            num = None if tensor.shape is None else tensor.shape[axis]
        if num is None:
            raise InvalidArgument(f"unstack of '{tensor.name}': dimension {axis} is unknown; pass num=")
        parts: list[Tensor] = self.op("Unpack", tensor, num=num, axis=axis, name=name)
        return parts

    def concat(self, values: Sequence[Any], axis: Any, name: str = "concat") -> Tensor:
        """Join tensors along a dimension they have."""
        if len(values) == 1:
            return self.identity(values[0], name=name)
        return self._one("ConcatV2", list(values), axis, name=name)

    def split(self, x: Any, sizes: int | Sequence[int], axis: Any = 0, name: str = "split") -> list[Tensor]:
        """Split along a dimension.

        Parameters
        ----------
        sizes : int or sequence of int
            How many equal parts, or the size of each (one may be -1).
        """
        if isinstance(sizes, int):
            parts: list[Tensor] = self.op("Split", axis, x, num_split=sizes, name=name)
        else:
            lengths = np.array(sizes, dtype=np.int64)
            parts = self.op("SplitV", x, lengths, axis, num_split=len(lengths), name=name)
        return parts

    def slice(self, x: Any, begin: Any, size: Any, name: str = "Slice") -> Tensor:
        """Cut out a block; a size of -1 means to the end."""
        return self._one("Slice", x, begin, size, name=name)

    def strided_slice(self, x: Any, key: Any, name: str = "strided_slice") -> Tensor:
        """Index as numpy does: ints, slices, ``...``, None; bounds may be scalar int32 tensors. ``x[key]`` is this.

        Raises
        ------
        InvalidArgument
            For index arrays and masks; `gather`, `gather_nd` and `boolean_mask` do those.
        """
        parts: list[list[Any]] = [[], [], []]
        masks = dict.fromkeys(("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"), 0)
        for position, item in enumerate(key if isinstance(key, tuple) else (key,)):
            bit = 1 << position
            if item is Ellipsis:
                masks["ellipsis_mask"] |= bit
                entry: tuple[Any, Any, Any] = (0, 0, 1)
            elif item is None:
                masks["new_axis_mask"] |= bit
                entry = (0, 0, 1)
            elif isinstance(item, slice):
                masks["begin_mask"] |= bit if item.start is None else 0
                masks["end_mask"] |= bit if item.stop is None else 0
                entry = (0 if item.start is None else item.start, 0 if item.stop is None else item.stop,
                         1 if item.step is None else item.step)
            elif isinstance(item, Tensor) or (isinstance(item, (int, np.integer)) and not isinstance(item, bool)):
                if isinstance(item, Tensor) and item.shape not in (None, ()):
                    raise InvalidArgument(f"index {position} is tensor '{item.name}' of rank {item.rank}; only scalars "
                                          "can be indices: use Graph.gather or Graph.gather_nd")
                masks["shrink_axis_mask"] |= bit
                entry = (item, item + 1, 1)
                if not isinstance(item, Tensor) and item == -1:  # an end of 0 would mean the beginning
                    masks["end_mask"] |= bit
                    entry = (item, 0, 1)
            else:
                raise InvalidArgument(f"index {position} is {type(item).__name__} {item!r}; ints, slices, ..., None "
                                      "and scalar tensors index a tensor: use Graph.gather, Graph.gather_nd or "
                                      "Graph.boolean_mask for the rest")
            for part, value in zip(parts, entry, strict=True):
                part.append(value)
        kind = next((item.dtype for part in parts for item in part if isinstance(item, Tensor)), DataType.INT32)
        with self.name_scope(name) as scope:
            begin, end, strides = (self.convert(part, kind, name=label)
                                   for part, label in zip(parts, ("stack", "stack_1", "stack_2"), strict=True))
            return self._one("StridedSlice", x, begin, end, strides, name=scope, **masks)

    def tile(self, x: Any, multiples: Any, name: str = "Tile") -> Tensor:
        """Repeat along every dimension."""
        return self._one("Tile", x, multiples, name=name)

    def transpose(self, x: Any, perm: Any = None, name: str = "transpose") -> Tensor:
        """Permute the dimensions; reverse them when no order is given."""
        with self.name_scope(name) as scope:
            tensor = self.convert(x)
            if perm is None:
                if tensor.shape is not None:
                    perm = np.arange(len(tensor.shape), dtype=np.int32)[::-1]
                else:
                    rank = self.rank(tensor)
                    perm = self.op("Sub", self.op("Sub", rank, 1), self.range(0, rank, 1))
            elif not isinstance(perm, Tensor):
                perm = np.array(perm, dtype=np.int32)
            return self._one("Transpose", tensor, perm, name=scope)

    def gather(self, x: Any, indices: Any, axis: Any = 0, batch_dims: int = 0, name: str = "GatherV2") -> Tensor:
        """Pick entries along a dimension by index."""
        return self._one("GatherV2", x, indices, axis, batch_dims=batch_dims, name=name)

    def gather_nd(self, x: Any, indices: Any, name: str = "GatherNd") -> Tensor:
        """Pick entries by their leading coordinates, which the last dimension of `indices` holds."""
        return self._one("GatherNd", x, indices, name=name)

    def scatter_nd(self, indices: Any, updates: Any, shape: Any, name: str = "ScatterNd") -> Tensor:
        """Return zeros of a shape with `updates` added at coordinates."""
        return self._one("ScatterNd", indices, updates, shape, name=name)

    def boolean_mask(self, x: Any, mask: Any, name: str = "boolean_mask") -> Tensor:
        """Return the entries along the first dimension where a vector of bools is true."""
        with self.name_scope(name):
            index = self.squeeze(self._one("Where", self.convert(mask, DataType.BOOL, "mask")), [1])
            return self.gather(x, index)

    def one_hot(self, indices: Any, depth: Any, on_value: Any = 1.0, off_value: Any = 0.0, dtype: Any = None,
                axis: int = -1, name: str = "one_hot") -> Tensor:
        """Return rows that are `off_value` but at one position each; indices outside have no such position."""
        with self.name_scope(name) as scope:
            on = self.convert(on_value, dtype, "on_value")
            off = self.convert(off_value, on.dtype, "off_value")
            return self._one("OneHot", indices, depth, on, off, axis=axis, name=scope)

    def where(self, condition: Any, x: Any, y: Any, name: str = "SelectV2") -> Tensor:
        """Return elements of `x` where the condition holds and of `y` elsewhere, broadcast together."""
        return self._one("SelectV2", condition, x, y, name=name)

    def pad(self, x: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0, name: str = "Pad") -> Tensor:
        """Add elements before and after each dimension.

        Parameters
        ----------
        paddings : (rank, 2)
        mode : str
            ``CONSTANT``, ``REFLECT`` (without the border) or ``SYMMETRIC`` (with it).
        """
        upper = mode.upper()
        if upper != "CONSTANT":
            return self._one("MirrorPad", x, paddings, mode=upper, name=name)
        if not isinstance(constant_values, Tensor) and constant_values == 0:
            return self._one("Pad", x, paddings, name=name)
        return self._one("PadV2", x, paddings, constant_values, name=name)

    def broadcast_to(self, x: Any, shape: Any, name: str = "BroadcastTo") -> Tensor:
        """Repeat along dimensions of size 1 to reach a shape."""
        return self._one("BroadcastTo", x, shape, name=name)

    def reverse(self, x: Any, axis: Any, name: str = "ReverseV2") -> Tensor:
        """Reverse the order along dimensions."""
        return self._one("ReverseV2", x, np.atleast_1d(axis).astype(np.int32), name=name)

    def range(self, start: Any, limit: Any = None, delta: Any = 1, dtype: Any = None, name: str = "range") -> Tensor:
        """Return numbers from `start` up to but without `limit`; one argument counts from 0."""
        if limit is None:
            start, limit = 0, start
        with self.name_scope(name) as scope:
            values = (start, limit, delta)
            kind = as_datatype(dtype) if dtype is not None else next(
                (value.dtype for value in values if isinstance(value, Tensor)),
                DataType.FLOAT if any(isinstance(value, float) for value in values) else None)
            parts = [self.convert(value, kind, label)
                     for value, label in zip(values, ("start", "limit", "delta"), strict=True)]
            return self._one("Range", *parts, name=scope)

    def linspace(self, start: Any, stop: Any, num: Any, name: str = "LinSpace") -> Tensor:
        """Return evenly spaced numbers, both ends included."""
        return self._one("LinSpace", start, stop, num, name=name)


def _product(sizes: Sequence[int | None]) -> int:
    return math.prod(size for size in sizes if size is not None)
