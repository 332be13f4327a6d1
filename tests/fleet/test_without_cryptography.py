"""A server of an installation without the package that reads certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

import runtime
from runtime.client.fleet import FleetClient
from runtime.errors import Unimplemented


def test_it_serves_everything_but_the_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(purpose: str) -> None:
        raise Unimplemented(f"{purpose} needs the package cryptography, which is not installed")

    monkeypatch.setattr("runtime.fleet.certificates.require_cryptography", missing)
    with runtime.Server(services=("graph", "fleet"), data_dir=tmp_path) as server:
        graph = runtime.Graph()
        with runtime.Session(server.target, graph) as session:
            assert session.run(graph.constant(3.0)) == 3.0
        with FleetClient(server.target) as fleet, pytest.raises(Unimplemented, match="needs the package cryptography"):
            fleet.register(b"certificate")
