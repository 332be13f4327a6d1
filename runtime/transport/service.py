"""runtime.v1.Parcels: brings the two ends of a parcel together and passes on what they say to each other.

What passes is not looked at, and a message is taken from one end when the other has taken the one before: the server
holds what the sender's credit allows, at most.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.errors import InvalidArgument
from runtime._ext.message_parts import MessageParts
from runtime.transport.board import Board, Party, Remote
from runtime.transport.parcel import COMPLETE, check_key, unsealed

if TYPE_CHECKING:
    from runtime.config import Settings
    from runtime.edge.plane import Handler

__all__ = ["Meetings", "StreamPlane", "board_at", "create_plane"]

_boards: dict[str, Board] = {}


def board_at(address: str) -> Board | None:
    """Return the board of the server of this process that listens on an address, for use on its loop."""
    return _boards.get(address)


class StreamPlane:
    """The stream plane of a server; see `runtime.edge.plane.Plane`.

    Parameters
    ----------
    address : str
        Where the server listens.
    """

    def __init__(self, address: str) -> None:
        self.board = Board()
        self._meetings = Meetings(self.board)
        self._address = address

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {"runtime.v1.Parcels": {"Send": self._meetings.send, "Receive": self._meetings.receive}}

    async def start(self) -> None:
        """Let this process find the board."""
        _boards[self._address] = self.board

    def drain(self) -> None:
        """Let those go who wait for somebody."""
        self.board.close()

    async def stop(self, grace: float) -> None:
        """Forget the board."""
        self.board.close()
        _boards.pop(self._address, None)


class Meetings:
    """The calls of those who come to a board.

    Parameters
    ----------
    board : Board
    expect : callable, optional
        ``expect(manifest)`` is told of a parcel before its sender looks for a receiver; may raise.
    find : callable, optional
        ``find(standing)`` is told of a receiver before it looks for a sender; may raise.
    """

    def __init__(self, board: Board, expect: Callable[[wire.runtime_v1.Manifest], object] | None = None,
                 find: Callable[[wire.runtime_v1.Standing], object] | None = None) -> None:
        self._board = board
        self._expect = expect
        self._find = find

    async def send(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes | MessageParts]:
        """Send: a parcel comes."""
        opening = await _first(requests)
        message = unsealed(wire.runtime_v1.Chunk, opening)
        if not message.HasField("manifest"):
            raise InvalidArgument("the first Chunk has no manifest")
        manifest = message.manifest
        check_key(manifest.key)
        if self._board.has_arrived(manifest.parcel):
            yield COMPLETE
            return
        if self._expect is not None:
            self._expect(manifest)
        own = Remote(requests, [opening], "sender")
        context.add_done_callback(lambda _: _leave(own))
        other = await self._board.meet(manifest.key, own, True, manifest.parcel, manifest.is_resumed)
        async for answer in _listen(other, own):
            if answer == COMPLETE:
                self._board.remember(manifest.parcel)
            yield answer

    async def receive(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes | MessageParts]:
        """Receive: a parcel is wanted."""
        standing = unsealed(wire.runtime_v1.Standing, await _first(requests))
        check_key(standing.key)
        if self._find is not None:
            self._find(standing)
        own = Remote(requests, [], "receiver")
        context.add_done_callback(lambda _: _leave(own))
        other = await self._board.meet(standing.key, own, False, standing.parcel, standing.parcel != 0)
        async for answer in _listen(other, own):
            yield answer


def _leave(party: Remote) -> None:
    party.has_left = True


async def _listen(other: Party, own: Remote) -> AsyncIterator[bytes | MessageParts]:
    said = other.talk(own.said())
    try:
        async for message in said:
            yield message
    finally:
        await said.aclose()
        other.finish()


async def _first(requests: AsyncIterator[bytes]) -> bytes:
    try:
        return await anext(requests)
    except StopAsyncIteration:
        raise InvalidArgument("the call has no message") from None


def create_plane(settings: Settings) -> StreamPlane:
    """Return the stream plane of a server; see `runtime.edge.plane`."""
    return StreamPlane(settings.listen)
