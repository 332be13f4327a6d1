"""Answers to a worker's requests for data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from runtime import wire
from runtime.errors import Error

if TYPE_CHECKING:
    from runtime.tasks.agents.resources import Resources
    from runtime.tasks.tasks import Tasks

__all__ = ["answer_messages"]

NOT_FOUND = "Key not found"
NO_DIRECT_DATA = "Direct data are not supported yet"


async def answer_messages(
    tasks: Tasks, resources: Resources, session: str, kind: str, request_id: str, key: str, chunk_bytes: int
) -> AsyncIterator[wire.armonik.ProcessRequest]:
    """Yield the messages that answer a request.

    Parameters
    ----------
    session : str
        Of the task that asks.
    kind : str
        ``resource``: a file of the operator's; ``common_data``: a COMPLETED result of the session; ``direct_data``:
        always refused.
    request_id, key : str
        From the request.

    Raises
    ------
    Error
        The data cannot be read to their end; a part of them has been yielded.
    """
    request = wire.armonik.ProcessRequest
    reply = request.DataReply
    pieces: AsyncIterator[bytes] | None = None
    reason = NO_DIRECT_DATA
    if kind == "resource":
        pieces = resources.read(key, chunk_bytes)
    elif kind == "common_data":
        reason = NOT_FOUND
        try:
            value = await tasks.common_data(session, key)
        except Error as error:
            value, reason = None, error.message
        if value is not None:
            pieces = tasks.read(value, chunk_bytes)
    has_begun = False
    if pieces is not None:
        try:
            async for piece in pieces:
                if has_begun:
                    yield _reply(kind, reply(reply_id=request_id, data=wire.armonik.DataChunk(data=piece)))
                else:
                    has_begun = True
                    first = reply.Init(key=key, data=wire.armonik.DataChunk(data=piece))
                    yield _reply(kind, reply(reply_id=request_id, init=first))
        except Error as error:
            if has_begun:
                raise
            reason = error.message
            pieces = None
    if pieces is None:
        yield _reply(kind, reply(reply_id=request_id, init=reply.Init(key=key, error=reason)))
        return
    if not has_begun:
        empty = reply.Init(key=key, data=wire.armonik.DataChunk(data=b""))
        yield _reply(kind, reply(reply_id=request_id, init=empty))
    yield _reply(kind, reply(reply_id=request_id, data=wire.armonik.DataChunk(data_complete=True)))


def _reply(kind: str, reply: wire.armonik.ProcessRequest.DataReply) -> wire.armonik.ProcessRequest:
    message = wire.armonik.ProcessRequest()
    getattr(message, kind).CopyFrom(reply)
    return message
