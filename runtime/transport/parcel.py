"""Both ends of a parcel, as states and messages: what `runtime.v1.Parcels` says, without any I/O.

A sender takes Standings and makes Chunks, a receiver takes Chunks and makes Standings. The first of each is an opening;
after a stream has broken, a new one begins with new openings, and goes on where the receiver stands.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message

from runtime import wire
from runtime._ext.chunks import DEFAULT_CHUNK_BYTES, ChunkReader, ChunkWriter, chunk_item
from runtime._ext.crc32c import crc32c
from runtime._ext.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from runtime._ext.message_parts import MessageParts
from runtime.transport import arrays, compression, roads, segments
from runtime.transport.arrays import Array, Outgoing
from runtime.transport.borrower import claim
from runtime.transport.lender import lender
from runtime.transport.place import Place, here
from runtime.transport.roads import Road

__all__ = ["COMPLETE", "MAX_KEY", "Progress", "Receiver", "Sender", "check_key", "sealed", "unsealed"]

Progress = Callable[[int, int], object]
"""``progress(done_bytes, total_bytes)``"""

MAX_KEY = 1024
_MAX_ITEMS = 1 << 20
# So many items travel side by side: the small ones pass the large.
_SIDE_BY_SIDE = 4
# What may be on its way: at first, and at most. It grows with every quarter that was taken, and that is given back:
# so a long path is full of it after a few round trips, and stays so.
FIRST_WINDOW_BYTES = 32 << 10
MAX_WINDOW_BYTES = 8 << 20
_GROWTH = 4
_ANY_CREDIT = 1 << 39

_STREAM, _SHARED, _REFERENCE = wire.runtime_v1.STREAM, wire.runtime_v1.SHARED_MEMORY, wire.runtime_v1.REFERENCE

# Arrays that go from one end to the other within the process, by the number of their lease.
_references: dict[int, Array] = {}


def parse(kind: type[Message], data: bytes) -> Any:
    """Return a message from its bytes.

    Raises
    ------
    InvalidArgument
        If it is none of that kind.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidArgument(f"this is no {kind.DESCRIPTOR.full_name} message ({len(data)} bytes): {error}") from None


def sealed(message: Message) -> bytes:
    """Return a Standing, or a Chunk without content, with its checksum behind everything else."""
    body: bytes = message.SerializeToString()
    return body + _CHECKSUM_TAGS[type(message)] + crc32c(body).to_bytes(4, "little")


def unsealed(kind: type[Message], data: bytes) -> Any:
    """Return a message from its bytes.

    Raises
    ------
    InvalidArgument
        If it is none of that kind.
    DataLoss
        If it differs from its checksum.
    """
    message = parse(kind, data)
    body = memoryview(data)[:-5]
    if data[-5:] != _CHECKSUM_TAGS[kind] + crc32c(body).to_bytes(4, "little"):
        name = kind.DESCRIPTOR.name
        raise DataLoss(f"{name}.crc32c is {message.crc32c:#010x} and does not end the message, or its bytes give "
                       f"{crc32c(body):#010x}: it was damaged on its way")
    return message


_CHECKSUM_TAGS: dict[type[Message], bytes] = {wire.runtime_v1.Chunk: b"\x25", wire.runtime_v1.Standing: b"\x3d"}

COMPLETE = sealed(wire.runtime_v1.Standing(is_complete=True))
"""A receiver's last word."""


def check_key(key: str) -> None:
    """Check the name under which sender and receiver meet."""
    if not key or len(key) > MAX_KEY:
        raise InvalidArgument(f"key has {len(key)} characters; 1 to {MAX_KEY} are allowed")


