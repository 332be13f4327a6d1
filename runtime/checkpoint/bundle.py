"""Bundles of named tensors: what SaveV2 writes and RestoreV2 reads.

A bundle with the prefix P is the table ``P.index`` with an entry for each tensor, and data files
``P.data-00000-of-00001`` with the raw bytes. A tensor that was saved in parts has an entry that lists the parts, and
one for each part under a key of its own.

Strings are stored as all lengths, a checksum of these, and all texts behind one another.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from runtime._ext.crc32c import crc32c, mask, unmask
from runtime._ext.errors import DataLoss, Internal, InvalidArgument, NotFound, OutOfRange, Unimplemented
from runtime.checkpoint.entries import HEADER_KEY, Entry, Header
from runtime.checkpoint.fields import read_varint, varint
from runtime.checkpoint.files import data_path, index_path, os_errors, replacing
from runtime.checkpoint.slices import TensorSlice
from runtime.checkpoint.table import TableReader, TableWriter
from runtime.dtypes import DataType, to_numpy

__all__ = ["BundleReader", "BundleWriter", "merge_bundles", "write_bundle"]

Array = npt.NDArray[Any]
_LONG = 0xFFFFFFFF
Saved = tuple[bytes, DataType, tuple[tuple[int, ...], TensorSlice] | None, Array]


class BundleWriter:
    """Writes the data file of a bundle and gathers its entries.

    Parameters
    ----------
    file : binary file
        The data file, at its beginning.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._offset = 0
        self._entries: dict[bytes, Entry] = {}

    def add(self, name: bytes, dtype: DataType, array: Array) -> None:
        """Write a whole tensor.

        Raises
        ------
        InvalidArgument
            If there is a tensor of that name already.
        """
        if name == HEADER_KEY:
            raise InvalidArgument("a tensor needs a name to be saved; the empty one stands for the header")
        if name in self._entries:
            raise InvalidArgument(f"Adding duplicate key: {_text(name)}")
        entry = Entry(dtype, array.shape, offset=self._offset)
        entry.size, entry.checksum = self._write(dtype, array)
        self._offset += entry.size
        self._entries[name] = entry

    def add_slice(self, name: bytes, dtype: DataType, shape: tuple[int, ...], part: TensorSlice, array: Array) -> None:
        """Write one part of a tensor of shape `shape`."""
        if part.is_full:
            self.add(name, dtype, array)
            return
        whole = self._entries.setdefault(name, Entry(dtype, shape))
        if whole.dtype != dtype or whole.shape != shape or (whole.size and not whole.slices):
            raise Internal(f"part {part} of tensor {_text(name)} of shape {list(shape)} and type {dtype.label} does "
                           f"not belong to what was saved before: shape {list(whole.shape)}, type {whole.dtype.label}")
        whole.slices.append(part)
        self.add(part.key(name), dtype, array)

    def index(self) -> bytes:
        """Return the table of the entries."""
        return _index(self._entries, 1)

    def _write(self, dtype: DataType, array: Array) -> tuple[int, int]:
        """Write a tensor's data; return its size and masked checksum."""
        if dtype == DataType.STRING:
            return self._write_strings(array)
        if dtype.is_object:
            raise Unimplemented(f"tensors of type {dtype.label} cannot be saved")
        raw = _raw(np.ascontiguousarray(array))
        self._file.write(raw)
        return len(raw), mask(crc32c(raw))

    def _write_strings(self, array: Array) -> tuple[int, int]:
        texts: list[bytes] = array.reshape(-1).tolist()
        lengths = b"".join(varint(len(text)) for text in texts)
        checksum = crc32c(b"".join(_length_bytes(len(text)) for text in texts))
        stored = struct.pack("<I", mask(checksum))
        body = b"".join(texts)
        self._file.write(lengths + stored)
        self._file.write(body)
        return len(lengths) + len(stored) + len(body), mask(crc32c(body, crc32c(stored, checksum)))


def _raw(array: Array) -> memoryview:
    """Return the bytes of a contiguous array."""
    view: Any = array.reshape(-1).view(np.uint8)
    return memoryview(view)


def _length_bytes(length: int) -> bytes:
    """Return a string's length as it enters the checksum."""
    return struct.pack("<I", length) if length <= _LONG else struct.pack("<Q", length)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _index(entries: dict[bytes, Entry], shards: int) -> bytes:
    table = TableWriter()
    table.add(HEADER_KEY, Header(shards).encode())
    for key in sorted(entries):
        table.add(key, entries[key].encode())
    return table.finish()


