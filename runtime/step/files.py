"""Which files graph ops may touch: a graph comes over the network, a file does not belong to its sender."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from runtime._ext.errors import PermissionDenied

__all__ = ["FileAccess"]


class FileAccess:
    """Confine the file-touching ops to some directories.

    Parameters
    ----------
    allow : iterable of path, or None
        Directories whose files may be read and written, subdirectories included; None for no limit, empty for none.
    """

    def __init__(self, allow: Iterable[str | os.PathLike[str]] | None) -> None:
        self.allow = None if allow is None else tuple(Path(os.path.realpath(path)) for path in allow)

    def check(self, path: str | bytes) -> str:
        """Return `path` as text when it may be touched; links are followed before the comparison.

        Raises
        ------
        PermissionDenied
            If it lies outside the allowed directories.
        """
        text = os.fsdecode(path)
        if self.allow is None:
            return text
        real = Path(os.path.realpath(text))
        if any(real == root or root in real.parents for root in self.allow):
            return text
        allowed = ", ".join(map(str, self.allow)) or "none"
        raise PermissionDenied(
            f"file '{text}' is outside the directories that graph ops may touch ({allowed}); "
            "allow its directory with the setting files_allow of the server"
        )
