"""Whole files."""

from __future__ import annotations

import contextlib
import os

from runtime._ext.errors import ResourceExhausted
from runtime.checkpoint.files import os_errors
from runtime.ops.files.descriptors import open_regular
from runtime.ops.files.records import MAX_RECORD_BYTES

__all__ = ["read_file", "write_file"]

_PIECE_BYTES = 4 << 20


def read_file(path: str) -> bytes:
    """Return the content of a file.

    Parameters
    ----------
    path : str
        Already confined.

    Raises
    ------
    ResourceExhausted
        If it is longer than a tensor's element may be.
    """
    with os.fdopen(open_regular(path), "rb") as file, os_errors(path):
        size = os.fstat(file.fileno()).st_size
        if size <= MAX_RECORD_BYTES:
            pieces = []
            total = 0
            while piece := file.read(_PIECE_BYTES):  # it may grow meanwhile, or tell no size at all
                pieces.append(piece)
                total += len(piece)
                if total > MAX_RECORD_BYTES:
                    break
            else:
                return b"".join(pieces)
            size = total
    raise ResourceExhausted(f"{path} has {size} bytes; at most {MAX_RECORD_BYTES} are read")


def write_file(path: str, content: bytes) -> None:
    """Write a file anew; folders that are missing are made."""
    folder = os.path.dirname(path)
    if folder:
        with os_errors(folder), contextlib.suppress(FileExistsError, NotADirectoryError):  # opening says it better
            os.makedirs(folder, exist_ok=True)
    with os.fdopen(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file, os_errors(path):
        file.write(content)
