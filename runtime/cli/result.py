"""``tensor-runtime result list|get|wait``: the results of a server's task plane."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.client.tasks.aio import AsyncTaskClient


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of all forms."""
    from runtime.cli.listing import add_output_flag
    from runtime.cli.task_plane import add_forms, add_server_flags, add_timeout_flag

    forms = add_forms(parser, "list", "get", "wait")
    listed = forms.add_parser("list", help="list the results of a session, and which task makes each")
    listed.add_argument("--status", action="append", default=[], metavar="STATUS",
                        help="only with this status (CREATED, COMPLETED, ABORTED); repeatable")
    listed.add_argument("--limit", type=int, default=0, metavar="N", help="so many at most [all]")
    get = forms.add_parser("get", help="write a result to a file or the standard output, as soon as it is there")
    get.add_argument("--to", type=Path, default=None, metavar="FILE", help="[the standard output]")
    wait = forms.add_parser("wait", help="wait until a result is there; the status is 1 if it never will be")
    for form in forms.choices.values():
        form.add_argument("session", metavar="SESSION", help="id of its session")
    for form in (get, wait):
        form.add_argument("result", metavar="KEY", help="of the result")
        add_timeout_flag(form)
    add_output_flag(listed)
    for form in forms.choices.values():
        add_server_flags(form)


def run(options: argparse.Namespace) -> int:
    """Do what the form says."""
    return {"list": _list, "get": _get, "wait": _wait}[options.form](options)


def _list(options: argparse.Namespace) -> int:
    from runtime import wire
    from runtime.cli.listing import as_json, table
    from runtime.cli.status import plain
    from runtime.cli.task_plane import asked, pages
    from runtime.errors import InvalidArgument

    if options.limit < 0:
        raise InvalidArgument(f"--limit must be 0 or more, got {options.limit}")
    message = wire.runtime_v1.ListResultsRequest(session_id=options.session, status=options.status)
    results = asked(
        options,
        lambda client: pages(client, "ListResults", message, wire.runtime_v1.ListResultsReply, "result", options.limit),
    )
    if options.output == "json":
        print(as_json([plain(one) for one in results]))
        return 0
    rows = [(one.key, one.status, str(one.bytes), one.owner_id, one.owner_status) for one in results]
    print(table(("RESULT", "STATUS", "BYTES", "TASK", "WHICH IS"), rows))
    return 0


def _get(options: argparse.Namespace) -> int:
    import asyncio

    from runtime.cli.task_plane import asked
    from runtime.errors import DeadlineExceeded, FailedPrecondition

    async def fetch(client: AsyncTaskClient) -> None:
        handle = client.attach(options.session).handle(options.result, (options.result,))
        try:
            async with asyncio.timeout(options.timeout) as bound:
                await handle.available(options.result)
                bound.reschedule(None)
                await _write(handle)
        except TimeoutError:
            if not bound.expired():
                raise
            raise DeadlineExceeded(f"result {options.result!r} was not there within {options.timeout:g} s") from None

    async def _write(handle: Any) -> None:
        if options.to is None:
            async for piece in handle.stream(options.result):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        # A file that is there is complete.
        partial = options.to.with_name(options.to.name + ".part")
        try:
            with open(partial, "wb") as file:
                async for piece in handle.stream(options.result):
                    file.write(piece)
            partial.replace(options.to)
        except OSError as error:
            raise FailedPrecondition(f"{error.filename or options.to} cannot be written: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)

    asked(options, fetch)
    return 0


def _wait(options: argparse.Namespace) -> int:
    from runtime.cli.task_plane import asked

    async def wait(client: AsyncTaskClient) -> Any:
        handle = client.attach(options.session).handle(options.result, (options.result,))
        await handle.wait(options.timeout)
        return handle.failure

    failure = asked(options, wait)
    print(f"{options.result} {'COMPLETED' if failure is None else failure}")
    return int(failure is not None)
