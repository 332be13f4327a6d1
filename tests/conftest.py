"""Fixtures shared by every test: servers, peers and leak checks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import cluster_tasks, leaks, peers, processes


@pytest.fixture(scope="session", autouse=True)
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep servers that are not told where to keep their data out of the user's folders."""
    before = os.environ.get("XDG_DATA_HOME")
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))
    yield
    if before is None:
        del os.environ["XDG_DATA_HOME"]
    else:
        os.environ["XDG_DATA_HOME"] = before


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail the test when it leaves a thread or a file descriptor behind."""
    with leaks.leak_check():
        yield


@pytest.fixture(scope="session")
def peer_python() -> Path:
    """The interpreter that has TensorFlow and ArmoniK."""
    return peers.peer_python()


@pytest.fixture(scope="module")
def server_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.ServerProcess]:
    """A ``tensor-runtime serve`` process shared by the tests of one module."""
    with processes.start_server(tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.fixture
def server(server_process: processes.ServerProcess) -> str:
    """The target, ``grpc://HOST:PORT``, of :func:`server_process`; fails when that has died meanwhile."""
    status = server_process.process.poll()
    assert status is None, f"the server ended with {status}\n{server_process.log()}"
    return server_process.target


@pytest.fixture(scope="session")
def peer_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The target of TensorFlow's own server, one task of the job ``local``."""
    with processes.start_tensorflow_server(tmp_path_factory.mktemp("tensorflow")) as process:
        yield process.target


@pytest.fixture(scope="session")
def tensorflow_forks() -> Iterator[cluster_tasks.Forks]:
    """An interpreter that has imported TensorFlow, for servers and programs that start at once."""
    with cluster_tasks.forks() as started:
        yield started
