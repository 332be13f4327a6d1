"""Reading ahead, and remembering what was read: prefetch and cache."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime._ext.variable import ResourceHandle
from runtime.ops.datasets.cache_files import CacheFile, CacheFileWriter, StoredElements
from runtime.ops.datasets.dataset import (
    Dataset,
    DatasetIterator,
    Element,
    Signature,
    UnaryDataset,
    dataset_of,
    integer,
    text,
    variant,
)
from runtime.ops.datasets.task import Promise
from runtime.ops.handles import handle_array
from runtime.ops.objects import object_scalar
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.step.environment import KernelEnv

__all__ = ["AUTO_BUFFER", "ReadAhead"]

Run = Callable[..., Any]

AUTO_BUFFER = 4
"""How many elements lie ready where the graph leaves that to the server."""

# However many elements a graph wants to lie ready: no more are read when they take up so much memory.
_MOST_BYTES = 1 << 30


def _size(element: Element | None) -> int:
    return 0 if element is None else sum(component.nbytes for component in element)


class ReadAhead:
    """Elements of an iterator, read before they are asked for by a task of their own.

    The task ends when the buffer is full and is started again when half of it is empty; it holds no thread between.

    Parameters
    ----------
    iteration : Iteration
    source : DatasetIterator
        From now on read and closed by this.
    capacity : int
        Most elements that lie ready, at least 1.
    """

    def __init__(self, iteration: Iteration, source: DatasetIterator, capacity: int) -> None:
        self._iteration = iteration
        self._source = source
        self._capacity = capacity
        self._lock = threading.Lock()
        self._buffer: deque[tuple[Element | None, BaseException | None]] = deque()
        self._bytes = 0
        self._arrival: Promise | None = None
        self._producing = False
        self._ended = False
        self._closed = False

    @property
    def is_ready(self) -> bool:
        """Tell whether `next` would give an answer at once."""
        return bool(self._buffer) or self._ended

    def start(self) -> None:
        """Begin to read, if nothing does."""
        with self._lock:
            begins = not self._producing and not self._ended and (
                len(self._buffer) <= self._capacity // 2 and self._bytes <= _MOST_BYTES)
            self._producing = self._producing or begins
        if begins:
            self._iteration.spawn(self._produce())

    async def next(self) -> Element | None:
        """Return the next element, waiting for it if it is not there yet; None at the end."""
        while True:
            with self._lock:
                item = self._buffer.popleft() if self._buffer else None
                self._bytes -= 0 if item is None else _size(item[0])
                if item is None and self._ended:
                    return None
                arrival = self._arrival = Promise() if item is None else None
            self.start()
            if item is not None:
                element, error = item
                if error is not None:
                    raise error
                return element
            assert arrival is not None
            await arrival

    async def wait(self) -> None:
        """Wait until `is_ready`."""
        while True:
            with self._lock:
                if self.is_ready:
                    return
                arrival = self._arrival = Promise()
            self.start()
            await arrival

    async def _produce(self) -> None:
        try:
            while True:
                with self._lock:
                    if self._closed or self._ended or len(self._buffer) >= self._capacity or (
                            self._bytes > _MOST_BYTES):
                        return
                element, failure = None, None
                try:
                    element = await self._source.next()
                except Exception as error:
                    if self._iteration.is_ending:
                        return
                    failure = error
                with self._lock:
                    if element is None and failure is None:
                        self._ended = True
                    else:
                        self._buffer.append((element, failure))
                        self._bytes += _size(element)
                    arrival, self._arrival = self._arrival, None
                if arrival is not None:
                    arrival.set()
        finally:
            with self._lock:
                self._producing = False
                closes = self._closed
                missed = self._arrival if not closes and not self._iteration.is_ending else None
            if closes:
                self._source.close()
            elif missed is not None:
                missed.set()  # it was asked for between the last look and now

    def close(self) -> None:
        """Drop what lies ready and close the source as soon as nobody reads it."""
        with self._lock:
            already, self._closed = self._closed, True
            self._buffer.clear()
            self._bytes = 0
            closes = not already and not self._producing
        if closes:
            self._source.close()


class PrefetchDataset(UnaryDataset):
    """The elements of a dataset, read ahead."""

    name = "Prefetch"

    def __init__(self, signature: Signature, source: Dataset, capacity: int) -> None:
        super().__init__(signature, source)
        self.capacity = capacity

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        if not self.capacity:
            return self.source.iterator(iteration, f"{prefix}::{self.name}")
        return _PrefetchIterator(self, iteration, prefix)


class _PrefetchIterator(DatasetIterator):
    __slots__ = ("_ahead",)

    def __init__(self, dataset: PrefetchDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._ahead = ReadAhead(iteration, dataset.source.iterator(iteration, self.prefix), dataset.capacity)

    async def next(self) -> Element | None:
        return await self._ahead.next()

    def close(self) -> None:
        self._ahead.close()


@kernel("PrefetchDataset", shape=scalar, host=(1,))
def _prefetch(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)

    def run(source: Any, buffer_size: Any) -> Any:
        capacity = integer(buffer_size, "buffer_size")
        if capacity < -1:
            raise InvalidArgument("buffer_size must be >= 0 or set buffer_size to be -1 for auto-tuning")
        return variant(PrefetchDataset(signature, dataset_of(source), AUTO_BUFFER if capacity == -1 else capacity))

    return run


# Caches


class MemoryCache:
    """The elements of a dataset, once it was read to its end; readings of it share one."""

    def __init__(self) -> None:
        self._elements: Sequence[Element] | None = None

    def open(self) -> Sequence[Element] | None:
        """Return the elements, None while they are not complete."""
        return self._elements

    def writer(self) -> _MemoryCacheWriter:
        """Begin to write the elements; the first writer that comes to the end is the one that counts."""
        return _MemoryCacheWriter(self)

    def complete(self, elements: Sequence[Element]) -> None:
        """Keep the elements of the first reading that came to its end."""
        if self._elements is None:
            self._elements = elements


class _MemoryCacheWriter:
    def __init__(self, cache: MemoryCache) -> None:
        self._cache = cache
        self._elements: list[Element] = []

    def add(self, element: Element) -> None:
        self._elements.append(element)

    def finish(self) -> None:
        self._cache.complete(self._elements)

    def abandon(self) -> None:
        self._elements = []


class CacheDataset(UnaryDataset):
    """The elements of a dataset, which is read once; later readings get what was remembered."""

    def __init__(self, signature: Signature, source: Dataset, cache: MemoryCache | CacheFile) -> None:
        super().__init__(signature, source)
        self.cache = cache

    @property
    def name(self) -> str:  # type: ignore[override]
        return "MemoryCacheImpl" if isinstance(self.cache, MemoryCache) else "FileCacheImpl"

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _CacheIterator(self, iteration, prefix)


class _CacheIterator(DatasetIterator):
    """Reads the cache when it is complete at the first `next`, else the source, and fills the cache on the way."""

    __slots__ = ("_dataset", "_place", "_source", "_stored", "_writer")

    def __init__(self, dataset: CacheDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._dataset = dataset
        self._place = 0
        self._stored: Sequence[Element] | None = None
        self._source: DatasetIterator | None = None
        self._writer: _MemoryCacheWriter | CacheFileWriter | None = None

    async def next(self) -> Element | None:
        if self._stored is None and self._source is None:
            self._stored = self._dataset.cache.open()
            if self._stored is None:
                self._writer = self._dataset.cache.writer()
                self._source = self._dataset.source.iterator(self.iteration, self.prefix)
        if self._stored is not None:
            place = self._place
            if place >= len(self._stored):
                return None
            self._place = place + 1
            return self._stored[place]
        assert self._source is not None
        element = await self._source.next()
        if self._writer is not None:
            if element is None:
                writer, self._writer = self._writer, None
                writer.finish()
            else:
                self._writer.add(element)
        return element

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
        if isinstance(self._stored, StoredElements):
            self._stored.close()


_MEMORY_CACHE = "N10tensorflow4data18MemoryCacheManagerE"


@kernel("AnonymousMemoryCache", shape=scalar)
def _memory_cache(node: Node, env: KernelEnv) -> Run:
    device, session = env.device.name, env.session

    def run() -> Any:
        handle = ResourceHandle(device, "", session.private_name(node.name), _MEMORY_CACHE, MemoryCache())
        return [handle_array(handle), object_scalar(None)]

    return run


@kernel("DeleteMemoryCache")
def _delete_memory_cache(node: Node, env: KernelEnv) -> Run:
    return lambda handle, deleter: None  # it goes with its last handle


@kernel("CacheDataset", "CacheDatasetV2", shape=scalar)
def _cache(node: Node, env: KernelEnv) -> Run:
    signature, files = Signature.of(node), env.session.files

    def run(source: Any, filename: Any, resource: Any = None) -> Any:
        path = text(filename, "filename")
        cache: MemoryCache | CacheFile
        if path:
            cache = CacheFile(path, signature, files)
        else:
            given = None if resource is None else getattr(resource.item(), "resource", None)
            cache = given if isinstance(given, MemoryCache) else MemoryCache()
        return variant(CacheDataset(signature, dataset_of(source), cache))

    return run
