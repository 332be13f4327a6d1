"""The older checkpoint format: one table per file, whose entries are parts of tensors as protocol buffers.

The first entry, under the empty key, lists the tensors: name, shape, type and the slices in the file. Every other entry
holds one slice; its key is that of `TensorSlice.key`.

Source: ``core/util/saved_tensor_slice.proto`` and ``tensor_slice_writer.h`` of TensorFlow 2.21.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime import wire
from runtime._ext.errors import DataLoss, InvalidArgument, NotFound, Unimplemented
from runtime._ext.tensor_codec import decode_tensor
from runtime.checkpoint.fields import bytes_field, read_fields, varint_field
from runtime.checkpoint.files import os_errors, replacing
from runtime.checkpoint.slices import TensorSlice
from runtime.checkpoint.table import TableReader, TableWriter
from runtime.dtypes import DataType, to_numpy
from runtime.graph.node import shape_value

__all__ = ["SavedSlice", "SliceFiles", "write_slice_file"]

Array = np.ndarray[Any, Any]

_META, _DATA = 1, 2  # fields of SavedTensorSlices
_MAX_SLICE_BYTES = 1 << 31
_PRODUCER = 1
# The field of a TensorProto that holds elements of a type, and how they look there.
_FIELDS: dict[DataType, tuple[str, Callable[[Array], Any]]] = {
    DataType.FLOAT: ("float_val", np.ndarray.tolist), DataType.DOUBLE: ("double_val", np.ndarray.tolist),
    DataType.INT64: ("int64_val", np.ndarray.tolist), DataType.BOOL: ("bool_val", np.ndarray.tolist),
    DataType.STRING: ("string_val", np.ndarray.tolist),
    DataType.UINT32: ("uint32_val", np.ndarray.tolist), DataType.UINT64: ("uint64_val", np.ndarray.tolist),
    DataType.HALF: ("half_val", lambda array: array.view(np.uint16).tolist()),
    DataType.BFLOAT16: ("half_val", lambda array: array.view(np.uint16).tolist()),
    DataType.COMPLEX64: ("scomplex_val", lambda array: array.view(np.float32).tolist()),
    DataType.COMPLEX128: ("dcomplex_val", lambda array: array.view(np.float64).tolist()),
    **dict.fromkeys((DataType.INT32, DataType.INT16, DataType.INT8, DataType.UINT8, DataType.UINT16, DataType.QINT8,
                     DataType.QUINT8, DataType.QINT32), ("int_val", np.ndarray.tolist)),
}


@dataclass(frozen=True, slots=True)
class SavedSlice:
    """A tensor, or a part of one, to be saved.

    Attributes
    ----------
    shape : tuple of int
        Of the whole tensor.
    part : TensorSlice
        What `array` is of it.
    """

    name: bytes
    dtype: DataType
    shape: tuple[int, ...]
    part: TensorSlice
    array: Array


def write_slice_file(path: str, saved: Sequence[SavedSlice]) -> None:
    """Write a file; it appears when all of it is written.

    Raises
    ------
    Unimplemented
        If the format has no elements of a tensor's type.
    InvalidArgument
        If a tensor is too large for it, or is saved twice.
    """
    entries: dict[bytes, bytes] = {}
    tensors: dict[bytes, tuple[SavedSlice, list[TensorSlice]]] = {}
    for item in saved:
        key = item.part.key(item.name)
        if key in entries:
            raise InvalidArgument(f"tensor {_text(item.name)} is saved twice")
        first, parts = tensors.setdefault(item.name, (item, []))
        if first.shape != item.shape or first.dtype != item.dtype:
            raise InvalidArgument(f"Mismatching types or shapes: existing tensor {_text(item.name)} is "
                                  f"{first.dtype.label} {list(first.shape)}, to be saved are parts of "
                                  f"{item.dtype.label} {list(item.shape)}")
        parts.append(item.part)
        content = (bytes_field(1, item.name) + bytes_field(2, item.part.to_proto()) + bytes_field(3, _elements(item)))
        entries[key] = bytes_field(_DATA, content)
    meta = b"".join(bytes_field(1, _meta(item, parts)) for item, parts in tensors.values())
    meta += bytes_field(2, varint_field(1, _PRODUCER))
    writer = TableWriter()
    writer.add(b"", bytes_field(_META, meta))
    for key in sorted(entries):
        writer.add(key, entries[key])
    with replacing(path) as file:
        file.write(writer.finish())


def _meta(item: SavedSlice, parts: Iterable[TensorSlice]) -> bytes:
    shape = wire.TensorShapeProto()
    for size in item.shape:
        shape.dim.add().size = size
    return (bytes_field(1, item.name) + bytes_field(2, shape.SerializeToString()) + varint_field(3, int(item.dtype))
            + b"".join(bytes_field(4, part.to_proto()) for part in parts))


def _elements(item: SavedSlice) -> bytes:
    """Return an array's elements as the fields of a TensorProto without type and shape."""
    if item.dtype not in _FIELDS:
        raise Unimplemented(f"Trying to save data of unsupported type {item.dtype.label} (tensor {_text(item.name)})")
    if item.array.nbytes >= _MAX_SLICE_BYTES:
        raise InvalidArgument(f"Tensor slice is too large to serialize (tensor {_text(item.name)}, "
                              f"{item.array.nbytes} bytes)")
    name, listed = _FIELDS[item.dtype]
    message = wire.TensorProto()
    getattr(message, name).extend(listed(np.ascontiguousarray(item.array).reshape(-1)))
    return bytes(message.SerializeToString())


