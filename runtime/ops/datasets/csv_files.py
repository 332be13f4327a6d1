"""Datasets of the records of CSV files, each field a component."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, to_numpy
from runtime.ops.datasets.dataset import DatasetIterator, Element, Signature, boolean, integer, kept, text, variant
from runtime.ops.datasets.record_files import RecordFileDataset, RecordFileIterator, Records, file_paths
from runtime.ops.files.bytestream import COMPRESSIONS
from runtime.ops.files.csv_records import CSVRecords, Malformed
from runtime.ops.objects import object_scalar
from runtime.ops.parsing import csv_number
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.step.environment import KernelEnv
    from runtime.step.files import FileAccess

Run = Callable[..., Any]


class CSVColumns:
    """What becomes of a record's fields.

    Parameters
    ----------
    types : sequence of DataType
        Of the components.
    defaults : sequence of ndarray
        What an empty field stands for, one element or none for each component.
    missing : bytes
        What else stands for an empty field.
    selected : sequence of int
        Places of the fields that become components, in order; all when it is empty.
    excluded : sequence of int
        Places of those that do not.
    """

    def __init__(self, types: Sequence[DataType], defaults: Sequence[Any], missing: bytes, selected: Sequence[int],
                 excluded: Sequence[int]) -> None:
        self._count = len(types)
        self._dtypes = [to_numpy(kind) for kind in types]
        self._labels = [kind.label for kind in types]
        self._convert = [None if kind is DataType.STRING else csv_number(kind) for kind in types]
        self._defaults = [default.reshape(()) if default.size else None for default in defaults]
        self._missing = missing
        self._selected = frozenset(selected)
        self._excluded = frozenset(excluded)

    def element(self, fields: Sequence[bytes | Malformed]) -> Element:
        """Return the components of a record.

        Raises
        ------
        InvalidArgument
            For the first field that is in the way.
        """
        found: list[Any] = []
        for place, field in enumerate(fields):
            if isinstance(field, Malformed):
                raise InvalidArgument(field.reason)
            if self._selected and place not in self._selected or place in self._excluded:
                continue
            number = len(found)
            if number >= self._count:
                raise InvalidArgument(f"Expect {self._count} fields but have more in record")
            found.append(self._component(number, field))
        if len(found) < self._count:
            raise InvalidArgument(f"Expect {self._count} fields but have {len(found)} in record")
        return tuple(found)

    def _component(self, number: int, field: bytes) -> Any:
        if not field or field == self._missing:
            default = self._defaults[number]
            if default is None:
                raise InvalidArgument(f"Field {number} is required but missing in record!")
            return default
        convert = self._convert[number]
        if convert is None:
            return object_scalar(field)
        try:
            return np.array(convert(field), self._dtypes[number])
        except ValueError:
            raise InvalidArgument(f"Field {number} in record is not a valid {self._labels[number]}: "
                                  f"{field.decode('utf-8', 'replace')}") from None


class CSVDataset(RecordFileDataset):
    """The records of some CSV files, one file after the other.

    Parameters
    ----------
    columns : CSVColumns
    """

    def __init__(self, paths: Sequence[str], files: FileAccess, open_reader: Callable[[str, int], Records],
                 signature: Signature, columns: CSVColumns) -> None:
        super().__init__("CSV", paths, files, open_reader, signature)
        self.columns = columns

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _CSVIterator(self, iteration, prefix)


class _CSVIterator(RecordFileIterator):
    __slots__ = ("_columns",)

    def __init__(self, dataset: CSVDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._columns = dataset.columns

    async def next(self) -> Element | None:
        fields = await self.record()
        if fields is None:
            return None
        if isinstance(fields, Malformed):
            raise InvalidArgument(fields.reason)
        return self._columns.element(fields)

    async def skip(self, count: int) -> int:
        return await DatasetIterator.skip(self, count)  # what is passed over must be right, too


@kernel("CSVDataset", "CSVDatasetV2", "ExperimentalCSVDataset", shape=scalar)
def _csv(node: Node, env: KernelEnv) -> Run:
    signature, files = Signature.of(node), env.session.files
    types = [DataType(kind) for kind in signature.types]
    count = len(types)

    def run(filenames: Any, compression_type: Any, buffer_size: Any, header: Any, field_delim: Any,
            use_quote_delim: Any, na_value: Any, select_cols: Any, *rest: Any) -> Any:
        paths = file_paths(filenames)
        defaults, more = kept(rest[:count]), rest[count:]
        for default in defaults:
            if default.ndim > 1:
                raise InvalidArgument("Each record default should be at most rank 1")
            if default.size > 1:
                raise InvalidArgument("There should only be 1 default per field but field "
                                      f"has {default.size}")
        kind = text(compression_type, "compression_type")
        if kind not in COMPRESSIONS:
            raise InvalidArgument(f"Unsupported compression_type: {kind}.")
        buffer = integer(buffer_size, "buffer_size")
        if buffer <= 0:
            raise InvalidArgument("buffer_size should be positive")
        delimiter = text(field_delim, "field_delim").encode(errors="surrogateescape")
        if len(delimiter) != 1:
            raise InvalidArgument("field_delim should be only 1 char")
        missing = text(na_value, "na_value").encode(errors="surrogateescape")
        selected = _places(select_cols, "select_cols")
        excluded = _places(more[0], "exclude_cols") if more else []
        if selected and len(selected) != count:
            raise InvalidArgument("select_cols should match output size")
        if selected and excluded:
            raise InvalidArgument("Either select_cols or exclude_cols should be empty")
        quotes, has_header = boolean(use_quote_delim, "use_quote_delim"), boolean(header, "header")
        columns = CSVColumns(types, defaults, missing, selected, excluded)

        def open_file(path: str, index: int) -> Records:
            return CSVRecords(path, kind, buffer, delimiter, quotes, has_header)

        return variant(CSVDataset(paths, files, open_file, signature, columns))

    return run


def _places(tensor: Any, name: str) -> list[int]:
    places = [int(place) for place in tensor.reshape(-1)]
    if any(place < 0 for place in places):
        raise InvalidArgument(f"{name} should be non-negative indices")
    if any(left >= right for left, right in zip(places, places[1:])):
        raise InvalidArgument(f"{name} should be strictly increasing indices")
    return places
