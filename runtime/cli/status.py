"""``tensor-runtime status``: what a server and the other tasks of its cluster are doing, and what they wait for."""

from __future__ import annotations

import argparse
from typing import Any

TIMEOUT_S = 3.0
FORMATS = ("table", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from runtime.cli.access_flags import add_access_flags

    parser.epilog = "The status is 1 when a task does not answer."
    parser.add_argument("target", nargs="?", metavar="TARGET",
                        help="grpc://HOST:PORT, grpcs://HOST:PORT or unix:PATH of a server of this project; of a "
                             "cluster, any task. Left out: the cluster that tensor-runtime cluster has started, else "
                             "the default address")
    parser.add_argument("-o", "--output", choices=FORMATS, default=FORMATS[0], help=f"[{FORMATS[0]}]")
    parser.add_argument("--only-this-task", action="store_true", help="ask no other task of its cluster")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="S",
                        help=f"seconds that each other task gets to answer [{TIMEOUT_S:g}]")
    parser.add_argument("--watch", type=float, metavar="S", help="ask again every so many seconds, until interrupted")
    add_access_flags(parser.add_argument_group("for a server that asks who is calling"))


def run(options: argparse.Namespace) -> int:
    """Print the status; return 1 when a task does not answer."""
    from runtime.errors import Error, InvalidArgument

    if options.watch is None:
        return _show(options)
    if not options.watch > 0:
        raise InvalidArgument(f"--watch must be more than 0 seconds, got {options.watch:g}")
    import signal
    import sys
    import threading
    import time

    code = 0
    is_interrupted = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal is_interrupted
        is_interrupted = True  # where it is raised inside of a destructor of some library's, Python goes on without it
        raise KeyboardInterrupt

    is_own = threading.current_thread() is threading.main_thread()
    is_own = is_own and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_own:
        signal.signal(signal.SIGINT, interrupt)
    try:
        while not is_interrupted:
            if sys.stdout.isatty() and options.output == "table":
                print("\x1b[H\x1b[2J", end="")
            try:
                code = _show(options)
            except InvalidArgument:
                raise
            except Error as error:  # it may come back
                code = 1
                print(error)
            sys.stdout.flush()
            time.sleep(options.watch)
    except KeyboardInterrupt:
        pass
    finally:
        if is_own:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    return code


def _show(options: argparse.Namespace) -> int:
    from runtime.cli.access_flags import access_of
    from runtime.client.status import fetch_status

    target = options.target or default_target()
    response = fetch_status(target, access_of(target, options), options.timeout,
                            only_this_task=options.only_this_task)
    if options.output == "json":
        print(status_json(response))
    else:
        from runtime.observe.status_table import status_table

        print(status_table(response))
    # A task of another kind tells its devices, which is an answer.
    return int(any(task.error and not task.device for task in response.task))


def status_json(response: Any) -> str:
    """Return a StatusResponse as JSON: every field by its name in the protocol, numbers as numbers."""
    import json

    return json.dumps(plain(response), indent=2)


def plain(message: Any) -> dict[str, Any]:
    """Return a message as plain values, every field by its name in the protocol."""
    table: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if hasattr(value, "DESCRIPTOR"):
            value = plain(value)
        elif not isinstance(value, (str, int, float)):  # a repeated field
            value = [plain(item) if hasattr(item, "DESCRIPTOR") else item for item in value]
        table[field.name] = value
    return table


def default_target() -> str:
    """Return the target when none is named: the local cluster's, if one runs, else the default address."""
    from runtime.config import DEFAULT_LISTEN
    from runtime.local_cluster.state_file import default_directory, read_record

    record = read_record(default_directory())
    if record is not None and record.is_alive and record.target:
        return record.target
    return f"grpc://{DEFAULT_LISTEN}"
