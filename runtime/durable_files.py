"""Small files that are changed as a whole: after a crash the old content is there, or the new one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["exclusive", "replace"]


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put ``data`` in the place of a file's content, in one step and on disk before the return.

    Parameters
    ----------
    path : Path
    data : bytes
    mode : int
        Of the new file, from its first moment on.

    Raises
    ------
    OSError
        If it cannot be written; the file is as it was.
    """
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep every other process that asks the same from changing a file for as long as the context lasts.

    The lock is a file of its own beside it, since the file itself is replaced.

    Raises
    ------
    OSError
        If the lock cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
