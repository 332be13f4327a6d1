"""The table of a checkpoint: what goes in comes out, and damage is told, never misread."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime._ext.crc32c import crc32c, crc32c_portable, mask, unmask
from runtime.checkpoint.fields import read_fields, read_varint, varint
from runtime.checkpoint.table import TableReader, TableWriter
from runtime.errors import DataLoss, Error


def table(entries: dict[bytes, bytes]) -> bytes:
    writer = TableWriter()
    for key in sorted(entries):
        writer.add(key, entries[key])
    return writer.finish()


@given(st.dictionaries(st.binary(max_size=40), st.binary(max_size=200), max_size=80))
def test_entries_come_back(entries: dict[bytes, bytes]) -> None:
    reader = TableReader(table(entries), "t")
    assert list(reader) == sorted(entries.items())
    for key, value in entries.items():
        assert reader.get(key) == value
        if key + b"\0" not in entries:
            assert reader.get(key + b"\0") is None


def test_many_blocks_are_searched() -> None:
    entries = {f"layer_{i:05d}/weights".encode(): bytes([i % 251]) * 500 for i in range(2000)}
    data = table(entries)
    assert len(data) > 3 * (256 << 10), "the table must have several blocks"
    reader = TableReader(data, "t")
    for key in (min(entries), max(entries), b"layer_00777/weights"):
        assert reader.get(key) == entries[key]
    assert reader.get(b"") is None
    assert reader.get(b"zzz") is None
    assert list(reader) == sorted(entries.items())


def test_keys_must_ascend() -> None:
    writer = TableWriter()
    writer.add(b"b", b"")
    with pytest.raises(ValueError, match="does not follow"):
        writer.add(b"b", b"")


def test_damage_is_told() -> None:
    """Every byte of a table matters: changed or missing ones give an error or, in padding, the same entries."""
    entries = {b"": b"header", b"a": b"1", b"ab": b"22", b"b": b"333"}
    data = table(entries)
    random.seed(1)
    unnoticed = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << random.randrange(8)
        try:
            found = list(TableReader(bytes(damaged), "t"))
        except Error:
            continue
        assert found == sorted(entries.items())
        unnoticed += 1
    # the unused block of 13 bytes, its handle, and the padding of the footer
    assert unnoticed <= 13 + 3 + 36
    for length in range(len(data)):
        with pytest.raises(DataLoss):
            list(TableReader(data[:length], "t"))


@given(st.binary(max_size=120))
def test_no_bytes_upset_the_reader(data: bytes) -> None:
    with contextlib.suppress(Error):
        list(TableReader(data, "t"))
    with contextlib.suppress(Error):
        list(TableReader(data + table({b"a": b"b"})[-48:], "t"))
    with contextlib.suppress(Error):
        list(read_fields(data))


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_varints_come_back(value: int) -> None:
    encoded = varint(value)
    assert read_varint(encoded, 0) == (value, len(encoded))
    with pytest.raises(DataLoss):
        read_varint(encoded[:-1] if len(encoded) > 1 else b"", 0)


@given(st.binary(max_size=100), st.integers(min_value=0, max_value=100))
def test_checksums(data: bytes, cut: int) -> None:
    whole = crc32c(data)
    assert whole == crc32c_portable(data)
    assert crc32c(data[cut:], crc32c(data[:cut])) == whole
    assert unmask(mask(whole)) == whole


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    large = bytes(range(256)) * 64
    assert crc32c(large) == crc32c_portable(large)
