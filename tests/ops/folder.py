"""A folder for files that cases read: both sides see it, and it goes with the process."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

__all__ = ["case_file", "case_folder"]


@functools.cache
def case_folder() -> Path:
    """Return the folder."""
    folder = Path(tempfile.mkdtemp(prefix="op-cases-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def case_file(name: str, content: bytes) -> bytes:
    """Write a file and return its path."""
    path = case_folder() / name
    path.write_bytes(content)
    return str(path).encode()