@dataclass(slots=True)
class _Tensor:
    dtype: DataType
    shape: tuple[int, ...]
    parts: list[tuple[TensorSlice, TableReader]] = field(default_factory=list)


class SliceFiles:
    """Reads tensors of the files of a checkpoint.

    Parameters
    ----------
    paths : sequence of str
        Already confined.
    pattern : str
        What they were found by, for messages.

    Raises
    ------
    NotFound
        If there are none.
    DataLoss
        If one is damaged, or of another format.
    """

    def __init__(self, paths: Sequence[str], pattern: str) -> None:
        self.pattern = pattern
        self._tensors: dict[bytes, _Tensor] = {}
        if not paths:
            raise NotFound("Unsuccessful TensorSliceReader constructor: Failed to find any matching files for "
                           f"{pattern}")
        for path in paths:
            self._add_file(path)

    def _add_file(self, path: str) -> None:
        with os_errors(path), open(path, "rb") as file:
            data = file.read()
        try:
            table = TableReader(data, path)
            header = table.get(b"")
            meta = None if header is None else dict(read_fields(header)).get(_META)
        except DataLoss as error:
            raise DataLoss(f"Unable to open table file {path}: {error}: perhaps your file is in a different file "
                           "format and you need to use a different restore operator?") from None
        if not isinstance(meta, bytes):
            raise DataLoss(f"Failed to find the saved tensor slices at the beginning of the checkpoint file: {path}")
        for number, tensor in read_fields(meta):
            if number == 1 and isinstance(tensor, bytes):
                self._add_tensor(tensor, table, path)

    def _add_tensor(self, meta: bytes, table: TableReader, path: str) -> None:
        name, kind, shape, parts = b"", 0, b"", []
        for number, value in read_fields(meta):
            if number == 1 and isinstance(value, bytes):
                name = value
            elif number == 2 and isinstance(value, bytes):
                shape = value
            elif number == 3 and isinstance(value, int):
                kind = value
            elif number == 4 and isinstance(value, bytes):
                parts.append(TensorSlice.from_proto(value))
        try:
            dims = shape_value(wire.TensorShapeProto.FromString(shape))
            dtype = DataType(kind)
        except Exception as error:
            raise DataLoss(f"{path} tells no type and shape of tensor {_text(name)}: {error}") from None
        if dims is None or any(dim is None for dim in dims):
            raise DataLoss(f"{path} tells no whole shape of tensor {_text(name)}")
        known = tuple(dim for dim in dims if dim is not None)
        found = self._tensors.setdefault(name, _Tensor(dtype, known))
        if (found.dtype, found.shape) != (dtype, known):
            raise DataLoss(f"{path} tells another type or shape of tensor {_text(name)} than the other files")
        found.parts.extend((part, table) for part in parts)

    def names(self) -> list[bytes]:
        """Return the names of the tensors."""
        return sorted(self._tensors)

    def entry(self, name: bytes) -> tuple[DataType, tuple[int, ...]]:
        """Return type and shape of a tensor.

        Raises
        ------
        NotFound
            If there is none of that name.
        """
        found = self._tensors.get(name)
        if found is None:
            raise NotFound(f"Tensor name \"{_text(name)}\" not found in checkpoint files {self.pattern}")
        return found.dtype, found.shape

    def read(self, name: bytes, part: TensorSlice | None = None) -> Array:
        """Return a tensor, or the part of it that a slice says.

        Raises
        ------
        NotFound
            If there is none of that name.
        InvalidArgument
            If what was saved does not cover the part.
        DataLoss
            If an entry is damaged.
        """
        dtype, shape = self.entry(name)
        wanted = (part or TensorSlice(((0, -1),) * len(shape))).bounds(shape)
        result = np.empty([end - start for start, end in wanted], to_numpy(dtype))
        filled = np.zeros(result.shape, bool)
        for saved, table in self._tensors[name].parts:
            there = saved.bounds(shape)
            common = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(wanted, there, strict=True)]
            if any(start >= end for start, end in common):
                continue
            target = tuple(slice(start - origin, end - origin)
                           for (start, end), (origin, _) in zip(common, wanted, strict=True))
            source = tuple(slice(start - origin, end - origin)
                           for (start, end), (origin, _) in zip(common, there, strict=True))
            result[target] = self._data(name, saved, table, dtype, saved.shape(shape))[source]
            filled[target] = True
        if not filled.all():
            raise InvalidArgument(f"the checkpoint {self.pattern} does not hold all of tensor {_text(name)}")
        return result

    def _data(self, name: bytes, saved: TensorSlice, table: TableReader, dtype: DataType,
              shape: tuple[int, ...]) -> Array:
        entry = table.get(saved.key(name))
        content = None if entry is None else dict(read_fields(entry)).get(_DATA)
        elements = dict(read_fields(content)).get(3) if isinstance(content, bytes) else None
        if not isinstance(elements, bytes):
            raise DataLoss(f"the checkpoint {self.pattern} lists a part of tensor {_text(name)} that it does not hold")
        head: Any = wire.TensorProto()
        head.dtype = int(dtype)
        for size in shape:
            head.tensor_shape.dim.add().size = size
        head.tensor_shape.SetInParent()
        return decode_tensor(head.SerializeToString() + elements)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
