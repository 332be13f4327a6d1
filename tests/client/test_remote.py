"""What only a session on a server can meet: connections, credentials, restarts, limits."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.client import remote
from runtime.client.access import address_of
from runtime.client.watched import WatchedChannel
from runtime.errors import Aborted, Error, InvalidArgument, NotFound, Unauthenticated, Unavailable
from tests import processes
from tests.client.conftest import AS_WRITTEN, endless_loop
from tests.leaks import leak_check

TOKEN = "correct-horse-battery-staple"


@pytest.mark.parametrize("target", ["localhost", "http://localhost:1", "grpc://localhost", "grpc://:1", "unix:",
                                    "grpc://a/b:1", "grpc://localhost:x"])
def test_bad_targets_are_told_at_once(target: str) -> None:
    with pytest.raises(InvalidArgument, match="is not understood: write grpc://HOST:PORT"):
        runtime.Session(target)


def test_targets_are_addresses() -> None:
    assert address_of("grpc://localhost:2222") == "localhost:2222"
    assert address_of("grpcs://[::1]:2222") == "[::1]:2222"
    assert address_of("unix:/run/x.sock") == "unix:/run/x.sock"
    with pytest.raises(InvalidArgument, match="target must be text"):
        runtime.Session(8080)  # type: ignore[arg-type]


def test_no_server_is_unavailable_and_names_the_target() -> None:
    target = f"grpc://127.0.0.1:{processes.free_port()}"
    with runtime.Session(target, connect_timeout_s=0.5) as session:
        started = time.monotonic()
        with pytest.raises(Unavailable, match=rf"no server answered within 0.5 s: {target} cannot be reached"):
            session.run(session.graph.constant(1.0))
        assert time.monotonic() - started < 8


def test_a_server_may_come_a_little_later(tmp_path: Path) -> None:
    port = processes.free_port()
    found: list[Any] = []

    def run() -> None:
        with runtime.Session(f"grpc://127.0.0.1:{port}", connect_timeout_s=20) as session:
            found.append(session.run(session.graph.constant(4.0)))

    thread = threading.Thread(target=run)
    thread.start()
    with processes.start_server(tmp_path, listen=f"127.0.0.1:{port}"):
        thread.join(30)
    assert found == [4]


def test_unix_socket(tmp_path: Path) -> None:
    with runtime.Server(listen=f"unix:{tmp_path}/s") as server, runtime.Session(server.target) as session:
        assert session.run(session.graph.constant(4.0)) == 4


def test_server_killed_during_a_step(tmp_path: Path) -> None:
    with processes.start_server(tmp_path) as server:
        session = runtime.Session(server.target, endless_loop(), AS_WRITTEN)
        session.run("start:0")
        threading.Timer(0.3, server.process.kill).start()
        with pytest.raises(Unavailable, match=rf"{server.target} cannot be reached \(RunStep\)"):
            session.run("never:0")
        started = time.monotonic()
        with pytest.raises(Unavailable, match=server.target):
            session.run("start:0")
        session.close()  # no error, and no long wait
        assert time.monotonic() - started < 10


def test_server_restarted_forgets_the_session(tmp_path: Path) -> None:
    port = processes.free_port()
    with processes.start_server(tmp_path, listen=f"127.0.0.1:{port}") as server:
        session = runtime.Session(server.target)
        a = session.graph.constant(1.0)
        session.run(a)
        server.terminate()
    with processes.start_server(tmp_path, listen=f"127.0.0.1:{port}"):
        deadline = time.monotonic() + 15
        while True:  # the channel finds the new server within a second or two
            try:
                session.run(a)
            except Unavailable:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            except Aborted as error:
                assert "is not found" in str(error)
                break
        session.close()
        with runtime.Session(server.target, session.graph) as again:
            assert again.run(a) == 1


INTERRUPTED = '''
import os, signal, sys, threading
import runtime
from tests.client.conftest import AS_WRITTEN, endless_loop

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
session = runtime.Session(sys.argv[1] or None, endless_loop(), AS_WRITTEN)
session.run("start:0")
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    session.run("never:0")
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(session.run("start:0"), flush=True)
session.close()
'''


@pytest.mark.parametrize("kind", ["in process", "server"])
def test_interrupt_cancels_the_step(kind: str, request: pytest.FixtureRequest) -> None:
    target = request.getfixturevalue("server") if kind == "server" else ""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, target], cwd=processes.ROOT, capture_output=True,
                          text=True, timeout=60)
    assert done.stdout.split() == ["interrupted", "1"], done.stderr
    assert done.returncode == 0, done.stderr
    if kind == "server":
        with runtime.Session(target) as session:  # nothing of the loop keeps the server busy
            process = request.getfixturevalue("server_process")
            session.run(session.graph.constant(1.0))
            before = _cpu_seconds(process.pid)
            time.sleep(0.5)
            assert _cpu_seconds(process.pid) - before < 0.25


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that asks for a token."""
    path = tmp_path_factory.mktemp("token") / "tokens"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    with runtime.Server(token_file=path) as server:
        yield server.target


def test_token_opens(guarded: str) -> None:
    with runtime.Session(guarded, token=TOKEN) as session:
        assert session.run(session.graph.constant(1.0)) == 1
        assert len(session.list_devices()) == 1
    runtime.Session.reset(guarded, token=TOKEN)


@pytest.mark.parametrize("token", [None, "wrong-horse-battery-staple"])
def test_no_or_wrong_token_is_unauthenticated(guarded: str, token: str | None) -> None:
    with runtime.Session(guarded, token=token) as session, pytest.raises(Unauthenticated):
        session.run(session.graph.constant(1.0))


