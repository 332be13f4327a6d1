"""What outlives a step on a device: named resources in containers.

A resource is found by (container, kind, name). One manager serves a device; isolated sessions have one of their own,
and every step has a small one that vanishes with it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from runtime._ext.errors import InvalidArgument, NotFound

__all__ = ["ResourceManager"]

_T = TypeVar("_T")
_CONTAINER = re.compile(r"[A-Za-z0-9.][A-Za-z0-9.\-/]*\Z")


class ResourceManager:
    """Named resources, by container, kind and name. Safe from several threads.

    Parameters
    ----------
    default_container : str
        Used where a node names none; the device's job name.
    """

    def __init__(self, default_container: str) -> None:
        self.default_container = default_container
        self._lock = threading.Lock()
        self._containers: dict[str, dict[tuple[str, str], Any]] = {}

    def container_of(self, name: str) -> str:
        """Return the container to use for a node's ``container`` attr.

        Raises
        ------
        InvalidArgument
            If the name is not a letter, digit or dot followed by these, ``-`` and ``/``.
        """
        if not name:
            return self.default_container
        if not _CONTAINER.match(name):
            raise InvalidArgument(f"container contains invalid characters: {name}")
        return name

    def lookup_or_create(self, container: str, kind: str, name: str, create: Callable[[], _T]) -> _T:
        """Return the resource, made by `create` when it does not exist yet."""
        with self._lock:
            entries = self._containers.setdefault(container, {})
            found = entries.get((kind, name))
            if found is None:
                found = entries[(kind, name)] = create()
            return found

    def lookup(self, container: str, kind: str, name: str) -> Any:
        """Return the resource.

        Raises
        ------
        NotFound
            If there is none.
        """
        with self._lock:
            found = self._containers.get(container, {}).get((kind, name))
        if found is None:
            raise NotFound(f"Resource {container}/{name}/{kind} does not exist.")
        return found

    def delete(self, container: str, kind: str, name: str) -> bool:
        """Remove a resource; tell whether it was there. Its ``close`` method, if any, is called."""
        with self._lock:
            found = self._containers.get(container, {}).pop((kind, name), None)
        _close(found)
        return found is not None

    def clear(self, container: str) -> int:
        """Remove all resources of a container and return how many there were."""
        with self._lock:
            entries = self._containers.pop(container, {})
        for resource in entries.values():
            _close(resource)
        return len(entries)

    def clear_all(self) -> None:
        """Remove everything."""
        with self._lock:
            containers, self._containers = self._containers, {}
        for entries in containers.values():
            for resource in entries.values():
                _close(resource)

    def listing(self) -> list[tuple[str, str, str]]:
        """Return (container, kind, name) of every resource, sorted."""
        with self._lock:
            return sorted((container, kind, name) for container, entries in self._containers.items()
                          for kind, name in entries)


def _close(resource: Any) -> None:
    close = getattr(resource, "close", None)
    if close is not None:
        close()
