"""What a provider is, and where each comes from."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from runtime.errors import InvalidArgument, NotFound

__all__ = ["PROVIDERS", "Flavor", "Provider", "Surroundings", "WorkerSpec", "load", "parse_flavor"]

PROVIDERS: dict[str, str] = {"local": "runtime.providers.local:LocalProvider"}
"""Provider to ``module:class``; the class is called with a `Surroundings`."""

_FLAVOR = re.compile(r"cpu([1-9]\d{0,3})(?:-mem([1-9]\d{0,5})(?:-gpu([1-9]\d{0,2}))?)?")


class Flavor(NamedTuple):
    """What one worker may use; None: all that there is. ``memory`` in bytes."""

    name: str
    cpus: int | None = None
    memory: int | None = None
    gpus: int | None = None


class WorkerSpec(NamedTuple):
    """A worker that is to be made."""

    number: int
    name: str
    concurrency: int
    prefetch: int
    flavor: Flavor
    region: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a provider is told of the server.

    Attributes
    ----------
    address : str
        Where it serves, ``HOST:PORT`` or ``unix:PATH``.
    folder : Path
        Where a provider may keep what it needs, one folder for each worker.
    prefix : str
        How the names of its workers begin.
    allows_bare : bool
        Whether workers may run commands without a container.
    token_file, ca_file : Path or None
        What workers authenticate themselves with, and whom they trust.
    uses_tls, needs_token : bool
        What the server asks of its callers.
    """

    address: str
    folder: Path
    prefix: str
    allows_bare: bool = True
    token_file: Path | None = None
    ca_file: Path | None = None
    uses_tls: bool = False
    needs_token: bool = False


class Provider(Protocol):
    """Makes and ends workers. Handles are texts of its own that are stored with the workers; all is asked on one loop.

    Every coroutine may be cancelled: then nothing that it has begun is left behind.
    """

    def flavors(self) -> Sequence[str]:
        """Return the names of flavors that have numbers, the default first."""
        ...

    def regions(self) -> Sequence[str]:
        """Return the names of regions, the default first."""
        ...

    def flavor(self, name: str) -> Flavor:
        """Return a flavor by its name; empty for the default.

        Raises
        ------
        NotFound
            There is none of that name.
        """
        ...

    def check(self) -> None:
        """Raise FailedPrecondition when no worker can be made, saying why."""
        ...

    async def create(self, spec: WorkerSpec) -> str:
        """Make a worker, which registers by its name; returns its handle.

        Raises
        ------
        Error
            If it cannot be made now.
        """
        ...

    async def restart(self, spec: WorkerSpec, handle: str) -> str:
        """End a worker that is dead or hangs, as far as it is there, and make it again; returns its new handle.

        What the worker was running goes on where that is possible.
        """
        ...

    async def delete(self, name: str, handle: str) -> None:
        """End a worker with all that it runs; nothing happens if it is gone."""
        ...

    async def is_alive(self, name: str, handle: str) -> bool:
        """Return whether a worker is there, whether it answers or not."""
        ...

    async def list(self) -> Mapping[str, str]:
        """Return the handles of all workers that are there and bear this server's prefix, by name."""
        ...


def load(name: str, surroundings: Surroundings) -> Provider:
    """Return the provider of that name.

    Raises
    ------
    InvalidArgument
        There is none.
    """
    target = PROVIDERS.get(name)
    if target is None:
        raise InvalidArgument(f"setting command_providers: no provider is called {name!r}; "
                              f"there are {', '.join(sorted(PROVIDERS))}")
    module, _, attribute = target.partition(":")
    provider: Provider = getattr(importlib.import_module(module), attribute)(surroundings)
    return provider


def parse_flavor(name: str) -> Flavor:
    """Return what ``default`` (or nothing), ``cpuN``, ``cpuN-memM`` or ``cpuN-memM-gpuG`` means, with M in GiB.

    Raises
    ------
    NotFound
        For another name.
    """
    if name in ("", "default"):
        return Flavor("default")
    found = _FLAVOR.fullmatch(name)
    if found is None:
        raise NotFound(f"flavor {name[:80]!r} is not known; there are default, cpuN, cpuN-memM and cpuN-memM-gpuG")
    cpus, memory, gpus = (None if group is None else int(group) for group in found.groups())
    return Flavor(name, cpus, None if memory is None else memory << 30, gpus)
