"""``tensor-runtime machine report``: tell a server which interfaces this machine has."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

from runtime.fleet.this_machine import EVERY_S


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from runtime.cli.access_flags import add_access_flags

    parser.epilog = "Only this machine's own interfaces are listed, and the services that --service names."
    forms = parser.add_subparsers(dest="form", required=True)
    report = forms.add_parser("report", help="send this machine's interfaces to a server")
    report.add_argument("server", nargs="?", metavar="SERVER", help="grpc://HOST:PORT, grpcs://HOST:PORT or unix:PATH")
    report.add_argument("--port", type=int, default=0, metavar="PORT",
                        help="ask SERVER which server to use, and report to that one at this port")
    report.add_argument("--service", action="append", default=[], metavar="NAME=PORT",
                        help="a service of this machine to name in the report; repeatable")
    report.add_argument("--every", type=float, nargs="?", const=EVERY_S, default=None, metavar="SECONDS",
                        help=f"go on reporting [{EVERY_S:g}]")
    report.add_argument("--dry-run", action="store_true", help="print the report and send nothing")
    report.add_argument("--data-dir", type=Path, default=None, metavar="DIR",
                        help="folder that keeps this machine's uuid [the setting]")
    add_access_flags(report)


def run(options: argparse.Namespace) -> int:
    """Send one report, or one after the other."""
    from runtime import config
    from runtime.cli.access_flags import access_of
    from runtime.client.fleet import send_report
    from runtime.errors import Error, InvalidArgument
    from runtime.fleet import this_machine

    folder = options.data_dir if options.data_dir is not None else config.load().settings.data_dir
    services = _services(options.service)
    uuid = this_machine.machine_uuid(folder)
    if options.dry_run:
        print(json.dumps(json.loads(this_machine.report(uuid, services).to_json()), indent=1))
        return 0
    if options.server is None:
        raise InvalidArgument("SERVER is missing: to whom is the report to go? --dry-run prints it instead")
    access = access_of(options.server, options)
    while True:
        try:
            send_report(options.server, access, this_machine.report(uuid, services), options.port)
        except Error as error:
            if options.every is None:
                raise
            print(f"tensor-runtime machine: {error}", file=sys.stderr)
        if options.every is None:
            return 0
        # Machines that were started together are not to report together.
        time.sleep(options.every * random.uniform(0.9, 1.1))


def _services(texts: list[str]) -> dict[str, int]:
    from runtime.errors import InvalidArgument

    services = {}
    for text in texts:
        name, separator, port = text.partition("=")
        if not separator or not name or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise InvalidArgument(f"--service {text!r} is not of the form NAME=PORT with a port from 1 to 65535")
        services[name] = int(port)
    return services
