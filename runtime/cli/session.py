"""``tensor-runtime session list|show|cancel|wait|delete``: the sessions of a server's task plane."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.client.tasks.aio import AsyncTaskClient

STATUSES = ("RUNNING", "CANCELED")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of all forms."""
    from runtime.cli.listing import add_output_flag
    from runtime.cli.task_plane import add_forms, add_server_flags, add_timeout_flag

    forms = add_forms(parser, "list", "show", "cancel", "wait", "delete")
    listed = forms.add_parser("list", help="list sessions with their tasks by status")
    listed.add_argument("--status", type=str.upper, choices=STATUSES, default=None, help="only these")
    show = forms.add_parser("show", help="show one session")
    cancel = forms.add_parser("cancel", help="cancel a session and all of its tasks")
    wait = forms.add_parser("wait", help="wait until all tasks of a session have ended; status 1 if one failed")
    add_timeout_flag(wait)
    delete = forms.add_parser("delete", help="delete sessions in which all has ended, with their tasks and results")
    delete.add_argument("sessions", metavar="SESSION", nargs="+", help="their ids")
    for form in (show, cancel, wait):
        form.add_argument("session", metavar="SESSION", help="its id")
    for form in (listed, show):
        add_output_flag(form)
    for form in forms.choices.values():
        add_server_flags(form)


def run(options: argparse.Namespace) -> int:
    """Do what the form says."""
    from runtime.cli.task_plane import asked

    if options.form == "cancel":
        asked(options, lambda client: client.attach(options.session).cancel())
        print(f"canceled {options.session}")
        return 0
    if options.form == "delete":
        return _delete(options)
    if options.form == "wait":
        return _wait(options)
    sessions = asked(options, lambda client: _sessions(client, options))
    if options.output == "json":
        from runtime.cli.listing import as_json

        plain = [_plain(session) for session in sessions]
        print(as_json(plain if options.form == "list" else plain[0]))
    else:
        _print(sessions)
    return 0


async def _sessions(client: AsyncTaskClient, options: argparse.Namespace) -> list[Any]:
    from runtime import wire
    from runtime.cli.task_plane import inspect

    message = wire.runtime_v1.ListSessionsRequest(session_id=getattr(options, "session", ""))
    reply = await inspect(client, "ListSessions", message, wire.runtime_v1.ListSessionsReply)
    wanted = getattr(options, "status", None)
    return [session for session in reply.session if wanted is None or session.status == wanted]


def _print(sessions: list[Any]) -> None:
    from runtime.cli.listing import date, table

    rows = [
        (
            session.session_id, session.status, date(session.created_s), str(session.options.priority),
            " ".join(f"{name}={count}" for name, count in sorted(session.num_tasks.items())) or "-",
        )
        for session in sessions
    ]
    print(table(("SESSION", "STATUS", "CREATED", "PRIORITY", "TASKS"), rows))


def _plain(session: Any) -> dict[str, Any]:
    options = session.options
    return {
        "session_id": session.session_id,
        "status": session.status,
        "created_s": session.created_s,
        "canceled_s": session.canceled_s or None,
        "options": {
            "priority": options.priority, "max_retries": options.max_retries, "max_duration_s": options.max_duration_s,
            "options": dict(options.options),
        },
        "num_tasks": dict(session.num_tasks),
    }


def _delete(options: argparse.Namespace) -> int:
    from runtime.cli.task_plane import asked

    async def delete(client: AsyncTaskClient) -> None:
        from runtime import wire
        from runtime.cli.task_plane import inspect

        for session in options.sessions:
            message = wire.runtime_v1.DeleteSessionRequest(session_id=session)
            await inspect(client, "DeleteSession", message, wire.runtime_v1.DeleteSessionReply)
            print(f"deleted {session}")

    asked(options, delete)
    return 0


def _wait(options: argparse.Namespace) -> int:
    from runtime.cli.task_plane import asked

    async def ended(client: AsyncTaskClient) -> tuple[dict[str, int], bool]:
        counts = await client.attach(options.session).wait(options.timeout)
        # An attempt that was tried again has failed, too; what counts is whether results are missing.
        return counts, bool(await _aborted(client, options.session))

    counts, has_failed = asked(options, ended)
    print(" ".join(f"{name}={count}" for name, count in sorted(counts.items())) or "no tasks")
    return int(has_failed)


async def _aborted(client: AsyncTaskClient, session: str) -> list[Any]:
    from runtime import wire
    from runtime.cli.task_plane import pages

    message = wire.runtime_v1.ListResultsRequest(session_id=session, status=["ABORTED"])
    return await pages(client, "ListResults", message, wire.runtime_v1.ListResultsReply, "result", 1)
