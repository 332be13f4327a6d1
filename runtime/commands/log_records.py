"""How the output of a command lies in its file: one record after the other, in the order of arrival.

A record is a header and a line of text in UTF-8; senders may number their lines. A file that a crash has cut ends with
what is no record; that is left out when it is opened again.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from runtime.commands.checks import LOG_TYPES

__all__ = ["NO_SEQUENCE", "Kind", "Record", "Summary", "encode", "parse", "split", "summarize"]

# Text's length, checksum of all that follows, time, attempt, sequence number, spelling of the type, kind.
_HEADER = struct.Struct("<IIdIqBB")
_UNCHECKED = struct.Struct("<II")
_CHECKED = struct.Struct("<dIqBB")
_MAX_TEXT = 1 << 20
NO_SEQUENCE = -1
_TYPE_NUMBER = {name: number for number, name in enumerate(LOG_TYPES)}


class Kind:
    """What a record is."""

    LINE = 0
    """As it was sent."""
    REMARK = 1
    """Written by the server."""
    GAP = 2
    """Says that the text after it is left out."""


class Record(NamedTuple):
    """One line of a stream, with when it came and in which attempt (seconds since 1970, from 1)."""

    type: str
    text: str
    time_s: float
    attempt: int


@dataclass(slots=True)
class Summary:
    """What there is in a file.

    Attributes
    ----------
    size : int
        Bytes of whole records, from the begin.
    attempt : int
        Of the last record; 0 in an empty file.
    following : dict of int to int
        The number of the line that is expected next, by attempt; of workers that number their lines.
    is_full : bool
        Whether a record says that text is left out.
    """

    size: int = 0
    attempt: int = 0
    following: dict[int, int] = field(default_factory=dict)
    is_full: bool = False


def split(text: str) -> list[str]:
    """Return the lines of an entry; a line break at its end ends the last one and begins none."""
    lines = text.split("\n")
    if len(lines) > 1 and not lines[-1]:
        del lines[-1]
    return lines


def encode(
    type_name: str, lines: Sequence[str], time_s: float, attempt: int, sequence: int, kind: int = Kind.LINE
) -> bytes:
    """Return the records of some lines; the first has the number ``sequence``, if they are numbered."""
    records = []
    number = _TYPE_NUMBER[type_name]
    for line in lines:
        raw = line.encode()
        checked = _CHECKED.pack(time_s, attempt, sequence, number, kind)
        records.append(_UNCHECKED.pack(len(raw), zlib.crc32(raw, zlib.crc32(checked))) + checked + raw)
        if sequence != NO_SEQUENCE:
            sequence += 1
    return b"".join(records)


def parse(data: bytes) -> tuple[list[Record], int]:
    """Return the records at the begin of ``data``, and how many bytes they have."""
    records = []
    position = 0
    for fields, text, end in _records(data):
        records.append(Record(LOG_TYPES[fields[5]], text.decode("utf-8", "replace"), fields[2], fields[3]))
        position = end
    return records, position


def summarize(data: bytes, base: Summary | None = None) -> Summary:
    """Return what there is in a file's content, or in a further piece of it that begins with a record."""
    summary = base or Summary()
    start = summary.size
    for (_, _, _, attempt, sequence, _, kind), _, end in _records(data):
        summary.size = start + end
        summary.attempt = attempt
        if sequence != NO_SEQUENCE:
            summary.following[attempt] = sequence + 1
        if kind == Kind.GAP:
            summary.is_full = True
    return summary


def _records(data: bytes) -> Iterator[tuple[tuple[int, int, float, int, int, int, int], bytes, int]]:
    """Yield the header's fields, the text and the end of each record until there is none."""
    position, size = 0, len(data)
    while position + _HEADER.size <= size:
        fields = _HEADER.unpack_from(data, position)
        begin = position + _HEADER.size
        end = begin + fields[0]
        if fields[0] > _MAX_TEXT or end > size or fields[5] >= len(LOG_TYPES):
            return
        text = data[begin:end]
        if zlib.crc32(text, zlib.crc32(data[position + 8 : begin])) != fields[1]:
            return
        yield fields, text, end
        position = end
