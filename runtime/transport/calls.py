"""Parcels sent to, and received from, a server: the client's calls, begun again when a stream breaks.

They go over this project's own HTTP/2, a connection for each stream: a chunk leaves from the memory of its array, and
what comes is read straight into the message that the chunk is taken from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import AsyncIterator
from typing import Any

from runtime import __version__
from runtime._ext.errors import DeadlineExceeded, Error, InvalidArgument, Unavailable
from runtime._ext.http2_call import Method
from runtime._ext.http2_client import ClientConnection
from runtime._ext.http2_client_stream import StreamCall, start_stream
from runtime.client.channels import Access, address_of
from runtime.edge.auth import split_address
from runtime.edge.limits import Account
from runtime.edge.native import READ_BUFFER_BYTES
from runtime.transport.board import is_broken, is_over, receiving, sending
from runtime.transport.parcel import Receiver, Sender

__all__ = ["deadline_passed", "exchange"]

logger = logging.getLogger(__name__)

_SEND = Method("/runtime.v1.Parcels/Send", True, True, None)
_RECEIVE = Method("/runtime.v1.Parcels/Receive", True, True, None)
_CONNECT_S = 10.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
# What the other end may take to hear that everything is there.
_FAREWELL_S = 5.0
# A server that has said nothing for so long is asked for a sign of life, and must give it within as much time again.
_SILENCE_S = 15.0


class _Protocol(ClientConnection, asyncio.BufferedProtocol):
    """A connection as asyncio wants it; everything is in the compiled base."""


class _Service:
    """What a connection asks of its owner."""

    lookahead = 0

    def __init__(self, authority: str, access: Access) -> None:
        self.account = Account(1 << 62)  # what may be on its way is bounded by the credit
        self.read_buffer = bytearray(READ_BUFFER_BYTES)
        self.fields = [
            (b":method", b"POST"),
            (b":scheme", b"https" if access.tls else b"http"),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", f"tensor-runtime/{__version__}".encode()),
            *((key.encode(), value.encode()) for key, value in access.metadata()),
        ]

    def opened(self, connection: ClientConnection) -> None:
        pass

    def closed(self, connection: ClientConnection) -> None:
        pass

    def broken(self, connection: ClientConnection, code: int, message: str) -> None:
        logger.warning("connection closed for an error of the protocol", extra={"error_code": code, "reason": message})


async def exchange(end: Sender | Receiver, target: str, access: Access, resume_s: float) -> None:
    """Send or receive a parcel by way of a server.

    Parameters
    ----------
    end : Sender or Receiver
    target : str
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` or ``unix:PATH``.
    access : Access
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
    address = address_of(target)
    tls = _tls_context(access) if access.tls else None
    failed: Error | None = None
    while not end.is_complete:
        before = end.done_bytes
        began = loop.time()
        try:
            # Once it has begun, the other end will come back soon or not at all.
            await _stream(end, address, access, tls, None if failed is None or not end.has_begun else give_up)
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


async def _stream(end: Sender | Receiver, address: str, access: Access, tls: ssl.SSLContext | None,
                  come_by: float | None) -> None:
    """Go as far as one stream leads; raises TimeoutError when the other end has not come by this time of the loop."""
    connection = await _connect(address, access, tls)
    watch = asyncio.create_task(_watch(connection))
    try:
        if isinstance(end, Sender):
            call = start_stream(connection, _SEND)
            async with contextlib.aclosing(sending(end, _incoming(call, come_by), False)) as messages:
                async for message in messages:
                    await call.send(message)
        else:
            call = start_stream(connection, _RECEIVE)
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


async def _connect(address: str, access: Access, tls: ssl.SSLContext | None) -> _Protocol:
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {}
    try:
        async with asyncio.timeout(_CONNECT_S):
            if address.startswith("unix:"):
                service = _Service("localhost", access)
                if tls is not None:
                    options = {"ssl": tls, "server_hostname": access.server_name or "localhost"}
                _, made = await loop.create_unix_connection(lambda: _Protocol(service, loop),
                                                            address.removeprefix("unix:"), **options)
            else:
                service = _Service(address, access)
                host, port = split_address(address)
                if tls is not None:
                    options = {"ssl": tls, "server_hostname": access.server_name or host}
                _, made = await loop.create_connection(lambda: _Protocol(service, loop), host, port, **options)
            return made
    except TimeoutError:
        raise Unavailable(f"{address} cannot be reached: no connection within {_CONNECT_S:g} s") from None
    except (OSError, ssl.SSLError, UnicodeError) as error:
        raise Unavailable(f"{address} cannot be reached: {error}") from None


async def _watch(connection: _Protocol) -> None:
    """Cut a connection whose server is silent and does not answer when it is asked."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_SILENCE_S / 3)
        silent_s = loop.time() - connection.last_activity
        if silent_s > 2 * _SILENCE_S and connection.awaits_ping:
            connection.abort()
            return
        if silent_s > _SILENCE_S and not connection.awaits_ping:
            connection.ping()


async def _incoming(call: StreamCall, come_by: float | None) -> AsyncIterator[bytes]:
    async with asyncio.timeout_at(come_by):
        first = await call.receive()
    if first is None:
        return
    yield first
    while (message := await call.receive()) is not None:
        yield message


def _tls_context(access: Access) -> ssl.SSLContext:
    """Return a context that verifies the server, and shows our certificate if there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        if access.ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cadata=access.ca.decode("ascii", "replace"))
        if access.cert is not None and access.key is not None:
            # OpenSSL takes both from a file alone: one that only this process sees.
            descriptor = os.memfd_create("certificate")
            try:
                os.write(descriptor, access.cert + b"\n" + access.key)
                context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=lambda: b"")
            finally:
                os.close(descriptor)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise InvalidArgument(f"ca, cert and tls_key cannot be used: {error}") from error
    return context


def deadline_passed(end: Sender | Receiver, timeout_s: float) -> DeadlineExceeded:
    """Return the error of a parcel that took too long."""
    what = "sent" if isinstance(end, Sender) else "received"
    return DeadlineExceeded(f"the parcel '{end.key}' was not {what} within {timeout_s:g} s: {end.describe()}")
