"""Server and agent killed at named places and at random times: nothing acknowledged is lost, nothing runs twice."""

from __future__ import annotations

import contextlib
import itertools
import random
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from runtime.agent.folders import end_commands
from runtime.store import failpoints
from tests.commands.agents import AgentProcess, agent_command
from tests.conformance.taskqueue.client import Queue, connect, wait_until
from tests.processes import ServerProcess, free_port, start_server

NUM_COMMANDS = 14
LINES = 120
SERVER_PLACES = ("store.commit.before=crash@9", "store.commit.after=crash@9", "logs.write=crash@4", "logs.sync=crash@3")
AGENT_PLACES = tuple(f"{name}=crash@2" for name in failpoints.NAMES if name.startswith("agent."))
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED)


class Both:
    """A server and an agent that are started again whenever they have died, each time with the next failpoint."""

    def __init__(self, folder: Path, server_places: Iterator[str], agent_places: Iterator[str]) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.deaths: list[str] = []
        self._folder = folder
        self._places = {"server": server_places, "agent": agent_places}
        self._at = {"server": "", "agent": ""}
        self._stack = contextlib.ExitStack()
        self._server: ServerProcess | None = None
        self._agent: AgentProcess | None = None

    def keep_up(self) -> None:
        """Start what does not run."""
        if self._server is None or self._server.process.poll() is not None:
            env = self._environment("server", self._server is not None)
            self._server = self._stack.enter_context(
                start_server(self._folder, "--services", "command", listen=self.address, env=env)
            )
        if self._agent is None or self._agent.process.poll() is not None:
            env = self._environment("agent", self._agent is not None)
            state = self._folder / "state"
            command = agent_command(self.address, state, "--sandbox", "off", concurrency=2)
            self._agent = AgentProcess(state, command, env)

    def kill(self, which: str) -> None:
        """Kill one of both, if it is there."""
        process = self._server.process if which == "server" and self._server else None
        process_of_agent = self._agent.process if which == "agent" and self._agent else None
        for found in (process, process_of_agent):
            if found is not None:
                found.kill()
                found.wait()

    def end(self) -> None:
        """End both, and what the agent has left running."""
        self.kill("agent")
        self._stack.close()
        end_commands(self._folder / "state")

    def _environment(self, which: str, has_died: bool) -> dict[str, str]:
        if has_died:
            self.deaths.append(f"{which} {self._at[which]}")
        self._at[which] = next(self._places[which], "")
        return {failpoints.ENVIRONMENT: self._at[which]}


def submit(queue: Queue, both: Both, number: int, ran: Path) -> int:
    """Submit a command until that is acknowledged; it says in a file that it ran."""
    lines = f"for i in $(seq {LINES}); do echo {number} $i; done"
    command = f"echo {number} >> {ran}; {lines}; sleep 0.1; exit {number % 3}"
    while True:
        try:
            return queue.submit(command, x_tq_request_id=f"request {number}")
        except grpc.RpcError as error:
            assert error.code() in AWAY, error  # type: ignore[attr-defined]
            both.keep_up()


def finished(queue: Queue, both: Both) -> bool:
    """Return whether all commands have ended."""
    both.keep_up()
    try:
        return len(queue.tasks("SF")) == NUM_COMMANDS
    except grpc.RpcError as error:
        assert error.code() in AWAY, error  # type: ignore[attr-defined]
        return False


@pytest.mark.parametrize("story", ["failpoints", "random"])
def test_kills(tmp_path: Path, story: str) -> None:
    at_places = story == "failpoints"
    both = Both(
        tmp_path, iter(SERVER_PLACES if at_places else ()), iter(AGENT_PLACES if at_places else ())
    )
    ran = tmp_path / "ran"
    chance = random.Random(7)
    try:
        both.keep_up()
        with connect(both.address) as queue:
            tasks = [submit(queue, both, number, ran) for number in range(NUM_COMMANDS)]
            if not at_places:
                for which in itertools.islice(itertools.cycle(["server", "agent", "agent"]), 6):
                    time.sleep(chance.uniform(0.05, 0.9))
                    both.kill(which)
                    both.keep_up()
            wait_until(lambda: finished(queue, both), "all have ended", 120)
            assert [task.task_id for task in queue.tasks()] == sorted(tasks) and len(set(tasks)) == NUM_COMMANDS
            for number, task in enumerate(tasks):
                status = number % 3
                lines = [f"{number} {place}" for place in range(1, LINES + 1)]
                assert [text for _, text in queue.output(task)] == lines + ([f"exit status {status}"] if status else [])
                assert queue.status(task) == ("F" if status else "S")
        # Each ran once, and each has one end.
        assert sorted(map(int, ran.read_text().split())) == list(range(NUM_COMMANDS))
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / "store.db")) as connection:
            ends = connection.execute("SELECT command FROM command_events WHERE after IN ('S', 'F', 'X')").fetchall()
            assert sorted(command for (command,) in ends) == sorted(tasks)
        if at_places:
            assert sorted(both.deaths) == sorted(
                [f"server {place}" for place in SERVER_PLACES] + [f"agent {place}" for place in AGENT_PLACES]
            )
    except BaseException:
        subprocess.run(["tail", "-n", "40", str(tmp_path / "state" / "log"), str(tmp_path / "server.log")], check=False)
        raise
    finally:
        both.end()
