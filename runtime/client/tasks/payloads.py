"""What a program hands in as a payload, as the bytes of a task, and results back."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from runtime.errors import InvalidArgument, NotFound

__all__ = ["Payload", "decoded"]


class Payload:
    """A payload that can be sent more than once.

    Parameters
    ----------
    given : bytes-like, os.PathLike, or arrays
        A path stands for the file's content, which is read in chunks and never as a whole.
    arrays : bool
        Whether anything else is taken for an array or a mapping of names to arrays.

    Attributes
    ----------
    size : int
        Bytes.

    Raises
    ------
    InvalidArgument
        For anything else.
    NotFound
        If there is no such file.
    """

    def __init__(self, given: Any, arrays: bool) -> None:
        self._path: Path | None = None
        self._data: bytes | memoryview = b""
        if type(given) is bytes:
            self._data = given
            self.size = len(given)
            return
        if isinstance(given, os.PathLike):
            self._path = Path(given)
            try:
                status = self._path.stat()
            except OSError as error:
                raise NotFound(f"payload: {self._path} cannot be read: {error.strerror}") from error
            if not stat.S_ISREG(status.st_mode):
                raise InvalidArgument(f"payload: {self._path} is no file that can be read twice")
            self.size = status.st_size
            return
        if isinstance(given, (bytes, bytearray, memoryview)):
            self._data = memoryview(given).cast("B") if memoryview(given).contiguous else memoryview(bytes(given))
        elif arrays:
            from runtime.tasks.arrays import encode_arrays

            self._data = memoryview(encode_arrays(given))
        else:
            raise InvalidArgument(
                f"payload: bytes or a path are needed, not {type(given).__name__}; TaskClient(..., arrays=True) takes "
                "arrays, too"
            )
        self.size = len(self._data)

    @property
    def is_at_hand(self) -> bool:
        """Whether the bytes are in memory already."""
        return self._path is None

    def tobytes(self) -> bytes:
        """Return the bytes of one that is at hand."""
        return bytes(self._data)

    @property
    def content(self) -> bytes | memoryview:
        """The bytes of one that is at hand, where they lie."""
        return self._data

    async def chunks(self, nbytes: int) -> AsyncIterator[bytes]:
        """Yield it in pieces of at most ``nbytes``."""
        if self._path is None:
            for start in range(0, self.size, nbytes):
                yield bytes(self._data[start : start + nbytes])
            return
        with open(self._path, "rb") as file:
            while piece := await asyncio.to_thread(file.read, nbytes):
                yield piece


def decoded(data: bytes, arrays: bool, key: str) -> Any:
    """Return a result as its reader wants it: bytes, named arrays, or the one array that has no name.

    Raises
    ------
    InvalidArgument
        Arrays are wanted, and it is none; names the result.
    """
    if not arrays:
        return data
    from runtime.tasks.arrays import SINGLE, decode_arrays

    try:
        found = decode_arrays(data)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"result {key!r}: {error.message}; a TaskClient without arrays=True returns results as bytes"
        ) from error
    return found[SINGLE] if list(found) == [SINGLE] else found
