"""Who may connect, and how many at once: limits over all and per address, and the accept loop that keeps them.

A connection counts from when it is accepted, before anything is read and before TLS, until it is gone.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime._ext.http2_link import Tally
from runtime.edge import auth
from runtime.machine import descriptor_limit

if TYPE_CHECKING:
    from runtime.config import Settings

__all__ = ["Census", "Gate", "Limits"]

logger = logging.getLogger(__name__)

# Connections taken in one turn of the loop; other work goes on in between.
ACCEPTS_AT_ONCE = 64
# How long nobody is accepted when the process has no descriptor left.
PAUSE_S = 1.0
_OUT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True)
class Limits:
    """How much may be open at once.

    Attributes
    ----------
    connections, connections_per_peer, calls, calls_per_peer : int
    """

    connections: int = 10_000
    connections_per_peer: int = 10_000
    calls: int = 100_000
    calls_per_peer: int = 100_000

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Return the limits of a server's settings."""
        most = min(settings.max_connections, max(1, descriptor_limit() // 5 * 4))
        # Where only this machine can connect all have one address: a share would lock out nobody but them.
        share = 1 if auth.is_local(settings.listen) else 2
        return cls(
            most,
            min(most, settings.max_connections_per_peer) or max(1, most // share),
            settings.max_open_calls,
            max(1, settings.max_open_calls // share),
        )


class Census:
    """Counts connections, over all and per peer.

    Parameters
    ----------
    limits : Limits

    Attributes
    ----------
    whole : Tally
        Of all peers; `runtime._ext.http2` counts calls there, too.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.whole = Tally("everyone", limits.calls)
        self._peers: dict[str, Tally] = {}

    @property
    def is_full(self) -> bool:
        """Whether there is no room for anyone."""
        return self.whole.connections >= self.limits.connections

    def enter(self, name: str) -> Tally | None:
        """Count a connection of a peer, and return the peer's tally; None if it may not have another."""
        peer = self._peers.get(name)
        if self.is_full or (peer is not None and peer.connections >= self.limits.connections_per_peer):
            return None
        if peer is None:
            peer = self._peers[name] = Tally(name, self.limits.calls_per_peer)
        peer.connections += 1
        self.whole.connections += 1
        return peer

    def leave(self, peer: Tally) -> None:
        """Forget a connection that has been counted."""
        peer.connections -= 1
        self.whole.connections -= 1
        if peer.connections == 0:
            self._peers.pop(peer.name, None)


def peer_of(address: object) -> str:
    """Return what connections of a socket address are counted by.

    That is an IPv4 address, the /64 network of an IPv6 address, of which one host may have them all, or ``unix``.
    """
    if not isinstance(address, tuple) or not address:
        return "unix"
    try:
        parsed = ipaddress.ip_address(str(address[0]).partition("%")[0])
    except ValueError:
        return str(address[0])
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


class Gate:
    """Accepts connections on listening sockets and hands over those that may come in.

    Parameters
    ----------
    loop : asyncio event loop
    census : Census
    enter : callable
        ``enter(connection, tally)`` takes a new, non-blocking socket, counted in ``tally``.
    make_room : callable
        Called without arguments when all places are taken; may free some.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        census: Census,
        enter: Callable[[socket.socket, Tally], object],
        make_room: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._census = census
        self._enter = enter
        self._make_room = make_room
        self._listening: list[socket.socket] = []
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self.refused = 0

    def open(self, listening: Iterable[socket.socket]) -> None:
        """Begin to accept; the sockets are closed by :meth:`close`."""
        for one in listening:
            one.setblocking(False)
            self._listening.append(one)
            self._loop.add_reader(one, self._accept, one)

    def close(self) -> None:
        """Accept nobody any more."""
        for pause in self._pauses.values():
            pause.cancel()
        for one in self._listening:
            if one not in self._pauses:
                self._loop.remove_reader(one)
            one.close()
        self._listening.clear()
        self._pauses.clear()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # the client has gone before it was its turn
            except OSError as error:
                if error.errno not in _OUT_OF:
                    raise
                logger.error("no connection can be accepted", extra={"reason": error.strerror, "seconds": PAUSE_S})
                self._loop.remove_reader(listening)
                self._pauses[listening] = self._loop.call_later(PAUSE_S, self._go_on, listening)
                return
            self._admit(connection, address)

    def _admit(self, connection: socket.socket, address: object) -> None:
        name = peer_of(address)
        if self._census.is_full:
            self._make_room()
        tally = self._census.enter(name)
        if tally is None:
            self.refused += 1
            limits = self._census.limits
            logger.warning("a connection is refused: there are too many", extra={
                "peer": name, "connections": self._census.whole.connections, "max_connections": limits.connections,
                "per_peer": limits.connections_per_peer,
            })
            connection.close()
            return
        try:
            connection.setblocking(False)
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # it is gone already
            connection.close()
            self._census.leave(tally)
            return
        self._enter(connection, tally)

    def _go_on(self, listening: socket.socket) -> None:
        del self._pauses[listening]
        self._loop.add_reader(listening, self._accept, listening)
