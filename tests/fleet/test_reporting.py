"""This machine's report, and the commands around the fleet."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import runtime
from runtime.authority import certificates as pki_files
from runtime.client.channels import Access
from runtime.client.fleet import FleetClient
from runtime.client.fleet_reports import Reports
from runtime.edge import tokens
from runtime.errors import FailedPrecondition, Unavailable
from runtime.fleet import this_machine
from runtime.fleet.reports import checked
from tests.fleet.certificates import make, pem


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_uuid_is_made_once(tmp_path: Path) -> None:
    first = this_machine.machine_uuid(tmp_path / "new")
    assert this_machine.machine_uuid(tmp_path / "new") == first
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["machine-uuid"]
    (tmp_path / "machine-uuid").write_text("no uuid\n")
    with pytest.raises(FailedPrecondition, match="machine-uuid"):
        this_machine.machine_uuid(tmp_path)


def test_report_is_acceptable_and_names_only_what_it_was_told(tmp_path: Path) -> None:
    report = this_machine.report(str(uuid.uuid4()), {"graph": 2222})
    assert checked(report).uuid == report.uuid
    assert {interface.name for interface in report.interfaces} == set(psutil.net_if_addrs())
    addresses = [address for interface in report.interfaces for address in interface.addresses]
    assert {port.number for address in addresses for port in address.ports} <= {2222}
    assert all(not address.ports for address in addresses if address.ip in ("127.0.0.1", "::1"))


def test_dry_run_prints_and_sends_nothing(tmp_path: Path) -> None:
    done = command("machine", "report", "grpc://127.0.0.1:1", "--dry-run", "--data-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["uuid"] == this_machine.machine_uuid(tmp_path)
    missing = command("machine", "report", "--data-dir", str(tmp_path))
    assert missing.returncode == 2 and "SERVER" in missing.stderr
    wrong = command("machine", "report", "--service", "ssh", "--dry-run", "--data-dir", str(tmp_path))
    assert wrong.returncode == 2 and "NAME=PORT" in wrong.stderr


def test_commands_show_what_was_reported(tmp_path: Path) -> None:
    served, here = str(tmp_path / "served"), str(tmp_path / "here")
    assert command("fleet", "list", "--data-dir", served).returncode == 1
    with runtime.Server(services=("fleet",), data_dir=served) as server:
        done = command("machine", "report", server.target, "--data-dir", here, "--service", "graph=2222")
        assert done.returncode == 0, done.stderr
        machine = this_machine.machine_uuid(Path(here))
        with FleetClient(server.target) as client:
            certificate = pem(make()[0])
            client.register(certificate)
            client.offer("127.0.0.1", certificate)
        assert command("fleet", "target", server.target, machine).stdout == "127.0.0.1\n"
        listed = json.loads(command("fleet", "list", "--data-dir", served, "-o", "json").stdout)
        assert [row["uuid"] for row in listed["machines"]] == [machine]
        assert [row["ip"] for row in listed["servers"]] == ["127.0.0.1"]
        assert machine in command("fleet", "list", "--data-dir", served).stdout
        shown = command("fleet", "show", machine.upper(), "--data-dir", served)
        assert machine in shown.stdout and "1 reports" in shown.stdout
    shown = command("fleet", "show", machine, "--data-dir", served)
    assert shown.returncode == 0, shown.stderr
    assert command("fleet", "show", str(uuid.uuid4()), "--data-dir", served).returncode == 1


@contextlib.contextmanager
def beside(folder: Path, *words: str) -> Iterator[Path]:
    """Run a command of ours beside the test; its log goes to a file."""
    path = folder / f"{words[0]}.log"
    with open(path, "wb") as out, subprocess.Popen(
        [sys.executable, "-m", "runtime.cli", *words], stdin=subprocess.PIPE, stdout=out, stderr=out
    ) as process:
        try:
            yield path
        finally:
            process.terminate()
            process.wait(30)


def reported(data: Path) -> list[tuple[str, str]]:
    """Return the machines that a server's store has, with their report."""
    shown = json.loads(command("fleet", "list", "--data-dir", str(data), "-o", "json").stdout)
    return [(row["uuid"], command("fleet", "show", row["uuid"], "--data-dir", str(data)).stdout)
            for row in shown["machines"]]


def until(what: Callable[[], Any], awaited: str) -> Any:
    deadline = time.monotonic() + 30
    while not (found := what()):
        assert time.monotonic() < deadline, f"no {awaited} within 30 s"
        time.sleep(0.1)
    return found


