"""A sorted table in one file: blocks of keys and values, an index of the blocks, and a footer that finds it.

The layout is LevelDB's, as TensorFlow writes it: keys share their beginning with the key before, every sixteenth is
written whole, and each block ends with its kind and a masked CRC-32C.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from runtime._ext.crc32c import crc32c, mask
from runtime._ext.errors import DataLoss, Unimplemented
from runtime.checkpoint.fields import read_varint, varint

__all__ = ["TableReader", "TableWriter"]

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_BLOCK_BYTES = 256 << 10
_WHOLE_KEY_EVERY = 16
_PLAIN = 0


class _Block:
    """A block under construction."""

    def __init__(self, whole_key_every: int) -> None:
        self._every = whole_key_every
        self._data = bytearray()
        self._restarts = [0]
        self._count = 0
        self._last = b""

    def __len__(self) -> int:
        return len(self._data)

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self._count == self._every:
            self._restarts.append(len(self._data))
            self._count = 0
        else:
            limit = min(len(key), len(self._last))
            while shared < limit and key[shared] == self._last[shared]:
                shared += 1
        self._data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        self._last = key
        self._count += 1

    def finish(self) -> bytes:
        return bytes(self._data) + struct.pack(f"<{len(self._restarts) + 1}I", *self._restarts, len(self._restarts))


class TableWriter:
    """Builds a table; keys must come in ascending order."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._block = _Block(_WHOLE_KEY_EVERY)
        self._index = _Block(1)
        self._last: bytes | None = None

    def add(self, key: bytes, value: bytes) -> None:
        """Add an entry.

        Raises
        ------
        ValueError
            If the key is not behind the last one.
        """
        if self._last is not None and key <= self._last:
            raise ValueError(f"key {key!r} does not follow {self._last!r}")
        self._block.add(key, value)
        self._last = key
        if len(self._block) >= _BLOCK_BYTES:
            self._end_block()

    def finish(self) -> bytes:
        """Return the file."""
        if len(self._block):
            self._end_block()
        meta = self._write(_Block(1).finish())
        index = self._write(self._index.finish())
        handles = meta + index
        self._out += handles.ljust(_FOOTER_BYTES - 8, b"\0") + struct.pack("<Q", _MAGIC)
        return bytes(self._out)

    def _end_block(self) -> None:
        handle = self._write(self._block.finish())
        self._index.add(self._last or b"", handle)
        self._block = _Block(_WHOLE_KEY_EVERY)

    def _write(self, block: bytes) -> bytes:
        """Append a block and return its handle: offset and size."""
        handle = varint(len(self._out)) + varint(len(block))
        trailed = block + bytes([_PLAIN])
        self._out += trailed + struct.pack("<I", mask(crc32c(trailed)))
        return handle


class TableReader:
    """Reads a table that is wholly in memory.

    Parameters
    ----------
    data : bytes
    name : str
        Of the file, for messages.

    Raises
    ------
    DataLoss
        If the data is no table.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        if len(data) < _FOOTER_BYTES:
            raise DataLoss("file is too short to be an sstable")
        footer = data[-_FOOTER_BYTES:]
        if struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
            raise DataLoss("not an sstable (bad magic number)")
        _, position = self._handle(footer, 0)
        index, _ = self._handle(footer, position)
        self._blocks = [(key, self._handle(value, 0)[0]) for key, value in self._entries(self._block(index))]

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        for _, handle in self._blocks:
            yield from self._entries(self._block(handle))

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None when it is absent."""
        low, high = 0, len(self._blocks)
        while low < high:  # the first block whose last key is not before the one that is looked for
            middle = (low + high) // 2
            if self._blocks[middle][0] < key:
                low = middle + 1
            else:
                high = middle
        if low == len(self._blocks):
            return None
        for found, value in self._entries(self._block(self._blocks[low][1])):
            if found >= key:
                return value if found == key else None
        return None

    @staticmethod
    def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
        offset, position = read_varint(data, position)
        size, position = read_varint(data, position)
        return (offset, size), position

    def _block(self, handle: tuple[int, int]) -> bytes:
        offset, size = handle
        if offset + size + _TRAILER_BYTES > len(self._data):
            raise DataLoss(f"truncated block read: {size} bytes at {offset} of {self._name}")
        trailed = self._data[offset:offset + size + 1]
        (stored,) = struct.unpack_from("<I", self._data, offset + size + 1)
        if mask(crc32c(trailed)) != stored:
            raise DataLoss("block checksum mismatch")
        if trailed[-1] != _PLAIN:
            raise Unimplemented(f"a block of {self._name} is compressed (kind {trailed[-1]}); only plain tables, as "
                                "checkpoints have them, can be read")
        return trailed[:-1]

    def _entries(self, block: bytes) -> Iterator[tuple[bytes, bytes]]:
        if len(block) < 4:
            raise DataLoss(f"bad block contents in {self._name}")
        (restarts,) = struct.unpack("<I", block[-4:])
        end = len(block) - 4 * (restarts + 1)
        if end < 0:
            raise DataLoss(f"bad block contents in {self._name}")
        position, key = 0, b""
        while position < end:
            shared, position = read_varint(block, position)
            own, position = read_varint(block, position)
            size, position = read_varint(block, position)
            if shared > len(key) or position + own + size > end:
                raise DataLoss(f"bad entry in block of {self._name}")
            key = key[:shared] + block[position:position + own]
            position += own
            yield key, block[position:position + size]
            position += size
