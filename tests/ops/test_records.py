"""Record formats, file by file; the texts of damage are those that TensorFlow gives for the same bytes."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime._ext.crc32c import crc32c, mask
from runtime.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from runtime.ops.files.bytestream import ByteStream
from runtime.ops.files.records import FixedLengthRecords, RecordReader, TextLines, TFRecords

RECORDS = [b"one", b"", b"three" * 10]
Save = Callable[[bytes], str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that writes bytes to a file and returns its path."""

    def write(content: bytes) -> str:
        path = tmp_path / "file"
        path.write_bytes(content)
        return str(path)

    return write


def framed(records: list[bytes] = RECORDS) -> bytes:
    parts = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts += [length, struct.pack("<I", mask(crc32c(length))), record, struct.pack("<I", mask(crc32c(record)))]
    return b"".join(parts)


def rest(reader: RecordReader) -> list[bytes]:
    found = []
    while (record := reader.read()) is not None:
        found.append(record)
    reader.close()
    return found


def damage(reader: RecordReader) -> tuple[int, str]:
    """Return how many records can be read, and what is said then."""
    count = 0
    with pytest.raises(DataLoss) as caught:
        while reader.read() is not None:
            count += 1
    reader.close()
    return count, caught.value.message


@pytest.mark.parametrize("compression", ["", "ZLIB", "GZIP"])
def test_frames_are_read(save: Save, compression: str) -> None:
    pack = {"": bytes, "ZLIB": zlib.compress, "GZIP": gzip.compress}[compression]
    records = [*RECORDS, os.urandom(3 << 20), b"last"]
    assert rest(TFRecords(save(pack(framed(records))), compression)) == records


def test_position_is_where_the_next_frame_starts(save: Save) -> None:
    reader = TFRecords(save(framed()))
    places = [reader.position]
    while reader.skip():
        places.append(reader.position)
    reader.close()
    assert places == [0, 19, 35, 101]


@pytest.mark.parametrize(("cut", "kept"), [(5, 0), (11, 0), (30, 1), (0, 0)])
def test_file_that_ends_within_a_frame_head_has_ended(save: Save, cut: int, kept: int) -> None:
    assert rest(TFRecords(save(framed()[:cut]))) == RECORDS[:kept]


@pytest.mark.parametrize("cut", [14, 17])
def test_file_that_ends_within_the_data_is_damaged(save: Save, cut: int) -> None:
    assert damage(TFRecords(save(framed()[:cut]))) == (
        0, "truncated record at 0' failed with Read less bytes than requested")


@pytest.mark.parametrize(("place", "records", "text"), [
    (0, 0, "corrupted record at 0 (Is this even a TFRecord file?)"),
    (9, 0, "corrupted record at 0 (Is this even a TFRecord file?)"),
    (12, 0, "corrupted record at 12"),
    (96, 2, "corrupted record at 47"),
    (20, 1, "corrupted record at 19"),
])
def test_changed_byte_is_found(save: Save, place: int, records: int, text: str) -> None:
    content = bytearray(framed())
    content[place] ^= 1
    assert damage(TFRecords(save(bytes(content)))) == (records, text)


def test_absurd_length_with_a_right_checksum_allocates_nothing(save: Save) -> None:
    head = struct.pack("<Q", 1 << 60)
    content = head + struct.pack("<I", mask(crc32c(head))) + b"some"
    assert damage(TFRecords(save(content)))[0] == 0
    with pytest.raises(ResourceExhausted, match=str(1 << 60)):
        TFRecords(save(zlib.compress(content)), "ZLIB").read()


def test_members_of_a_gzip_file_follow_each_other_and_a_zlib_stream_is_alone(save: Save) -> None:
    zipped, deflated = gzip.compress(framed()), zlib.compress(framed())
    assert rest(TFRecords(save(zipped * 2), "GZIP")) == RECORDS * 2
    assert rest(TFRecords(save(deflated * 2), "ZLIB")) == RECORDS


