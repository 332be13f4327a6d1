"""``tensor-runtime worker``: a Python function as a worker, in one process or several that are kept running."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.client.access import Access
    from runtime.config import Settings

DEFAULT_SERVER = "grpc://127.0.0.1:2222"
_OWN_SETTINGS = (
    "tls_cert", "tls_key", "tls_client_ca", "token_file", "insecure", "grace_s", "loop", "log_level", "log_format",
)
_MAX_PROCESSES = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from runtime import config
    from runtime.cli.access_flags import add_access_flags
    from runtime.cli.report_flags import add_report_flags
    from runtime.cli.settings_flags import add_setting_flags

    parser.add_argument("function", metavar="MODULE:FUNCTION",
                        help="what runs tasks; see runtime.tasks.worker")
    parser.add_argument("--server", action="append", metavar="TARGET",
                        help=f"server whose tasks are run; may be given several times [{DEFAULT_SERVER}]")
    parser.add_argument("--no-register", action="store_true",
                        help="tell no server: agents come to --listen by themselves")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="worker processes [1]")
    parser.add_argument("--concurrency", type=int, default=1, metavar="N", help="tasks at a time in each [1]")
    parser.add_argument("--name", default="", help="what the server lists it as [MODULE:FUNCTION]")
    parser.add_argument("--listen", metavar="ADDRESS",
                        help="HOST:PORT or unix:PATH where agents reach it; the port, or path, of each further process "
                        "is one more [a unix socket of its own]")
    parser.add_argument("--advertise", default="", metavar="HOST",
                        help="host by which the servers reach this machine [that of --listen]")
    access = parser.add_argument_group("how to get into the servers")
    add_access_flags(access, "--server-token-file")
    add_report_flags(parser)
    own = parser.add_argument_group("the worker's own port")
    names = {entry.name for entry in config.setting_fields()}
    add_setting_flags(own, leave_out=names - set(_OWN_SETTINGS))
    parser.add_argument("--serve-at", help=argparse.SUPPRESS)  # one of the processes: its address


def run(options: argparse.Namespace) -> int:
    """Run until a signal ends it; return the exit status."""
    from runtime import config, log
    from runtime.errors import InvalidArgument

    if not 1 <= options.processes <= _MAX_PROCESSES:
        raise InvalidArgument(f"--processes must be from 1 to {_MAX_PROCESSES}, got {options.processes}")
    if options.concurrency < 1:
        raise InvalidArgument(f"--concurrency must be 1 or more, got {options.concurrency}")
    if options.no_register and options.listen is None and options.serve_at is None:
        raise InvalidArgument("--no-register needs --listen: agents must know where to come to")
    flags = {name: getattr(options, name) for name in _OWN_SETTINGS}
    settings = config.load({**flags, "listen": options.serve_at}, defaults={"grace_s": 30.0}, user_file=False).settings
    log.configure(settings.log_level, settings.log_format)
    servers = _servers(options)
    if options.serve_at is not None:
        return _serve(options, settings, servers)
    return _supervise(options, settings, servers)


def _servers(options: argparse.Namespace) -> list[tuple[str, Access]]:
    from runtime.cli.access_flags import access_of
    from runtime.client.access import address_of

    if options.no_register:
        return []
    targets = options.server or [DEFAULT_SERVER]
    for target in targets:
        address_of(target)
    return [(target, access_of(target, options)) for target in targets]


def _supervise(options: argparse.Namespace, settings: Settings, servers: list[tuple[str, Access]]) -> int:
    """Keep the processes running."""
    import dataclasses
    import shutil
    import signal
    import tempfile

    from runtime.cli import MISUSED
    from runtime.cli.report_flags import reporting
    from runtime.edge import auth
    from runtime.local_cluster.task_process import command_line
    from runtime.tasks.worker.supervisor import Supervisor

    folder = None
    if options.listen is None:
        _check_local(servers)
        folder = tempfile.mkdtemp(prefix="tensor-runtime-worker-")
    base = options.listen or f"unix:{folder}/worker"
    addresses = _addresses(base, options.processes)
    # What is refused once is refused to every process, as often as it is started.
    auth.check_exposure(dataclasses.replace(settings, listen=addresses[0]))
    commands = [command_line("worker", *options.words, "--serve-at", address) for address in addresses]

    async def supervise() -> int:
        supervisor = Supervisor(commands, settings.grace_s, MISUSED)
        loop = asyncio.get_running_loop()
        num_signals = 0

        def arrived() -> None:
            nonlocal num_signals
            num_signals += 1
            supervisor.stop(at_once=num_signals > 1)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, arrived)
        return await supervisor.run(lambda endpoints: print(f"ready {' '.join(endpoints)}", flush=True))

    try:
        with reporting(options, _ports(base, options.processes)):
            return asyncio.run(supervise())
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _serve(options: argparse.Namespace, settings: Settings, servers: list[tuple[str, Access]]) -> int:
    """Be one of the processes."""
    from runtime import process_tuning
    from runtime.edge import loops
    from runtime.tasks.worker.function import load

    process_tuning.keep_medium_blocks()

    worker = load(options.function)

    async def serve() -> None:
        import signal

        from runtime.cli.serve import StopSignals, announce, watch_standard_input
        from runtime.tasks.worker.process import WorkerProcess

        stopped = asyncio.Event()
        signals = StopSignals(stopped)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals.arrived, signal.Signals(number).name)
        watch_standard_input(loop, signals)
        process = WorkerProcess(
            worker, settings, servers, options.name or options.function, options.advertise, options.concurrency
        )
        await process.start()
        registered = asyncio.ensure_future(process.registered())
        stopping = asyncio.ensure_future(stopped.wait())
        await asyncio.wait([registered, stopping], return_when=asyncio.FIRST_COMPLETED)
        registered.cancel()
        if not stopped.is_set():
            announce(process.address)
            await stopping
        stop = asyncio.ensure_future(process.stop(settings.grace_s))
        again = asyncio.ensure_future(signals.again.wait())
        await asyncio.wait((stop, again), return_when=asyncio.FIRST_COMPLETED)

    loops.run(loops.new_loop(settings.loop), serve())
    sys.stdout.flush()
    sys.stderr.flush()
    # A function that does not end must not keep the process.
    os._exit(0)


def _addresses(base: str, number: int) -> list[str]:
    """Return an address for each process."""
    from runtime.errors import InvalidArgument

    if base.startswith("unix:"):
        return [base if number == 1 else f"{base}.{index}" for index in range(number)]
    host, _, port = base.rpartition(":")
    if not host or not port.isdigit() or int(port) + number - 1 > 65535:
        raise InvalidArgument(f"--listen {base!r}: write HOST:PORT or unix:PATH, with room for {number} ports")
    return [f"{host}:{int(port) + index if int(port) else 0}" for index in range(number)]


def _ports(base: str, number: int) -> dict[str, int]:
    """Return the ports of the processes that are known beforehand, by name."""
    if base.startswith("unix:"):
        return {}
    ports = [int(address.rpartition(":")[2]) for address in _addresses(base, number)]
    return {f"worker-{index}": port for index, port in enumerate(ports) if port}


def _check_local(servers: list[tuple[str, Any]]) -> None:
    """Refuse servers that a unix socket is out of reach for."""
    from runtime.client.access import address_of
    from runtime.edge.auth import is_local
    from runtime.errors import InvalidArgument

    for target, _ in servers:
        if not is_local(address_of(target)):
            raise InvalidArgument(f"server {target} is not on this machine: give --listen HOST:PORT where it reaches "
                                  "this worker, and --advertise HOST if that is another name here")

