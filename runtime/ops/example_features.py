"""Features of a batch of Examples as tensors: dense with defaults, sparse, or ragged.

The parser gives for each feature how many values every example has (-1 where it has no such feature) and all values in
a row; nothing here looks at single examples but errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime._ext.errors import InvalidArgument
from runtime._ext.example_codec import ExampleFault, ExampleParser
from runtime.dtypes import DataType, to_numpy
from runtime.ops.registry import Shape
from runtime.ops.shapes import format_shape

__all__ = [
    "KINDS", "DenseFeature", "ParserPool", "check_default", "dense", "dense_shape", "mistyped", "name_of",
    "places_within", "ragged", "sparse", "splits_of", "text_of",
]

Counts = npt.NDArray[np.int64]

KINDS = {DataType.STRING: 1, DataType.FLOAT: 2, DataType.INT64: 3}
"""Number of the list of a Feature that holds values of a type."""

_TYPES = {number: kind for kind, number in KINDS.items()}


class ParserPool:
    """Parsers for one set of features: as many as steps parse at once."""

    def __init__(self, keys: Sequence[bytes], types: Sequence[DataType], list_keys: Sequence[bytes] | None = None,
                 list_types: Sequence[DataType] = ()) -> None:
        for key, kind in zip((*keys, *(list_keys or ())), (*types, *list_types), strict=True):
            if kind not in KINDS:
                raise InvalidArgument(f"feature '{key.decode('utf-8', 'replace')}' cannot be of type {kind.label}; "
                                      "features are string, float or int64")
        self._arguments = (list(keys), [KINDS[kind] for kind in types],
                           None if list_keys is None else list(list_keys), [KINDS[kind] for kind in list_types])
        self._free: list[ExampleParser] = []
        self._put_back(self._make())

    def _make(self) -> ExampleParser:
        try:
            return ExampleParser(*self._arguments)
        except ValueError as error:
            raise InvalidArgument(str(error)) from None

    def _put_back(self, parser: ExampleParser) -> None:
        self._free.append(parser)

    def parse(self, serialized: list[bytes]) -> Any:
        """Read a batch; see `ExampleParser.parse`."""
        try:
            parser = self._free.pop()
        except IndexError:
            parser = self._make()
        try:
            return parser.parse(serialized)
        finally:
            self._put_back(parser)


@dataclass(frozen=True, slots=True)
class DenseFeature:
    """A feature with one value for every place of a shape.

    Attributes
    ----------
    key : bytes
    datatype : DataType
    shape : tuple of int or None
        Of one example; an unknown first dimension makes its length differ, and the longest one decides.
    """

    key: bytes
    datatype: DataType
    shape: tuple[int | None, ...]

    @property
    def is_variable(self) -> bool:
        """Tell whether examples may have different lengths."""
        return bool(self.shape) and self.shape[0] is None

    @property
    def row_size(self) -> int:
        """Return how many values a step of the first dimension, or the whole, takes."""
        return math.prod(dim or 0 for dim in (self.shape[1:] if self.is_variable else self.shape))


def check_default(feature: DenseFeature, number: int, default: Any) -> None:
    """Check a default: of the feature's shape, empty where the feature is required, or what a row is padded with.

    Raises
    ------
    InvalidArgument
        In TensorFlow's words.
    """
    if feature.is_variable:
        if default.size != 1:
            raise InvalidArgument(
                f"dense_shape[{number}] is a variable length shape: {format_shape(feature.shape)}, therefore "
                f"def_value[{number}] must contain a single element (the padding element).  But its shape is: "
                f"{format_shape(default.shape)}")
    elif default.size and default.shape != feature.shape:
        raise InvalidArgument(f"def_value[{number}].shape() == {format_shape(default.shape)} is not compatible with "
                              f"dense_shapes_[{number}] == {format_shape(feature.shape)}")


def mistyped(fault: ExampleFault, keys: Sequence[bytes], types: Sequence[DataType], names: Sequence[bytes],
             dense_places: range = range(0), single: bool = False) -> InvalidArgument:
    """Return the error for what a parser could not read.

    Parameters
    ----------
    dense_places : range
        Which features are dense.
    names, single
        As `dense` takes them.
    """
    if fault.feature < 0:
        return InvalidArgument(f"Could not parse example input number {fault.example} (name: "
                               f"{name_of(names, fault.example)})")
    place = _place(keys[fault.feature], fault.example, names, single)
    found, wanted = _TYPES[fault.kind].label, types[fault.feature].label
    if fault.feature in dense_places:
        return InvalidArgument(f"{place}Data types don't match. Data type: {found} but expected type: {wanted}")
    return InvalidArgument(f"{place}Data types don't match. Expected type: {wanted}, Actual type: {found}")


def _place(key: bytes, example: int, names: Sequence[bytes], single: bool) -> str:
    """Return how a message names a feature of an example."""
    if single:
        return f"Key: {text_of(key)}.  "
    return f"Name: {name_of(names, example)}, Key: {text_of(key)}, Index: {example}.  "


def text_of(key: bytes) -> str:
    """Return a key as it stands in messages."""
    return key.decode("utf-8", "replace")


def name_of(names: Sequence[bytes], example: int) -> str:
    """Return what the caller calls an example."""
    return names[example].decode("utf-8", "replace") if names else "<unknown>"


def places_within(present: Counts) -> Counts:
    """Return for every value its place among its example's."""
    return np.arange(int(present.sum())) - np.repeat(np.cumsum(present) - present, present)


