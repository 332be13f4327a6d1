"""What programs and people do with commands: submit, follow, join, cancel, retry; from Python and from the shell."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime
from runtime.cli import main
from runtime.client.commands import LogLine
from runtime.commands.model import Status
from runtime.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from tests.commands.agents import agent
from tests.peers import ROOT

TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[runtime.Server]:
    folder = tmp_path_factory.mktemp("queue")
    with (
        runtime.Server(services=("command",), data_dir=folder / "data", grace_s=0.0) as server,
        agent(server.address, folder / "state", "--sandbox", "off", concurrency=2),
    ):
        yield server


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[runtime.Server]:
    """A server without workers."""
    with runtime.Server(services=("command",), data_dir=tmp_path / "idle", grace_s=0.0) as server:
        yield server


def test_commands_are_joined_and_tell_how_they_ended(queue: runtime.Server) -> None:
    with runtime.CommandClient(queue.target) as client:
        good = [client.submit(f"echo {index}") for index in range(4)]
        bad = client.submit("echo oops >&2; exit 3")
        told: list[tuple[int, int, int]] = []
        ended = client.join(
            [*good, bad], timeout_s=TIMEOUT_S, progress=lambda done, total, failed: told.append((done, total, failed))
        )
        assert [ended[number].status for number in good] == [Status.SUCCEEDED] * 4
        assert ended[bad].status is Status.FAILED
        assert told[0] == (0, 5, 0)
        assert told[-1] == (5, 5, 1)
        assert list(client.logs(good[2])) == [LogLine("O", "2")]
        assert [line.text for line in client.logs(bad)] == ["oops", "exit status 3"]
        assert client.get(bad) == ended[bad]
        assert {command.id for command in client.list("F")} >= {bad}
        assert [command.id for command in client.list(limit=2, offset=1)] == [good[0] + 1, good[0] + 2]
        assert [(worker.name, worker.concurrency) for worker in client.workers()] == [("agent", 2)]


def test_join_tells_of_whichever_ends_first(idle: runtime.Server) -> None:
    with runtime.CommandClient(idle.target) as client:
        numbers = [client.submit("true") for _ in range(80)]
        told: list[int] = []

        def tell(done: int, total: int, failed: int) -> None:
            told.append(done)
            if done == 1:
                for number in numbers[:-1]:
                    client.cancel(number)

        client.cancel(numbers[-1])
        ended = client.join(numbers, timeout_s=TIMEOUT_S, progress=tell)
        assert list(ended) == numbers and {command.status for command in ended.values()} == {Status.CANCELLED}
        assert told == list(range(len(numbers) + 1))


@pytest.mark.parametrize("others", [1, 80])
def test_a_join_that_fails_lets_its_program_end(idle: runtime.Server, others: int) -> None:
    script = f"""
import runtime
with runtime.CommandClient({idle.target!r}) as client:
    numbers = [client.submit("true") for _ in range({others})]
    try:
        client.join([*numbers, 4_000_000])
    except runtime.errors.NotFound as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    assert done.stdout == f"{idle.target}: there is no command 4000000\n", done.stderr


def test_output_is_followed_while_it_comes(queue: runtime.Server, tmp_path: Path) -> None:
    with runtime.CommandClient(queue.target) as client:
        number = client.submit(f"echo first; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo last")
        lines = client.logs(number, follow=True)
        assert next(lines).text == "first"
        with pytest.raises(DeadlineExceeded, match="1 of 1 commands have not ended within 0.1 s"):
            client.join([number], timeout_s=0.1)
        (tmp_path / "go").touch()
        assert [line.text for line in lines] == ["last"]
        assert client.join([number], timeout_s=TIMEOUT_S)[number].status is Status.SUCCEEDED


def test_cancel_and_retry(queue: runtime.Server, tmp_path: Path) -> None:
    with runtime.CommandClient(queue.target) as client:
        number = client.submit(f"[ -e {tmp_path}/again ] || sleep 600; echo again")
        client.cancel(number)
        assert client.join([number], timeout_s=TIMEOUT_S)[number].status is Status.CANCELLED
        with pytest.raises(FailedPrecondition):
            client.cancel(client.join([client.submit("true")], timeout_s=TIMEOUT_S).popitem()[0])
        (tmp_path / "again").touch()
        client.retry(number)
        assert client.join([number], timeout_s=TIMEOUT_S)[number].status is Status.SUCCEEDED
        assert [line.text for line in client.logs(number)][-1] == "again"


def test_mistakes_are_named(queue: runtime.Server) -> None:
    with runtime.CommandClient(queue.target) as client:
        with pytest.raises(NotFound, match="there is no command 999999"):
            client.get(999999)
        with pytest.raises(InvalidArgument, match="command"):
            client.submit("")
        with pytest.raises(InvalidArgument, match="statuses: Q is none"):
            client.list("Q")
    with pytest.raises(Unavailable), runtime.CommandClient("grpc://127.0.0.1:1", retry_s=0.0) as client:
        client.list()


