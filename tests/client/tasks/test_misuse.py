"""What is asked wrongly of the task plane: errors name the argument, its value and the way out."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.cli import INTERRUPTED, main
from runtime.client.tasks.aio import make_options
from runtime.errors import InvalidArgument, NotFound
from runtime.tasks.worker.function import load
from tests.client.tasks.test_commands import Shell
from tests.peers import ROOT

TIMEOUT_S = 60.0
# A shell has what runs in its background ignore the keyboard, and children inherit that.
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from runtime.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": "high"}, "priority is 'high'"),
        ({"priority": 1 << 40}, "priority is 1099511627776"),
        ({"max_retries": 2.5}, "max_retries is 2.5"),
        ({"max_duration_s": "1"}, "max_duration_s is '1'"),
        ({"max_duration_s": float("nan")}, "max_duration_s is nan"),
        ({"max_duration_s": float("inf")}, "max_duration_s is inf"),
        ({"max_duration_s": 0}, "max_duration_s is 0"),
        ({"options": {"a": 1}}, "options: 'a': 1"),
    ],
)
def test_options_that_no_request_can_carry(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        make_options(**options)


def test_arguments_of_a_session(task_server: runtime.Server) -> None:
    with runtime.TaskClient(task_server.target) as client:
        session = client.session()
        task = session.submit(b"")
        other = client.session()
        wrong: list[tuple[Callable[[], Any], str]] = [
            (lambda: session.submit(b"", dependencies=[3]), "dependencies: 3 is neither the key of a result"),
            (lambda: session.submit(b"", dependencies=task), "dependencies: a list of keys or tasks is needed"),
            (lambda: session.gather(["name"]), "handles: 'name' is no TaskHandle"),
            (lambda: session.gather(task), "handles: a list of tasks is needed"),
            (lambda: list(session.as_completed("name")), "handles: a list of tasks is needed, not 'name'"),
            (lambda: session.cancel_tasks([task.id]), f"handles: '{task.id}' is no TaskHandle"),
            (lambda: session.gather([task], progress=3), "progress is 3"),
            (lambda: session.gather([task], timeout_s="1"), "timeout_s is '1'"),
            (lambda: list(session.as_completed([task], timeout_s="1")), "timeout_s is '1'"),
            (lambda: session.wait(float("nan")), "timeout_s is nan"),
            (lambda: task.wait("1"), "timeout_s is '1'"),
            (lambda: task.result(timeout_s="1"), "timeout_s is '1'"),
            (lambda: session.submit(b"", id=3), "id is 3; it must be text that is not empty"),
            (lambda: session.submit(b"", id=""), "id is ''; it must be text that is not empty"),
            (lambda: session.submit(b"", id="\ud800"), "id is '\\ud800'; UTF-8 cannot hold it"),
            (lambda: session.submit(b"", keys="ab"), "keys: a list is needed, not 'ab' alone"),
            (lambda: session.submit(b"", keys=[]), "keys: at least one is needed"),
            (lambda: session.submit(b"", keys=["a", ""]), "keys: one is ''; it must be text"),
            (lambda: session.submit(b"", keys=["\udcff"]), "keys: one is '\\udcff'; UTF-8 cannot hold it"),
            (lambda: session.submit(b"", dependencies=[""]), "dependencies: a key is ''; it must be text"),
            (lambda: session.submit(b"", dependencies=["\ud800"]), "dependencies: a key is '\\ud800'; UTF-8"),
            (lambda: session.submit(b"", options={"a": "\ud800"}), "options: 'a' is '\\ud800'; UTF-8 cannot hold it"),
            (lambda: session.submit(b"", priority=10), "priority is 10, it must be below that"),
            (lambda: session.submit(Path("/")), "payload: / is no file that can be read twice"),
            (lambda: other.gather([task]), f"task '{task.id}' is of session '{session.id}', not of '{other.id}'"),
            (lambda: list(other.as_completed([task])), f"is of session '{session.id}', not of '{other.id}'"),
            (lambda: client.session(7), "id of a session is 7"),
            (lambda: client.session("\ud800"), "id of a session is '\\ud800'; UTF-8 cannot hold it"),
            (lambda: runtime.TaskClient(task_server.target, timeout_s="1"), "timeout_s is '1'"),
            (lambda: runtime.TaskClient(task_server.target, retry_s=None), "retry_s is None"),
            (lambda: client.attach(""), "id of a session is ''"),
            (lambda: runtime.TaskClient(None), "target is None"),
        ]
        for call, message in wrong:
            with pytest.raises(InvalidArgument) as caught:
                call()
            assert message in caught.value.message
        assert session.counts() == {"SUBMITTED": 1}
        session.cancel()


def test_a_session_that_does_not_exist_has_no_counts(task_server: runtime.Server) -> None:
    with runtime.TaskClient(task_server.target) as client:
        for call in (client.attach("nowhere").counts, client.attach("nowhere").wait):
            with pytest.raises(NotFound, match="session 'nowhere' is not known"):
                call()
        with client.session() as empty:
            assert empty.counts() == {}
            assert empty.wait(TIMEOUT_S) == {}


def test_commands_name_the_way_out(task_server: runtime.Server, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(task_server.target, capsys)
    status, text = shell("session", "wait", "nowhere")
    assert status == 1 and "session 'nowhere' is not known" in text
    status, text = shell("task", "why", "nothing")
    assert status == 1 and "task 'nothing' is not known: `tensor-runtime task list` shows those that are" in text
    nobody = Shell("grpc://127.0.0.1:9", capsys)
    status, text = nobody("task", "list")
    assert status == 1
    assert "grpc://127.0.0.1:9 cannot be reached: Connection refused; `tensor-runtime serve` starts a server" in text
    encrypted = Shell(task_server.target.replace("grpc://", "grpcs://"), capsys)
    status, text = encrypted("task", "list")
    assert status == 1 and "what answers there does not speak TLS; grpc:// is the form" in text
    for words, message in (
        (("task", "wait", "x", "--timeout", "-1"), "argument --timeout: '-1' is no number of seconds"),
        (("session", "wait", "x", "--timeout", "nan"), "argument --timeout: 'nan' is no number of seconds"),
        (("result",), "required: list|show|get|wait"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_cancelling_says_which_tasks_had_ended(worked: str, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(worked, capsys)
    with runtime.TaskClient(worked) as client:
        session = client.session()
        done = session.submit(b"echo fine")
        done.wait(TIMEOUT_S)
        waiting = session.submit(b"echo", dependencies=["nothing"])
        status, text = shell("task", "cancel", done.id, waiting.id)
    assert (status, text) == (0, f"{done.id} is COMPLETED and stays so\ncanceled {waiting.id}\n")


def test_interrupting_a_command_ends_it_without_a_traceback(worked: str) -> None:
    with runtime.TaskClient(worked) as client:
        session = client.session()
        done = session.submit(b"echo fine")
        waiting = session.submit(b"echo", dependencies=["nothing"])
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "task", "wait", done.id, waiting.id, "--server", worked],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{done.id} COMPLETED\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=TIMEOUT_S) == ("", "")
        finally:
            process.kill()
            process.wait()
        assert process.returncode == INTERRUPTED
        session.cancel()


@pytest.mark.parametrize("words", [["--help"], ["task", "--help"], ["ops"]])
def test_a_reader_that_has_gone_is_no_error_to_read(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "runtime.cli", *words], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True,
            timeout=TIMEOUT_S,
        )
    finally:
        os.close(writing)
    assert done.returncode in (0, 1)  # argparse takes no notice of what it cannot print
    assert done.stderr == ""


def test_a_client_of_before_a_fork_is_refused_at_once(worked: str) -> None:
    script = f"""