class Sender:
    """The sending end.

    Parameters
    ----------
    key : str
        Under which the receiver waits.
    items : mapping of str to array
        Whatever `arrays.as_array` takes. The arrays must not change before everything has arrived.
    compress : str, optional
        ``"zlib"`` or ``"zstd"``, for what goes over a stream.
    may_share : bool
        Whether segments and references may be used.
    progress : callable, optional
    chunk_bytes : int

    Attributes
    ----------
    parcel : int
        Random number of this parcel.
    is_complete : bool
        Whether the receiver has everything.
    total_bytes : int

    Raises
    ------
    InvalidArgument
        An item cannot be sent; names it.
    """

    def __init__(self, key: str, items: Mapping[str, Any], *, compress: str | None = None, may_share: bool = True,
                 progress: Progress | None = None, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> None:
        check_key(key)
        self.key = key
        self.parcel = secrets.randbits(64) or 1
        self.is_complete = False
        self._compression = compression.number_of(compress)
        self._progress = progress
        self._may_share = may_share
        self._items = [_Leaving(index, arrays.outgoing(name, value), compression.compressor(self._compression),
                                chunk_bytes)
                       for index, (name, value) in enumerate(items.items())]
        self.total_bytes = sum(item.out.content.nbytes for item in self._items)
        self._is_resumed = False
        self._may_begin = False
        self._credit_bytes = 0
        self._active: deque[_Leaving] = deque()
        self._coming: deque[_Leaving] = deque()

    def opening(self) -> bytes:
        """Return the first message of a stream, and get ready for a Standing of the receiver."""
        self._may_begin = False
        place = here()
        if self._may_share:
            with contextlib.suppress(Unavailable):  # no unix sockets: then the stream does
                place = Place(place.boot_id, place.user_id, place.process, lender().address)
        manifest = wire.runtime_v1.Manifest(key=self.key, parcel=self.parcel, compression=self._compression,
                                            item=[item.out.item for item in self._items], is_resumed=self._is_resumed)
        if self._may_share:
            manifest.place.CopyFrom(place.message())
        return sealed(wire.runtime_v1.Chunk(manifest=manifest))

    def take(self, message: bytes) -> None:
        """Take a Standing.

        Raises
        ------
        InvalidArgument
            It is none, or says what cannot be.
        """
        standing = unsealed(wire.runtime_v1.Standing, message)
        is_first = not self._may_begin
        if is_first:
            self._may_begin = self._is_resumed = True
            self._credit_bytes = 0
        self._credit_bytes = min(self._credit_bytes + standing.credit_bytes, _ANY_CREDIT)
        for found in standing.item:
            if found.item >= len(self._items):
                raise InvalidArgument(f"ItemStanding.item is {found.item}; the parcel has {len(self._items)}")
            self._items[found.item].stands(found, is_first)
        if is_first:
            self._active.clear()
            self._coming = deque(item for item in self._items if not item.is_sent)
        else:
            self._coming.extend(item for item in (self._items[found.item] for found in standing.item)
                                if not item.is_sent and item not in self._active and item not in self._coming)
        if standing.is_complete:
            self.is_complete = True
            for item in self._items:
                item.arrived()
        if self._progress is not None:
            self._progress(self.total_bytes if self.is_complete else self.done_bytes, self.total_bytes)

    @property
    def done_bytes(self) -> int:
        """Return how many bytes the receiver has acknowledged."""
        return sum(item.done for item in self._items)

    @property
    def has_begun(self) -> bool:
        """Tell whether a receiver has begun to take it."""
        return self._is_resumed

    def describe(self) -> str:
        """Return what has arrived, for an error."""
        if not self._is_resumed:
            return "no receiver has taken it"
        return f"{self.done_bytes} of {self.total_bytes} bytes have arrived"

    @property
    def takes_long(self) -> bool:
        """Tell whether `next` may copy a whole item at once, which then belongs in a thread."""
        if not self._may_begin:
            return False
        self._activate()
        return any(item.road == _SHARED for item in self._active)

    def _activate(self) -> None:
        while len(self._active) < _SIDE_BY_SIDE and self._coming:
            self._active.append(self._coming.popleft())

    def next(self, joined: bool) -> bytes | MessageParts | None:
        """Return the next message, or None when a Standing must come before.

        Parameters
        ----------
        joined : bool
            As in `ChunkWriter.next`.
        """
        if not self._may_begin:
            return None
        self._activate()
        for _ in range(len(self._active)):
            item = self._active[0]
            message = item.next(joined, self._credit_bytes)
            if message is not None:
                self._credit_bytes -= item.last_bytes
            if item.is_sent:
                self._active.popleft()
            else:
                self._active.rotate(-1)
            if message is not None:
                return message
        return None

    def close(self) -> None:
        """Let go of what is lent and was not claimed."""
        for item in self._items:
            item.revoke()


class _Leaving:
    """One item on its way out."""

    def __init__(self, index: int, out: Outgoing, compress: compression.Compress | None, chunk_bytes: int) -> None:
        self.index = index
        self.out = out
        self.road: wire.runtime_v1.Road = _STREAM
        self.is_sent = False
        self.last_bytes = 0
        self.done = 0
        self._writer = ChunkWriter(out.content, index, chunk_bytes, compress=compress)
        self._chunk_bytes = chunk_bytes
        self._lease = 0
        self._began = 0.0
        self._copies = int(out.copied)
        self._is_counted = False

    def stands(self, standing: wire.runtime_v1.ItemStanding, is_first: bool) -> None:
        if standing.road not in (_STREAM, _SHARED, _REFERENCE):
            raise InvalidArgument(f"ItemStanding.road is {standing.road}, which is not known here")
        if is_first or standing.road != self.road:
            self.revoke()
            self.road = standing.road
            self._writer.resume(standing.next_sequence, standing.next_offset, _ANY_CREDIT, standing.is_complete)
            self.is_sent = standing.is_complete
        else:
            self._writer.acknowledge(standing.next_offset)
        self.done = self.out.content.nbytes if standing.is_complete else standing.next_offset

    def next(self, joined: bool, credit_bytes: int) -> bytes | MessageParts | None:
        self._began = self._began or time.perf_counter()
        self.last_bytes = 0
        if self.road != _STREAM and not self._writer.sequence:
            lease = self._lend()
            if lease is not None:
                self.is_sent = True
                return sealed(wire.runtime_v1.Chunk(item=self.index, lease=lease))
            self.road = _STREAM
        left = self.out.content.nbytes - self._writer.offset
        if left and credit_bytes < min(left, self._chunk_bytes, FIRST_WINDOW_BYTES // 2):
            return None
        before = self._writer.offset
        message = self._writer.next(joined, max(credit_bytes, 1))
        self.last_bytes = self._writer.offset - before
        self.is_sent = self._writer.is_sent
        return message

    def _lend(self) -> wire.runtime_v1.Lease | None:
        """Return a lease of the item; None where it must go over the stream."""
        nbytes = self.out.content.nbytes
        if self.road == _REFERENCE:
            self._lease = secrets.randbits(64)
            _references[self._lease] = self.out.array
            return wire.runtime_v1.Lease(lease=self._lease, nbytes=nbytes)
        buffer = None if self.out.copied else segments.buffer_of(self.out.array)
        is_read_only = buffer is not None
        if buffer is None or buffer.nbytes != nbytes:
            try:
                buffer = segments.pool().take(nbytes)
            except ResourceExhausted:
                return None
            np.copyto(np.frombuffer(memoryview(buffer), np.uint8), self.out.content)
            self._copies += 1
            is_read_only = False
        self._lease = lender().lend(buffer, is_read_only, self.out.array)
        return wire.runtime_v1.Lease(lease=self._lease, nbytes=nbytes, is_read_only=is_read_only)

    def revoke(self) -> None:
        if self._lease:
            _references.pop(self._lease, None)
            if self.road == _SHARED:
                lender().revoke(self._lease)
            self._lease = 0

    def arrived(self) -> None:
        self._lease = 0
        if not self._is_counted:
            self._is_counted = True
            road = _ROADS[self.road]
            now = time.perf_counter()
            roads.count("sent", road, self.out.content.nbytes, now - (self._began or now), self._copies)


_ROADS = {_STREAM: Road.STREAM, _SHARED: Road.SHARED_MEMORY, _REFERENCE: Road.REFERENCE}


class Receiver:
    """The receiving end.

    Parameters
    ----------
    key : str
        Under which the sender comes.
    limit_bytes : int
        What a parcel may hold; a larger one is refused before memory is taken.
    may_share : bool
        Whether segments and references may be used.
    progress : callable, optional

    Attributes
    ----------
    parcel : int
        The number of the parcel that has begun to come; 0 before.
    is_complete : bool
        Whether everything is here.
    done_bytes : int
        How much is.
    """

    def __init__(self, key: str, limit_bytes: int, *, may_share: bool = True, progress: Progress | None = None) -> None:
        check_key(key)
        self.key = key
        self.parcel = 0
        self.is_complete = False
        self._limit_bytes = limit_bytes
        self._may_share = may_share
        self._progress = progress
        self._items: list[_Arriving] = []
        self._missing = 0
        self._total_bytes = 0
        self._lender = ""
        self._has_manifest = False
        self._window_bytes = FIRST_WINDOW_BYTES
        self._outstanding_bytes = 0
        self.done_bytes = 0

    def opening(self) -> bytes:
        """Return the first message of a stream, and get ready for the sender's opening."""
        self._has_manifest = False
        return sealed(wire.runtime_v1.Standing(key=self.key, parcel=self.parcel))

    @staticmethod
    def takes_long(message: bytes) -> bool:
        """Tell whether `take` may wait for another process, which then belongs in a thread."""
        return len(message) < 64 and parse(wire.runtime_v1.Chunk, message).HasField("lease")

    def take(self, message: bytes) -> bytes | None:
        """Take a Chunk and return the Standing to answer with, if it is time for one.

        Raises
        ------
        InvalidArgument
            The message is damaged, or says what cannot be.
        DataLoss
            Something is missing, comes twice or was damaged; a new stream mends that.
        ResourceExhausted
            The parcel holds more than is allowed, or than there is memory for.
        """
        if not self._has_manifest:
            return self._begin(message)
        if len(message) < 64:
            chunk = parse(wire.runtime_v1.Chunk, message)
            if chunk.HasField("lease"):
                return self._take_lease(unsealed(wire.runtime_v1.Chunk, message))
        index = chunk_item(message)
        if index >= len(self._items):
            raise InvalidArgument(f"Chunk.item is {index}; the parcel has {len(self._items)}")
        item = self._items[index]
        got = item.feed(message)
        self._outstanding_bytes -= got
        if self._outstanding_bytes < 0:
            raise InvalidArgument(f"'{item.name}' goes on without credit: {-self._outstanding_bytes} bytes too many "
                                  "came")
        self._advance(item, got)
        return self._standing([item])

    def _begin(self, message: bytes) -> bytes | None:
        chunk = unsealed(wire.runtime_v1.Chunk, message)
        if not chunk.HasField("manifest"):
            raise InvalidArgument("the first Chunk has no manifest")
        manifest = chunk.manifest
        if self.parcel and manifest.parcel != self.parcel:
            raise FailedPrecondition(f"Manifest.parcel is {manifest.parcel}; parcel {self.parcel} has begun to come")
        if not self.parcel:
            self._accept(manifest)
        place = Place.of(manifest.place) if manifest.HasField("place") else None
        for item in self._items:
            item.road = self._road(place, item.nbytes) if not item.has_begun else _STREAM
        self._lender = place.segments if place is not None else ""
        self._has_manifest = True
        self._window_bytes = FIRST_WINDOW_BYTES
        self._outstanding_bytes = 0
        return self._standing(self._items)

    def _accept(self, manifest: wire.runtime_v1.Manifest) -> None:
        if not manifest.parcel:
            raise InvalidArgument("Manifest.parcel is 0; it must be another number")
        if len(manifest.item) > _MAX_ITEMS:
            raise InvalidArgument(f"Manifest.item has {len(manifest.item)} entries; at most {_MAX_ITEMS} are allowed")
        total = sum(item.nbytes for item in manifest.item)
        if total > self._limit_bytes:
            largest = max(manifest.item, key=lambda item: item.nbytes)
            raise ResourceExhausted(f"the parcel '{self.key}' holds {total} bytes, and {self._limit_bytes} are "
                                    f"allowed; the largest item is '{largest.name}' with {largest.nbytes}")
        unpack = compression.decompressor(manifest.compression)
        names = set()
        for item in manifest.item:
            arrays.check_item(item)
            if item.name in names:
                raise InvalidArgument(f"Item.name '{item.name}' is there twice")
            names.add(item.name)
        self._items = [_Arriving(index, item, unpack) for index, item in enumerate(manifest.item)]
        self._missing = len(self._items)
        self._total_bytes = total
        self.parcel = manifest.parcel

    def _road(self, place: Place | None, nbytes: int) -> wire.runtime_v1.Road:
        if place is None or not self._may_share:
            return _STREAM
        if here().is_same_process(place):
            return _REFERENCE
        if nbytes >= segments.SHARED_BYTES and place.segments and here().can_share_with(place):
            return _SHARED
        return _STREAM

    def _take_lease(self, chunk: wire.runtime_v1.Chunk) -> bytes | None:
        if chunk.item >= len(self._items):
            raise InvalidArgument(f"Chunk.item is {chunk.item}; the parcel has {len(self._items)}")
        item = self._items[chunk.item]
        try:
            item.claim(self._lender, chunk.lease)
        except (Unavailable, NotFound):
            item.road = _STREAM  # it cannot be reached from here: another network namespace, say
            return self._standing([item], at_once=True)
        self._advance(item, item.nbytes)
        return self._standing([])

    def _advance(self, item: _Arriving, nbytes: int) -> None:
        self.done_bytes += nbytes
        self._missing -= item.is_complete
        if self._progress is not None and nbytes:
            self._progress(self.done_bytes, self._total_bytes)

    def _standing(self, items: list[_Arriving], at_once: bool = False) -> bytes | None:
        if not self._missing:
            self.is_complete = True
            return COMPLETE
        is_first = items is self._items
        used = self._window_bytes - self._outstanding_bytes
        if used * 4 < self._window_bytes and not (at_once or is_first):
            return None
        if not is_first:
            self._window_bytes = min(self._window_bytes * _GROWTH, MAX_WINDOW_BYTES)
        credit = self._window_bytes - self._outstanding_bytes
        self._outstanding_bytes += credit
        return sealed(wire.runtime_v1.Standing(item=[item.standing() for item in items], credit_bytes=credit))

    def result(self) -> dict[str, Array]:
        """Return the arrays by name.

        Raises
        ------
        FailedPrecondition
            Not everything is here.
        """
        if not self.is_complete:
            raise FailedPrecondition(f"{self._missing} of {len(self._items)} items of the parcel '{self.key}' have "
                                     "not come")
        return {item.name: item.array() for item in self._items}

    @property
    def has_begun(self) -> bool:
        """Tell whether a parcel has begun to come."""
        return self.parcel != 0

    def describe(self) -> str:
        """Return what has come, for an error."""
        if not self.parcel:
            return "nothing of it has come"
        return f"{self.done_bytes} of {self._total_bytes} bytes have come"


class _Arriving:
    """One item on its way in."""

    def __init__(self, index: int, item: wire.runtime_v1.Item, unpack: compression.Decompress | None) -> None:
        self.index = index
        self.item = item
        self.name = item.name
        self.nbytes = item.nbytes
        self.road: wire.runtime_v1.Road = _STREAM
        self.is_complete = False
        self._unpack = unpack
        self._content: Any = None
        self._whole: Array | None = None
        self._reader: ChunkReader | None = None
        self._began = time.perf_counter()

    @property
    def has_begun(self) -> bool:
        return self._reader is not None or self.is_complete

    def feed(self, message: bytes) -> int:
        if self._reader is None:
            if self.is_complete:
                raise DataLoss(f"'{self.name}' comes again; it is here already")
            self._content = arrays.destination(self.item)
            self._reader = ChunkReader(self._content, self.index, decompress=self._unpack, name=f"'{self.name}'")
            self._began = time.perf_counter()
        before = self._reader.next_offset
        self._reader.feed(message)
        if self._reader.is_complete:
            self._complete(Road.STREAM, 1)
        return self._reader.next_offset - before

    def claim(self, lender_address: str, lease: wire.runtime_v1.Lease) -> None:
        if self.has_begun:
            raise DataLoss(f"'{self.name}' comes again; it is here already")
        if lease.nbytes != self.nbytes:
            raise InvalidArgument(f"Lease.nbytes of '{self.name}' is {lease.nbytes}; it has {self.nbytes}")
        if self.road == _REFERENCE:
            found = _references.pop(lease.lease, None)
            if found is None:
                raise NotFound(f"nothing is lent as {lease.lease}")
            self._whole = found
            self._complete(Road.REFERENCE, 0)
            return
        if self.road != _SHARED:
            raise InvalidArgument(f"Chunk.lease of '{self.name}' was not asked for")
        self._content = claim(lender_address, lease.lease, lease.nbytes)
        self._complete(Road.SHARED_MEMORY, 0)

    def _complete(self, road: Road, copies: int) -> None:
        self.is_complete = True
        roads.count("received", road, self.nbytes, time.perf_counter() - self._began, copies)

    def standing(self) -> wire.runtime_v1.ItemStanding:
        reader = self._reader
        return wire.runtime_v1.ItemStanding(
            item=self.index, next_sequence=reader.next_sequence if reader else 0,
            next_offset=reader.next_offset if reader else 0, is_complete=self.is_complete, road=self.road)

    def array(self) -> Array:
        if self._whole is not None:
            return self._whole
        return arrays.incoming(self.item, self._content if self._content is not None else np.empty(0, np.uint8))
