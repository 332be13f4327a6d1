"""Datasets of the records in files: lines of text, TFRecords, records of one length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType
from runtime.ops.datasets.dataset import (
    Dataset,
    DatasetIterator,
    Element,
    Signature,
    integer,
    text,
    variant,
)
from runtime.ops.datasets.task import PAUSE, PAUSE_EVERY
from runtime.ops.files.bytestream import COMPRESSIONS
from runtime.ops.files.records import FixedLengthRecords, TextLines, TFRecords
from runtime.ops.objects import object_scalar
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.step.environment import KernelEnv
    from runtime.step.files import FileAccess

__all__ = ["RecordFileDataset", "RecordFileIterator", "Records", "file_paths", "size_of"]

Run = Callable[..., Any]


class Records(Protocol):
    """What reads a file: see `runtime.ops.files.records.RecordReader`; its records may be more than bytes."""

    def read(self) -> Any:
        """Return the next record, None at the end."""

    def skip(self) -> bool:
        """Pass over the next record; False at the end."""

    def close(self) -> None:
        """Close the file."""


Open = Callable[[str, int], Records]
"""``open(path, index)`` returns a reader of the file, the `index`-th of the dataset."""

_UNSPECIFIED = -1
"""Buffer size of TFRecords that the client leaves to the server."""

_STRING = Signature((DataType.STRING,), ((),))


class RecordFileDataset(Dataset):
    """The records of some files, one file after the other.

    Parameters
    ----------
    name : str
    paths : sequence of str
    files : FileAccess
        Every path is checked when its turn comes.
    open_reader : callable
    signature : Signature, optional
        A scalar string by default.
    """

    def __init__(self, name: str, paths: Sequence[str], files: FileAccess, open_reader: Open,
                 signature: Signature = _STRING) -> None:
        super().__init__(signature)
        self.name = name  # type: ignore[misc]
        self.paths = tuple(paths)
        self.files = files
        self.open_reader = open_reader

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return RecordFileIterator(self, iteration, prefix)


class RecordFileIterator(DatasetIterator):
    """Reads one file after the other."""

    __slots__ = ("_dataset", "_place", "_reader")

    def __init__(self, dataset: RecordFileDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._dataset = dataset
        self._place = 0  # of the next file
        self._reader: Records | None = None

    async def next(self) -> Element | None:
        record = await self.record()
        return None if record is None else (object_scalar(record),)

    async def record(self) -> Any:
        """Return the next record, None when all files are at their ends."""
        return await self._read("read")

    async def skip(self, count: int) -> int:
        for done in range(count):
            if not await self._read("skip"):
                return done
            if not done % PAUSE_EVERY:
                await PAUSE
        return count

    async def _read(self, method: str) -> Any:
        """Return what a method of the reader gives, None when all files are at their ends."""
        dataset = self._dataset
        while True:
            if self._reader is None:
                if self._place >= len(dataset.paths):
                    return None
                place = self._place  # a file that cannot be opened stays the next one
                self._reader = dataset.open_reader(dataset.files.check(dataset.paths[place]), place)
                self._place += 1
                await PAUSE
            try:
                found = getattr(self._reader, method)()
            except Exception:
                self._close_file()  # what follows the damage tells nothing
                raise
            if found is not None and found is not False:
                return found
            self._close_file()

    def _close_file(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def close(self) -> None:
        self._close_file()


def file_paths(tensor: Any) -> list[str]:
    """Return the paths in an input of file names."""
    if tensor.ndim > 1:
        raise InvalidArgument("`filenames` must be a scalar or a vector.")
    return [path.decode(errors="surrogateescape") for path in tensor.reshape(-1)]


def _compression(tensor: Any) -> str:
    kind = text(tensor, "compression_type")
    if kind not in COMPRESSIONS:
        raise InvalidArgument("Unsupported compression_type.")
    return kind


def size_of(tensor: Any, name: str, least: int = 0, hint: str = "") -> int:
    """Return an input that is a number of bytes."""
    value = integer(tensor, name)
    if value < least:
        raise InvalidArgument(f"`{name}` must be {'> 0' if least else '>= 0'}{hint}")
    return value


@kernel("TextLineDataset", shape=scalar)
def _text_lines(node: Node, env: KernelEnv) -> Run:
    files = env.session.files

    def run(filenames: Any, compression_type: Any, buffer_size: Any) -> Any:
        kind = _compression(compression_type)
        buffer = size_of(buffer_size, "buffer_size", hint=" (0 == default)")
        return variant(RecordFileDataset("TextLine", file_paths(filenames), files,
                                         lambda path, index: TextLines(path, kind, buffer)))

    return run


@kernel("TFRecordDataset", "TFRecordDatasetV2", shape=scalar)
def _tf_records(node: Node, env: KernelEnv) -> Run:
    files = env.session.files

    def run(filenames: Any, compression_type: Any, buffer_size: Any, byte_offsets: Any = None) -> Any:
        paths = file_paths(filenames)
        kind = text(compression_type, "compression_type")
        kind = kind if kind in COMPRESSIONS else ""  # TensorFlow takes what it does not know for none
        buffer = integer(buffer_size, "buffer_size")
        buffer = 0 if buffer == _UNSPECIFIED else size_of(buffer_size, "buffer_size", hint=" (0 == no buffering)")
        offsets = [] if byte_offsets is None else [int(offset) for offset in byte_offsets.reshape(-1)]
        if offsets and len(offsets) != len(paths):
            raise InvalidArgument("`byte_offsets` must have the same size as `filenames`")

        def open_file(path: str, index: int) -> Records:
            return TFRecords(path, kind, buffer, offsets[index] if offsets else 0)

        return variant(RecordFileDataset("TFRecord", paths, files, open_file))

    return run


@kernel("FixedLengthRecordDataset", "FixedLengthRecordDatasetV2", shape=scalar)
def _fixed_length_records(node: Node, env: KernelEnv) -> Run:
    files = env.session.files

    def run(filenames: Any, header_bytes: Any, record_bytes: Any, footer_bytes: Any, buffer_size: Any,
            compression_type: Any = None) -> Any:
        paths = file_paths(filenames)
        header = size_of(header_bytes, "header_bytes")
        record = size_of(record_bytes, "record_bytes", least=1)
        footer = size_of(footer_bytes, "footer_bytes")
        buffer = size_of(buffer_size, "buffer_size")
        kind = "" if compression_type is None else _compression(compression_type)
        name = "FixedLengthRecord" if compression_type is None else "FixedLengthRecordV2"
        return variant(RecordFileDataset(
            name, paths, files,
            lambda path, index: FixedLengthRecords(path, record, header, footer, 0, kind, buffer)))

    return run
