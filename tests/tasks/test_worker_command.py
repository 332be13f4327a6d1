"""``tensor-runtime worker`` as a process: ready line, processes begun again, draining, and what is asked wrongly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from runtime import wire
from runtime.local_cluster.task_process import command_line
from tests.conformance.armonik.outside_worker import workers_call
from tests.conformance.armonik.submitter import Submitter, serve, task
from tests.leaks import run_async
from tests.processes import ROOT

TIMEOUT_S = 60.0


@contextlib.asynccontextmanager
async def worker_command(folder: Path, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command, which is gone at the end."""
    with open(folder / "worker.log", "ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command_line("worker", *words), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        # Its processes end with their standard input; nothing of them is left for the test after this one.
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.read(), TIMEOUT_S)


async def ready(process: asyncio.subprocess.Process) -> list[str]:
    """Wait for the ready line and return the endpoints in it."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), TIMEOUT_S)
    word, *endpoints = line.decode().split()
    assert word == "ready"
    return endpoints


async def workers_of(submitter: Submitter) -> list[Any]:
    """Return what the server lists."""
    return list((await workers_call(submitter, "List", wire.runtime_v1.ListWorkersRequest())).worker)


async def until_there(path: Path) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not path.exists():
            await asyncio.sleep(0.01)


async def pids(submitter: Submitter, name: str, number: int) -> set[bytes]:
    """Return the processes that so many tasks ran in."""
    await submitter.create(*(task(f"{name}{index}", payload=b"pid") for index in range(number)))
    for index in range(number):
        assert await submitter.available(f"{name}{index}") is None
    return {await submitter.data(f"{name}{index}") for index in range(number)}


def test_processes_are_registered_begun_again_and_drained(tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.1) as submitter:
            await submitter.session(max_retries=3)
            target = f"grpc://{submitter.address}"
            words = ("tests.tasks.worker_functions:by_payload", "--server", target, "--processes", "2", "--name", "two")
            async with worker_command(tmp_path, *words) as process:
                endpoints = await ready(process)
                listed = await workers_of(submitter)
                assert sorted(entry.endpoint for entry in listed) == sorted(endpoints)
                assert {entry.name for entry in listed} == {"two"} and len(endpoints) == 2
                before = await pids(submitter, "a", 30)
                assert len(before) <= 2
                # A process that dies with its task is begun again, and the task runs elsewhere.
                await submitter.create(task("die", payload=b"die"), max_retries=3)
                assert await submitter.available("die") is None
                assert (await submitter.output("die")).error.details
                async with asyncio.timeout(TIMEOUT_S):
                    number = 0
                    while not await pids(submitter, f"b{number}-", 6) - before:
                        number += 1
                await submitter.create(task("wait", payload=f"wait {tmp_path}/go".encode()))
                await until_there(tmp_path / "go.began")
                process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(TIMEOUT_S):
                    while any(entry.state != "leaving" for entry in await workers_of(submitter)):
                        await asyncio.sleep(0.02)
                await submitter.create(task("later", payload=b"pid"))
                (tmp_path / "go").touch()
                assert await asyncio.wait_for(process.wait(), TIMEOUT_S) == 0
                # What was acquired ahead for a worker that has left goes back a moment later.
                async with asyncio.timeout(TIMEOUT_S):
                    while await submitter.statuses("wait", "later") != {"wait": "COMPLETED", "later": "SUBMITTED"}:
                        await asyncio.sleep(0.02)
                assert not any(Path(endpoint.removeprefix("unix:")).parent.exists() for endpoint in endpoints)

    run_async(work, 3 * TIMEOUT_S)


def test_worker_finds_a_server_that_was_away(tmp_path: Path) -> None:
    async def work() -> None:
        words = ["tests.tasks.worker_functions:double", "--server"]
        address = f"unix:{tmp_path}/server.sock"
        async with worker_command(tmp_path, *words, address) as process:
            for name in ("one", "two"):
                async with serve(tmp_path / "data", listen=address, task_check_s=0.1) as submitter:
                    await submitter.session(name)
                    await submitter.create(task(name, payload=b"ab"), session=name)
                    assert await submitter.available(name, name) is None
                    assert await submitter.data(name, name) == b"abab"
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), TIMEOUT_S) == 0

    run_async(work, 3 * TIMEOUT_S)


def test_workers_are_added_listed_and_removed(tmp_path: Path) -> None:
    async def command(server: str, *words: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *command_line("workers", *words, "--server", server), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        return process.returncode or 0, output.decode()

    async def work() -> None:
        async with serve(tmp_path, task_check_s=0.1) as submitter:
            target = f"grpc://{submitter.address}"
            endpoint = f"unix:{tmp_path}/nobody.sock"
            assert await command(target, "add", endpoint, "--name", "n") == (0, f"added {endpoint}\n")
            status, text = await command(target, "add", endpoint)
            assert status == 1 and "is in use already, by worker 'n'" in text
            status, text = await command(target, "add", "nowhere")
            assert status != 0 and "endpoint 'nowhere' is not understood" in text
            status, text = await command(target, "list", "-o", "json")
            (listed,) = json.loads(text)
            assert (listed["endpoint"], listed["name"], listed["is_registered"]) == (endpoint, "n", False)
            assert "cannot be reached" in listed["state"]
            status, text = await command(target, "list")
            title, head = text.splitlines()[:2]
            assert (status, title) == (0, "workers for tasks")
            assert head.split()[:3] == ["ENDPOINT", "NAME", "STATE"]
            assert await command(target, "remove", endpoint, "--grace", "1") == (0, f"removed {endpoint}\n")
            status, text = await command(target, "remove", endpoint)
            assert status == 1 and "no worker is at endpoint" in text

    run_async(work, 3 * TIMEOUT_S)


def test_what_is_asked_wrongly_is_said(tmp_path: Path) -> None:
    for words, text in [
        (["nosuchmodule:f"], "there is no module 'nosuchmodule'"),
        (["tests.tasks.worker_functions:nobody"], "has no 'nobody'"),
        (["m:f", "--processes", "0"], "--processes must be from 1"),
        (["m:f", "--server", "grpc://192.0.2.1:1"], "is not on this machine: give --listen"),
        (["m:f", "--no-register"], "--no-register needs --listen"),
        (["m:f", "--listen", "nowhere"], "write HOST:PORT or unix:PATH"),
    ]:
        done = subprocess.run(command_line("worker", *words), cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and text in done.stderr, done.stderr


def test_what_would_fail_again_and_again_ends_the_command(tmp_path: Path) -> None:
    for name, line, text in [
        ("raising", "raise RuntimeError('no such luck')", "RuntimeError: no such luck"),
        ("lacking", "import nosuchmodule", "ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("misspelt", "def f(:", "SyntaxError: invalid syntax"),
    ]:
        (tmp_path / f"{name}.py").write_text(line + "\n")
        done = subprocess.run(
            command_line("worker", f"{name}:f"), cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert done.returncode == 2, done.stderr
        assert f"worker '{name}:f': module '{name}' cannot be imported:" in done.stderr
        assert f'File "{tmp_path}/{name}.py", line 1' in done.stderr and text in done.stderr
        assert "function.py" not in done.stderr and "importlib" not in done.stderr
    words = ["tests.tasks.worker_functions:double", "--listen", "0.0.0.0:0"]
    done = subprocess.run(command_line("worker", *words), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("tensor-runtime worker: refusing to listen on 0.0.0.0:0: other machines can reach")
