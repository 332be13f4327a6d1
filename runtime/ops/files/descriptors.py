"""Opening files, and only files: a pipe or a terminal could let its reader wait for ever."""

from __future__ import annotations

import os
import stat

from runtime._ext.errors import FailedPrecondition
from runtime.checkpoint.files import os_errors

__all__ = ["open_regular"]


def open_regular(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a file and return its descriptor.

    Raises
    ------
    FailedPrecondition
        If it is a directory, a pipe or a device.
    NotFound, PermissionDenied, ...
        As the system says.
    """
    with os_errors(path):
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise FailedPrecondition(f"{path}; {'Is a directory' if stat.S_ISDIR(mode) else 'Is not a regular file'}")
