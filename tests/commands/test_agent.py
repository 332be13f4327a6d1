"""Our worker, as a process against a server."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.agent.launcher import Started
from tests.commands.agents import AgentProcess, agent, agent_command, marked, supervisor_of
from tests.conformance.taskqueue.client import Queue, serving, wait_until

# What commands do is the same in a sandbox; `test_isolation` looks at that.
BARE = ("--sandbox", "off", "--kill-grace", "1")


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    with serving(tmp_path_factory.mktemp("queue")) as queue:
        yield queue


@pytest.fixture(scope="module")
def worker(queue: Queue, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """One agent for all tests that only look at how commands run."""
    state = tmp_path_factory.mktemp("agent")
    flags = ("--task-time", "20", "--env", "EXTRA=more", "--keep-failed")
    with agent(queue.address, state, *BARE, *flags, name="shared", concurrency=2) as started:
        yield started


def run(queue: Queue, command: str, container: str = "bare") -> tuple[str, list[tuple[str, str]]]:
    """Run a command; return its status and its output."""
    task = queue.submit(command, container)
    output = [(entry.log_type, entry.log_text) for entry in queue.follow(task)]
    return queue.status(task), output


def test_output_and_exit_status(queue: Queue, worker: AgentProcess) -> None:
    assert run(queue, "echo out; echo err >&2; exit 3") == ("F", [("O", "out"), ("E", "err"), ("E", "exit status 3")])
    assert run(queue, "true") == ("S", [])
    assert run(queue, "kill -9 $$") == ("F", [("E", "killed by signal 9")])
    assert run(queue, "printf 'no line break'") == ("S", [("O", "no line break")])
    assert run(queue, r"printf 'a\000b\n\377\n'") == ("S", [("O", "a\u2400b"), ("O", "\ufffd")])


def test_the_shell_gets_the_command_as_it_is(queue: Queue, worker: AgentProcess) -> None:
    command = "echo \"it's\" '\"quoted\"' $((1 + 2))\necho é🙂"
    assert run(queue, command) == ("S", [("O", "it's \"quoted\" 3"), ("O", "é🙂")])


def test_much_output_is_complete_and_in_order(queue: Queue, worker: AgentProcess) -> None:
    status, output = run(queue, "seq 1 30000")
    assert status == "S"
    assert [text for _, text in output] == [str(number) for number in range(1, 30_001)]


def test_a_long_line_comes_in_pieces(queue: Queue, worker: AgentProcess) -> None:
    status, output = run(queue, "yes é | tr -d '\\n' | head -c 1000000; echo end")
    assert status == "S" and len(output) == 16
    assert "".join(text for _, text in output) == "é" * 500_000 + "end"


def test_environment_and_folder(queue: Queue, worker: AgentProcess) -> None:
    _, output = run(queue, 'pwd; for f in "$INPUT" "$OUTPUT" "$RESOURCE" "$TEMP"; do touch $f/x && echo $f; done; '
                           'echo $CPU $THREADS $MEM $EXTRA; env | grep TENSOR_RUNTIME_LISTEN')
    folder, *rest = (text for _, text in output)
    assert folder.startswith(str(worker.state))
    wait_until(lambda: not Path(folder).exists(), "removed")
    assert rest[:4] == [f"{folder}/{name}" for name in ("input", "output", "resource", "tmp")]
    assert rest[4].split()[3] == "more" and all(number.isdigit() for number in rest[4].split()[:3])
    assert rest[5] == "exit status 1"


def test_what_a_command_leaves_running_ends_with_it(queue: Queue, worker: AgentProcess) -> None:
    status, output = run(queue, "(sleep 7654; echo never) & setsid sleep 7654 & echo begun")
    assert (status, output) == ("S", [("O", "begun")])
    assert marked("7654") == []


def test_cancel_ends_the_whole_tree(queue: Queue, worker: AgentProcess) -> None:
    stubborn = "trap '' TERM; (trap '' TERM; setsid sleep 7655 & sleep 7655) & echo begun; sleep 7655; sleep 7655"
    task = queue.submit(stubborn)
    assert next(queue.follow(task)).log_text == "begun"
    wait_until(lambda: len(marked("7655")) >= 3, "running")
    queue.update(task, "X")
    wait_until(lambda: not marked("7655"), "ended")
    assert list(queue.follow(task))[-1].log_text == "cancelled"
    # Its slots are free again.
    assert run(queue, "echo next") == ("S", [("O", "next")])
    assert queue.status(task) == "X"


def test_containers_need_a_program_for_them(queue: Queue, tmp_path: Path, worker: AgentProcess) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "cat", "echo"):
        (tools / name).symlink_to(f"/bin/{name}")
    with serving(tmp_path) as queue, agent(queue.address, tmp_path / "state", *BARE, env={"PATH": str(tools)}):
        status, output = run(queue, "true", "alpine")
        assert status == "F" and "neither docker nor podman is installed" in output[0][1]
        assert queue.update(queue.tasks()[0].task_id, "F")
        # A stand-in that tells how it was called.
        program = tools / "docker"
        program.write_text("#!/bin/sh\nfor word; do echo \"$word\"; done\n")
        program.chmod(0o755)
    with serving(tmp_path) as queue, agent(
        queue.address, tmp_path / "state", *BARE, "--task-memory", "1GiB", "--task-processes", "5", name="other",
        env={"PATH": str(tools)},
    ):
        status, output = run(queue, "echo hi", "alpine:3")
        words = [text for _, text in output]
        assert status == "S" and words[:4] == ["run", "--rm", "--init", "--name"]
        assert words[4].startswith("tq-") and words[-4:] == ["alpine:3", "sh", "-c", "echo hi"]
        assert words[words.index("--memory") + 1] == str(1 << 30) and words[words.index("--pids-limit") + 1] == "5"
        assert run(queue, "true", "--privileged")[0] == "F"


def test_permissions(tmp_path: Path) -> None:
    with serving(tmp_path) as queue:
        command = [word for word in agent_command(queue.address, tmp_path / "state", "--no-container")
                   if word != "--allow-bare"]
        refusing = AgentProcess(tmp_path / "state", command)
        try:
            status, output = run(queue, f"touch {tmp_path}/made")
            assert status == "F" and "--allow-bare" in output[0][1]
            status, output = run(queue, "true", "alpine")
            assert status == "F" and "--no-container" in output[0][1]
            assert not (tmp_path / "made").exists()
        finally:
            refusing.process.terminate()
            assert refusing.process.wait(60) == 0


def test_limits(tmp_path: Path) -> None:
    flags = ("--task-time", "1.5", "--task-memory", "200MiB", "--task-processes", "20", "--task-output", "10000",
             "--task-files", "50")
    with serving(tmp_path) as queue, agent(queue.address, tmp_path / "state", *BARE, *flags, concurrency=4):
        python = "python3 -c"
        holds = "x = bytearray(80 << 20); import time; time.sleep(60)"
        commands = {
            "time": "sleep 7656; echo never",
            "processes": "for i in $(seq 40); do sleep 7656 & done; wait",
            "memory": f"for i in 1 2 3 4; do {python} '{holds}' & done; wait",
            "output": "seq 1 5000",
            "files": f"{python} \"[open('/dev/null') for _ in range(100)]\"",
        }
        tasks = {what: queue.submit(command) for what, command in commands.items()}
        found = {what: [entry.log_text for entry in queue.follow(task)] for what, task in tasks.items()}
        assert found["time"] == ["timeout: ended after 1.5 s"]
        assert any("processes, 20 are allowed" in line for line in found["processes"])
        assert any("bytes of memory" in line or "timeout" in line for line in found["memory"])
        assert found["output"][-1] == "output beyond 10000 bytes is left out" and found["output"][0] == "1"
        assert any("Too many open files" in line for line in found["files"])
        statuses = queue.statuses()
        assert {what: statuses[task] for what, task in tasks.items()} == {
            "time": "F", "processes": "F", "memory": "F", "output": "S", "files": "F"
        }
        wait_until(lambda: not marked("7656"), "all ended")


def test_concurrency_is_never_exceeded(tmp_path: Path) -> None:
    with serving(tmp_path) as queue, agent(queue.address, tmp_path / "state", *BARE, concurrency=3):
        running = tmp_path / "running"
        running.mkdir()
        command = f"touch {running}/$$; ls {running} | wc -l; sleep 0.2; rm {running}/$$"
        tasks = [queue.submit(command) for _ in range(15)]
        counts = [int(entry.log_text) for task in tasks for entry in queue.follow(task)]
        assert len(counts) == 15 and max(counts) <= 3


def test_an_agent_that_is_asked_to_stop_ends_what_it_runs(tmp_path: Path) -> None:
    with serving(tmp_path) as queue, agent(queue.address, tmp_path / "state", *BARE, "--grace", "0.2") as started:
        task = queue.submit("echo begun; sleep 7657")
        assert next(queue.follow(task)).log_text == "begun"
        started.process.terminate()
        assert started.process.wait(60) == 0
        assert queue.status(task) == "F"
        assert [entry.log_text for entry in queue.follow(task)][-1] == "ended: its worker was stopped"
        assert not marked("7657")


def test_an_agent_that_starts_again_finds_its_commands(tmp_path: Path) -> None:
    with serving(tmp_path) as queue:
        state = tmp_path / "state"
        with agent(queue.address, state, *BARE) as first:
            task = queue.submit("for i in $(seq 1 40); do echo $i; sleep 0.1; done; exit 5")
            assert next(queue.follow(task)).log_text == "1"
            first.process.kill()
            first.process.wait()
            time.sleep(0.5)
            with agent(queue.address, state, *BARE):
                lines = [entry.log_text for entry in queue.follow(task)]
                assert lines == [*map(str, range(1, 41)), "exit status 5"]
                assert queue.status(task) == "F"


def test_a_command_ends_when_its_agent_stays_away(tmp_path: Path) -> None:
    with serving(tmp_path) as queue:
        state = tmp_path / "state"
        with agent(queue.address, state, *BARE, "--away", "1") as first:
            task = queue.submit("echo begun; sleep 7658")
            assert next(queue.follow(task)).log_text == "begun"
            first.process.kill()
            first.process.wait()
            wait_until(lambda: not marked("7658"), "ended")
            # What became of it is told when an agent comes back all the same.
            with agent(queue.address, state, *BARE):
                lines = [entry.log_text for entry in queue.follow(task)]
                assert lines == ["begun", "ended: its worker was away for 1 s"]
                assert queue.status(task) == "F"


def test_a_supervisor_that_is_killed_takes_its_command_along(queue: Queue, worker: AgentProcess) -> None:
    task = queue.submit("echo begun; setsid sleep 7659 & sleep 7659")
    assert next(queue.follow(task)).log_text == "begun"
    os.kill(supervisor_of(worker.state, task), signal.SIGKILL)
    lines = [entry.log_text for entry in queue.follow(task)]
    assert lines == ["begun", "its supervisor was killed, and the command with it"]
    assert queue.status(task) == "F"
    wait_until(lambda: not marked("7659"), "ended")


def test_supervisors_are_started_also_when_the_process_that_forks_them_dies(tmp_path: Path) -> None:
    with serving(tmp_path) as queue, agent(queue.address, tmp_path / "state", *BARE) as started:
        assert run(queue, "echo first") == ("S", [("O", "first")])
        (forking,) = children(started.process.pid)
        os.kill(forking, signal.SIGKILL)
        assert run(queue, "echo second") == ("S", [("O", "second")])
        assert run(queue, "echo third") == ("S", [("O", "third")])
        assert "supervisors are started one by one" in started.log()
        (forking,) = children(started.process.pid)
    wait_until(lambda: not Path(f"/proc/{forking}").exists(), "gone with the agent")


def test_an_end_is_seen_by_an_agent_with_many_descriptors() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(2048, limits[0]), limits[1]))
    try:
        with subprocess.Popen(["sleep", "60"]) as process:
            handle = os.pidfd_open(process.pid)
            started = Started(fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 1024))
            os.close(handle)
            assert not started.has_ended()
            process.kill()
            started.wait()
            assert started.has_ended()
            started.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def children(pid: int) -> list[int]:
    found = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in found for child in text.split()]


def test_evicted_commands_are_ended_and_not_reported(tmp_path: Path) -> None:
    options = {"command_offline_s": 0.5, "command_evict_s": 1.0}
    with serving(tmp_path, **options) as queue, agent(queue.address, tmp_path / "state", *BARE) as started:
        task = queue.submit("echo begun; sleep 7660")
        assert next(queue.follow(task)).log_text == "begun"
        os.kill(started.process.pid, signal.SIGSTOP)
        wait_until(lambda: queue.status(task) == "P", "evicted")
        queue.update(task, "Z")
        os.kill(started.process.pid, signal.SIGCONT)
        wait_until(lambda: not marked("7660"), "ended")
        assert queue.status(task) == "Z"


def test_two_agents_do_not_share_a_folder(tmp_path: Path) -> None:
    with serving(tmp_path) as queue, agent(queue.address, tmp_path / "state", *BARE):
        wait_until(queue.workers, "registered")
        second = AgentProcess(tmp_path / "second", agent_command(queue.address, tmp_path / "state"))
        assert second.process.wait(60) == 1
        assert "in use by another agent" in second.log()


def test_an_agent_whose_name_is_taken_over_ends(tmp_path: Path) -> None:
    with serving(tmp_path) as queue, agent(queue.address, tmp_path / "first", *BARE) as first:
        wait_until(queue.workers, "registered")
        with agent(queue.address, tmp_path / "second", *BARE):
            assert first.process.wait(60) == 1
            assert "another process has registered" in first.log()
            assert run(queue, "echo second") == ("S", [("O", "second")])


def test_folders_of_failed_commands_may_stay(queue: Queue, worker: AgentProcess) -> None:
    task = queue.submit("echo kept > file; exit 1")
    list(queue.follow(task))
    kept = worker.state / "kept" / f"{task}.1" / "work" / "file"
    wait_until(kept.exists, "kept")
    assert kept.read_text() == "kept\n"
    assert stat.S_IMODE((worker.state / "kept" / f"{task}.1" / "work" / "input").stat().st_mode) == 0o700
