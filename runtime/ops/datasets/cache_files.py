"""Elements of a dataset in files: a checkpoint whose tensors are called by the element's and the component's number."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

from runtime._ext.errors import AlreadyExists
from runtime.checkpoint.bundle import BundleReader, BundleWriter
from runtime.checkpoint.files import data_path, index_path, os_errors, replacing
from runtime.ops.datasets.dataset import Element, Signature

if TYPE_CHECKING:
    from runtime.step.files import FileAccess

__all__ = ["CacheFile", "CacheFileWriter", "StoredElements"]

# TensorFlow's own names, so that either side reads what the other has written.
_ELEMENT_DIGITS = 7


def _key(element: int, component: int, components: int) -> bytes:
    digits = len(str(max(components - 1, 0)))
    return f"{element:>{_ELEMENT_DIGITS}}_{component:>{digits}}".encode()


class CacheFile:
    """A cache under a path prefix; see `runtime.ops.datasets.buffering.MemoryCache` for the methods.

    Parameters
    ----------
    prefix : str
    signature : Signature
        Of the elements.
    files : FileAccess
    """

    def __init__(self, prefix: str, signature: Signature, files: FileAccess) -> None:
        for path in (prefix, index_path(prefix), data_path(prefix, 0, 1)):
            files.check(path)
        self.prefix = prefix
        self.signature = signature
        self._files = files

    def open(self) -> StoredElements | None:
        """Return the elements, None while there are no complete files."""
        if not os.path.exists(index_path(self.prefix)):
            return None
        return StoredElements(BundleReader(self.prefix, self._files.check), len(self.signature.types))

    def writer(self) -> CacheFileWriter:
        """Begin to write the elements.

        Raises
        ------
        AlreadyExists
            If somebody does so already.
        """
        return CacheFileWriter(self.prefix, self.signature)


class StoredElements(Sequence[Element]):
    """The elements of a complete cache, read from the files one by one."""

    def __init__(self, reader: BundleReader, components: int) -> None:
        self._reader = reader
        self._components = components
        self._length = len(reader.keys()) // components if components else 0

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> Element: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Element]: ...

    def __getitem__(self, place: int | slice) -> Element | Sequence[Element]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        count = self._components
        return tuple(self._reader.read(_key(place, number, count)) for number in range(count))

    def __iter__(self) -> Iterator[Element]:
        return (self[place] for place in range(len(self)))

    def close(self) -> None:
        """Close the files."""
        self._reader.close()


class CacheFileWriter:
    """Writes elements as they come; the files appear when the last is there."""

    def __init__(self, prefix: str, signature: Signature) -> None:
        self._prefix = prefix
        self._types = signature.types
        self._count = 0
        self._lock_path = f"{prefix}_0.lockfile"
        self._open = contextlib.ExitStack()
        self._lock()
        try:
            self._file = self._open.enter_context(replacing(data_path(prefix, 0, 1)))
            self._writer = BundleWriter(self._file)
        except BaseException:
            self._unlock()
            raise

    def _lock(self) -> None:
        with os_errors(self._lock_path):
            folder = os.path.dirname(self._lock_path)
            if folder and not os.path.isdir(folder):
                os.mkdir(folder)
            try:
                with open(self._lock_path, "x", encoding="ascii") as file:
                    file.write(f"Created at: {int(time.time())}")
            except FileExistsError:
                with open(self._lock_path, encoding="ascii", errors="replace") as file:
                    content = file.read(1000)
                raise AlreadyExists(
                    "There appears to be a concurrent caching iterator running - cache lockfile already exists ('"
                    f"{self._lock_path}'). If you are sure no other running TF computations are using this cache "
                    f"prefix, delete the lockfile and re-initialize the iterator. Lockfile contents: {content}"
                ) from None

    def _unlock(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._lock_path)

    def add(self, element: Element) -> None:
        """Write the next element."""
        with os_errors(self._prefix):
            for number, (kind, component) in enumerate(zip(self._types, element, strict=True)):
                self._writer.add(_key(self._count, number, len(element)), kind, component)
        self._count += 1

    def finish(self) -> None:
        """Let the files appear."""
        try:
            self._open.close()
            with replacing(index_path(self._prefix)) as file:
                file.write(self._writer.index())
        finally:
            self._unlock()

    def abandon(self) -> None:
        """Drop what was written."""
        with contextlib.suppress(_Abandoned), self._open:
            raise _Abandoned
        self._unlock()


class _Abandoned(Exception):
    """Tells `replacing` that the file is not wanted."""
