"""How far many tasks are, shown to a person."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from runtime.errors import InvalidArgument

__all__ = ["Progress", "Teller", "progress_of"]

Progress = Callable[[int, int, int], object]
"""``progress(done, total, failed)``."""

_WIDTH = 30
# A terminal is written to at most so often; a file or a pipe at every tenth of the way.
_EVERY_S = 0.1


class Teller(Protocol):
    """What is told."""

    def __call__(self, done: int, total: int, failed: int) -> object: ...
    def close(self) -> None: ...


class _Silent:
    def __call__(self, done: int, total: int, failed: int) -> None:
        pass

    def close(self) -> None:
        pass


class _Function:
    def __init__(self, function: Progress) -> None:
        self._function = function

    def __call__(self, done: int, total: int, failed: int) -> object:
        return self._function(done, total, failed)

    def close(self) -> None:
        pass


class Bar:
    """A bar with counts, rate and the time that is left.

    Parameters
    ----------
    stream : file
        One line is written again and again on a terminal; elsewhere a line for every tenth.
    clock : callable
        Seconds, never going back.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._began = clock()
        self._shown_at = -1.0
        self._tenth = -1
        self._line = ""

    def __call__(self, done: int, total: int, failed: int) -> None:
        """Show how many are done."""
        now = self._clock()
        self._line = self._text(done, total, failed, now - self._began)
        if self._is_terminal:
            if now - self._shown_at >= _EVERY_S or done == total:
                self._shown_at = now
                self._stream.write(f"\r\x1b[K{self._line}")
                self._stream.flush()
            return
        tenth = done * 10 // total if total else 10
        if tenth != self._tenth:
            self._tenth = tenth
            self._stream.write(self._line + "\n")
            self._stream.flush()

    def close(self) -> None:
        """End the line."""
        if self._is_terminal and self._line:
            self._stream.write(f"\r\x1b[K{self._line}\n")
            self._stream.flush()

    @staticmethod
    def _text(done: int, total: int, failed: int, seconds: float) -> str:
        filled = _WIDTH * done // total if total else _WIDTH
        parts = [f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {done}/{total}"]
        if failed:
            parts.append(f"{failed} failed")
        if done and seconds > 0:
            parts.append(f"{done / seconds:.1f}/s")
            if done < total:
                parts.append(f"{(total - done) * seconds / done:.0f} s left")
            else:
                parts.append(f"{seconds:.1f} s")
        return "  ".join(parts)


def progress_of(given: bool | Progress) -> Teller:
    """Return what is told for the argument ``progress`` of `gather`.

    Raises
    ------
    InvalidArgument
        For anything but True, False and a callable.
    """
    if given is True:
        return Bar(sys.stderr)
    if given is False:
        return _Silent()
    if not callable(given):
        raise InvalidArgument(f"progress is {given!r}; it must be True, False or a function of (done, total, failed)")
    return _Function(given)
