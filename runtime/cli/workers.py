"""``tensor-runtime workers``: for a server's tasks (list, add, remove), or commands (list, create, delete)."""

from __future__ import annotations

import argparse
from typing import Any

_SERVICE = "/runtime.v1.Workers/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of all forms."""
    from runtime.cli.listing import add_output_flag
    from runtime.cli.task_plane import add_server_flags

    forms = parser.add_subparsers(dest="form", required=True)
    listed = forms.add_parser("list", help="list workers with what each does, or why it gets no tasks")
    add_output_flag(listed)
    listed.add_argument("--of", choices=("tasks", "commands"), default="tasks", help="which workers [tasks]")
    create = forms.add_parser("create", help="have a provider make workers for commands, and print their ids")
    create.add_argument("--provider", default="local", help="[local: processes on the server's machine]")
    create.add_argument("--number", type=int, default=1, metavar="N", help="how many [1]")
    create.add_argument("--concurrency", type=int, default=1, metavar="N", help="commands that each runs at once [1]")
    create.add_argument("--prefetch", type=int, default=0, metavar="N", help="commands that each may hold besides [0]")
    create.add_argument("--flavor", default="", help="kind of machine, in the provider's words")
    delete = forms.add_parser("delete", help="delete workers for commands")
    delete.add_argument("ids", type=int, metavar="ID", nargs="+")
    add = forms.add_parser("add", help="use a worker that does not register by itself")
    add.add_argument("--name", default="", help="what it is listed as [its endpoint]")
    add.add_argument("--concurrency", type=int, default=1, metavar="N", help="tasks at a time [1]")
    remove = forms.add_parser("remove", help="use a worker no more; ends when none of its tasks runs any more")
    remove.add_argument("--grace", type=float, default=None, metavar="SECONDS",
                        help="what its tasks get to end before they go back to the queue [as long as it takes]")
    for form in (add, remove):
        form.add_argument("endpoint", metavar="ENDPOINT",
                          help="unix:PATH, HOST:PORT, or grpcs://HOST:PORT for TLS, as the server reaches it")
    for form in forms.choices.values():
        add_server_flags(form)


def run(options: argparse.Namespace) -> int:
    """Do what the form says."""
    if options.form in ("create", "delete") or getattr(options, "of", "") == "commands":
        return _of_commands(options)
    from runtime import wire
    from runtime.cli.task_plane import asked

    messages = wire.runtime_v1
    if options.form == "add":
        request: Any = messages.AddWorkerRequest(
            endpoint=options.endpoint, name=options.name, concurrency=options.concurrency
        )
        asked(options, lambda client: client.calls.unary(_SERVICE + "Add", request, messages.AddWorkerReply))
        print(f"added {options.endpoint}")
        return 0
    if options.form == "remove":
        request = messages.RemoveWorkerRequest(endpoint=options.endpoint)
        if options.grace is not None:
            request.grace_s = options.grace
        asked(options, lambda client: client.calls.unary(_SERVICE + "Remove", request, messages.RemoveWorkerReply))
        print(f"removed {options.endpoint}")
        return 0
    request = messages.ListWorkersRequest()
    reply = asked(options, lambda client: client.calls.unary(_SERVICE + "List", request, messages.ListWorkersReply))
    if options.output == "json":
        from runtime.cli.listing import as_json

        print(as_json([_plain(worker) for worker in reply.worker]))
    else:
        _print(list(reply.worker))
    return 0


def _of_commands(options: argparse.Namespace) -> int:
    from runtime.cli.listing import as_json, table
    from runtime.cli.status import default_target
    from runtime.client.commands import CommandClient

    with CommandClient(
        options.server or default_target(), retry_s=0.0, token=options.token, ca=options.ca, cert=options.cert,
        key=options.key, server_name=options.server_name,
    ) as client:
        if options.form == "create":
            for number in client.create_workers(
                options.provider, options.number, concurrency=options.concurrency, prefetch=options.prefetch,
                flavor=options.flavor,
            ):
                print(number)
            return 0
        if options.form == "delete":
            for number in options.ids:
                client.delete_worker(number)
                print(f"deleted {number}")
            return 0
        workers = client.workers()
    if options.output == "json":
        print(as_json([worker._asdict() for worker in workers]))
    else:
        rows = [(str(worker.id), worker.name, str(worker.concurrency)) for worker in workers]
        print(table(("ID", "NAME", "CONCURRENCY"), rows))
    return 0


def _print(workers: list[Any]) -> None:
    from runtime.cli.listing import table

    rows = [
        (
            worker.endpoint, worker.name, worker.state, f"{len(worker.task_id)}/{worker.concurrency}",
            str(worker.num_ended), str(worker.num_failed), " ".join(worker.task_id) or "-",
        )
        for worker in workers
    ]
    print(table(("ENDPOINT", "NAME", "STATE", "RUNNING", "ENDED", "FAILED", "TASKS"), rows))


def _plain(worker: Any) -> dict[str, Any]:
    return {
        "endpoint": worker.endpoint,
        "name": worker.name,
        "state": worker.state,
        "concurrency": worker.concurrency,
        "task_ids": list(worker.task_id),
        "num_ended": worker.num_ended,
        "num_failed": worker.num_failed,
        "seconds": worker.seconds,
        "is_registered": worker.is_registered,
    }
