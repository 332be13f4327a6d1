"""``tensor-runtime cluster``: a cluster of server processes on this machine, started, shown and ended."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

TIMEOUT_S = 10.0
# A cluster of many tasks on a busy machine; an end that is noticed ends the wait, too.
DETACHED_START_S = 120.0
STATUS_TIMEOUT_S = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    from runtime.cli.settings_flags import add_setting_flags
    from runtime.local_cluster.cluster import OWN_SETTINGS

    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # No abbreviations: the words go to another process, less --detach.
    up = commands.add_parser("up", help="start a cluster and watch it until SIGTERM or SIGINT", allow_abbrev=False,
                             description="Start a cluster. Standard output gets the tasks and, once all of them serve, "
                                         "a line `ready TARGET`; standard error the logs of all tasks.")
    up.add_argument("--workers", type=int, default=2, metavar="N", help="tasks of the job worker [2]")
    up.add_argument("--ps", type=int, default=0, metavar="M", help="tasks of the job ps [0]")
    up.add_argument("--chief", action="store_true", help="a job chief with one task, which clients then connect to")
    up.add_argument("--detach", action="store_true", help="leave it in the background; `cluster down` ends it")
    settings = up.add_argument_group("settings of every task, as for tensor-runtime serve")
    add_setting_flags(settings, leave_out=OWN_SETTINGS)
    status = commands.add_parser("status", help="show its processes and what they are doing",
                                 description="Show the processes of the cluster and what they are doing. The exit "
                                             "status is 1 when there is none, or a task does not run.")
    status.add_argument("-o", "--output", choices=("table", "json"), default="table", help="[table]")
    down = commands.add_parser("down", help="end it",
                               description="End the cluster: with SIGTERM, and with SIGKILL what is left after the "
                                           "timeout.")
    down.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="S", help=f"seconds [{TIMEOUT_S:g}]")
    for command in (up, status, down):
        command.add_argument("--dir", type=Path, metavar="DIR", help="for logs, data and the cluster's record; one "
                                                                     "cluster each [cluster in the user's data folder]")


def run(options: argparse.Namespace) -> int:
    """Do what the subcommand says."""
    from runtime.local_cluster.state_file import default_directory

    directory = default_directory() if options.dir is None else options.dir.expanduser().absolute()
    if options.command == "up":
        return _up_detached(directory, options) if options.detach else _up(directory, options)
    if options.command == "status":
        return _status(directory, options.output)
    return _down(directory, options.timeout)


def _up(directory: Path, options: argparse.Namespace) -> int:
    from runtime import config
    from runtime.errors import InvalidArgument
    from runtime.local_cluster.supervisor import supervise

    for name in ("workers", "ps"):
        if getattr(options, name) < 0:
            raise InvalidArgument(f"--{name} must be 0 or more, got {getattr(options, name)}")
    jobs = {"chief": int(options.chief), "ps": options.ps, "worker": options.workers}
    names = [entry.name for entry in config.setting_fields()]
    settings = {name: getattr(options, name, None) for name in names}
    return supervise(directory, jobs, {name: value for name, value in settings.items() if value is not None})


def _up_detached(directory: Path, options: argparse.Namespace) -> int:
    """Start the same command in the background, and wait until its cluster is ready."""
    import subprocess
    import sys
    import time

    from runtime.errors import DeadlineExceeded, InvalidArgument
    from runtime.local_cluster.state_file import SERVING, claimed, read_record
    from runtime.local_cluster.task_process import command_line

    with claimed(directory):  # an error of that kind is told here
        log_path = directory / "cluster.log"
        try:
            log = open(log_path, "wb")  # noqa: SIM115 - closed below, when the other process has it
        except OSError as error:
            raise InvalidArgument(f"{log_path} cannot be written: {error.strerror}") from None
    words = [word for word in options.words if word != "--detach"]
    with log:
        process = subprocess.Popen(command_line("cluster", *words, "--dir", str(directory)), stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + DETACHED_START_S
    while time.monotonic() < deadline:
        record = read_record(directory)
        if record is not None and record.process.pid == process.pid and record.state == SERVING:
            for task in record.tasks:
                print(f"{task.job}/{task.index}  grpc://{task.address}  {task.log}")
            print(f"ready {record.target}", flush=True)
            process.returncode = 0  # it goes on without this process
            return 0
        if process.poll() is not None:
            print(log_path.read_text(errors="replace").rstrip(), file=sys.stderr)
            return process.returncode or 1
        time.sleep(0.02)
    process.terminate()
    process.wait(TIMEOUT_S)
    raise DeadlineExceeded(f"the cluster was not ready within {DETACHED_START_S:g} s; its log is {log_path}")


def _status(directory: Path, output: str) -> int:
    import json
    from dataclasses import asdict

    from runtime.cli.status import plain
    from runtime.client.access import Access
    from runtime.client.status import fetch_status
    from runtime.errors import Error
    from runtime.local_cluster.state_file import SERVING, read_record
    from runtime.observe.status_table import status_table

    record = read_record(directory)
    response: Any = None
    problem = ""
    is_alive = record is not None and record.is_alive
    if record is not None and is_alive and record.state == SERVING:
        # The first task may be the one that has died.
        for task in sorted(record.tasks, key=lambda task: f"grpc://{task.address}" != record.target):
            if task.state == "running":
                try:
                    response = fetch_status(f"grpc://{task.address}", Access(), STATUS_TIMEOUT_S)
                    break
                except Error as error:
                    problem = problem or str(error)
    if output == "json":
        table = None if record is None else {**asdict(record), "is_alive": is_alive, "tasks": [
            {**asdict(task), "state": task.state} for task in record.tasks]}
        print(json.dumps({"directory": str(directory), "cluster": table,
                          "status": None if response is None else plain(response)}, indent=2))
    elif record is None:
        print(f"no cluster runs in {directory}")
    else:
        print(_process_table(directory, record, is_alive))
        if response is not None:
            print(f"\n{status_table(response)}")
        elif problem:
            print(f"\n{problem}")
    return int(not is_alive or record is None or any(task.state != "running" for task in record.tasks))


def _process_table(directory: Path, record: Any, is_alive: bool) -> str:
    import time

    from runtime.observe.status_table import aligned, duration

    if is_alive:
        head = f"cluster in {directory}: {record.state}, process {record.process.pid}"
        head += f", target {record.target}" if record.target else ""
    else:
        head = f"cluster in {directory}: process {record.process.pid} is gone; `tensor-runtime cluster down` clears up"
    if not record.tasks:
        return head
    now = time.time()
    rows = [("TASK", "ADDRESS", "PID", "SINCE", "PROCESS", "LOG")]
    rows += [(f"{task.job}/{task.index}", task.address, str(task.process.pid if task.process else "-"),
              duration(now - task.started_at), task.state, task.log) for task in record.tasks]
    return f"{head}\n\n{aligned(rows)}"


def _down(directory: Path, timeout_s: float) -> int:
    from runtime.local_cluster.supervisor import end_cluster

    record = end_cluster(directory, timeout_s)
    if record is None:
        print(f"no cluster runs in {directory}")
    else:
        tasks = ", ".join(f"{task.job}/{task.index}" for task in record.tasks) or "no task yet"
        print(f"ended the cluster in {directory}: {tasks}")
    return 0
