"""Device names: parse, merge, match.

A full name is ``/job:J/replica:R/task:T/device:TYPE:ID``; a specification is any part of one, the rest being open.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from runtime._ext.errors import InvalidArgument

__all__ = ["DeviceSpec", "parse"]

_T = TypeVar("_T", str, int)

_IDENTIFIER = r"[A-Za-z][A-Za-z0-9_]*"
_PART = re.compile(
    rf"/(?:job:(?P<job>\*|{_IDENTIFIER})|replica:(?P<replica>\*|\d{{1,9}})|task:(?P<task>\*|\d{{1,9}})"
    rf"|device:(?P<type>\*|{_IDENTIFIER})(?::(?P<id>\*|\d{{1,9}}))?"
    rf"|(?P<legacy>cpu|CPU|gpu|GPU):(?P<legacy_id>\*|\d{{1,9}}))",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """Part of a device name; None stands for what is left open."""

    job: str | None = None
    replica: int | None = None
    task: int | None = None
    device_type: str | None = None
    device_id: int | None = None

    def __str__(self) -> str:
        """Return the name; a device without its id ends in ``:*``."""
        text = ""
        if self.job is not None:
            text += f"/job:{self.job}"
        if self.replica is not None:
            text += f"/replica:{self.replica}"
        if self.task is not None:
            text += f"/task:{self.task}"
        if self.device_type is not None:
            text += f"/device:{self.device_type}:{'*' if self.device_id is None else self.device_id}"
        return text

    @property
    def is_full(self) -> bool:
        """Tell whether nothing is left open."""
        return None not in (self.job, self.replica, self.task, self.device_type, self.device_id)

    @property
    def task_name(self) -> str:
        """Return the name of the task alone, ``/job:J/replica:R/task:T``."""
        return str(DeviceSpec(self.job, self.replica, self.task))

    def matches(self, full: DeviceSpec) -> bool:
        """Tell whether a device fits: every field set here is equal there."""
        return (
            self.job in (None, full.job)
            and self.replica in (None, full.replica)
            and self.task in (None, full.task)
            and self.device_type in (None, full.device_type)
            and self.device_id in (None, full.device_id)
        )

    def intersects(self, other: DeviceSpec) -> bool:
        """Tell whether some device could fit both: every field set in both is equal."""
        return all(
            mine is None or theirs is None or mine == theirs
            for mine, theirs in (
                (self.job, other.job),
                (self.replica, other.replica),
                (self.task, other.task),
                (self.device_type, other.device_type),
                (self.device_id, other.device_id),
            )
        )

    def without_device(self) -> DeviceSpec:
        """Return the specification of the task alone."""
        return DeviceSpec(self.job, self.replica, self.task)

    def merge(self, other: DeviceSpec, *, soft: bool = False) -> DeviceSpec:
        """Return what fits both.

        Parameters
        ----------
        other : DeviceSpec
        soft : bool
            Whether a conflict of device types, or ids, opens these fields instead of being an error.

        Raises
        ------
        InvalidArgument
            If they conflict.
        """
        job = _merge_field("jobs", self.job, other.job, self, other)
        replica = _merge_field("replicas", self.replica, other.replica, self, other)
        task = _merge_field("tasks", self.task, other.task, self, other)
        types = (self.device_type, other.device_type)
        ids = (self.device_id, other.device_id)
        if soft and None not in types and types[0] != types[1]:
            return DeviceSpec(job, replica, task)
        device_type = _merge_field("types", *types, self, other)
        if soft and None not in ids and ids[0] != ids[1]:
            return DeviceSpec(job, replica, task, device_type)
        return DeviceSpec(job, replica, task, device_type, _merge_field("ids", *ids, self, other))


def _merge_field(what: str, first: _T | None, second: _T | None, one: DeviceSpec, other: DeviceSpec) -> _T | None:
    if first is None or second is None:
        return second if first is None else first
    if first != second:
        raise InvalidArgument(f"Cannot merge devices with incompatible {what}: '{one}' and '{other}'")
    return first


@lru_cache(maxsize=4096)
def parse(text: str) -> DeviceSpec | None:
    """Return what a device name specifies, or None when it is not one.

    The parts may come in any order; a later one overrides an earlier. ``*`` leaves a part open, ``/`` and the empty
    text leave all open, ``/cpu:0`` and ``/gpu:0`` are short for ``/device:CPU:0`` and ``/device:GPU:0``.

    Examples
    --------
    >>> str(parse("/job:w/task:3/cpu:1"))
    '/job:w/task:3/device:CPU:1'
    >>> parse("hello") is None
    True
    """
    if text in ("", "/"):
        return DeviceSpec()
    job: str | None = None
    device_type: str | None = None
    numbers: dict[str, int | None] = {}
    position = 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None or (match.end() < len(text) and text[match.end()] != "/"):
            return None
        position = match.end()
        key = match.lastgroup
        if match["job"] is not None:
            job = None if match["job"] == "*" else match["job"]
        elif match["type"] is not None:
            device_type = None if match["type"] == "*" else match["type"]
            numbers["id"] = _number(match["id"])
        elif match["legacy"] is not None:
            device_type = match["legacy"].upper()
            numbers["id"] = _number(match["legacy_id"])
        elif key is not None:
            numbers[key] = _number(match[key])
    return DeviceSpec(job, numbers.get("replica"), numbers.get("task"), device_type, numbers.get("id"))


def _number(text: str | None) -> int | None:
    return None if text in (None, "*") else int(text)
