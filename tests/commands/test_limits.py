"""What commands are held to: what they ask for, what their agent allows, and who sees to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime
from runtime.agent import supervisor
from runtime.agent.folders import CommandFolder
from runtime.agent.options import AgentOptions
from runtime.agent.runners import Runners
from runtime.commands.limits import CommandLimits
from runtime.errors import InvalidArgument
from tests.commands.agents import AgentProcess, agent, marked, supervisor_of
from tests.conformance.taskqueue.client import Queue, code, serving, wait_until
from tests.conformance.taskqueue.test_checklist import INVALID

HOG = "python3 -c 'held = bytearray(1 << 29); print(len(held))'"
# Memory that is shared is no process's data, and is not seen in what one has of its own.
SHARED_HOG = (
    "python3 -c 'import mmap; held = mmap.mmap(-1, 1 << 29); [held.write(bytes(1 << 20)) for _ in range(1 << 9)]'"
)


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    with serving(tmp_path_factory.mktemp("queue")) as queue:
        yield queue


@pytest.fixture(scope="module")
def worker(queue: Queue, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    flags = ("--sandbox", "off", "--kill-grace", "0.5", "--task-time", "30", "--task-output", "1000")
    with agent(queue.address, tmp_path_factory.mktemp("agent"), *flags, concurrency=4) as started:
        yield started


def run(queue: Queue, command: str) -> tuple[str, list[str]]:
    task = queue.submit(command)
    lines = [entry.log_text for entry in queue.follow(task)]
    return queue.status(task), lines


def test_a_line_says_what_is_asked_for() -> None:
    limits = CommandLimits(time_s=1.5, memory=1 << 20, processes=3, output=100, files=7)
    assert CommandLimits.of_command(limits.line() + "true") == limits
    assert CommandLimits().line() == ""
    several = "# tensor-runtime: time=60\n# tensor-runtime: memory=2GiB files=9\n\n# tensor-runtime: time=1\n"
    assert CommandLimits.of_command(several) == CommandLimits(60.0, 2 << 30, files=9)
    assert CommandLimits.of_command("echo '# tensor-runtime: time=1'") == CommandLimits()


def test_the_smaller_of_both_limits_holds() -> None:
    asked, most = CommandLimits(time_s=60, memory=1000, files=5), CommandLimits(time_s=30, processes=4, files=9)
    assert asked.within(most) == CommandLimits(time_s=30, memory=1000, processes=4, files=5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("time=0", "limit time: '0': expected a positive number of seconds"),
        ("time=nan", "limit time"),
        ("memory=much", "limit memory: 'much': expected a positive number of bytes"),
        ("memory=-1", "limit memory"),
        ("processes=1.5", "limit processes: '1.5': expected a whole number from 1"),
        ("files=99999999999", "limit files"),
        ("output=0", "limit output"),
        ("cpus=2", "'cpus=2'; it takes time=VALUE, memory=VALUE"),
        ("time", "'time'; it takes"),
        ("time=1 time=2", "limit time is given twice, '1' and '2'"),
    ],
)
def test_limits_that_cannot_be_are_refused_when_a_command_is_submitted(queue: Queue, words: str, told: str) -> None:
    command = f"# tensor-runtime: {words}\ntrue"
    with pytest.raises(InvalidArgument, match="command") as caught:
        CommandLimits.of_command(command)
    assert told in caught.value.message
    before = len(queue.tasks())
    assert code(lambda: queue.submit(command)) is INVALID
    assert len(queue.tasks()) == before


def test_each_command_is_held_to_its_own(queue: Queue, worker: AgentProcess) -> None:
    asks = {
        "time": ("time=1", "echo begun; sleep 7671"),
        "processes": ("processes=10", "for i in $(seq 30); do sleep 7671 & done; wait"),
        "memory": ("memory=100MiB", HOG),
        "files": ("files=20", "python3 -c \"files = [open('/dev/null') for _ in range(100)]\""),
        "output": ("output=50", "seq 1000"),
        "most": ("output=1GiB", "seq 1000"),
    }
    tasks = {what: queue.submit(f"# tensor-runtime: {words}\n{command}") for what, (words, command) in asks.items()}
    last = {what: [entry.log_text for entry in queue.follow(task)][-1] for what, task in tasks.items()}
    assert last["time"] == "timeout: ended after 1 s"
    assert "processes, 10 are allowed" in last["processes"]
    # The traceback of a process that was refused memory, or the end of one that had too much.
    assert last["memory"] == "exit status 1" or "bytes of memory" in last["memory"]
    assert last["files"] == "exit status 1"
    assert last["output"] == "output beyond 50 bytes is left out"
    assert last["most"] == "output beyond 1000 bytes is left out"
    statuses = queue.statuses()
    assert "".join(statuses[tasks[what]] for what in asks) == "FFFFSS"
    wait_until(lambda: not marked("7671"), "all ended")


def test_containers_get_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    options = AgentOptions("w", 1, tmp_path, sandbox="off", limits=CommandLimits(processes=8))
    text = "# tensor-runtime: memory=64MiB processes=100 files=30 time=5\ntrue"
    spec = Runners(options).spec(CommandFolder(tmp_path, 1, 1), text, "image", 1, 1)
    words = spec["argv"]
    assert words[words.index("--memory") + 1] == str(64 << 20)
    assert words[words.index("--pids-limit") + 1] == "8" and words[words.index("--ulimit") + 1] == "nofile=30:30"
    assert spec["wall_s"] == 5 and spec["memory_limit"] == 0


@pytest.mark.parametrize(("seconds", "told"), [(float("inf"), "'inf'"), (float("nan"), "'nan'"), (-1.0, "'-1'")])
def test_seconds_that_cannot_be_are_refused_from_a_program(queue: Queue, seconds: float, told: str) -> None:
    with (
        runtime.CommandClient(f"grpc://{queue.address}") as client,
        pytest.raises(InvalidArgument, match=f"limit time: {told}: expected a positive number of seconds"),
    ):
        client.submit("true", limits=runtime.CommandLimits(time_s=seconds))


def test_environment_folder_and_limits_from_a_program(queue: Queue, worker: AgentProcess, tmp_path: Path) -> None:
    value = "it's \"quoted\"\n$HOME"
    with runtime.CommandClient(f"grpc://{queue.address}") as client:
        number = client.submit(
            "pwd; printf '%s' \"$WORD\"", environment={"WORD": value}, directory=str(tmp_path),
            limits=runtime.CommandLimits(time_s=20, memory=1 << 30),
        )
        assert [line.text for line in client.logs(number, follow=True)] == [str(tmp_path), *value.split("\n")]
        assert client.get(number).command.startswith("# tensor-runtime: time=20 memory=1073741824\n")
        missing = client.submit("echo never", directory=str(tmp_path / "none"))
        assert client.join([missing])[missing].status == "F"
        assert not any(line.text == "never" for line in client.logs(missing))
        with pytest.raises(InvalidArgument, match="'a-b' is no name of a variable"):
            client.submit("true", environment={"a-b": ""})


def _can_hold_memory() -> bool:
    groups = supervisor.Groups(0, 1 << 30)
    try:
        return groups.hold_memory
    finally:
        groups.remove()


def supervise(folder: CommandFolder, text: str, patch: str = "") -> tuple[str, str, int]:
    """Run a command beside a supervisor alone; return why it ended, its last line, and who the supervisor was."""
    options = AgentOptions("w", 1, folder.state, allows_bare=True, sandbox="off")
    folder.prepare(Runners(options).spec(folder, text, "bare", 1, 1))
    program = f"import sys; from pathlib import Path; from runtime.agent import supervisor\n{patch}\n"
    program += "sys.exit(supervisor.main(Path(sys.argv[1])))"
    with subprocess.Popen([sys.executable, "-c", program, str(folder.path)]) as process:
        assert process.wait(60) == 0
    reason = json.loads((folder.path / "result.json").read_text())["reason"]
    return reason, folder.output(0, 1 << 20)[0][-1].data.decode(), process.pid


def test_the_kernel_holds_the_memory_where_groups_can_be_made(tmp_path: Path) -> None:
    if not _can_hold_memory():
        pytest.skip("no control group for memory can be made here: run as root, or in a delegated group")
    text = f"# tensor-runtime: memory=100MiB\n{SHARED_HOG}; echo after; sleep 7674"
    reason, line, pid = supervise(CommandFolder(tmp_path, 1, 1), text)
    assert (reason, line) == ("memory", f"ended: it needs more than {100 << 20} bytes of memory")
    assert not marked("7674") and _groups(pid) == []


def test_memory_is_watched_where_no_group_can_be_made(tmp_path: Path) -> None:
    holds = "python3 -c 'held = bytearray(60 << 20); import time; time.sleep(7672)'"
    text = f"# tensor-runtime: memory=100MiB\n{holds} & {holds} & wait"
    reason, line, _ = supervise(CommandFolder(tmp_path, 1, 1), text, "supervisor.group_folders = lambda controller: []")
    assert reason == "memory" and "bytes of memory, 104857600 are allowed" in line
    assert not marked("7672")


def test_groups_of_a_supervisor_that_was_killed_are_removed(queue: Queue, worker: AgentProcess) -> None:
    task = queue.submit("# tensor-runtime: processes=50 memory=1GiB\necho begun; sleep 7673")
    assert next(queue.follow(task)).log_text == "begun"
    process = supervisor_of(worker.state, task)
    assert len(_groups(process)) >= 1 or not _can_hold_memory()
    os.kill(process, 9)
    list(queue.follow(task))
    wait_until(lambda: not _groups(process), "removed")
    assert not marked("7673")


def _groups(pid: int) -> list[Path]:
    """Return the groups that a supervisor has."""
    folders = {*supervisor.group_folders("pids"), *supervisor.group_folders("memory")}
    return [path for folder in folders if (path := folder / supervisor.group_name(pid)).exists()]
