"""Input that lies in a file of the agent's machine, read from there when it is needed."""

from __future__ import annotations

import hmac
import os

from runtime import wire
from runtime._ext.crc32c import crc32c
from runtime.errors import DataLoss
from runtime.objects.head import open_values
from runtime.transport.place import here

__all__ = ["Places"]

# More than any value has that is told by its place.
_MOST_BYTES = 64 << 20


class Places:
    """The file, opened. From any thread; closed with the last reference, so that no thread reads another file by it."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __del__(self) -> None:
        os.close(self._file)

    @classmethod
    def open(cls, told: wire.runtime_v1.PlacesFile) -> Places | None:
        """Return the file that an agent tells of; None where there is another one, or none that can be read."""
        if not told.boot_id or told.boot_id != here().boot_id:
            return None
        opened = open_values(told.path, told.device, told.number, os.O_RDONLY)
        if opened is None:
            return None
        file, proof = opened
        found = cls(file)
        # An agent that cannot read the file itself is not to read it by its tasks.
        return found if hmac.compare_digest(proof, told.proof) else None

    def read(self, place: wire.runtime_v1.PlacedBytes) -> bytes:
        """Return the bytes at a place.

        Raises
        ------
        DataLoss
            They are not there, or others by now.
        """
        if place.size > _MOST_BYTES:
            raise DataLoss(f"{place.size} bytes at {place.offset}: at most {_MOST_BYTES} lie in one place")
        try:
            if place.offset + place.size > os.fstat(self._file).st_size:
                raise DataLoss(f"{place.size} bytes at {place.offset} are not there: the file ends before")
            data = os.pread(self._file, place.size, place.offset)
        except OSError as error:
            raise DataLoss(f"{place.size} bytes at {place.offset} cannot be read: {error}") from error
        if len(data) != place.size or crc32c(data) != place.crc32c:
            raise DataLoss(f"{place.size} bytes at {place.offset} are not those that were written")
        return data
