"""The command ``tensor-runtime``: a table of subcommands, each a module that is imported when it is called for."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

# Subcommand to (module, what it does). The module has `add_arguments(parser)` and `run(options) -> int`, the exit
# status, and imports what it needs inside these, so that --help stays quick.
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("runtime.cli.serve", "serve until SIGTERM or SIGINT"),
    "config": ("runtime.cli.config", "show the settings and where each comes from"),
    "cert": ("runtime.cli.cert", "make a certificate authority and certificates signed by it"),
    "token": ("runtime.cli.token", "make, list and revoke the bearer tokens that a server accepts"),
    "cluster": ("runtime.cli.cluster", "run a cluster of server processes on this machine"),
    "status": ("runtime.cli.status", "show what a server and its cluster are doing, and what each waits for"),
    "metrics": ("runtime.cli.metrics", "print what a server has counted and holds, for Prometheus and its kind"),
    "session": ("runtime.cli.session", "list, show, cancel and await sessions of tasks"),
    "task": ("runtime.cli.task", "list, show, cancel and await tasks, and tell why one does not run"),
    "result": ("runtime.cli.result", "list, await and fetch results of tasks"),
    "workers": ("runtime.cli.workers", "list, add and remove workers for tasks, make and delete those for commands"),
    "worker": ("runtime.cli.worker", "run tasks by a Python function, in processes of its own"),
    "command": ("runtime.cli.command", "submit shell commands, follow their output, wait for their end"),
    "agent": ("runtime.cli.agent", "take commands from a server and run them on this machine"),
    "fleet": ("runtime.cli.fleet", "show the servers and machines that a fleet knows"),
    "machine": ("runtime.cli.machine", "report this machine's interfaces to a server"),
    "trace": ("runtime.cli.trace", "trace the next steps of a server, or read traces that were saved"),
    "ops": ("runtime.cli.ops", "list the op types that run here and those that do not yet"),
    "version": ("runtime.cli.version", "print the version"),
}
PROGRAM = "tensor-runtime"
# The usual statuses: 1 for what went wrong, 2 for what was asked wrongly, 130 for what the keyboard interrupted.
FAILED = 1
MISUSED = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the program's name; ``sys.argv[1:]`` when left out.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            return _called(words)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has gone (`| head`). Python would try to flush the rest at exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _called(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        words[0] = "version"
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else MISUSED
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        print(f"{PROGRAM}: no command is called {name!r}{_suggestion(name)}\n\n{usage()}", file=sys.stderr)
        return MISUSED
    module_name, help_text = COMMANDS[name]
    module = importlib.import_module(module_name)
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {name}", description=f"{help_text[0].upper()}{help_text[1:]}.")
    module.add_arguments(parser)
    options = parser.parse_args(rest)
    options.words = rest

    from runtime.errors import Error, InvalidArgument

    try:
        return int(module.run(options))
    except InvalidArgument as error:
        print(f"{PROGRAM} {name}: {error}", file=sys.stderr)
        return MISUSED
    except Error as error:
        print(f"{PROGRAM} {name}: {error}", file=sys.stderr)
        return FAILED


def usage() -> str:
    """Return the text of ``tensor-runtime --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {help_text}" for name, (_, help_text) in COMMANDS.items()]
    return "\n".join(
        [f"usage: {PROGRAM} COMMAND [OPTIONS]", "", "commands:", *lines, "", f"{PROGRAM} COMMAND --help tells more."]
    )


def _suggestion(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, list(COMMANDS), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
