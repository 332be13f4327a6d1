"""Names as graphs and steps spell them: nodes, tensors (``x``, ``x:1``) and control inputs (``^x``)."""

from __future__ import annotations

import re

__all__ = ["CONTROL_SLOT", "EXTERNAL_NODE", "INTERNAL_NODE", "control_input", "data_input", "split_tensor"]

CONTROL_SLOT = -1
"""The slot of a control input."""

_TAIL = r"[A-Za-z0-9_.\\/>-]*"
_SLOT = r"(?::(?:0|[1-9][0-9]*))?"
EXTERNAL_NODE = re.compile(rf"[A-Za-z0-9.]{_TAIL}\Z").match
"""Match a node name that a client may use."""
INTERNAL_NODE = re.compile(rf"[A-Za-z0-9._]{_TAIL}\Z").match
"""Match a node name that a runtime may use: these may begin with an underscore."""
_EXTERNAL_DATA = re.compile(rf"[A-Za-z0-9.]{_TAIL}{_SLOT}\Z").match
_INTERNAL_DATA = re.compile(rf"[A-Za-z0-9._]{_TAIL}{_SLOT}\Z").match
_EXTERNAL_CONTROL = re.compile(rf"\^[A-Za-z0-9.]{_TAIL}\Z").match
_INTERNAL_CONTROL = re.compile(rf"\^[A-Za-z0-9._]{_TAIL}\Z").match


def data_input(text: str, *, internal: bool) -> bool:
    """Tell whether `text` is a well-formed data input of a node: ``name`` or ``name:slot``."""
    return (_INTERNAL_DATA if internal else _EXTERNAL_DATA)(text) is not None


def control_input(text: str, *, internal: bool) -> bool:
    """Tell whether `text` is a well-formed control input of a node: ``^name``."""
    return (_INTERNAL_CONTROL if internal else _EXTERNAL_CONTROL)(text) is not None


def split_tensor(text: str) -> tuple[str, int]:
    """Return node name and output slot of a tensor name; ``^name`` has the slot `CONTROL_SLOT`.

    Anything that does not end in ``:digits`` is a node name with slot 0, however odd: looking it up then fails.

    Examples
    --------
    >>> split_tensor("x"), split_tensor("scope/x:2"), split_tensor("^x")
    (('x', 0), ('scope/x', 2), ('x', -1))
    """
    if text.startswith("^"):
        return text[1:], CONTROL_SLOT
    name, colon, digits = text.rpartition(":")
    if colon and digits.isascii() and digits.isdigit() and len(digits) <= 9:
        return name, int(digits)
    return text, 0
