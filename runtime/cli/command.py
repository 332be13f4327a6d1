"""``tensor-runtime command submit|list|show|logs|cancel|retry|hold|release|why|wait``: shell commands on workers."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.client.commands import Command, CommandClient


_OUTPUT = ("O", "o", "out", "stdout")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of all forms."""
    from runtime.cli.listing import add_output_flag
    from runtime.cli.task_plane import add_server_flags

    forms = parser.add_subparsers(dest="form", required=True)
    submit = forms.add_parser("submit", help="submit a command and print its id")
    submit.add_argument("text", metavar="COMMAND", help="what `sh -c` gets, as one word; -: what standard input has")
    submit.add_argument("--container", default="", metavar="IMAGE", help="image to run it in, or bare [the server's]")
    submit.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="variable; repeatable")
    submit.add_argument("--chdir", default="", metavar="DIR", help="folder to run in [one of its own]")
    submit.add_argument("--time", metavar="SECONDS", help="end it after so long")
    submit.add_argument("--memory", metavar="SIZE", help="end it when all its processes together have more")
    submit.add_argument("--processes", metavar="N", help="end it when it has more processes")
    submit.add_argument("--files", metavar="N", help="open files that each of its processes may have")
    submit.add_argument("--output", metavar="SIZE", help="keep so much of its output")
    submit.add_argument("--wait", action="store_true", help="show its output, and end with status 1 if it fails")
    listed = forms.add_parser("list", help="list commands, the oldest first")
    listed.add_argument("--status", default="", metavar="LETTERS", help="only these, such as PAR or F [all]")
    listed.add_argument("--limit", type=int, default=0, metavar="N", help="so many at most [all]")
    listed.add_argument("--tail", type=int, default=0, metavar="N", help="only the last N [all]")
    show = forms.add_parser("show", help="show one command")
    logs = forms.add_parser("logs", help="print a command's output")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the command has ended")
    why = forms.add_parser("why", help="say why a command does not run, or what it does instead")
    retry = forms.add_parser("retry", help="run commands that have ended once more")
    cancel = forms.add_parser("cancel", help="cancel commands")
    hold = forms.add_parser("hold", help="keep commands that wait from being run")
    release = forms.add_parser("release", help="let commands that are held run")
    wait = forms.add_parser("wait", help="wait until commands have ended; the status is 1 if one did not succeed")
    wait.add_argument("--timeout", type=float, default=None, metavar="SECONDS", help="give up after so long")
    for form in (show, logs, why):
        form.add_argument("id", type=int, metavar="ID")
    for form in (retry, cancel, hold, release, wait):
        form.add_argument("ids", type=int, metavar="ID", nargs="+")
    for form in (listed, show, why):
        add_output_flag(form)
    for form in (submit, listed, logs):
        form.add_argument("--plain", action="store_true", help="in the words of the protocol's own command line")
    for form in forms.choices.values():
        add_server_flags(form)


def run(options: argparse.Namespace) -> int:
    """Do what the form says."""
    with client_of(options) as client:
        form = {
            "submit": _submit, "list": _list, "show": _show, "logs": _logs, "why": _why, "retry": _change,
            "cancel": _change, "hold": _change, "release": _change, "wait": _wait,
        }[options.form]
        return form(client, options)


def client_of(options: argparse.Namespace) -> CommandClient:
    """Return a client of the command plane that the flags name; to be closed."""
    from runtime.cli.access_flags import token_of
    from runtime.cli.status import default_target
    from runtime.client.commands import CommandClient

    return CommandClient(
        options.server or default_target(), retry_s=0.0, token=token_of(options), ca=options.ca, cert=options.cert,
        key=options.key, server_name=options.server_name,
    )


def _submit(client: CommandClient, options: argparse.Namespace) -> int:
    from runtime.commands.limits import CommandLimits
    from runtime.errors import InvalidArgument

    environment = {}
    for item in options.env:
        name, separator, value = item.partition("=")
        if not separator:
            raise InvalidArgument(f"--env: {item!r} is not of the form NAME=VALUE")
        environment[name] = value
    asked = {"time": options.time, "memory": options.memory, "processes": options.processes, "files": options.files,
             "output": options.output}
    limits = CommandLimits.of_words({name: text for name, text in asked.items() if text is not None}, "--")
    text = sys.stdin.read() if options.text == "-" else options.text
    number = client.submit(
        text, options.container, limits=limits, environment=environment, directory=options.chdir
    )
    if not options.wait:
        print(f"✅ Task created with ID: {number}" if options.plain else number)
        return 0
    print(number, file=sys.stderr)
    _write(client, number, follow=True)
    return _failed(list(client.join([number]).values()))


