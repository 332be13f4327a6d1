"""Where senders and receivers of parcels find each other: by key, first come, first served."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from runtime._ext.errors import Cancelled, DataLoss, Error, ResourceExhausted, Unavailable
from runtime._ext.message_parts import MessageParts
from runtime.transport.parcel import Receiver, Sender

__all__ = ["Board", "Here", "Party", "Remote", "receiving", "sending"]

Message = bytes | MessageParts

# Who waits costs a call and some hundred bytes.
_MAX_WAITING = 100_000
_REMEMBERED = 10_000


async def sending(sender: Sender, standings: AsyncIterator[bytes], joined: bool) -> AsyncGenerator[Message]:
    """Yield a sender's messages, its opening first, and read Standings when it waits for one."""
    loop = asyncio.get_running_loop()
    yield sender.opening()
    while not sender.is_complete:
        message = await loop.run_in_executor(None, sender.next, joined) if sender.takes_long else sender.next(joined)
        if message is not None:
            yield message
            continue
        try:
            sender.take(await anext(standings))
        except StopAsyncIteration:
            raise Unavailable("the receiver has gone before everything was there") from None


async def receiving(receiver: Receiver, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Yield a receiver's answers to what comes; its opening has been sent."""
    loop = asyncio.get_running_loop()
    while not receiver.is_complete:
        try:
            message = await anext(chunks)
        except StopAsyncIteration:
            raise Unavailable("the sender has gone before everything was here") from None
        if receiver.takes_long(message):
            answer = await loop.run_in_executor(None, receiver.take, message)
        else:
            answer = receiver.take(message)
        if answer is not None:
            yield answer


class Party(Protocol):
    """One of the two that meet."""

    def talk(self, incoming: AsyncIterator[bytes]) -> AsyncGenerator[Message]:
        """Return what this one says; a party that is here reads from `incoming` what the other says."""
        ...

    def left(self) -> bool:
        """Tell whether it does not wait any more."""
        ...

    def finish(self) -> None:
        """Hear that the other end has ended, whatever it was that it heard."""
        ...


class Remote:
    """A party that has called: what it says is its call's request stream.

    Parameters
    ----------
    requests : async iterator of bytes
    opening : list of bytes
        What the other end must hear of what was read already.
    name : str
        ``"sender"`` or ``"receiver"``, for errors.
    """

    def __init__(self, requests: AsyncIterator[bytes], opening: list[bytes], name: str) -> None:
        self._requests = requests
        self._opening = opening
        self._name = name
        self.has_left = False

    def left(self) -> bool:
        """See `Party`."""
        return self.has_left

    def finish(self) -> None:
        """See `Party`; its own call says when it is over."""

    async def talk(self, incoming: AsyncIterator[bytes]) -> AsyncGenerator[Message]:
        """See `Party`."""
        async with contextlib.aclosing(self.said()) as messages:
            async for message in messages:
                yield message

    async def said(self) -> AsyncGenerator[bytes]:
        """Yield the messages of the call."""
        for message in self._opening:
            yield message
        while True:
            try:
                message = await anext(self._requests)
            except StopAsyncIteration:
                return
            except (Exception, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise  # it is the one who listens that is cancelled
                raise Unavailable(f"the {self._name} has gone") from None
            yield message


class Here:
    """A party in this process."""

    def __init__(self, end: Sender | Receiver) -> None:
        self._end = end
        self._error: Error | None = None
        self._over = asyncio.Event()

    def left(self) -> bool:
        """See `Party`."""
        return self._over.is_set()

    async def talk(self, incoming: AsyncIterator[bytes]) -> AsyncGenerator[Message]:
        """See `Party`."""
        end = self._end
        try:
            if isinstance(end, Sender):
                async for message in sending(end, incoming, False):
                    yield message
            else:
                end.opening()  # nobody needs to hear it
                async for answer in receiving(end, incoming):
                    yield answer
        except Error as error:
            self._error = error
            raise
        except BaseException:
            self._error = Unavailable("the other end has gone")
            raise
        finally:
            self._over.set()

    def finish(self) -> None:
        """See `Party`."""
        if not self._over.is_set():
            self._error = Unavailable("the other end has gone")
            self._over.set()

    async def finished(self) -> None:
        """Wait until the stream is over; raises what ended it."""
        await self._over.wait()
        if self._error is not None:
            raise self._error


class _Waiting:
    __slots__ = ("party", "met", "parcel", "strict")

    def __init__(self, party: Party, parcel: int, strict: bool) -> None:
        self.party = party
        self.parcel = parcel
        self.strict = strict
        self.met: asyncio.Future[Party] = asyncio.get_running_loop().create_future()

    def suits(self, other: _Waiting) -> bool:
        if self.strict or other.strict:
            return self.parcel == other.parcel
        return True


class _Place:
    """Those who wait under one key."""

    __slots__ = ("receivers", "senders")

    def __init__(self) -> None:
        self.senders: deque[_Waiting] = deque()
        self.receivers: deque[_Waiting] = deque()


class Board:
    """The meeting point of one server. Everything happens on one loop."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._arrived: dict[int, None] = {}
        self._num_waiting = 0
        self._closed = False

    @property
    def num_waiting(self) -> int:
        """Return how many wait for somebody."""
        return self._num_waiting

    async def meet(self, key: str, party: Party, is_sender: bool, parcel: int, strict: bool) -> Party:
        """Wait for the other end and return it.

        Parameters
        ----------
        key : str
        party : Party
        is_sender : bool
        parcel : int
            Number of the parcel, where that is known.
        strict : bool
            Whether only the other end of this parcel will do, because it has begun.

        Raises
        ------
        ResourceExhausted
            Too many wait.
        Unavailable
            The server stops.
        """
        if self._closed:
            raise Unavailable("the server is stopping")
        if self._num_waiting >= _MAX_WAITING:
            raise ResourceExhausted(f"{self._num_waiting} senders and receivers of parcels wait here already")
        own = _Waiting(party, parcel, strict)
        place = self._places.setdefault(key, _Place())
        others = place.receivers if is_sender else place.senders
        for other in list(others):
            if other.met.done() or other.party.left():
                continue
            if own.suits(other):
                others.remove(other)
                other.met.set_result(party)
                self._forget(key)
                return other.party
        line = place.senders if is_sender else place.receivers
        line.append(own)
        self._num_waiting += 1
        try:
            return await own.met
        finally:
            self._num_waiting -= 1
            if own in line:
                line.remove(own)
            self._forget(key)

    def _forget(self, key: str) -> None:
        place = self._places.get(key)
        if place is not None and not place.senders and not place.receivers:
            del self._places[key]

    def close(self) -> None:
        """Let everybody go who waits; nobody meets any more."""
        self._closed = True
        for place in self._places.values():
            for waiting in (*place.senders, *place.receivers):
                if not waiting.met.done():
                    waiting.met.set_exception(Unavailable("the server is stopping"))

    async def handle(self, end: Sender | Receiver, resume_s: float, first_s: float | None = None) -> None:
        """Send, or receive, a parcel in this process, over as many streams as that takes.

        Parameters
        ----------
        end : Sender or Receiver
        resume_s : float
            How long the other end of a broken stream may stay away.
        first_s : float, optional
            How long it may take to come at all; without end otherwise.

        Raises
        ------
        Error
            What ended the last stream.
        """
        is_sender = isinstance(end, Sender)
        failed: Error | None = None
        while not end.is_complete:
            party = Here(end)
            strict = failed is not None and (is_sender or end.parcel != 0)
            try:
                meeting = self.meet(end.key, party, is_sender, end.parcel, strict)
                await asyncio.wait_for(meeting, first_s if failed is None else resume_s)
                await party.finished()
            except Error as error:
                if is_over(end):
                    break  # the last word was said, whether or not it was heard
                if not is_broken(error):
                    raise
                failed = error
            except TimeoutError:
                raise failed or Unavailable(f"nobody came for '{end.key}' within {first_s:g} s") from None
            finally:
                party.finish()
        if isinstance(end, Receiver):
            self.remember(end.parcel)

    def remember(self, parcel: int) -> None:
        """Note that a parcel has arrived: its sender may ask again, if it has not heard so."""
        self._arrived[parcel] = None
        if len(self._arrived) > _REMEMBERED:
            del self._arrived[next(iter(self._arrived))]

    def has_arrived(self, parcel: int) -> bool:
        """Tell whether a parcel has arrived lately."""
        return parcel in self._arrived


def is_over(end: Sender | Receiver) -> bool:
    """Tell whether a parcel has arrived."""
    return end.is_complete


def is_broken(error: Error) -> bool:
    """Tell whether an error is one that a new stream may mend."""
    return isinstance(error, (Unavailable, DataLoss, Cancelled))
