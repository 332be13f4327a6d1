"""``tensor-runtime result list|show|get|wait``: the results of a server's task plane."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.client.tasks.aio import AsyncTaskClient


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of all forms."""
    from runtime.cli.listing import add_output_flag
    from runtime.cli.task_plane import add_file_flag, add_forms, add_server_flags, add_timeout_flag

    forms = add_forms(parser, "list", "show", "get", "wait")
    listed = forms.add_parser("list", help="list the results of a session, and which task makes each")
    listed.add_argument("--status", action="append", default=[], metavar="STATUS",
                        help="only with this status (CREATED, COMPLETED, ABORTED); repeatable")
    listed.add_argument("--limit", type=int, default=0, metavar="N", help="so many at most [all]")
    show = forms.add_parser("show", help="show one result")
    get = forms.add_parser("get", help="write a result to a file or the standard output, as soon as it is there")
    add_file_flag(get)
    wait = forms.add_parser("wait", help="wait until a result is there; the status is 1 if it never will be")
    for form in forms.choices.values():
        form.add_argument("session", metavar="SESSION", help="id of its session")
    for form in (show, get, wait):
        form.add_argument("result", metavar="KEY", help="of the result")
    for form in (get, wait):
        add_timeout_flag(form)
    for form in (listed, show):
        add_output_flag(form)
    for form in forms.choices.values():
        add_server_flags(form)


def run(options: argparse.Namespace) -> int:
    """Do what the form says."""
    return {"list": _list, "show": _show, "get": _get, "wait": _wait}[options.form](options)


def _list(options: argparse.Namespace) -> int:
    from runtime import wire
    from runtime.cli.listing import as_json
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
    _print(results)
    return 0


def _show(options: argparse.Namespace) -> int:
    from runtime import wire
    from runtime.cli.listing import as_json
    from runtime.cli.status import plain
    from runtime.cli.task_plane import asked, inspect
    from runtime.errors import NotFound

    async def find(client: AsyncTaskClient) -> Any:
        message = wire.runtime_v1.ListResultsRequest(session_id=options.session)
        while True:
            page = await inspect(client, "ListResults", message, wire.runtime_v1.ListResultsReply)
            for one in page.result:
                if one.key == options.result:
                    return one
            if not page.next:
                raise NotFound(f"{client.calls.target}: result {options.result!r} is not known in session "
                               f"{options.session!r}: `tensor-runtime result list` shows those that are")
            message.after = page.next

    found = asked(options, find)
    if options.output == "json":
        print(as_json(plain(found)))
    else:
        _print([found])
    return 0


def _print(results: list[Any]) -> None:
    from runtime.cli.listing import table

    rows = [(one.key, one.status, str(one.bytes), one.owner_id, one.owner_status) for one in results]
    print(table(("RESULT", "STATUS", "BYTES", "TASK", "WHICH IS"), rows))


def _get(options: argparse.Namespace) -> int:
    from runtime.cli.task_plane import asked, write_result

    asked(options, lambda client: write_result(client, options.session, options.result, options))
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
