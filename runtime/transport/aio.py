"""`runtime.transport` for programs on asyncio: the same functions as coroutines."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from runtime._ext.errors import InvalidArgument, Unavailable
from runtime.client.access import Access
from runtime.transport import arrays
from runtime.transport.arrays import SINGLE
from runtime.transport.parcel import Progress, Receiver, Sender

__all__ = ["receive", "send"]

_STOP_GRACE_S = 5.0


async def send(items: Any, to: str, key: str = "default", *, timeout_s: float | None = None,
               compress: str | None = None, progress: Progress | None = None, share: bool = True,
               resume_s: float = 30.0, token: str | None = None, tls: bool | None = None, ca: Any = None,
               cert: Any = None, tls_key: Any = None, server_name: str | None = None) -> None:
    """Send arrays; see `runtime.transport.send`. A cancelled call ends the parcel."""
    from runtime.transport.calls import Way, deadline_passed, exchange

    access = Access.of(to, token, tls, ca, cert, tls_key, server_name)
    sender = Sender(key, arrays.named(items), compress=compress, may_share=share, progress=progress)
    try:
        async with asyncio.timeout(timeout_s) as bound:
            await exchange(sender, Way.to(to, access), resume_s)
    except TimeoutError:
        if not bound.expired():
            raise
        assert timeout_s is not None
        raise deadline_passed(sender, timeout_s) from None
    finally:
        sender.close()


async def receive(where: str | None = None, key: str = "default", *, listen: str | None = None,
                  timeout_s: float | None = None, limit_bytes: int | None = None, progress: Progress | None = None,
                  share: bool = True, resume_s: float = 30.0, token: str | None = None, tls: bool | None = None,
                  ca: Any = None, cert: Any = None, tls_key: Any = None, server_name: str | None = None,
                  **options: Any) -> Any:
    """Receive arrays; see `runtime.transport.receive`. A cancelled call ends the parcel."""
    from runtime.transport.calls import Way, deadline_passed, exchange

    if (where is None) == (listen is None):
        raise InvalidArgument("receive() takes either the server where the parcel comes by, or listen=HOST:PORT to "
                              "be that server")
    if options and listen is None:
        raise InvalidArgument(f"{', '.join(sorted(options))}: settings of a server go with listen=HOST:PORT")
    if limit_bytes is None:
        limit_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    receiver = Receiver(key, limit_bytes, may_share=share, progress=progress)
    arrays.trim()
    try:
        async with asyncio.timeout(timeout_s) as bound:
            if where is not None:
                access = Access.of(where, token, tls, ca, cert, tls_key, server_name)
                await exchange(receiver, Way.to(where, access), resume_s)
            else:
                await _serve(receiver, str(listen), resume_s, options)
    except TimeoutError:
        if not bound.expired():
            raise
        assert timeout_s is not None
        raise deadline_passed(receiver, timeout_s) from None
    found = receiver.result()
    return found[SINGLE] if list(found) == [SINGLE] else found


async def _serve(receiver: Receiver, listen: str, resume_s: float, options: dict[str, Any]) -> None:
    """Be the server that one parcel is sent to."""
    from runtime import config
    from runtime.edge.listener import Listener
    from runtime.transport.service import board_at

    named = {**options, "listen": listen, "services": ("stream",)}
    listener = Listener(config.load(named, {}, user_file=False, flag_origin="argument").settings)
    await listener.start()
    try:
        board = board_at(listener.address)
        if board is None:
            raise Unavailable(f"the server on {listener.address} has stopped")
        await board.handle(receiver, resume_s)
    finally:
        await asyncio.shield(listener.stop(_STOP_GRACE_S if receiver.is_complete else 0.0))
