"""Records of CSV files, which quoted fields may spread over several lines."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runtime._ext.errors import ResourceExhausted
from runtime.ops.files.bytestream import ByteStream
from runtime.ops.files.records import MAX_RECORD_BYTES

__all__ = ["CSVRecords", "Malformed"]

_LINE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands for a field, or for a whole record, that cannot be read.

    Attributes
    ----------
    reason : str
        In TensorFlow's words.
    """

    reason: str


_UNQUOTED = Malformed("Unquoted fields cannot have quotes inside")
_QUOTED = Malformed("Quote inside a string has to be escaped by another quote")
_UNCLOSED = Malformed("Reached end of file without closing quoted field in record")
_NO_HEADER = Malformed("Can't read header of file")


class CSVRecords:
    """The records of one file, each a list of fields.

    A record ends with a line feed, a carriage return or both. After a malformed one the file goes on with the next.

    Parameters
    ----------
    path : str
        Already confined.
    compression : str
        ``""``, ``"ZLIB"`` or ``"GZIP"``.
    buffer_bytes : int
        How much is read ahead.
    delimiter : bytes
        One byte.
    quotes : bool
        Whether fields may stand in double quotes.
    header : bool
        Whether the first record is passed over.

    Raises
    ------
    NotFound, FailedPrecondition, PermissionDenied, ...
        If the file cannot be opened.
    """

    def __init__(self, path: str, compression: str, buffer_bytes: int, delimiter: bytes, quotes: bool,
                 header: bool) -> None:
        self._stream = ByteStream(path, compression, buffer_bytes)
        self._delimiter = delimiter
        self._quotes = quotes
        self._header = header
        self._ends = re.compile(b"[\\r\\n" + re.escape(delimiter) + b"]")
        self._text = b""  # up to a line feed or the end of the file
        self._place = 0  # of what is not read yet

    def read(self) -> list[bytes | Malformed] | Malformed | None:
        """Return the fields of the next record, why it has none, or None at the end.

        Raises
        ------
        DataLoss
            If compressed content is damaged.
        ResourceExhausted
            If a record is longer than `MAX_RECORD_BYTES`.
        """
        if self._header:
            self._header = False
            found = self._record()
            if found is None or any(isinstance(field, Malformed) for field in found):
                return _NO_HEADER
        return self._record()

    def skip(self) -> bool:
        """Pass over the next record; False at the end."""
        return self.read() is not None

    def close(self) -> None:
        """Close the file. Closing again does nothing."""
        self._stream.close()

    def _refill(self, read: int = 0) -> bool:
        """Take in what comes up to the next line feed; False at the end. `read` bytes of the record came before."""
        pieces: list[bytes] = []
        total = 0
        while piece := self._stream.read_line(_LINE_BYTES):
            pieces.append(piece)
            total += len(piece)
            if read + total > MAX_RECORD_BYTES:
                raise ResourceExhausted(f"a record of {self._stream.path} has more than {MAX_RECORD_BYTES} bytes, the "
                                        "most that are read")
            if piece.endswith(b"\n"):
                break
        self._text = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._place = 0
        return bool(pieces)

    def _record(self) -> list[bytes | Malformed] | None:
        if self._place >= len(self._text) and not self._refill():
            return None
        text, place = self._text, self._place
        if place == 0 and b"\r" not in text and not (self._quotes and b'"' in text):
            self._place = len(text)
            return [*text.rstrip(b"\n").split(self._delimiter)]
        fields: list[bytes | Malformed] = []
        field: bytes | Malformed
        while True:
            if self._quotes and text[place:place + 1] == b'"':
                field = self._quoted(place + 1)
                text, place = self._text, self._place
            else:
                end = self._ends.search(text, place)
                stop = end.start() if end else len(text)
                plain = text[place:stop]
                field = _UNQUOTED if self._quotes and b'"' in plain else plain
                place = stop
            fields.append(field)
            ending = text[place:place + 1]
            if ending == self._delimiter:
                place += 1
                continue
            self._place = place + (2 if text[place:place + 2] == b"\r\n" else 1)
            return fields

    def _quoted(self, place: int) -> bytes | Malformed:
        """Read a field behind its opening quote, up to what ends it."""
        text = self._text
        parts: list[bytes] = []
        read = 0
        fault: Malformed | None = None
        while True:
            quote = text.find(b'"', place)
            if quote < 0:
                parts.append(text[place:])
                read += len(text)
                if not self._refill(read):
                    self._text, self._place = b"", 0
                    return _UNCLOSED
                text, place = self._text, 0
                continue
            parts.append(text[place:quote])
            following = text[quote + 1:quote + 2]
            if following == b'"':
                parts.append(b'"')
                place = quote + 2
            elif following in (b"", b"\r", b"\n", self._delimiter):
                self._place = quote + 1
                return fault or b"".join(parts)
            else:
                fault = _QUOTED
                place = quote + 1
