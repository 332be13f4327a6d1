"""``tensor-runtime fleet list|show|target|release``: machines and servers that a fleet knows."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.fleet.model import Machine, Server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of all forms."""
    from runtime.cli.access_flags import add_access_flags

    parser.epilog = "list, show and release read a server's data directory on this machine; no call gives it out."
    forms = parser.add_subparsers(dest="form", required=True)
    listed = forms.add_parser("list", help="list the servers in rotation and the machines that reported themselves")
    show = forms.add_parser("show", help="show one machine: its last report, and earlier ones")
    release = forms.add_parser("release", help="let a machine report itself with another credential")
    for form in (listed, show, release):
        form.add_argument("--data-dir", type=Path, default=None, metavar="DIR", help="of the server [the setting]")
    for form in (listed, show):
        form.add_argument("-o", "--output", choices=("table", "json"), default="table", help="[table]")
    target = forms.add_parser("target", help="ask a server which server a machine is to use")
    target.add_argument("server", metavar="SERVER", help="grpc://HOST:PORT, grpcs://HOST:PORT or unix:PATH")
    add_access_flags(target)
    for form in (show, release, target):
        form.add_argument("uuid", metavar="UUID", help="of the machine")


def run(options: argparse.Namespace) -> int:
    """Print what was asked for."""
    from runtime.errors import InvalidArgument
    from runtime.fleet.machine_ids import machine_id_of_text

    if options.form == "list":
        return _list(options)
    try:
        uuid = machine_id_of_text(options.uuid)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    if options.form == "target":
        from runtime.cli.access_flags import access_of
        from runtime.client.fleet import FleetClient

        with FleetClient(options.server, access_of(options.server, options)) as client:
            print(client.target(uuid).ip)
        return 0
    return _show(options, uuid) if options.form == "show" else _release(options, uuid)


def _list(options: argparse.Namespace) -> int:
    from runtime.store.sqlite.fleet_file import open_fleet

    with open_fleet(_path(options)) as rows:
        servers, machines = rows.servers(), rows.machines()
    if options.output == "json":
        print(json.dumps({"servers": [_server_row(server) for server in servers],
                          "machines": [_machine_row(machine) for machine in machines]}, indent=1))
        return 0
    print(f"{len(servers)} servers")
    for server in servers:
        row = _server_row(server)
        print(f"  {row['number']:>4}  {row['ip'] or '-':<39} {row['fingerprint'][:16]}  {_age(row['last_seen']):>5}  "
              f"{printable(row['cause'])}")
    print(f"{len(machines)} machines")
    for machine in machines:
        ips = ",".join(sorted(machine.report.ips())) or "-"
        print(f"  {machine.uuid}  {_age(machine.last_seen):>5}  {ips}{'  (stale)' if machine.is_stale else ''}")
    return 0


def _show(options: argparse.Namespace, uuid: str) -> int:
    from runtime.errors import NotFound
    from runtime.store.sqlite.fleet_file import open_fleet

    with open_fleet(_path(options)) as rows:
        machine, reports = rows.machine(uuid), rows.reports(uuid)
    if machine is None:
        raise NotFound(f"no machine {uuid} has reported itself")
    if options.output == "json":
        history = [{"time": at, "report": json.loads(text)} for at, text in reports]
        print(json.dumps({**_machine_row(machine), "history": history}, indent=1))
        return 0
    print(f"machine {machine.uuid}, first seen {_age(machine.first_seen)} ago, last {_age(machine.last_seen)} ago")
    print(f"reported from {machine.reporter or 'a unix socket'} by {machine.owner or 'anyone'}"
          f"{', has moved' if machine.has_moved else ''}")
    if machine.report.error:
        print(f"error: {printable(machine.report.error)}")
    for interface in machine.report.interfaces:
        print(f"  {printable(interface.name)}{'  error: ' + printable(interface.error) if interface.error else ''}")
        for address in interface.addresses:
            ports = ", ".join(f"{port.number} {printable(port.service)}".rstrip() for port in address.ports)
            print(f"    {address.ip}  {ports}".rstrip())
    print(f"{len(reports)} reports that differ are kept")
    return 0


def _release(options: argparse.Namespace, uuid: str) -> int:
    import dataclasses

    from runtime.errors import NotFound
    from runtime.store.sqlite.fleet_file import open_fleet

    with open_fleet(_path(options), writes=True) as rows:
        machine = rows.machine(uuid)
        if machine is None:
            raise NotFound(f"no machine {uuid} has reported itself")
        rows.put_machine(dataclasses.replace(machine, owner=None))
    print(f"machine {uuid} belongs to the credential that reports it next")
    return 0


def _path(options: argparse.Namespace) -> Path:
    from runtime import config
    from runtime.store.opening import FILE_NAME

    folder: Path = options.data_dir if options.data_dir is not None else config.load().settings.data_dir
    return folder / FILE_NAME


def _server_row(server: Server) -> dict[str, Any]:
    return {
        "number": server.number, "ip": server.ip, "fingerprint": server.certificate.fingerprint,
        "not_after": server.certificate.not_after, "last_seen": server.last_seen, "cause": server.cause,
    }


def _machine_row(machine: Machine) -> dict[str, Any]:
    return {
        "uuid": machine.uuid, "report": json.loads(machine.report.to_json()), "is_stale": machine.is_stale,
        "first_seen": machine.first_seen, "last_seen": machine.last_seen, "reporter": machine.reporter,
        "owner": machine.owner, "has_moved": machine.has_moved,
    }


def _age(at: float) -> str:
    seconds = max(0, int(time.time() - at))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def printable(text: str) -> str:
    """Return reported text as one line that does nothing to a terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
