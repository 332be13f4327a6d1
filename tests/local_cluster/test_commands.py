"""``tensor-runtime cluster up``, ``status`` and ``down``, as processes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.client.channels import Access
from runtime.client.status import fetch_status
from runtime.errors import Error
from runtime.local_cluster.merged_logs import MergedLogs
from runtime.local_cluster.state_file import ClusterRecord, ProcessRecord, read_record, write_record
from tests import processes
from tests.local_cluster.test_cluster import exists

LINE = [sys.executable, "-c", "import sys; from runtime.cli import main; sys.exit(main())"]
SMALL = ("--services", "graph", "--grace", "1")


def run(*words: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a subcommand to its end."""
    return subprocess.run([*LINE, "cluster", *words, "--dir", str(directory)], capture_output=True, text=True,
                          timeout=60, cwd=processes.ROOT)


@contextlib.contextmanager
def up(directory: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run ``cluster up`` in the foreground; give what it prints until it is ready."""
    with subprocess.Popen([*LINE, "cluster", "up", *SMALL, "--dir", str(directory), *words], cwd=processes.ROOT,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            printed: list[str] = []
            while not printed or not printed[-1].startswith("ready "):
                line = process.stdout.readline()
                assert line, process.communicate()[1]
                printed.append(line.rstrip("\n"))
            yield process, printed
        finally:
            if process.poll() is None:
                process.kill()


def table(directory: Path) -> Any:
    """Return what ``cluster status -o json`` tells."""
    return json.loads(run("status", "-o", "json", directory=directory).stdout)


def until(found: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Return what a function finds, asked again until it finds something."""
    deadline = time.monotonic() + timeout_s
    while not (answer := found()):
        assert time.monotonic() < deadline, "not seen in time"
        time.sleep(0.05)
    return answer


def pids(directory: Path) -> dict[str, int]:
    """Return the processes of the tasks by name."""
    record = read_record(directory)
    assert record is not None
    return {f"{task.job}/{task.index}": task.process.pid for task in record.tasks if task.process is not None}


def test_a_cluster_in_the_background(tmp_path: Path) -> None:
    started = run("up", "--detach", "--workers", "1", "--ps", "1", "--chief", *SMALL, directory=tmp_path)
    try:
        assert started.returncode == 0, started.stderr
        *lines, ready = started.stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["chief/0", "ps/0", "worker/0"]
        target = ready.removeprefix("ready ")
        assert target == lines[0].split()[1]
        graph = runtime.Graph()
        with graph.device("/job:ps/task:0"):
            three = graph.constant(1.0) + 2.0
        with runtime.Session(target, graph) as session:
            assert session.run(three) == 3.0

            again = run("up", *SMALL, directory=tmp_path)
            assert again.returncode == 1
            assert f"a cluster runs in {tmp_path} already (process" in again.stderr

            shown = run("status", directory=tmp_path)
            assert shown.returncode == 0
            assert re.search(rf"worker/0 +127\.0\.0\.1:\d+ +{pids(tmp_path)['worker/0']} .* running", shown.stdout)
            assert session_handle(shown.stdout)
        found = table(tmp_path)
        assert found["cluster"]["state"] == "serving" and found["cluster"]["target"] == target
        assert [task["state"] for task in found["cluster"]["tasks"]] == ["running"] * 3
        assert len(found["status"]["task"]) == 3

        victim = pids(tmp_path)["worker/0"]
        os.kill(victim, signal.SIGKILL)
        until(lambda: table(tmp_path)["cluster"]["tasks"][2]["state"] == "killed by SIGKILL")
        broken = run("status", directory=tmp_path)
        assert broken.returncode == 1
        assert re.search(r"worker/0 .* killed by SIGKILL", broken.stdout)
        assert re.search(r"/job:worker/replica:0/task:0 .* does not answer", broken.stdout)
        assert "worker/0 on" in (tmp_path / "cluster.log").read_text()
    finally:
        left = pids(tmp_path) if read_record(tmp_path) else {}
        ended = run("down", directory=tmp_path)
    assert ended.returncode == 0
    assert ended.stdout == f"ended the cluster in {tmp_path}: chief/0, ps/0, worker/0\n"
    assert len(left) == 3 and not any(map(exists, left.values()))
    assert run("down", directory=tmp_path).stdout == f"no cluster runs in {tmp_path}\n"
    assert run("status", directory=tmp_path).returncode == 1


def session_handle(text: str) -> str:
    """Return the handle of the session in the table."""
    found = re.search(r"^ +([0-9a-f]{16}) ", text, re.MULTILINE)
    return found[1] if found else ""


def test_a_cluster_in_the_foreground_shows_logs_and_ends_with_a_signal(tmp_path: Path) -> None:
    with up(tmp_path, "--workers", "2", "--log-level", "debug") as (process, printed):
        assert [line.split()[0] for line in printed] == ["worker/0", "worker/1", "ready"]
        tasks = pids(tmp_path)
        os.kill(tasks["worker/1"], signal.SIGKILL)
        until(lambda: (read_record(tmp_path) or pytest.fail()).tasks[1].ended)
        with runtime.Session(printed[-1].removeprefix("ready "), runtime.Graph(), runtime.wire.ConfigProto(
                device_filters=["/job:worker/task:0"])) as session:
            session.list_devices()
        process.send_signal(signal.SIGINT)
        _, logs = process.communicate(timeout=30)
        assert process.returncode == 1, "a task had ended by itself"
    assert re.search(r"^worker/0 \| .* session created ", logs, re.MULTILINE)
    assert re.search(r"^worker/0 \| .* stopped ", logs, re.MULTILINE)
    assert re.search(r"^tensor-runtime cluster: worker/1 on 127\.0\.0\.1:\d+ killed by SIGKILL; the others go on\.",
                     logs, re.MULTILINE)
    assert "Traceback" not in logs
    assert not any(map(exists, tasks.values()))
    assert read_record(tmp_path) is None


@contextlib.contextmanager
def blocked_step(target: str) -> Iterator[None]:
    """Have a step wait on a server, which so takes its grace when it ends."""
    graph = runtime.Graph()
    queue = graph.op("FIFOQueueV2", component_types=["float32"], shapes=[[]])
    token = graph.op("QueueDequeueV2", queue, component_types=["float32"])

    def wait() -> None:
        with pytest.raises(Error), runtime.Session(target, graph) as session:
            session.run(token)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        until(lambda: any(session.num_steps for session in fetch_status(target, Access(), 3).task[0].session))
        yield
    finally:
        thread.join(30)
        assert not thread.is_alive()


def test_a_second_signal_ends_tasks_at_once(tmp_path: Path) -> None:
    with up(tmp_path, "--workers", "1", "--grace", "60") as (process, printed), blocked_step(printed[-1][6:]):
        pid = pids(tmp_path)["worker/0"]
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        until(lambda: (read_record(tmp_path) or pytest.fail()).state == "stopping")
        time.sleep(0.3)
        assert exists(pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert time.monotonic() - began < 30, "its grace is 60 s"
    assert not exists(pid)


def test_a_cluster_whose_supervisor_was_killed_is_noticed_and_cleared_up(tmp_path: Path) -> None:
    with up(tmp_path, "--workers", "1", "--grace", "60") as (process, printed), blocked_step(printed[-1][6:]):
        pid = pids(tmp_path)["worker/0"]
        process.kill()
        process.wait(10)
        shown = run("status", directory=tmp_path)
        assert shown.returncode == 1
        assert f"process {process.pid} is gone" in shown.stdout
        assert exists(pid)
        with up(tmp_path, "--workers", "1") as (second, _):  # clears up, too
            assert not exists(pid)
            pid = pids(tmp_path)["worker/0"]
            second.kill()
    assert run("down", directory=tmp_path).returncode == 0
    assert not exists(pid)
    assert read_record(tmp_path) is None


def test_a_number_that_another_process_has_now_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as bystander:
        own = ProcessRecord.of(bystander.pid)
        assert own.is_alive
        write_record(tmp_path, ClusterRecord(ProcessRecord(own.pid, own.born + 1), "serving", 1.0, "grpc://h:1"))
        assert run("status", directory=tmp_path).returncode == 1
        assert run("down", directory=tmp_path).returncode == 0
        assert bystander.poll() is None
        bystander.kill()


def test_what_cannot_start_is_told_with_its_log(tmp_path: Path) -> None:
    for words in ((), ("--detach",)):
        failed = run("up", "--workers", "1", "--token-file", str(tmp_path / "absent"), *words, directory=tmp_path)
        assert failed.returncode == 1, failed
        assert "worker/0 on 127.0.0.1:" in failed.stderr and "absent" in failed.stderr
        assert "Traceback" not in failed.stderr
    assert run("up", "--workers", "0", directory=tmp_path).returncode == 2
    assert run("up", "--workers", "-1", directory=tmp_path).returncode == 2
    assert run("up", "--peer-timeout-s", "never", directory=tmp_path).returncode == 2
    assert read_record(tmp_path) is None


def test_a_record_that_is_none_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"version": 1}', '{"version": 2}', '{"version": 1, "process": 3, "tasks": []}'):
        (tmp_path / "cluster.json").write_text(text)
        refused = run("status", directory=tmp_path)
        assert refused.returncode == 2
        assert str(tmp_path / "cluster.json") in refused.stderr and "Traceback" not in refused.stderr


def test_logs_are_merged_line_by_line(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"before\n")
    stream = io.StringIO()
    logs = MergedLogs({"ps/0": one, "worker/10": two}, stream)
    logs.copy()
    assert stream.getvalue() == ""
    two.write_bytes(b"a\nb")
    with open(one, "ab") as more:
        more.write(b"x\xff\n")
    logs.copy()
    assert stream.getvalue().splitlines() == ["ps/0      | x\ufffd", "worker/10 | a"]
    with open(two, "ab") as more:
        more.write(b"c" * 70000)
    logs.finish()
    assert stream.getvalue().splitlines()[2] == "worker/10 | b" + "c" * 70000
