"""Client programs: TensorFlow's unmodified client in a process of its own, asked named questions about each server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.ops import registry
from tests import peers

__all__ = ["CPU", "FROM", "JOB", "SERVERS", "Answers", "Seen", "from_task", "run_program"]

# The job of the server that TensorFlow's Server.create_local_server() makes; ours is started with the same.
JOB = "localhost"
TASK = f"/job:{JOB}/replica:0/task:0"
CPU = f"{TASK}/device:CPU:0"
FROM = f"From {TASK}:\n"
SERVERS = ("ours", "tensorflow")
CLIENTS = Path(__file__).with_name("clients")
PROGRAM_TIMEOUT_S = 110.0

Seen = Callable[..., Any]


class Answers:
    """What a client program saw, by server and check."""

    def __init__(self, program: str, output: str) -> None:
        self.program = program
        self.lines: dict[tuple[str, str], dict[str, Any]] = {}
        for text in output.splitlines():
            line = json.loads(text)
            self.lines[line["server"], line["check"]] = line

    def __call__(self, server: str, check: str) -> Any:
        """Return what a check saw on a server; fail when it could not finish."""
        line = self.lines.get((server, check))
        assert line is not None, f"{self.program} has no answer to {check!r} from {server}"
        assert "error" not in line, f"{check} failed on the server {server!r}:\n{line['error']}"
        return line["value"]


def run_program(
    program: str, targets: Mapping[str, str], timeout_s: float = PROGRAM_TIMEOUT_S, **environment: str
) -> Answers:
    """Run a client program against all servers.

    Parameters
    ----------
    program : str
        Name of a module in ``clients``.
    targets : mapping
        Name of each server to its ``grpc://HOST:PORT``.
    timeout_s : float
        Seconds that the program may take.
    **environment : str
        Variables set for the process.
    """
    arguments = [f"{name}={target}" for name, target in targets.items()]
    done = peers.run_peer(CLIENTS / f"{program}.py", *arguments, timeout_s=timeout_s, **environment)
    return Answers(program, done.stdout)


def from_task(code: int, text: str) -> dict[str, Any]:
    """Return what a client sees of an error that a kernel raised on the servers' only task."""
    return {"code": code, "message": FROM + text}


def require(server: str, ops: tuple[str, ...]) -> None:
    """Skip the test when ops that it needs are not built into our server."""
    missing = sorted(set(ops) - set(registry.registered())) if server == "ours" else []
    if missing:
        pytest.skip(f"kernels that are not built in: {', '.join(missing)}")
