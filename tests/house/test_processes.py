"""Starting servers as processes, and the peers, as the other tests rely on them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import peers
from tests.processes import start_process

READY_AND_WAIT = (
    "import sys; print('log line', file=sys.stderr, flush=True); print('ready grpc://127.0.0.1:7'); "
    "sys.stdout.flush(); sys.stdin.read()"
)


def test_started_process_is_killed_at_the_end(tmp_path: Path) -> None:
    with start_process([sys.executable, "-c", READY_AND_WAIT], tmp_path / "log", 20) as server:
        assert server.target == "grpc://127.0.0.1:7"
        assert server.address == "127.0.0.1:7"
        assert server.log() == "log line\n"
        assert server.process.poll() is None
    assert server.process.returncode is not None


def test_process_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such option')"]
    expected = "(?s)ended before it was ready.*no such option"
    with pytest.raises(AssertionError, match=expected), start_process(command, tmp_path / "log", 20):
        pass


def test_process_that_never_gets_ready_is_bounded_in_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with pytest.raises(AssertionError, match="not ready within"), start_process(command, tmp_path / "log", 0.3):
        pass


def test_missing_peer_interpreter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSOR_RUNTIME_PEER_PYTHON", "/nowhere/python")
    with pytest.raises(FileNotFoundError, match="TENSOR_RUNTIME_PEER_PYTHON names /nowhere/python"):
        peers.peer_python.__wrapped__()


def test_failing_peer_script_shows_what_it_wrote() -> None:
    with pytest.raises(AssertionError, match="(?s)ended with 1.*what went wrong"):
        peers.run_peer("import sys; sys.exit('what went wrong')")


def test_peer_has_the_interpreter_version_of_the_extensions(peer_python: Path) -> None:
    version = subprocess.run(
        [peer_python, "-c", "import sys; print(*sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env=peers.peer_environment(),
    )
    assert version.stdout.split() == [str(part) for part in sys.version_info[:2]]


def test_own_environment_is_free_of_tensorflow() -> None:
    script = "import importlib.util as u; print([n for n in ('tensorflow', 'armonik') if u.find_spec(n)])"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30, cwd=os.sep
    )
    assert found.stdout == "[]\n"


CLIENT = """
import sys
import tensorflow.compat.v1 as tf
tf.disable_eager_execution()
with tf.Session(sys.argv[1]) as session:
    print(session.run(tf.constant(20) + 22), *(device.name for device in session.list_devices()))
"""


def test_tensorflow_server_answers_a_tensorflow_client(peer_server: str) -> None:
    last = peers.run_peer(CLIENT, peer_server).stdout.split("\n")[-2].split()
    assert last[0] == "42"
    assert "/job:localhost/replica:0/task:0/device:CPU:0" in last or "/job:local/replica:0/task:0/device:CPU:0" in last