@pytest.mark.parametrize("token", ["", "two words", "ü"])
def test_tokens_that_cannot_be_sent(token: str) -> None:
    with pytest.raises(InvalidArgument, match="token must be printable ASCII"):
        runtime.Session("grpc://localhost:1", token=token)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and a server's and a client's certificate."""
    from runtime.authority import certificates

    folder = tmp_path_factory.mktemp("pki")
    certificates.make_authority(folder, "test CA", 10)
    certificates.make_leaf(folder, folder, "server", ["localhost", "tensor.test"], 10)
    certificates.make_leaf(folder, folder, "client", ["client.test"], 10)
    return folder


def test_mutual_tls(pki: Path) -> None:
    with runtime.Server(tls_cert=pki / "server.pem", tls_key=pki / "server.key",
                        tls_client_ca=pki / "ca.pem") as server:
        port = server.address.rpartition(":")[2]
        options = {"ca": pki / "ca.pem", "cert": pki / "client.pem", "key": (pki / "client.key").read_bytes()}
        with runtime.Session(f"grpcs://localhost:{port}", **options) as session:
            assert session.run(session.graph.constant(1.0)) == 1
        with runtime.Session(f"grpc://127.0.0.1:{port}", server_name="tensor.test", **options) as session:
            assert session.run(session.graph.constant(1.0)) == 1
        for fewer in ({"ca": pki / "ca.pem"}, {}):  # without a certificate; without TLS
            with (runtime.Session(f"grpc://localhost:{port}", connect_timeout_s=1, **fewer) as session,
                  pytest.raises(Unavailable)):
                session.run(session.graph.constant(1.0))


def test_contradicting_credentials(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cert and key go together"):
        runtime.Session("grpc://localhost:1", cert=b"pem")
    with pytest.raises(InvalidArgument, match="tls=False contradicts"):
        runtime.Session("grpcs://localhost:1", tls=False)
    with pytest.raises(InvalidArgument, match="ca=.*nowhere.pem.* cannot be read"):
        runtime.Session("grpc://localhost:1", ca=tmp_path / "nowhere.pem")


def test_variables_outlive_sessions_until_a_reset(server: str, unique: str) -> None:
    with runtime.Session(server) as session:
        session.run(session.graph.variable(5.0, name=unique, container=unique).initializer)
    reader = runtime.Graph()
    variable = reader.variable(0.0, name=unique, container=unique)
    with runtime.Session(server, reader) as session:
        assert session.run(variable) == 5
        runtime.Session.reset(server, ["another container"])
        with pytest.raises(Aborted, match="is not found"):  # every session ends with a reset
            session.run(variable)
    with runtime.Session(server, reader) as session:
        assert session.run(variable) == 5
    runtime.Session.reset(server, [unique])
    with runtime.Session(server, reader) as session, pytest.raises(Error, match=unique):
        session.run(variable)
    with pytest.raises(InvalidArgument, match="reset needs the target of a server"):
        runtime.Session.reset("")


def test_large_feed_and_fetch(server: str) -> None:
    with runtime.Session(server) as session:
        x = session.graph.placeholder("float32", [None])
        value = np.arange(25_000_000, dtype=np.float32)
        found = session.run(session.graph.identity(x), {x: value})
        np.testing.assert_array_equal(found, value)


def test_feeds_beyond_a_message_are_refused_before_sending(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MAX_MESSAGE_BYTES", 1000)
    with runtime.Session(server) as session:
        x, y = session.graph.placeholder("float32", [None], name="x"), session.graph.placeholder("float32", [None])
        with pytest.raises(InvalidArgument, match="feeds of 1600 bytes do not fit .*the largest is 'x:0' with 1200"):
            session.run(x[0] + y[0], {x: np.zeros(300), y: np.zeros(100)})


def test_sessions_share_a_channel_and_leave_nothing(server: str) -> None:
    with runtime.Session(server) as session:  # what gRPC starts for the whole process
        session.run(session.graph.constant(1.0))
    with leak_check():
        first, second = runtime.Session(server), runtime.Session(server)
        assert first.run(first.graph.constant(1.0)) == second.run(second.graph.constant(1.0))
        assert len([key for key in WatchedChannel._made if key[0] in server]) == 1
        first.close()
        assert second.run(second.graph.constant(2.0)) == 2
        second.close()
        assert not [key for key in WatchedChannel._made if key[0] in server]


def test_local_sessions_leave_nothing() -> None:
    with leak_check():
        for _ in range(20):
            with runtime.Session() as session:
                assert session.run(session.graph.constant(1.0)) == 1


def test_open_sessions_are_closed_at_the_end_of_the_program(server: str) -> None:
    script = ("import sys, runtime\n"
              "s = runtime.Session(sys.argv[1]); s.run(s.graph.constant(1.0))\n"
              "print(s._transport._handle)\n")
    done = subprocess.run([sys.executable, "-c", script, server], cwd=processes.ROOT, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0
    assert done.stderr == ""
    handle = done.stdout.strip()
    with runtime.Session(server) as session:
        session.run(session.graph.constant(1.0))
        session._transport._handle, own = handle, session._transport._handle  # type: ignore[attr-defined]
        with pytest.raises((Aborted, InvalidArgument, NotFound), match="is not found"):
            session.list_devices()
        session._transport._handle = own  # type: ignore[attr-defined]