def test_workers_and_agents_report_their_machine_when_they_are_asked_to(tmp_path: Path) -> None:
    data, here = tmp_path / "served", tmp_path / "here"
    asked = ("--report-data-dir", str(here))
    with runtime.Server(services=("fleet", "task", "command"), data_dir=data, command_providers=()) as server:
        agent = ("agent", server.target, "--allow-bare", "--sandbox", "off")
        with (
            beside(tmp_path, "worker", "tests.tasks.worker_functions:double", "--server", server.target, "--listen",
                   "127.0.0.1:0", "--report-machine-to", server.target, *asked),
            beside(tmp_path, *agent, "--state-dir", str(tmp_path / "quiet")),
        ):
            until(lambda: reported(data), "report")
            # One uuid for the machine, whoever reports it, and no process has reported that was not asked to.
            assert [uuid for uuid, _ in reported(data)] == [this_machine.machine_uuid(here)]
            assert "1 reports" in reported(data)[0][1]
            assert "reported this machine" not in (tmp_path / "agent.log").read_text()
        with beside(tmp_path, *agent, "--state-dir", str(tmp_path / "agent"), "--report-machine-to", server.target,
                    "--report-data-dir", str(tmp_path / "there")) as log:
            until(lambda: "has reported this machine" in log.read_text(), "report")
            assert {uuid for uuid, _ in reported(data)} == {
                this_machine.machine_uuid(here), this_machine.machine_uuid(tmp_path / "there")
            }


def test_a_fleet_that_is_away_keeps_no_agent_from_its_work(tmp_path: Path) -> None:
    with runtime.Server(services=("command",), data_dir=tmp_path / "data", command_providers=()) as server:
        with (
            beside(tmp_path, "agent", server.target, "--allow-bare", "--sandbox", "off", "--state-dir",
                   str(tmp_path / "agent"), "--report-machine-to", "grpc://127.0.0.1:1", "--report-data-dir",
                   str(tmp_path)) as log,
            runtime.CommandClient(server.target) as client,
        ):
            number = client.submit("echo done")
            assert [line.text for line in client.logs(number, follow=True)] == ["done"]
            until(lambda: "could not be reported" in log.read_text(), "warning")
        assert "Traceback" not in log.read_text()
    wrong = command("agent", "grpc://127.0.0.1:1", "--report-machine-to", "nowhere", "--report-data-dir", str(tmp_path))
    assert wrong.returncode == 2 and "nowhere" in wrong.stderr


def test_a_report_that_fails_is_sent_again_sooner() -> None:
    outcomes: list[Exception | None] = [None, Unavailable("nobody there"), ZeroDivisionError(), None]

    def send() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    reports = Reports(send, "grpc://nowhere", every_s=900.0, again_s=60.0)
    assert [reports._once() for _ in range(4)] == [900.0, 60.0, 900.0, 900.0]


def test_reports_end_with_their_block() -> None:
    sent: list[int] = []
    enough = threading.Event()

    def send() -> None:
        sent.append(threading.get_ident())
        if len(sent) == 3:
            enough.set()

    with Reports(send, "grpc://nowhere", every_s=0.01) as reports:
        assert enough.wait(30)
    assert not reports._thread.is_alive()
    assert set(sent) == {reports._thread.ident}


def test_released_machine_takes_another_credential(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    first, second = (tokens.issue(path, "machine")[1] for _ in range(2))
    report = this_machine.report(str(uuid.uuid4()), {})
    with runtime.Server(services=("fleet",), data_dir=tmp_path, token_file=path) as server:
        with FleetClient(server.target, Access(token=first)) as client:
            client.save(report)
        with FleetClient(server.target, Access(token=second)) as client:
            with pytest.raises(FailedPrecondition, match="wrong_owner"):
                client.save(report)
            assert command("fleet", "release", report.uuid, "--data-dir", str(tmp_path)).returncode == 0
            client.save(report)


def test_machine_reports_to_the_server_it_is_given_and_to_no_other(tmp_path: Path) -> None:
    """The way of a machine: ask the dispatcher, pin the certificate of the answer, report there."""
    pki_files.make_authority(tmp_path, "CA", 10)
    for name in ("worker", "other"):
        pki_files.make_leaf(tmp_path, tmp_path, name, ["127.0.0.1"], 10)
    worker = (tmp_path / "worker.pem").read_bytes()

    def serve(name: str, port: int) -> runtime.Server:
        return runtime.Server(services=("fleet",), data_dir=tmp_path / name, listen=f"127.0.0.1:{port}",
                              tls_cert=tmp_path / f"{name}.pem", tls_key=tmp_path / f"{name}.key")

    with runtime.Server(services=("fleet",), data_dir=tmp_path / "dispatcher") as dispatcher:
        with FleetClient(dispatcher.target) as client:
            client.register(worker)
            client.offer("127.0.0.1", worker)
        machine = this_machine.machine_uuid(tmp_path / "here")
        with serve("worker", 0) as server:
            port = server.address.rpartition(":")[2]
            done = command("machine", "report", dispatcher.target, "--port", port, "--data-dir", str(tmp_path / "here"))
            assert done.returncode == 0, done.stderr
            listed = json.loads(command("fleet", "list", "--data-dir", str(tmp_path / "worker"), "-o", "json").stdout)
            assert [row["uuid"] for row in listed["machines"]] == [machine]
        with serve("other", int(port)):
            done = command("machine", "report", dispatcher.target, "--port", port, "--data-dir", str(tmp_path / "here"))
            assert done.returncode == 1
        assert not (tmp_path / "other" / "store.db").exists() or "[]" in command(
            "fleet", "list", "--data-dir", str(tmp_path / "other"), "-o", "json").stdout
        with FleetClient(dispatcher.target) as client:
            target = client.target(machine)
        with FleetClient(target.address(int(port)), target.access(), 2.0) as pinned, pytest.raises(Unavailable):
            pinned.save(this_machine.report(machine, {}))
