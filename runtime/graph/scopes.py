"""Where a new operation stands: its name, its device, and what must run before it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument

if TYPE_CHECKING:
    from runtime.graph.tensor import Operation

__all__ = ["NameTable", "ScopeStack"]

_OP_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*\Z")
_SCOPE_PART = re.compile(r"[A-Za-z0-9_.\\/>-]*\Z")


class NameTable:
    """The names that are taken in one graph.

    Names that differ only in case count as one, so that graphs can be stored on any file system; the rule and the
    ``_1``, ``_2`` endings are TensorFlow's.
    """

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """Return the name, or with the next free ``_N`` ending if it is taken, and take it."""
        key = name.lower()
        count = self._used.get(key, 0)
        self._used[key] = count + 1
        if count == 0:
            return name
        candidate = key
        while candidate in self._used:
            candidate = f"{key}_{count}"
            count += 1
        self._used[candidate] = 1
        self._used[key] = count
        return f"{name}_{count - 1}"

    def take(self, name: str) -> None:
        """Take a name as it is."""
        self._used.setdefault(name.lower(), 1)


class ScopeStack(threading.local):
    """Scopes that are open in this thread: each thread builds under its own.

    Attributes
    ----------
    prefix : str
        Open name scopes, each followed by ``/``.
    devices : list of str
        Requested devices, outermost first.
    controls : list of (Operation, ...)
        Open control dependencies, outermost first.
    colocation : list of Operation
    """

    def __init__(self) -> None:
        self.prefix = ""
        self.devices: list[str] = []
        self.controls: list[tuple[Operation, ...]] = []
        self.colocation: list[Operation] = []

    @contextmanager
    def named(self, prefix: str) -> Iterator[str]:
        """Open a name scope given by its full prefix."""
        outer, self.prefix = self.prefix, prefix
        try:
            yield prefix
        finally:
            self.prefix = outer

    @contextmanager
    def pushed(self, stack: list[Any], value: Any) -> Iterator[None]:
        """Push a value for the duration of a with block."""
        stack.append(value)
        try:
            yield
        finally:
            stack.pop()

    @contextmanager
    def cleared_controls(self) -> Iterator[None]:
        """Hide the control dependencies that are open."""
        outer, self.controls = self.controls, []
        try:
            yield
        finally:
            self.controls = outer


def check_op_name(name: str) -> None:
    """Check a node name.

    Raises
    ------
    InvalidArgument
        If a server would refuse it.
    """
    if not _OP_NAME.match(name):
        raise InvalidArgument(f"'{name}' is not a node name: it begins with a letter, a digit or '.', and goes on with "
                              "letters, digits and _ . \\ / > -")


def check_scope_name(name: str, is_outermost: bool) -> None:
    """Check a part of a name; only inner scopes may begin with ``_``.

    Raises
    ------
    InvalidArgument
        If node names under it would be refused.
    """
    if not (_OP_NAME if is_outermost else _SCOPE_PART).match(name):
        raise InvalidArgument(f"'{name}' is not a scope name: letters, digits and _ . \\ / > - only"
                              + (", beginning with a letter, a digit or '.'" if is_outermost else ""))