import os, sys, runtime
client = runtime.TaskClient({worked!r})
session = client.session()
session.submit(b"echo before").result(timeout_s=30)
coming = session.submit(b"wait /nowhere/at all")
child = os.fork()
if not child:
    with client:
        for call in (
            lambda: session.submit(b"x"), lambda: session.gather([session.handle("x")]), session.cancel, coming.result
        ):
            try:
                call()
            except runtime.errors.FailedPrecondition as error:
                print(error)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
print(session.submit(b"echo parent").result(timeout_s=30))
coming.cancel()
client.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    *refused, last = done.stdout.splitlines()
    assert last == "b'parent'" and len(refused) == 4, done
    assert all("is of use in the process that made it" in line for line in refused)


def test_closing_a_client_over_tls_leaves_no_socket_to_its_loop(tmp_path: Path) -> None:
    keys = tmp_path / "pki"
    assert main(["cert", "ca", "--out", str(keys)]) == 0
    assert main(["cert", "leaf", "server", "--ca", str(keys), "--host", "127.0.0.1"]) == 0
    with runtime.Server(
        services=("task",), data_dir=tmp_path / "data", tls_cert=keys / "server.pem", tls_key=keys / "server.key",
        grace_s=0.0,
    ) as server:
        address = server.target.partition("://")[2]
        port = int(address.rpartition(":")[2])

        async def use() -> tuple[int, int]:
            async with runtime.AsyncTaskClient(f"grpcs://{address}", ca=keys / "ca.pem") as client:
                await client.chunk_bytes()
                num_open = _connections_to(port)
            return num_open, _connections_to(port)

        assert asyncio.run(use()) == (1, 0)


def _connections_to(port: int) -> int:
    """Return how many sockets of this process are connected to a port."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as peer:
                found += peer.getpeername()[1] == port
        except (OSError, IndexError):  # no socket, or one that is not connected, or of another family
            pass
    return found


def test_what_is_no_function_is_no_worker() -> None:
    with pytest.raises(InvalidArgument, match="worker 'os:path': 'path' is no function but of type module"):
        load("os:path")
