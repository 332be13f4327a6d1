"""The flags with which workers and agents report the machine that they run on."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_report_flags(parser: Any) -> None:
    """Give a parser, or a group of one, the flags."""
    group = parser.add_argument_group("report of this machine, as of `tensor-runtime machine report`")
    group.add_argument("--report-machine-to", metavar="ADDRESS",
                       help="server of the fleet that is told this machine's interfaces, now and every 15 minutes")
    group.add_argument("--report-port", type=int, default=0, metavar="PORT",
                       help="ask ADDRESS which server to use, and report to that one at this port")
    group.add_argument("--report-data-dir", type=Path, default=None, metavar="DIR",
                       help="folder that keeps this machine's uuid [the setting data_dir]")


def reporting(options: argparse.Namespace, services: Mapping[str, int]) -> contextlib.AbstractContextManager[object]:
    """Return what reports this machine as long as a block lasts; nothing does if that was not asked for.

    Parameters
    ----------
    options : argparse.Namespace
        With the flags of this module and of :mod:`runtime.cli.access_flags`.
    services : mapping
        Name to port of what this process serves.

    Raises
    ------
    InvalidArgument
        If flags cannot be used.
    Unimplemented
        If psutil is not installed.
    """
    if options.report_machine_to is None:
        return contextlib.nullcontext()
    from runtime import config
    from runtime.cli.access_flags import access_of
    from runtime.client.access import address_of
    from runtime.client.fleet import send_report
    from runtime.client.fleet_reports import Reports
    from runtime.errors import InvalidArgument
    from runtime.fleet import this_machine

    if not 0 <= options.report_port <= 65535:
        raise InvalidArgument(f"--report-port: {options.report_port} is not from 0 to 65535")
    folder = options.report_data_dir
    uuid = this_machine.machine_uuid(folder if folder is not None else config.load().settings.data_dir)
    server, port = options.report_machine_to, options.report_port
    address_of(server)
    access = access_of(server, options)
    this_machine.report(uuid, services)  # what cannot be reported at all is said now
    return Reports(lambda: send_report(server, access, this_machine.report(uuid, services), port), server)
