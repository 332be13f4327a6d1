"""``tensor-runtime agent``: take commands from a server and run them on this machine."""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.agent.agent import Agent
    from runtime.agent.options import AgentOptions
    from runtime.commands.limits import CommandLimits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from runtime.cli.access_flags import add_access_flags
    from runtime.cli.report_flags import add_report_flags

    parser.add_argument("server", metavar="SERVER", help="grpc://HOST:PORT, grpcs://HOST:PORT or unix:PATH")
    parser.add_argument("--name", default=socket.gethostname(), help="of this worker [%(default)s]")
    parser.add_argument("--concurrency", type=int, default=1, metavar="N",
                        help="commands at once, until the server says otherwise [%(default)s]")
    parser.add_argument("--state-dir", type=Path, default=None, metavar="DIR",
                        help="folder of this agent and its commands [below the user's data folder]")
    parser.add_argument("--managed", action="store_true", help=argparse.SUPPRESS)
    allowed = parser.add_argument_group("what is run")
    allowed.add_argument("--allow-bare", action="store_true", help="run commands without a container, too")
    allowed.add_argument("--no-container", action="store_true", help="run no containers")
    allowed.add_argument("--container-program", default="", metavar="NAME",
                         help="what runs containers [docker or podman, whichever works]")
    allowed.add_argument("--sandbox", choices=("auto", "on", "off"), default="auto",
                         help="run bare commands in bubblewrap: where it works, always, never [%(default)s]")
    allowed.add_argument("--env", action="append", default=[], metavar="NAME[=VALUE]",
                         help="variable of every command's environment; without a value, this agent's, which others do "
                         "not see among the processes; repeatable")
    limits = parser.add_argument_group("limits of each command (0: none); it may ask for less")
    limits.add_argument("--task-time", type=float, default=0.0, metavar="SECONDS")
    limits.add_argument("--task-memory", default="0", metavar="SIZE")
    limits.add_argument("--task-processes", type=int, default=0, metavar="N")
    limits.add_argument("--task-files", type=int, default=0, metavar="N")
    limits.add_argument("--task-output", default="256MiB", metavar="SIZE")
    shared = parser.add_argument_group("shared by the commands")
    shared.add_argument("--cpus", type=int, default=0, metavar="N", help="processors [all]")
    shared.add_argument("--memory", default="0", metavar="SIZE", help="memory [all]")
    ends = parser.add_argument_group("ends")
    ends.add_argument("--grace", type=float, default=0.0, metavar="SECONDS",
                      help="time that running commands get when this agent is asked to stop [%(default)g]")
    ends.add_argument("--kill-grace", type=float, default=10.0, metavar="SECONDS",
                      help="time between SIGTERM and SIGKILL [%(default)g]")
    ends.add_argument("--away", type=float, default=60.0, metavar="SECONDS",
                      help="a command ends when its agent has been gone for so long [%(default)g]")
    ends.add_argument("--keep-failed", action="store_true", help="keep the folders of commands that fail")
    access = parser.add_argument_group("access")
    add_access_flags(access)
    add_report_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Work until SIGTERM or SIGINT."""
    import asyncio

    from runtime import log
    from runtime.store import failpoints

    log.configure("info", "text")
    failpoints.load()
    return asyncio.run(_work(options))


async def _work(options: argparse.Namespace) -> int:
    import asyncio
    import signal

    from runtime.cli.report_flags import reporting

    agent = _agent(options)
    reports = reporting(options, {})
    if options.managed:
        # Not the folder of the server, which it outlives.
        os.chdir(options.state_dir)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    with reports:
        await agent.run()
    return 0


def _agent(options: argparse.Namespace) -> Agent:
    from runtime.agent.agent import Agent
    from runtime.agent.calls import Calls
    from runtime.cli.access_flags import access_of

    calls = Calls(options.server, access_of(options.server, options))
    return Agent(_agent_options(options), calls, options.managed)


def _agent_options(options: argparse.Namespace) -> AgentOptions:
    from runtime import config
    from runtime.agent.options import AgentOptions
    from runtime.agent.runners import hidden_files
    from runtime.commands.checks import MAX_CONCURRENCY, check_name
    from runtime.errors import InvalidArgument

    check_name(options.name, "--name")
    if not 0 <= options.concurrency <= MAX_CONCURRENCY:
        raise InvalidArgument(f"--concurrency: {options.concurrency} is not from 0 to {MAX_CONCURRENCY}")
    for flag in ("cpus", "grace", "kill_grace", "away", "task_time", "task_processes", "task_files"):
        if getattr(options, flag) < 0:
            raise InvalidArgument(f"--{flag.replace('_', '-')}: {getattr(options, flag)} is negative")
    environment = {}
    for item in options.env:
        name, separator, value = item.partition("=")
        if not name.isidentifier():
            raise InvalidArgument(f"--env: {name!r} is no name of a variable; expected NAME=VALUE, or NAME")
        if not separator and name not in os.environ:
            raise InvalidArgument(f"--env {name}: this agent has no such variable; give one, or NAME=VALUE")
        environment[name] = value if separator else os.environ[name]
    state = options.state_dir
    if state is None:
        folder = options.name.replace("/", "_")
        state = config.user_data_dir() / "agents" / ("_" + folder if folder.startswith(".") else folder)
    return AgentOptions(
        name=options.name,
        concurrency=options.concurrency,
        state=state.absolute(),
        allows_bare=options.allow_bare,
        allows_containers=not options.no_container,
        sandbox=options.sandbox,
        container_program=options.container_program,
        limits=_limits(options),
        cpus=options.cpus,
        memory=_size(options.memory, "--memory"),
        environment=environment,
        grace_s=options.grace,
        kill_grace_s=options.kill_grace,
        away_s=options.away,
        keeps_failed=options.keep_failed,
        hidden=hidden_files(options.access_token_file, options.key),
    )


def _limits(options: argparse.Namespace) -> CommandLimits:
    from runtime.commands.limits import CommandLimits

    return CommandLimits(
        time_s=options.task_time,
        memory=_size(options.task_memory, "--task-memory"),
        processes=options.task_processes,
        output=_size(options.task_output, "--task-output"),
        files=options.task_files,
    )


def _size(text: str, flag: str) -> int:
    from runtime.config import parse_size
    from runtime.errors import InvalidArgument

    if text.strip() == "0":
        return 0
    try:
        return parse_size(text)
    except ValueError as error:
        raise InvalidArgument(f"{flag}: {text!r}: {error}") from None