@pytest.mark.parametrize("compression", ["ZLIB", "GZIP"])
def test_compressed_damage_is_told(save: Save, compression: str) -> None:
    pack = {"ZLIB": zlib.compress, "GZIP": gzip.compress}[compression]
    assert damage(TFRecords(save(framed()), compression)) == (
        0, "inflate() failed with error -3: incorrect header check")
    assert damage(TFRecords(save(pack(framed())[:-12]), compression)) == (
        2, "truncated record at 35' failed with EOF reached")
    content = gzip.compress(framed()) + b"junk" * 9
    assert damage(TFRecords(save(content), "GZIP")) == (3, "inflate() failed with error -3: incorrect header check")


@pytest.mark.parametrize(("content", "lines"), [
    (b"a\nb\r\n\nc\rd\n\r\nlast", [b"a", b"b", b"", b"cd", b"", b"last"]),
    (b"a\n\r", [b"a"]),
    (b"\n", [b""]),
    (b"", []),
])
def test_lines_lose_their_ends_and_carriage_returns(save: Save, content: bytes, lines: list[bytes]) -> None:
    assert rest(TextLines(save(content))) == lines
    assert rest(TextLines(save(gzip.compress(content)), "GZIP")) == lines
    reader = TextLines(save(content))
    rest(reader)
    assert reader.lines == len(lines)


@pytest.mark.parametrize("compression", ["", "ZLIB"])
def test_fixed_length_records(save: Save, compression: str) -> None:
    content = b"HHabcdefghiF"
    path = save(zlib.compress(content) if compression else content)
    assert rest(FixedLengthRecords(path, 3, 2, 1, compression=compression)) == [b"abc", b"def", b"ghi"]
    overlapping = FixedLengthRecords(path, 3, 2, 1, 2, compression, exact=False)
    assert rest(overlapping) == [b"abc", b"cde", b"efg", b"ghi"]
    assert rest(FixedLengthRecords(path, 2, 2, 1, 5, compression, exact=False)) == [b"ab", b"fg"]
    assert rest(FixedLengthRecords(path, 5, 9, 5, compression=compression, exact=False)) == []


def test_part_of_a_record_is_told(save: Save) -> None:
    text = ("Excluding the header (2 bytes) and footer (1 bytes), input file \"{}\" has body length 8 bytes, which is "
            "not an exact multiple of the record length (3 bytes).")
    path = save(b"HHabcdefghF")
    with pytest.raises(InvalidArgument) as caught:
        FixedLengthRecords(path, 3, 2, 1)
    assert caught.value.message == text.format(path)
    path = save(zlib.compress(b"HHabcdefghF"))
    assert damage(FixedLengthRecords(path, 3, 2, 1, compression="ZLIB")) == (2, text.format(path))


@pytest.mark.parametrize("open_file", [TFRecords, TextLines, lambda path: FixedLengthRecords(path, 3)])
def test_what_cannot_be_opened_is_told(tmp_path: Path, open_file: Callable[[str], RecordReader]) -> None:
    missing = str(tmp_path / "none")
    with pytest.raises(NotFound) as caught:
        open_file(missing)
    assert caught.value.message == f"{missing}; No such file or directory"
    with pytest.raises(FailedPrecondition, match="Is a directory"):
        open_file(str(tmp_path))


def test_stream_skips_and_reads_in_pieces(save: Save) -> None:
    content = os.urandom(5 << 20)
    for stored, compression in ((content, ""), (zlib.compress(content, 1), "ZLIB")):
        stream = ByteStream(save(stored), compression, 1)
        try:
            assert stream.read(3) == content[:3]
            assert stream.skip(2 << 20) == 2 << 20
            assert stream.read(2 << 20) == content[3 + (2 << 20):3 + (4 << 20)]
            assert stream.skip(1 << 40) == (1 << 20) - 3
            assert stream.read(5) == b""
            assert stream.position == len(content)
        finally:
            stream.close()
