"""Objects on a disk in memory: what `runtime.objects.files` is for the story's server, crashes included."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from runtime.errors import DataLoss
from runtime.objects.lending import Lending
from runtime.objects.recent import Content
from runtime.objects.value import ObjectRef, PlacesFile, Value
from runtime.store import failpoints

LARGE, MEDIUM = b"large", b"medium"
"""Values that begin so lie in objects, in files of their own, or beside each other."""

_KEY_BYTES = 16


class MemoryObjects:
    """The objects of one life of a server.

    Parameters
    ----------
    disk : dict of bytes to bytes
        What outlives the server: content by name, which is a digest, or a place with a number.
    """

    def __init__(self, disk: dict[bytes, bytes]) -> None:
        self.disk = disk
        # What others have written to places and nobody has synced: a crash takes it along.
        self.unsynced: dict[bytes, bytes] = {}
        self.held: Counter[bytes] = Counter()
        self._unused: set[bytes] = set()
        # Places that nobody has; until `take_up` nobody knows.
        self._free: list[int] | None = None

    def take_up(self, objects: Iterable[tuple[bytes, int]]) -> None:
        """Learn what rows refer to: every other place is free."""
        names = {name for name, _ in objects}
        assert names <= set(self.disk), "an object is gone that a row refers to"
        for name in [name for name in self.disk if len(name) == _KEY_BYTES and name not in names]:
            del self.disk[name]
        taken = {int.from_bytes(name[:8], "big") for name in self.disk if len(name) == _KEY_BYTES}
        self._free = [place for place in range(1000, -1, -1) if place not in taken]

    def place(self) -> bytes:
        """Return a name for what no row refers to yet: the lowest place, and a number that no other value has had."""
        assert self._free is not None
        self.disk[b"number"] = b"%d" % (int(self.disk.get(b"number", b"0")) + 1)
        return self._free.pop().to_bytes(8, "big") + int(self.disk[b"number"]).to_bytes(8, "big")

    async def put(self, contents: Sequence[Content], memory_bytes: int = 0) -> list[Value]:
        """Write values."""
        found = []
        for content in contents:
            writer = self.writer()
            for piece in content:
                await writer.write(bytes(piece))
            found.append(await writer.finish())
        return found

    def at_hand(self, value: Value) -> Content | None:
        """Return nothing: everything is read."""
        return (value.data,) if value.ref is None else None

    def places_file(self) -> PlacesFile | None:
        """Return nothing: there is no file."""
        return None

    async def begin_lending(self) -> Lending | None:
        """Return nothing: there is no file."""
        return None

    async def is_locked(self, lending: Lending) -> bool:
        """Return nothing: nobody asks without a file."""
        raise NotImplementedError

    async def lend(self, lending: Lending, sizes: Sequence[int]) -> list[int]:
        """Lend nothing: nobody asks without a file."""
        raise NotImplementedError

    async def adopt(self, lending: Lending, places: Sequence[tuple[int, int, int]]) -> list[Value]:
        """Return nothing: nobody asks without a file."""
        raise NotImplementedError

    def adopt_early(self, lending: Lending, places: Sequence[tuple[int, int, int]]) -> list[Value]:
        """Return nothing: nobody asks without a file."""
        raise NotImplementedError

    async def sync_adopted(self, lending: Lending) -> None:
        """Return nothing: nobody asks without a file."""
        raise NotImplementedError

    def end_lending(self, lending: Lending) -> None:
        """Do nothing."""

    def early(self, data: bytes) -> Value:
        """Return a value, held, that a client has written to a place; it is not durable before `sync`."""
        key = self.place()
        self.held[key] += 1
        self.unsynced[key] = data
        return Value(b"", ObjectRef(key, len(data), 0))

    async def sync(self) -> None:
        """Make durable what was written until now."""
        loop = asyncio.get_running_loop()
        synced = loop.create_future()
        loop.call_soon(self._sync, dict(self.unsynced), synced)
        await synced

    def _sync(self, written: dict[bytes, bytes], synced: asyncio.Future[None]) -> None:
        failpoints.hit("objects.arena.sync")
        for key, data in written.items():
            if self.unsynced.pop(key, None) is not None:
                self.disk[key] = data
        if not synced.done():
            synced.set_result(None)

    def handed_over(self, values: Iterable[Value]) -> None:
        """Do nothing: nothing is kept."""

    def writer(self, inline_bytes: int | None = None) -> MemoryWriter:
        """Return a writer for one value."""
        return MemoryWriter(self)

    async def read(self, value: Value, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Return the pieces of a value."""
        if value.ref is None:
            yield value.data
            return
        data = self.disk.get(value.ref.digest, self.unsynced.get(value.ref.digest))
        if data is None:
            raise DataLoss(f"object {value.ref.digest.hex()} is not there")
        yield data

    def let_go(self, values: Iterable[Value]) -> None:
        """Hold these values no longer."""
        for value in values:
            if value.ref is not None:
                assert self.held[value.ref.digest] > 0, "a value was let go more often than it was held"
                self.held[value.ref.digest] -= 1
                if value.ref.digest in self._unused and not self.held[value.ref.digest]:
                    self._unused.discard(value.ref.digest)
                    self.remove(value.ref.digest)

    def remove(self, digest: bytes) -> None:
        """Remove an object that no row refers to."""
        if len(digest) == _KEY_BYTES:
            if self.held[digest]:
                self._unused.add(digest)
            elif (self.unsynced if digest in self.unsynced else self.disk).pop(digest, None) is not None:
                # At once: who comes next writes over it.
                assert self._free is not None
                self._free.append(int.from_bytes(digest[:8], "big"))
        elif not self.held[digest]:
            # Soon, as by a thread; who writes the same content meanwhile does so afterwards.
            asyncio.get_running_loop().call_soon(self._remove, digest)

    def _remove(self, digest: bytes) -> None:
        failpoints.hit("objects.remove")
        self.disk.pop(digest, None)

    async def sweep(self, referred: Callable[[list[bytes]], Awaitable[set[bytes]]]) -> int:
        """Remove what no row refers to and nobody holds."""
        digests = [name for name in self.disk if len(name) > _KEY_BYTES]
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
        if not data.startswith((LARGE, MEDIUM)):
            return Value(data)
        is_large = data.startswith(LARGE)
        digest = hashlib.sha256(data).digest() if is_large else self._objects.place()
        self._objects.held[digest] += 1
        loop = asyncio.get_running_loop()
        named = loop.create_future()
        loop.call_soon(self._name if is_large else self._write, digest, named)
        await named
        return Value(b"", ObjectRef(digest, len(data), 0))

    def _name(self, digest: bytes, named: asyncio.Future[None]) -> None:
        failpoints.hit("objects.rename")
        self._objects.disk[digest] = self._data
        failpoints.hit("objects.sync_folder")
        if not named.done():
            named.set_result(None)

    def _write(self, key: bytes, written: asyncio.Future[None]) -> None:
        failpoints.hit("objects.arena.write")
        assert not any(name[:8] == key[:8] for name in self._objects.disk), "a place was handed out twice"
        self._objects.disk[key] = self._data
        failpoints.hit("objects.arena.sync")
        if not written.done():
            written.set_result(None)

    def discard(self) -> None:
        """Forget what was written."""
        self._data = b""
