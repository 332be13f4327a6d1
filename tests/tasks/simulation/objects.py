"""Objects on a disk in memory: what `runtime.objects.files` is for the story's server, crashes included."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from runtime.errors import DataLoss
from runtime.objects.value import ObjectRef, Value
from runtime.store import failpoints

LARGE = b"large"
"""Values that begin so lie in objects."""


class MemoryObjects:
    """The objects of one life of a server.

    Parameters
    ----------
    disk : dict of bytes to bytes
        What outlives the server: content by digest.
    """

    def __init__(self, disk: dict[bytes, bytes]) -> None:
        self.disk = disk
        self.held: Counter[bytes] = Counter()

    def writer(self, inline_bytes: int | None = None) -> MemoryWriter:
        """Return a writer for one value."""
        return MemoryWriter(self)

    async def read(self, value: Value, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Return the pieces of a value."""
        if value.ref is None:
            yield value.data
            return
        data = self.disk.get(value.ref.digest)
        if data is None:
            raise DataLoss(f"object {value.ref.digest.hex()} is not there")
        yield data

    def let_go(self, values: Iterable[Value]) -> None:
        """Hold these values no longer."""
        for value in values:
            if value.ref is not None:
                assert self.held[value.ref.digest] > 0, "a value was let go more often than it was held"
                self.held[value.ref.digest] -= 1

    def remove(self, digest: bytes) -> None:
        """Remove an object that no row refers to."""
        if not self.held[digest]:
            # Soon, as by a thread; who writes the same content meanwhile does so afterwards.
            asyncio.get_running_loop().call_soon(self._remove, digest)

    def _remove(self, digest: bytes) -> None:
        failpoints.hit("objects.remove")
        self.disk.pop(digest, None)

    async def sweep(self, referred: Callable[[list[bytes]], Awaitable[set[bytes]]]) -> int:
        """Remove what no row refers to and nobody holds."""
        digests = list(self.disk)
        kept = await referred(digests)
        await asyncio.sleep(0)
        unused = [digest for digest in digests if digest not in kept and not self.held[digest]]
        for digest in unused:
            self.remove(digest)
        await asyncio.sleep(0)
        return len(unused)

    async def close(self) -> None:
        """Do nothing: nothing is open."""


class MemoryWriter:
    """Writes one value; see `runtime.objects.objects.ValueWriter`."""

    def __init__(self, objects: MemoryObjects) -> None:
        self.size = 0
        self._objects = objects
        self._data = b""

    async def write(self, data: bytes) -> None:
        """Take a piece."""
        self._data += data
        self.size += len(data)

    async def finish(self) -> Value:
        """Return the value, durable and held."""
        data = self._data
        if not data.startswith(LARGE):
            return Value(data)
        digest = hashlib.sha256(data).digest()
        self._objects.held[digest] += 1
        loop = asyncio.get_running_loop()
        named = loop.create_future()
        loop.call_soon(self._name, digest, named)
        await named
        return Value(b"", ObjectRef(digest, len(data), 0))

    def _name(self, digest: bytes, named: asyncio.Future[None]) -> None:
        failpoints.hit("objects.rename")
        self._objects.disk[digest] = self._data
        failpoints.hit("objects.sync_folder")
        if not named.done():
            named.set_result(None)

    def discard(self) -> None:
        """Forget what was written."""
        self._data = b""
