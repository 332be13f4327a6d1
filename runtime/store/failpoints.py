"""Named places at which a test can make a write fail, stop the process, or take long.

Code that writes calls ``hit("store.commit.before")`` where something could go wrong. As long as no failpoint is set
that is one look at a global. Failpoints are set by a test (`set_failpoint`), or for a whole process by the environment
variable ``TENSOR_RUNTIME_FAILPOINTS``: actions separated by semicolons, ``NAME=ACTION[@N]``, where the Nth hit (the
first unless given) triggers the action:

- ``crash``: the process ends at once, as by ``kill -9``;
- ``raise:ENOSPC``: an :class:`OSError` with that number, once;
- ``fail:ENOSPC``: the same, at this hit and all that follow;
- ``delay:0.5``: the thread waits for so many seconds, at this hit and all that follow.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable

__all__ = ["ENVIRONMENT", "NAMES", "clear", "hit", "load", "set_failpoint"]

ENVIRONMENT = "TENSOR_RUNTIME_FAILPOINTS"

NAMES: dict[str, str] = {
    "store.begin": "before a group of writes begins",
    "store.write": "after one write of a group has run, before the next",
    "store.commit.before": "when all writes of a group have run, before it is committed",
    "store.commit.after": "when a group is on disk, before anybody is told",
    "store.tail.append": "before a group that is small is appended to the log beside the tables",
    "store.tail.settle": "when what was in the log alone is in the tables, before that is committed",
    "store.replay": "when what a crash had left in the log is in the tables, before that is committed",
    "store.migrate": "after a migration has run, before it is committed",
    "objects.write": "before a piece of an object is written",
    "objects.sync": "before an object's file is synced",
    "objects.rename": "before an object's file gets its name",
    "objects.sync_folder": "before the folder of an object is synced",
    "objects.remove": "before an object's file is removed",
    "objects.arena.grow": "before the file of medium values grows",
    "objects.arena.write": "before a medium value is written to its place",
    "objects.arena.sync": "before the file of medium values is synced",
    "logs.write": "before a piece of a command's output is written",
    "logs.sync": "before the file of a command's output is synced",
    "agent.prepared": "in an agent, when a command is written down and nobody was told",
    "agent.accepted": "in an agent, when the server knows that it takes a command",
    "agent.started": "in an agent, when a command's supervisor was started",
    "agent.sent": "in an agent, when the server has a command's whole output",
    "agent.reported": "in an agent, when the server knows how a command has ended",
}
"""Every failpoint there is, and where it lies."""

_active: dict[str, Callable[[], None]] | None = None


def hit(name: str) -> None:
    """Do what is set for this place; nothing as a rule."""
    if _active is not None:
        action = _active.get(name)
        if action is not None:
            action()


def set_failpoint(name: str, action: Callable[[], None] | str) -> None:
    """Set what happens at a place.

    Parameters
    ----------
    name : str
        One of :data:`NAMES`.
    action : callable or str
        Called at every hit, or ``ACTION[@N]`` as in the environment.

    Raises
    ------
    ValueError
        For a name or an action that does not exist.
    """
    global _active
    if name not in NAMES:
        raise ValueError(f"no failpoint is called {name!r}; there are {', '.join(NAMES)}")
    active = dict(_active or {})
    active[name] = _parse(action) if isinstance(action, str) else action
    _active = active


def clear() -> None:
    """Forget every failpoint."""
    global _active
    _active = None


def load(text: str | None = None) -> None:
    """Set the failpoints of a text, or of the environment.

    Raises
    ------
    ValueError
        If it is not of the form ``NAME=ACTION[@N];...``.
    """
    text = os.environ.get(ENVIRONMENT, "") if text is None else text
    for item in filter(None, (part.strip() for part in text.split(";"))):
        name, separator, action = item.partition("=")
        if not separator:
            raise ValueError(f"failpoint {item!r} is not of the form NAME=ACTION[@N]")
        set_failpoint(name, action)


class _Counted:
    """Passes so many hits by before it acts; then once, or always."""

    def __init__(self, act: Callable[[], None], skip: int, always: bool) -> None:
        self._act = act
        self._left = skip
        self._always = always
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            due = self._left == 0 or (self._left < 0 and self._always)
            self._left -= self._left >= 0
        if due:
            self._act()


def _parse(text: str) -> Callable[[], None]:
    action, _, number = text.partition("@")
    kind, _, argument = action.partition(":")
    skip = int(number or 1) - 1
    if skip < 0:
        raise ValueError(f"failpoint action {text!r}: hits are counted from 1")
    if kind == "crash" and not argument:
        return _Counted(_crash, skip, always=False)
    if kind in ("raise", "fail"):
        code = getattr(errno, argument, None)
        if code is None:
            raise ValueError(f"failpoint action {text!r}: no error is called {argument!r}")
        return _Counted(lambda: _raise(code), skip, always=kind == "fail")
    if kind == "delay":
        seconds = float(argument)
        return _Counted(lambda: time.sleep(seconds), skip, always=True)
    raise ValueError(f"failpoint action {text!r} is none of crash, raise:ERROR, fail:ERROR, delay:SECONDS")


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(code: int) -> None:
    raise OSError(code, os.strerror(code))
