"""Servers of every plane, as processes of their own, on both transports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.authority.authority import Authority
from runtime.authority.certificates import make_authority, make_leaf
from runtime.edge import tokens
from tests.processes import ServerProcess, start_server

TRANSPORTS = ("native", "grpc")
HOSTS = ["localhost", "127.0.0.1"]


class Guarded:
    """A server of every plane that asks for tokens, and the folder with everything that belongs to it."""

    def __init__(self, process: ServerProcess, folder: Path, transport: str) -> None:
        self.process = process
        self.address = process.address
        self.folder = folder
        self.pki = folder / "pki"
        self.token_file = folder / "tokens"
        self.transport = transport

    def token(self, role: str, *services: str) -> str:
        """Make a token; the server takes it within a second."""
        return tokens.issue(self.token_file, role, services or tokens.ALL_SERVICES)[1]


@pytest.fixture(scope="package")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority with a server's and a client's certificate; below ``other`` those of a stranger."""
    folder = tmp_path_factory.mktemp("pki")
    make_authority(folder, "test CA", 30)
    make_leaf(folder, folder, "server", HOSTS, 10)
    make_leaf(folder, folder, "client", ["client.test"], 10)
    make_leaf(folder, folder, "elsewhere", ["elsewhere.test"], 10)
    make_authority(folder / "other", "stranger", 30)
    make_leaf(folder / "other", folder / "other", "client", ["client.test"], 10)
    make_leaf(folder / "other", folder / "other", "server", HOSTS, 10)
    return folder


@contextlib.contextmanager
def guarded(folder: Path, transport: str, *options: str) -> Iterator[Guarded]:
    folder.mkdir(exist_ok=True)
    make_authority(folder / "pki", "test CA", 30)
    Authority(folder / "pki").revocation_list()
    tokens.issue(folder / "tokens", "admin")
    with start_server(
        folder, "--transport", transport, "--token-file", str(folder / "tokens"), "--authority", str(folder / "pki"),
        "--command-providers", "none", "--command-max-workers", "0", "--log-level", "debug", *options,
    ) as process:
        yield Guarded(process, folder, transport)


@pytest.fixture(scope="package", params=TRANSPORTS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server of every plane that asks for tokens."""
    with guarded(tmp_path_factory.mktemp(request.param), request.param) as started:
        yield started
