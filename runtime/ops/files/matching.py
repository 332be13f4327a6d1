"""Names of files by a pattern with ``*``, ``?``, ``[...]`` and backslashes, as the C library matches names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

from runtime._ext.errors import InvalidArgument, PermissionDenied

__all__ = ["matching_files"]

_MAGIC = re.compile(r"[*?\[\\]")
_MAX_STARS = 32  # in one name: every star multiplies what a regular expression may try


def matching_files(pattern: str, allowed: Callable[[str], str]) -> list[str]:
    """Return the files and folders whose names match; a wildcard stays within one name.

    Parameters
    ----------
    allowed : callable
        Raises PermissionDenied for a path that may not be touched.

    Raises
    ------
    PermissionDenied
        If the folder where the pattern begins may not be looked into.
    """
    if not pattern:
        return []
    parts = pattern.split("/")
    first = next((place for place, part in enumerate(parts) if _MAGIC.search(part)), len(parts))
    if first == 0 or (first == 1 and len(parts) == 1):
        parts.insert(0, ".")
        first += 1
    base = "/".join(parts[:first])
    if first == len(parts):
        allowed(base)
        return [base] if os.path.lexists(base) else []
    base = base or "/"
    allowed(base)
    found = [base]
    for part in parts[first:]:
        found = list(_step(found, part, allowed))
    return sorted(found)


def _step(folders: Iterable[str], part: str, allowed: Callable[[str], str]) -> Iterable[str]:
    """Return the entries of folders that one part of a pattern names."""
    matches = _matcher(part)
    for folder in folders:
        try:
            allowed(folder)
            names = os.listdir(folder)
        except (OSError, PermissionDenied):  # a file, or a link that leads away
            continue
        prefix = folder if folder.endswith("/") else f"{folder}/"
        yield from (prefix + name for name in names if matches(name))


def _matcher(part: str) -> Callable[[str], object]:
    if part.count("*") > _MAX_STARS:
        raise InvalidArgument(f"the pattern '{part}' has {part.count('*')} stars; at most {_MAX_STARS} are taken")
    return re.compile(_expression(part), re.DOTALL).fullmatch


def _expression(part: str) -> str:
    """Return the regular expression of one part of a pattern."""
    out: list[str] = []
    place = 0
    while place < len(part):
        char = part[place]
        place += 1
        if char == "*":
            if out[-1:] != [".*"]:
                out.append(".*")
        elif char == "?":
            out.append(".")
        elif char == "\\" and place < len(part):
            out.append(re.escape(part[place]))
            place += 1
        elif char == "[":
            end = _end_of_set(part, place)
            if end < 0:
                out.append(r"\[")
            else:
                out.append(_set(part[place:end]))
                place = end + 1
        else:
            out.append(re.escape(char))
    return "".join(out)


def _end_of_set(part: str, start: int) -> int:
    """Return the place of the bracket that closes a set, -1 when there is none."""
    place = start
    if part[place:place + 1] in ("!", "^"):
        place += 1
    if part[place:place + 1] == "]":  # the first one is a member
        place += 1
    while place < len(part) and part[place] != "]":
        place += 2 if part[place] == "\\" else 1
    return place if place < len(part) else -1


def _set(members: str) -> str:
    negated = members[0] in "!^"
    content = re.sub(r"\\?(.)", lambda found: found[0] if found[0] == "-" else re.escape(found[1]),
                     members[negated:], flags=re.DOTALL)
    try:
        re.compile(f"[{content}]")
    except re.error:  # a range that runs backwards has no members
        return "(?!)"
    return f"[{'^' if negated else ''}{content}]"
