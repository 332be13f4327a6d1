"""Commands in real containers: of podman, on a root filesystem that this test makes of busybox.

Debian's packages `podman`, `catatonit`, `runc` and `busybox-static` are needed, on a machine that lets podman run;
`make test` installs them where it can. Images, containers and settings lie in a folder of the test's own.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.agents import AgentProcess, agent
from tests.conformance.taskqueue.client import Queue, serving, wait_until

IMAGE = "localhost/only-busybox"
TOOLS = ("sh", "cat", "echo", "ls", "sleep", "seq", "yes", "dd", "head", "id", "touch", "true", "grep")
LIMITS = ("--kill-grace", "0.5", "--task-time", "60", "--task-output", "1MiB")


class Podman:
    """podman with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        runtime = next((name for name in ("runc", "crun") if shutil.which(name)), "")
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/images"\nrunroot = "{folder}/run"\n'
        )
        (folder / "containers.conf").write_text(
            '[containers]\nnetns = "none"\nlog_driver = "k8s-file"\n'
            'default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n'
            f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "{runtime}"\n'
        )
        self.environment = {
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "CONTAINERS_CONF": str(folder / "containers.conf"),
        }

    def call(self, *words: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["podman", *words], env={**os.environ, **self.environment}, capture_output=True, text=True,
            timeout=timeout, check=False,
        )

    def containers(self) -> list[str]:
        """Return the containers that there are, running or not."""
        return self.call("ps", "-aq").stdout.split()


def root_filesystem(path: Path) -> None:
    """Write a root filesystem with busybox alone."""
    with tarfile.open(path, "w") as tar:
        for name in ("bin", "tmp", "proc", "dev", "sys", "etc"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        tar.add(shutil.which("busybox") or "", "bin/busybox")
        for name in TOOLS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        note = tarfile.TarInfo("etc/note")
        note.size = 9
        tar.addfile(note, io.BytesIO(b"in image\n"))


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    missing = [name for name in ("podman", "busybox") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: Debian's packages podman and busybox-static have them")
    folder = tmp_path_factory.mktemp("podman")
    podman = Podman(folder)
    root_filesystem(folder / "root.tar")
    for words in (("import", str(folder / "root.tar"), IMAGE), ("run", "--rm", "--init", IMAGE, "sh", "-c", "true")):
        try:
            done = podman.call(*words)
        except subprocess.TimeoutExpired:
            pytest.skip(f"podman does not work here: `podman {words[0]}` does not end")
        if done.returncode:
            pytest.skip(f"podman does not work here: {done.stderr.strip()[-300:]}")
    yield podman
    podman.call("rm", "-af")
    podman.call("rmi", "-af")


@pytest.fixture(scope="module")
def queue(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    with serving(tmp_path_factory.mktemp("queue")) as queue:
        yield queue


@pytest.fixture(scope="module")
def worker(queue: Queue, podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    flags = (*LIMITS, "--container-program", "podman")
    state = tmp_path_factory.mktemp("agent")
    with agent(queue.address, state, *flags, concurrency=2, env=podman.environment) as started:
        yield started


def run(queue: Queue, command: str, container: str = IMAGE) -> tuple[str, list[tuple[str, str]]]:
    task = queue.submit(command, container)
    output = [(entry.log_type, entry.log_text) for entry in queue.follow(task)]
    return queue.status(task), output


def test_a_command_sees_its_image_and_its_folder(
    queue: Queue, worker: AgentProcess, podman: Podman, tmp_path: Path
) -> None:
    (tmp_path / "outside").touch()
    status, output = run(
        queue, f"cat /etc/note; pwd; echo $OUTPUT; touch $OUTPUT/x && ls $OUTPUT; ls {tmp_path} /home; "
               "ls /sys/class/net; echo $CPU $MEM | grep -c '[1-9]'; exit 3"
    )
    out = [text for kind, text in output if kind == "O"]
    assert status == "F" and out == ["in image", "/work", "/work/output", "x", "lo", "1"]
    errors = [text for kind, text in output if kind == "E"]
    assert errors[-1] == "exit status 3" and all("No such file" in line for line in errors[:-1])
    assert podman.containers() == []


def test_limits_hold_in_a_container(queue: Queue, worker: AgentProcess, podman: Podman) -> None:
    asks = {
        "memory": ("memory=32MiB", "dd if=/dev/zero of=/dev/null bs=200M count=1 && echo never"),
        "processes": ("processes=20", "for i in $(seq 60); do sleep 20 & done; echo never"),
        "time": ("time=1", "trap '' TERM; while true; do sleep 1; done"),
        "output": ("output=1000", "yes 0123456789 | head -n 1000000"),
        "files": ("files=10", "for i in $(seq 3 11); do eval \"exec $i</etc/note\" || exit 1; done; echo never"),
    }
    tasks = {
        what: queue.submit(f"# tensor-runtime: {words}\n{command}", IMAGE) for what, (words, command) in asks.items()
    }
    found = {what: [entry.log_text for entry in queue.follow(task)] for what, task in tasks.items()}
    statuses = queue.statuses()
    assert {what: statuses[task] for what, task in tasks.items()} == {
        "memory": "F", "processes": "F", "time": "F", "output": "S", "files": "F"
    }, found
    assert not any("never" in line for lines in found.values() for line in lines)
    assert any("can't fork" in line for line in found["processes"])
    assert found["time"] == ["timeout: ended after 1 s"]
    assert found["output"][-1] == "output beyond 1000 bytes is left out"
    wait_until(lambda: podman.containers() == [], "removed")


def test_cancel_removes_the_container(queue: Queue, worker: AgentProcess, podman: Podman) -> None:
    task = queue.submit("trap '' TERM INT; echo begun; while true; do sleep 1; done", IMAGE)
    assert next(queue.follow(task)).log_text == "begun"
    assert len(podman.containers()) == 1
    queue.update(task, "X")
    assert [entry.log_text for entry in queue.follow(task)][-1] == "cancelled"
    wait_until(lambda: podman.containers() == [], "removed")
    assert queue.status(task) == "X"


def test_an_image_that_is_not_there(queue: Queue, worker: AgentProcess) -> None:
    status, output = run(queue, "true", "localhost/none:1")
    assert status == "F" and output[-1] == ("E", "exit status 125")
