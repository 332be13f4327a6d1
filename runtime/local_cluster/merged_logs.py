"""The logs of several tasks as one stream, every line with its task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

__all__ = ["MergedLogs"]

# Of one file at a time, so that a flood from one task does not keep the others away.
_PIECE_BYTES = 256 << 10
# A line without end is cut here.
_LINE_BYTES = 64 << 10


class MergedLogs:
    """Files that grow, copied to a stream line by line.

    Parameters
    ----------
    paths : mapping of str to Path
        By the prefix of their lines. What is in a file now is not copied; one that is not there yet is copied whole.
    stream : text file
    """

    def __init__(self, paths: Mapping[str, Path], stream: TextIO) -> None:
        self._stream = stream
        self._width = max(map(len, paths), default=0)
        self._paths = dict(paths)
        self._offsets = {name: _length(path) for name, path in paths.items()}
        self._rests = dict.fromkeys(paths, b"")

    def copy(self) -> bool:
        """Copy what has come since the last time, up to a bound; tell whether there may be more."""
        more = False
        for name, path in self._paths.items():
            try:
                with open(path, "rb") as file:
                    file.seek(self._offsets[name])
                    piece = file.read(_PIECE_BYTES)
            except FileNotFoundError:
                continue
            self._offsets[name] += len(piece)
            more = more or len(piece) == _PIECE_BYTES
            *lines, rest = (self._rests[name] + piece).split(b"\n")
            if len(rest) > _LINE_BYTES:
                lines.append(rest)
                rest = b""
            self._rests[name] = rest
            self._write(name, lines)
        return more

    def finish(self) -> None:
        """Copy all that is left, lines without end included."""
        while self.copy():
            pass
        for name, rest in self._rests.items():
            if rest:
                self._write(name, [rest])
                self._rests[name] = b""

    def _write(self, name: str, lines: list[bytes]) -> None:
        for line in lines:
            self._stream.write(f"{name:<{self._width}} | {line.decode('utf-8', 'replace')}\n")
        if lines:
            self._stream.flush()


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