def sparse(counts: Counts, values: Any) -> tuple[Any, Any, Any]:
    """Return a sparse matrix with a row for each example."""
    present = np.maximum(counts, 0)
    rows = np.repeat(np.arange(counts.size), present)
    indices = np.stack([rows, places_within(present)], axis=1)
    return indices, values, np.array([counts.size, int(present.max(initial=0))], np.int64)


def splits_of(counts: Counts, datatype: DataType) -> Any:
    """Return where rows of so many values (-1 for none) begin and end."""
    result = np.zeros(counts.size + 1, np.int64)
    np.cumsum(np.maximum(counts, 0), out=result[1:])
    return result.astype(to_numpy(datatype), copy=False)


def ragged(counts: Counts, values: Any, split_type: DataType) -> tuple[Any, Any]:
    """Return the values and the splits of a ragged matrix with a row for each example."""
    return values, splits_of(counts, split_type)


def dense(feature: DenseFeature, counts: Counts, values: Any, default: Any, names: Sequence[bytes],
          single: bool = False) -> Any:
    """Return a feature of all examples as one array.

    Parameters
    ----------
    counts : int64 (batch,)
    values : ndarray, (sum of counts,)
    default : ndarray
        See `check_default`.
    names : sequence of bytes
        For messages; may be empty.
    single : bool
        Whether messages are those of a single example.

    Returns
    -------
    ndarray, (batch, *shape)

    Raises
    ------
    InvalidArgument
        If a number of values does not fit, or a required feature is missing.
    """
    size = feature.row_size
    if feature.is_variable:
        return _padded(feature, size, counts, values, default, names, single)
    present = counts >= 0
    wrong = present & (counts != size)
    if wrong.any():
        example = int(wrong.argmax())
        raise InvalidArgument(
            f"{_place(feature.key, example, names, single)}Number of {_listed(feature)} values != expected.  Values "
            f"size: {int(counts[example])} but output shape: {format_shape(feature.shape)}")
    if present.all():
        return values.reshape(counts.size, *feature.shape)
    if not default.size:
        example = int(present.argmin())
        start = "" if single else f"Name: {name_of(names, example)}, "
        raise InvalidArgument(f"{start}Feature: {text_of(feature.key)} (data type: {feature.datatype.label}) is "
                              "required but could not be found.")
    shape: list[Any] = [counts.size, *feature.shape]
    result = np.empty(shape, values.dtype)
    result[...] = default
    result[present] = values.reshape(-1, *feature.shape)
    return result


def _listed(feature: DenseFeature) -> str:
    return "bytes" if feature.datatype is DataType.STRING else feature.datatype.label


def _padded(feature: DenseFeature, size: int, counts: Counts, values: Any, default: Any, names: Sequence[bytes],
            single: bool) -> Any:
    present = np.maximum(counts, 0)
    uneven = present % max(1, size) != 0
    if uneven.any():
        example = int(uneven.argmax())
        raise InvalidArgument(
            f"{_place(feature.key, example, names, single)}Number of {_listed(feature)} values is not a multiple of "
            f"stride length. Saw {int(present[example])} values but output shape is: {format_shape(feature.shape)}")
    longest = int(present.max(initial=0))
    result = np.empty((counts.size, longest), values.dtype)
    result[...] = default.reshape(())
    result[np.repeat(np.arange(counts.size), present), places_within(present)] = values
    rest: list[Any] = list(feature.shape[1:])
    return result.reshape(counts.size, longest // max(1, size), *rest)


def dense_shape(shape: Shape) -> tuple[int | None, ...]:
    """Return the shape of a dense feature from an attr.

    Raises
    ------
    InvalidArgument
        If more than its first dimension is unknown.
    """
    if shape is None or None in shape[1:]:
        raise InvalidArgument("dense_shape must be fully defined but for its first dimension, got "
                              f"{format_shape(shape)}")
    return shape