def write_bundle(prefix: str, tensors: Iterable[Saved]) -> None:
    """Write a bundle; its files appear when all of it is written.

    Parameters
    ----------
    tensors : iterable of (name, dtype, (shape, slice) or None, array)
    """
    with replacing(data_path(prefix, 0, 1)) as file:
        writer = BundleWriter(file)
        for name, dtype, part, array in sorted(tensors, key=lambda item: item[0]):
            if part is None:
                writer.add(name, dtype, array)
            else:
                writer.add_slice(name, dtype, *part, array)
    with replacing(index_path(prefix)) as file:
        file.write(writer.index())


class BundleReader:
    """Reads tensors of a bundle.

    Parameters
    ----------
    prefix : str
    allowed : callable
        ``allowed(path)`` raises when a file may not be read.

    Raises
    ------
    NotFound
        If there is no such bundle.
    DataLoss
        If its table is damaged.
    """

    def __init__(self, prefix: str, allowed: Callable[[str], object] = str) -> None:
        self.prefix = prefix
        self._allowed = allowed
        self._files: dict[int, BinaryIO] = {}
        path = index_path(prefix)
        allowed(path)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise NotFound("Unsuccessful TensorSliceReader constructor: Failed to find any matching files for "
                           f"{prefix}") from None
        except OSError:
            with os_errors(path):
                raise
        self._table = TableReader(data, path)
        try:
            header = self._table.get(HEADER_KEY)
        except DataLoss as error:
            raise DataLoss(f"Unable to read file ({path}). Perhaps the file is corrupt or was produced by a newer "
                           f"version of TensorFlow with format changes (failed to seek to header entry): {error}"
                           ) from None
        if header is None:
            raise DataLoss(f"the table {path} has no header")
        self.header = Header.decode(header)

    def __enter__(self) -> BundleReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the data files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def keys(self) -> list[bytes]:
        """Return the names of the tensors; parts of tensors are left out."""
        return [key for key, _ in self._table if key != HEADER_KEY and key[0] != 0]

    def entries(self) -> dict[bytes, Entry]:
        """Return every entry but the header, those of parts included."""
        return {key: Entry.decode(value) for key, value in self._table if key != HEADER_KEY}

    def entry(self, name: bytes) -> Entry:
        """Return a tensor's entry.

        Raises
        ------
        NotFound
            If there is none.
        """
        found = self._table.get(name) if name != HEADER_KEY else None
        if found is None:
            raise NotFound(f"Key {_text(name)} not found in checkpoint")
        return Entry.decode(found)

    def read(self, name: bytes, part: TensorSlice | None = None) -> Array:
        """Return a tensor, or the part of it that a slice says; it is the caller's own.

        Raises
        ------
        NotFound
            If there is no tensor of that name.
        DataLoss
            If its data does not have the checksum that was stored.
        """
        entry = self.entry(name)
        if not entry.slices:
            whole = self._data(entry)
            if part is None or part.is_full:
                return whole
            return whole[tuple(slice(*bound) for bound in part.bounds(entry.shape))].copy()
        return self._assemble(name, entry, part or TensorSlice(((0, -1),) * len(entry.shape)))

    def _assemble(self, name: bytes, entry: Entry, part: TensorSlice) -> Array:
        """Put a part of a tensor together from the parts in which it was saved."""
        wanted = part.bounds(entry.shape)
        result = np.empty(part.shape(entry.shape), to_numpy(entry.dtype))
        filled = np.zeros(result.shape, bool)
        for saved in entry.slices:
            there = saved.bounds(entry.shape)
            common = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(wanted, there, strict=True)]
            if any(start >= end for start, end in common):
                continue
            data = self._data(self.entry(saved.key(name)))
            target = tuple(slice(start - origin, end - origin) for (start, end), (origin, _) in
                           zip(common, wanted, strict=True))
            result[target] = data[tuple(slice(start - origin, end - origin) for (start, end), (origin, _) in
                                        zip(common, there, strict=True))]
            filled[target] = True
        if not filled.all():
            raise InvalidArgument(f"the checkpoint {self.prefix} holds {len(entry.slices)} parts of tensor "
                                  f"{_text(name)}, which do not cover the slice {part} of its shape "
                                  f"{list(entry.shape)}")
        return result

    def _file(self, shard: int) -> BinaryIO:
        file = self._files.get(shard)
        if file is None:
            path = data_path(self.prefix, shard, self.header.num_shards)
            self._allowed(path)
            with os_errors(path):
                file = self._files[shard] = open(path, "rb")  # noqa: SIM115  closed by close()
        return file

    def _data(self, entry: Entry) -> Array:
        """Return the tensor that an entry without parts points at."""
        dtype = to_numpy(entry.dtype)
        count = math.prod(entry.shape)
        if entry.dtype == DataType.STRING:
            return self._strings(entry, count)
        if entry.dtype.is_object:
            raise Unimplemented(f"tensors of type {entry.dtype.label} cannot be restored")
        if entry.size != count * dtype.itemsize:
            raise DataLoss(f"TensorBundle at {self.prefix} shard {entry.shard}: Invalid size in bundle entry: key has "
                           f"shape {list(entry.shape)}; stored size {entry.size}; expected size "
                           f"{count * dtype.itemsize}")
        self._check_extent(entry)
        result = np.empty(entry.shape, dtype)
        raw = _raw(result)
        self._fill(entry, raw)
        self._check(entry, mask(crc32c(raw)))
        return result

    def _check_extent(self, entry: Entry) -> None:
        """Check that the data lies within its file, before memory is taken for it."""
        file = self._file(entry.shard)
        if entry.offset + entry.size > os.fstat(file.fileno()).st_size:
            raise OutOfRange("Read less bytes than requested")

    def _fill(self, entry: Entry, raw: memoryview) -> None:
        file = self._file(entry.shard)
        with os_errors(file.name):
            file.seek(entry.offset)
            if file.readinto(raw) != len(raw):  # type: ignore[attr-defined]
                raise OutOfRange("Read less bytes than requested")

    def _check(self, entry: Entry, found: int) -> None:
        if found != entry.checksum:
            raise DataLoss(f"TensorBundle at {self.prefix} shard {entry.shard} ({entry.size} bytes): Checksum does not "
                           f"match: stored {unmask(entry.checksum)} vs. calculated on the restored bytes "
                           f"{unmask(found)}")

    def _strings(self, entry: Entry, count: int) -> Array:
        self._check_extent(entry)
        raw = bytearray(entry.size)
        self._fill(entry, memoryview(raw))
        data = bytes(raw)
        lengths, position = [], 0
        for _ in range(count):
            length, position = read_varint(data, position)
            lengths.append(length)
        if position + 4 + sum(lengths) != len(data):
            raise DataLoss(f"TensorBundle at {self.prefix} shard {entry.shard}: the lengths of {count} strings do not "
                           f"add up to the {len(data)} bytes of the entry")
        checksum = crc32c(b"".join(map(_length_bytes, lengths)))
        stored = data[position:position + 4]
        if struct.unpack("<I", stored)[0] != mask(checksum):
            raise DataLoss("The length checksum does not match: expected "
                           f"{unmask(struct.unpack('<I', stored)[0])} but read {checksum}")
        position += 4
        self._check(entry, mask(crc32c(data[position:], crc32c(stored, checksum))))
        flat = np.empty(count, object)
        for place, length in enumerate(lengths):
            flat[place] = data[position:position + length]
            position += length
        return flat.reshape(entry.shape)


