"""A file's bytes, decompressed on the way when asked: what the record formats read from."""

from __future__ import annotations

import io
import os
import re
import zlib
from typing import TYPE_CHECKING

from runtime._ext.errors import DataLoss
from runtime.checkpoint.files import os_errors
from runtime.ops.files.descriptors import open_regular

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["COMPRESSIONS", "DEFAULT_BUFFER_BYTES", "ByteStream"]

COMPRESSIONS = ("", "ZLIB", "GZIP")
"""Values of a ``compression_type``."""

DEFAULT_BUFFER_BYTES = 256 << 10
# A graph may ask for any buffer; beyond this, a larger one saves no calls worth counting.
_MOST_BUFFER_BYTES = 16 << 20
_LEAST_BUFFER_BYTES = 4 << 10
# Longer reads come in pieces: a length found in a file is no reason to allocate as much.
_PIECE_BYTES = 1 << 20

_WINDOW_BITS = {"ZLIB": zlib.MAX_WBITS, "GZIP": zlib.MAX_WBITS + 16}
_ZLIB_TEXT = re.compile(r"Error (?P<code>-?\d+) while decompressing data(?:: (?P<why>.*))?")


class ByteStream:
    """The content of a file from its beginning, buffered.

    Parameters
    ----------
    path : str
        Already confined, see `runtime.step.files.FileAccess`.
    compression : str
        One of `COMPRESSIONS`.
    buffer_bytes : int
        How much is read ahead; 0 for the default.

    Attributes
    ----------
    position : int
        Bytes given out or skipped so far, after decompression.
    size : int or None
        Bytes of the file; None when it is compressed, because nothing tells then.

    Raises
    ------
    NotFound, FailedPrecondition, PermissionDenied, ...
        If the file cannot be opened or read.
    DataLoss
        From every method, if compressed content is damaged. Content that ends too early ends without an error.
    """

    def __init__(self, path: str, compression: str = "", buffer_bytes: int = 0) -> None:
        self.path = path
        self.position = 0
        self.size: int | None = None
        buffer_bytes = min(max(buffer_bytes or DEFAULT_BUFFER_BYTES, _LEAST_BUFFER_BYTES), _MOST_BUFFER_BYTES)
        with os_errors(path):
            file = io.FileIO(path, opener=lambda name, _: open_regular(name))
            raw: io.RawIOBase = file
            if compression:
                raw = _Inflating(file, _WINDOW_BITS[compression], buffer_bytes)
            else:
                self.size = os.fstat(file.fileno()).st_size
        self._file = io.BufferedReader(raw, buffer_bytes)

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer only at the end."""
        with os_errors(self.path):
            if count <= _PIECE_BYTES:
                data = self._file.read(count)
            else:
                pieces = []
                missing = count
                while missing and (piece := self._file.read(min(missing, _PIECE_BYTES))):
                    pieces.append(piece)
                    missing -= len(piece)
                data = b"".join(pieces)
        self.position += len(data)
        return data

    def read_line(self, most_bytes: int) -> bytes:
        """Return what comes up to and with the next newline or the end, at most `most_bytes` of it."""
        with os_errors(self.path):
            data = self._file.readline(most_bytes)
        self.position += len(data)
        return data

    def skip(self, count: int) -> int:
        """Pass over bytes and return how many there were, fewer than `count` only at the end."""
        start = self.position
        if self.size is not None:
            count = min(count, max(self.size - start, 0))
            with os_errors(self.path):
                self._file.seek(count, os.SEEK_CUR)
            self.position += count
            return count
        while self.position - start < count and self.read(min(_PIECE_BYTES, count - self.position + start)):
            pass
        return self.position - start

    def close(self) -> None:
        """Close the file. Closing again does nothing."""
        self._file.close()


class _Inflating(io.RawIOBase):
    """Decompresses a file as it is read; members of a gzip file follow each other, a zlib stream is the only one."""

    def __init__(self, file: io.FileIO, window_bits: int, buffer_bytes: int) -> None:
        self._file = file
        self._window_bits = window_bits
        self._buffer_bytes = buffer_bytes
        self._inflater = zlib.decompressobj(window_bits)
        self._compressed = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Buffer) -> int:
        view = memoryview(target).cast("B")
        while True:
            if self._inflater.eof:
                if self._window_bits == zlib.MAX_WBITS:
                    return 0
                self._compressed = self._inflater.unused_data or self._file.read(self._buffer_bytes)
                if not self._compressed:
                    return 0
                self._inflater = zlib.decompressobj(self._window_bits)
            if not self._compressed:
                self._compressed = self._file.read(self._buffer_bytes)
                is_last = not self._compressed
            else:
                is_last = False
            try:
                data = self._inflater.decompress(self._compressed, len(view))
            except zlib.error as error:
                raise DataLoss(_inflate_text(error)) from None
            self._compressed = self._inflater.unconsumed_tail
            if data:
                view[: len(data)] = data
                return len(data)
            if is_last and not self._inflater.eof:
                return 0

    def close(self) -> None:
        self._file.close()
        super().close()


def _inflate_text(error: zlib.error) -> str:
    found = _ZLIB_TEXT.match(str(error))
    if found is None:
        return f"inflate() failed: {error}"
    why = found["why"]
    return f"inflate() failed with error {found['code']}" + (f": {why}" if why else "")
