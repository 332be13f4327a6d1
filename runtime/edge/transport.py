"""What the listener needs of whoever speaks HTTP/2, and which one that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from runtime.config import Settings
    from runtime.edge.auth import Authorize
    from runtime.edge.limits import Account
    from runtime.errors import Error


class MethodForm(Protocol):
    """A method's path and form; :class:`runtime.wire.MethodType` has it."""

    @property
    def path(self) -> str: ...
    @property
    def client_streaming(self) -> bool: ...
    @property
    def server_streaming(self) -> bool: ...


class Transport(Protocol):
    """One address with the methods that are answered there. Every method belongs to the server's loop.

    Attributes
    ----------
    unknown_method : str
        What a call of a path that was never added is told.
    """

    unknown_method: str

    async def bind(self) -> str:
        """Open the address, answer nothing yet, and return it with its real port.

        Raises
        ------
        Unavailable
            If it cannot be had.
        InvalidArgument
            If certificate or key cannot be used.
        """
        ...

    def add(self, method: MethodForm, handler: Callable[..., Any]) -> None:
        """Answer a method; see :class:`runtime.edge.plane.Plane` for handlers."""
        ...

    def refuse(self, method: MethodForm, error: Error) -> None:
        """Answer every call of a method with an error, without taking its request."""
        ...

    async def start(self) -> None:
        """Begin to answer."""
        ...

    def num_open(self) -> tuple[int, int] | None:
        """Return how many connections and calls are open; None where that is not known."""
        ...

    def check_again(self) -> None:
        """Ask ``authorize`` again about every open call, and end those that it refuses by now."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, give open ones ``grace_s`` seconds, cancel what is left, free everything.

        A further call with a shorter grace shortens the first.
        """
        ...

    async def discard(self) -> None:
        """Free everything of a transport that was bound, perhaps, but never started."""
        ...


def make_transport(settings: Settings, account: Account, authorize: Authorize | None) -> Transport:
    """Return the transport that the settings ask for; only that one's modules are imported."""
    if settings.transport == "grpc":
        from runtime.edge.grpc_transport import GrpcTransport

        return GrpcTransport(settings, account, authorize)
    from runtime.edge.native import NativeTransport

    return NativeTransport(settings, account, authorize)