def merge_bundles(prefixes: Sequence[str], destination: str, *, allow_missing_files: bool = False,
                  allowed: Callable[[str], object] = str) -> None:
    """Make one bundle of several: their data files are renamed, their tables become one, the old tables go.

    Raises
    ------
    InvalidArgument
        If a bundle is missing and that is not allowed, or two hold a tensor of the same name.
    """
    sources: list[tuple[str, Header, dict[bytes, Entry]]] = []
    for prefix in prefixes:
        try:
            with BundleReader(prefix, allowed) as reader:
                sources.append((prefix, reader.header, reader.entries()))
        except NotFound as error:
            if not allow_missing_files:
                raise InvalidArgument(f"allow_missing_files was set to false and {prefix} did not exist.NOT_FOUND: "
                                      f"{prefix} not found") from error
    if not sources:
        raise InvalidArgument("None of the checkpoints to merge exists: " + ", ".join(prefixes))
    total = sum(header.num_shards for _, header, _ in sources)
    merged: dict[bytes, Entry] = {}
    moves: list[tuple[str, str]] = []
    base = 0
    for prefix, header, entries in sources:
        for shard in range(header.num_shards):
            moves.append((data_path(prefix, shard, header.num_shards), data_path(destination, base + shard, total)))
        for key, entry in entries.items():
            entry.shard += base
            _merge_entry(merged, key, entry)
        base += header.num_shards
    for old, new in moves:
        allowed(old)
        allowed(new)
        folder = os.path.dirname(new)
        with os_errors(new):
            if folder and not os.path.isdir(folder):
                os.mkdir(folder)
            os.replace(old, new)
    allowed(index_path(destination))
    with replacing(index_path(destination)) as file:
        file.write(_index(merged, total))
    for prefix, _, _ in sources:
        if prefix != destination:
            with os_errors(index_path(prefix)):
                os.unlink(index_path(prefix))


def _merge_entry(merged: dict[bytes, Entry], key: bytes, entry: Entry) -> None:
    there = merged.get(key)
    if there is None:
        merged[key] = entry
        return
    if not entry.slices or not there.slices or there.shape != entry.shape or there.dtype != entry.dtype:
        raise InvalidArgument(f"Duplicate tensor keyed by {_text(key)} encountered, when merging prefix")
    there.slices.extend(entry.slices)
