"""File names of checkpoints, and the errors of the file system in TensorFlow's words."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from typing import BinaryIO

from runtime._ext.errors import (
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unknown,
)

__all__ = ["data_path", "index_path", "os_errors", "replacing"]


def data_path(prefix: str, shard: int, shards: int) -> str:
    """Return the name of a data file."""
    return f"{prefix}.data-{shard:05d}-of-{shards:05d}"


def index_path(prefix: str) -> str:
    """Return the name of the table of entries."""
    return f"{prefix}.index"


@contextlib.contextmanager
def os_errors(path: str) -> Iterator[None]:
    """Turn an `OSError` in the block into the project's error for it."""
    try:
        yield
    except OSError as error:
        text = f"{path}; {error.strerror or error}"
        if isinstance(error, FileNotFoundError):
            raise NotFound(text) from error
        if isinstance(error, FileExistsError):
            raise AlreadyExists(text) from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise PermissionDenied(text) from error
        if isinstance(error, (IsADirectoryError, NotADirectoryError)):
            raise FailedPrecondition(text) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
            raise ResourceExhausted(text) from error
        raise Unknown(text) from error


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """Write a file under another name; it takes the place of `path` when the block ends well, and goes otherwise.

    A directory that is missing is made, one level deep.
    """
    folder = os.path.dirname(path)
    temporary = f"{path}.tempstate{secrets.randbits(64)}"
    with os_errors(folder):
        if folder and not os.path.isdir(folder):
            os.mkdir(folder)
    with os_errors(path):
        try:
            with open(temporary, "wb") as file:
                yield file
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
