"""A device: its name, its identity, its array namespace and the resources that live on it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.devices.resources import ResourceManager

__all__ = ["Device", "cpu_device", "signed"]

_CPU_MEMORY_LIMIT_BYTES = 268435456  # what TensorFlow reports for its CPU


@dataclass(slots=True)
class Device:
    """One device of a task.

    Attributes
    ----------
    name : str
        Full name, ``/job:J/replica:0/task:T/device:TYPE:ID``.
    device_type : str
    incarnation : int
        Random, non-zero, 64 bits, unsigned; new with every start.
    xp : module
        The array namespace of its tensors: numpy, or CuPy on a GPU.
    resources : ResourceManager
        Shared by all sessions that are not isolated.
    memory_limit : int
        Bytes.
    """

    name: str
    device_type: str
    resources: ResourceManager
    incarnation: int = field(default_factory=lambda: secrets.randbits(64) or 1)
    xp: Any = np
    memory_limit: int = _CPU_MEMORY_LIMIT_BYTES
    physical_description: str = ""


def cpu_device(job: str, task: int, index: int = 0) -> Device:
    """Return a CPU device of a task; its default container is the job's name."""
    return Device(f"/job:{job}/replica:0/task:{task}/device:CPU:{index}", "CPU", ResourceManager(job))


def signed(incarnation: int) -> int:
    """Return the 64 bits of an incarnation as the signed number that attrs and some messages hold."""
    return incarnation - (1 << 64) if incarnation >> 63 else incarnation
