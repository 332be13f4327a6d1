"""A line that shows how far a program has come: redrawn in a terminal, written now and then into a log."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TextIO

# Often enough to look alive; drawing costs nothing then.
REDRAW_S = 0.1
BARS = "▁▂▃▄▅▆▇█"


class Progress:
    """Progress of a number of equal parts.

    Parameters
    ----------
    total : int
    stream : file
        Colours and redrawing only if it is a terminal; ``NO_COLOR`` is respected.
    log_lines : int
        How many lines a log gets in all.
    """

    def __init__(self, total: int, stream: TextIO = sys.stdout, log_lines: int = 10) -> None:
        self.total = total
        self.stream = stream
        self.is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self.has_colour = self.is_terminal and not os.environ.get("NO_COLOR")
        self.is_unicode = "utf" in (stream.encoding or "").lower()
        self._log_every = max(1, total // log_lines)
        self._drawn_at = 0.0
        self._is_drawn = False

    def paint(self, text: str, code: str) -> str:
        """Return text in a colour, given as the number of an ANSI sequence."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.has_colour else text

    def show(self, done: int, text: str) -> None:
        """Show that so many parts are done.

        Parameters
        ----------
        text : str
            What else to say.
        """
        if not self.is_terminal:
            if done % self._log_every == 0 or done == self.total:
                width = len(str(self.total))
                self.stream.write(f"{done:{width}}/{self.total}  {text}\n")
                self.stream.flush()
            return
        now = time.monotonic()
        if now - self._drawn_at < REDRAW_S and done != self.total:
            return
        self._drawn_at = now
        columns = shutil.get_terminal_size().columns
        count = f"{done}/{self.total}"
        room = max(8, min(32, columns - len(text) - len(count) - 6))
        full = room * done // max(1, self.total)
        filled, empty = ("━", "─") if self.is_unicode else ("#", ".")
        bar = self.paint(filled * full, "32") + self.paint(empty * (room - full), "2")
        visible = text[: max(0, columns - room - len(count) - 5)]
        self.stream.write(f"\r\x1b[2K{bar} {self.paint(count, '1')}  {visible}")
        self.stream.flush()
        self._is_drawn = True

    def end(self) -> None:
        """Leave the line as it is and go to the next."""
        if self._is_drawn:
            self.stream.write("\n")
            self.stream.flush()
            self._is_drawn = False

    def sparkline(self, values: list[float], width: int = 40) -> str:
        """Return a row of bars for a series of numbers, empty where the stream has no such characters."""
        if not self.is_unicode or not values:
            return ""
        width = min(width, len(values))
        means = []
        for index in range(width):
            part = values[index * len(values) // width : (index + 1) * len(values) // width]
            means.append(sum(part) / len(part))
        low, high = min(means), max(means)
        span = (high - low) or 1.0
        return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)
