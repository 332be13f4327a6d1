"""The uuid of a machine, in the forms in which it may arrive."""

from __future__ import annotations

import re
import uuid

__all__ = ["machine_id", "machine_id_of_text"]

_HYPHENATED = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_PLAIN = re.compile(r"[0-9A-Fa-f]{32}")
_EXPECTED = "expected 16 bytes, 32 hex digits, or 36 characters with hyphens, neither nil nor all ones"


def machine_id(value: bytes) -> str:
    """Return the canonical text, lower case with hyphens, of a uuid.

    Parameters
    ----------
    value : bytes
        16 raw bytes, always taken as such; or ASCII, 32 hex digits or 36 characters with hyphens, any case.

    Raises
    ------
    ValueError
        For anything else, nil and all ones included.
    """
    if len(value) == 16:
        return _checked(uuid.UUID(bytes=value))
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        raise ValueError(f"uuid of {len(value)} bytes is not valid; {_EXPECTED}") from None
    return machine_id_of_text(text)


def machine_id_of_text(text: str) -> str:
    """Return the canonical text of a uuid of 32 or 36 characters.

    Raises
    ------
    ValueError
        If it is none, or nil or all ones.
    """
    # re's digits are what the class says; uuid.UUID itself would take braces, "urn:" and misplaced hyphens.
    if not (_HYPHENATED.fullmatch(text) or _PLAIN.fullmatch(text)):
        raise ValueError(f"uuid {text[:80]!r} is not valid; {_EXPECTED}")
    return _checked(uuid.UUID(text))


def _checked(value: uuid.UUID) -> str:
    if value.int in (0, (1 << 128) - 1):
        raise ValueError(f"uuid {value} is not valid; {_EXPECTED}")
    return str(value)