def test_a_server_that_starts_again_is_waited_for(tmp_path: Path) -> None:
    options = {"services": ("command",), "data_dir": tmp_path / "data", "grace_s": 0.0}
    found: list[object] = []
    with runtime.Server(**options) as server:  # type: ignore[arg-type]
        listen = server.address
        client = runtime.CommandClient(server.target)
        number = client.submit("echo kept")
        joining = threading.Thread(target=lambda: found.append(client.join([number], timeout_s=TIMEOUT_S)))
        joining.start()
    with (
        runtime.Server(listen=listen, **options) as server,  # type: ignore[arg-type]
        agent(server.address, tmp_path / "state", "--sandbox", "off"),
    ):
        joining.join(TIMEOUT_S)
        assert len(found) == 1
        assert [line.text for line in client.logs(number)] == ["kept"]
        client.close()


def test_from_the_shell(queue: runtime.Server, capsys: pytest.CaptureFixture[str]) -> None:
    def shell(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["command", *words, "--server", queue.target])
        found = capsys.readouterr()
        return status, found.out, found.err

    status, out, err = shell("submit", "echo hello; echo no >&2", "--wait")
    assert (status, out) == (0, "hello\n")
    number, *rest = err.splitlines()
    assert rest == ["no"]
    asks = ("--env", "WORD=a b", "--chdir", "/", "--time", "0.5", "--memory", "1GiB")
    status, out, err = shell("submit", *asks, "echo $WORD $PWD; sleep 60", "--wait")
    assert (status, out) == (1, "a b /\n") and err.splitlines()[-1] == "timeout: ended after 0.5 s"
    assert "--memory: 'much': expected" in shell("submit", "true", "--memory", "much")[2]
    assert "--env: 'WORD'" in shell("submit", "true", "--env", "WORD")[2]
    status, out, _ = shell("submit", "exit 5")
    bad = out.strip()
    assert shell("wait", number, bad)[:2] == (1, f"{number} SUCCEEDED\n{bad} FAILED\n")
    assert shell("logs", number, "-f")[1] == "hello\n"
    assert json.loads(shell("show", bad, "-o", "json")[1]) == {
        "id": int(bad), "status": "F", "state": "FAILED", "container": "bare", "command": "exit 5"
    }
    listed = shell("list", "--status", "F")[1].splitlines()
    assert listed[0].split() == ["ID", "STATUS", "CONTAINER", "COMMAND"]
    assert any(line.split(maxsplit=3) == [bad, "FAILED", "bare", "exit 5"] for line in listed)
    assert "it has failed" in shell("why", bad)[1]
    assert [line.split()[0] for line in shell("list", "--tail", "2")[1].splitlines()] == ["ID", str(int(bad) - 1), bad]
    assert shell("hold", bad)[0] == 1
    assert shell("retry", bad)[1] == f"queued {bad}\n"
    assert shell("wait", bad, "--timeout", "60")[0] == 1
    assert shell("cancel", bad)[0] == 1
    assert shell("show", "999999")[0] == 1


def test_workers_are_made_and_deleted_from_the_shell(
    idle: runtime.Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shell(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        status = main(["workers", *words, "--server", idle.target])
        return status, capsys.readouterr().out

    status, out = shell("create", "--number", "2", "--concurrency", "3")
    ids = out.split()
    assert (status, len(ids)) == (0, 2)
    with runtime.CommandClient(idle.target) as client:
        command = client.submit("echo made")
        assert client.join([command], timeout_s=TIMEOUT_S)[command].status is Status.SUCCEEDED
    heading, *table = shell("list")[1].splitlines()
    assert heading == "workers for commands" and [line.split()[0] for line in table] == ["ID", *ids]
    listed = json.loads(shell("list", "--of", "commands", "-o", "json")[1])
    assert [(str(worker["id"]), worker["concurrency"]) for worker in listed] == [(number, 3) for number in ids]
    assert shell("delete", *ids) == (0, "".join(f"deleted {number}\n" for number in ids))
    assert shell("list", "--of", "commands")[1].split() == ["ID", "NAME", "CONCURRENCY"]
    # They end behind the answer. A server that stops before has it done at its next start, which does not come here.
    deadline = time.monotonic() + TIMEOUT_S
    while left := list((tmp_path / "idle" / "workers").iterdir()):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_hold_release_and_commands_from_standard_input(
    idle: runtime.Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shell(*words: str) -> str:
        capsys.readouterr()
        assert main(["command", *words, "--server", idle.target]) == 0
        return capsys.readouterr().out

    monkeypatch.setattr("sys.stdin", io.StringIO("echo first\necho second\n"))
    number = shell("submit", "-").strip()
    assert json.loads(shell("show", number, "-o", "json"))["command"] == "echo first\necho second\n"
    assert shell("hold", number) == f"held {number}\n"
    assert "somebody has held it" in shell("why", number)
    assert shell("release", number) == f"queued {number}\n"
    assert json.loads(shell("show", number, "-o", "json"))["status"] == "P"


def test_why_a_command_waits(idle: runtime.Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def why(number: int) -> str:
        capsys.readouterr()
        assert main(["command", "why", str(number), "--server", idle.target]) == 0
        return capsys.readouterr().out

    with runtime.CommandClient(idle.target) as client:
        first, second = (client.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done") for _ in range(2))
        assert "no worker is known" in why(first)
        assert "1 commands stand before it" in why(second)
        with agent(idle.address, tmp_path / "state", "--sandbox", "off"):
            deadline = time.monotonic() + TIMEOUT_S
            while client.get(first).status is not Status.RUNNING:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert "a worker has it" in why(first)
            assert "all 1 places of 1 workers are taken" in why(second)
            (tmp_path / "go").touch()
            client.join([first, second], timeout_s=TIMEOUT_S)
        assert "it has ended well" in why(second)
