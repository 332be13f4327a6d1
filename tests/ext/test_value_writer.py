"""Values written to their places, with checksums."""

from __future__ import annotations

import errno
import os
import random
import resource
from pathlib import Path

import pytest

from runtime._ext.crc32c import crc32c
from runtime._ext.value_writer import write_values


def test_values_are_where_they_belong(tmp_path: Path) -> None:
    chance = random.Random(1)
    contents = [chance.randbytes(size) for size in (0, 1, 5000, 100_000)]
    places = [0, 10, 8192, 1 << 20]
    pieces = [[memoryview(content)[:7], b"", bytearray(content[7:])] for content in contents]
    with open(tmp_path / "file", "w+b") as file:
        sums = write_values(file.fileno(), list(zip(places, pieces, strict=True)))
        assert sums == [crc32c(content, 0) for content in contents]
        for place, content in zip(places, contents, strict=True):
            assert os.pread(file.fileno(), len(content), place) == content
        assert write_values(file.fileno(), []) == []
        assert write_values(file.fileno(), [(5, [])]) == [0]


def test_values_that_others_sync_are_the_same(tmp_path: Path) -> None:
    content = random.Random(2).randbytes(300_000)
    with open(tmp_path / "file", "w+b") as file:
        assert write_values(file.fileno(), [(4096, [content[:1], content[1:]])], True) == [crc32c(content, 0)]
        assert os.pread(file.fileno(), len(content) + 1, 4096) == content
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="seek"):  # of the write; where there is nothing to begin, nothing is
        write_values(writer, [(0, [content])], are_synced=True)
    os.close(reader)
    os.close(writer)


def test_errors_are_those_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with open(path, "rb") as file, pytest.raises(OSError, match="descriptor") as found:
        write_values(file.fileno(), [(0, [b"x"])])
    assert found.value.errno == errno.EBADF


def test_what_is_no_buffer_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    kept = bytearray(b"x" * 100)
    with open(tmp_path / "file", "wb") as file:
        for values in ([(0, [kept, "text"])], [(0, [kept]), (1, None)], [(0, [kept]), ("place", [kept])]):
            with pytest.raises(TypeError):
                write_values(file.fileno(), values)  # type: ignore[arg-type]
            kept.append(1)  # no view of it is left
        assert file.tell() == 0 and os.fstat(file.fileno()).st_size == 0


def test_memory_stays_where_it_is(tmp_path: Path) -> None:
    content = bytes(1 << 20)
    with open(tmp_path / "file", "wb") as file:
        write_values(file.fileno(), [(0, [content])] * 10)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(300):
            write_values(file.fileno(), [(0, [content])] * 10)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024
