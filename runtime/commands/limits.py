"""What a command asks to be held to: a line at its begin, which a shell takes for a comment.

The protocol has no field for limits, and a command is stored and run as it was sent. So they stand in the command::

    # tensor-runtime: time=60 memory=512MiB processes=64 output=10MiB files=1000
    ./simulate --steps 1000

Workers that know nothing of it run the command all the same. Several such lines may follow each other; what comes after
the first other line is the command's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from runtime.config import parse_size
from runtime.errors import InvalidArgument

__all__ = ["PREFIX", "CommandLimits"]

PREFIX = "# tensor-runtime:"
_MAX_COUNT = 1 << 31


@dataclass(frozen=True, slots=True)
class CommandLimits:
    """What a command may use; 0: as much as there is.

    Attributes
    ----------
    time_s : float
        Seconds from its start.
    memory, output : int
        Bytes: of all its processes together; of what is kept of its output.
    processes, files : int
        Processes at once; open files of each process.
    """

    time_s: float = 0.0
    memory: int = 0
    processes: int = 0
    output: int = 0
    files: int = 0

    def line(self) -> str:
        """Return the line that asks for these limits, with its line break; empty when there are none."""
        values = {_KEYS[one.name]: getattr(self, one.name) for one in fields(self)}
        words = [f"{name}={int(value) if value % 1 == 0 else value}" for name, value in values.items() if value]
        return f"{PREFIX} {' '.join(words)}\n" if words else ""

    def within(self, most: CommandLimits) -> CommandLimits:
        """Return these limits, each no larger than what ``most`` allows."""
        both: dict[str, Any] = {
            one.name: _least(getattr(self, one.name), getattr(most, one.name)) for one in fields(self)
        }
        return CommandLimits(**both)

    @classmethod
    def of_command(cls, text: str) -> CommandLimits:
        """Return what a command asks for.

        Raises
        ------
        InvalidArgument
            For a word that is not ``NAME=VALUE``, a name that does not exist or comes twice, or a value that it cannot
            have.
        """
        words: dict[str, str] = {}
        for line in text.split("\n"):
            if not line.startswith(PREFIX):
                break
            for word in line[len(PREFIX) :].split():
                name, separator, value = word.partition("=")
                if not separator or name not in _PARSERS:
                    raise InvalidArgument(
                        f"command: {PREFIX!r} is followed by {word[:80]!r}; it takes "
                        + ", ".join(f"{name}=VALUE" for name in _PARSERS)
                    )
                if name in words:
                    raise InvalidArgument(
                        f"command: the limit {name} is given twice, {words[name][:80]!r} and {value[:80]!r}"
                    )
                words[name] = value
        return cls.of_words(words)

    @classmethod
    def of_words(cls, words: dict[str, str], where: str = "command: the limit ") -> CommandLimits:
        """Return the limits that texts by name stand for (``time``, ``memory``, ``processes``, ``output``, ``files``).

        Raises
        ------
        InvalidArgument
            For a value that a limit cannot have; ``where`` and the name begin what it says.
        """
        values: dict[str, Any] = {}
        for name, text in words.items():
            try:
                values[_FIELDS[name]] = _PARSERS[name](text)
            except (ValueError, OverflowError) as error:
                raise InvalidArgument(f"{where}{name}: {text[:80]!r}: {error}") from None
        return cls(**values)


def _least(one: float, other: float) -> float:
    return min(one, other) if one and other else one or other


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError("expected a positive number of seconds")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12 and 0 < int(text) < _MAX_COUNT):
        raise ValueError("expected a whole number from 1")
    return int(text)


_PARSERS: dict[str, Callable[[str], float]] = {
    "time": _seconds, "memory": parse_size, "processes": _count, "output": parse_size, "files": _count,
}
_FIELDS = {"time": "time_s", **{name: name for name in _PARSERS if name != "time"}}
_KEYS = {field: name for name, field in _FIELDS.items()}
