"""Ragged tensors as elements of variant tensors: how datasets carry them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType
from runtime.ops.values.tensor_list import sum_of, zeros_of

__all__ = ["RaggedVariant"]


@dataclass(frozen=True, slots=True)
class RaggedVariant:
    """A ragged tensor as the element of a variant tensor.

    Attributes
    ----------
    splits : tuple of ndarray
        Where the rows begin, of each ragged dimension from the outermost.
    values : ndarray
    datatype : DataType
        Of the values.
    """

    splits: tuple[Any, ...]
    values: Any
    datatype: DataType

    @property
    def rows(self) -> int:
        """Number of entries of the first dimension; the values must have one."""
        return int(self.splits[0].shape[0] - 1 if self.splits else self.values.shape[0])

    def zeros_like(self) -> RaggedVariant:
        """Return zeros in rows of the same lengths."""
        return RaggedVariant(self.splits, zeros_of(self.values, self.datatype), self.datatype)

    def __add__(self, other: Any) -> RaggedVariant:
        """Return the sums of the values.

        Raises
        ------
        InvalidArgument
            If they differ in type, ragged rank or the lengths of rows.
        """
        if not isinstance(other, RaggedVariant):
            raise InvalidArgument(f"a ragged tensor and {type(other).__name__} cannot be added")
        what = "Can't add RaggedTensorVariants"
        if self.datatype != other.datatype:
            raise InvalidArgument(f"{what} of different dtypes. One is {self.datatype.label} and the other is "
                                  f"{other.datatype.label}")
        if len(self.splits) != len(other.splits):
            raise InvalidArgument(f"{what} of different ragged rank. One is {len(self.splits)} and the other is "
                                  f"{len(other.splits)}")
        if not all(np.array_equal(a, b) for a, b in zip(self.splits, other.splits, strict=True)):
            raise InvalidArgument(f"{what} with different row_splits.")
        return RaggedVariant(self.splits, sum_of(self.values, other.values), self.datatype)
