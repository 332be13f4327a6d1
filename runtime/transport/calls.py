"""Parcels sent to, and received from, a server: the client's calls, begun again when a stream breaks.

They go over this project's own HTTP/2, a connection for each stream: a chunk leaves from the memory of its array, and
what comes is read straight into the message that the chunk is taken from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

from runtime._ext.errors import DeadlineExceeded, Error
from runtime._ext.http2_call import Method
from runtime._ext.http2_client_stream import StreamCall, start_stream
from runtime.client.access import Access, address_of, tls_context
from runtime.edge.connect import connect, cut_when_silent
from runtime.transport.board import is_broken, is_over, receiving, sending
from runtime.transport.parcel import Receiver, Sender

__all__ = ["PARCELS", "STEP_TENSORS", "Way", "deadline_passed", "exchange"]

logger = logging.getLogger(__name__)

PARCELS = "runtime.v1.Parcels"
STEP_TENSORS = "runtime.v1.StepTensors"
_METHODS = {service: (Method(f"/{service}/Send", True, True, None), Method(f"/{service}/Receive", True, True, None))
            for service in (PARCELS, STEP_TENSORS)}
_CONNECT_S = 10.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
# What the other end may take to hear that everything is there.
_FAREWELL_S = 5.0


@dataclass(frozen=True, slots=True)
class Way:
    """A server, and how to get in.

    Attributes
    ----------
    address : str
        ``HOST:PORT`` or ``unix:PATH``.
    tls : ssl.SSLContext or None
    metadata : tuple of (bytes, bytes)
        What every call carries.
    server_name : str or None
        In the server's certificate, when it is not the host of the address.
    service : str
        That takes the parcel: `PARCELS` or `STEP_TENSORS`.
    """

    address: str
    tls: ssl.SSLContext | None = None
    metadata: tuple[tuple[bytes, bytes], ...] = ()
    server_name: str | None = None
    service: str = PARCELS

    @classmethod
    def to(cls, target: str, access: Access, service: str = PARCELS) -> Way:
        """Return the way to a target: ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` or ``unix:PATH``."""
        metadata = tuple((key.encode(), value.encode()) for key, value in access.metadata())
        return cls(address_of(target), tls_context(access) if access.tls else None, metadata, access.server_name,
                   service)


async def exchange(end: Sender | Receiver, way: Way, resume_s: float) -> None:
    """Send or receive a parcel by way of a server.

    Parameters
    ----------
    end : Sender or Receiver
    way : Way
    resume_s : float
        For how long, without progress, broken streams and unreachable servers are tried again.

    Raises
    ------
    Error
        What ended the last stream.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + resume_s
    pause_s = _FIRST_PAUSE_S
    failed: Error | None = None
    while not end.is_complete:
        before = end.done_bytes
        began = loop.time()
        try:
            # Once it has begun, the other end will come back soon or not at all.
            await _stream(end, way, None if failed is None or not end.has_begun else give_up)
        except Error as error:
            failed = error
            if is_over(end):
                break
            if end.done_bytes > before or loop.time() - began > resume_s:  # it went on, or waited for the other end
                give_up, pause_s = loop.time() + resume_s, _FIRST_PAUSE_S
            if not is_broken(error) or loop.time() + pause_s > give_up:
                raise
            logger.info("the stream of a parcel broke and begins again", extra={"key": end.key, "reason": str(error)})
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        except TimeoutError:
            assert failed is not None
            raise failed from None


async def _stream(end: Sender | Receiver, way: Way, come_by: float | None) -> None:
    """Go as far as one stream leads; raises TimeoutError when the other end has not come by this time of the loop."""
    connection = await connect(way.address, way.tls, server_name=way.server_name, metadata=way.metadata,
                               timeout_s=_CONNECT_S)
    send, receive = _METHODS[way.service]
    watch = asyncio.create_task(cut_when_silent(connection))
    try:
        if isinstance(end, Sender):
            call = start_stream(connection, send)
            async with contextlib.aclosing(sending(end, _incoming(call, come_by), False)) as messages:
                async for message in messages:
                    await call.send(message)
        else:
            call = start_stream(connection, receive)
            await call.send(end.opening())
            async with contextlib.aclosing(receiving(end, _incoming(call, come_by))) as answers:
                async for answer in answers:
                    await call.send(answer)
        call.done_sending()
        with contextlib.suppress(TimeoutError, Error):
            async with asyncio.timeout(_FAREWELL_S):
                while await call.receive() is not None:
                    pass
    finally:
        watch.cancel()
        connection.abort()


async def _incoming(call: StreamCall, come_by: float | None) -> AsyncIterator[bytes]:
    async with asyncio.timeout_at(come_by):
        first = await call.receive()
    if first is None:
        return
    yield first
    while (message := await call.receive()) is not None:
        yield message


def deadline_passed(end: Sender | Receiver, timeout_s: float) -> DeadlineExceeded:
    """Return the error of a parcel that took too long."""
    what = "sent" if isinstance(end, Sender) else "received"
    return DeadlineExceeded(f"the parcel '{end.key}' was not {what} within {timeout_s:g} s: {end.describe()}")
