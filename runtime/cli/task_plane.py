"""What the commands ``session``, ``task`` and ``result`` have in common: one server, one call, plain values."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from runtime.client.tasks.aio import AsyncTaskClient

_V = TypeVar("_V")

INSPECTOR = "/runtime.v1.TaskInspector/"


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Give a parser the flags that say which server, and how to get in."""
    from runtime.cli.access_flags import add_access_flags

    access = parser.add_argument_group("the server")
    access.add_argument("--server", metavar="TARGET",
                        help="grpc://HOST:PORT, grpcs://HOST:PORT or unix:PATH [the local cluster's, else the default]")
    add_access_flags(access)


def asked(options: argparse.Namespace, ask: Callable[[AsyncTaskClient], Awaitable[_V]]) -> _V:
    """Return what ``ask`` returns for a client of the server that the flags name."""
    from runtime.cli.access_flags import token_of
    from runtime.cli.status import default_target
    from runtime.client.tasks.aio import AsyncTaskClient

    async def run() -> _V:
        target = options.server or default_target()
        async with AsyncTaskClient(
            target, retry_s=0.0, token=token_of(options), ca=options.ca, cert=options.cert, key=options.key,
            server_name=options.server_name,
        ) as client:
            return await ask(client)

    return asyncio.run(run())


async def inspect(client: AsyncTaskClient, method: str, message: Any, reply: Any) -> Any:
    """Make a call of the inspector."""
    return await client.calls.unary(INSPECTOR + method, message, reply)


async def pages(client: AsyncTaskClient, method: str, message: Any, reply: Any, field: str, limit: int) -> list[Any]:
    """Return all entries of a list that comes in pages, or the first ``limit`` of them."""
    found: list[Any] = []
    while True:
        message.limit = min(1000, limit - len(found)) if limit else 1000
        answer = await inspect(client, method, message, reply)
        found += getattr(answer, field)
        if not answer.next or (limit and len(found) >= limit):
            return found
        message.after = answer.next
