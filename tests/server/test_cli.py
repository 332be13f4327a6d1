"""``tensor-runtime`` as a process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import runtime
from runtime.authority import certificates as pki_files
from tests import processes
from tests.server.conftest import connect
from tests.server.fake_planes import RUN_STEP

HEALTH = "/grpc.health.v1.Health/Check"
CLEAN = {"XDG_CONFIG_HOME": "/nonexistent"}


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import sys; from runtime.cli import main; sys.exit(main())", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=processes.ROOT,
        env={**os.environ, **CLEAN, **environment},
    )


@contextlib.contextmanager
def fake_server(folder: Path, *options: str, listen: str = "127.0.0.1:0") -> Iterator[processes.ServerProcess]:
    """Start ``tensor-runtime serve`` with a fake graph plane."""
    program = (
        "import sys; from runtime.edge import plane; plane.register('graph', 'tests.server.fake_planes:create_graph')\n"
        "from runtime.cli import main; sys.exit(main())"
    )
    line = [sys.executable, "-c", program, "serve", "--listen", listen, "--data-dir", str(folder), *options]
    with processes.start_process(line, folder / "server.log", processes.OUR_START_TIMEOUT_S) as process:
        yield process


def until_logged(process: processes.ServerProcess, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in process.log():
        assert time.monotonic() < deadline, process.log()
        threading.Event().wait(0.01)


def test_serve_prints_one_ready_line_with_the_real_port_and_logs_to_stderr(tmp_path: Path) -> None:
    with processes.start_server(tmp_path) as server:
        assert server.target.startswith("grpc://127.0.0.1:")
        assert not server.target.endswith(":0")
        with connect(server.address) as client:
            assert client.unary(HEALTH) == b"\x08\x01"
        assert server.terminate() == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""
        assert f"serving address={server.address}" in server.log()
        assert "stopped" in server.log()
        assert "Traceback" not in server.log()


def test_the_ready_line_of_a_server_with_tls_is_a_target_for_clients(tmp_path: Path) -> None:
    pki_files.make_authority(tmp_path, "CA", 10)
    pki_files.make_leaf(tmp_path, tmp_path, "server", ["127.0.0.1"], 10)
    keys = ("--tls-cert", str(tmp_path / "server.pem"), "--tls-key", str(tmp_path / "server.key"))
    with processes.start_server(tmp_path, *keys) as server:
        assert server.target.startswith("grpcs://127.0.0.1:")
        with runtime.Session(server.target, ca=tmp_path / "ca.pem") as session:
            assert session.run(session.graph.constant(1.0)) == 1


def test_serve_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with processes.start_server(tmp_path, listen=f"unix:{path}") as server:
        assert server.target == f"unix:{path}"
        with connect(server.target) as client:
            assert client.unary(HEALTH) == b"\x08\x01"
        assert server.terminate() == 0
    assert not path.exists()


def test_serve_on_a_busy_port_fails_and_names_it(tmp_path: Path) -> None:
    with runtime.Server() as server:
        done = command("serve", "--listen", server.address)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"port {server.address.rpartition(':')[2]} is in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_beyond_this_machine_is_refused_without_protection() -> None:
    done = command("serve", "--listen", "0.0.0.0:0")
    assert done.returncode == 1
    assert done.stdout == ""
    for part in ("0.0.0.0:0", "--tls-cert", "--token-file", "--insecure"):
        assert part in done.stderr


def test_insecure_server_starts_with_a_warning(tmp_path: Path) -> None:
    with processes.start_server(tmp_path, "--insecure", listen="0.0.0.0:0") as server:
        assert server.terminate() == 0
        assert "WARNING" in server.log()
        assert "anyone who reaches this address can run code here" in server.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains(tmp_path: Path, number: signal.Signals) -> None:
    with fake_server(tmp_path) as server, connect(server.address) as client, connect(server.address) as late:
        call = client.future(RUN_STEP, b"sleep 1")
        client.unary(HEALTH)
        server.process.send_signal(number)
        until_logged(server, f"draining signal={number.name}")
        assert late.failure(HEALTH, timeout=2).code() is grpc.StatusCode.UNAVAILABLE
        assert not call.done()
        assert call.result(10) == b"slept"
        assert server.process.wait(10) == 0


def test_grace_ends_a_call_that_does_not(tmp_path: Path) -> None:
    with fake_server(tmp_path, "--grace", "0.5") as server, connect(server.address) as client:
        call = client.future(RUN_STEP, b"forever")
        client.unary(HEALTH)
        start = time.monotonic()
        assert server.terminate() == 0
        assert 0.4 < time.monotonic() - start < 8
        assert call.exception(5) is not None


def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    with fake_server(tmp_path, "--grace", "600") as server, connect(server.address) as client:
        call = client.future(RUN_STEP, b"forever")
        client.unary(HEALTH)
        server.process.send_signal(signal.SIGTERM)
        until_logged(server, "draining")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert call.exception(5) is not None


def test_reader_of_the_ready_line_may_leave(tmp_path: Path) -> None:
    with processes.start_server(tmp_path) as server:
        assert server.process.stdout is not None
        server.process.stdout.close()
        with connect(server.address) as client:
            assert client.unary(HEALTH) == b"\x08\x01"
        assert server.terminate() == 0


def test_log_lines_can_be_json(tmp_path: Path) -> None:
    with processes.start_server(tmp_path, "--log-format", "json") as server:
        assert server.terminate() == 0
        entries = [json.loads(line) for line in server.log().splitlines()]
        assert entries[0]["message"] == "serving"
        assert entries[0]["address"] == server.address


def test_serve_takes_its_place_in_a_cluster(tmp_path: Path) -> None:
    with runtime.Server() as probe:
        address = probe.address
    done = command("serve", "--cluster", json.dumps({"worker": [address]}), "--job", "worker", "--task", "4")
    assert done.returncode == 2
    assert 'Task 4 was not defined in job "worker"' in done.stderr
    process = subprocess.Popen(
        processes.serve_command("--cluster", json.dumps({"worker": [address]}), "--job", "worker", "--task", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=processes.ROOT,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"ready grpc://{address}\n"
        process.terminate()
        assert process.wait(15) == 0


def test_config_show_prints_values_and_origins(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('log_format = "json"\n')
    done = command(
        "config", "show", "--origin", "--listen", "127.0.0.1:9", "--config", str(path), TENSOR_RUNTIME_GRACE_S="4"
    )
    assert done.returncode == 0
    rows = {line.split("  #")[0].strip(): line.rpartition("# ")[2] for line in done.stdout.splitlines()}
    assert rows['listen = "127.0.0.1:9"'] == "--listen"
    assert rows["grace_s = 4.0"] == "TENSOR_RUNTIME_GRACE_S"
    assert rows['log_format = "json"'] == str(path)
    assert rows['malloc = "tuned"'] == "default"


def test_output_of_config_show_is_a_settings_file(tmp_path: Path) -> None:
    first = command("config", "show", "--services", "graph,task", "--insecure", "--max-bytes-in-flight", "1GiB")
    path = tmp_path / "s.toml"
    path.write_text(first.stdout)
    again = command("config", "show", "--config", str(path))
    assert again.stdout == first.stdout
    assert "insecure = true" in again.stdout


def test_wrong_setting_is_misuse() -> None:
    done = command("serve", "--services", "grph")
    assert done.returncode == 2
    assert "--services" in done.stderr
    assert "did you mean 'graph'" in done.stderr


def test_mistyped_variable_is_warned_of() -> None:
    done = command("config", "show", TENSOR_RUNTIME_LISTN="x")
    assert "did you mean TENSOR_RUNTIME_LISTEN?" in done.stderr


def test_cert_makes_what_serve_takes(tmp_path: Path) -> None:
    assert command("cert", "ca", "--out", str(tmp_path)).returncode == 0
    done = command("cert", "leaf", "server", "--ca", str(tmp_path))
    assert done.stdout.splitlines() == [str(tmp_path / "server.pem"), str(tmp_path / "server.key")]
    assert command("cert", "leaf", "server", "--ca", str(tmp_path)).returncode == 1
    options = ("--tls-cert", str(tmp_path / "server.pem"), "--tls-key", str(tmp_path / "server.key"))
    with processes.start_server(tmp_path, *options, listen="localhost:0") as server:
        credentials = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
        with connect(server.address, credentials) as client:
            assert client.unary(HEALTH) == b"\x08\x01"


@pytest.mark.parametrize("words", [["--help"], ["help"], ["-h"]])
def test_help_lists_the_commands(words: list[str]) -> None:
    done = command(*words)
    assert done.returncode == 0
    for name in ("serve", "config", "cert", "version"):
        assert f"  {name} " in done.stdout


def test_help_of_serve_lists_every_setting() -> None:
    from runtime import config

    done = command("serve", "--help")
    assert done.returncode == 0
    for entry in config.setting_fields():
        assert config.flag_of(entry) in done.stdout


def test_unknown_command_suggests_the_nearest() -> None:
    done = command("srve")
    assert done.returncode == 2
    assert "did you mean 'serve'" in done.stderr


def test_version() -> None:
    assert command("version").stdout.startswith(f"tensor-runtime {runtime.__version__} ")
    assert command("--version").stdout == command("version").stdout


def test_serve_does_not_install_an_event_loop_policy() -> None:
    script = (
        "import asyncio, runtime.edge.loops as loops\n"
        "before = type(asyncio.get_event_loop_policy())\n"
        "loops.new_loop('auto').close()\n"
        "assert type(asyncio.get_event_loop_policy()) is before"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=30, cwd=processes.ROOT)


def test_serve_stops_when_its_input_ends(tmp_path: Path) -> None:
    with processes.start_server(tmp_path, "--stop-at-eof") as server:
        assert server.process.stdin is not None
        server.process.stdin.write("thrown away\n")
        server.process.stdin.flush()
        with connect(server.address) as client:
            assert client.unary(HEALTH) == b"\x08\x01"
        server.process.stdin.close()
        assert server.process.wait(15) == 0
        assert "draining signal=EOF" in server.log()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_an_input_that_cannot_end_is_refused(loop: str, tmp_path: Path) -> None:
    line = [sys.executable, "-c", "import sys; from runtime.cli import main; sys.exit(main())", "serve", "--listen",
            "127.0.0.1:0", "--data-dir", str(tmp_path), "--loop", loop, "--stop-at-eof"]
    refused = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
                             cwd=processes.ROOT)
    assert refused.returncode == 2
    assert "--stop-at-eof needs a pipe" in refused.stderr and "Traceback" not in refused.stderr
