"""What the commands ``session``, ``task`` and ``result`` have in common: one server, one call, plain values."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from runtime.client.tasks.aio import AsyncTaskClient
    from runtime.errors import Error

_V = TypeVar("_V")

INSPECTOR = "/runtime.v1.TaskInspector/"


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Give a parser the flags that say which server, and how to get in."""
    from runtime.cli.access_flags import add_access_flags

    access = parser.add_argument_group("the server")
    access.add_argument("--server", metavar="TARGET",
                        help="grpc://HOST:PORT, grpcs://HOST:PORT or unix:PATH [the local cluster's, else the default]")
    add_access_flags(access)


def add_forms(parser: argparse.ArgumentParser, *names: str) -> Any:
    """Return what takes the forms of a command; an error that one is missing lists their names."""
    return parser.add_subparsers(dest="form", required=True, metavar="|".join(names))


def add_timeout_flag(parser: argparse.ArgumentParser) -> None:
    """Give a parser that of a form that waits."""
    parser.add_argument("--timeout", type=_seconds, default=None, metavar="SECONDS",
                        help="give up after so long [wait as long as it takes]")


def add_file_flag(parser: argparse.ArgumentParser) -> None:
    """Give a parser that of a form that writes a result."""
    parser.add_argument("--to", default="-", metavar="FILE", help="- is the standard output [-]")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 on")
    return seconds


def asked(options: argparse.Namespace, ask: Callable[[AsyncTaskClient], Awaitable[_V]]) -> _V:
    """Return what ``ask`` returns for a client of the server that the flags name."""
    from runtime.cli.access_flags import token_of
    from runtime.cli.status import default_target
    from runtime.client.tasks.aio import AsyncTaskClient
    from runtime.errors import Unauthenticated, Unavailable

    async def run() -> _V:
        target = options.server or default_target()
        async with AsyncTaskClient(
            target, retry_s=0.0, token=token_of(options), ca=options.ca, cert=options.cert, key=options.key,
            server_name=options.server_name,
        ) as client:
            return await ask(client)

    try:
        return asyncio.run(run())
    except (Unavailable, Unauthenticated) as error:
        raise type(error)("; ".join(filter(None, (error.message, _way_out(error))))) from None


def _way_out(error: Error) -> str:
    """Say what helps whoever did not get into a server; nothing where that cannot be told."""
    from runtime.errors import Unauthenticated

    if isinstance(error, Unauthenticated):
        return "--token-file FILE sends the first token of a file"
    if "certificate" in error.message:
        return "--ca FILE names the authorities to trust, --server-name NAME the server in its certificate"
    if "does not speak TLS" in error.message:
        return "grpc:// is the form for a server without TLS"
    if "cannot be reached" in error.message:
        return "`tensor-runtime serve` starts a server, --server TARGET names another"
    return "it went away, or it has TLS: grpcs:// is the form for that" if "Socket closed" in error.message else ""


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


async def write_result(client: AsyncTaskClient, session: str, key: str, options: argparse.Namespace) -> None:
    """Write a result where the flags say, as soon as it is there; a file appears when it is complete.

    Raises
    ------
    TaskFailed
        It never will be there.
    DeadlineExceeded
        It was not there in time.
    FailedPrecondition
        It cannot be written there.
    """
    from runtime.errors import DeadlineExceeded, FailedPrecondition

    handle = client.attach(session).handle(key, (key,))
    try:
        async with asyncio.timeout(options.timeout) as bound:
            await handle.available(key)
    except TimeoutError:
        if not bound.expired():
            raise
        raise DeadlineExceeded(f"result {key!r} was not there within {options.timeout:g} s") from None
    if options.to == "-":
        async for piece in handle.stream(key):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    whole = Path(options.to)
    partial = whole.with_name(whole.name + ".part")
    try:
        with open(partial, "wb") as file:
            async for piece in handle.stream(key):
                file.write(piece)
        partial.replace(whole)
    except OSError as error:
        raise FailedPrecondition(f"--to {whole}: {error.filename or partial} cannot be written: {error.strerror}"
                                 ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
