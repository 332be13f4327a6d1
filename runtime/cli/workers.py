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
    listed.add_argument("--of", choices=("tasks", "commands"), default=None,
                        help="which workers [all that there are; as JSON: tasks]")
    listed.add_argument("--plain", action="store_true", help="those for commands, in the words of their protocol")
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
    if options.form == "list":
        return _list(options)
    if options.form in ("create", "delete"):
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
    request = messages.RemoveWorkerRequest(endpoint=options.endpoint)
    if options.grace is not None:
        request.grace_s = options.grace
    asked(options, lambda client: client.calls.unary(_SERVICE + "Remove", request, messages.RemoveWorkerReply))
    print(f"removed {options.endpoint}")
    return 0


def _list(options: argparse.Namespace) -> int:
    from runtime.cli.listing import as_json
    from runtime.errors import Unimplemented

    if options.plain:
        print("👷 Worker List:")
        for one in _workers_of_commands(options):
            print(f"🔹 ID: {one.id} | Name: {one.name} | Concurrency: {one.concurrency}")
        return 0
    if options.output == "json":
        if options.of == "commands":
            print(as_json([worker._asdict() for worker in _workers_of_commands(options)]))
        else:
            print(as_json([_plain(worker) for worker in _workers_of_tasks(options)]))
        return 0
    shown = []
    for of, read, text in (("tasks", _workers_of_tasks, _tasks_table), ("commands", _workers_of_commands, _table)):
        if options.of in (None, of):
            try:
                found = text(read(options))
            except Unimplemented:
                if options.of is not None:
                    raise
                continue
            shown.append(found if options.of else f"workers for {of}\n{found}")
    if not shown:
        raise Unimplemented("this server serves neither tasks nor commands")
    print("\n\n".join(shown))
    return 0


def _workers_of_tasks(options: argparse.Namespace) -> list[Any]:
    from runtime import wire
    from runtime.cli.task_plane import asked

    messages = wire.runtime_v1
    request = messages.ListWorkersRequest()
    reply = asked(options, lambda client: client.calls.unary(_SERVICE + "List", request, messages.ListWorkersReply))
    return list(reply.worker)


def _workers_of_commands(options: argparse.Namespace) -> list[Any]:
    from runtime.cli.command import client_of

    with client_of(options) as client:
        return list(client.workers())


def _of_commands(options: argparse.Namespace) -> int:
    from runtime.cli.command import client_of

    with client_of(options) as client:
        if options.form == "create":
            for number in client.create_workers(
                options.provider, options.number, concurrency=options.concurrency, prefetch=options.prefetch,
                flavor=options.flavor,
            ):
                print(number)
            return 0
        for number in options.ids:
            client.delete_worker(number)
            print(f"deleted {number}")
    return 0


def _table(workers: list[Any]) -> str:
    from runtime.cli.listing import table

    return table(("ID", "NAME", "CONCURRENCY"), [(str(one.id), one.name, str(one.concurrency)) for one in workers])


def _tasks_table(workers: list[Any]) -> str:
    from runtime.cli.listing import table

    rows = [
        (
            worker.endpoint, worker.name, worker.state, f"{len(worker.task_id)}/{worker.concurrency}",
            str(worker.num_ended), str(worker.num_failed), " ".join(worker.task_id) or "-",
        )
        for worker in workers
    ]
    return table(("ENDPOINT", "NAME", "STATE", "RUNNING", "ENDED", "FAILED", "TASKS"), rows)


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
