"""What a plane is to the server, and where each plane comes from.

A plane answers the calls of one protocol family. It translates: bytes into one call of its domain object, the
answer (or the error) back into bytes. Planes are created by name from :data:`PLANES`, each from a module that is
imported only when a server asks for that plane, so that one which is not served costs neither time nor memory.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from runtime._ext.message_parts import MessageParts
from runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from runtime.config import Settings

Answer = bytes | MessageParts
UnaryUnary = Callable[[bytes, Any], Awaitable[Answer]]
UnaryStream = Callable[[bytes, Any], AsyncIterator[Answer]]
StreamUnary = Callable[[AsyncIterator[bytes], Any], Awaitable[Answer]]
StreamStream = Callable[[AsyncIterator[bytes], Any], AsyncIterator[Answer]]
Handler = UnaryUnary | UnaryStream | StreamUnary | StreamStream


class Immediate:
    """A handler of a unary method that has an immediate form.

    Parameters
    ----------
    handler : callable
        ``async def handler(request: bytes, context) -> answer``, for every call that the immediate form leaves.
    immediate : callable
        ``immediate(request: bytes, context) -> answer | None``, a plain function that the native transport calls inside
        its read callback: it answers what takes about a millisecond at most, and returns None, without any effect,
        for all else.
    """

    __slots__ = ("handler", "immediate")

    def __init__(self, handler: UnaryUnary, immediate: Callable[[bytes, Any], Answer | None]) -> None:
        self.handler = handler
        self.immediate = immediate

    def __call__(self, request: bytes, context: Any) -> Awaitable[Answer]:
        """Call the asynchronous form."""
        return self.handler(request, context)


@runtime_checkable
class Plane(Protocol):
    """A family of services as the server sees it.

    Whether a method streams is not said here but in :data:`runtime.wire.SERVICES`; the handler has the form that
    belongs to it, always an ``async def``:

    - unary in, unary out: ``async def handler(request: bytes, context) -> bytes``
    - unary in, stream out: ``async def handler(request: bytes, context)`` that yields ``bytes``
    - stream in, unary out: ``async def handler(requests, context) -> bytes`` with ``requests`` an async iterator
      of ``bytes``
    - stream in, stream out: as the two above together

    Requests and answers are exact ``bytes`` objects, not subclasses, bytearrays or memoryviews. An answer may also be a
    :class:`MessageParts`, which the native transport sends without joining it.
    A unary handler may be an :class:`Immediate`.

    ``context`` is the call (``time_remaining()``, ``add_done_callback()``, ...), as grpc.aio has it. A handler
    raises errors of :mod:`runtime.errors`; the server turns them into status codes, cuts messages to the size a
    header can carry, counts bytes in flight and checks tokens. An error may carry ``trailers``, a tuple of
    ``(key, value)`` pairs, which are sent as trailing metadata. When the client goes away or its deadline passes,
    the handler's task is cancelled.

    A plane that counts something can have ``async def metrics()``, which returns its families (:class:`Family` of
    :mod:`runtime.observe.metrics`). It reads counters and searches nothing: it may be called every second.

    Concurrency: everything runs on the server's event loop.
    """

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return, by full service name, the methods this plane answers. Called once, after :meth:`start`."""
        ...

    async def start(self) -> None:
        """Get ready to answer; called once before the port opens."""
        ...

    async def stop(self, grace: float) -> None:
        """End what still goes on and free everything; called once, after the last call has ended or was cancelled.

        A plane whose calls may wait for long (a log stream, a receive) can have a method ``drain()`` as well. It is
        called without arguments when the server begins to stop, while open calls still have their grace, and
        should let those end that wait for something which will not come any more.

        Parameters
        ----------
        grace : float
            Seconds left for work in progress; afterwards the server goes on without the plane.
        """
        ...


PlaneFactory = Callable[["Settings"], Plane]

# Plane name to "module:factory"; the factory is called with the settings. A plane whose module is not part of the
# installation is one that does not exist yet: its services answer UNIMPLEMENTED.
PLANES: dict[str, str] = {
    "graph": "runtime.master.plane:create_plane",
    "task": "runtime.tasks.plane:create_plane",
    "command": "runtime.commands.plane:create_plane",
    "fleet": "runtime.fleet.service:create_plane",
    "stream": "runtime.transport.service:create_plane",
}


def register(name: str, target: str) -> None:
    """Add a plane, or replace one, by name.

    Parameters
    ----------
    name : str
        What ``--services`` calls it.
    target : str
        ``module:factory``; the factory takes the settings and returns a :class:`Plane`.

    Raises
    ------
    InvalidArgument
        If ``target`` has not that form.
    """
    module, separator, factory = target.partition(":")
    if not (module and separator and factory):
        raise InvalidArgument(f"plane {name!r}: target {target!r} is not of the form 'module:factory'")
    PLANES[name] = target


def load(name: str, settings: Settings) -> Plane | None:
    """Create the plane called ``name``, or return None if it is not part of this installation.

    Raises
    ------
    InvalidArgument
        If no plane has that name. An error inside the plane's own module is passed on: a plane that exists but
        cannot be imported is a fault, not an absence.
    """
    target = PLANES.get(name)
    if target is None:
        raise InvalidArgument(f"no plane is called {name!r}; there are {', '.join(sorted(PLANES))}")
    module_name, _, factory_name = target.partition(":")
    if not _exists(module_name):
        return None
    factory: PlaneFactory = getattr(importlib.import_module(module_name), factory_name)
    return factory(settings)


def _exists(module_name: str) -> bool:
    try:
        return importlib.util.find_spec(module_name) is not None
    except ModuleNotFoundError as error:
        # find_spec imports the parents; only their absence means that the plane is absent.
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            return False
        raise
