"""Resources: files that an operator has put into a folder, which tasks of every session may ask for by key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from runtime.errors import NotFound, Unavailable

__all__ = ["FOLDER", "Resources"]

FOLDER = "resources"
"""The folder in a data directory."""

_PIECE_BYTES = 1 << 20


class Resources:
    """The resources of a server.

    Parameters
    ----------
    folder : Path
        A resource is the file in it that is named by its key, with every character but letters, digits and ``_.-~``
        written as in a URL: ``a/b`` is the file ``a%2Fb``. It need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def read(self, key: str, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Return the pieces of a resource, one without bytes if it is empty.

        Raises
        ------
        NotFound
            There is none of that key.
        Unavailable
            It cannot be read.
        """
        loop = asyncio.get_running_loop()
        file = await loop.run_in_executor(None, self._open, key)
        try:
            is_first = True
            while True:
                try:
                    data = await loop.run_in_executor(None, os.read, file, max(chunk_bytes, _PIECE_BYTES))
                except OSError as error:
                    raise Unavailable(f"resource {key!r} cannot be read: {error.strerror}") from error
                if not data and not is_first:
                    return
                for start in range(0, len(data) or 1, chunk_bytes):
                    yield data[start : start + chunk_bytes]
                is_first = False
                if not data:
                    return
        finally:
            os.close(file)

    def _open(self, key: str) -> int:
        name = quote(key, safe="")
        if name in ("", ".", ".."):
            raise NotFound("Key not found")
        try:
            file = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            raise NotFound("Key not found") from None
        if not os.path.isfile(f"/proc/self/fd/{file}"):
            os.close(file)
            raise NotFound("Key not found")
        return file
