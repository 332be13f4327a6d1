"""Ragged tensors as elements of variant tensors: how datasets carry them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtime.dtypes import DataType

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
