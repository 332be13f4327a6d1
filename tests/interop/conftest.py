"""Both servers, and the client programs that ask them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.interop.programs import JOB, SERVERS, Answers, Seen, require, run_program


@pytest.fixture(scope="session")
def files_allowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only folder whose files graph ops may touch on our server."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="session")
def our_server(tmp_path_factory: pytest.TempPathFactory, files_allowed: Path) -> Iterator[processes.ServerProcess]:
    """``tensor-runtime serve`` in a process of its own, under the job name of TensorFlow's local server."""
    folder = tmp_path_factory.mktemp("interop")
    with processes.start_server(folder, "--job", JOB, "--files-allow", str(files_allowed)) as process:
        yield process
        assert process.process.poll() is None, process.log()
        assert "Traceback" not in process.log()


@pytest.fixture(scope="session")
def targets(our_server: processes.ServerProcess, peer_server: str) -> dict[str, str]:
    """The targets of both servers by name."""
    return {"ours": our_server.target, "tensorflow": peer_server}


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest, targets: dict[str, str], files_allowed: Path) -> Answers:
    """What the module's client program (its ``PROGRAM``) saw; it runs once for all tests of the module."""
    return run_program(request.module.PROGRAM, targets, TENSOR_RUNTIME_TEST_FILES=str(files_allowed))


@pytest.fixture(params=SERVERS)
def server_name(request: pytest.FixtureRequest) -> str:
    """Each server in turn: what TensorFlow's own answers is right, and ours must answer it, too."""
    return str(request.param)


@pytest.fixture
def seen(answers: Answers, server_name: str) -> Seen:
    """Return a function that gives what a check saw on the server whose turn it is."""

    def look(check: str, *needed_ops: str) -> Any:
        require(server_name, needed_ops)
        return answers(server_name, check)

    return look


@pytest.fixture
def both(answers: Answers) -> Seen:
    """Return a function that gives what a check saw on both servers, ours first."""

    def look(check: str, *needed_ops: str) -> Any:
        require("ours", needed_ops)
        return [answers(server, check) for server in SERVERS]

    return look