def _list(client: CommandClient, options: argparse.Namespace) -> int:
    from runtime.errors import InvalidArgument

    if options.limit < 0:
        raise InvalidArgument(f"--limit must be 0 or more, got {options.limit}")
    if options.tail < 0:
        raise InvalidArgument(f"--tail must be 0 or more, got {options.tail}")
    commands = client.list(options.status, options.limit)[-options.tail or None :]
    if options.plain:
        print("📋 Task List:")
        for one in commands:
            print(f"🆔 ID: {one.id} | Command: {one.command} | Container: {one.container} | Status: {one.status}")
    else:
        _print(commands, options.output, single=False)
    return 0


def _show(client: CommandClient, options: argparse.Namespace) -> int:
    _print([client.get(options.id)], options.output, single=True)
    return 0


def _logs(client: CommandClient, options: argparse.Namespace) -> int:
    if options.plain:
        print(f"📜 Logs for Task {options.id}:")
        for line in client.logs(options.id, follow=options.follow):
            print(f"[{'stdout' if line.type in _OUTPUT else 'stderr'}] {line.text}", flush=True)
        return 0
    _write(client, options.id, follow=options.follow)
    return 0


def _write(client: CommandClient, number: int, *, follow: bool) -> None:
    for line in client.logs(number, follow=follow):
        # What is no ordinary output goes where errors go.
        print(line.text, file=sys.stdout if line.type in _OUTPUT else sys.stderr, flush=True)


def _why(client: CommandClient, options: argparse.Namespace) -> int:
    from runtime.cli.listing import as_json

    command = client.get(options.id)
    reasons = _reasons(client, command)
    if options.output == "json":
        print(as_json({"id": command.id, "status": str(command.status), "why": reasons}))
        return 0
    print(f"{command.id} is {command.status.name}")
    for reason in reasons:
        print(f"- {reason}")
    return 0


def _reasons(client: CommandClient, command: Command) -> list[str]:
    from runtime.commands.model import ACTIVE, Status

    told = {
        Status.ASSIGNED: "a worker was told of it and has not taken it yet",
        Status.SUSPENDED: f"somebody has held it: `tensor-runtime command release {command.id}` queues it again",
        Status.SUCCEEDED: "it has ended well",
        Status.FAILED: f"it has failed: `tensor-runtime command logs {command.id}` says how",
        Status.CANCELLED: "it was canceled",
    }
    if command.status is not Status.PENDING:
        return [told.get(command.status, "a worker has it")]
    workers = client.workers()
    slots = sum(worker.concurrency for worker in workers)
    active = len(client.list("".join(sorted(ACTIVE))))
    before = sum(1 for one in client.list(str(Status.PENDING)) if one.id < command.id)
    reasons = []
    if not workers:
        reasons.append("no worker is known: `tensor-runtime agent TARGET --name NAME` is one")
    elif active >= slots:
        reasons.append(f"all {slots} places of {len(workers)} workers are taken")
    else:
        reasons.append(f"{slots - active} of {slots} places are free, but their workers are silent or paused")
    if before:
        reasons.append(f"{before} commands stand before it")
    return reasons


def _change(client: CommandClient, options: argparse.Namespace) -> int:
    change, done = {
        "retry": (client.retry, "queued"), "cancel": (client.cancel, "canceled"), "hold": (client.hold, "held"),
        "release": (client.release, "queued"),
    }[options.form]
    for number in options.ids:
        change(number)
        print(f"{done} {number}")
    return 0


def _wait(client: CommandClient, options: argparse.Namespace) -> int:
    ended = list(client.join(options.ids, timeout_s=options.timeout).values())
    for command in ended:
        print(f"{command.id} {command.status.name}")
    return _failed(ended)


def _failed(commands: list[Command]) -> int:
    from runtime.commands.model import Status

    return int(any(command.status is not Status.SUCCEEDED for command in commands))


def _print(commands: list[Command], output: str, *, single: bool) -> None:
    from runtime.cli.listing import as_json, table

    if output == "json":
        found: list[dict[str, Any]] = [
            {"id": one.id, "status": str(one.status), "state": one.status.name, "container": one.container,
             "command": one.command}
            for one in commands
        ]
        print(as_json(found[0] if single else found))
        return
    rows = [(str(one.id), one.status.name, one.container, one.command) for one in commands]
    print(table(("ID", "STATUS", "CONTAINER", "COMMAND"), rows))
