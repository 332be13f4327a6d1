"""Record formats: TFRecord frames, lines of text, records of one length.

Each is a class whose `read` gives the next record or None at the end of the file, so that whoever reads (a reader of a
queue of names, a dataset) decides when. They read in the calling thread.
"""

from __future__ import annotations

import struct
from typing import Protocol

from runtime._ext.crc32c import crc32c, unmask
from runtime._ext.errors import DataLoss, InvalidArgument, ResourceExhausted
from runtime.ops.files.bytestream import ByteStream

__all__ = ["MAX_RECORD_BYTES", "FixedLengthRecords", "RecordReader", "TFRecords", "TextLines"]

MAX_RECORD_BYTES = (1 << 31) - 1
"""Longest record that is read: no longer one fits into a message."""

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")


class RecordReader(Protocol):
    """What the formats have in common."""

    def read(self) -> bytes | None:
        """Return the next record, None at the end.

        Raises
        ------
        DataLoss
            If the file is damaged.
        ResourceExhausted
            If a record is longer than `MAX_RECORD_BYTES`.
        """

    def skip(self) -> bool:
        """Pass over the next record; False at the end."""

    def close(self) -> None:
        """Close the file."""


class _Records:
    """A format on a stream of bytes.

    Attributes
    ----------
    position : int
        Where the next record starts, in bytes of the decompressed file.
    """

    def __init__(self, path: str, compression: str, buffer_bytes: int) -> None:
        self._stream = ByteStream(path, compression, buffer_bytes)

    @property
    def position(self) -> int:
        return self._stream.position

    def read(self) -> bytes | None:
        raise NotImplementedError

    def skip(self) -> bool:
        """Pass over the next record; False at the end."""
        return self.read() is not None

    def close(self) -> None:
        """Close the file. Closing again does nothing."""
        self._stream.close()


class TFRecords(_Records):
    """Frames of length, checksum, data, checksum.

    Parameters
    ----------
    path : str
        Already confined.
    compression : str
        ``""``, ``"ZLIB"`` or ``"GZIP"``.
    buffer_bytes : int
        How much is read ahead; 0 for the default.
    start : int
        Where in the decompressed file the first frame begins.

    Notes
    -----
    Source: the layout is TensorFlow's ``core/lib/io/record_writer.h``. As there, a file that ends within a frame's
    length or its checksum has ended; one that ends within the data is damaged.
    """

    def __init__(self, path: str, compression: str = "", buffer_bytes: int = 0, start: int = 0) -> None:
        super().__init__(path, compression, buffer_bytes)
        if start:
            self._stream.skip(start)

    def read(self) -> bytes | None:
        """Return the next record, None at the end; see `RecordReader`."""
        stream = self._stream
        start = stream.position
        header = stream.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return None
        length, masked = _HEADER.unpack(header)
        if crc32c(memoryview(header)[:8]) != unmask(masked):
            raise DataLoss(f"corrupted record at {start}" + (" (Is this even a TFRecord file?)" if not start else ""))
        if stream.size is not None and length + _CRC.size > stream.size - stream.position:
            raise DataLoss(f"truncated record at {start}' failed with Read less bytes than requested")
        if length > MAX_RECORD_BYTES:
            raise ResourceExhausted(f"the record at {start} of {stream.path} has {length} bytes; at most "
                                    f"{MAX_RECORD_BYTES} are read")
        data = stream.read(length + _CRC.size)
        if len(data) < length + _CRC.size:
            raise DataLoss(f"truncated record at {start}' failed with EOF reached")
        record = data[:length]
        if crc32c(record) != unmask(_CRC.unpack_from(data, length)[0]):
            raise DataLoss(f"corrupted record at {start + _HEADER.size}")
        return record


class TextLines(_Records):
    """Lines of text without their ends; carriage returns are left out wherever they are.

    Parameters
    ----------
    path, compression, buffer_bytes
        As for `TFRecords`.

    Attributes
    ----------
    lines : int
        How many have been read or skipped.
    """

    def __init__(self, path: str, compression: str = "", buffer_bytes: int = 0) -> None:
        super().__init__(path, compression, buffer_bytes)
        self.lines = 0

    def read(self) -> bytes | None:
        """Return the next line, None at the end; see `RecordReader`."""
        start = self._stream.position
        line = self._stream.read_line(MAX_RECORD_BYTES + 1)
        if len(line) > MAX_RECORD_BYTES:
            raise ResourceExhausted(f"the line at byte {start} of {self._stream.path} is longer than "
                                    f"{MAX_RECORD_BYTES} bytes")
        is_whole = line.endswith(b"\n")
        text = line[:-1] if is_whole else line
        if b"\r" in text:
            text = text.replace(b"\r", b"")
        if not text and not is_whole:
            return None
        self.lines += 1
        return text


class FixedLengthRecords(_Records):
    """Records of one length between a header and a footer.

    Parameters
    ----------
    path, compression, buffer_bytes
        As for `TFRecords`.
    record_bytes, header_bytes, footer_bytes : int
        `record_bytes` is positive, the others are not negative.
    hop_bytes : int
        From the start of one record to that of the next; 0 for `record_bytes`.
    exact : bool
        Whether what lies between header and footer must be a whole number of records.

    Raises
    ------
    InvalidArgument
        If it must and is not; for a compressed file `read` finds out, at the end (DataLoss).
    """

    def __init__(self, path: str, record_bytes: int, header_bytes: int = 0, footer_bytes: int = 0, hop_bytes: int = 0,
                 compression: str = "", buffer_bytes: int = 0, *, exact: bool = True) -> None:
        if record_bytes + footer_bytes > MAX_RECORD_BYTES:
            raise ResourceExhausted(f"record_bytes {record_bytes} and footer_bytes {footer_bytes} are more than the "
                                    f"{MAX_RECORD_BYTES} bytes that a record may have")
        super().__init__(path, compression, buffer_bytes)
        self._record_bytes = record_bytes
        self._header_bytes = header_bytes
        self._footer_bytes = footer_bytes
        self._hop_bytes = hop_bytes or record_bytes
        self._exact = exact
        self._ahead = b""  # what was read beyond the last record: it may turn out to be the footer
        stream = self._stream
        if exact and stream.size is not None and (stream.size - header_bytes - footer_bytes) % record_bytes:
            self.close()
            raise InvalidArgument(self._not_whole(stream.size))
        if stream.skip(header_bytes) < header_bytes and exact:
            self.close()
            raise DataLoss(f"the header of {path} should have {header_bytes} bytes, but the file ends before")

    @property
    def position(self) -> int:
        return self._stream.position - len(self._ahead)

    def _not_whole(self, size: int) -> str:
        body = (size - self._header_bytes - self._footer_bytes) % (1 << 64)
        return (f"Excluding the header ({self._header_bytes} bytes) and footer ({self._footer_bytes} bytes), input "
                f"file \"{self._stream.path}\" has body length {body} bytes, which is not an exact multiple of the "
                f"record length ({self._record_bytes} bytes).")

    def read(self) -> bytes | None:
        """Return the next record, None at the end; see `RecordReader`."""
        wanted = self._record_bytes + self._footer_bytes
        ahead = self._ahead
        if len(ahead) < wanted:
            ahead = self._ahead = ahead + self._stream.read(wanted - len(ahead))
        if len(ahead) < wanted:
            if self._exact and len(ahead) != self._footer_bytes:
                raise DataLoss(self._not_whole(self._stream.position))
            return None
        hop = self._hop_bytes
        self._ahead = ahead[hop:]
        if hop > len(ahead):
            self._stream.skip(hop - len(ahead))
        return ahead[: self._record_bytes]
